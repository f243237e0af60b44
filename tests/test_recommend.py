"Which student to ship: hand-checkable cases, constraints, ties, refusals, and what data must never make it say."
import json

import numpy as np, pandas as pd, pytest

from hostile import PAYLOADS, check_figure, check_html, check_markdown, make_hostile_study
from many_runs import make_runs
from privkd_nb import recommend
from privkd_nb.analysis.candidates import Candidate, candidates
from privkd_nb.analysis.load import Study
from privkd_nb.analysis.recommend import MOST, recommend_among, seeds_needed, standing, tied
from privkd_nb.cli.console import main
from privkd_nb.core import InputError, write_checksums
from privkd_nb.exported import SEAL, WATERFALL, write_manifest
from privkd_nb.figures.pareto import frontier, pareto_figure


def student(name, *means, mb=10., ms=5., gap=.1, validation=None, **kw):
    "Two languages, the second worse by `gap`; a mean a seed"
    def table(v): return pd.DataFrame(dict(de=np.array(v)+gap/2, sw=np.array(v)-gap/2))
    return Candidate(name, name, table(means), None if validation is None else table(validation), mb, ms, **kw)


def test_several_seeds_are_one_candidate_and_the_best_seed_does_not_win():
    lucky = student('lucky', .60, .60, .90, .60)                           # has the highest single run
    steady = student('steady', .80, .81, .79, .80)
    r = recommend_among([lucky, steady], {}, 'accuracy')
    assert r.choice == 'steady' or set(r.tie) == {'lucky', 'steady'} and r.table.set_index('name').best['steady'] > .85
    assert r.table.set_index('name').score['lucky'] == pytest.approx(.675)


def test_paired_seeds_tell_what_unpaired_ones_cannot():
    luck = np.array([-.05, 0, .05, .02])
    a, b = student('a', *(.72+luck)), student('b', *(.70+luck+[0, .001, -.001, 0]))
    assert recommend_among([a, b], {}, 'accuracy').choice == 'a'
    assert recommend_among([a, b._replace(test=b.test.iloc[[2, 0, 3, 1]].reset_index(drop=True))], {}, 'accuracy').choice is None


def test_limits_exclude_and_the_nearest_is_named():
    big, mid, small = student('big', .80, .81, .80, mb=40, ms=12), student('mid', .75, .76, .75, mb=20, ms=6), student('small', .60, .61, .60, mb=10, ms=3)
    assert recommend_among([big, mid, small], {}, 'accuracy').choice == 'big'
    assert recommend_among([big, mid, small], dict(max_mb=20), 'accuracy').choice == 'mid'
    assert recommend_among([big, mid, small], dict(max_ms=5), 'accuracy').choice == 'small'
    r = recommend_among([big, mid, small], dict(max_mb=19, worst_language=.69), 'accuracy')
    assert r.choice is None and r.tie == [] and r.words[0] == 'No student meets max_mb 19, worst_language 0.69; the nearest is mid: 20 MB.'
    unknown = recommend_among([c._replace(latency_ms=np.nan) for c in (big, mid)], dict(max_ms=5), 'accuracy')
    assert unknown.choice is None and 'latency is not known' in unknown.words[0]
    steps = recommend_among([big, mid, small], dict(max_mb=20), 'accuracy').steps
    up = steps[(steps.step == 'larger') & (steps.group == 'all')].iloc[0]
    assert (up['name'], up.more_mb, round(up.score, 3)) == ('big', 20, .05)


