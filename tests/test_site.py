"The documentation site, built once without Quarto: pages, links, figures and search index."
import json, re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest, yaml
from conftest import ROOT


@pytest.fixture(scope='module')
def pages(docs, site): return [docs.read_page(p) for p in docs.process()]


def test_every_notebook_has_a_page(site, pages):
    notebooks = [p for p in (ROOT/'nbs').rglob('*.ipynb') if not any(part[0] in '._' for part in p.relative_to(ROOT).parts)]
    assert len(pages) == len(notebooks)
    assert [p.out for p in pages if not (site/p.out).exists()] == []


def test_every_page_is_in_the_sidebar(docs, pages):
    listed = {p.out for _, inside in docs.sections(docs.sidebar(pages)) for p in inside}
    assert {p.out for p in pages} - listed == set()


def test_no_link_is_broken(docs, site): assert docs.broken_links(site) == []


def test_a_stranger_reaches_every_page(docs, site):
    "By links from the home page, as they are in the files"
    seen, todo = set(), [(site/'index.html').resolve()]
    while todo:
        seen.add(at := todo.pop())
        links = {docs.target_of(at.parent, l.split('#')[0]) for l in docs.parsed(at).links if l.split('#')[0].endswith('.html') and '://' not in l}
        todo += {l for l in links if l.exists() and 'source' not in l.relative_to(site.resolve()).parts} - seen - set(todo)
    pages = {p.resolve() for p in site.rglob('*.html') if p.name != '404.html' and 'source' not in p.relative_to(site).parts}
    assert pages - seen == set() and len(seen) > 60


def test_broken_links_are_reported(docs, tmp_path):
    (tmp_path/'a.html').write_text('<a href="b.html#there">x</a> <a href="b.html#not">x</a> <img src="c.png">')
    (tmp_path/'b.html').write_text('<h2 id="there">x</h2>')
    assert docs.broken_links(tmp_path) == ['a.html -> b.html#not', 'a.html -> c.png']


def test_nothing_is_fetched_from_other_hosts(docs, site):
    assert docs.external_resources(site) == []
    scripts = {p.name: s for p in site.rglob('*.html') for s in re.findall(r'<script(?: [^>]*)?>(.*?)</script>', p.read_text(), re.S)}
    assert [n for n, s in scripts.items() if re.search(r'import\s*\(?["\']https?:', s)] == []
    assert 'url(http' not in (site/'assets'/'site.css').read_text()


def test_figures_are_drawn_by_the_sites_own_plotly(site):
    text = (site/'api'/'figures'/'style.html').read_text()
    assert 'data-figure=' in text and 'src="../../assets/plotly.min.js"' in text
    assert (site/'assets'/'plotly.min.js').stat().st_size > 1e6
    assert 'plotly.min.js' not in (site/'api'/'core.html').read_text()             # which has no figure


# ---- what Quarto is given: it cannot be run here, but every fault that it had has a condition that can be checked

@pytest.fixture(scope='module')
def config(): return yaml.safe_load((ROOT/'_quarto.yml').read_text(encoding='utf-8'))


def clashes(formats, pages):
    "Pages whose HTML pass writes the intermediate file that another format's result is called: Quarto deletes it, and fails after rendering all pages"
    others = [f for f, options in formats.items() if f != 'html' and not (isinstance(options, dict) and options.get('keep-md'))]
    return [p for p, out in pages for f in others if f in ('commonmark', 'gfm', 'markdown') and Path(p).with_suffix('.html').name == out]


