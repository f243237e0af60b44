"The explorer as one file, in a real browser: what it shows is what the explorer shows, and it asks nobody for anything."
import json, math, os, re, time

import pytest

from browser import chromium
from hostile import PAYLOADS, make_hostile_study
from privkd_nb.apps.choice import VIEWS
from privkd_nb.apps.controls import Controls
from privkd_nb.apps.explorer_data import keys_of, language_table
from privkd_nb.apps.explorer_file import save_explorer
from privkd_nb.apps.explorer_views import Views
from privkd_nb.apps.plot_view import decoded

DRAWN = '.privkd-drawn'


@pytest.fixture(scope='module')
def sample(tmp_path_factory):
    "The sample study: its views, and the path of its file"
    return Views('sample'), save_explorer('sample', tmp_path_factory.mktemp('file')/'explorer.html')


@pytest.fixture(scope='module')
def browser():
    with chromium() as page: yield page


@pytest.fixture
def opened(sample, browser):
    "The page of the sample study, anew; it has no error and no request"
    open_page(browser, sample[1])
    yield browser
    assert browser.errors == [] and browser.asked == [sample[1].as_uri()]


def open_page(page, path):
    page.goto('about:blank')
    page.errors.clear()
    page.asked = []
    page.goto(path.as_uri())
    page.wait_for_selector(DRAWN)


def wait(page, js, timeout=60):
    "Until a script says so; the page's policy forbids the browser's own way of waiting"
    until = time.time()+timeout
    while not page.evaluate(js):
        assert time.time() < until, js
        page.wait_for_timeout(30)


CHOICES = [
    ('scores', dict(languages=['tr'], sort_by='name')), ('scores', dict(scenario='cl', metric='macro_f1', sort_by='family')), ('scores', dict(fraction=.03, arms=['copy_ft/ce', 'scratch/paper'], sort_by='scratch · paper')),
    ('scores', dict(scenario='cl', languages=['de', 'sw', 'zh'], inits=['copy_ft', 'copy_base'], losses=['ce'])), ('scores', dict(a='copy_ft/ce', b='scratch/ce', sort_by='difference')), 
    ('gap', dict(scenario='all', fraction=.3)), ('gap', dict(metric='macro_f1', sort_by='script', languages=['ru', 'en', 'hi', 'ar'])),
    ('difference', dict(a='copy_ft/ce', b='copy_base/ce')), ('difference', dict(a='copy_ft/paper', b='teacher', scenario='cl', sort_pairs='seen')), ('difference', dict(a='scratch/paper', b='scratch/ce', metric='macro_f1', fraction=.3, sort_pairs='family', languages=['de', 'el', 'id'])),
    ('difference', dict(a='scratch/ce', b='copy_ft/ce', languages=['sw'], sort_pairs='b')),
    ('training', {}), ('training', dict(curve='ce', scenario='cl', arms=['copy_ft/ce', 'copy_ft/paper'])), ('training', dict(curve='score', metric='macro_f1', language='sw')), ('training', dict(curve='hidden')),
    ('data', {}), ('data', dict(scenario='cl', statistic='iqm', metric='macro_f1')), ('data', dict(languages=['de', 'en', 'sw', 'tr', 'zh'], statistic='iqm')),
    ('layers', dict(a='copy_ft/ce', seed=1)), ('waterfall', dict(a='scratch/ce')), ('layers', dict(a='scratch/paper', scenario='cl', seed=2)),
    ('examples', dict(a='copy_ft/ce', b='scratch/ce', seed=1)), ('examples', dict(a='copy_base/paper', b='teacher', language='sw', scenario='cl'))]

PUT = '''first => { privkdExplorer.put(first); const {figure, frame, words, message} = privkdExplorer.shown;
  return JSON.parse(JSON.stringify({data: figure?.data, layout: figure?.layout, frame: frame?.length, rows: frame?.slice(0, 400), words, message})); }'''


