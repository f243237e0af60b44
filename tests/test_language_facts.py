"Facts of languages, and what is set against them: forgetting and transfer."
import unicodedata
from collections import Counter

import numpy as np, pandas as pd, pytest
from conftest import load_tool
from scipy import stats as theirs

from privkd_nb.analysis.factors import Planted, planted_scores
from privkd_nb.analysis.facts import CC100, LEXICAL, SOURCES, language_facts
from privkd_nb.analysis.transfer import (correlation_coverage, fact_correlations, false_alarms, forgetting, group_share,
                                         rank_correlation, transfer)
from privkd_nb.core import InputError
from privkd_nb.data.catalog import MASSIVE_LANGUAGES, TSM_LANGUAGES, UNER_LANGUAGES
from privkd_nb.data.playground import PLAYGROUND_LANGUAGES

SCORES = planted_scores(Planted(languages=20, seeds=4), seed=2)
BOTH = pd.concat([SCORES, SCORES.assign(model='teacher', value=lambda d: .9-.001*d.seed)])


def test_every_known_language_has_its_facts_and_every_column_its_source():
    codes = [*MASSIVE_LANGUAGES, *TSM_LANGUAGES, *UNER_LANGUAGES, *PLAYGROUND_LANGUAGES]
    facts = language_facts(codes)
    assert facts.code.tolist() == list(dict.fromkeys(codes)) and facts.notna().all().all() and 'other' not in set(facts.family) | set(facts.script)
    assert set(facts)-{'code', 'name'} == set(SOURCES) and facts.attrs['sources'] == SOURCES
    assert facts.pretraining_share.between(0, .13).all() and facts.lexical.between(0, 1).all() and set(facts.tree) == {0, 1, 2, 3, 4}
    same = language_facts(['de-DE', 'deu_Latn', 'de', 'german'])
    assert (same[['family', 'tree', 'lexical', 'pretraining_gib']].nunique() == 1).all()
    assert len(language_facts([])) == 0


def test_what_is_not_known_is_not_made_up():
    f = language_facts(['klingon', 'yo', 'hi-Latn']).set_index('code')
    assert f.loc['klingon', ['tree', 'lexical', 'pretraining_gib', 'pretraining_share']].isna().all() and f.family['klingon'] == 'other'
    assert np.isnan(f.lexical['yo']) and f.tree['yo'] == 4 and f.script['hi-Latn'] == 'Latin'


LETTERS = dict(MYANMAR='Burmese', CJK='Han', HIRAGANA='Japanese') # What Unicode calls otherwise


@pytest.mark.parametrize('dataset', ['massive', 'tsm', 'uner'])
def test_a_script_is_that_of_the_texts(dataset, shared_data):
    column = 'tokens' if dataset == 'uner' else 'text'
    for l, g in pd.read_parquet(shared_data/dataset/'test.parquet', columns=[column, 'language']).groupby('language'):
        text = ''.join(''.join(t) for t in g[column].head(20))
        letters = Counter(unicodedata.name(c).split()[0] for c in text if c.isalpha())
        most = max(letters, key=letters.get)
        assert language_facts([l], dataset).script[0] == LETTERS.get(most, most.title()), (l, letters)


def test_the_lexical_distances_come_from_the_translations(shared_data):
    pytest.importorskip('anyascii', reason='skipped: anyascii is not installed')
    tool = load_tool('language_facts')
    found = tool.massive_distances(shared_data, every=12, languages=['nl-NL', 'sw-KE', 'ru-RU', 'zh-CN'])
    for l, v in found.items(): assert v == pytest.approx(LEXICAL[l], abs=.012), l


def test_the_distance_is_zero_for_itself_and_one_by_chance():
    tool = load_tool('language_facts')
    words = [frozenset(s[i:i+3] for i in range(len(s)-2)) for s in np.random.default_rng(0).choice(list('abcde '), (300, 20)).view('<U20').ravel()]
    assert tool.distance(words, words, np.random.default_rng(0)) == 0
    assert tool.distance(words, words[::-1], np.random.default_rng(0)) == pytest.approx(1, abs=.02)
    assert tool.as_table({'de': .8421, 'en': 0}) == 'de .842, en .000'


def test_forgetting_is_teacher_minus_student():
    df, x = forgetting(BOTH), SCORES[(SCORES.arm == 'copy_ft · ce') & (SCORES.language == 'de-DE')].sort_values('seed').value.values
    row = df[(df.arm == 'copy_ft · ce') & (df.language == 'de-DE')].iloc[0]
    test = theirs.ttest_1samp(.9-.001*np.arange(4)-x, 0)
    assert (row.point, row.p) == (pytest.approx(np.mean(.9-.001*np.arange(4)-x)), pytest.approx(test.pvalue))
    assert (row.low, row.high) == pytest.approx(tuple(test.confidence_interval())) and (row.n, row.family, row.when) == (4, 'Germanic', 'trained')
    with pytest.raises(InputError, match='teacher beside its own'): forgetting(SCORES)


