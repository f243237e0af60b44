"The site as a reader meets it: in a browser, with a mouse."
import functools, http.server, threading
from urllib.parse import urlsplit

import pytest
from browser import chromium


@pytest.fixture(scope='module')
def served(site):
    "The site's address on this machine, and its folder"
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *a): pass
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}', site
        server.shutdown()


def test_pages_load_whole_and_ask_nobody_else(served):
    "Some pages with figures, the first of each section, and a page of source"
    url, folder = served
    pages = sorted(p for p in folder.rglob('*.html') if 'source' not in p.relative_to(folder).parts and p.name != '404.html')
    drawn = [p for p in pages if 'data-figure=' in p.read_text()]
    first = {p.parent: p for p in reversed(pages)}.values()
    with chromium() as page:
        answers, foreign = {}, []
        page.on('response', lambda r: answers.__setitem__(r.url, r.status))
        page.on('request', lambda r: None if r.url.startswith((url, 'data:', 'blob:')) else foreign.append(r.url))
        for p in {*drawn[:6], *first, folder/'source'/'privkd_nb'/'core.html'}: page.goto(f'{url}/{p.relative_to(folder).as_posix()}')
        assert {u: s for u, s in answers.items() if s >= 400} == {} and foreign == [] and page.errors == []
    assert len(drawn) >= 10


def open_search(page):
    "Press '/' until the search is open: the site hears it once its index has arrived"
    for _ in range(60):
        page.keyboard.press('/')
        page.wait_for_timeout(500)
        if page.locator('dialog input').is_visible(): return
    raise TimeoutError("'/' has not opened the search within half a minute")


def found(page, words):
    "The pages that the open search offers, best first"
    page.keyboard.press('Control+A')
    page.keyboard.type(words, delay=10)
    links, before = lambda: [a.get_attribute('href').split('?')[0] for a in page.locator('dialog ol a').all()], None
    while True:                                                                           # until they stay
        page.wait_for_timeout(400)
        if (now := links()) == before: return [urlsplit(l).path.lstrip('/') for l in now]
        before = now


def test_search_finds_what_is_meant(served):
    url, folder = served
    with chromium() as page:
        page.goto(f'{url}/how_to/resume_a_run.html')
        open_search(page)
        page.keyboard.type('student', delay=10)
        page.wait_for_selector('dialog ol a', timeout=60_000)                             # the index is there
        assert found(page, 'bootstrap')[0] == 'api/analysis/stats.html'
        assert found(page, 'init_student')[0] == 'api/init/student.html'
        assert found(page, 'resme')[0] == 'how_to/resume_a_run.html'                      # a typing error in a longer word
        assert all('onnx' in (folder/p).read_text().lower() for p in found(page, 'onnx'))    # and nothing that says 'on'
        assert not any(p.startswith('api/analysis/arms') for p in found(page, 'ce')[:3])     # the loss, not 'cell'
        assert found(page, 'csv without split')[0] == 'tutorials/your_data.html'             # how to, before how it is done
        assert page.errors == []


def test_the_home_page_and_live_figures(served):
    url, _ = served
    with chromium() as page:
        assert page.goto(f'{url}/index.html').ok
        assert page.locator('h1').first.inner_text().startswith('PrivKD')
        page.wait_for_selector('.privkd-figure[aria-label^="Accuracy by start"] .main-svg')                   # the result, in one picture
        assert 'make run' in page.inner_text('body')                                      # how to start
        assert page.goto(f'{url}/api/figures/comparisons.html').ok
        page.wait_for_selector('.js-plotly-plot .main-svg')
        gd = page.locator('.js-plotly-plot').first
        assert gd.evaluate('e => e.data.length') > 1 and gd.bounding_box()['width'] > 400
        gd.scroll_into_view_if_needed()
        point = page.locator('.js-plotly-plot .scatterlayer .points path').first.bounding_box()
        page.mouse.move(point['x']+point['width']/2, point['y']+point['height']/2)
        page.wait_for_selector('.hoverlayer .hovertext')                                  # alive, not a picture
        assert page.errors == []


