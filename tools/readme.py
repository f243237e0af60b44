"Render README.md from nbs/index.ipynb; with --check, say whether it is up to date."
import re, sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parent.parent


def shown(cell):
    "A cell, or only what it shows: what a cell without its source computed is Markdown"
    if not re.match(r'#\|\s*echo: false', cell.source): return cell
    return nbformat.v4.new_markdown_cell('\n\n'.join(o.data['text/markdown'] for o in cell.outputs if 'text/markdown' in o.get('data', {})))


def readable(text) -> str:
    "Markdown without escapes that nothing in these outputs needs: a reader of the file sees signs, not their numbers"
    return re.sub(r'&#(39|40|41|43|45|46|58|91|93);', lambda m: chr(int(m[1])), text)


def render() -> str:
    "The index page as Markdown, without hidden cells, directives and interactive outputs"
    nb = nbformat.read(ROOT/'nbs'/'index.ipynb', 4)
    nb.metadata['language_info'] = dict(name='python')
    nb.cells = [shown(c) for c in nb.cells if not re.match(r'#\|\s*hide', c.source) and c.cell_type != 'raw']
    for c in nb.cells:
        if c.cell_type == 'code':
            c.source = '\n'.join(l for l in c.source.split('\n') if not l.startswith('#|'))
            for o in c.outputs:     # a README shows text and tables; figures are pictures in the text
                if 'data' in o: o.data = {k: v for k, v in o.data.items() if k in ('text/plain', 'text/markdown')}
                if 'text/markdown' in o.get('data', {}): o.data['text/markdown'] = readable(o.data['text/markdown'])
            c.outputs = [o for o in c.outputs if o.output_type != 'stream' or o.name == 'stdout']
    body, _ = MarkdownExporter().from_notebook_node(nb)
    body = re.sub(r'\]\((?!https?:|#)', '](nbs/', body)         # what the page links to lies beside it
    return '<!-- made from nbs/index.ipynb by `make readme`: do not edit -->\n\n' + re.sub(r'\n{3,}', '\n\n', body).strip() + '\n'


if __name__ == '__main__':
    text, path = render(), ROOT/'README.md'
    if '--check' in sys.argv[1:]:
        if path.read_text(encoding='utf-8') != text: sys.exit("README.md is not what nbs/index.ipynb gives: run 'make prepare' and commit.")
    else: path.write_text(text, encoding='utf-8')
