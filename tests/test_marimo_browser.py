"The monitor in a marimo notebook: figures that grow, the state, and the buttons; skipped where marimo is not installed."
import sys
from contextlib import contextmanager

import pytest

from browser import chromium, free_port, server
from fake_run import FakeRun

pytest.importorskip('marimo', reason='skipped: marimo is not installed')

NOTEBOOK = '''import marimo
app = marimo.App()

@app.cell
def _():
    from privkd_nb.apps.monitor import Monitor
    monitor = Monitor('runs/one')
    monitor
    return (monitor,)

@app.cell
def _(monitor):
    monitor.figure
    return

if __name__ == '__main__': app.run()
'''


@contextmanager
def marimo(folder):
    "A server of `folder`/watch.py on a free port"
    port = free_port()
    code = f"import sys; sys.path = {sys.path!r}; from marimo._cli.cli import main; main()"
    args = ['run', 'watch.py', '--headless', '--no-token', '--port', str(port)]
    url = f'http://127.0.0.1:{port}'
    with server([sys.executable, '-c', code, *args], f'{url}/health', folder/'log', cwd=folder): yield url


def test_a_run_is_watched_and_stopped_in_marimo(tmp_path):
    run = FakeRun(tmp_path/'runs'/'one')
    run.score(0, 'teacher'); run.train(1, 100); run.score(100, 'validation')
    (tmp_path/'watch.py').write_text(NOTEBOOK)
    with marimo(tmp_path) as url, chromium() as page:
        page.goto(url)
        page.wait_for_selector('.js-plotly-plot', timeout=60_000)
        page.get_by_text('training 100 of 300').first.wait_for(timeout=30_000)
        run.train(101, 150)
        page.get_by_text('training 150 of 300').first.wait_for(timeout=60_000)             # from the monitor's thread
        last = "() => Math.max(...[...document.querySelectorAll('marimo-anywidget')].flatMap(e => [...(e.shadowRoot ?? e).querySelectorAll('.js-plotly-plot')]).flatMap(d => d.data.map(t => t.x[t.x.length-1] || 0)))"
        page.wait_for_function(f"({last})() >= 150", timeout=60_000)
        page.get_by_role('button', name='Stop', exact=True).click()
        page.get_by_text('stopping at a checkpoint').first.wait_for(timeout=60_000)
        assert (run.path/'stop').exists() and page.errors == []
