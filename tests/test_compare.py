"Six lines: several arms over several seeds, as a user types them"
import warnings
import pandas as pd, pytest
from privkd_nb.analysis.arms import find_arm, find_arms, losses_key, read_arm
from privkd_nb.analysis.load import Study
from privkd_nb.core import InputError
from privkd_nb.jobs import arm_runs
from privkd_nb.jobs.arm_runs import TimeLeft, arm_configs, data_file
from privkd_nb.record import Run

SAMPLE = dict(scenario='cl', fraction=.1)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    "Two arms with two seeds, in a folder that holds another run, too: the comparison, its call and its lines"
    from privkd_nb import RunConfig, compare, distil
    out, lines = tmp_path_factory.mktemp('compare')/'runs', []
    distil(RunConfig(languages='de,sw', init='copy_base', losses='ce', tiny=True, out_dir=str(out)))
    def call(**kw): return compare('playground', **dict(arms=['scratch/ce', 'copy_ft:first/ce'], seeds=2, languages='de,sw', tiny=True, out_dir=out, report=lines.append) | kw)
    return call(), call, lines


def test_a_comparison_is_its_own_runs(trained):
    c, call, lines = trained
    assert [a.split(' · depth')[0] for a in c.arms] == ['scratch · ce', 'copy_ft · ce'] and len(c.runs) == 4
    assert all(r.finished for r in c.runs) and len(Study.open(c.study.path)) == 5
    assert sum('left' in l for l in lines) == 3 and lines[0].startswith('4 runs, 0 of them on record, 4 to train')
    assert c.table().index.get_level_values('arm').tolist() == [*c.arms, 'teacher']


def test_what_is_on_record_is_read(trained, monkeypatch):
    c, call, lines = trained
    before, times = len(lines), {r.path: (r.path/'done.json').stat().st_mtime for r in c.runs}
    monkeypatch.setattr('privkd_nb.jobs.study.distil', lambda cfg: pytest.fail('trained again'))
    again = call()
    assert repr(again) == repr(c) and lines[before:] == ['4 runs, 4 of them on record']
    assert {r.path: (r.path/'done.json').stat().st_mtime for r in again.runs} == times


def test_an_interrupted_comparison_says_how_to_go_on(trained, monkeypatch, tmp_path):
    c, call, lines = trained
    def interrupted(cfg): raise KeyboardInterrupt
    monkeypatch.setattr('privkd_nb.jobs.study.distil', interrupted)
    with pytest.raises(KeyboardInterrupt): call(seeds=3)
    assert lines[-1].startswith('interrupted with 4 of 6 runs on record; the same call goes on')


def test_nothing_is_trained_for_a_wrong_name(trained, monkeypatch):
    c, call, _ = trained
    monkeypatch.setattr('privkd_nb.apps.compare.run_arms', lambda *a: pytest.fail('trained'))
    for kw, words in [(dict(baseline='copy_fd'), "Did you mean 'copy_ft'"), (dict(arms=['scratch/cee']), "Did you mean 'ce'"), (dict(arms=['scratch', 'scratch/paper']), 'are the same'),
                      (dict(arms=['scratch', 'copyft']), "Did you mean 'copy_ft'"), (dict(seeds=[]), 'neither a number'), (dict(seed=1), 'takes seeds'), (dict(epoch=3), "Did you mean 'epochs'"),
                      (dict(arms=[]), 'nothing to compare'), (dict(inits=['scratch']), 'give one of them')]:
        with pytest.raises(InputError, match=words): call(**kw)


def test_it_opens_in_the_explorer(trained):
    c, *_ = trained
    e = c.explore()
    assert e.study is c.study and len(e.study) == 4


def test_every_number_is_that_of_the_analysis():
    from privkd_nb import Comparison, choose, differences, overall
    c = Comparison('sample', ['copy_ft/paper', 'copy_base/paper', 'scratch/ce'], 'scratch', **SAMPLE)
    here = choose(Study.open('sample').scores, **SAMPLE)
    assert c.arms == ['copy_ft · paper', 'copy_base · paper', 'scratch · ce']                      # as they were given
    d = differences(here, 'scratch · ce').query("group == 'language' and arm == 'copy_ft · paper'").set_index('language')
    got = c.differences('copy_ft').set_index('language')
    pd.testing.assert_frame_equal(got[['score', 'low', 'high', 'p']], d.loc[got.index, ['score', 'low', 'high', 'p']], check_names=False, check_index_type=False)
    assert got.score.is_monotonic_decreasing
    back = c.differences('scratch', 'copy_ft/paper').set_index('language')
    assert (back.score+got.score.reindex(back.index)).abs().max() < 1e-12
    o = overall(here).query("arm == 'copy_base · paper' and statistic == 'mean' and languages == 'unseen'").iloc[0]
    assert f'{o.score:.3f} [{o.low:.3f}, {o.high:.3f}]' in repr(c) and f'{o.score:.3f}' in c._repr_html_() and f'{o.score:.3f}' in c._repr_markdown_()
    assert [t.name for t in c.figure().data][1:] == [t.name for t in c.figure('training').data if t.showlegend] == c.arms