def first_values(controls, key):
    "What a reader has chosen, as the page is told"
    d = {k: getattr(controls, k) for k in controls.named}
    d = {k: list(c.value) if c.several else c.value for k, c in d.items()}
    return d | dict(languages=[key[l] for l in d['languages']], language=key.get(d['language'], ''))


def clean(o, name=''):
    "A figure as plain JSON: no absent values, no template, numbers to four digits"
    if isinstance(o, dict): return {k: clean(v, k) for k, v in o.items() if v is not None and v != {} and v != [] and k not in ('template', 'uid', 'automargin')}
    if isinstance(o, list): return [clean(v) for v in o]
    return None if isinstance(o, float) and math.isnan(o) else o


def alike(a, b, at=''):
    "Whether two structures differ in nothing but rounding"
    if isinstance(a, bool) or isinstance(b, bool) or not (isinstance(a, (int, float)) and isinstance(b, (int, float))):
        if isinstance(a, dict) and isinstance(b, dict):
            assert set(a) == set(b), (at, set(a) ^ set(b))
            for k in a: alike(a[k], b[k], f'{at}.{k}')
        elif isinstance(a, list) and isinstance(b, list):
            assert len(a) == len(b), (at, len(a), len(b), a[:20], b[:20])
            for i, (x, y) in enumerate(zip(a, b)): alike(x, y, f'{at}[{i}]')
        else: assert a == b, (at, a, b)
    else: assert abs(a-b) <= 1.1e-4*max(1, abs(a)), (at, a, b)


def test_every_view_shows_what_the_explorer_shows(sample, opened):
    views, _ = sample
    key = keys_of(language_table(set(views.study.scores.language)-{''}))
    for view, values in CHOICES:
        controls = Controls(views, view, **values)
        shown = opened.evaluate(PUT, first_values(controls, key))
        answer = views.answer(view, controls.choice)
        assert shown.get('message') == (re.sub('<[^>]*>', '', answer.html) if view == 'waterfall' else None), (view, values, shown.get('message'))
        assert shown['frame'] == len(answer.frame), (view, values)
        if answer.figure is not None:
            fig = json.loads(json.dumps(decoded(json.loads(answer.figure.to_json())), default=list))
            alike(clean(fig['data']), clean(shown['data']), f'{view} {values} data')
            alike(clean(fig['layout']), clean(shown['layout']), f'{view} {values} layout')
        numbers = [k for k in ('score', 'low', 'high', 'a', 'b', 'p', 'p_holm', 'teacher', 'step') if k in answer.frame and answer.frame[k].dtype.kind == 'f']
        rows = answer.frame[:400].to_dict('list')
        for k in numbers: alike(clean(rows[k]), clean([r.get(k) for r in shown['rows']]), f'{view} {values} frame {k}')
        if view == 'difference': assert shown['words'] == [re.sub('<[^>]*>', '', p).replace('&#x27;', "'") for p in re.findall('<p>(.*?)</p>', answer.html)]
        if view == 'examples': assert re.sub('<[^>]*>', '', answer.html).startswith(re.match(r'.*?alone in [\d,]+\.', shown['words'][0])[0])


def test_it_is_small_and_opens_quickly(sample, opened):
    assert sample[1].stat().st_size < 8e6
    took = []
    while not took or min(took) > 2000*SLACK and len(took) < 3:             # on a busy machine again
        open_page(opened, sample[1])
        took.append(opened.evaluate('performance.now()'))
    assert min(took) < 2000*SLACK, took


