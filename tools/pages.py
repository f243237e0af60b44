"Notebook pages for the documentation: nbdev's processing, and what it gives as Markdown."
import ast, importlib, inspect, json, os, re, shutil
from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import fastcore.docments as docments
import latex2mathml.converter
import yaml
from execnb.nbio import mk_cell
from filelock import FileLock
from nbdev.config import get_config
from nbdev.doclinks import NbdevLookup, nbglob
from nbdev.process import Processor
from nbdev.processors import FilterDefaults, exec_show_docs
from nbdev.serve_drv import exec_nb
from nbdev.showdoc import show_doc
from plotly.offline import get_plotlyjs
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from privkd_nb.markup import html_attr, md_text
from privkd_nb.stored import PLOTLY_JSON, WIDGET, figure_html, figure_title, is_loader

CFG = get_config(path=Path(__file__).parent)
ROOT, NBS, PROC = CFG.config_path, CFG.nbs_path, CFG.config_path/'_proc'
DOCS_URL = f'{CFG.doc_host}{CFG.doc_baseurl}/'
ASSETS = Path(__file__).parent/'assets'
REPOSITORY = os.environ.get('REPOSITORY', '')       # where readers can see it; empty: nowhere, and no page links to it
ANSI = re.compile(r'\x1B(?:[@-Z\\-_]|\[[0-?]*[ -/]*[@-~])')


# ---- nbdev's processing

def signature(f, **kwargs):
    "`inspect.signature`, where an annotation whose name is only imported for type checkers stays a string"
    try: return inspect.signature(f, **kwargs)
    except NameError: return inspect.signature(f)


class ModuleDocs(Processor):
    """Fill `show_doc` cells from the exported module. nbdev runs exported cells and imports of every page instead, which is slow,
    and fails where an import shares its cell with work that needs the cells before it."""
    def begin(self):
        docments.signature = signature
        module = [c.directives_['default_exp'] for c in self.nb.cells if 'default_exp' in c.directives_]
        self.names = vars(importlib.import_module(f'{CFG.lib_name}.{module[0][0]}')) if module else {}

    def cell(self, cell):
        if cell.cell_type != 'code' or not re.search(r'^show_doc\(', cell.source, re.M): return
        docs = [eval(ast.unparse(e), dict(self.names, show_doc=show_doc)) for e in ast.parse(cell.source).body]
        text = NbdevLookup().linkify('\n\n'.join(source_link(d._repr_markdown_(), d.sym) for d in docs if d is not None))
        cell.outputs = [dict(output_type='display_data', metadata={}, data={'text/markdown': text})]


def source_link(text, symbol) -> str:
    "The documentation of a symbol, with a link to its line in the site's copy of the source: nbdev links the repository, which a reader may not see"
    text = re.sub(r'^(#+ )(.*)$', lambda m: m[1] + plain(m[2]), text, count=1, flags=re.M)
    symbol = inspect.unwrap(getattr(symbol, 'fget', None) or symbol)
    try:
        file = Path(inspect.getsourcefile(symbol)).relative_to(ROOT)
        at = f'({DOCS_URL}source/{file.with_suffix(".html").as_posix()}#L-{inspect.getsourcelines(symbol)[1]})'
    except (TypeError, OSError, ValueError): at = ''        # a constant has no line
    return re.sub(r'\[source\]\([^)]*\)(\{[^}]*\})\n*', f'[source]{at}{{.source}}\n\n' if at else '', text, count=1)


class TitleCell(Processor):
    "Gives the title and the promise a cell of their own: nbdev makes front matter of that cell and drops the rest of it"
    def begin(self):
        cell = self.nb.cells[0]
        m = re.match(r'(\s*# [^\n]*\n(?:\s*> [^\n]*(?:\n|$))?(?:\s*- [\w-]+: [^\n]*(?:\n|$))*)(.*\S.*)', cell.source, re.S)
        if cell.cell_type != 'markdown' or not m: return
        cell.source = m[1]
        self.nb.cells.insert(1, mk_cell(m[2].strip(), 'markdown'))


class Outputs(Processor):
    """Outputs as Markdown, figures as elements that the site's plotly.js draws. Beside an HTML output Quarto loads require.js and jQuery from a CDN,
    and plotly's own HTML loads plotly.js and MathJax."""
    def cell(self, cell):
        if cell.cell_type != 'code': return
        cell.outputs = [o for o in cell.outputs if o.get('name') != 'stderr']          # progress bars and notices
        for o in cell.outputs:
            if 'text' in o: o['text'] = last_state(joined(o['text'])) + '\n'
            if 'data' in o: o['data'] = portable({k: v if isinstance(v, dict) else joined(v) for k, v in o['data'].items()})
        cell.outputs = [o for o in cell.outputs if o.get('data', True)]