def test_no_interval_where_none_is_honest():
    from privkd_nb import Comparison
    study = Study.open('sample')
    one = Study(study.path, {r: c for r,c in study.configs.items()}, {}, True)
    one.scores = study.scores[study.scores.seed == 0]
    c = Comparison(one, ['copy_base/ce', 'copy_ft/ce'], **SAMPLE)
    assert '[' not in repr(c).replace('[0', '') and 'one seed: no interval' in c.note
    assert c.table().shape == (9, 3)


def test_arms_as_people_type_them():
    arms = ['scratch · ce', 'copy_ft · paper · depth=first', 'copy_ft · paper · depth=last', 'pretrained · ce · student=my/small', 'mine · 2·my_term@1f2e3d4c+ce']
    for asked, i in {'scratch': 0, 'ce/scratch': 0, ' scratch / ce ': 0, 'copy_ft:first': 1, 'paper/copy_ft/depth=last': 2, 'pretrained/student=my/small': 3, 'mine': 4, 'mine/ce,my_term=2': 4,
                     'ce+2*my_term': 4}.items(): assert find_arm(asked, arms) == arms[i], asked
    assert find_arm(dict(init='copy_ft', depth='last'), arms) == arms[2] and find_arm(dict(losses={'ce': 1.}, init='scratch'), arms) == arms[0]
    assert find_arms('ce', arms) == [arms[0], arms[3]] and all(find_arms(a, arms) == [a] for a in arms)
    for asked in ('copy_fd', 'scratch/papre', 'copy_ft:frist', 'x', '', 'a/b/c', 'copy_ft/=3', {}):
        with pytest.raises(InputError): find_arm(asked, arms)
    assert losses_key('paper') == losses_key('ce,attention,hidden,logits,embedding') and read_arm('copy_ft/logits=0.5')['losses'] == 'logits=0.5'


def test_an_init_word_is_an_arm():
    word = dict(init='copy_ft', depth='greedy', refit='0.01')
    for typed, says in {'copy_ft:greedy/refit': word, 'copy_ft:greedy/refit=.01/ce': word | dict(losses='ce'), 'ce/copy_ft:greedy/refit': word | dict(losses='ce'),
                        'copy_ft:greedy/width=64/ce,kl': dict(init='copy_ft', depth='greedy', width='64:pca', losses='ce,kl'),
                        'copy_ft/ce/refit/ffn=8:taylor:2/seed=3': dict(init='copy_ft', losses='ce', refit='0.01', ffn='8:taylor:2', seed='3'),
                        'copy_ft/parts=embeddings+head/vocab=90/ce': dict(init='copy_ft', parts='embeddings,head', vocab='90', losses='ce'),
                        'refit/ce': dict(refit='0.01', losses='ce'), 'copy_ft:greedy/refit · ce': word | dict(losses='ce'),
                        'pretrained/student=my/small': dict(init='pretrained', student='my/small')}.items(): assert read_arm(typed) == says, typed
    assert read_arm(dict(init='copy_ft:greedy/refit', losses='ce')) == word | dict(losses='ce')
    arms = ['copy_ft · ce', 'copy_ft · ce · depth=greedy', 'copy_ft · ce · depth=greedy · refit=0.01', 'copy_ft · ce · depth=heavy@1f2e3d4c',
            'copy_ft · ce · width=64:pca', 'copy_ft · ce · width=64:select']
    for typed, i in {'copy_ft:greedy/refit': 2, 'copy_ft:greedy/refit/ce': 2, 'refit': 2, 'copy_ft:greedy/ce': 1, 'copy_ft/depth=heavy': 3, 'copy_ft/width=64/ce': 4,
                     'copy_ft/width=64:select': 5}.items(): assert find_arm(typed, arms) == arms[i], typed
    assert find_arm(dict(init='copy_ft:greedy/refit', losses='ce'), arms) == arms[2] and find_arms('width=64', arms) == arms[4:]
    for bad, says in {'copy_ft:greedy/width=wide/ce': "width='wide' is no whole number", 'copy_ft/refit/refit': 'says refit twice', 'copy_ft:first/depth=last': 'two values for depth',
                      'scratch/config.hidden_size=8/ce': 'has a config of its own', 'copy_ft/width=64:selct': "Did you mean 'select'"}.items():
        with pytest.raises(InputError, match=says): read_arm(bad)
    with pytest.raises(InputError, match='says depth=first, but depth=last'): read_arm(dict(init='copy_ft:first', depth='last'))


