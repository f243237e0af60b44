"""The documentation site, in `_docs`: by Quarto where it is installed, otherwise by zensical, from the same pages and the same sidebar.

    python tools/site.py [--out _docs] [--no-quarto]
"""
import argparse, fnmatch, re, shutil, subprocess, sys, tempfile
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml
from nbdev.quarto import refresh_quarto_yml
from privkd_nb.apps.explorer_file import save_explorer

sys.path.insert(0, str(Path(__file__).parent))
from pages import CFG, DOCS_URL, LOCK, NBS, PROC, REPOSITORY, ROOT, Page, body, process, read_page

FEATURES = ['navigation.tabs', 'navigation.top', 'navigation.footer', 'toc.follow', 'content.code.copy', 'search.highlight']
EXTENSIONS = ['attr_list', 'md_in_html', 'tables', 'footnotes', 'def_list', 'admonition', 'pymdownx.details', 'pymdownx.betterem', 'pymdownx.superfences',
              {'pymdownx.highlight': dict(pygments_lang_class=True)}, {'toc': dict(permalink='¶', toc_depth=3)}]


# ---- the sidebar

def sidebar(pages):
    "`[(title, page or [(title, page), ...]), ...]` from the sidebar in `_quarto.yml`; patterns that match nothing are left out"
    def matching(pattern): return [p for p in pages if p.path.parent.as_posix() == (Path(pattern).parent.as_posix()) and fnmatch.fnmatch(p.path.name, Path(pattern).name)]
    def entries(item):
        if isinstance(item, list): return [e for i in item for e in entries(i)]
        if isinstance(item, str): return [(p.title, p) for p in matching(item)]
        if 'section' in item: return [(item['section'], inside)] if (inside := entries(item['contents'])) else []
        return [(item.get('text', p.title), p) for p in matching(item.get('auto') or item['href'])]
    return entries(yaml.safe_load((ROOT/'_quarto.yml').read_text(encoding='utf-8'))['website']['sidebar']['contents'])


def sections(nav, title='Start'):
    "The sidebar with single pages gathered under one section, for lists: `[(title, pages), ...]`; a section within a section is 'Reference: Data'"
    found = [(title, [p for _, p in nav if isinstance(p, Page)])]
    for t, inside in nav:
        if not isinstance(inside, Page): found += sections(inside, t if title == 'Start' else f'{title}: {t}')
    return [(t, ps) for t, ps in found if ps]


# ---- pages for zensical

def site_markdown(page, nav, links) -> str:
    "A page's Markdown for zensical: front matter, title, promise, body; the home page ends on a map of the site"
    front = yaml.safe_dump(dict(title=page.title, description=page.promise, hide=['navigation', 'toc'] if page.out == 'index.html' else []), allow_unicode=True)
    head = f'# {page.title}\n\n{page.promise}\n{{ .promise }}\n\n' if page.promise else f'# {page.title}\n\n'
    if page.out == 'index.html': return f'---\n{front}---\n\n{head}{buttons(nav)}{body(page, links=links)}\n{site_map(nav)}'
    return f'---\n{front}---\n\n{head}{body(page, links=links)}'


def buttons(nav) -> str:
    "Where to go from the home page: its first section, the first page of the first kinds of page, the repository"
    first = [(t, ps[0]) for t, ps in sections(nav)[1:] if ps and t in ('Tutorials', 'Experiments', 'Reference')]
    links = ['[Start](#start){ .md-button .md-button--primary }'] + [f'[{t}]({p.out}){{ .md-button }}' for t, p in first]
    if REPOSITORY: links.append(f'[Repository]({REPOSITORY}){{ .md-button }}')
    return ' '.join(links) + '\n{ .buttons }\n\n'


def site_map(nav) -> str:
    "The sections and their pages as a grid of cards"
    cards = [f'-   **{t}**\n\n    ' + ' · '.join(f'[{p.title}]({p.out})' for p in ps if p.out != 'index.html') for t, ps in sections(nav)[1:]]
    return '## On this site { #on-this-site }\n\n<div class="grid cards" markdown>\n\n' + '\n\n'.join(cards) + '\n\n</div>\n'


