"Notebook pages for the documentation: nbdev's processing, and what it gives as Markdown."
import ast, html, importlib, inspect, json, os, re, shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import fastcore.docments as docments
import latex2mathml.converter
import yaml
from execnb.nbio import mk_cell
from nbdev.config import get_config
from nbdev.doclinks import NbdevLookup, nbglob
from nbdev.process import Processor
from nbdev.processors import FilterDefaults, exec_show_docs
from nbdev.serve_drv import exec_nb
from nbdev.showdoc import show_doc

from privkd_nb.markup import html_attr, md_text

CFG = get_config(path=Path(__file__).parent)
ROOT, NBS, PROC = CFG.config_path, CFG.nbs_path, CFG.config_path/'_proc'
DOCS_URL = f'{CFG.doc_host}{CFG.doc_baseurl}/'
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
        text = NbdevLookup().linkify('\n\n'.join(d._repr_markdown_() for d in docs if d is not None))
        cell.outputs = [dict(output_type='display_data', metadata={}, data={'text/markdown': text})]


class TitleCell(Processor):
    "Gives the title and the promise a cell of their own: nbdev makes front matter of that cell and drops the rest of it"
    def begin(self):
        cell = self.nb.cells[0]
        m = re.match(r'(\s*# [^\n]*\n(?:\s*> [^\n]*(?:\n|$))?(?:\s*- [\w-]+: [^\n]*(?:\n|$))*)(.*\S.*)', cell.source, re.S)
        if cell.cell_type != 'markdown' or not m: return
        cell.source = m[1]
        self.nb.cells.insert(1, mk_cell(m[2].strip(), 'markdown'))


class Processors(FilterDefaults):
    "nbdev's processors, but no cell is executed"
    def base_procs(self): return [TitleCell] + [ModuleDocs if p is exec_show_docs else p for p in super().base_procs()]


def process() -> list[Path]:
    "Process the notebooks that changed into `_proc/`, from which either renderer builds; returns all pages' paths inside it"
    shutil.copytree(NBS, PROC, dirs_exist_ok=True, ignore=shutil.ignore_patterns('*.ipynb', '.*', 'runs'))
    since = max(f.stat().st_mtime for f in (ROOT/'settings.ini', CFG.lib_path/'_modidx.py', Path(__file__)))
    pages = [Path(p).relative_to(NBS) for p in sorted(nbglob(NBS))]
    for p in pages:
        src, dst = NBS/p, PROC/p
        if dst.exists() and dst.stat().st_mtime > max(since, src.stat().st_mtime): continue
        dst.parent.mkdir(parents=True, exist_ok=True)
        try: exec_nb(src, dst, Processors)
        except Exception as e: raise RuntimeError(f'cannot process {src.relative_to(ROOT)}: {e}') from e
        dst.touch()
    for old in PROC.rglob('*.ipynb'):
        if old.relative_to(PROC) not in pages and '.ipynb_checkpoints' not in old.parts: old.unlink()
    return pages


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


def joined(s): return s if isinstance(s, str) else ''.join(s)


# ---- a page as Markdown

def body(page, rich=True, links=None) -> str:
    """The cells of a page as Markdown. `rich`: for the site, with figures, tables, MathML and explicit ids; otherwise plain, to be read.
    `links` maps the path of a notebook to its page."""
    parts, ids = [], Counter()
    for i, c in enumerate(page.cells):
        following = page.cells[i+1]['source'] if i+1 < len(page.cells) else ''
        parts += [prose(c['source'], page, links, ids, rich)] if c['cell_type'] == 'markdown' else code(c, following, page, links, ids, rich)
    text = re.sub(r'\n{3,}', '\n\n', '\n\n'.join(p for p in parts if p.strip())) + '\n'
    if 'data-figure=' not in text: return text
    return text + '\n' + ''.join(f'<script src="{page.relative("assets/"+f)}" defer></script>' for f in ('plotly.min.js', 'figures.js')) + '\n'      # once a page


