"Intervals: against other implementations, against simulated truth, and where none is honest."
import warnings

import numpy as np, pandas as pd, pytest
from scipy import stats as theirs

from privkd_nb.analysis.arms import Cell
from privkd_nb.analysis.compare import by_language, choose, common_languages, difference_rows, differences, overall
from privkd_nb.analysis.coverage import Design, Texts, coverage, draw_tables, text_coverage
from privkd_nb.analysis.examples import example_differences, runs_by_seed
from privkd_nb.analysis.load import Study
from privkd_nb.analysis.stats import (MIN_UNITS, Interval, bootstrap, crossed_interval, holm, iqm, language_mean, mean, paired_ratio,
                                      sign_flip, spread, t_interval)
from privkd_nb.core import InputError
from privkd_nb.evaluation.scores import with_means
from privkd_nb.figures.comparisons import fraction_figure, interval_bars, results_figure, scores_figure, seeds_note, training_figure


def table(scores, arm='copy_ft · ce', dataset='mine'):
    "The tables of a study from a seeds × languages array"
    rows = [dict(run=f'{arm}-{s}', arm=arm, init=arm.split(' · ')[0], losses='ce', dataset=dataset, scenario='all', fraction=.1, seed=s, step=1, split='test',
                 group='language', language=f'l{l}', seen=True, model='student', metric='accuracy', value=v) for s, r in enumerate(scores) for l, v in enumerate(r)]
    return pd.DataFrame(rows)


@pytest.mark.parametrize('n', [2, 3, 5, 10, 40])
@pytest.mark.parametrize('level', [.8, .95, .99])
def test_t_agrees_with_scipy_and_statsmodels(n, level):
    from statsmodels.stats.weightstats import DescrStatsW
    x = np.random.default_rng(n).normal(.6, .1, (n, 7))
    y, ours = x.mean(1), t_interval(x, level=level)
    assert ours[1:3] == pytest.approx(theirs.t.interval(level, n-1, y.mean(), theirs.sem(y)), rel=1e-9)
    assert ours[1:3] == pytest.approx(DescrStatsW(y).tconfint_mean(1-level), rel=1e-9)
    assert t_interval(x-.6, level=level).p == pytest.approx(theirs.ttest_1samp(y, .6).pvalue, rel=1e-7)
    assert (ours.n, ours.df, ours.level, ours.method) == (n, n-1, level, 't over seeds')
    each = t_interval(x, language_mean, level)
    assert np.allclose(each.low, [theirs.t.interval(level, n-1, c.mean(), theirs.sem(c))[0] for c in x.T])
    middle = np.sort(x, 1)[:, 1:6].mean(1)                        # the middle half of seven languages
    assert t_interval(x, iqm, level).point == pytest.approx(middle.mean())


def test_crossed_agrees_with_an_analysis_of_variance():
    from statsmodels.api import stats
    from statsmodels.formula.api import ols
    s, l = 4, 6
    rng = np.random.default_rng(3)
    x = .6+.1*rng.standard_normal((s, 1))+.1*rng.standard_normal(l)+.05*rng.standard_normal((s, l))
    d = pd.DataFrame([(i, j, x[i, j]) for i in range(s) for j in range(l)], columns=['seed', 'language', 'y'])
    ms = stats.anova_lm(ols('y ~ C(seed)+C(language)', d).fit()).mean_sq
    total = ms['C(seed)']+ms['C(language)']-ms['Residual']
    df = total**2/(ms['C(seed)']**2/(s-1)+ms['C(language)']**2/(l-1)+ms['Residual']**2/((s-1)*(l-1)))
    ours = crossed_interval(x)
    assert ours.df == pytest.approx(df) and ours.high-ours.point == pytest.approx(theirs.t.ppf(.975, df)*(total/(s*l))**.5)


def test_holm_agrees_with_statsmodels_and_leaves_out_what_was_not_tested():
    from statsmodels.stats.multitest import multipletests
    p = np.random.default_rng(0).random(9)**3
    assert holm(p) == pytest.approx(multipletests(p, method='holm')[1])
    holes = np.insert(p, [0, 4, 9], np.nan)
    assert holm(holes)[~np.isnan(holes)] == pytest.approx(holm(p)) and (np.isnan(holm(holes)) == np.isnan(holes)).all()
    assert holm([]).shape == (0,) and np.isnan(holm([np.nan, np.nan])).all() and np.isnan(holes).sum() == 3    # and its argument is as it was


def clear(held, studies, share=.95):
    "Is a measured coverage what `studies` draws of the promised one give? In 999 of 1,000 cases"
    low, high = theirs.binom.ppf([.0005, .9995], studies, share)/studies
    return low <= held.coverage <= high