def test_by_keyboard_and_what_a_file_cannot_do(sample, opened):
    page = opened
    page.keyboard.press('Tab')                                             # the data set, then what it was trained on
    page.keyboard.press('Tab')
    page.keyboard.press('ArrowRight')
    wait(page, "document.querySelector('.js-plotly-plot').layout.title.text.includes('below the dashed line')")
    page.get_by_label('By language', exact=True).focus()
    page.keyboard.press('ArrowRight')
    page.wait_for_selector('text=/A is ahead in/')
    over = page.get_by_label('Intervals for new').locator('option')
    assert over.nth(1).is_disabled() and 'a file cannot draw the texts again' in over.nth(1).text_content()
    assert page.get_by_label('B, the baseline').locator('option', has_text='copy_ft · paper').is_disabled()      # it is A
    assert page.locator('.pkc-chips >> text=this view compares A and B').first.is_visible()
    page.get_by_label('B, the baseline').select_option(label='the teacher')
    page.wait_for_selector('text=/B is teacher/')
    langs = page.locator('.pkc-list')
    langs.get_by_role('searchbox').fill('swa')
    langs.get_by_role('button', name='None of them').click()
    page.wait_for_selector('text=/mean of 11 languages/')
    with page.expect_download() as saved: page.locator('.pkc-files button', has_text='CSV').click()
    assert saved.value.suggested_filename == 'privkd_difference_copy_ft-paper_vs_teacher_accuracy_playground_cl_0.1.csv'
    lines = open(saved.value.path(), encoding='utf-8').read().splitlines()
    assert lines[0].startswith('group,language,seen,texts,a,b,score,low,high') and {l.split(',')[1] for l in lines[1:]} == {'', *'ar de el en es fr hi id ru tr zh'.split()}
    langs.get_by_role('searchbox').fill('')
    langs.get_by_role('button', name='None', exact=True).click()
    page.wait_for_selector('.pkd-message:has-text("No language is ticked")')
    langs.get_by_role('button', name='All', exact=True).click()
    page.evaluate("document.querySelector('.js-plotly-plot').emit('plotly_click', {points: [{curveNumber: 0, pointNumber: 0, x: 0, y: 0, customdata: ['sw', 0, 0]}]})")
    page.wait_for_selector('text=/Swahili|sw is now the language of/')
    page.get_by_label('Examples', exact=True).check()
    assert set(page.locator('.pkd tbody tr td:first-child').all_text_contents()) == {'sw'}


def test_dark_and_narrow(sample, opened):
    page = opened
    page.set_viewport_size(dict(width=400, height=800))
    page.emulate_media(color_scheme='dark')
    ink = "document.querySelector('.js-plotly-plot').layout.font.color"
    wait(page, f"{ink} === 'rgb(229, 231, 235)'")                          # figures are drawn again, in the page's colours
    assert page.evaluate('getComputedStyle(document.body).backgroundColor') == 'rgb(22, 26, 32)'
    for view in VIEWS.values():
        page.get_by_label(view, exact=True).check()
        page.wait_for_timeout(100)
        assert page.evaluate('document.documentElement.scrollWidth') <= 400, view
    page.get_by_label('By language', exact=True).check()
    page.emulate_media(color_scheme='light')
    wait(page, f"{ink} === 'rgb(31, 41, 55)'")
    page.set_viewport_size(dict(width=1280, height=900))


def test_nothing_of_a_study_acts(tmp_path, browser):
    page, path = browser, save_explorer(make_hostile_study(tmp_path/'runs'), tmp_path/'explorer.html')
    open_page(page, path)
    for view in VIEWS.values():
        page.get_by_label(view, exact=True).check()
        page.wait_for_timeout(100)
        assert page.evaluate("[typeof window.__hacked, document.querySelectorAll('img, iframe, #hack, foreignObject').length]") == ['undefined', 0], view
        assert bool(page.locator('.pkd-message').count()) == (view == VIEWS['waterfall']), view      # no run was exported
    assert page.get_by_text(PAYLOADS[0]).count() > 1                       # shown as it was typed
    assert page.errors == [] and page.asked == [path.as_uri()]


SLACK = float(os.environ.get('PRIVKD_TIME_SLACK', 3))              # for shared machines; PRIVKD_TIME_SLACK=1 asks for the whole
