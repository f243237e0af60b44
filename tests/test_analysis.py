"Reading many runs, and numbers that agree with somebody else's."
import json, shutil, time, warnings

import numpy as np, pandas as pd, pytest

from many_runs import make_runs
from privkd_nb.analysis.load import RUNS, Study, load_runs
from privkd_nb.analysis.compare import by_language, choose, differences, overall
from privkd_nb.analysis.pack import pack
from privkd_nb.core import InputError
from privkd_nb.figures.save import results_table
from privkd_nb.analysis.stats import bootstrap, iqm, mean


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
    with pytest.warns(UserWarning) as said: df = load_runs(folder)
    said = ' '.join(str(w.message) for w in said)
    assert set(df.attrs['skipped']) == {a, b, c, d, e} and all(n in said for n in (a, b, c, d, e))
    assert 'unfinished' in df.attrs['skipped'][a] and 'metrics.parquet' in df.attrs['skipped'][b] and 'config.json' in df.attrs['skipped'][c] and 'history.parquet' in df.attrs['skipped'][d]
    assert df[df.model == 'student'].run.nunique() == 3


@pytest.mark.parametrize('make, says', [(lambda p: p/'nowhere', 'is not a folder'), (lambda p: p, 'holds no finished run')])
def test_a_folder_without_runs_is_one_sentence(make, says, tmp_path):
    with pytest.raises(InputError, match=says): Study.open(make(tmp_path))


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
    assert d.p == .5                                # two seeds: ++ and -- of four


def test_a_packed_study_says_the_same(runs200, tmp_path):
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


def test_other_texts_are_not_compared(runs200, tmp_path):
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
