"""Measures of the API notebooks: cell and line lengths, definitions seen in use, the graph of imports. `--check` exits 1 if a limit is missed.

    python tools/house.py [--check]

A public function, class or `@patch` method of an exported cell is *seen* if its name is used in a visible, non-exported code cell among
the next three cells of its page, Markdown cells included. Imports, `show_doc`, comments and strings do not count; a patched method must stand
as `.name`. Methods inside a class and constants are not counted. Lengths leave out directives and blank lines. Tables of data, literals
that are assigned to an UPPER-CASE name, may have lines over 200 columns.
Cycles count every import, inside functions too; the longest chain only those that run when a module is imported.
"""
import ast, json, re, sys
from collections import defaultdict
from functools import cache
from itertools import takewhile
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

API, PKG = Path(__file__).parent.parent/'nbs'/'api', 'privkd_nb'
LENIENT = 'trainer teacher fine_tune distil report joint'.split()   # Pages whose definitions need a whole training job, with a lower limit
DEFS = ast.FunctionDef, ast.AsyncFunctionDef
WHOLE = 'init', 'losses'                                              # Rooms in which every definition is seen
LIMITS = dict(seen=.72, seen_lenient=.5, cell_median=12, cell_max=50, over_140=.015, chain=10)


class Cell(NamedTuple):
    "A cell without its directives"
    kind:str        # 'code' or 'markdown'
    marks:list      # Directives, such as 'export' or 'echo: false'
    code:str        # Source
    at:str          # Page and number, for messages

    @property
    def exported(self): return self.kind == 'code' and any(re.match(r'export[si]?\b', m) for m in self.marks)
    @property
    def visible(self): return not any(re.match(r'hide|default_exp|(echo|include): *false', m) for m in self.marks)
    @property
    def lines(self): return [l for l in self.code.splitlines() if l.strip()]

def read_page(path)->list:
    "The cells of a notebook"
    def cell(i, c):
        lines = ''.join(c['source']).split('\n')
        marks = [l[2:].strip() for l in takewhile(lambda l: l.startswith('#|'), lines)]
        return Cell(c['cell_type'], marks, '\n'.join(lines[len(marks):]), f'{path.parent.name}/{path.stem}[{i}]')
    return [cell(i, c) for i,c in enumerate(json.loads(path.read_text(encoding='utf-8'))['cells'])]

def read_pages(api=API)->dict:
    "Module name -> cells, of the pages that export a module"
    pages = {}
    for p in sorted(p for p in Path(api).glob('**/*.ipynb') if not re.search(r'(^|/)[._]', p.relative_to(api).as_posix())):
        cells = read_page(p)
        name = next((m.split()[1] for c in cells for m in c.marks if m.startswith('default_exp ')), None)
        if name in pages: raise ValueError(f'two pages export {name}')
        if name: pages[name] = cells
    if not any(c.exported for cells in pages.values() for c in cells): raise ValueError(f'no page with an exported cell in {api}')
    return pages

def public(cell):
    "Names that a cell defines for its readers, a patched method with a dot"
    for n in ast.parse(cell.code).body:
        if not isinstance(n, DEFS+(ast.ClassDef,)) or n.name.startswith('_'): continue
        patched = any(ast.unparse(d).startswith('patch') for d in n.decorator_list)
        yield '.'*patched + n.name

def used(cell)->set:
    "Names that a cell reads or calls, attributes with a dot too"
    tree = ast.parse('' if cell.code.startswith('%%') else re.sub(r'^[%!].*', '', cell.code, flags=re.M))
    shown = {id(n) for c in ast.walk(tree) if isinstance(c, ast.Call) and ast.unparse(c.func) == 'show_doc' for n in ast.walk(c)}
    read = [n for n in ast.walk(tree) if id(n) not in shown and isinstance(getattr(n, 'ctx', None), ast.Load)]
    attrs = {n.attr for n in read if isinstance(n, ast.Attribute)}
    return {n.id for n in read if isinstance(n, ast.Name)} | attrs | {f'.{a}' for a in attrs}

def seen_in_use(cells)->dict:
    "Public name -> whether one of the next three cells shows it in use"
    res = {}
    for i,c in enumerate(cells):
        if not c.exported: continue
        shown = [o for o in cells[i+1:i+4] if o.kind == 'code' and o.visible and not o.exported]
        names = set().union(*map(used, shown))
        res |= {(c.at, n): n in names for n in public(c)}
    return res

def table_lines(cell)->set:
    "Lines of a cell that belong to a table of data: a literal assigned to an UPPER-CASE name"
    res = set()
    for n in ast.parse(cell.code).body:
        if not isinstance(n, (ast.Assign, ast.AnnAssign)) or not isinstance(n.value, (ast.Dict, ast.List, ast.Set, ast.Tuple)): continue
        names = n.targets if isinstance(n, ast.Assign) else [n.target]
        if all(isinstance(t, ast.Name) and t.id.isupper() for t in names): res |= set(range(n.lineno-1, n.end_lineno))
    return res

def too_wide(cells, limit=200)->tuple:
    "Lines over `limit` columns: those of code, and those of tables"
    code, table = [], []
    for c in cells:
        inside = table_lines(c)
        for i,l in enumerate(c.code.splitlines()):
            if len(l) > limit: (table if i in inside else code).append(f'{c.at} ({len(l)}): {l.strip()[:60]}')
    return code, table

def imported(node, modules)->set:
    "Modules of ours that one statement or call imports"
    if isinstance(node, ast.Import): found = [a.name for a in node.names]
    elif isinstance(node, ast.ImportFrom): found = [node.module or ''] + [f'{node.module}.{a.name}' for a in node.names]
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith('lazy_import'): found = [ast.unparse(node.args[0]).strip("'")]
    else: found = []
    return {m.removeprefix(f'{PKG}.') for m in found if m.startswith(f'{PKG}.')} & modules

