"HTML made from an executed notebook, opened in a browser that reaches no other host"
import json, re, runpy, subprocess, sys
from importlib.metadata import EntryPoint

import nbformat, pytest
from browser import chromium, write_notebook
from conftest import ROOT
from nbconvert import HTMLExporter
from privkd_nb.figures.pages import PageExporter, notebook_page

CELLS = ["import pandas as pd, plotly.graph_objects as go, plotly.io as pio\nfrom privkd_nb.stored import register_renderer\npio.renderers.default = register_renderer()",
         "pd.DataFrame(dict(accuracy=[.8, .6]))",
         "go.Figure(go.Bar(x=['de', \"<script>'&quot;\"], y=[.8, .6]), layout=dict(title='A < B', height=300))",
         "go.Figure(go.Scatter(x=[0, 1], y=[0, 1]), layout=dict(title='Second', height=300)).show()",
         "go.Figure(go.Scatter(x=[0, 1], y=[0, 1]), layout=dict(title='As plotly stores it', height=300)).show('plotly_mimetype+notebook_connected')"]


@pytest.fixture(scope='module')
def executed(tmp_path_factory):
    "A notebook with three figures, executed as Jupyter does"
    path = write_notebook(tmp_path_factory.mktemp('pages')/'run.ipynb', *CELLS)
    subprocess.run([sys.executable, '-m', 'nbconvert', '--to', 'notebook', '--execute', '--inplace', path], check=True, capture_output=True)
    return path


def opened(page, path, pause='.main-svg'):
    "The requests that leave the page, none of which is answered"
    asked = []
    page.route('**', lambda r: r.continue_() if r.request.url.startswith(('file:', 'data:', 'blob:')) else (asked.append(r.request.url), r.abort()))
    page.goto(path.as_uri())
    page.wait_for_selector(pause)
    return asked


def test_the_page_of_a_run_shows_its_figures_without_a_network(executed):
    path = notebook_page(executed)
    with chromium() as page:
        asked = opened(page, path)
        page.wait_for_function("document.querySelectorAll('.privkd-figure .main-svg').length >= 3")
        figures = page.locator('.privkd-figure')
        assert figures.count() == 3 and [f.locator('svg.main-svg').count() > 0 for f in figures.all()] == [True]*3
        assert "<script>'&quot;" in figures.first.inner_text()                              # as typed, not interpreted
        assert all(f.bounding_box()['width'] > 400 for f in figures.all())
        assert page.locator('td').count() and 'could not be loaded' not in page.inner_text('body')
        assert [b for b in page.eval_on_selector_all('.modebar-btn', 'bs => bs.map(b => b.dataset.title)') if b and 'Cloud' in b] == []
        assert asked == [] and page.errors == []
    assert path.read_text(encoding='utf-8').count('plotly.js v') == 1


def test_a_page_of_nbconvert_says_what_is_missing(executed, tmp_path):
    "Without a network there is a sentence in place of each figure, with the way to see it"
    html, _ = HTMLExporter().from_filename(str(executed))
    (tmp_path/'plain.html').write_text(html, encoding='utf-8')
    with chromium() as page:
        opened(page, tmp_path/'plain.html', '.privkd-figure p')
        page.wait_for_timeout(300)
        said = page.locator('.privkd-figure p').all_inner_texts()
        assert all(f.bounding_box()['height'] < 120 for f in page.locator('.privkd-figure').all())     # no room for what is not drawn
        assert len(said) == 2 and all('could not be loaded' in s and 'privkd html' in s for s in said) and 'A < B' in said[0]


def test_stored_figures_are_small(executed):
    nb = nbformat.read(executed, 4)
    figures = [o.data for c in nb.cells for o in c.outputs if 'privkd-figure' in o.get('data', {}).get('text/html', '')]
    assert len(figures) == 2 and max(len(json.dumps(f)) for f in figures) < 20_000


def test_the_exporter_is_in_jupyters_menu(monkeypatch):
    "JupyterLab lists the exporters that name themselves, found by their entry points"
    given = {}
    monkeypatch.setattr('setuptools.setup', lambda **kw: given.update(kw))
    runpy.run_path(str(ROOT/'setup.py'))
    name, target = given['entry_points']['nbconvert.exporters'][0].split('=')
    assert re.fullmatch(r'\w+', name)                # what is in the path of the server's address
    assert EntryPoint(name, target, 'nbconvert.exporters').load() is PageExporter and PageExporter.export_from_notebook


def test_titles_of_a_page_break_on_a_narrow_screen(tmp_path):
    from nbformat import v4
    from privkd_nb.figures.style import headed
    import plotly.graph_objects as go
    from privkd_nb.stored import figure_bundle
    fig = headed(go.Figure(go.Scatter(x=[0, 1], y=[0, 1])), 'A title that is much longer than a telephone is wide, as titles are', 'and a note', 200)
    out = v4.new_output('display_data', data=figure_bundle(json.loads(fig.to_json())))
    nbformat.write(v4.new_notebook(cells=[v4.new_code_cell('fig', outputs=[out])]), tmp_path/'a.ipynb')
    with chromium(400) as page:
        opened(page, notebook_page(tmp_path/'a.ipynb'))
        page.wait_for_function("document.querySelector('.gtitle').getBoundingClientRect().right <= 400", timeout=60_000)
        assert page.errors == []
