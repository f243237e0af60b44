"Tests, orders and margins: against other implementations, and against simulated truth."
import time

import numpy as np, pandas as pd, pytest
from scipy import stats as theirs

from privkd_nb.analysis.against import TESTED, tests_against, verdict
from privkd_nb.analysis.compare import choose
from privkd_nb.analysis.coverage import Design, Texts
from privkd_nb.analysis.error_rates import comparison_coverage, false_claims, false_claims_over_texts
from privkd_nb.analysis.grouped import grouped, seed_resamples, stratified_interval
from privkd_nb.analysis.load import Study
from privkd_nb.analysis.stats import iqm, mean, paired_ratio, sign_flip, t_interval
from privkd_nb.analysis.superiority import aso, improvement, violation
from privkd_nb.analysis.tests import flip_distribution, hedges, mcnemar, swap_test, within_margin
from privkd_nb.core import InputError
from test_stats import table

tests_against.__test__ = False     # a name for readers, not for pytest
HERE = dict(scenario='cl', fraction=.1)


@pytest.fixture(scope='module')
def study(): return Study.open('sample')


@pytest.fixture(scope='module')
def tested(study): return tests_against(study, 'copy_base/ce', **HERE)


@pytest.mark.parametrize('b, c', [(12, 4), (0, 5), (7, 7), (1, 0), (130, 171)])
def test_mcnemar_agrees_with_scipy_and_statsmodels(b, c):
    from statsmodels.stats.contingency_tables import mcnemar as other
    d = np.r_[np.ones(b), -np.ones(c), np.zeros(50)]
    assert mcnemar(d, mid=False) == pytest.approx(theirs.binomtest(b, b+c).pvalue, rel=1e-9) == pytest.approx(other([[9, b], [c, 9]], exact=True).pvalue, rel=1e-9)
    if b != c: assert mcnemar(d) == pytest.approx(theirs.binomtest(b, b+c).pvalue-theirs.binom.pmf(b, b+c, .5), rel=1e-9)
    assert mcnemar(d) == mcnemar(-d)


def test_several_seeds_are_an_exact_permutation_of_texts():
    d = np.array([3, -1, 2, 2, 0, 1, -2, 3, 1])
    every = theirs.permutation_test((d,), np.sum, permutation_type='samples', n_resamples=np.inf)
    assert mcnemar(d, mid=False) == pytest.approx(every.pvalue) == pytest.approx(sign_flip(d))
    assert flip_distribution(d).sum() == pytest.approx(1) and flip_distribution([]).tolist() == [1] and np.isnan(mcnemar([])) and mcnemar([0, 0]) == 1
    w = np.random.default_rng(0).normal(.3, 1, 9)
    ranks = (np.sign(w)*theirs.rankdata(np.abs(w))).astype(int)
    assert mcnemar(ranks, mid=False) == pytest.approx(theirs.wilcoxon(w, method='exact').pvalue)        # signed ranks are whole numbers, too


def test_swaps_agree_with_the_exact_test_and_keep_translations_together():
    rng, n = np.random.default_rng(0), 200
    a, b = (np.c_[(rng.random(n) < p), np.ones(n)].astype(float) for p in (.8, .7))
    exact = mcnemar((a-b)[:, 0], mid=False)
    assert swap_test(a, b, ['en']*n)[1] == pytest.approx(exact, abs=.015)
    copies = [np.tile(v, (4, 1)) for v in (a, b)]
    langs, ids = np.repeat(list('abcd'), n), np.tile(np.arange(n), 4)
    assert swap_test(*copies, langs, ids)[1] == pytest.approx(exact, abs=.015) and swap_test(*copies, langs)[1] < .5*exact
    f1 = [np.c_[2.*v[:, 0]*(np.arange(n) % 3 > 0), 1+v[:, 0]] for v in (a, b)]                 # a ratio whose denominators differ
    s = rng.random((4000, n)) < .5
    x, y = (np.where(s[..., None], *p) for p in (f1, f1[::-1]))
    ratio = lambda v: v[..., 0].sum(-1)/v[..., 1].sum(-1)
    other = (np.abs(ratio(x)-ratio(y)) >= abs(ratio(f1[0])-ratio(f1[1]))-1e-12).mean()
    assert swap_test(*f1, ['en']*n)[1] == pytest.approx(other, abs=.03)


def test_many_texts_take_seconds():
    "Languages as a table has them, objects: looked up by hash, not each in all"
    n, l = 2000, 12
    a, b = (np.c_[np.random.default_rng(i).random(n*l) < .7, np.ones(n*l)].astype(float) for i in (0, 1))
    language, ids, start = np.repeat([f'l{i}' for i in range(l)], n).astype(object), np.tile(np.arange(n), l).astype(object), time.process_time()
    each, _ = swap_test(a, b, language, ids, reps=20)
    found, _ = paired_ratio(a, b, language, 20, ids=ids)
    assert set(each) == set(found) == {*language} and time.process_time()-start < 4


