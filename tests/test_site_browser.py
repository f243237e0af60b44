"The site as a reader meets it: in a browser, with a mouse."
import functools, http.server, threading

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


def test_a_stranger_follows_every_link(served):
    url, folder = served
    with chromium() as page:
        answers, foreign = {}, []
        page.on('response', lambda r: answers.__setitem__(r.url, r.status))
        page.on('request', lambda r: None if r.url.startswith((url, 'data:', 'blob:')) else foreign.append(r.url))
        todo, seen, figures = [f'{url}/index.html'], set(), 0
        while todo:
            at = todo.pop()
            if at in seen: continue
            seen.add(at)
            page.goto(at)
            figures += page.locator('[data-figure]').count() > 0
            for link in page.eval_on_selector_all('a[href]', 'es => es.map(e => e.href)'):
                link = link.split('#')[0]
                if link.startswith(url) and link.endswith(('.html', '/')) and link not in seen: todo.append(link)
        pages = {u.removeprefix(url) for u in seen}
        assert {f'/{p.relative_to(folder).as_posix()}' for p in folder.rglob('*.html') if p.name != '404.html'} <= pages | {'/index.html'}   # every page can be reached
        assert {u: s for u, s in answers.items() if s >= 400} == {} and foreign == [] and page.errors == []
        assert figures >= 5


def test_search_finds_and_figures_live(served):
    url, _ = served
    with chromium() as page:
        assert page.goto(f'{url}/index.html').ok
        assert page.locator('h1').first.inner_text().startswith('PrivKD')
        assert page.locator('img[src*="images/"]').first.is_visible()                     # the result, in one picture
        assert 'make run' in page.inner_text('body')                                      # how to start
        page.keyboard.press('/')
        page.keyboard.type('bootstrap', delay=20)
        page.wait_for_function("[...document.querySelectorAll('a')].some(a => a.offsetParent && /stats/.test(a.href) && /bootstrap|Statistics|interval/i.test(a.innerText))", timeout=15_000)
        assert page.goto(f'{url}/api/figures/comparisons.html').ok
        page.wait_for_selector('.js-plotly-plot .main-svg')
        gd = page.locator('.js-plotly-plot').first
        assert gd.evaluate('e => e.data.length') > 1 and gd.bounding_box()['width'] > 400
        gd.scroll_into_view_if_needed()
        point = page.locator('.js-plotly-plot .scatterlayer .points path').first.bounding_box()
        page.mouse.move(point['x']+point['width']/2, point['y']+point['height']/2)
        page.wait_for_selector('.hoverlayer .hovertext')                                  # alive, not a picture
        assert page.errors == []


@pytest.mark.parametrize('width', [1280, 800])
def test_no_page_is_wider_than_the_window(served, width):
    url, _ = served
    with chromium(width) as page:
        for name in ('index', 'explore', 'api/losses/logits', 'api/figures/comparisons'):
            assert page.goto(f'{url}/{name}.html').ok
            assert page.evaluate('document.documentElement.scrollWidth') <= width+1, name