def test_a_frame_is_a_file_named_by_its_content(tmp_path):
    def path(frame, folder=tmp_path/'new'):
        with data_file(frame, folder) as p: return p
    f = pd.DataFrame(dict(text=['a', 'b'], label=[0, 1], language='de'), index=pd.Index([7, 8], name='id'))
    f.attrs['note'] = object()                       # nothing that Parquet could write
    first = path(f)
    at = (tmp_path/'new').stat().st_mtime_ns
    assert path(f.copy()) == first and (tmp_path/'new').stat().st_mtime_ns == at
    assert pd.read_parquet(first).id.tolist() == [7, 8] and f.attrs                                  # the user's own frame stays as it is
    assert len({path(x) for x in (f, f.iloc[::-1], f.rename(columns=dict(text='t')), f.assign(label=['0', '1']))}) == 4
    (tmp_path/'file').touch()
    with pytest.raises(InputError, match='is a file; name a folder'): path(f, tmp_path/'file')


def test_a_refused_comparison_leaves_nothing(tmp_path):
    from privkd_nb import compare
    f = pd.DataFrame(dict(text=['a', 'b'], label=[0, 1], language='de'))
    for kw in (dict(arms=['copyft']), dict(arms=['copy_ft'], baseline='scratch'), dict(arms=['copy_ft'], epochs=-1)):
        with pytest.raises(InputError): compare(f, out_dir=tmp_path/'runs', **kw)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('renamed,kw,words', [
    (dict(text='Nachricht', label='Anliegen', language='Wo'), {}, 'name yours with text_column=, label_column= and language_column='),
    ({}, dict(base='nowhere'), 'nowhere'), ({}, dict(teacher='nowhere'), 'nowhere')])
@pytest.mark.parametrize('workers', [1, 2])
def test_refused_data_and_models_are_said_once_before_the_first_run(tmp_path, monkeypatch, renamed, kw, words, workers):
    from privkd_nb import compare
    monkeypatch.chdir(tmp_path)
    f, lines = pd.DataFrame(dict(text=['a', 'b'], label=['x', 'y'], language='de')).rename(columns=renamed), []
    with pytest.raises(InputError, match=words): compare(f, inits=['scratch', 'copy_ft'], losses=['ce'], out_dir=tmp_path/'runs', workers=workers, report=lines.append, **kw)
    assert not lines and not list(tmp_path.iterdir())


def test_a_frame_stays_where_a_run_has_begun(tmp_path):
    f = pd.DataFrame(dict(text=['a', 'b'], label=[0, 1], language='de'))
    with pytest.raises(KeyboardInterrupt), data_file(f, tmp_path/'runs') as p:
        (tmp_path/'runs'/'0123').mkdir()
        raise KeyboardInterrupt
    assert pd.read_parquet(p).text.tolist() == ['a', 'b']


def test_time_left_leaves_out_the_wait_for_the_teacher(monkeypatch):
    now, lines = [0.], []
    monkeypatch.setattr(arm_runs.time, 'monotonic', lambda: now[0])
    t = TimeLeft(lines.append)
    t('5 runs, 1 of them on record')
    for seconds in (100, 20, 20, 20):
        now[0] += seconds
        t(f'{len(lines)}/5 scratch · ce: accuracy 0.500 (3 s)')
    t('a line of something else')
    assert [l.partition(', about ')[2] for l in lines[1:]] == ['5 min left', '40 s left', '20 s left', '', '']


def test_no_time_is_left_after_a_failure():
    lines = []
    t = TimeLeft(lines.append)
    for l in ('3 runs, 0 of them on record', '1/3 scratch · ce: mine.csv has no texts.', '2/3 copy_ft · ce: RuntimeError: out of memory', '3/3 copy_base · ce: accuracy 0.500 (3 s)'): t(l)
    assert not [l for l in lines[1:] if 'left' in l]


def test_the_seeds_come_first():
    configs = arm_configs(['scratch', 'copy_ft'], ['ce', 'paper'], [3, 1], tiny=True)
    assert [(c.seed, c.init, c.losses) for c in configs][:5] == [(3, 'scratch', 'ce'), (3, 'scratch', 'paper'), (3, 'copy_ft', 'ce'), (3, 'copy_ft', 'paper'), (1, 'scratch', 'ce')]


def test_a_frame_is_called_what_it_was():
    from types import SimpleNamespace
    from privkd_nb import Comparison
    for name, says in (('frame-dccc7348db45.parquet@5a293241', 'on your DataFrame, '), ('mine.csv@5a293241', 'on mine.csv@5a293241, ')):
        assert says in Comparison.title.fget(SimpleNamespace(metric='accuracy', place=dict(dataset=name, scenario='all', fraction=1.)))