def import_graph(pages, inside=True)->dict:
    "Module -> modules that its exported cells import; `inside` functions too"
    def walk(node):
        yield node
        for n in ast.iter_child_nodes(node):
            if inside or not isinstance(n, DEFS+(ast.Lambda,)): yield from walk(n)
    graph = defaultdict(set)
    for module,cells in pages.items():
        for c in cells:
            if c.exported: graph[module] |= {m for n in walk(ast.parse(c.code)) for m in imported(n, set(pages))}
    return {m: sorted(uses - {m}) for m,uses in graph.items()}

def find_cycles(graph)->list:
    "One cycle through every module that can reach itself, each cycle once"
    def path_back(m, path):
        for u in graph.get(m, ()):
            if u == path[0]: return path
            if u not in visited and not visited.add(u) and (p := path_back(u, path+[u])): return p
    found = {}
    for m in graph:
        visited = {m}
        if p := path_back(m, [m]): found.setdefault(frozenset(p), p + [m])
    return list(found.values())

def longest_chain(graph)->list:
    "The longest chain of imports, importer first, in a graph without cycles"
    @cache
    def chain(m): return max(([m] + chain(u) for u in graph.get(m, ())), key=len, default=[m])
    return max(map(chain, graph), key=len)

def measure(api=API)->dict:
    "All measures of the pages in a folder"
    pages = read_pages(api)
    cells = [c for cs in pages.values() for c in cs if c.exported and c.lines]
    lines, longest = [l for c in cells for l in c.lines], max(cells, key=lambda c: len(c.lines))
    sizes, wide = [len(c.lines) for c in cells], too_wide(cells)
    functions = [n for c in cells for n in ast.walk(ast.parse(c.code)) if isinstance(n, DEFS)]
    seen = {m: list(s.values()) for m,cs in pages.items() if (s := seen_in_use(cs))}
    every, cycles = [s for v in seen.values() for s in v], find_cycles(import_graph(pages))
    return dict(
        pages=len(pages), definitions=len(every), lines=len(lines),
        seen=sum(every)/len(every), seen_by_page={m: (sum(v)/len(v), len(v)) for m,v in seen.items()},
        cell_median=median(sizes), cell_p90=quantiles(sizes, n=10)[-1], cell_max=max(sizes), cell_longest=longest.at,
        function_median=median(f.end_lineno-f.lineno+1 for f in functions),
        over_140=sum(len(l) > 140 for l in lines)/len(lines), over_200=sum(len(l) > 200 for l in lines)/len(lines),
        wide_code=wide[0], wide_tables=wide[1],
        cycles=cycles, chain=longest_chain(import_graph(pages, inside=False)) if not cycles else [])

def lenient(m)->dict:
    "Share of definitions seen, of the pages with the lower limit"
    return {p: share for p,(share,_) in m['seen_by_page'].items() if p.split('.')[-1] in LENIENT}

def missed(m)->list:
    "The limits that the measures miss, one line each"
    l = LIMITS
    checks = [(m['seen'] >= l['seen'], f'seen in use: {m["seen"]:.0%}, at least {l["seen"]:.0%}'),
        *[(s == 1, f'seen in use on {p}: {s:.0%} of {n}, where all are') for p,(s,n) in m['seen_by_page'].items() if p.split('.')[0] in WHOLE],
        *[(s >= l['seen_lenient'], f'seen in use on {p}: {s:.0%}, at least {l["seen_lenient"]:.0%}') for p,s in lenient(m).items()],
        (m['cell_median'] <= l['cell_median'], f'median exported cell: {m["cell_median"]:g} lines, at most {l["cell_median"]}'),
        (m['cell_max'] <= l['cell_max'], f'longest exported cell: {m["cell_max"]} lines ({m["cell_longest"]}), at most {l["cell_max"]}'),
        (m['over_140'] < l['over_140'], f'lines over 140 columns: {m["over_140"]:.2%}, below {l["over_140"]:.1%}'),
        (not m['wide_code'], f'{len(m["wide_code"])} lines over 200 columns outside tables of data'),
        (not m['cycles'], f'{len(m["cycles"])} cycles of imports'),
        (len(m['chain']) <= l['chain'], f'longest chain of imports: {len(m["chain"])} modules, at most {l["chain"]}')]
    return [text for good,text in checks if not good]

def table(m)->str:
    "The measures as text"
    low = sorted(m['seen_by_page'], key=lambda p: m['seen_by_page'][p])
    rows = [f'{m["pages"]} pages, {m["definitions"]} public definitions, {m["lines"]} exported lines',
        f'exported cell     median {m["cell_median"]:g}, p90 {m["cell_p90"]:g}, max {m["cell_max"]} lines ({m["cell_longest"]})',
        f'function          median {m["function_median"]:g} lines',
        f'lines             over 140 columns {m["over_140"]:.2%}, over 200 {m["over_200"]:.2%}',
        *[f'  over 200        {l}' for l in m['wide_code']], *[f'  table of data   {l}' for l in m['wide_tables']],
        f'imports           longest chain {len(m["chain"])}: {" > ".join(m["chain"])}',
        *[f'  cycle           {" > ".join(c)}' for c in m['cycles']], f'seen in use       {m["seen"]:.1%}']
    shown = low[:10] + [p for p in low[10:] if p in lenient(m)]
    return '\n'.join(rows + [f'  {p:24}{share:6.0%} of {n}' for p in shown for share,n in [m['seen_by_page'][p]]])


if __name__ == '__main__':
    found = measure()
    print(table(found))
    if '--check' in sys.argv[1:] and (bad := missed(found)): sys.exit('\n'.join(['', 'Missed:', *bad]))