def portable(data) -> dict:
    "An output's forms: Markdown, in which HTML is marked as raw; pictures; plain text"
    if is_loader(data): return {}
    rich = figure_html(data[PLOTLY_JSON]) if PLOTLY_JSON in data else data.get('text/html') or data.get('image/svg+xml')
    if not rich and WIDGET in data: return {}                               # a site has no kernel
    kept = {k: v for k, v in data.items() if k in ('text/markdown', 'text/plain', 'image/png', 'image/jpeg')}
    if rich and ('text/markdown' not in data or PLOTLY_JSON in data): kept['text/markdown'] = raw_html(rich)
    if PLOTLY_JSON in data: kept['text/plain'] = in_words(data[PLOTLY_JSON])
    return kept


def raw_html(text) -> str:
    "HTML as a block of Markdown that is passed on; a table without pandas' own style is styled by the site"
    text = re.sub(r'<style scoped>.*?</style>', '', text, flags=re.S)
    text = re.sub(r'<table (?:border="1" )?class="dataframe[^"]*">', '<table>', text)
    text = re.sub(r'\n\s*', '\n', text).strip()
    return f'{ticks(text)}{{=html}}\n{text}\n{ticks(text)}'


def ticks(text): return '`'*max(3, 1 + max((len(t) for t in re.findall(r'`+', text)), default=0))


def in_words(fig) -> str: return f'[interactive figure: {figure_title(fig)}]' if figure_title(fig) else '[interactive figure]'


class Pictures(Processor):
    "A picture with data beside it (images/x.json) becomes a live figure; one that stands alone keeps its alternative text and gets no second caption"
    def cell(self, cell):
        if cell.cell_type == 'markdown': cell.source = re.sub(r'^!\[([^\]]*)\]\(([^)\s]+)\)$', self.picture, cell.source, flags=re.M)

    def picture(self, m):
        alt, src = m.groups()
        data = NBS/Path(src).with_suffix('.json')           # pictures lie beside the landing page
        if not data.is_file(): return f'{m[0]}&nbsp;'
        return raw_html(figure_html(json.loads(data.read_text(encoding='utf-8')), f'<img src="{html_attr(src)}" alt="{html_attr(alt)}">'))


class Processors(FilterDefaults):
    "nbdev's processors, but no cell is executed"
    def base_procs(self): return [TitleCell] + [ModuleDocs if p is exec_show_docs else p for p in super().base_procs()] + [Outputs, Pictures]


LOCK = FileLock(PROC.with_name('_proc.lock'))         # Whoever holds it has `_proc/` alone; the same process may take it twice


def process() -> list[Path]:
    "Process the notebooks that changed into `_proc/`, from which either renderer builds, one caller after another; returns all pages' paths inside it"
    with LOCK: return process_pages()


def process_pages() -> list[Path]:
    "As `process`, with `_proc/` to itself"
    shutil.copytree(NBS, PROC, dirs_exist_ok=True, ignore=shutil.ignore_patterns('*.ipynb', '.*', 'runs'))
    since = max(f.stat().st_mtime for f in (ROOT/'settings.ini', CFG.lib_path/'_modidx.py', Path(__file__), *NBS.glob('images/*.json')))
    marker = PROC/'.repository'
    if not marker.is_file() or marker.read_text() != REPOSITORY: since = float('inf')
    marker.write_text(REPOSITORY)
    pages = [Path(p).relative_to(NBS) for p in sorted(nbglob(NBS))]
    for p in pages:
        src, dst = NBS/p, PROC/p
        if dst.exists() and dst.stat().st_mtime > max(since, src.stat().st_mtime): continue
        dst.parent.mkdir(parents=True, exist_ok=True)
        try: exec_nb(src, dst, Processors)
        except Exception as e: raise RuntimeError(f'cannot process {src.relative_to(ROOT)}: {e}') from e
        finish(dst, p)
    for old in PROC.rglob('*.ipynb'):
        if old.relative_to(PROC) not in pages and '.ipynb_checkpoints' not in old.parts: old.unlink()
    shutil.copytree(ASSETS, PROC/'assets', dirs_exist_ok=True)
    (PROC/'assets'/'plotly.min.js').write_text(get_plotlyjs(), encoding='utf-8')
    source_pages(PROC/'source')
    return pages