def test_a_tie_is_no_choice_and_says_what_would_tell():
    r = recommend_among([student('a', .71, .70, .72), student('b', .70, .71, .71)], {}, 'accuracy')
    assert r.choice is None and set(r.tie) == {'a', 'b'} and r.sure < .975
    d = np.array([.01, -.01, .01])
    assert r.needs['delta'] == pytest.approx(d.mean()) and r.needs['seeds'] == seeds_needed(d.mean(), d.std(ddof=1)) > 3
    same = recommend_among([student('a', .7, .71), student('b', .7, .71)], {}, 'accuracy')
    assert set(same.tie) == {'a', 'b'} and same.sure == .5 and same.needs['seeds'] is None and 'take either' in same.words[1]
    one = recommend_among([student('a', .9), student('b', .5)], {}, 'accuracy')
    assert one.choice is None and 'one seed' in one.words[0]               # nothing is known of other seeds
    assert recommend_among([student('a', .9)], {}, 'accuracy').choice == 'a'


def test_chosen_by_validation_reported_by_test():
    a = student('a', .80, .81, .79, validation=[.70, .70, .70])
    b = student('b', .80, .82, .80, validation=[.60, .60, .60])
    r = recommend_among([a, b], {}, 'accuracy')
    assert r.choice is None and 'a is the first by validation scores' in r.words[0]
    c = student('c', .5, .5, .51, validation=[.5, .5, .5])
    r = recommend_among([a, c], {}, 'accuracy')
    assert r.choice == 'a' and 'validation scores, so its test score is a fair report' in r.words[1]
    assert 'optimistic' in recommend_among([a, c._replace(validation=None)], {}, 'accuracy').words[1]


def test_latencies_of_two_machines_are_not_compared():
    a, b = student('a', .8, .8, .81, machine='x'), student('b', .6, .6, .61, machine='y')
    with pytest.raises(InputError, match='2 machines'): recommend_among([a, b], dict(max_ms=10), 'accuracy')
    assert recommend_among([a, b], dict(max_mb=10), 'accuracy').choice == 'a'


def test_files_of_one_run_are_told_apart_by_texts_alone():
    a = student('a', .80)
    def file(lost, error): return a._replace(name=f'a, {lost}', test=a.test-lost, lost_error=error)
    assert recommend_among([a, file(.05, .01)], {}, 'accuracy').choice == 'a'
    r = recommend_among([a, file(.01, .01)], {}, 'accuracy', np.zeros((500, 2)))
    assert r.choice is None and r.needs['seeds'] is None and r.needs['texts'] == 3920       # 500 (1.96+.84)²
    assert set(recommend_among([a, file(0., 0.)], {}, 'accuracy').tie) == {'a', 'a, 0.0'}


def test_text_noise_counts():
    a, b = student('a', .710, .711, .709), student('b', .700, .700, .700)
    assert recommend_among([a, b], {}, 'accuracy').choice == 'a'
    moves = np.random.default_rng(0).standard_normal((200, 2))*.02/200**.5      # two points over test texts
    r = recommend_among([a, b], {}, 'accuracy', moves-moves.mean(0))
    assert r.choice is None and r.needs['texts'] > 200


def test_probabilities_sum_to_one_and_sets_hold():
    s = standing(np.random.default_rng(1).normal(.7, .02, (4, 6)))
    assert s.best.sum() == pytest.approx(1) and np.allclose(s.ahead+s.ahead.T, 1)
    assert s.best[tied(s.best)].sum() >= .975
    assert seeds_needed(1e-6, .1) is None and MOST == 1000


