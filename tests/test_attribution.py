"Attribution: against all orders of the factors, against planted truth, and where it must refuse."
from itertools import permutations

import numpy as np, pandas as pd, pytest
from scipy import stats as theirs

from privkd_nb.analysis.anova import anova_table, mixed_model
from privkd_nb.analysis.attribution import attribution, attribution_coverage, attribution_words, share_interval, shapley_index
from privkd_nb.analysis.factors import FACTORS, Planted, find_cubes, planted_scores, planted_tables
from privkd_nb.analysis.multiplier import data_multiplier, multiplier_coverage, needed_data
from privkd_nb.core import InputError

SCORES = planted_scores(Planted(fractions=(.01, .1, 1.)), seed=1)
TENTH = SCORES[SCORES.fraction == .1]


@pytest.mark.parametrize('factors', [2, 3])
def test_values_are_the_mean_over_all_orders(factors):
    v = np.random.default_rng(factors).random((2,)*factors+(4,))
    for i in range(factors):
        adds = []
        for order in permutations(range(factors)):
            before = [int(order.index(j) < order.index(i)) for j in range(factors)]
            adds.append(v[tuple(1 if j == i else b for j, b in enumerate(before))]-v[tuple(0 if j == i else b for j, b in enumerate(before))])
        assert shapley_index(v, factors, (i,)) == pytest.approx(np.mean(adds, 0))
    assert sum(shapley_index(v, factors, (i,)) for i in range(factors)) == pytest.approx(v[(1,)*factors]-v[(0,)*factors])


def test_a_row_is_the_t_interval_of_the_seeds_own_values():
    df = attribution(SCORES, FACTORS)
    x = SCORES.pivot_table(index=['seed', 'language'], columns=['arm', 'fraction'], values='value')
    def at(start, losses, f): return x[f'{start} · {losses}', f]
    def of(start, kd, data): return at(('scratch', 'copy_ft')[start], ('ce', 'ce+logits')[kd], (.01, 1.)[data])
    squares = [of(1, kd, data)-of(0, kd, data) for kd in (0, 1) for data in (0, 1)]     # what the start adds: first, second twice, last
    phi = squares[0]/3+squares[1]/6+squares[2]/6+squares[3]/3
    for group, y in dict(all=phi, unseen=phi[phi.index.get_level_values(1).isin(SCORES[~SCORES.seen].language)]).items():
        seeds, row = y.groupby('seed').mean(), df[(df.term == 'start') & (df.group == group)].iloc[0]
        test = theirs.ttest_1samp(seeds, 0)
        assert (row.point, row.p, row.n) == (pytest.approx(seeds.mean()), pytest.approx(test.pvalue, rel=1e-6), 5)
        assert (row.low, row.high) == pytest.approx(tuple(test.confidence_interval()))
    one = df[(df.term == 'start') & (df.group == 'language') & (df.language == 'am-ET')].iloc[0]
    assert one.point == pytest.approx(phi.xs('am-ET', level='language').mean())
    parts = df[(df.kind == 'factor') & (df.group == 'all')]
    assert parts.point.sum() == pytest.approx(df[(df.kind == 'gain') & (df.group == 'all')].point.iloc[0]) and parts.share.sum() == pytest.approx(1)


@pytest.mark.parametrize('seeds', [3, 5, 10])
def test_planted_effects_are_held_at_the_promised_rate(seeds):
    held = attribution_coverage(Planted(seeds=seeds, languages=8), studies=1500, seed=seeds)
    print(held.round(3).to_string())
    assert held.coverage.between(.933, .967).all()                      # three standard errors


def test_the_rate_holds_where_runs_share_little_luck_and_the_study_is_small():
    held = attribution_coverage(Planted(seeds=4, languages=2, shared=0, run=.03, start=.05, distillation=.05, interaction=0.), studies=1500)
    print(held.round(3).to_string())
    assert held.coverage[:4].between(.933, .967).all() and held.coverage[4] > .5        # the share is refused where the gain is not clear of zero