def finish(dst, path):
    "A processed page gets a link to its notebook, below its title, and the scripts that draw its figures, if it has any"
    nb = json.loads(dst.read_text(encoding='utf-8'))
    up = '../'*(len(path.parts)-1)
    for c in nb['cells']:
        if c['cell_type'] == 'markdown': c['source'] = near(joined(c['source']), up)
        for data in (o['data'] for o in c.get('outputs', []) if 'text/markdown' in o.get('data', {})): data['text/markdown'] = near(joined(data['text/markdown']), up)
    first = next((i+1 for i, c in enumerate(nb['cells']) if c['cell_type'] == 'raw'), 0)
    if path.name != CFG.readme_nb: nb['cells'].insert(first, mk_cell(raw_html(f'<p class="notebook"><a href="{up}notebooks/{path.as_posix()}" download>Download this page as a notebook</a></p>'), 'markdown'))
    scripts = ''.join(f'<script src="{up}assets/{f}" defer></script>' for f in ('plotly.min.js', 'figures.js'))
    if 'data-figure=' in json.dumps(nb): nb['cells'].append(mk_cell(raw_html(scripts), 'markdown'))
    dst.write_text(json.dumps(nb, ensure_ascii=False, indent=1), encoding='utf-8')


def near(text, up) -> str:
    "Links to the site relative to the page, whatever its address; links to the repository as it is published, or as plain text; no link in a link's text"
    text = re.sub(r'\[(\[`[^`\]]*`\]\([^)]*\))\]\([^)]*\)', r'\1', text)     # nbdev links a name in backticks also there
    text = text.replace(f']({DOCS_URL}', f']({up or "./"}').replace(f'href="{DOCS_URL}', f'href="{up or "./"}')
    if REPOSITORY: return text.replace(f']({CFG.git_url}', f']({REPOSITORY}')
    return re.sub(rf'\[([^\]]*)\]\({re.escape(CFG.git_url)}[^)]*\)', r'\1', text)


SOURCE = """<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><meta name="robots" content="noindex">
<title>{name}</title><link rel="icon" href="{up}assets/favicon.svg"><style>body {{ margin: 1rem; font: 14px/1.5 system-ui; }} pre {{ white-space: pre-wrap; overflow-wrap: anywhere; }} :target + span, a:target {{ background: #ffe08a55; }}
.linenos {{ color: #888; padding-right: 1em; user-select: none; }} {light}
@media (prefers-color-scheme: dark) {{ body {{ background: #0d0e12; color: #ddd; }} a {{ color: #56b4e9; }} {dark} }}</style></head>
<body><p><a href="{up}index.html">{title}</a> / <code>{name}</code></p>{code}</body></html>
"""

def source_pages(folder):
    "The modules as pages with an anchor for every line"
    light, dark = (HtmlFormatter(style=s).get_style_defs('.highlight').replace('background: #f8f8f8', '').replace('background: #272822;', '') for s in ('default', 'monokai'))
    shutil.rmtree(folder, ignore_errors=True)
    for p in sorted(CFG.lib_path.rglob('*.py')):
        name = p.relative_to(ROOT)
        if name.stem == '_modidx': continue
        code = highlight(p.read_text(encoding='utf-8'), PythonLexer(), HtmlFormatter(linenos='inline', lineanchors='L', anchorlinenos=False))
        to = folder/name.with_suffix('.html')
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_text(SOURCE.format(name=name.as_posix(), up='../'*len(name.parts), title=CFG.title, light=light, dark=dark, code=code), encoding='utf-8')


# ---- pages

@dataclass
class Page:
    "A processed notebook: `out` is where its HTML goes, `promise` the quoted line under its title"
    path: Path
    out: str
    title: str
    promise: str
    cells: list

    @property
    def md(self): return self.out.removesuffix('.html') + '.md'
    def relative(self, target): return os.path.relpath(target, os.path.dirname(self.out) or '.').replace(os.sep, '/')


def read_page(path) -> Page:
    "A page from `_proc/`, its front matter turned into attributes"
    nb = json.loads((PROC/path).read_text(encoding='utf-8'))
    cells = [dict(c, source=joined(c['source'])) for c in nb['cells']]
    front = next((yaml.safe_load(c['source'].strip().strip('-')) for c in cells if c['cell_type'] == 'raw' and c['source'].startswith('---')), {})
    out = str(path.with_name(front.get('output-file', path.with_suffix('.html').name)).as_posix())
    cells = [c for c in cells if c['cell_type'] != 'raw' and not c['source'].startswith('<!-- WARNING')]
    return Page(path, out, str(front.get('title', path.stem)), ' '.join(str(front.get('description', '')).split()), cells)


