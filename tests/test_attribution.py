"Attribution: against all orders of the factors, against planted truth, and where it must refuse."
from itertools import permutations

import numpy as np, pandas as pd, pytest
from scipy import stats as theirs

from privkd_nb.analysis.attribution import attribution, attribution_coverage, attribution_words, share_interval, shapley_index
from privkd_nb.analysis.factors import FACTORS, Planted, find_cubes, planted_scores, planted_tables
from privkd_nb.core import InputError

SCORES = planted_scores(Planted(fractions=(.01, .1, 1.)), seed=1)


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
    two = pd.concat([SCORES.assign(arm=SCORES.arm+' · depth=first'), SCORES.assign(arm=SCORES.arm+' · depth=last', value=SCORES.value*2)])
    df = attribution(two)
    g = df[(df.term == 'start') & (df.group == 'all')].set_index(['settings', 'data']).point
    assert g['depth=last', '0.1'] == pytest.approx(2*g['depth=first', '0.1'])
    assert len(attribution_words(df)) == 6 and 'depth=last' in ' '.join(attribution_words(df))


def test_three_sets_of_losses_are_three_splits():
    paper = SCORES[SCORES.losses != 'ce'].assign(losses='paper', arm=lambda d: d.arm.str.replace('ce+logits', 'paper'))
    df = attribution(pd.concat([SCORES, paper]))
    assert set(df.distillation) == {'ce → ce+logits', 'ce → paper'}
    assert set(attribution(pd.concat([SCORES, paper]), distillation=('ce', 'logits,ce')).distillation) == {'ce → ce+logits'}