def test_figures_follow_the_scheme(served):
    "The reader's colours at first, then the page's own switch; dark ink and white grounds would be unreadable"
    url, _ = served
    ink = "() => getComputedStyle(document.querySelector('.privkd-figure .gtitle')).fill"
    with chromium() as page:
        page.emulate_media(color_scheme='dark')
        page.goto(f'{url}/index.html')
        page.wait_for_selector('.privkd-figure .gtitle')
        assert page.evaluate(ink) == 'rgb(221, 221, 221)'
        assert page.evaluate("() => getComputedStyle(document.querySelector('.privkd-figure .main-svg')).backgroundColor") in ('rgba(0, 0, 0, 0)', 'transparent')
        page.evaluate("document.body.dataset.mdColorScheme = 'default'")
        page.wait_for_function(f"({ink})() === 'rgb(51, 51, 51)'")
        page.evaluate("document.body.classList.add('quarto-dark')")                       # as Quarto says it
        page.wait_for_function(f"({ink})() === 'rgb(221, 221, 221)'")
        page.goto(f'{url}/gallery.html')
        page.wait_for_selector('.privkd-figure[aria-label^="copy_base"] .annotation')
        words = page.eval_on_selector_all('.privkd-figure[aria-label^="copy_base"] .annotation-text', "es => es.map(e => [e.textContent, getComputedStyle(e).fill])")
        assert {c for t, c in words if t == 'embeddings'} == {'rgb(17, 17, 17)'}             # dark words on the orange of a filled box
        assert page.errors == []


@pytest.mark.parametrize('width', [1280, 400])
def test_no_page_is_wider_than_the_window(served, width):
    url, _ = served
    with chromium(width) as page:
        for name in ('index', 'public_names', 'tutorials/first_distillation', 'api/losses/logits', 'api/figures/comparisons'):
            assert page.goto(f'{url}/{name}.html').ok
            assert page.evaluate('document.documentElement.scrollWidth') <= width+1, name
            cut = page.eval_on_selector_all('.md-content .language-python pre', "es => es.filter(e => e.firstElementChild.scrollWidth > e.clientWidth + 1).map(e => e.innerText.slice(0, 80))")
            assert cut == [], name                                                        # code wraps
        if width < 600:
            page.goto(f'{url}/gallery.html')
            page.wait_for_function("document.querySelectorAll('.privkd-figure .gtitle').length >= 8")
            page.wait_for_timeout(500)
            wide = page.eval_on_selector_all('.privkd-figure .gtitle', "es => es.filter(e => e.getBoundingClientRect().right > innerWidth).map(e => e.textContent)")
            over = page.eval_on_selector_all('.privkd-figure', """es => es.filter(e => { const l = e.querySelector('.legend')?.getBoundingClientRect(), top = e.getBoundingClientRect().top;
                const panels = [...e.querySelectorAll('.annotation')].filter(a => / of the data$/.test(a.textContent)).map(a => a.getBoundingClientRect().top);
                return l && (l.top < e.querySelector('.gtitle').getBoundingClientRect().bottom - 1 || l.bottom - top > e._fullLayout._size.t + 1 || l.bottom > Math.min(...panels) + 1) }).map(e => e.ariaLabel)""")
            assert (wide, over) == ([], [])                                               # titles wrap, legends stand between title and plot
        assert page.errors == []


def test_long_texts_are_readable_on_a_phone(served):
    "No sentence stands a letter or two a line, in a table's cell or behind the edge of what a cell prints; explore.html was 38,000 pixels tall"
    url, _ = served
    with chromium(400) as page:
        for name in ('explore', 'gallery', 'public_names', 'how_to/add_a_loss', 'explanations/words', 'api/cli/output'):
            assert page.goto(f'{url}/{name}.html').ok
            cells = page.eval_on_selector_all('article td', "es => es.filter(e => e.textContent.trim().length > 60).map(e => [e.getBoundingClientRect().width, e.textContent])")
            assert [c for c in cells if c[0] < 169] == [], name
            assert page.evaluate('document.documentElement.scrollHeight') < 20_000, name
            cut = page.eval_on_selector_all('article .output pre > code, article pre.output > code', "es => es.filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.innerText)")
            assert [t for t in cut if '  ' not in t] == [], name
        page.goto(f'{url}/explore.html')
        assert set(page.eval_on_selector_all('.pkd td.t', 'es => es.map(e => getComputedStyle(e).minWidth)')) == {'240px'}
        page.goto(f'{url}/public_names.html')
        assert page.evaluate("[...document.querySelectorAll('article table')].every(t => t.scrollWidth <= t.clientWidth + 1)")      # all of it without scrolling
