"The monitor in a real JupyterLab: watch, stop and resume; nothing overlaps at any width; what a saved notebook shows."
import json, time

import nbformat, pytest
from nbclient import NotebookClient
from nbformat.sign import NotebookNotary

from browser import chromium, jupyter_lab, open_notebook, run_all, save, write_notebook
from fake_run import FakeRun

from privkd_nb.apps.monitor import REDRAW

IMPORTS = 'from privkd_nb.apps.monitor import Monitor\nfrom privkd_nb.jobs.background import BackgroundRun\nfrom privkd_nb.jobs.config import RunConfig\nfrom privkd_nb.models.playground_base import TINY_BASE, playground_base\nimport time'
TRAIN = '''run = BackgroundRun(RunConfig(base=str(playground_base(TINY_BASE)), languages='de,en,sw', fraction=.3, teacher_fraction=.2, teacher_epochs=1, epochs=40, out_dir='runs')).start()
monitor = Monitor(run)
monitor'''
BUSY = "until = time.time()+150\nwhile time.time() < until and run.progress.get('state') != 'stopped': time.sleep(.1)\n'the kernel was busy'"
LINE = '''() => { const gd = [...document.querySelectorAll('.js-plotly-plot')].find(e => e.offsetParent && e._fullData?.length), t = gd && gd._fullData.find(t => t.name === 'cross entropy' && t.x?.length);
  return t ? {name: t.name, x: Array.from(t.x), y: Array.from(t.y)} : null; }'''
STATE = "() => document.querySelector('.privkd-live progress')?.parentElement.innerText ?? document.querySelector('.privkd-live .widget-html-content div')?.innerText"
BOXES = '''() => [...document.querySelectorAll('.js-plotly-plot')].filter(d => d.offsetParent && d._fullLayout).map(d => {
  const box = e => { const r = e.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; }, f = d._fullLayout, [left, top] = box(d.querySelector('.main-svg'));
  const texts = [...d.querySelectorAll('.annotation-text-g, .g-gtitle')].filter(e => e.textContent).map(e => [e.textContent, box(e)]);
  const panels = Object.values(f._plots).map(({xaxis: x, yaxis: y}) => [left+x._offset, top+y._offset, left+x._offset+x._length, top+y._offset+y._length]);
  return {texts, panels, frame: box(d.querySelector('.main-svg'))};
})'''


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp('lab')
    write_notebook(folder/'watch.ipynb', IMPORTS, TRAIN, BUSY)
    write_notebook(folder/'layout.ipynb', "from privkd_nb.apps.monitor import Monitor\nMonitor('fake/one')")
    with jupyter_lab(folder) as server: yield folder, server
    for run in (folder/'runs').glob('*/'): (run/'stop').touch()                 # a failed test leaves no training behind


def wait_for(page, what, seconds=60):
    until = time.time()+seconds
    while time.time() < until:
        if res := what(): return res
        page.wait_for_timeout(60)
    raise AssertionError(f'it did not come within {seconds} s')


def state(page): return page.evaluate(STATE) or ''


def test_a_run_is_watched_stopped_and_resumed(lab):
    folder, server = lab
    with chromium() as page:
        open_notebook(page, server, 'watch.ipynb')
        run_all(page)
        began = time.time()
        page.wait_for_selector('.privkd-drawn', timeout=120_000)
        print(f'\nfirst picture after {time.time()-began:.1f} s')
        wait_for(page, lambda: page.evaluate(LINE), 240)                         # the teacher may have to be made first
        lengths, states, began, took = set(), set(), time.time(), 0
        while took < 40 and (len(lengths) < 15 or not any(' left' in s for s in states)):
            if line := page.evaluate(LINE): lengths.add(line['x'][-1])
            states.add(state(page))
            page.wait_for_timeout(50)
            took = time.time()-began
        print(f'{len(lengths)} updates in {took:.1f} s while a cell was running; e.g. {sorted(s for s in states if s)[:2]}')
        assert len(lengths) >= 15 and len(lengths) <= 4.5*took+5                  # at most four a second
        assert any(' left' in s for s in states)
        done = page.locator('.jp-OutputArea-executeResult', has_text='the kernel was busy')
        assert not done.count()
        page.get_by_role('button', name='Stop').click()                           # answered beside the cell
        wait_for(page, lambda: 'stopped at a checkpoint' in state(page), 60)
        done.wait_for(timeout=60_000)
        run, = (p for p in (folder/'runs').iterdir() if p.is_dir())
        at = json.loads((run/'progress.json').read_text())
        assert at['state'] == 'stopped' and 0 < at['step'] < at['steps']

        wait_for(page, lambda: page.evaluate(LINE)['x'][-1] == at['step'], 20)    # the picture may be drawn after the words
        save(page)
        before = page.evaluate(LINE)
        open_notebook(page, server, 'watch.ipynb', reset=False)                  # the page again, the kernel still there
        def whole(): return (line := page.evaluate(LINE)) and line['x'][-1] == at['step'] and line
        after = wait_for(page, whole, 20)                                        # a slow browser shows the first picture for a moment
        assert after['x'][-1] == before['x'][-1] == at['step'] and after['y'] == pytest.approx(before['y'], rel=1e-6)
        resume = page.get_by_role('button', name='Resume')
        wait_for(page, resume.is_enabled)
        resume.focus()
        page.keyboard.press('Enter')                                              # by the keyboard
        wait_for(page, lambda: 'training' in state(page) and (page.evaluate(LINE) or before)['x'][-1] > at['step'], 120)
        assert json.loads((run/'progress.json').read_text())['first'] == at['step']
        page.get_by_role('button', name='Stop').click()                           # not trained to the end: that takes long
        wait_for(page, lambda: 'stopped at a checkpoint' in state(page), 60)
        assert page.errors == []


