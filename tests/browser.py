"A real JupyterLab in a headless Chromium: start it, open a notebook, run it, look"
import os, shutil, socket, subprocess, sys, time, urllib.request
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest

CHROMIUM = next((p for p in map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome')) if p), None)
FLAGS = '--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync'.split()
HARMLESS = ('favicon', 'net::ERR_NAME_NOT_RESOLVED', 'net::ERR_INTERNET_DISCONNECTED', 'Content Security Policy')   # the network that is not there, not the page


def write_notebook(path, *cells):
    "A notebook of code cells"
    meta = dict(kernelspec=dict(name='python3', display_name='Python 3', language='python'))
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells], metadata=meta), path)
    return Path(path)


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


@contextmanager
def server(command, answers, log, **kw):
    "A process that serves; the block begins when the address `answers` does"
    with Path(log).open('w') as out: p = subprocess.Popen(command, stdout=out, stderr=out, **kw)
    try:
        for _ in range(240):
            try: urllib.request.urlopen(answers, timeout=5); break
            except OSError:
                if p.poll() is not None: raise RuntimeError(Path(log).read_text()[-2000:])
                time.sleep(.25)
        yield
    finally:
        p.terminate()
        try: p.wait(20)
        except subprocess.TimeoutExpired: p.kill()


@contextmanager
def jupyter_lab(folder):
    "A server on a free port of this machine that serves `folder`; yields its address and its token"
    port, token, home = free_port(), os.urandom(12).hex(), Path(folder)/'.jupyter-home'
    env = os.environ | {f'JUPYTER_{k}_DIR': str(home/k.lower()) for k in ('CONFIG', 'RUNTIME')} | {'JUPYTERLAB_SETTINGS_DIR': str(home/'settings'), 'JUPYTERLAB_WORKSPACES_DIR': str(home/'workspaces'), 'IPYTHONDIR': str(home/'ipython')}
    env['PATH'] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    args = ['--no-browser', '--ip=127.0.0.1', f'--port={port}', '--ServerApp.port_retries=0', '--allow-root', f'--IdentityProvider.token={token}', f'--ServerApp.root_dir={folder}']
    url = f'http://127.0.0.1:{port}'
    with server([sys.executable, '-m', 'jupyter', 'lab', *args], f'{url}/api/status?token={token}', Path(folder)/'lab.log', cwd=folder, env=env): yield url, token


@contextmanager
def chromium(width=1280, height=900):
    "A browser page that keeps its errors in `.errors`, and the addresses that it asks for in `.asked`"
    if os.environ.get('PRIVKD_BROWSER') == 'required': import playwright.sync_api
    sync_api = pytest.importorskip('playwright.sync_api', reason='skipped: playwright is not installed')
    if not CHROMIUM:
        if os.environ.get('PRIVKD_BROWSER') == 'required': pytest.fail('PRIVKD_BROWSER=required, but there is no chromium on this machine')
        pytest.skip('skipped: no chromium on this machine')
    with sync_api.sync_playwright() as pw:
        browser = pw.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            page = browser.new_page(viewport=dict(width=width, height=height))
            page.errors, page.asked = [], []
            page.on('request', lambda r: page.asked.append(r.url))
            page.on('pageerror', lambda e: page.errors.append(str(e)))
            page.on('console', lambda m: page.errors.append(m.text) if m.type == 'error' and not any(h in m.text for h in HARMLESS) else None)
            yield page
        finally: browser.close()


def open_notebook(page, lab, name, reset=True):
    "Open a notebook alone on the page and wait for its kernel"
    url, token = lab
    page.goto(f"{url}/lab/workspaces/{Path(name).stem}/tree/{name}?token={token}{'&reset' if reset else ''}")
    page.wait_for_selector('.jp-NotebookPanel .jp-Cell', timeout=60_000)
    wait_idle(page)


def wait_idle(page, timeout=60):
    "Wait until the kernel has nothing to do"
    page.wait_for_selector("text=/\\(ipykernel\\) \\| Idle|Python 3.* \\| Idle/", timeout=timeout*1000)


def command(page, name):
    "What the command palette calls `name`"
    page.keyboard.press('Control+Shift+C')
    page.wait_for_selector('.lm-CommandPalette-input, #modal-command-palette input', state='visible', timeout=60_000)
    page.keyboard.type(name, delay=5)
    page.wait_for_timeout(300)
    page.keyboard.press('Enter')


def run_all(page):
    "Run all cells, by the menu"
    page.click('.lm-MenuBar-itemLabel:text-is("Run")')
    page.click('.lm-Menu-itemLabel:text-is("Run All Cells")')


def save(page):
    "Save the notebook"
    page.keyboard.press('Control+S')
    page.wait_for_timeout(1500)