def test_a_share_is_refused_where_the_gain_is_not_clear_of_zero():
    assert np.isnan(share_interval([.1, .2, -.1], [.1, .3, -.2])[:3]).all()
    assert np.isnan(share_interval([.1], [.2]).low)


def test_missing_cells_are_named():
    full, why_not = find_cubes(SCORES)
    assert [c.fixed.data for c in full] == [.01, .1, 1.] and not why_not
    lacks = SCORES[(SCORES.arm != 'copy_ft · ce+logits') | (SCORES.fraction == .1)]
    assert set(attribution(lacks).data) == {'0.1'} and 'copy_ft · ce+logits on massive (cl) at 0.01' in attribution(lacks).attrs['why_not'][0]
    with pytest.raises(InputError, match=r'because no run of copy_ft · ce\+logits on massive \(cl\) at 0\.01; and no run of copy_ft'):
        attribution(lacks[lacks.fraction != .1])
    with pytest.raises(InputError, match='no run of noise · ce on massive'): attribution(SCORES, start=('noise', 'copy_ft'))
    with pytest.raises(InputError, match='there is no score'): attribution(SCORES, metric='macro_f1')
    with pytest.raises(InputError, match=r'the 4 cells of copy_ft · ce\+logits on massive \(cl\) at 0.01 have 0 seeds'):
        attribution(SCORES.assign(seed=SCORES.seed.where(SCORES.arm != 'scratch · ce', SCORES.seed+10)))


def test_only_seeds_and_languages_of_all_cells_count():
    hole = (SCORES.arm == 'scratch · ce') & ((SCORES.seed == 4) | (SCORES.language == 'de-DE') & (SCORES.seed == 0))
    with pytest.warns(UserWarning, match='left out, without a score in some of the runs: de-DE'): df = attribution(SCORES[~hole])
    assert set(df.n) == {4} and 'de-DE' not in set(df.language) and set(df[df.group == 'all'].languages) == {11}


def test_other_settings_are_never_mixed():
    two = pd.concat([TENTH.assign(arm=TENTH.arm+' · depth=first'), TENTH.assign(arm=TENTH.arm+' · depth=last', value=TENTH.value*2)])
    df = attribution(two)
    g = df[(df.term == 'start') & (df.group == 'all')].set_index(['settings', 'data']).point
    assert g['depth=last', '0.1'] == pytest.approx(2*g['depth=first', '0.1'])
    assert len(attribution_words(df)) == 2 and 'depth=last' in ' '.join(attribution_words(df))


def test_three_sets_of_losses_are_three_splits():
    paper = TENTH[TENTH.losses != 'ce'].assign(losses='paper', arm=lambda d: d.arm.str.replace('ce+logits', 'paper'))
    df = attribution(pd.concat([TENTH, paper]))
    assert set(df.distillation) == {'ce → ce+logits', 'ce → paper'}
    assert set(attribution(pd.concat([TENTH, paper]), distillation=('ce', 'logits,ce')).distillation) == {'ce → ce+logits'}


def test_variance_agrees_with_statsmodels():
    formula, lm = pytest.importorskip('statsmodels.formula.api'), pytest.importorskip('statsmodels.stats.anova')
    d, ours = TENTH, anova_table(TENTH).set_index('term')
    theirs = lm.anova_lm(formula.ols('value ~ C(init)*C(losses)*C(language)+C(seed)', d).fit(), typ=2)
    names = {'C(init)': 'start', 'C(losses)': 'distillation', 'C(language)': 'language', 'C(seed)': 'seed', 'C(init):C(losses)': 'start × distillation',
             'C(init):C(losses):C(language)': 'start × distillation × language'}
    for k, v in names.items(): assert (ours.sum_sq[v], ours.df[v]) == (pytest.approx(theirs.sum_sq[k]), theirs.df[k])
    assert ours.sum_sq[['run', 'residual']].sum() == pytest.approx(theirs.sum_sq.Residual)
    plots = lm.anova_lm(formula.ols('value ~ C(init)*C(losses)+C(seed)', d.groupby(['init', 'losses', 'seed'], as_index=False).value.mean()).fit(), typ=2)
    for k in ('C(init)', 'C(losses)', 'C(init):C(losses)', 'C(seed)'):
        assert (ours.F[names[k]], ours.p[names[k]]) == (pytest.approx(plots.F[k]), pytest.approx(plots['PR(>F)'][k]))
    total, error = theirs.sum_sq.sum(), plots.sum_sq.Residual/plots.df.Residual*12
    assert ours.eta2['start'] == pytest.approx(theirs.sum_sq['C(init)']/total)
    assert ours.omega2['start'] == pytest.approx((theirs.sum_sq['C(init)']-error)/(total+error))