def test_a_frontier_is_drawn_only_where_it_is_known():
    sure = np.array([[.5, 0, 0], [1, .5, .5], [1, .5, .5]])
    assert frontier(np.array([1, 2, 3]), sure) == ['on', 'on', 'unsure']
    assert frontier(np.array([1, 1, 1]), sure) == ['off', 'unsure', 'unsure']
    fig = pareto_figure(recommend_among([student('a', .7, .71, .7, mb=1), student('b', .8, .81, .8, mb=2)], {}, 'accuracy'))
    assert [list(t.x) for t in fig.data] == [[1, 2], [1, 2]]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "Runs with sizes and speeds, and one that was exported"
    path = make_runs(tmp_path_factory.mktemp('runs'), 72)
    study = Study.open(path)
    for r, c in study.configs.items():
        env = json.loads((path/r/'environment.json').read_text()) | dict(platform='Linux', machine='x86_64')
        (path/r/'environment.json').write_text(json.dumps(env))
        ms = 4. if c['init'] == 'scratch' else 8.
        pd.DataFrame([dict(model=m, language=l, batch_size=b, latency_ms=v*b) for m, v in (('teacher', 20.), ('student', ms)) for l in ('de', 'sw') for b in (1, 64)]).to_parquet(path/r/'speed.parquet')
    [run] = [r for r, c in study.configs.items() if (c['init'], c['losses'], c['scenario'], c['fraction'], c['seed']) == ('copy_ft', {'ce': 1.}, 'all', .1, 0)]
    out = path/run/'exports'/'small'
    out.mkdir(parents=True)
    scores = study.scores[(study.scores.run == run) & (study.scores.model == 'student') & (study.scores.group == 'language') & (study.scores.metric == 'accuracy')].set_index('language').value
    rows = [dict(stage=s, group='language', language=l, score=v-lost) for s, lost in (('trained', 0), ('onnx-int8', .01)) for l, v in scores.items()]
    rows += [dict(stage=s, group='stage', language='', size_mb=mb, latency_ms=ms) for s, mb, ms in (('trained', 5.6, 8.), ('onnx-int8', 1.5, 2.))]
    pd.DataFrame(rows).to_parquet(out/WATERFALL)
    write_manifest(out, kind='sequence', labels=['a'], max_length=128, inputs=['input_ids'], formats={'onnx-int8': 'onnx/model_int8.onnx'}, languages=dict(kept=[*scores.index]))
    write_checksums(out/SEAL)
    return path


def test_an_exported_file_is_a_candidate_beside_its_arm(folder):
    found = {c.name: c for c in candidates(folder, scenario='all', fraction=.1)}
    arm, file = found['copy_ft · ce'], found['copy_ft · ce, onnx-int8']
    assert len(found) == 7 and (file.size_mb, file.latency_ms) == (1.5, 2.) and np.allclose(arm.test-file.test, .01)
    assert arm.latency_ms == 8 and found['scratch · ce'].latency_ms == 4
    r = recommend(folder, max_mb=2, scenario='all', fraction=.1)
    assert r.choice == 'copy_ft · ce, onnx-int8' and 'measured on 1 of 3 runs' in r.words[-1]
    assert set(r.steps.step) >= {'larger'} and pareto_figure(r, 'latency_ms').data


def test_privkd_recommend(folder, capsys):
    assert main(['recommend', str(folder), '--scenario', 'all', '--fraction', '.1', '--max_mb', '2']) == 0
    assert capsys.readouterr().out.startswith('Ship copy_ft · ce, onnx-int8: accuracy 0.')
    assert main(['recommend', 'sample', '--scenario', 'all', '--fraction', '.1', '--json']) == 0
    d = json.loads(capsys.readouterr().out)
    assert d['choice'] is None and set(d['tie']) == {'copy_ft · ce', 'copy_ft · paper'} and len(d['candidates']) == 6
    assert main(['recommend', 'sample']) == 2 and 'the runs differ in scenario' in capsys.readouterr().err
    assert main(['recommend', 'sample', '--worst_language', '60', '--scenario', 'all', '--fraction', '.1']) == 2 and 'write .6' in capsys.readouterr().err


def test_nothing_of_a_study_acts(tmp_path):
    with pytest.warns(UserWarning, match='left out 1'): r = recommend(make_hostile_study(tmp_path/'runs'))
    assert PAYLOADS[0] in check_html(r._repr_html_()).text or any(p[:20] in check_html(r._repr_html_()).text for p in PAYLOADS)
    check_markdown(r._repr_markdown_())
    check_figure(pareto_figure(r))
    assert '\x1b' not in repr(r)
