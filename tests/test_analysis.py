"Reading many runs, and statistics that agree with another implementation."
import json, shutil, time, warnings

import numpy as np, pandas as pd, pytest

from many_runs import make_runs
from privkd_nb.analysis.load import RUNS, Study, load_runs
from privkd_nb.analysis.compare import by_language, choose, differences, overall
from privkd_nb.analysis.pack import pack
from privkd_nb.core import InputError
from privkd_nb.figures.save import results_table
from privkd_nb.analysis.stats import bootstrap, iqm, mean
from privkd_nb.record import GROUPS, History, HistoryTail, Run, read_history


@pytest.fixture(scope='module')
def runs200(tmp_path_factory): return make_runs(tmp_path_factory.mktemp('runs')/'many', 200)


def rliable():
    "rliable's statistics; its arch 7 calls a private helper of pandas as it was in pandas 2"
    from pandas.util import _decorators
    now = _decorators.deprecate_kwarg
    _decorators.deprecate_kwarg = lambda *a, **k: lambda f: f
    try: from rliable import library, metrics
    finally: _decorators.deprecate_kwarg = now
    return library, metrics


def test_intervals_agree_with_rliable():
    library, metrics = rliable()
    rng = np.random.default_rng(0)
    x = np.clip(rng.normal(.7, .06, (6, 10))+rng.normal(0, .05, 10), 0, 1)
    for f, theirs in ((mean, metrics.aggregate_mean), (iqm, metrics.aggregate_iqm)):
        points, intervals = library.get_interval_estimates({'a': x}, lambda s: np.array([theirs(s)]), reps=5_000, random_state=np.random.RandomState(1))
        ours = bootstrap(x, f)
        assert ours.point == pytest.approx(points['a'][0], abs=1e-12)
        width = ours.high-ours.low
        assert (ours.low, ours.high) == pytest.approx(tuple(intervals['a'][:, 0]), abs=.06*width)     # both are random: two ends of 5,000 draws


def test_ten_thousand_resamples_are_quick():
    x = np.random.default_rng(0).normal(.7, .05, (5, 52))
    start = time.perf_counter()
    bootstrap(x)
    assert time.perf_counter()-start < 2            # some .1 s on a quiet machine


def test_two_hundred_runs_in_about_a_second(runs200):
    load_runs(runs200)                              # whatever is done once
    start = time.perf_counter()
    df = load_runs(runs200)
    took = time.perf_counter()-start
    assert took < 3, took                           # half a second on a quiet machine
    assert list(df) == RUNS and df.run.nunique() == 200
    assert {'train', 'validation', 'test'} <= set(df.split)


def test_damaged_and_unfinished_folders_are_named(runs200, tmp_path):
    folder = tmp_path/'runs'
    for p in list(runs200.iterdir())[:8]: shutil.copytree(p, folder/p.name)
    a, b, c, d, e, *rest = sorted(p.name for p in folder.iterdir())
    (folder/a/'done.json').unlink()
    (folder/b/'metrics.parquet').write_bytes((folder/b/'metrics.parquet').read_bytes()[:500])
    (folder/c/'config.json').write_text('{"init": "copy')
    (folder/d/'history.parquet').unlink()
    (folder/e/'metrics.parquet').write_bytes(b'')
    with pytest.warns(UserWarning) as caught: df = load_runs(folder)
    messages = ' '.join(str(w.message) for w in caught)
    assert set(df.attrs['skipped']) == {a, b, c, d, e} and all(n in messages for n in (a, b, c, d, e))
    assert 'unfinished' in df.attrs['skipped'][a] and 'metrics.parquet' in df.attrs['skipped'][b] and 'config.json' in df.attrs['skipped'][c] and 'history.parquet' in df.attrs['skipped'][d]
    assert df[df.model == 'student'].run.nunique() == 3