def test_variance_takes_more_than_two_levels():
    noise = SCORES[SCORES.init == 'scratch'].assign(init='noise', arm=lambda d: d.arm.str.replace('scratch', 'noise'))
    df = anova_table(pd.concat([SCORES, noise]), FACTORS, start=('scratch', 'noise', 'copy_ft'), data=(.01, .1, 1.)).set_index('term')
    assert (df.df['start'], df.df['data'], df.df['start × distillation × data'], df.df['run']) == (2, 2, 4, 17*4)
    assert df.eta2.sum() == pytest.approx(1) and (df.languages == 12).all()
    with pytest.raises(InputError, match='two levels a factor, not 3'): attribution(pd.concat([SCORES, noise]), start=('scratch', 'noise', 'copy_ft'))


def test_the_mixed_model_agrees_with_the_split_and_the_variances():
    mixed = mixed_model(TENTH).set_index('term')
    split = attribution(TENTH).query("group == 'all'").set_index('term')
    anova = anova_table(TENTH).set_index('term')
    for t in ('start', 'distillation', 'start × distillation'):
        assert mixed.point[t] == pytest.approx(split.point[t], abs=1e-7) and mixed.p[t] == pytest.approx(anova.p[t], rel=.02)
        assert (mixed.df[t], mixed.n[t], mixed.converged[t]) == (12, 5, True)
    ms, luck = anova.mean_sq, anova[anova.index.str.endswith('× language') | (anova.index == 'residual')][['sum_sq', 'df']].sum()
    rest = luck.sum_sq/luck.df                                                 # here languages do not differ in what a factor does
    classical = dict(residual=rest, run=(ms.run-rest)/12, seed=(ms.seed-ms.run)/48, language=(ms.language-rest)/20)
    for k, v in classical.items(): assert mixed.point[k] == pytest.approx(v**.5, rel=.01)


def test_the_mixed_model_holds_what_was_planted():
    from privkd_nb.analysis.anova import model_rows
    from privkd_nb.analysis.factors import Cube
    d, n = Planted(seeds=4, languages=6), 30
    truth, held = {'start': .3, 'distillation': .05, 'start × distillation': -.04}, []
    for v in planted_tables(d, n, np.random.default_rng(3))[:, :, :, 0]:
        rows = model_rows(Cube(dict.fromkeys(('start', 'distillation'), ('low', 'high')), None, v, [], {}), False, .95)
        held += [r['low'] <= truth[r['term']] <= r['high'] for r in rows if r['kind'] != 'sd']
    print(f'{np.mean(held):.3f} of {len(held)} intervals hold the planted value')
    assert .9 < np.mean(held)                                                   # 90 intervals: a standard error of two points


def test_a_model_that_does_not_converge_says_so(monkeypatch):
    from privkd_nb.analysis import anova as page
    fit = page.fit_model
    def failed(*a):
        res, _ = fit(*a)
        res._results.converged = False
        return res, ['Gradient optimization failed, |grad| = 1']
    monkeypatch.setattr(page, 'fit_model', failed)
    bad = mixed_model(SCORES[SCORES.fraction == .1])
    assert not bad.converged.any() and bad.low.isna().all() and bad.p.isna().all()
    assert bad.note[0] == 'statsmodels: Gradient optimization failed, |grad| = 1; no intervals: the fit did not converge'
    monkeypatch.setattr(page, 'fit_model', lambda *a: (None, ['no fit: Singular matrix']))
    assert mixed_model(SCORES[SCORES.fraction == .1]).note[0].startswith('statsmodels: no fit: Singular matrix; ')