def outputs(docs):
    "Every processed notebook and its `output-file`"
    for p in sorted(docs.PROC.rglob('*.ipynb')):
        front = [''.join(c['source']) for c in json.loads(p.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'raw']
        yield p.relative_to(docs.PROC).as_posix(), next((m[1] for f in front if (m := re.search(r'^output-file: (\S+)', f, re.M))), None)


def test_quarto_finds_no_two_files_of_one_name(docs, pages, config):
    named = list(outputs(docs))
    assert len(named) == len(pages) and all(out and out.endswith('.html') for _, out in named)
    assert clashes(config['format'], named) == []
    assert clashes(dict(html={}, commonmark='default'), named) != []               # as it was: the page `effect` and others
    assert clashes(dict(html={}, commonmark={'keep-md': True}), named) == []


def test_quarto_finds_what_its_settings_name(docs, pages, config):
    "Paths in _quarto.yml are relative to the folder in which it renders; one that is not there would be silently left out"
    html, website = config['format']['html'], config['website']
    paths = [html['css'], *(f for fs in html['theme'].values() for f in fs if '.' in f), website['favicon'], website['open-graph']['image'], website['twitter-card']['image']]
    assert [p for p in paths if not (docs.PROC/p).is_file()] == []
    assert [r for r in config['project']['resources'] if not [*docs.PROC.glob(r)]] == []
    assert (docs.PROC/website['open-graph']['image']).read_bytes()[:4] == b'\x89PNG'   # other sites show no SVG
    assert html['respect-user-color-scheme'] is True and html['html-math-method'] == 'mathml'


def test_themes_fetch_no_font(docs, pages, config):
    "Quarto's themes set `$web-font-path` unless it is set before, and import what it names"
    for scheme in config['format']['html']['theme'].values():
        assert any(re.search(r'^\$web-font-path: false\b', (docs.PROC/f).read_text(), re.M) for f in scheme if '.' in f), scheme


SCRIPTS = re.compile(r'<(?:script|link|iframe|img)[^>]*(?:src|href)=["\']?(?:https?:)?//|import\s*\(?["\']https?:|require(?:js)?\.(?:config|undef)')
LIBRARIES = {'text/html', 'application/javascript', 'application/vnd.jupyter.widget-view+json', 'application/vnd.plotly.v1+json', 'image/svg+xml'}

def foreign(cell):
    "What in a processed cell would make the page fetch from another host: an address, or a form of output beside which Quarto loads require.js and jQuery"
    for o in cell.get('outputs', []):
        yield from LIBRARIES & set(o.get('data', {}))
        yield from (m[0] for v in o.get('data', {}).values() if (m := SCRIPTS.search(str(v))))
    if cell['cell_type'] == 'markdown': yield from (m[0] for m in [SCRIPTS.search(''.join(cell['source']))] if m)


def test_processed_pages_load_nothing_from_other_hosts(docs, pages):
    found = {str(p): f for p in docs.PROC.rglob('*.ipynb') for c in json.loads(p.read_text(encoding='utf-8'))['cells'] if (f := list(foreign(c)))}
    assert found == {}
    assert list(foreign(dict(cell_type='code', outputs=[dict(data={'text/html': '<table></table>'})]))) == ['text/html']
    assert len(list(foreign(dict(cell_type='markdown', source='<script src="https://cdn.plot.ly/x.js"></script>')))) == 1


def test_links_lead_nowhere_that_readers_cannot_see(docs, site):
    "Neither renderer's pages link to the repository or to the address of the published site, unless REPOSITORY says that readers can see it"
    assert docs.REPOSITORY == ''
    hosts = (docs.CFG.git_url, docs.DOCS_URL)
    assert {p.name: h for p in site.rglob('*.html') for h in hosts if f'href="{h}' in p.read_text() and 'rel="canonical"' not in p.read_text().split(h)[0][-40:]} == {}
    for p in docs.PROC.rglob('*.ipynb'):
        text = '\n'.join(''.join(c['source']) for c in json.loads(p.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'markdown')
        assert not re.search(rf'\]\((?:{"|".join(map(re.escape, hosts))})', text), p
    from pages import near
    assert near('see [[`run`](a.html#run)](b.html).', '') == 'see [`run`](a.html#run).'
    assert near(f'[x]({hosts[0]}/tree/main/a) [y]({hosts[1]}api/core.html)', '../') == 'x [y](../api/core.html)'


def test_quarto_is_told_of_the_repository_only_where_it_is_seen(docs, pages, monkeypatch):
    assert 'repo-url' not in docs.quarto_settings()['website'] and 'navbar' not in docs.quarto_settings()['website']
    monkeypatch.setattr(docs, 'REPOSITORY', 'https://example.org/r')
    assert docs.quarto_settings()['website']['navbar']['right'][0]['href'] == 'https://example.org/r'


def test_every_page_gives_its_notebook(site, pages):
    for p in pages:
        if p.out == 'index.html': continue
        link = f'{"../"*(len(p.path.parts)-1)}notebooks/{p.path.as_posix()}'
        assert f'href="{link}"' in (site/p.out).read_text() and (site/'notebooks'/p.path).read_bytes() == (ROOT/'nbs'/p.path).read_bytes(), p.path


def test_symbols_link_to_their_lines(site):
    "In the site's own copy of the source"
    link = re.search(r'href="\.\./(source/privkd_nb/core\.html)#L-(\d+)"', (site/'api'/'core.html').read_text())
    lines = (ROOT/'privkd_nb'/'core.py').read_text().splitlines()
    assert re.match(r'(@|def |class )', lines[int(link[2])-1]) and f'id="L-{link[2]}"' in (site/link[1]).read_text()


def test_pictures_have_a_text_and_no_second_caption(docs, pages):
    from pages import Pictures
    cells = ['![A picture](x.svg)', 'a ![b](c.svg) line', '![Scores](images/replication.svg)']
    cells = [SimpleNamespace(cell_type='markdown', source=c) for c in cells]
    for c in cells: Pictures(None).cell(c)
    assert cells[0].source == '![A picture](x.svg)&nbsp;' and cells[1].source == 'a ![b](c.svg) line'
    assert 'data-figure=' in cells[2].source and '<img src="images/replication.svg" alt="Scores">' in cells[2].source      # drawn in the reader's colours


def test_names_with_underscores_are_no_bold_text(site):
    assert [p.name for p in site.rglob('*.html') if 'source' not in p.parts and re.search(r'<h3[^>]*>[^<]*<strong>', p.read_text())] == []
    assert 'id="initcard.__repr__"' in (site/'api'/'init'/'card.html').read_text()


def test_formulas_are_mathml(site):
    text = ''.join((site/'api'/'losses'/f'{p}.html').read_text() for p in ('logits', 'features'))
    assert text.count('<math') > 5 and '$$' not in text and '\\frac' not in text


def test_sentences_wrap_and_columns_stay():
    "A printed table keeps its columns, the sentences around it wrap"
    from pages import fence
    text = 'training on 2 of 7 texts\n\nlanguage  score\nde          0.5\n\nresults: a.csv'
    assert [l for l in fence(text, 'text', True).split('\n') if '.output' in l] == ['``` { .text .output }', '``` { .text .output .aligned }', '``` { .text .output }']
    assert [l for l in fence("{'a': 1,\n    'b': 2}", 'text', True).split('\n') if '.output' in l] == ['``` { .text .output }']


def test_cells_of_many_characters_ask_for_room(docs, tmp_path):
    "Tags and entities do not count"
    short, words = f'<a href="{"x"*50}">ok</a>', 'a sentence that is longer than forty characters'
    (tmp_path/'a.html').write_text(f'<td>{short}</td><td>{words}</td><td class="t" dir="auto">{words}</td>')
    docs.roomy(tmp_path)
    assert (tmp_path/'a.html').read_text() == f'<td>{short}</td><td class="long">{words}</td><td class="t long" dir="auto">{words}</td>'


def test_no_link_is_shown_as_text(site):
    "Such as a link around a name in backticks, which nbdev links automatically"
    shown = {p.relative_to(site): re.sub(r'<(script|style|pre|code).*?</\1>|<[^>]+>', '', p.read_text(), flags=re.S) for p in site.rglob('*.html')}
    assert len(shown) > 50
    assert {str(p): m[0] for p, text in shown.items() if (m := re.search(r'\]\((https?:|\.\./|api/)[^)]*\)', text))} == {}


def test_the_page_keeps_what_follows_its_title(site): assert 'The Privileged Students' in (site/'index.html').read_text()


def test_headings_have_the_ids_of_pandoc(docs):
    from pages import blocks
    ids = Counter()
    titles = ['### Report.table', '## What each one sees, and why', '## What each one sees, and why', '## 2 steps: `a_b`']
    assert [re.search('{ #(.*) }', l)[1] for l in blocks(titles, ids)] == ['report.table', 'what-each-one-sees-and-why', 'what-each-one-sees-and-why-1', 'steps-a_b']


def test_search_index(site, pages):
    found = {i['location'].split('#')[0] for i in json.loads((site/'search.json').read_text())['items']}
    assert {p.out for p in pages} - found - {'index.html'} == set()


def test_llms_txt_lists_every_page(site, pages):
    text = (site/'llms.txt').read_text()
    assert text.startswith('# PrivKD\n\n> ')
    assert [p.md for p in pages if f'/{p.md})' not in text or not (site/p.md).exists()] == []


def test_dollar_signs_of_prices_and_code_are_no_formulas(docs):
    from pages import mathematics, outside_code
    text = 'costs $5 or $10, `$x$`, $x$\n\n```sh\necho $HOME $PATH\n```\n'
    assert re.sub('<math.*?</math>', 'M', outside_code(text, mathematics)) == text.replace(', $x$', ', M')


def test_the_gallery_links_the_explorer_as_one_file(site):
    assert 'href="files/explorer.html"' in (site/'gallery.html').read_text()
    assert 'id="privkd-data"' in (site/'files'/'explorer.html').read_text(encoding='utf-8')