@pytest.mark.parametrize('d, statistic', [
    (Design(2, 4, texts=100), 'mean'), (Design(3, 4, texts=100), 'mean'), (Design(5, 4, metric='f1', texts=100), 'mean'), (Design(3, 8, texts=50), 'iqm'),
    (Design(3, 1, texts=200), 'mean'), (Design(3, 6, arms='paired', texts=100), 'mean'), (Design(5, 6, arms='paired', metric='f1', texts=100), 'mean'),
    (Design(3, 6, together=0, own=.2, arms='paired', texts=100), 'mean')])
def test_t_holds_the_truth_and_the_bootstrap_does_not(d, statistic):
    held = coverage(d, ('t', 'whole_seeds'), statistic, studies=400, reps=200, seed=1)
    assert clear(held['t'], 400), held
    assert held['whole_seeds'].coverage < .91 and not clear(held['whole_seeds'], 400)


def test_what_the_package_reports_covers_a_null_difference():
    "The tables themselves, not a formula beside them: of arms that are alike, one in twenty is called different"
    clear_of_zero, one_language = 0, 0
    diffs = draw_tables(Design(3, 5, arms='paired', texts=100), 400, np.random.default_rng(5))
    for d in diffs:
        rows = difference_rows(pd.DataFrame(d), dict.fromkeys(range(5), True))
        for r in rows: assert (r['p'] < .05) == (r['low'] > 0 or r['high'] < 0)
        clear_of_zero += rows[-1]['p'] < .05
        one_language += rows[0]['p'] < .05
    low, high = theirs.binom.ppf([.0005, .9995], 400, .05)
    assert low <= clear_of_zero <= high and low <= one_language <= high


def test_new_languages_need_the_wider_interval():
    d = Design(3, 6, together=.05, texts=50, sampled=True)
    held = coverage(d, ('t', 'crossed'), studies=400)
    assert held['t'].coverage < .8 and held['crossed'].coverage > .92
    scores = draw_tables(d, 1, np.random.default_rng(0))[0]
    x, wide = table(scores), crossed_interval(scores)
    o = overall(x, sampled=True).query("statistic == 'mean'").iloc[0]
    assert (o.low, o.high) == pytest.approx(wide[1:3]) and o.low != pytest.approx(t_interval(scores).low)
    assert overall(x, sampled=True).query("statistic == 'iqm'").low.isna().all()               # nothing that covers was found


def test_differences_keep_a_seed_together():
    "A seed that moves all languages alike is one draw, however many languages there are"
    y = np.array([.10, .02, .07])
    both = pd.concat([table(np.tile(.5+y[:, None], 8), 'copy_ft · ce'), table(np.full((3, 8), .5), 'scratch · ce')])
    d = differences(both, 'scratch · ce')
    one, together = d[d.group == 'language'].iloc[0], d[d.group == 'all'].iloc[0]
    for v in (one, together): assert (v.low, v.high) == pytest.approx(t_interval(y)[1:3])
    assert together.p == pytest.approx(theirs.ttest_1samp(y, 0).pvalue) and together.p_sign == .25
    o = overall(both).query("arm == 'copy_ft · ce' and statistic == 'mean'").iloc[0]
    assert o.high-o.low == pytest.approx(together.high-together.low)


def test_means_over_languages_count_each_language_once():
    s = pd.DataFrame(dict(seen=[True, True, False], n=[1000, 10, 1], accuracy=[.9, .3, .6]), index=pd.Index(['en', 'de', 'sw'], name='language'))
    by_group = with_means(s).groupby(level='group').accuracy.first()
    assert by_group['all'] == pytest.approx((.9+.3+.6)/3) and by_group['seen'] == pytest.approx((.9+.3)/2)


def test_translations_are_drawn_together():
    "A test set and copies of it under the names of other languages is as much evidence as the test set"
    rng = np.random.default_rng(0)
    one = [np.c_[rng.random(300) < p, np.ones(300)].astype(float) for p in (.8, .7)]
    (_, alone), (_, apart) = (paired_ratio(*[np.tile(v, (k, 1)) for v in one], np.repeat(np.arange(k), 300)) for k in (1, 9))
    each, joint = paired_ratio(*[np.tile(v, (9, 1)) for v in one], np.repeat(np.arange(9), 300), ids=np.tile(np.arange(300), 9))
    width = [v.high-v.low for v in (alone, apart, joint)]
    assert width[1] == pytest.approx(width[0]/3, rel=.1) and width[2] == pytest.approx(width[0], rel=.05)
    assert joint.point == pytest.approx(alone.point) and (joint.n, apart.n) == (300, 2700)
    assert joint.method == 'bootstrap over sets of translations' and apart.method == 'bootstrap over examples' == each[0].method