def code(cell, following, page, links, ids, rich) -> list[str]:
    "A code cell: its source without directives, then its outputs"
    directives = dict(re.findall(r'^#\| *([\w-]+): *(.*?) *$', cell['source'], re.M))
    if directives.get('include') == 'false': return []
    source = '\n'.join(l for l in cell['source'].split('\n') if not l.startswith('#|')).strip('\n')
    parts = [fence(source, 'python')] if source.strip() and directives.get('echo') != 'false' else []
    if directives.get('output') == 'false': return parts
    for o in cell['outputs']:
        data = {k: v if isinstance(v, dict) else joined(v) for k, v in o.get('data', {}).items()}
        if 'text/markdown' in data and 'text/html' not in data:
            text = data['text/markdown']
            if 'Exported source' in following: text = re.sub(r'```python\n.*?\n```\n', '', text, count=1, flags=re.S)   # which shows the signature
            text = re.sub(r'^---\n', '', text) if directives.get('echo') == 'false' else text
            parts.append(prose(text, page, links, ids, rich))
        else: parts.append(output(o, data, page, rich))
    return parts


def output(o, data, page, rich) -> str:
    "One output that is not Markdown: a figure, a table, a picture or text"
    if o['output_type'] == 'stream': return fence(last_state(joined(o['text'])), 'text', rich) if o['name'] == 'stdout' else ''
    if o['output_type'] == 'error': return fence(ANSI.sub('', '\n'.join(o['traceback'])), 'text', rich)
    if 'application/vnd.plotly.v1+json' in data: return figure(data['application/vnd.plotly.v1+json'], page, rich)
    if 'PlotlyConfig' in data.get('text/html', ''): return ''               # plotly's loader, which fetches what the site has
    if 'text/html' in data and rich: return f'<div class="output">{one_block(data["text/html"])}</div>'
    if 'image/svg+xml' in data and rich: return f'<div class="output">{one_block(data["image/svg+xml"])}</div>'
    for kind in ('image/png', 'image/jpeg'):
        if kind in data and rich: return f'<div class="output"><img alt="" src="data:{kind};base64,{data[kind].strip()}"></div>'
    if 'application/vnd.jupyter.widget-view+json' in data: return ''        # a site has no kernel
    return fence(ANSI.sub('', data.get('text/plain', '')), 'text', rich)


def last_state(text):
    "Streamed text as a terminal leaves it: a progress bar keeps its last state only"
    return '\n'.join(l.rstrip('\r').rsplit('\r', 1)[-1] for l in ANSI.sub('', text).split('\n')).strip('\n')


def fence(text, language, rich=False) -> str:
    "A code block; an output's is marked for the style sheet"
    if not text.strip(): return ''
    ticks = '`'*max(3, 1 + max((len(t) for t in re.findall(r'`+', text)), default=0))
    return f'{ticks}{" { ." + language + " .output }" if rich and language == "text" else language}\n{text}\n{ticks}'


def figure(fig, page, rich) -> str:
    "A plotly figure as a div that figures.js draws; the data is an attribute, which search does not index and Markdown does not read"
    title = fig.get('layout', {}).get('title', {})
    title = html.unescape(re.sub('<[^>]+>', ' ', title.get('text', '') if isinstance(title, dict) else str(title))).strip()
    if not rich: return f'*[interactive figure: {md_text(title, 0)}]*' if title else '*[interactive figure]*'
    height = fig.get('layout', {}).get('height', 450)
    data = html.escape(json.dumps({k: fig[k] for k in ('data', 'layout') if k in fig}, ensure_ascii=False, separators=(',', ':')))
    return f'<div class="output figure" role="img" aria-label="{html_attr(title)}" style="min-height:{height}px" data-figure="{data}"></div>'


def one_block(text):
    "HTML that Markdown takes as one block: no blank lines; a table without pandas' own style is styled by the theme, and scrolls"
    text = re.sub(r'<style scoped>.*?</style>', '', text, flags=re.S)
    text = re.sub(r'<table (?:border="1" )?class="dataframe[^"]*">', '<table>', text)
    return re.sub(r'\n\s*', '\n', text).strip()


# ---- prose

def prose(md, page, links, ids, rich) -> str:
    "Markdown of a notebook as the site's Markdown: links, callouts, lists, ids of headings, mathematics"
    if not rich: return re.sub(r'\{target="_blank"[^}]*\}|^---\n', '', md)
    md = outside_code(md, lambda text: mathematics(relink(text, page, links or {})))
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
            if h and not re.search(r'\{[^}]*#[^}]*\}$', h[2]): l = f'{h[1]} {h[2]} {{ #{heading_id(h[2], ids)} }}'
            if re.match(r' {2,3}(?:[-*+]|\d+\.) ', l) and before: l = '    ' + l.lstrip()
            if item.match(l) and before and not item.match(before) and not before.startswith(' '): yield ''
        before = l.strip() and l
        yield ''.join(indent) + l