@pytest.mark.parametrize('n', [2, 3, 5, 10])
def test_margins_agree_with_statsmodels(n):
    from statsmodels.stats.weightstats import ttost_paired
    d = np.random.default_rng(n).normal(.002, .01, n)
    ours, (p, lower, upper) = within_margin(d, .015), ttost_paired(d, np.zeros(n), -.015, .015)
    assert ours.p_equivalent == pytest.approx(p, rel=1e-7) and ours.p_no_worse == pytest.approx(lower[1], rel=1e-7)
    assert (ours.p_equivalent < .05) == (-.015 < ours.low and ours.high < .015)                # the 90 % interval says the same
    assert within_margin(-d, .015).p_equivalent == pytest.approx(ours.p_equivalent)


def test_nothing_is_said_where_nothing_can_be():
    for d in ([.1], [.1, .1, .1]):
        assert np.isnan(within_margin(d)[1:5]).all() and np.isnan(hedges(d)[:3]).all()
    for bad in (dict(margin=0), dict(margin=1.), dict(margin=np.nan)):
        with pytest.raises(InputError, match='for a point write .01'): within_margin([.1, .2], **bad)
    with pytest.raises(InputError, match='for 5 % write .05'): within_margin([.1, .2], alpha=.5)
    assert np.isnan(aso([.1, .2, .3], [.2, .3, .4]).high) and np.isnan(improvement([.1], [.2]).low)


def test_orders_agree_with_scipy_and_with_a_fine_grid():
    rng = np.random.default_rng(0)
    x, y = rng.normal(.72, .02, (5, 4)).round(2), rng.normal(.70, .03, (4, 4)).round(2)        # with ties
    assert improvement(x, y).point == pytest.approx(np.mean([theirs.mannwhitneyu(a, b).statistic/20 for a,b in zip(x.T, y.T)]))
    assert stratified_interval(x).point == pytest.approx(theirs.trim_mean(x, .25, axis=None)) == pytest.approx(iqm(x))
    a, b, q = x[:, 0], y[:, 0], (np.arange(20_000)+.5)/20_000
    d = np.quantile(a, q, method='inverted_cdf')-np.quantile(b, q, method='inverted_cdf')
    assert violation(a, b) == pytest.approx((np.minimum(d, 0)**2).sum()/(d**2).sum(), abs=1e-6)
    assert improvement(x, y, method='bootstrap', reps=500).low < improvement(x, y).point


def test_listed_resamples_are_what_many_draws_give():
    x = np.random.default_rng(0).normal(.7, .05, (4, 9))
    i, p = seed_resamples(4)
    drawn = np.random.default_rng(1).integers(0, 4, (20_000, 4))
    assert p @ iqm(x[i]) == pytest.approx(iqm(x[drawn]).mean(), abs=1e-3) and len(i) == 35
    for n in (2, 6, 9):
        v = np.random.default_rng(n).normal(.7, .05, (n, 5))
        assert np.allclose(stratified_interval(v, mean)[1:3], t_interval(v)[1:3], rtol=.02 if n > 6 else 1e-9)


def test_the_frame_says_what_was_tested_and_how(tested, study):
    assert list(tested) == TESTED and tested.n.unique().tolist() == [3] and tested.method.str.len().min() > 5
    keys = ['arm', 'by', 'group', 'language', 'over', 'test']
    assert not tested.duplicated(keys).any()
    each = tested[(tested.arm == 'copy_ft · ce') & (tested.test == 'McNemar')]
    from statsmodels.stats.multitest import multipletests
    assert each.p_holm.values == pytest.approx(multipletests(each.p, method='holm')[1]) and len(each) == 12       # over its languages
    arms = tested[(tested.group == 'unseen') & (tested.test == 't')]
    assert arms.p_holm.values == pytest.approx(multipletests(arms.p, method='holm')[1]) and len(arms) == 5         # over the arms
    assert set(tested.finding[tested.p_holm > .05]) == {''}
    seeds = tests_against(study.scores, 'copy_base/ce', **HERE)
    both = tested[tested.over == 'seeds'].drop(columns=['units']).reset_index(drop=True)
    pd.testing.assert_frame_equal(seeds.drop(columns=['units']), both, check_dtype=False)


def test_words_say_what_the_frame_says(tested):
    words = verdict(tested)
    assert '**copy_ft · ce**' in words and '**copy_ft · paper**' not in words and '- copy_ft · paper: ' in words        # .027 is .054 after Holm
    assert '- copy_base · paper: -1.1 points [-8.3, +6.0], paired t over 3 seeds, p = ' in words and 'p = 0.000' not in words
    assert 'texts of these runs (McNemar, 224 texts a language): better in 11 (' in words
    margin = dict(l.rsplit('after Holm): ', 1) for l in words.splitlines() if 'no worse by a point' in l)
    shown = tested[(tested.group == 'all') & (tested.test == 'no worse') & (tested.finding != '')]
    for arm,over in ((l.split(':')[0].strip('- *'), said) for l,said in margin.items()):
        assert [o for o in ('seeds', 'texts') if o in over and 'neither' not in over] == shown.over[shown.arm == arm].tolist()   # the corrected p
    assert max(map(len, words.splitlines())) < 330


