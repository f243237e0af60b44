"The documentation site, built once without Quarto: pages, links, figures and search index."
import json, re
from collections import Counter

import pytest
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


def test_formulas_are_mathml(site):
    text = ''.join((site/'api'/'losses'/f'{p}.html').read_text() for p in ('logits', 'features'))
    assert text.count('<math') > 5 and '$$' not in text and '\\frac' not in text


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