def cut(p): p.write_bytes(p.read_bytes()[:len(p.read_bytes())//2])
def empty(p): p.write_bytes(b'')
def overwrite(p): p.write_bytes(b'no table'*100)
def spoil(p):
    "Values that cannot be decoded, before a table of contents that is whole"
    b = bytearray(p.read_bytes())
    b[4:len(b)//3] = b'\xff'*(len(b)//3-4)
    p.write_bytes(b)


@pytest.mark.parametrize('name, damage', [(n, d) for n in ('metrics', 'history', 'predictions', 'texts') for d in (cut, empty, overwrite)] + [('metrics', spoil), ('history', spoil)])
def test_a_damaged_run_is_named_when_the_study_is_opened_and_reading_changes_nothing(name, damage, runs200, tmp_path):
    folder = tmp_path/'runs'
    for p in list(runs200.iterdir())[:4]: shutil.copytree(p, folder/p.name)
    bad, *good = sorted(p.name for p in folder.iterdir())
    damage(folder/bad/f'{name}.parquet')
    with pytest.warns(UserWarning, match='left out 1 of the folders') as caught: study = Study.open(folder)
    assert len(caught) == 1 and list(study.configs) == good and list(study.skipped) == [bad] and f'{name}.parquet' in study.skipped[bad]
    configs, content = study.configs, json.dumps([study.configs, study.skipped])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert set(study.scores.run) == set(study.history.run) == set(study.table().run) == set(good)
        assert study.table().attrs['skipped'] == study.skipped
        for r in good: assert len(study.predictions(r)) and study.card(r)
    assert study.configs is configs and json.dumps([study.configs, study.skipped]) == content


def test_damage_after_opening_is_one_sentence(runs200, tmp_path):
    folder = tmp_path/'runs'
    for p in list(runs200.iterdir())[:2]: shutil.copytree(p, folder/p.name)
    study, (a, b) = Study.open(folder), sorted(p.name for p in folder.iterdir())
    cut(folder/a/'history.parquet'); spoil(folder/a/'predictions.parquet'); (folder/b/'predictions.parquet').unlink()
    with pytest.raises(InputError, match='can no longer be read'): study.history
    with pytest.raises(InputError, match='cannot be read'): study.predictions(a)
    with pytest.raises(InputError, match='has no predictions.parquet'): study.predictions(b)
    assert list(Study(folder, study.configs, {}).configs) == [a, b]


def without_groups(df):
    "A table as it was written before there were groups"
    name = df.group.astype(str).map(GROUPS).mask(df.split == 'train', 'all')
    return df.assign(language=df.language.astype(str).where(df.group == 'language', name)).drop(columns='group')


def make_old(folder, names):
    for n in names:
        for kind in ('metrics', 'history'): without_groups(pd.read_parquet(folder/n/f'{kind}.parquet')).to_parquet(folder/n/f'{kind}.parquet', index=False)


@pytest.mark.parametrize('which', [slice(None), slice(2), slice(2, None)])    # all runs are old, the first ones, the last ones
def test_records_without_groups_give_the_same_tables(which, runs200, tmp_path):
    new, old = tmp_path/'new', tmp_path/'old'
    for p in list(runs200.iterdir())[:4]:
        for to in (new, old): shutil.copytree(p, to/p.name)
    make_old(old, sorted(p.name for p in old.iterdir())[which])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        a, b = (load_runs(f).sort_values(RUNS[:-1]).reset_index(drop=True) for f in (new, old))
    pd.testing.assert_frame_equal(a, b, check_dtype=False)
    assert set(b.group) >= {'language', 'all'} and not {'mean', 'all'} & set(b.language)
    run = sorted(p.name for p in old.iterdir())[0]
    for k in ('metrics', 'history'):
        x, y = (getattr(Run(f/run), k) for f in (new, old))
        pd.testing.assert_frame_equal(x, y[list(x)], check_dtype=False, check_categorical=False)


def test_a_history_without_groups_is_read_followed_and_resumed(tmp_path):
    path = tmp_path/'history.jsonl'
    old = [dict(step=1, split='train', language='all', metric='loss', value=2.), dict(step=1, split='validation', language='sw', metric='accuracy', value=.5),
           dict(step=1, split='validation', language='mean', metric='accuracy', value=.6), dict(step=1, split='validation', language='mean unseen', metric='accuracy', value=.4)]
    path.write_text(''.join(json.dumps(r)+'\n' for r in old))
    now = [(1, 'train', 'all', '', 'loss', 2.), (1, 'validation', 'language', 'sw', 'accuracy', .5), (1, 'validation', 'all', '', 'accuracy', .6), (1, 'validation', 'unseen', '', 'accuracy', .4)]
    assert list(read_history(path).itertuples(index=False, name=None)) == now == HistoryTail(path).read()
    h = History(path)
    h.add(2, dict(loss=1.))
    assert HistoryTail(path).read() == [*now, (2, 'train', 'all', '', 'loss', 1.)]                 # old and new lines in one file
    h.rewind(1)
    assert HistoryTail(path).read() == now and list(json.loads(path.read_text().splitlines()[0])) == ['step', 'split', 'group', 'language', 'metric', 'value']
    assert list(Run(tmp_path).history.group) == ['all', 'language', 'all', 'unseen']


@pytest.mark.parametrize('make, message', [(lambda p: p/'nowhere', 'is not a folder'), (lambda p: p, 'holds no finished run')])
def test_a_folder_without_runs_raises(make, message, tmp_path):
    with pytest.raises(InputError, match=message): Study.open(make(tmp_path))


def test_one_seed_has_no_interval():
    s = choose(Study.open('sample').scores, seed=0, scenario='all', fraction=.1)
    o = overall(s)
    assert o.low.isna().all() and o.high.isna().all() and (o.seeds == 1).all()
    assert not results_table(o).iloc[:, 0].str.contains(r'\[').any()
    from privkd_nb.figures.comparisons import scores_figure
    fig = scores_figure(by_language(s))
    assert 'one seed: no interval' in fig.layout.title.text and not any(t.error_x.array for t in fig.data if t.type == 'scatter')


def test_differences_use_the_seeds_that_both_have():
    s = choose(Study.open('sample').scores, scenario='all', fraction=.1)
    s = s[~((s.arm == 'copy_ft · ce') & (s.seed == 2))]
    d = differences(s, 'scratch · ce').query("arm == 'copy_ft · ce' and group == 'all'").iloc[0]
    m = s[(s.group == 'all') & (s.metric == 'accuracy') & (s.model == 'student')].pivot_table(index='seed', columns='arm', values='value', observed=True)
    assert d.seeds == 2 and d.score == pytest.approx((m['copy_ft · ce']-m['scratch · ce']).mean())
    assert d.p_sign == .5                           # two seeds: ++ and -- of four
    assert (d.p < .05) == (d.low > 0 or d.high < 0)


def test_a_packed_study_has_the_same_tables(runs200, tmp_path):
    folder = tmp_path/'runs'
    for p in list(runs200.iterdir())[:6]: shutil.copytree(p, folder/p.name)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        whole, packed = Study.open(folder), Study.open(pack(Study.open(folder), tmp_path/'packed', points=10**6))
    def plain(df): return df.astype({k: 'str' for k in df if isinstance(df[k].dtype, pd.CategoricalDtype)})
    a, b = (plain(s.table()).assign(value=lambda d: d.value.astype('float32')).sort_values(RUNS[:-1]).reset_index(drop=True) for s in (whole, packed))
    pd.testing.assert_frame_equal(a, b, check_dtype=False, check_categorical=False)
    r = next(iter(whole.configs))
    key = ['model', 'language', 'id']
    x, y = (s.predictions(r).sort_values(key).reset_index(drop=True) for s in (whole, packed))
    for c in ('text', 'gold', 'predicted'): assert (x[c].astype(str) == y[c].astype(str)).all()


def test_two_runs_of_one_arm_and_seed_are_not_averaged(runs200):
    s = choose(Study.open(runs200).scores, scenario='all', fraction=.1)
    again = s[s.run == s.run.iloc[0]].assign(run='again')
    with pytest.raises(InputError, match='are several runs of'): overall(pd.concat([s, again]))


def test_different_examples_are_not_compared(runs200, tmp_path):
    from privkd_nb.analysis.examples import example_differences
    folder = tmp_path/'runs'
    for p in list(runs200.iterdir())[:2]: shutil.copytree(p, folder/p.name)
    a, b = sorted(p.name for p in folder.iterdir())
    p = pd.read_parquet(folder/b/'predictions.parquet')
    p.assign(id=p.id.astype(str)+'x').to_parquet(folder/b/'predictions.parquet')
    study = Study.open(folder)
    assert len(example_differences(study, [a], ['teacher'])) == 13
    with pytest.raises(InputError, match='predicted other test texts'): example_differences(study, [a], [b])


def test_a_packed_study_is_not_packed_again(tmp_path):
    with pytest.raises(InputError, match='is packed already'): pack(Study.open('sample'), tmp_path/'again')
    assert not (tmp_path/'again').exists()


def test_what_a_record_leaves_out_still_tells_arms_apart():
    "A run at the default has no line for a parameter that others changed: they are two arms all the same"
    from privkd_nb.analysis.arms import LEFT_OUT, arm_names
    from privkd_nb.jobs.config import LATER
    assert not (lost := {*LATER}-{*LEFT_OUT}), f'a record can lack {lost}, so arms that differ in it would be one'
    plain = dict(init='copy_ft', losses=dict(ce=1), dataset='massive', seed=0)
    for k, v in dict(width='192:minitron', refit=.01, batching='length', class_weights='balanced').items():
        assert arm_names([plain, plain | {k: v}]) == ['copy_ft · ce', f'copy_ft · ce · {k}={v}']
