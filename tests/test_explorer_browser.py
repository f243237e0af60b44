"The explorer in a real JupyterLab and as a page of its own, in a real browser."
import os, re, shutil, signal, statistics, subprocess, sys, threading, time
from pathlib import Path

import pytest

from browser import chromium, jupyter_lab, open_notebook, run_all, wait_idle, write_notebook
from many_runs import make_runs
from privkd_nb.data.catalog import MASSIVE_LANGUAGES

ROOT = Path(__file__).parent.parent
FIGURE = '.privkd-plot .js-plotly-plot, .js-plotly-plot'
SHOWN = '''() => { const gd = [...document.querySelectorAll('.js-plotly-plot')].find(e => e.offsetParent); 
  return gd && gd.data && gd.data.length ? {title: gd.layout.title.text, axis: gd.layout.xaxis.title?.text, languages: gd.layout.yaxis.ticktext, names: gd.data.map(t => t.name),
    x: gd._fullData.filter(t => t.name !== 'teacher').map(t => Array.from(t.x ?? []).slice(0, 50))} : null; }'''
# chooses as a user would, by the name of the control and the text of the choice, and tells how long it took until the figure was drawn again, in ms
CHANGE = '''async ([label, text]) => {
  const group = [...document.querySelectorAll('.pkc-group')].find(b => b.offsetParent && b.textContent.trim().startsWith(label));
  const gd = [...document.querySelectorAll('.js-plotly-plot')].find(e => e.offsetParent), select = group.querySelector('select');
  const drawn = new Promise(done => gd.once('plotly_afterplot', done)), start = performance.now();
  if (select) { select.selectedIndex = [...select.options].findIndex(o => o.textContent === text); select.dispatchEvent(new Event('change', {bubbles: true})); }
  else [...group.querySelectorAll('label, button')].find(e => e.textContent === text).click();
  await Promise.race([drawn, new Promise((_, no) => setTimeout(() => no(new Error('not drawn again')), 20000))]);
  return performance.now()-start; }'''


def shown(page, change=None, timeout=30):
    "What the visible figure holds, once it differs from `change`"
    until = time.time()+timeout
    while time.time() < until:
        if (now := page.evaluate(SHOWN)) and now != change: return now
        page.wait_for_timeout(50)
    raise AssertionError(f'the figure did not change: {str(change)[:300]}')


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp('lab')
    shutil.copy(ROOT/'nbs'/'explore.ipynb', folder/'explore.ipynb')
    make_runs(folder/'runs', 200, MASSIVE_LANGUAGES)
    write_notebook(folder/'many.ipynb', 'from privkd_nb.apps.explorer import Explorer', "Explorer('runs')")
    with jupyter_lab(folder) as server: yield server


def cells(page): return page.locator('.jp-NotebookPanel .jp-Cell').count()


HIDDEN = """async source => {
  const plotly = {react: async (div, data) => { div.data = data; div._fullLayout = {}; div.on = () => {}; }, purge() {}, Plots: {resize() {}}, Icons: {}};
  globalThis.privkd_plotly_0 = {ready: Promise.resolve(plotly)};
  const picture = (epoch, ...data) => JSON.stringify({epoch, height: 300, data, layout: {}}), heard = {};
  const state = {plotly: '0', picture: picture(0, {type: 'bar', x: [1]})};
  const model = {get: k => state[k], on: (k, f) => { heard[k] = f; }, off() {}, send() {}}, el = document.body.appendChild(document.createElement('div'));
  const widget = (await import(`data:text/javascript;base64,${btoa(source)}`)).default(), frame = () => new Promise(requestAnimationFrame);
  widget.initialize({model}); widget.render({model, el});
  const set = p => { state.picture = p; heard['change:picture'](); }, shown = () => document.querySelector('div > div').data?.[0]?.type;
  for (let i = 0; i < 5; i++) await frame();
  const first = shown();
  set(picture(1)); el.style.display = 'none'; set(picture(2, {type: 'scatter', x: [2]})); el.style.display = '';      // all between two frames
  for (let i = 0; i < 5; i++) await frame();
  return [first, shown()]; }"""


def test_a_figure_that_is_hidden_and_shown_between_two_frames_is_drawn():
    source = (ROOT/'privkd_nb'/'plot_view.js').read_text(encoding='utf-8')
    with chromium() as page:
        page.set_content('<body></body>')
        assert page.evaluate(HIDDEN, source.encode('ascii', 'ignore').decode()) == ['bar', 'scatter']