RAW = re.compile(r'^(`{3,})\{=html\}\n(?P<html>.*?)\n\1[ \t]*$', re.S | re.M)

def joined(s): return s if isinstance(s, str) else ''.join(s)


# ---- a page as Markdown

def body(page, rich=True, links=None) -> str:
    """The cells of a page as Markdown. `rich`: for the site, with figures, tables, MathML and explicit ids; otherwise plain, to be read.
    `links` maps the path of a notebook to its page."""
    parts, ids = [], Counter()
    for i, c in enumerate(page.cells):
        following = page.cells[i+1]['source'] if i+1 < len(page.cells) else ''
        parts += [prose(c['source'], page, links, ids, rich)] if c['cell_type'] == 'markdown' else code(c, following, page, links, ids, rich)
    return re.sub(r'\n{3,}', '\n\n', '\n\n'.join(p for p in parts if p.strip())) + '\n'


def code(cell, following, page, links, ids, rich) -> list[str]:
    "A code cell: its source without directives, then its outputs"
    directives = dict(re.findall(r'^#\| *([\w-]+): *(.*?) *$', cell['source'], re.M))
    if directives.get('include') == 'false': return []
    source = '\n'.join(l for l in cell['source'].split('\n') if not l.startswith('#|')).strip('\n')
    parts = [fence(source, 'python')] if source.strip() and directives.get('echo') != 'false' else []
    if directives.get('output') == 'false': return parts
    for o in cell['outputs']:
        data = {k: joined(v) for k, v in o.get('data', {}).items()}
        text, raw = data.get('text/markdown', ''), RAW.fullmatch(data.get('text/markdown', ''))
        if not text or raw and not rich: parts.append(output(o, data, rich))
        elif raw: parts.append(f'<div class="output">{raw["html"]}</div>')
        else:
            if 'Exported source' in following: text = re.sub(r'```python\n.*?\n```\n', '', text, count=1, flags=re.S)   # which shows the signature
            text = re.sub(r'^---\n', '', text) if directives.get('echo') == 'false' else text
            parts.append(prose(text, page, links, ids, rich))
    return parts


def output(o, data, rich) -> str:
    "One output that is not Markdown: a picture or text"
    if o['output_type'] == 'stream': return fence(joined(o['text']).rstrip('\n'), 'text', rich) if o['name'] == 'stdout' else ''
    if o['output_type'] == 'error': return fence(ANSI.sub('', '\n'.join(o['traceback'])), 'text', rich)
    for kind in ('image/png', 'image/jpeg'):
        if kind in data and rich: return f'<div class="output"><img alt="" src="data:{kind};base64,{data[kind].strip()}"></div>'
    if 'interactive figure' in data.get('text/plain', ''): return f'*{md_text(data["text/plain"], 0)}*'
    return fence(ANSI.sub('', data.get('text/plain', '')), 'text', rich)


def last_state(text):
    "Streamed text as a terminal leaves it: a progress bar keeps its last state only"
    return '\n'.join(l.rstrip('\r').rsplit('\r', 1)[-1] for l in ANSI.sub('', text).split('\n')).strip('\n')


def fence(text, language, rich=False) -> str:
    "A code block; an output's is marked for the style sheet"
    if not text.strip(): return ''
    if rich and language == 'text': return '\n\n'.join(output_fence(*part) for part in by_alignment(text))
    return f'{ticks(text)}{language}\n{text}\n{ticks(text)}'


def output_fence(columns, text) -> str: return f'{ticks(text)} {{ .text .output{" .aligned" if columns else ""} }}\n{text}\n{ticks(text)}'


def aligned(text) -> bool:
    "Whether a text has columns, which wrapping would break: two spaces inside a line"
    return any(re.search(r'\S {2,}\S', l) for l in text.split('\n'))


def by_alignment(text) -> list[tuple[bool, str]]:
    "`[(whether it has columns, paragraphs), ...]`: a printed table, and the sentences before and after it"
    return [(columns, '\n\n'.join(paragraphs)) for columns, paragraphs in groupby(re.split(r'\n{2,}', text), aligned)]


# ---- prose

def prose(md, page, links, ids, rich) -> str:
    "Markdown of a notebook as the site's Markdown: links, callouts, lists, ids of headings, mathematics"
    if not rich: return RAW.sub('', re.sub(r'\{target="_blank"[^}]*\}|\{\.source\}|^---\n', '', md))
    md = RAW.sub(lambda m: m['html'], outside_code(md, lambda text: mathematics(relink(text, page, links or {}))))
    return '\n'.join(blocks(md.split('\n'), ids))


