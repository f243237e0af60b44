"The monitor in a real JupyterLab: it goes on while another cell runs, and is the same after a reload."
import json, time

import pytest

from browser import chromium, jupyter_lab, open_notebook, run_all, save, write_notebook

TRAIN = '''run = BackgroundRun(RunConfig(base=str(playground_base(TINY_BASE)), languages='de,en,sw', fraction=.3, teacher_fraction=.2, teacher_epochs=1, epochs=150, out_dir='runs')).start()
monitor = Monitor(run)
monitor'''
LINE = '''() => { const gd = [...document.querySelectorAll('.js-plotly-plot')].find(e => e.offsetParent && e._fullData?.length), t = gd && gd._fullData.find(t => t.name === 'cross entropy' && t.x?.length);
  return t ? {name: t.name, x: Array.from(t.x), y: Array.from(t.y)} : null; }'''
STATE = "() => document.querySelector('.jp-OutputArea-output progress')?.parentElement.innerText"


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp('lab')
    write_notebook(folder/'watch.ipynb', 'from privkd_nb.jobs.background import BackgroundRun\nfrom privkd_nb.models.playground_base import TINY_BASE, playground_base\nfrom privkd_nb.jobs.config import RunConfig\nfrom privkd_nb.apps.monitor import Monitor\nimport time', TRAIN,
                   "until = time.time()+90\nwhile time.time() < until and run.progress.get('step', 0) < 600: time.sleep(.1)\n'the kernel was busy'")
    with jupyter_lab(folder) as server: yield folder, server
    for run in (folder/'runs').glob('*/'): (run/'stop').touch()                 # a failed test leaves no training behind


def wait_for(page, what, seconds=60):
    until = time.time()+seconds
    while time.time() < until:
        if res := what(): return res
        page.wait_for_timeout(60)
    raise AssertionError(f'it did not come within {seconds} s')


def test_updates_arrive_while_a_cell_runs_and_a_reload_shows_the_same(lab):
    folder, server = lab
    with chromium() as page:
        open_notebook(page, server, 'watch.ipynb')
        run_all(page)
        first = wait_for(page, lambda: page.evaluate(LINE), 240)                 # the teacher may have to be made first
        lengths, states, began = {len(first['x'])}, set(), time.time()
        done = page.locator('.jp-OutputArea-executeResult', has_text='the kernel was busy')
        while not done.count():
            line = page.evaluate(LINE)
            if line: lengths.add(line['x'][-1])
            states.add(page.evaluate(STATE))
            assert time.time() < began+120
            page.wait_for_timeout(50)
        took = time.time()-began
        print(f'\n{len(lengths)} updates in {took:.1f} s while a cell was running; e.g. {sorted(s for s in states if s)[:2]}')
        assert len(lengths) >= 20 and len(lengths) <= 4.5*took+5                  # at least twenty, at most four a second
        assert any(s and ' left' in s for s in states)

        save(page)
        before = page.evaluate(LINE)
        open_notebook(page, server, 'watch.ipynb', reset=False)                  # the page again, the kernel still there
        after = wait_for(page, lambda: page.evaluate(LINE))
        assert after['x'][-1] >= before['x'][-1]
        was, now = (dict(zip(l['x'], l['y'])) for l in (before, after))           # long lines are thinned anew, keeping extremes
        both = was.keys() & now.keys()
        assert len(both) >= .3*len(was) and [now[x] for x in both] == pytest.approx([was[x] for x in both], rel=1e-6)
        assert page.errors == []

        run, = (p for p in (folder/'runs').iterdir() if p.is_dir())
        wait_for(page, lambda: (run/'done.json').exists(), 420)                   # closing and reloading stopped nothing
        page.wait_for_timeout(2500)
        end = wait_for(page, lambda: page.evaluate(LINE))
        assert end['x'][-1] == json.loads((run/'progress.json').read_text())['steps']
        assert page.errors == []