def test_no_predictions_no_tests_over_texts(study, monkeypatch):
    def gone(self, run): raise InputError('no predictions here')
    monkeypatch.setattr(Study, 'predictions', gone)
    with pytest.warns(UserWarning, match='no tests over texts: no predictions here'): t = tests_against(study, 'copy_base/ce', by='group', **HERE)
    assert set(t.over) == {'seeds'} and 'texts' not in verdict(t)
    with pytest.raises(InputError, match='no predictions here'): tests_against(study, 'copy_base/ce', texts=True, **HERE)
    with pytest.raises(InputError, match='needs the study itself'): tests_against(study.scores, 'copy_base/ce', texts=True, **HERE)


def test_one_seed_is_no_test_over_seeds():
    x = np.random.default_rng(0).random((1, 3))
    t = tests_against(pd.concat([table(x), table(x+.1, 'scratch · ce')]), 'scratch · ce')
    assert t.p.isna().all() and set(t.finding) == {''} and 'one seed: too few to say' in verdict(t)


def test_two_seeds_are_too_few_for_a_finding_over_seeds():
    x = np.random.default_rng(0).random((2, 3))
    def against(gain): return tests_against(pd.concat([table(x+gain), table(x, 'scratch · ce')]), 'scratch · ce')
    t = against(np.array([[.3], [.3001]]))
    r = t[(t.group == 'all') & (t.test == 't')].iloc[0]
    assert r.p_holm < .001 and set(t.finding) == {''}
    said = verdict(t)
    assert '- copy_ft · ce: +30.0 points; two seeds: too few to say.' in said and '**copy_ft' not in said


def test_groups_of_languages_add_up(study):
    here = choose(study.scores, arm=['copy_ft/ce'], **HERE)
    g = grouped(here, ['language', 'script'], bootstrap=False).query("statistic == 'mean'")
    langs, scripts = g[g.by == 'language'], g[g.by == 'script']
    assert (scripts.score*scripts.languages).sum() == pytest.approx(langs.score.sum()) and scripts.languages.sum() == len(langs) == 12
    with pytest.raises(InputError, match='is not a choice'): grouped(here, 'continent')


def at_most(rate, studies, share=.05):
    "Is a measured rate what `studies` draws of at most the promised one give? In 999 of 1,000 cases"
    return rate*studies <= theirs.binom.ppf(.999, studies, share)


@pytest.mark.parametrize('n, arms', [(4, 'unpaired'), (6, 'paired')])
def test_no_test_over_seeds_is_wrong_more_often_than_it_promises(n, arms):
    ours = ('t', 'sign flip', 'improvement', 'stochastic order', 'no worse', 'equivalence')
    rates = false_claims(Design(n, 8, texts=60, arms=arms), 120, (*ours, 't over cells', 'Wilcoxon over languages'), seed=n)
    assert all(at_most(rates[k], 120) for k in ours), rates
    if arms == 'unpaired': assert not at_most(rates['t over cells'], 120) and not at_most(rates['Wilcoxon over languages'], 120), rates


@pytest.mark.parametrize('effect', [0., .45])
def test_intervals_of_comparisons_hold_the_truth(effect):
    d = Design(3, 8, texts=60, arms='paired', effect=effect)
    held = comparison_coverage(d, 150)
    assert all(at_most(1-held[k], 150) for k in ('mean', 'interquartile mean', 'improvement', 'effect size')), held
    assert not at_most(1-held['interquartile mean, bootstrap within languages'], 150)


def test_no_test_over_texts_is_wrong_more_often_than_it_promises():
    rates = false_claims_over_texts(Texts(80, 3), 80)
    assert len(rates) == 6 and all(at_most(v, 80) for v in rates.values()), rates


def test_what_is_bold_has_a_test_and_the_note_names_it(study, tested):
    from privkd_nb.analysis.compare import overall
    from privkd_nb.figures.save import results_table, to_latex
    here = overall(choose(study.scores, **HERE))
    plain, bold = results_table(here), results_table(here, tests=tested)
    assert not plain.map(lambda s: '*' in s).any(axis=None) and 'no test was made' in plain.attrs['note']
    better = tested[(tested.test == 't') & (tested.finding == 'better') & (tested.by == 'group')]
    marked = {(a, k[3]) for a in bold.index for k in bold if bold.loc[a, k].startswith('**')}
    assert marked == {(a, g) for a,g in zip(better.arm, better.group) if g != 'all'} and marked
    assert 'n in the column seeds' in bold.attrs['note'] and 't over paired seeds, p < 0.05 after Holm' in bold.attrs['note']
    latex = to_latex(bold, 'Accuracy')
    assert latex.count(r'\textbf{') == len(marked) and '*' not in latex and r'\caption{Accuracy. Mean over languages [95 \% interval' in latex
    assert bold.map(lambda s: s.strip('*')).equals(plain)
