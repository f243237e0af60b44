"A page imports only pages with smaller numbers."
import json, re
from pathlib import Path

API = Path(__file__).parent.parent/'nbs'/'api'


def pages():
    "Module name -> (number, modules that its exported cells import)"
    res = {}
    for p in API.glob('*.ipynb'):
        src = [''.join(c['source']) for c in json.loads(p.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'code']
        exported = '\n'.join(s for s in src if re.search(r'^#\|\s*exports?\b', s, re.M))
        name = re.search(r'^#\|\s*default_exp (\w+)', '\n'.join(src), re.M)[1]
        res[name] = int(p.name[:2]), set(re.findall(r'from privkd_nb\.(\w+) import', exported))
    return res


def test_imports_go_one_way():
    numbers = {name: n for name, (n, _) in pages().items()}
    assert len(set(numbers.values())) == len(numbers), 'two pages share a number'
    wrong = [f'{name} ({n}) imports {other} ({numbers[other]})' for name, (n, uses) in pages().items() for other in uses if numbers[other] >= n]
    assert not wrong, wrong


def test_every_page_is_a_module():
    made = {p.stem for p in (API.parent.parent/'privkd_nb').glob('*.py')} - {'__init__', '_modidx'}
    assert made == set(pages())
