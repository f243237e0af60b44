"The explorer in a real JupyterLab and as a page of its own, in a real browser."
import os, re, shutil, signal, statistics, subprocess, sys, threading, time
from pathlib import Path

import pytest

from browser import chromium, jupyter_lab, open_notebook, run_all, wait_idle, write_notebook
from many_runs import make_runs

ROOT = Path(__file__).parent.parent
FIGURE = '.privkd-plot .js-plotly-plot, .js-plotly-plot'
SHOWN = '''() => { const gd = [...document.querySelectorAll('.js-plotly-plot')].find(e => e.offsetParent); 
  return gd && gd.data && gd.data.length ? {title: gd.layout.title.text, axis: gd.layout.xaxis.title?.text, languages: gd.layout.yaxis.ticktext, names: gd.data.map(t => t.name),
    x: gd._fullData.filter(t => t.name !== 'teacher').map(t => Array.from(t.x ?? []).slice(0, 50))} : null; }'''
# changes a select as a user would, and tells how long it took until the figure was drawn again, in ms
CHANGE = '''async ([label, i]) => {
  const box = [...document.querySelectorAll('.widget-dropdown, .jupyter-widget-dropdown')].find(b => b.offsetParent && b.textContent.trim().startsWith(label));
  const select = box.querySelector('select'), gd = [...document.querySelectorAll('.js-plotly-plot')].find(e => e.offsetParent);
  const drawn = new Promise(done => gd.once('plotly_afterplot', done)), start = performance.now();
  select.selectedIndex = i; select.dispatchEvent(new Event('change', {bubbles: true}));
  await Promise.race([drawn, new Promise((_, no) => setTimeout(() => no(new Error('not drawn again')), 20000))]);
  return performance.now()-start; }'''


def shown(page, change=None, timeout=30):
    "What the visible figure holds, once it differs from `change`"
    until = time.time()+timeout
    while time.time() < until:
        if (now := page.evaluate(SHOWN)) and now != change: return now
        page.wait_for_timeout(50)
    raise AssertionError(f'the figure did not change: {str(change)[:300]}')


def box(page, label): return page.locator('.widget-dropdown:visible, .widget-select-multiple:visible, .widget-select:visible').filter(has_text=re.compile(f'^{label}')).first


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp('lab')
    shutil.copy(ROOT/'nbs'/'explore.ipynb', folder/'explore.ipynb')
    make_runs(folder/'runs', 200)
    write_notebook(folder/'many.ipynb', 'from privkd_nb.apps.explorer import Explorer', "Explorer('runs')")
    with jupyter_lab(folder) as server: yield server


def test_run_all_then_change_language_and_metric_by_mouse(lab):
    with chromium() as page:
        open_notebook(page, lab, 'explore.ipynb')
        run_all(page)
        before = shown(page, timeout=90)
        wait_idle(page, 90)
        page.evaluate("document.querySelector('.jp-WindowedPanel-outer, .jp-Notebook').scrollTop = 0")
        assert len(before['languages']) == 12 and before['axis'] == 'accuracy'

        box(page, 'languages').locator('option', has_text='sw').click()
        one = shown(page, before)
        while one['languages'] != ['sw']: one = shown(page, one)       # a list may tell of each change on the way

        box(page, 'score').locator('select').click()
        page.keyboard.press('ArrowDown'); page.keyboard.press('Enter')
        other = shown(page, one)
        assert other['axis'] == 'macro-F1' and other['x'] != one['x']

        page.get_by_role('button', name='Examples').click()
        page.wait_for_selector('td[lang=sw]')
        page.get_by_role('button', name='CSV').click()
        page.wait_for_selector('a[download="sample-examples.csv"]')
        assert page.errors == []


def test_two_hundred_runs_open_and_answer_quickly(lab, record_property):
    with chromium() as page:
        open_notebook(page, lab, 'many.ipynb')
        page.locator('.jp-CodeCell').first.click()
        page.keyboard.press('Shift+Enter')                         # the imports
        page.wait_for_timeout(500)
        wait_idle(page, 60)
        start = time.perf_counter()
        page.keyboard.press('Shift+Enter')
        shown(page, timeout=60)
        opened = time.perf_counter()-start
        times = [page.evaluate(CHANGE, [label, i]) for label, i in [('score', 1), ('score', 0), ('fraction', 0), ('fraction', 2), ('fraction', 1), ('sort by', 2), ('minus', 1), ('minus', 0), ('sort by', 0), ('scenario', 1), ('scenario', 0)]]
        median = statistics.median(times)
        print(f'\n200 runs: opened in {opened:.2f} s; a change took {median:.0f} ms in the median, {max(times):.0f} ms at most: {[round(t) for t in times]}')
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
        with chromium(800) as page:
            requested = []
            page.on('request', lambda r: requested.append(r.url))
            assert page.goto(url.split('?')[0]).url.split('?')[0].endswith('/login') or page.locator('input[name=password]').count()      # no token, no explorer
            page.goto(url)
            before = shown(page, timeout=90)
            page.get_by_role('button', name='Amount of data').click()
            assert 'amount of data' in shown(page, before)['title']
            assert page.locator('.jp-InputArea').count() == 0
            assert [u for u in requested if not u.startswith((url.split('/?')[0], 'ws:', 'data:', 'blob:'))] == []          # no other host is contacted
            assert page.errors == []
    finally: os.killpg(p.pid, signal.SIGTERM)