def outside_code(md, f) -> str:
    "`md` with `f` applied to what is neither a code block nor code in a line"
    parts = re.split(r'(^ *(?:`{3,}|~{3,})[^\n]*\n.*?^ *(?:`{3,}|~{3,}) *$|(?<!`)(?P<t>`+)(?!`).+?(?<!`)(?P=t)(?!`))', md, flags=re.S | re.M)
    return ''.join(parts[i] if i % 3 == 1 else f(parts[i]) for i in range(len(parts)) if i % 3 != 2)


def relink(text, page, links) -> str:
    "Links to this site's pages, absolute or to notebooks, made relative to `page`"
    def relative(m):
        before, target = m.groups()
        path, hash_, anchor = target.partition('#')
        if path.startswith(DOCS_URL): return before + page.relative(path[len(DOCS_URL):] or 'index.html') + hash_ + anchor
        nb = os.path.normpath(page.path.parent/path)
        return before + page.relative(links[nb].out) + hash_ + anchor if nb in links and path else m.group(0)
    return re.sub(r'(\]\(|href=")([^)\s"]+)', relative, text)


def mathematics(text) -> str:
    "TeX between dollars as MathML: pandoc's rule of what is a formula, so that prices are not"
    text = re.sub(r'(?<!\\)\$\$(.+?)\$\$', lambda m: f'\n\n<div class="formula">{mathml(m[1], "block")}</div>\n\n', text, flags=re.S)
    return re.sub(r'(?<![\\$\w])\$(?=\S)([^$]+?)(?<=[^\s\\])\$(?![\d$])', lambda m: mathml(m[1], 'inline'), text)


def mathml(tex, display) -> str:
    "MathML of one formula; characters that mean something in Markdown are written as entities"
    xml = latex2mathml.converter.convert(tex.strip(), display=display).replace(' xmlns="http://www.w3.org/1998/Math/MathML"', '')
    xml = re.sub(r'(<mi>[a-z]{2,}</mi>)(?=<m(?:i|n|sub|sup|subsup|frac)\b)', r'\1<mspace width="0.17em"></mspace>', xml)     # log p, not logp
    return re.sub(r'>([^<]+)<', lambda m: '>' + re.sub(r'[*_`~^\\\[\]()!$:=+|-]', lambda c: f'&#{ord(c[0])};', m[1]) + '<', xml)


def plain(title): return title if '`' in title else title.replace('__', '\\_\\_')       # InitCard.__repr__ is not bold


def heading_id(title, ids) -> str:
    "The id that pandoc gives a heading, so that links work on the site of either renderer"
    text = re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', re.sub('<[^>]+>', '', title)).lower()
    text = re.sub(r'^[^a-z]+', '', re.sub(r'\s+', '-', re.sub(r'[^\w\s.-]', '', text).strip())) or 'section'
    ids[text] += 1
    return text if ids[text] == 1 else f'{text}-{ids[text]-1}'


def blocks(lines, ids):
    "Lines with ids at headings, `:::` callouts as admonitions, and lists as Python-Markdown wants them: after a blank line, nested by four"
    item, indent, fenced, before = re.compile(r' *(?:[-*+]|\d+\.) '), [], '', ''
    for l in lines:
        ticks = re.match(r' *(`{3,}|~{3,})', l)
        if ticks: fenced = '' if fenced and l.strip() == fenced else fenced or ticks[1]
        if not fenced and not ticks:
            div = re.match(r':::+ *(.*)$', l)
            if div:
                kind = re.search(r'callout-(\w+)', div[1])
                title = re.search(r'title="([^"]*)"', div[1])
                if kind: yield f'\n{"".join(indent)}!!! {kind[1]}' + (f' "{title[1]}"' if title else '') + '\n'
                indent = indent + ['    ' if kind else ''] if div[1] else indent[:-1]
                continue
            h = re.match(r'(#{1,6}) +(.*?) *$', l)
            if h and not re.search(r'\{[^}]*#[^}]*\}$', h[2]): l = f'{h[1]} {plain(h[2])} {{ #{plain(heading_id(h[2], ids))} }}'
            if re.match(r' {2,3}(?:[-*+]|\d+\.) ', l) and before: l = '    ' + l.lstrip()
            if item.match(l) and before and not item.match(before) and not before.startswith(' '): yield ''
        before = l.strip() and l
        yield ''.join(indent) + l