def apart(a, b): return a[2] <= b[0]+1 or b[2] <= a[0]+1 or a[3] <= b[1]+1 or b[3] <= a[1]+1


def check_boxes(figures):
    assert figures
    for f in figures:
        assert f['texts'] and f['panels']
        for i, (text, box) in enumerate(f['texts']):
            assert f['frame'][0]-1 <= box[0] and box[2] <= f['frame'][2]+1 and box[1] >= f['frame'][1]-1, (text, box, f['frame'])
            for other, b in f['texts'][i+1:]: assert apart(box, b), (text, other)
            for p in f['panels']: assert apart(box, p), (text, box, p)


def test_nothing_overlaps_and_a_saved_notebook_shows_the_end(lab):
    folder, server = lab
    run = FakeRun(folder/'fake'/'one', languages=52)
    run.score(0, 'validation', .05, .1); run.score(0, 'teacher', .5, .9); run.train(1, 100); run.score(100, 'validation')
    with chromium() as page:
        open_notebook(page, server, 'layout.ipynb')
        run_all(page)
        page.wait_for_selector('.privkd-drawn', timeout=60_000)
        page.wait_for_function("() => document.querySelectorAll('.privkd-drawn').length == 2")
        for width in (1280, 800, 400):
            page.set_viewport_size(dict(width=width, height=900))
            if width == 400: page.keyboard.press('Control+b')                     # the file browser goes
            page.wait_for_timeout(1200)
            figures = page.evaluate(BOXES)
            assert len(figures) == 2
            check_boxes(figures)
            texts = ' '.join(t for f in figures for t, _ in f['texts'])
            assert 'after step 100 of 300' in texts and '1 value lies outside the axis' in texts
        run.status.write('stopped')                                               # by another process
        wait_for(page, lambda: 'stopped at a checkpoint, step 100' in state(page), 20)
        run.status.write('preparing', 'loading the models')
        wait_for(page, lambda: 'loading the models' in state(page), 20)
        run.train(101, 300); run.score(300, 'validation')
        wait_for(page, lambda: 'training 300' in state(page), 20)
        run.status.write('finished')
        run.rows.rewind(300); run.write('history', run.rows.frame()); run.finish()
        page.wait_for_selector('.privkd-live', state='detached', timeout=90_000)   # a plain figure is left
        for width in (400, 1280):
            page.set_viewport_size(dict(width=width, height=900))
            page.wait_for_timeout(1500)
            figures = wait_for(page, lambda: page.evaluate(BOXES))
            check_boxes(figures)
        assert 'finished' in figures[0]['texts'][0][0]+figures[0]['texts'][-1][0] and page.errors == []
        save(page)
        for k in page.request.get(f"{server[0]}/api/sessions?token={server[1]}").json():
            page.request.delete(f"{server[0]}/api/sessions/{k['id']}?token={server[1]}")
    with chromium(width=820) as page:
        page.goto(f"{server[0]}/lab/workspaces/again/tree/layout.ipynb?token={server[1]}&reset")   # later, with another kernel, on a narrower page
        page.wait_for_selector('.jp-RenderedPlotly.js-plotly-plot .main-svg', timeout=60_000)      # drawn, not the wide picture that JupyterLab stores
        page.wait_for_timeout(1500)
        check_boxes(page.evaluate(BOXES))
        width, room = page.evaluate("() => [document.querySelector('.jp-RenderedPlotly .main-svg').clientWidth, document.querySelector('.jp-RenderedPlotly').clientWidth]")
        assert room-20 < width <= room < 700 and not page.locator('.jp-RenderedPlotly > img').is_visible()
        assert 'Error displaying' not in page.inner_text('.jp-Notebook')
    still, live = json.loads((folder/'layout.ipynb').read_text())['cells'][0]['outputs']
    assert 'finished' in still['data']['application/vnd.plotly.v1+json']['layout']['title']['text'] and ''.join(live['data']['text/html']) == REDRAW and 'image/png' in still['data']


def test_an_executed_notebook_shows_its_figure_and_is_live_when_run_anew(lab):
    "It holds the state of widgets, which asks for plotly.js when there is no kernel that could send it"
    folder, server = lab
    FakeRun(folder/'other').train(1, 50)
    nb = nbformat.read(write_notebook(folder/'executed.ipynb', "from privkd_nb.apps.monitor import Monitor\nMonitor('other')"), 4)
    NotebookClient(nb, kernel_name='python3', resources=dict(metadata=dict(path=str(folder)))).execute()
    assert nb.metadata.widgets
    with NotebookNotary() as notary: notary.sign(nb)                               # as if executed here: its widgets are restored
    nbformat.write(nb, folder/'executed.ipynb')
    with chromium() as page:
        open_notebook(page, server, 'executed.ipynb')
        plain = page.locator('.jp-RenderedPlotly.js-plotly-plot')
        plain.wait_for(timeout=30_000)
        page.wait_for_timeout(1000)
        assert plain.is_visible() and not page.locator('.privkd-drawn').count()
        run_all(page)
        page.wait_for_selector('.privkd-drawn', timeout=60_000)
        assert not plain.is_visible() and page.errors == []
