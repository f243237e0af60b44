"The explorer without a mouse: what its controls offer and refuse, what its views say, and how long it takes."
import re, time
from dataclasses import replace

import numpy as np
import pytest

from many_runs import make_runs, many_scores
from privkd_nb.analysis.load import Study
from privkd_nb.analysis.pairs import chance_words, difference_words, language_differences
from privkd_nb.apps.explorer import Explorer
from privkd_nb.apps.explorer_views import VIEWS
from privkd_nb.core import InputError
from privkd_nb.data.catalog import MASSIVE_LANGUAGES
from privkd_nb.figures.difference import difference_figure

FT, BASE = 'copy_ft · ce', 'copy_base · ce'


@pytest.fixture
def ex(): return Explorer(study(), 'difference', a='copy_ft/ce', b='copy_base/ce', scenario='cl')


def study(made=[]):
    if not made: made.append(Study.open('sample'))
    return made[0]


def each(frame): return frame[frame.group == 'language']


def test_differences_are_what_the_scores_say(ex):
    s = study().scores
    s = s[(s.scenario == 'cl') & (s.fraction == .1) & (s.model == 'student') & (s.split == 'test') & (s.metric == 'accuracy') & (s.group == 'language')]
    w = s.pivot_table(index=['language', 'seed'], columns='arm', values='value', observed=True)
    d = (w[FT]-w[BASE]).unstack('seed')
    from scipy.stats import t, ttest_1samp
    f = each(ex.frame).set_index('language')
    assert set(f.index) == set(d.index)
    half = t.ppf(.975, d.shape[1]-1)*d.std(axis=1, ddof=1)/d.shape[1]**.5
    for l in d.index:
        assert np.allclose([f.score[l], f.low[l], f.high[l]], [d.loc[l].mean(), d.loc[l].mean()-half[l], d.loc[l].mean()+half[l]])
        assert np.isclose(f.p[l], ttest_1samp(d.loc[l], 0).pvalue)
    drawn = {(t.name, l) for t in ex.figure.data for l, *_ in t.customdata}
    assert {l for name, l in drawn if name.startswith('A is ahead')} == set(f.index[f.low > 0])
    assert {l for name, l in drawn if name.startswith('B is ahead')} == set(f.index[f.high < 0])
    assert {l for name, l in drawn if name.endswith('after Holm')} == set(f.index[f.p_holm < .05])


def test_verdicts_differ_in_colour_and_symbol(ex):
    b = language_differences(study(), BASE, FT, scenario='cl', fraction=.1)
    looks = {t.name: (t.marker.color, t.marker.symbol) for t in (*ex.figure.data, *difference_figure(b).data)}
    assert len(looks) >= 4 and len(set(looks.values())) == len(looks)
    side = {n[0]: (c, s.split('-')[1]) for n, (c, s) in looks.items() if n[0] in 'AB'}
    assert side['A'][0] != side['B'][0] and side['A'][1] == 'right' and side['B'][1] == 'left'


def test_sentences_count_the_frame(ex):
    f, words = each(ex.frame), ex.text.value
    assert f"A is ahead in {(f.low > 0).sum()} " in words and f"B in {(f.high < 0).sum()} of {len(f)}" in words
    assert f"about {len(f)*.05:.2f} of {len(f)} would be clear of zero by chance" in words
    assert f"{len(f)} languages, {(f.p_holm < .05).sum()} is still clear (1 for A, 0 for B)" in words and '3 seeds (0, 1, 2)' in words
    ex.over.value = 'texts'
    assert 'for these very runs' in ex.text.value and 'no p-value to correct' in ex.text.value
    assert (each(ex.frame).score-f.score).abs().max() < 1e-6 and not np.allclose(each(ex.frame).low, f.low)
    one = language_differences(study(), FT, BASE, scenario='cl', fraction=.1, seed=1)
    assert each(one).low.isna().all() and (one.clear == '').all()
    assert difference_words(one)[-1] == 'No language has an interval, because there is one seed of both.' and len(difference_words(one)) == 2
    assert chance_words(f.assign(p=np.nan)).endswith('there is no p-value to correct.')