def test_the_draw_of_translations_agrees_with_another_bootstrap():
    rng, n, l = np.random.default_rng(2), 150, 4
    hard = rng.standard_normal(n)
    a, b = ((rng.standard_normal((l, n)) < v-hard).astype(float) for v in (.9, .7))
    _, ours = paired_ratio(*(np.c_[v.ravel(), np.ones(l*n)] for v in (a, b)), np.repeat(list('abcd'), n), ids=np.tile(np.arange(n), l))
    drawn = np.array([(a-b)[:, rng.integers(0, n, n)].mean() for _ in range(4000)])
    assert (ours.low, ours.high) == pytest.approx(tuple(np.quantile(drawn, [.025, .975])), abs=.08*(ours.high-ours.low))


def test_languages_that_share_no_id_are_drawn_apart_and_those_linked_through_a_third_together():
    rng = np.random.default_rng(1)
    a, b = (np.c_[rng.random(90) < .7, np.ones(90)].astype(float) for _ in 'ab')
    langs, ids = ['x']*30+['y']*30+['z']*30, [*range(30), *range(15, 45), *range(30, 60)]       # x and z meet in y alone
    assert paired_ratio(a, b, langs, ids=ids)[1].n == 60
    lonely = [f'{l}{i}' for l, i in zip(langs, ids)]
    assert paired_ratio(a, b, langs, ids=lonely)[1] == paired_ratio(a, b, langs)[1]


@pytest.mark.parametrize('metric', ['accuracy', 'f1'])
def test_new_texts_are_covered_where_translations_are_drawn_together(metric):
    d = Texts(60, 8, metric=metric)
    apart, together = (text_coverage(d, v, studies=200, reps=150) for v in (False, True))
    assert together.coverage > .9 and apart.coverage < together.coverage-.03 and together.width > 1.2*apart.width


def test_the_sample_studys_test_texts_are_translations():
    study = Study.open('sample')
    here = dict(dataset='playground', scenario='all', fraction=.1)
    a, b = (runs_by_seed(study, arm=f'{i} · ce', **here)[0] for i in ('copy_ft', 'copy_base'))
    e = example_differences(study, [a], [b], reps=2000)
    mean = e[e.group == 'all'].iloc[0]
    assert mean.units == study.predictions(a).id.nunique() and mean.n > mean.units and e.attrs['method'] == 'bootstrap over sets of translations'
    assert (e[e.group == 'language'].units == e[e.group == 'language'].n).all()


nothing = [([.5], 1), ([.5, .5, .5], 3), ([[.5, .6], [.5, .6]], 2), ([.1+.2, .3, .3], 3)]       # the last differ in rounding alone

@pytest.mark.parametrize('x, n', nothing)
def test_no_interval_where_there_is_nothing_to_judge_by(x, n):
    iv = t_interval(x)
    assert np.isnan([iv.low, iv.high, iv.p]).all() and iv.n == n and np.isfinite(iv.point) and 'without interval' in repr(iv)


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_missing_and_infinite_values(bad):
    for f in (t_interval, crossed_interval, bootstrap):
        with pytest.raises(InputError, match='1 of 4 scores are missing or infinite'): f([[.5, bad], [.5, .6]])
        with pytest.raises(InputError, match='expected a table'): f([])
    assert np.isnan(sign_flip([.1, bad, .2])) and np.isnan(sign_flip([])) and sign_flip([.1]) == 1
    assert sign_flip([0., 0, 0]) == 1 and np.isnan(spread(np.array([.5])))
    ones = np.ones((30, 2))
    with pytest.raises(InputError, match="outcome is missing or infinite"): paired_ratio(ones*bad, ones, ['en']*30)


@pytest.mark.parametrize('level', [0, 1, 95, -1, np.nan])
def test_a_level_is_a_share(level):
    for f in (t_interval, crossed_interval, bootstrap):
        with pytest.raises(InputError, match='for 95 % write .95'): f([[.5, .4], [.5, .6]], level=level)
    with pytest.raises(InputError, match='for 95 % write .95'): paired_ratio(np.ones((30, 2)), np.ones((30, 2)), ['en']*30, level=level)


def test_too_few_or_equal_examples_have_no_interval():
    rng, n = np.random.default_rng(0), MIN_UNITS
    a, b = (np.c_[rng.random(n) < .5, np.ones(n)].astype(float) for _ in 'ab')
    assert np.isfinite(paired_ratio(a, b, ['en']*n)[1].low)
    assert np.isnan(paired_ratio(a[1:], b[1:], ['en']*(n-1))[1].low) and np.isnan(paired_ratio(a, a, ['en']*n)[1].low)
    found, mean = paired_ratio(np.empty((0, 2)), np.empty((0, 2)), [])
    assert found == {} and np.isnan(mean.point) and mean.n == 0