def test_the_copied_student_is_the_one_at_step_zero():
    h = BOTH.drop(columns=['seen', 'texts', 'model'])
    history = pd.concat([h.assign(step=s, split='validation', value=v) for s, v in ((0, .2), (50, .5))]+[h.assign(step=0, split='teacher', value=.8)])
    df = forgetting(BOTH, history.drop_duplicates(['run', 'step', 'split', 'language']))
    copied = df[df.when == 'copied']
    assert len(copied) == len(df)/2 and copied.point.to_numpy() == pytest.approx(.6) and copied.low.isna().all()     # all seeds alike: no interval


def test_a_gap_is_taken_within_each_run():
    df = transfer(BOTH)
    d = SCORES[SCORES.arm == 'scratch · ce'].pivot(index='seed', columns='language', values='value')
    seen = [l for i, l in enumerate(MASSIVE_LANGUAGES[:20]) if i % 2 == 0]
    mine = df[df.arm == 'scratch · ce'].set_index('language')
    gap = d[seen].mean(axis=1)-d['am-ET']
    assert (mine.point['am-ET'], mine.p['am-ET']) == (pytest.approx(gap.mean()), pytest.approx(theirs.ttest_1samp(gap, 0).pvalue))
    assert mine.point[''] == pytest.approx((d[seen].mean(axis=1)-d.drop(columns=seen).mean(axis=1)).mean()) and mine.group[''] == 'unseen'
    assert mine.p_holm[seen].isna().all() and mine.teacher.to_numpy() == pytest.approx(0)
    assert set(df.test) == {'t over paired seeds'} and (df.n == 4).all()
    assert transfer(SCORES).teacher.isna().all()
    with pytest.raises(InputError, match="scenario='cl' or 'en'"): transfer(SCORES.assign(seen=True))


def test_a_missing_score_costs_its_own_language_a_seed():
    one = BOTH[BOTH.arm == 'scratch · ce']
    def without(*lost): return one[~pd.MultiIndex.from_frame(one[['language', 'seed']]).isin(lost)]
    lost = forgetting(without(('am-ET', 0), ('de-DE', 1), ('ar-SA', 2), ('hi-IN', 3))).set_index('language')
    assert lost.n.value_counts().to_dict() == {4: 16, 3: 4} and lost.n['am-ET'] == 3
    assert len(forgetting(without(*(('am-ET', s) for s in range(4))))) == 19
    with pytest.warns(UserWarning, match='share no seed'), pytest.raises(InputError):
        forgetting(one.assign(seed=lambda d: d.seed+9*(d.model == 'teacher')))
    with pytest.warns(UserWarning, match='am-ET left out of the means'): gaps = transfer(without(('am-ET', 0)))
    assert gaps.set_index('language').n.value_counts().to_dict() == {4: 20, 3: 1} and gaps[gaps.group == 'unseen'].n.item() == 4
    with pytest.warns(UserWarning, match='scratch · ce on massive: left out, no language with labels'), pytest.raises(InputError):
        transfer(without(*((l, s) for l in one[one.seen].language.unique() for s in [1])))


def test_languages_with_unlabelled_text_are_a_group_of_their_own():
    there = ['am-ET', 'az-AZ', 'cy-GB', 'de-DE', 'en-US']
    df = transfer(BOTH.assign(texts=BOTH.language.isin(there)))
    df = df[df.arm == 'scratch · ce']
    means = df[df.group != 'language'].set_index('group').point
    own = df[df.group == 'language'].groupby('trained').point.mean()
    assert means.to_dict() == pytest.approx(own[['unseen', 'texts']].to_dict())
    assert fact_correlations(df, ['lexical']).n.item() == 5 and fact_correlations(df, ['lexical'], trained='texts').n.item() == 5
    for d, why in ((df[df.trained == 'seen'], "no language of the frame is 'unseen'; it has 'seen'"), (df.head(0), 'choose other rows')):
        with pytest.raises(InputError, match=why): fact_correlations(d)
    with pytest.raises(InputError, match='level=95'): fact_correlations(df, level=95)


@pytest.mark.parametrize('fact', ['lexical', 'tree', 'pretraining_gib', 'script'])
def test_relatives_do_not_make_a_finding(fact):
    p, interval = false_alarms(language_facts(MASSIVE_LANGUAGES), fact)
    assert .02 < p < .075 and interval < .075
    if fact != 'pretraining_gib': assert min(false_alarms(language_facts(MASSIVE_LANGUAGES), fact, by_family=False)) > .15


def test_a_family_counts_once():
    d = transfer(SCORES).query("group == 'language' and trained == 'unseen' and arm == 'scratch · ce'")
    twice = pd.concat([d, d.assign(language=d.language+'-x')])
    a, b = (fact_correlations(x).set_index('fact') for x in (d, twice))
    same = [x.loc[['lexical', 'tree', 'script'], ['point', 'low', 'high', 'p', 'families']].to_numpy() for x in (a, b)]
    assert same[0] == pytest.approx(same[1]) and (b.n == 2*a.n).all()
    assert set(b.test[:4]) == {'permutation over families'} and b.method.lexical == "Spearman's rho over families"
    few = fact_correlations(d.assign(family=['Romance']*5+['Slavic']*5), ['lexical']).iloc[0]
    assert np.isnan(few.p) and few.why == 'the languages are of 2 families, and four are needed'