def test_ticking_the_good_looking_languages_does_not_help(ex):
    "Holm's correction counts what was looked at, not what is shown"
    whole, where = each(ex.frame).set_index('language'), dict(scenario='cl', fraction=.1)
    for langs in (['el', 'sw', 'de', 'hi'], ['sw']):
        some = language_differences(study(), FT, BASE, languages=langs, **where)
        assert np.allclose(each(some).p_holm, whole.p_holm[each(some).language]) and set(each(some).language) == set(langs)
        words = ' '.join(difference_words(some))
        n = int((each(some).p_holm < .05).sum())
        assert f"all 12 languages that both have, shown or not, {n or 'none'} {'is' if n < 2 else 'are'} still clear" in words and ' 1 languages' not in words
    assert 'this language would be clear of zero by chance 5 times in 100' in words
    shown = [4, 8, 30]
    assert [re.search(r'about (\S+) of', chance_words(whole.iloc[[0]*n], .95))[1] for n in shown] == ['0.20', '0.40', '1.5']
    ex.over.value = 'texts'
    bars = each(ex.frame).set_index('language')
    ex.languages.value = ('sw',)
    assert ex.frame.low[:2].nunique() == 1 and ex.frame.low[0] == bars.low['sw'] and 'no interval' not in ex.text.value
    ex.languages.value = ('sw', 'de')
    mean = ex.frame[ex.frame.group == 'all'].iloc[0]
    assert mean.low < mean.score < mean.high and f'[{mean.low:+.3f}, {mean.high:+.3f}]' in ex.text.value
    gone = ex.frame.assign(low=ex.frame.low.where(ex.frame.group == 'language'))
    assert difference_words(gone)[-1].startswith('The mean has no interval, because ')


def test_examples_are_counted_and_compared_in_the_same_languages(ex):
    ex.view.value = 'examples'
    for langs in (('sw',), ('sw', 'de'), ex.languages.members()):
        ex.languages.value = langs
        runs = [ex.views.run(ex.choice, a) for a in (FT, BASE)]
        p = [study().predictions(r).query("model == 'student'") for r in runs]
        p = [x[x.language.isin(langs)] for x in p]
        by = [(x.gold == x.predicted).groupby(x.language).mean() for x in p]
        found = re.search(r'A minus B on (.*?): (\S+), .* over ([\d,]+) texts', ex.text.value)
        assert found[2] == f'{(by[0]-by[1]).mean():+.3f}' and int(found[3].replace(',', '')) == len(p[0]) and set(ex.frame.language) == set(langs)
        assert found[1] == {1: 'sw', 2: 'these 2 languages (de, sw)'}.get(len(langs), 'all languages')


def test_the_teacher_stays_b_from_view_to_view(ex):
    ex.b.value = 'teacher'
    ex.view.value = 'examples'
    assert ex.b.value == 'teacher' and ex.text.value.count('<th>') == 5 and (ex.frame.b == ex.frame.teacher).all() and (ex.frame.a != ex.frame.b).all()


def test_the_first_b_differs_from_a_in_one_respect():
    assert (Explorer(study()).a.value, Explorer(study()).b.value) == ('copy_ft · paper', 'scratch · paper')


def test_losses_of_different_terms_are_told_apart():
    ex = Explorer(study(), 'training')
    remark = 'do not compare lines of ce and paper, which are sums of different terms'
    assert remark in ex.figure.layout.title.text
    ex.losses.value = 'paper'
    assert 'compare' not in ex.figure.layout.title.text
    ex.losses.value = ('ce', 'paper')
    ex.curve.value = 'ce'
    assert 'compare' not in ex.figure.layout.title.text


def test_numbers_are_legible_on_every_colour_of_the_gap():
    cells = Explorer(study(), 'gap').figure.data[0]
    def light(c): return sum(k*(v/12.92 if v <= .03928 else ((v+.055)/1.055)**2.4) for k, v in zip((.2126, .7152, .0722), c))
    def rgb(c): return [int(c[i:i+2], 16)/255 for i in (1, 3, 5)] if c[0] == '#' else [int(v)/255 for v in re.findall(r'\d+', c)]
    for _, c in cells.colorscale: assert (light(rgb(c))+.05)/(light(rgb(cells.textfont.color))+.05) > 4.5, c