def test_a_language_without_entities_is_left_out_of_the_mean():
    a, b = np.array([[2., 2]]*15+[[0, 2]]*15+[[0, 0]]*30), np.array([[2., 2]]*10+[[0, 2]]*20+[[0, 0]]*30)
    found, mean = paired_ratio(a, b, ['en']*30+['sw']*30)
    assert np.isnan(found['sw'].point) and mean.point == pytest.approx(found['en'].point) == pytest.approx(5/30)


def test_a_score_that_some_seeds_lack():
    x = np.random.default_rng(0).random((3, 4))
    x[1, 2] = np.nan
    lacking, undefined = table(x).dropna(subset='value'), table(x)                     # no row; a row without F1
    for scores, said in ((lacking, 'l2 left out of the means'), (undefined, 'left out, with no accuracy in some run: l2')):
        with pytest.warns(UserWarning, match=said): o = overall(scores).query("statistic == 'mean'").iloc[0]
        assert o.n == 3 and o.score == pytest.approx(np.delete(x, 2, 1).mean()) and (o.low, o.high) == pytest.approx(t_interval(np.delete(x, 2, 1))[1:3])
    b = by_language(lacking).set_index('language')
    assert b.seeds.tolist() == [3, 3, 2, 3] and b.score['l2'] == pytest.approx(np.nanmean(x[:, 2]))
    with pytest.warns(UserWarning, match='with no accuracy'): assert 'l2' not in set(by_language(undefined).language)       # it would be judged by its mistakes alone
    with pytest.raises(InputError, match='no language that all of its 2 seeds'):
        common_languages(pd.DataFrame([[np.nan, 1], [1, np.nan]]), Cell('a · ce', 'd', 'all', .1))


def test_intervals_say_how_they_were_made():
    x = np.random.default_rng(0).random((4, 3))
    assert repr(t_interval(x, level=.9)).endswith('90 %, t over seeds, n=4, df=3)')
    assert 'df' not in repr(bootstrap(x)) and 'each language apart' in repr(bootstrap(x)) and 'all languages together' in repr(bootstrap(x, within='seed'))
    assert np.isnan(bootstrap(x).p) and Interval(1., 0, 2, 3) == Interval(1., 0, 2, 3)
    two = pd.concat([table(x), table(x+.1*np.arange(4)[:, None], 'scratch · ce')])
    for df in (by_language(two), overall(two)): assert df.attrs == dict(level=.95, method='t over seeds')
    assert differences(two, 'scratch/ce').attrs == dict(level=.95, method='t over seeds', base='scratch · ce')
    for f in (by_language, overall, lambda *a, **k: differences(a[0], 'scratch · ce', **k)):
        with pytest.warns(FutureWarning, match='^reps is not needed any more'): f(two, reps=10)


def test_figures_draw_no_bar_where_there_is_no_interval_and_say_so():
    x = np.random.default_rng(0).random((3, 2))
    same = np.tile([.4, .5], (3, 1))
    for scores, note in ((x, "95 % intervals (Student's t) over 3 seeds"), (same, '3 seeds: no interval'), (x[:1], 'one seed: no interval')):
        o, b = overall(table(scores)), by_language(table(scores))
        for fig in (scores_figure(b), fraction_figure(o), results_figure(o)):
            bars = [e.array for t in fig.data for e in (t.error_x, t.error_y) if e is not None and e.array is not None]
            assert note in fig.layout.title.text and bool(bars) == ('Student' in note)
    some = by_language(pd.concat([table(x), table(same, 'scratch · ce'), table(x[:1], 'copy_base · ce')]))
    assert seeds_note(some).endswith('over 1 to 3 seeds; none where there is one seed or seeds agree exactly')
    assert interval_bars(some)['array'].count(None) == 4
    assert '90 % intervals' in seeds_note(by_language(table(x), level=.9)) and 'and the languages' in seeds_note(overall(table(x), sampled=True).query("statistic == 'mean'"))
    band = pd.DataFrame(dict(arm='a · ce', dataset='d', scenario='all', fraction=.1, step=[1, 2], score=1., low=.5, high=2., seeds=[3, 2]))
    assert 'mean of 2 to 3 seeds; the band spans the lowest and the highest run, and is no interval' in training_figure(band).layout.title.text


def test_no_conclusion_from_few_seeds_is_drawn_twice():
    "In the sample study, every verdict of an interval is that of its p"
    d = pd.concat([differences(choose(Study.open('sample').scores, scenario=s), 'copy_base · ce') for s in ('all', 'cl')])
    assert ((d.p < .05) == ((d.low > 0) | (d.high < 0))).all() and (d.p_sign.dropna() >= 2/2**d.seeds.max()).all()