def zensical_config(nav) -> dict:
    "The settings of zensical, as mkdocs.yml has them; nothing is fetched from other hosts, so no fonts and no repository statistics"
    def entry(title, target): return {title: target.md if isinstance(target, Page) else [entry(*e) for e in target]}
    toggle = lambda icon, to: dict(icon=f'lucide/{icon}', name=f'Switch to {to}')
    palette = [dict(scheme='default', primary='custom', accent='custom', media='(prefers-color-scheme: light)', toggle=toggle('moon', 'dark')),
               dict(scheme='slate', primary='custom', accent='custom', media='(prefers-color-scheme: dark)', toggle=toggle('sun', 'light'))]
    return dict(site_name=CFG.title, site_description=CFG.description, site_url=DOCS_URL, use_directory_urls=False, nav=[entry(*e) for e in nav],
                copyright=CFG.copyright, theme=dict(variant='modern', font=False, palette=palette, features=FEATURES, icon=dict(logo='lucide/languages'), favicon='assets/favicon.svg'),
                extra=dict(generator=False, social=[dict(icon='fontawesome/brands/git-alt', link=REPOSITORY, name='Repository')] if REPOSITORY else []),
                extra_css=['assets/site.css'], markdown_extensions=EXTENSIONS)


def zensical(pages, nav, out):
    "Build the site with zensical, in a folder of its own since it wants input, output and cache under one root"
    links = {str(p.path): p for p in pages}
    with tempfile.TemporaryDirectory() as tmp:
        docs = Path(tmp)/'docs'
        shutil.copytree(PROC, docs, ignore=shutil.ignore_patterns('*.ipynb', '*.yml', '*.py', '.*', '_docs'))
        for p in pages: write(docs/p.md, site_markdown(p, nav, links))
        write(Path(tmp)/'mkdocs.yml', yaml.safe_dump(zensical_config(nav), allow_unicode=True, sort_keys=False))
        done = subprocess.run([sys.executable, '-m', 'zensical', 'build', '-f', 'mkdocs.yml'], cwd=tmp, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode: sys.exit(done.stdout)
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(Path(tmp)/'site', out)
    exact_search(out)


LONG = 40 # Characters of a cell that wants room

def roomy(out):
    "Cells of many characters are marked for the style sheet: on a narrow page a browser would give them the width of their longest word"
    def mark(m):
        text = re.sub(r'<[^>]+>|&\w+;|\s+', ' ', m['text']).strip()
        if len(text) < LONG: return m[0]
        classes = re.search(r'\bclass="([^"]*)"', m['attrs'])
        attrs = m['attrs'].replace(classes[0], f'class="{classes[1]} long"') if classes else f'{m["attrs"]} class="long"'
        return f'<td{attrs}>{m["text"]}</td>'
    for p in out.rglob('*.html'):
        if is_source(p, out): continue
        text = p.read_text(encoding='utf-8')
        write(p, re.sub(r'<td(?P<attrs>(?: [^>]*)?)>(?P<text>.*?)</td>', mark, text, flags=re.S))


SEARCH = { # In zensical's worker: what it does, and what it does here
    'e=2){if(t.length<r.length)return': 'e=[0,0,0,0,1,1,1,1][Math.min(t.length,r.length)]??2){if(t.length<r.length)return',      # typing errors that are forgiven
    'a.value=(u=re(this.data,o))!=null?u:o': 'a.value=o.length>2&&(u=re(this.data,o))!=null?u:o'}                                # beginnings of words

def exact_search(out):
    """Zensical's search forgives two typing errors in a word of any length, so that 'onnx' finds 'on', and takes every word for a beginning, so that 'ce' finds
    'cell'. Here a word of up to three letters forgives none, up to seven one; two letters are a word."""
    [worker] = (out/'assets'/'javascripts'/'workers').glob('search.*.js')
    text = worker.read_text(encoding='utf-8')
    for theirs, ours in SEARCH.items():
        if text.count(theirs) != 1: sys.exit(f'{worker.name} searches in another way than that of zensical 0.0.73: mend SEARCH in tools/site.py')
        text = text.replace(theirs, ours)
    write(worker, text)


def quarto_settings() -> dict:
    "What Quarto is told besides _quarto.yml: nbdev's settings, with the repository only where readers can see it"
    settings = yaml.safe_load((NBS/'nbdev.yml').read_text(encoding='utf-8'))
    for k in ('repo-url', 'repo-branch'): settings['website'].pop(k, None)
    if REPOSITORY: settings['website']['navbar'] = dict(right=[dict(icon='git', href=REPOSITORY, **{'aria-label': 'Repository'})])
    return settings


def quarto(out):
    "Build the site with Quarto"
    write(PROC/'nbdev.yml', yaml.safe_dump(quarto_settings(), allow_unicode=True, sort_keys=False))
    subprocess.run(['quarto', 'render', '--no-cache'], cwd=PROC, check=True)
    shutil.rmtree(out, ignore_errors=True)
    shutil.move(PROC/CFG.doc_path.name, out)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding='utf-8')