def test_an_arm_is_not_compared_with_itself(ex):
    assert FT not in [v for _, v in ex.b.options]
    with pytest.raises(InputError, match='it is A, and an arm minus itself is zero'): ex.b.value = FT
    for view in ('difference', 'examples'):
        with pytest.raises(InputError, match='A and B are both'): ex.views.answer(view, replace(ex.choice, b=FT))
    with pytest.raises(InputError, match='A and B are both'): language_differences(study(), 'copy_ft/ce', 'copy_ft/ce', scenario='cl', fraction=.1)
    ex.a.value = BASE                                        # they change places
    assert (ex.a.value, ex.b.value) == (BASE, FT)
    before = each(ex.frame)
    ex.b.value = 'teacher'
    assert (each(ex.frame).score-(before.a-each(ex.frame).b)).abs().max() < 1e-9


@pytest.mark.parametrize('change, says', [
    (dict(languages=()), 'No language is ticked'), (dict(arms=()), 'None of the arms that are switched on'), (dict(losses=()), 'No set of losses is switched on'),
    (dict(inits=()), 'No initialization is switched on')])
def test_nothing_chosen_is_a_sentence_and_no_old_figure(ex, change, says):
    ex.view.value = 'scores'
    assert ex.figure is not None and ex.plot.layout.display is None
    ex.controls.put(**change)
    assert ex.figure is None and not len(ex.frame) and not ex.plot.figure.data and ex.plot.layout.display == 'none'
    assert says in ex.text.value and 'there is nothing to save' == ex.files.why
    ex.controls.put(**{k: getattr(ex, k).members() for k in change})
    assert ex.figure is not None and says not in ex.text.value


def test_what_does_not_apply_says_why(tmp_path):
    make_runs(tmp_path, 12)                                  # a corner of the grid: not every arm with every share
    small = Explorer(tmp_path)
    there = small.views.cells(**small.controls.task).arm
    why = {i['value']: i['why'] for i in small.arms.items}
    assert {a for a, w in why.items() if not w} == set(there) and all('no run on playground' in why[a] for a in set(why)-set(there))
    gone = [i for i in (*small.fraction.items, *small.scenario.items) if i['why']]
    for i in gone: assert i['why'].startswith('no run on playground')
    full = Explorer(study())
    full.losses.value = 'ce'
    assert {i['why'] for i in full.arms.items if i['value'].endswith('paper')} == {'its losses are off'}
    assert {a.split(' · ')[1] for a in full.frame.arm} == {'ce'}
    full.view.value = 'training'
    assert full.fraction.why == 'this view shows every share' and full.fraction.options == []
    full.curve.value = 'score'
    assert full.metric.why == '' and full.language.why == ''


def test_languages_by_group_and_every_order(ex):
    ex.view.value = 'scores'
    ex.languages.value = ex.languages.members(family=['Germanic', 'Romance'])
    assert set(ex.frame.language) == {'de', 'en', 'es', 'fr'}
    ex.languages.value = ex.languages.members(seen='trained on')
    assert ex.frame.seen.astype(bool).all() and len(ex.frame)
    ex.languages.value = ex.languages.members()
    for by in [v for _, v in ex.sort_by.options]:
        ex.sort_by.value = by
        ticks = [t.split(': ')[-1] for t in ex.figure.layout.yaxis.ticktext]
        assert sorted(ticks) == sorted(set(ex.frame.language)), by
    ex.sort_by.value = 'difference'
    assert ex.a.layout.display is None and ex.b.layout.display is None
    w = ex.frame[ex.frame.seen.astype(bool)].pivot_table(index='language', columns='arm', values='score', observed=True)
    top = [l for l in ex.figure.layout.yaxis.ticktext if l in w.index][::-1]
    assert top == (w[ex.a.value]-w[ex.b.value]).sort_values(ascending=False).index.tolist()
    ex.view.value = 'difference'
    for by in [v for _, v in ex.sort_pairs.options]:
        ex.sort_pairs.value = by
        assert len(ex.figure.layout.yaxis.ticktext) == len(each(ex.frame))


