"Every view of a study whose every string is hostile, in a real JupyterLab: no script runs, no element comes of it, and it is visible as typed."
import json, re
from pathlib import Path

import pytest

from browser import chromium, jupyter_lab, open_notebook, run_all, wait_idle, write_notebook
from hostile import HACK, PAYLOADS, file_name, make_hostile_study
from privkd_nb.markup import visible

ROOT = Path(__file__).parent.parent
# What a page holds if a payload was read: an element or an attribute of one, or a link to where one leads
FOUND = '''() => [...document.querySelectorAll('.jp-OutputArea-output img:not(.plot-img), img[src="x"], iframe[srcdoc], #hack, [onerror], svg[onload], foreignObject img, a, script, mjx-container, .MathJax')]
  .filter(e => e.matches('a') ? /^javascript:|x\\\\.org/i.test(e.getAttribute('href') ?? e.getAttribute('xlink:href') ?? '') : e.matches('script') ? e.textContent.trim() === '%s' : true)
  .map(e => e.outerHTML.slice(0, 200))''' % HACK
WORDS = "() => [...document.querySelectorAll('.jp-OutputArea-output, body > :not(script)')].map(e => e.textContent).join(' ')"
SVG = "async () => decodeURIComponent((await Plotly.toImage(document.querySelector('.js-plotly-plot'), {format: 'svg', width: 900, height: 700})).replace(/^[^,]*,/, ''))"
LANGUAGES = [p for p in PAYLOADS if not re.search('[\x00-\x1f\u202e]', p) and len(p) < 100 and p not in ('1', '2024-01-01', 'mean', 'constructor')][:14]
VIEWED = ['By language', 'A minus B', 'Gap to the teacher', 'Training', 'Amount of data', 'Layer map', 'Examples']


def own_data(path):
    "A small task of one's own, in hostile languages"
    labels = ['<b>yes</b>', f'<img src=x onerror={HACK}>', '$no$ | *x*']
    sizes = dict(train=20, validation=3, test=3)
    rows = [dict(id=f'{l} {split} {i}', split=split, language=l, label=labels[i % 3], text=f'word{i % 3} {PAYLOADS[i % 4]} {i}') for l in LANGUAGES for split, n in sizes.items() for i in range(n)]
    path.write_text(''.join(json.dumps(r)+'\n' for r in rows))
    return path


def run_cells(dataset):
    "The code of run.ipynb, with its parameters"
    cells = [''.join(c['source']) for c in json.loads((ROOT/'nbs'/'run.ipynb').read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'code']
    return [cells[0]+f'\ndataset, tiny, out_dir = {str(dataset)!r}, True, "own"', *cells[1:]]


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp('lab')
    study = make_hostile_study(folder/file_name(0))
    more = ['from privkd_nb.apps.explorer import Explorer\nfrom privkd_nb.apps.monitor import Monitor\nfrom privkd_nb.figures.save import save_figure',
            f'm = Monitor({study.name!r}, start=False)\nm.runs.scanned_at = 0\nm.look()\nm', f'ex = Explorer({study.name!r})\nex',
            'for v in ("scores", "gap"): save_figure(getattr(ex.views, v)(ex.choice).figure, f"{v}.html")\n"all is done"']
    write_notebook(folder/'all.ipynb', *run_cells(own_data(folder/f'{file_name(0)}.jsonl')), *more)
    with jupyter_lab(folder) as server: yield folder, server


def check(page):
    "Nothing was read as markup"
    assert page.evaluate(FOUND) == [] and page.evaluate('window.__hacked') is None and page.dialogs == []


def words(page): return ' '.join(page.evaluate(WORDS).split())


def test_nothing_acts_and_all_is_visible(lab):
    folder, server = lab
    with chromium(1280, 1000) as page:
        page.dialogs = []
        page.on('dialog', lambda d: d.accept() if d.type == 'beforeunload' else (page.dialogs.append(d.message), d.dismiss()))
        open_notebook(page, server, 'all.ipynb')
        run_all(page)
        page.wait_for_selector('.jp-OutputArea-executeResult:has-text("all is done")', timeout=240_000)
        wait_idle(page)
        check(page)
        seen = words(page)
        assert 'Traceback' not in seen
        assert [l for l in LANGUAGES if ' '.join(visible(l).split()) not in seen] == []
        page.locator('.jp-OutputArea-output .js-plotly-plot').last.scroll_into_view_if_needed()
        for view in VIEWED:
            page.get_by_label(view, exact=True).last.check()
            page.wait_for_timeout(700)
            check(page)
        for name in ('scores', 'gap'):
            page.goto(f'file://{folder}/{name}.html')
            page.wait_for_selector('.js-plotly-plot .main-svg text')
            check(page)
            (folder/f'{name}.svg').write_text(page.evaluate(SVG))
            page.goto(f'file://{folder}/{name}.svg')
            check(page)
        assert page.errors == []