# ---- for readers that are programs

def llms(pages, nav, out):
    "llms.txt (see llmstxt.org), the Markdown of every page beside its HTML, and all of it in llms-full.txt"
    head = f'# {CFG.title}\n\n> {CFG.description}\n'
    texts = {p.out: f'# {p.title}\n\n' + (f'> {p.promise}\n\n' if p.promise else '') + body(p, rich=False) for p in pages}
    for p in pages: write(out/p.md, texts[p.out])
    listed = '\n'.join(f'\n## {t}\n\n' + '\n'.join(f'- [{p.title}]({DOCS_URL}{p.md})' + (f': {p.promise}' if p.promise else '') for p in ps) for t, ps in sections(nav))
    write(out/'llms.txt', f'{head}{listed}\n')
    write(out/'llms-full.txt', head + '\n' + '\n'.join(texts[p.out] for _, ps in sections(nav) for p in ps))


# ---- checks

class Found(HTMLParser):
    "The ids, links and resources of one page"
    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.resources = set(), [], []
        self.feed(path.read_text(encoding='utf-8'))

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.ids.update(v for k in ('id', 'name') if (v := a.get(k)))
        if tag == 'a' and a.get('href'): self.links.append(a['href'])
        if a.get('src'): self.resources.append(a['src'])
        if tag == 'link' and a.get('href') and a.get('rel') not in ('canonical', 'prev', 'next', 'alternate'): self.resources.append(a['href'])


@cache
def parsed(page): return Found(page)


@cache
def target_of(folder, path): return (folder/unquote(path)).resolve()    # the same few hundred links stand in every page's sidebar

@cache
def is_source(page, site): return not {site/'source', site/'files'}.isdisjoint(page.parents)   # a module as a page, or a file to take away: no links to other pages

@cache
def source_text(page): return page.read_text(encoding='utf-8')


def broken_links(site) -> list[str]:
    "`page -> target` for every link or resource inside the site that leads nowhere, or to an anchor that is not there"
    site = Path(site).resolve()
    found = {p: parsed(p) for p in site.rglob('*.html') if not is_source(p, site)}
    broken = []
    for page, f in found.items():
        if page.name == '404.html': continue      # its links are absolute, to work from any address
        for link in f.links + f.resources:
            url = urlsplit(link)
            if url.scheme or url.netloc: continue
            target = target_of(page.parent, url.path) if url.path else page
            if target.is_dir(): target /= 'index.html'
            if is_source(target, site) and target.exists(): missing_anchor = url.fragment and f'id="{url.fragment}"' not in source_text(target)
            else: missing_anchor = url.fragment and target in found and unquote(url.fragment) not in found[target].ids | {'__skip'}
            if not target.exists() or missing_anchor: broken.append(f'{page.relative_to(site)} -> {link}')
    return broken


def external_resources(site) -> list[str]:
    "`page -> address` for every script, style, font or picture that a page would fetch from another host"
    site = Path(site)
    return [f'{p.relative_to(site)} -> {r}' for p in site.rglob('*.html') if not is_source(p, site) for r in parsed(p).resources if urlsplit(r).netloc]


def build(out, use_quarto=False) -> Path:
    "Process the notebooks and build the site in `out`"
    with LOCK: return build_pages(Path(out).resolve(), use_quarto)


def build_pages(out, use_quarto) -> Path:
    "As `build`, with `_proc/` to itself"
    refresh_quarto_yml()
    pages = [read_page(p) for p in process()]
    nav = sidebar(pages)
    if use_quarto: quarto(out)
    else: zensical(pages, nav, out)
    roomy(out)
    llms(pages, nav, out)
    for p in pages: write(out/'notebooks'/p.path, (NBS/p.path).read_text(encoding='utf-8'))
    save_explorer('sample', out/'files'/'explorer.html')
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--out', default=CFG.doc_path, type=Path, help='where the site goes')
    parser.add_argument('--no-quarto', action='store_true', help='use zensical even if Quarto is installed')
    args = parser.parse_args()
    use_quarto = bool(shutil.which('quarto')) and not args.no_quarto
    out = build(args.out, use_quarto)
    print(f'The site is in {out}: open {out/"index.html"}, or serve it with `make preview`')
    broken = broken_links(out)
    if broken: print('Broken links:', *broken, sep='\n', file=sys.stderr)
    sys.exit(bool(broken) and not use_quarto)       # Quarto's own scripts add anchors that are not in its HTML


if __name__ == '__main__': main()