def test_a_change_touches_what_changed(ex):
    ex.view.value = 'scores'
    time.sleep(.1)                                           # its figure is sent
    changed = []
    for k in (*ex.controls.named, 'files', 'plot', 'text'): getattr(ex, k).observe(lambda c, k=k: changed.append((k, c['name'])))
    drawn, show = [], ex.plot.send_state
    ex.plot.send_state = lambda *names: drawn.append(names)
    try:
        ex.sort_by.value = 'name'
        time.sleep(.1)
        assert {k for k, _ in changed} == {'sort_by'} and len(drawn) == 1
        ex.controls.refresh()
        time.sleep(.1)
        assert len(drawn) == 1
    finally: ex.plot.send_state = show


def test_files_are_named_after_what_they_show(ex, tmp_path):
    assert ex.file('csv')[0] == 'privkd_difference_copy_ft-ce_vs_copy_base-ce_accuracy_playground_cl_0.1.csv'
    names = set()
    for view in VIEWS:
        ex.view.value = view
        name, mime, content = ex.file('html' if ex.figure is None else 'csv')
        assert re.fullmatch(r'privkd_\w+[\w.+=-]*\.(csv|html)', name) and content
        names.add(name)
    assert len(names) == len(VIEWS)
    ex.view.value = 'scores'
    page = ex.save(tmp_path/'scores.html').read_text()
    assert '"showSendToCloud": false' in page.replace('"showSendToCloud":false', '"showSendToCloud": false')
    assert 'showSendToCloud: false' in ex.plot._esm


def test_typed_names_and_wrong_ones():
    with pytest.raises(InputError, match='fits several arms'): Explorer(study(), a='copy_ft')
    with pytest.raises(InputError, match="control='colour'"): Explorer(study(), colour='red')
    with pytest.raises(InputError, match='view='): Explorer(study(), 'nothing')
    assert Explorer(study(), arms=['scratch/ce', 'copy_ft']).choice.arms == ('scratch · ce', 'copy_ft · ce', 'copy_ft · paper')


def test_two_hundred_runs_in_fifty_two_languages_stay_quick():
    "Processor time, since others use the machine too; the limits are those of a whole page, of which Python is a part"
    study = many_scores(200, MASSIVE_LANGUAGES)
    assert len(study) == 200 and study.scores.language.nunique() == 53
    start = time.process_time()
    ex = Explorer(study)
    opened = time.process_time()-start
    assert len(ex.frame) == 52*6
    changes = [('metric', 'macro_f1'), ('fraction', .3), ('scenario', 'cl'), ('sort_by', 'family'), ('losses', ('ce',)), ('languages', ex.languages.members(script='Latin')),
               ('view', 'difference'), ('a', 'copy_base · ce'), ('b', 'teacher'), ('sort_pairs', 'script'), ('view', 'gap'), ('metric', 'accuracy')]
    took = []
    for k, v in changes:
        start = time.process_time()
        getattr(ex, k).value = v
        took.append(time.process_time()-start)
        assert ex.figure is not None, (k, v, ex.text.value)
    print(f'\n200 runs x 52 languages: opened in {opened:.2f} s; a change took {1000*np.median(took):.0f} ms in the median, {1000*max(took):.0f} ms at most')
    assert opened < 3 and np.median(took) < .3 and max(took) < .9


def test_saved_pages_break_their_titles_on_a_narrow_screen(tmp_path):
    from browser import chromium
    path = Explorer(study(), 'difference').save(tmp_path/'difference.html')
    with chromium(400) as page:
        page.goto(path.as_uri())
        page.wait_for_function("document.querySelector('.gtitle')")
        page.wait_for_function("document.querySelector('.gtitle').getBoundingClientRect().right <= 400", timeout=10000)
        assert page.errors == []