def test_languages_by_keyboard_then_a_difference_saved(lab):
    with chromium() as page:
        open_notebook(page, lab, 'explore.ipynb')
        run_all(page)
        before = shown(page, timeout=90)
        wait_idle(page, 90)
        page.evaluate("document.querySelector('.jp-WindowedPanel-outer, .jp-Notebook').scrollTop = 0")
        assert len(before['languages']) == 12 and before['axis'] == 'accuracy'
        n, langs = cells(page), page.locator('.pkc-list').first

        langs.get_by_role('searchbox').focus()
        page.keyboard.type('germ')                                        # by name, code or family
        assert langs.locator('.pkc-box').all_text_contents() == ['Englishen', 'Germande']
        page.keyboard.press('Tab'); page.keyboard.press('Tab')
        assert page.evaluate('document.activeElement.textContent') == 'None of them'
        page.keyboard.press('Enter')
        none = shown(page, before)
        assert set(before['languages'])-set(none['languages']) == {'de', 'en'}
        langs.get_by_label('Group by').focus()
        page.keyboard.press('Tab')                                        # one stop for the whole list, then arrows
        page.keyboard.press('ArrowDown'); page.keyboard.press('Space')
        german = shown(page, none)
        assert set(german['languages'])-set(none['languages']) == {'de'}
        page.keyboard.press('ArrowUp'); page.keyboard.press('Enter')
        assert set(shown(page, german)['languages']) == set(before['languages'])
        for key in 'abdm': page.keyboard.press(key)                       # commands of JupyterLab outside of the explorer
        assert cells(page) == n

        page.get_by_label('A minus B', exact=True).first.check()
        page.wait_for_selector('text=/A is ahead in 12 .* and B in 0 of 12/')
        difference = shown(page, before)
        assert 'A − B by language' in difference['title'] and set(difference['languages']) == set(before['languages'])
        page.get_by_label('B, the baseline').first.select_option(label='copy_base · paper')
        assert 'B: copy_base · paper' in shown(page, difference)['title']
        assert page.get_by_label('B, the baseline').first.locator('option', has_text='copy_ft · paper').is_disabled()      # it is A
        for kind in ('CSV', 'SVG'):
            with page.expect_download() as saved: page.locator('.pkc-files button', has_text=kind).first.click()
            assert saved.value.suggested_filename == f'privkd_difference_copy_ft-paper_vs_copy_base-paper_accuracy_playground_all_0.1.{kind.lower()}'
        assert page.locator('.modebar-btn[data-title*="hare"], .modebar-btn[data-title*="loud"]').count() == 0 < page.locator('.modebar-btn').count()

        langs.get_by_role('searchbox').fill('')
        langs.get_by_role('button', name='None', exact=True).click()
        page.wait_for_selector('.pkd-message:has-text("No language is ticked")')
        assert not page.locator('.js-plotly-plot').first.is_visible()
        assert page.errors == []


def test_two_hundred_runs_open_and_answer_quickly(lab):
    with chromium() as page:
        open_notebook(page, lab, 'many.ipynb')
        page.locator('.jp-CodeCell').first.click()
        page.keyboard.press('Shift+Enter')                         # the imports
        page.wait_for_timeout(500)
        wait_idle(page, 60)
        start = time.perf_counter()
        page.keyboard.press('Shift+Enter')
        assert len(shown(page, timeout=60)['languages']) == 52
        opened = time.perf_counter()-start
        wait_idle(page, 60)
        changes = [('Score', 'macro-F1'), ('Score', 'accuracy'), ('Share', '3 %'), ('Share', '10 %'), ('Sort', 'family'), ('Sort', 'difference A − B'), ('Trained', 'half of the languages'), ('Losses', 'ce')]
        times = [page.evaluate(CHANGE, c) for c in changes]
        median = statistics.median(times)
        print(f'\n200 runs x 52 languages: opened in {opened:.2f} s; a change took {median:.0f} ms in the median, {max(times):.0f} ms at most: {[round(t) for t in times]}')
        assert page.errors == []
        assert opened < 3*SLACK and median < 300*SLACK


SLACK = float(os.environ.get('PRIVKD_TIME_SLACK', 3))              # for shared machines; PRIVKD_TIME_SLACK=1 asks for the whole


def test_privkd_explore_is_a_page_of_its_own(tmp_path):
    p = subprocess.Popen([str(Path(sys.executable).parent/'privkd'), 'explore', 'sample', '--no-browser', '--port', '8931'], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    try:
        printed, url = [], None
        threading.Thread(target=lambda: printed.extend(p.stdout), daemon=True).start()
        until = time.time()+90
        while not url and time.time() < until and p.poll() is None:
            url = next((m[0] for line in list(printed) if (m := re.search(r'http://127\.0\.0\.1:\d+/\?token=\w{20,}', line))), None)
            time.sleep(.1)
        assert url, ''.join(printed)
        with chromium(400) as page:
            requested = []
            page.on('request', lambda r: requested.append(r.url))
            assert page.goto(url.split('?')[0]).url.split('?')[0].endswith('/login') or page.locator('input[name=password]').count()      # no token, no explorer
            page.goto(url)
            before = shown(page, timeout=90)
            page.get_by_label('Amount of data', exact=True).first.check()
            assert 'amount of' in shown(page, before)['title'] and page.evaluate('document.documentElement.scrollWidth') <= 400
            assert page.locator('.jp-InputArea').count() == 0
            assert [u for u in requested if not u.startswith((url.split('/?')[0], 'ws:', 'data:', 'blob:'))] == []          # no other host is contacted
            assert page.errors == []
    finally: os.killpg(p.pid, signal.SIGTERM)