def test_correlations_agree_with_scipy():
    rng = np.random.default_rng(3)
    x, y, g = rng.integers(0, 4, 30), rng.standard_normal(30), rng.integers(0, 5, 30)
    r, p = theirs.spearmanr(x, y)
    ours = rank_correlation(x, y)
    assert (ours.point, ours.p) == (pytest.approx(r), pytest.approx(p, abs=.015))
    k = theirs.kruskal(*[y[g == i] for i in range(5)])
    assert (group_share(g, y).point, group_share(g, y).p) == (pytest.approx(k.statistic/29), pytest.approx(k.pvalue, abs=.03))
    assert np.isnan(rank_correlation([1, 1, 1, 1, 1], y[:5]).p) and np.isnan(rank_correlation(x[:3], y[:3]).p)


def test_correlations_are_over_languages_and_name_what_they_lack(gaps):
    one = fact_correlations(gaps[gaps.arm == 'scratch · ce']).set_index('fact')
    assert (one.n == 9).all() and (one.missing == 'klingon').all()
    assert one.method.script.startswith('point-biserial') and one.method.lexical == "Spearman's rho over families"
    assert ((one.why != '') == one.point.isna()).all()
    few = gaps[(gaps.arm == 'scratch · ce') & (gaps.trained == 'unseen')]
    def why(d, fact): return fact_correlations(d, [fact]).why.iloc[0]
    assert why(few[few.language != 'klingon'].head(3), 'lexical') == 'the fact is known of 3 languages, and four are needed'
    assert why(few.assign(script='Latin'), 'script') == 'it is the same in all languages' and why(few.assign(point=0.), 'lexical') == 'the scores do not differ'
    assert why(few.assign(family=few.language), 'family') == 'each language has a value of its own'
    df = transfer(BOTH)
    d = df[(df.arm == 'scratch · ce') & (df.trained == 'unseen') & (df.group == 'language')]
    ours = fact_correlations(d.assign(family='other'), ['lexical']).iloc[0]                # of no known family: each counts for itself
    assert ours.n == ours.families == 10 and ours.test == 'permutation over languages'
    assert ours.point == pytest.approx(theirs.spearmanr(d.lexical, d.point)[0])
    with pytest.raises(InputError, match="facts='age'"): fact_correlations(d, facts=['age'])


@pytest.mark.parametrize('languages', [12, 52])
def test_the_interval_of_a_correlation_holds(languages):
    held = {r: correlation_coverage(languages, r) for r in (0, .4, .8)}
    print(languages, held)
    assert all(.93 < v < .985 for v in held.values())


def test_pretraining_sizes_are_those_of_the_paper():
    assert (CC100['en'], CC100['sw'], CC100['zh-TW'], len(CC100)) == (300.8, 1.6, 16.6, 94) and 2400 < sum(CC100.values()) < 2500
    assert language_facts(['eo']).pretraining_share[0] == pytest.approx(.9/2467.2)


@pytest.fixture(scope='module')
def gaps(): return transfer(BOTH.replace({'language': {'am-ET': 'klingon'}}))


@pytest.mark.parametrize('fact,over', [('lexical', '7 families'), ('family', '9 languages')])
def test_a_figure_has_every_language_and_its_correlation(fact, over, gaps):
    from privkd_nb.figures.transfer import spaced_labels, transfer_figure
    frame = gaps[gaps.arm.isin(['scratch · ce', 'copy_ft · ce'])]
    fig = transfer_figure(frame, fact)
    found = fact_correlations(frame, [fact]).query("arm == 'copy_ft · ce'").iloc[0]
    assert [t.name.split(':')[0] for t in fig.data] == ['scratch · ce', 'copy_ft · ce'] and f'p = {found.p:.2g}, {over}' in fig.data[1].name
    d = frame[(frame.arm == 'copy_ft · ce') & (frame.group == 'language') & (frame.trained == 'unseen')]
    d = d[d.language != 'klingon'] if fact not in ('script', 'family') else d
    assert sorted(fig.data[1].y) == pytest.approx(sorted(d.point.round(5)))
    labels = spaced_labels(pd.DataFrame(dict(language=['de-DE', 'nl-NL', 'zh-CN'], x=[1., 1., 2.], score=[.5, .5, .1])))
    assert labels == ['de', '', 'zh-CN']


def test_a_figure_of_nothing_known_says_so():
    from privkd_nb.figures.transfer import transfer_figure
    lost = forgetting(BOTH[BOTH.arm == 'scratch · ce'].assign(language=lambda d: 'x'+d.language.str.replace('-', '')))
    assert transfer_figure(lost, 'lexical').layout.annotations[0].text == 'lexical distance to English: not known for any of these languages'
    with pytest.raises(InputError, match='a figure shows one'): transfer_figure(pd.concat([lost, lost.assign(fraction=1.)]))
