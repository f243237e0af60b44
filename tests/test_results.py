"Pages that publish results show them: executed, dated, small, and with models that learned something"
import json, re, tempfile
from pathlib import Path

import pytest
from conftest import ROOT, load_tool

TOOL = load_tool('results')
DATED = ['run', 'effect', 'bench', 'results', 'cookbook', 'tutorials/01_first_distillation', 'tutorials/03_reading_a_run']


def cells(name): return [c for c in json.loads((ROOT/'nbs'/f'{name}.ipynb').read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'code']


def shown(cell): return [o for o in cell['outputs'] if o['output_type'] != 'stream' or o['name'] == 'stdout']


@pytest.mark.parametrize('name', TOOL.PAGES)
def test_a_page_with_results_shows_them(name):
    text = (ROOT/'nbs'/f'{name}.ipynb').read_text(encoding='utf-8')
    assert TOOL.faults(name, text) == []
    found = [o for c in cells(name) for o in c['outputs']]
    assert all(o['output_type'] != 'error' and TOOL.keep(o) for o in found)
    last = [c for c in cells(name) if not ''.join(c['source']).startswith('#| hide')][-1]
    assert shown(last), f'{name} was not executed to its end: run make pages'
    if name in DATED: assert re.search(r'Computed on 20\d\d-\d\d-\d\d with privkd_nb .*commit \w{7}', text)


def test_no_page_shows_an_untrained_model():
    "A trial run is for finding out whether everything works, not for showing"
    pages = [*(ROOT/'nbs').glob('*.ipynb'), *(ROOT/'nbs'/'tutorials').glob('*.ipynb'), *(ROOT/'nbs'/'how_to').glob('*.ipynb')]
    for p in pages:
        for c in json.loads(p.read_text(encoding='utf-8'))['cells']:
            scored = re.search(r'language_table|summary\(|languages_figure', ''.join(c['source']))
            assert not (c['cell_type'] == 'code' and scored and re.search(r'tiny ?= ?True', ''.join(c['source']))), f'{p.name}: {"".join(c["source"])[:80]}'


def test_what_is_not_stored():
    from nbformat.v4 import new_code_cell, new_notebook, new_output
    from nbformat import from_dict
    bar, notice = (new_output('stream', name='stderr', text=t) for t in ('training:  5%|x  |', 'Some weights were not used'))
    ours, text = new_output('stream', name='stderr', text='privkd: 1 fault in runs'), new_output('stream', name='stdout', text='12')
    view = from_dict(dict(output_type='display_data', metadata={}, data={'application/vnd.jupyter.widget-view+json': {}}))
    page = new_notebook(cells=[new_code_cell('x', id='a')])
    done = new_notebook(cells=[new_code_cell('y = 1', id='p', metadata=dict(tags=['injected-parameters'])), new_code_cell('x', id='a', outputs=[bar, notice, ours, text, view])])
    assert TOOL.cleaned(done, page).cells[0].outputs == [ours, text] and len(page.cells) == 1
    assert all(TOOL.faults('x', f'"{p}/a/b"') for p in (Path.home(), tempfile.gettempdir(), ROOT)) and TOOL.faults('x', 'y'*(TOOL.LARGEST+1)) and not TOOL.faults('x', 'of/tmpfs')
