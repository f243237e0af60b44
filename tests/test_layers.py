"The packages import one way, in a written order, and inside a package a page imports only pages with smaller numbers."
import json, re
from pathlib import Path

import pytest

API = Path(__file__).parent.parent/'nbs'/'api'
PACKAGE = API.parent.parent/'privkd_nb'
# From the ground up. A package imports only what stands before it; '' are the pages that lie beside the packages.
ORDER = ['', 'data', 'models', 'compute', 'losses', 'init', 'evaluation', 'train', 'analysis', 'jobs', 'studies', 'figures', 'export', 'report', 'apps', 'bench', 'cli']
IMPORT = re.compile(r'''(?:from\s+privkd_nb\.([\w.]+)\s+import|import\s+privkd_nb\.([\w.]+)|lazy_import\(['"]privkd_nb\.([\w.]+)['"]\))''')


def read_pages(folder):
    "Module name, such as 'data.tasks' -> (its place, the modules that its exported cells import)"
    res = {}
    for p in sorted(folder.rglob('*.ipynb')):
        if any(part.startswith(('.', '_')) for part in p.relative_to(folder).parts): continue
        src = [''.join(c['source']) for c in json.loads(p.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'code']
        exported = '\n'.join(s for s in src if re.search(r'^#\|\s*exports?\b', s, re.M))
        name = re.search(r'^#\|\s*default_exp\s+([\w.]+)', '\n'.join(src), re.M)
        assert name, f'{p.name} exports no module'
        room, number = name[1].rpartition('.')[0], int(p.name[:2])
        assert room in ORDER, f'{p} lies in {room}, which has no place in ORDER; add it'
        assert room == '.'.join(p.parent.relative_to(folder).parts), f'{p} exports {name[1]}'
        assert p.stem[3:] == name[1].rpartition('.')[2], f'{p} exports {name[1]}'
        place = ORDER.index(room), number
        res[name[1]] = place, {next(filter(None, m)) for m in IMPORT.findall(exported)}
    assert res, f'there is no page in {folder}'
    return res


def faults(pages):
    "What goes the wrong way, a line each"
    places = [place for place, _ in pages.values()]
    wrong = [f'{n} has the number of another page' for n, (place, _) in pages.items() if places.count(place) > 1]
    for name, (place, uses) in pages.items():
        for other in uses:
            if other not in pages: wrong.append(f'{name} imports {other}, which no page exports')
            elif pages[other][0] >= place: wrong.append(f'{name} imports {other}, which stands above it')
    return wrong


def test_imports_go_one_way(): assert faults(read_pages(API)) == []


def test_every_page_is_a_module():
    made = {'.'.join(p.relative_to(PACKAGE).with_suffix('').parts) for p in PACKAGE.rglob('*.py')}
    assert {m for m in made if not m.rpartition('.')[2].startswith('_')} == set(read_pages(API))


def page(folder, path, *cells):
    p = folder/path
    p.parent.mkdir(parents=True, exist_ok=True)
    p.write_text(json.dumps(dict(cells=[dict(cell_type='code', source=c.splitlines(keepends=True)) for c in cells])))


def test_the_rule_sees_what_it_forbids(tmp_path):
    page(tmp_path, 'data/00_low.ipynb', '#| default_exp data.low', '#| export\nfrom privkd_nb.train.high import x')
    page(tmp_path, 'train/00_high.ipynb', '#| default_exp train.high', "#| exports\nf = lazy_import('privkd_nb.train.later')")
    page(tmp_path, 'train/01_later.ipynb', '#| default_exp train.later', '#| export\nfrom privkd_nb.data.low import x\nimport privkd_nb.nowhere')
    page(tmp_path, '00_core.ipynb', '#| default_exp core', '#| export\nx = 1', 'from privkd_nb.train.high import x   # not exported: an example')
    assert sorted(faults(read_pages(tmp_path))) == ['data.low imports train.high, which stands above it', 'train.high imports train.later, which stands above it',
                                                    'train.later imports nowhere, which no page exports']


def test_the_rule_cannot_pass_on_nothing(tmp_path):
    with pytest.raises(AssertionError, match='no page'): read_pages(tmp_path)
    page(tmp_path, 'data/00_low.ipynb', '#| default_exp models.low')
    with pytest.raises(AssertionError, match='exports models.low'): read_pages(tmp_path)
    page(tmp_path, 'data/00_low.ipynb', '#| default_exp new.low')
    with pytest.raises(AssertionError, match='has no place in ORDER; add it'): read_pages(tmp_path)