def test_without_statsmodels_the_extra_is_named(monkeypatch):
    import sys
    monkeypatch.setitem(sys.modules, 'statsmodels.regression.mixed_linear_model', None)
    with pytest.raises(InputError, match=r"pip install 'privkd_nb\[stats\]'"): mixed_model(SCORES)


def test_a_multiplier_ends_where_a_paired_t_test_begins_to_reject():
    rng, f = np.random.default_rng(0), np.array([.01, .1, 1.])
    curve = np.array([.4, .6, .8])+.03*rng.standard_normal((5, 3))
    score = .65+.01*rng.standard_normal(5)
    need = needed_data(curve, f, score, grid=400)
    def at(x): return np.array([np.interp(np.log(x), np.log(f), c) for c in curve])
    assert at(need.point).mean() == pytest.approx(score.mean())
    for end in need[1:]: assert theirs.ttest_rel(at(end), score).pvalue == pytest.approx(.05, abs=1e-3)
    assert f[0] < need.low < need.point < need.high < f[-1]


def test_a_multiplier_is_never_extrapolated():
    d = Planted(start=.4, data=.1, fractions=(.01, .1, 1.))
    df = data_multiplier(planted_scores(d))
    assert (df.bound == 'more than').all() and df.needed.isna().all() and df.multiplier.isna().all() and np.isinf(df.high).all()
    assert set(df[df.fraction == .1].most) == {10.} and df.says.str.startswith('more than × ').all()
    back = data_multiplier(planted_scores(d), 'scratch', 'copy_ft')
    assert (back.bound == 'less than').all() and (back.low == 0).all() and back[back.fraction == .1].says.str.startswith('less than × 0.1').all()
    one = data_multiplier(planted_scores(d._replace(seeds=1, start=.05)))
    assert one.low.isna().all() and one.multiplier.notna().any() and not one.says.str.contains(r'\[').any()


def test_a_planted_multiplier_is_held_at_the_promised_rate():
    d = Planted(seeds=4, languages=4, start=.1, data=.3, interaction=0, fractions=(.01, .1, 1.))
    held = multiplier_coverage(d, studies=600, seed=2)
    print(f'{held:.3f} of 600 intervals hold the planted multiplier')
    assert .925 < held < .975


def test_a_figure_shows_one_split_and_its_names_as_text():
    from privkd_nb.figures.attribution import attribution_figure
    with pytest.raises(InputError, match='3 splits and a figure shows one'): attribution_figure(attribution(SCORES))
    odd = SCORES[SCORES.fraction == .1].replace({'language': {'de-DE': '<b>x</b>'}, 'dataset': {'massive': '<i>mine</i>'}})
    frame = attribution(odd)
    fig = attribution_figure(frame, by='name')
    assert '<b>' not in str(fig.layout.yaxis.ticktext) and '<i>' not in fig.layout.title.text
    ticks, bar = list(fig.layout.yaxis.ticktext), fig.data[0]
    row = frame[(frame.term == 'start') & (frame.language == 'am-ET')].iloc[0]
    i = ticks.index('am-ET (unseen)')
    assert (bar.name, bar.x[i]) == ('start', pytest.approx(row.point, abs=1e-5))
    assert bar.x[i]+bar.error_x.array[i] == pytest.approx(row.high, abs=1e-4) and bar.x[i]-bar.error_x.arrayminus[i] == pytest.approx(row.low, abs=1e-4)
    assert [t.name for t in attribution_figure(frame, rows='script').data] == ['start', 'distillation', 'start × distillation']
    assert 'one seed: no interval' in attribution_figure(attribution(odd[odd.seed == 0])).layout.title.text
