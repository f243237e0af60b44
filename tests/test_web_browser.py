"The page that runs a student in the browser: it agrees with Python, asks nobody but its own server, and shows names as text."
import shutil, threading
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from browser import chromium
from exported_folder import TEXTS, change_manifest, make_export
from hostile import PAYLOADS
from privkd_nb import InputError, Student
from privkd_nb.data.playground import playground_rows
from privkd_nb.export.quantize import QUANTIZERS
from privkd_nb.exported import FORMATS, read_export
from privkd_nb.export.web import write_web

pytest.importorskip('onnxruntime', reason='skipped: onnxruntime is not installed')
pytestmark = pytest.mark.filterwarnings('ignore::privkd_nb.runtime.LanguageWarning')
TEXTS_OF_MANY = [*TEXTS, *(r['text'] for r in playground_rows('test')[::7])][:100]
ALL = 'texts => (async () => { const found = []; for (const t of texts) found.push(await student.predict(...t)); return found; })()'


@contextmanager
def served(folder):
    "A folder on a port of this machine, as Python's own server has it; yields the page's address"
    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args): super().__init__(*args, directory=str(folder))
        def log_message(self, *args): pass
    with ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try: yield f'http://127.0.0.1:{server.server_port}/web/'
        finally: server.shutdown()

def with_page(folder):
    "An exported folder with its page, where npm's packages are to be had"
    try: write_web(folder)
    except InputError as e:
        if 'npm' not in str(e): raise
        pytest.skip(f'skipped: {e}')
    return folder

@pytest.fixture(scope='module')
def browser():
    with chromium() as page: yield page

def opened(page, address):
    page.errors.clear(); page.asked.clear()
    page.goto(address)
    page.wait_for_selector('body[data-state]', timeout=30_000)
    assert page.locator('body').get_attribute('data-state') == 'ready', page.locator('#status').text_content()

def quiet(page, address):
    assert page.errors == [] and page.asked and all(a.startswith(address.removesuffix('web/')) for a in page.asked)


LINES = """async text => { const {env, pipeline} = await import('./lib/transformers.web.min.js');
  Object.assign(env, {allowRemoteModels: false, allowLocalModels: true, localModelPath: ''});
  const classify = await pipeline('text-classification', '..', {dtype: 'fp32'});
  return classify(text); }"""                                # what the model card and the how-to say, but for where the folder is

def in_8_bits(folder):
    "Have the browser and Python take a file that rounds activations on the scale of their batch, which is one text in the browser"
    import onnx
    path, how = folder/FORMATS['onnx'].file, 'onnx-int8-dynamic'
    onnx.save(QUANTIZERS[how](onnx.load(path)), folder/FORMATS[how].file)
    path.unlink()
    change_manifest(folder, formats={how: FORMATS[how].file})

CASES = dict(sequence=dict(), dynamic=dict(), multilabel=dict(tokenizer='bpe', thresholds=dict(lights=.2, alarm=.6, weather=.5)), token=dict(arch='modernbert', tokenizer='byte_level', labels=['O', 'B-X', 'I-X']),
             pairs=dict(arch='bert', tokenizer='word_pieces', pairs=True, types=True))

CLOSE = dict(dynamic=.1)    # WebAssembly rounds activations to other whole numbers than the processor; the labels are the same

@pytest.mark.parametrize('kind', CASES)
def test_the_browser_agrees_with_python(tmp_path, browser, kind):
    folder = make_export(tmp_path/'exported', 'sequence' if kind in ('pairs', 'dynamic') else kind, **CASES[kind])
    if kind == 'dynamic': in_8_bits(folder)
    with_page(folder)
    student, pairs = Student(folder, max_tokens=1), dict(pairs=TEXTS_OF_MANY[::-1]) if kind == 'pairs' else {}
    expected = student(TEXTS_OF_MANY, **pairs)
    with served(folder) as address:
        opened(browser, address)
        found = browser.evaluate(ALL, [list(t) for t in zip(TEXTS_OF_MANY, *pairs.values())])
        for k in ('words', 'label', 'labels', 'cut'):
            if k in expected[0]: assert [f[k] for f in found] == [e[k] for e in expected], k
        assert np.allclose([f['unknown'] for f in found], [e.unknown for e in expected])
        if kind != 'token': assert np.allclose([[p for _, p in f['probabilities']] for f in found], student.probabilities(TEXTS_OF_MANY, **pairs), atol=CLOSE.get(kind, 1e-4))
        assert any(e.cut for e in expected) and len({str(e.get('label', e.get('labels'))) for e in expected}) > 1
        for box in ('#first', '#second')[:1+bool(pairs)]: browser.fill(box, 'Wake me up at seven')
        browser.wait_for_selector('text=/ms in this browser/')
        assert browser.locator('#result').text_content()
        quiet(browser, address)
        if kind == 'sequence':
            (theirs,), mine = browser.evaluate(LINES, 'Wake me'), student('Wake me')
            assert not mine.cut                          # of a longer text, transformers.js also cuts the last special token off
            assert theirs['label'] == mine.label and abs(theirs['score']-mine.probability) < 1e-4


def test_names_are_text_and_languages_are_told(tmp_path, browser):
    labels = [p for p in dict.fromkeys(PAYLOADS)]
    folder = make_export(tmp_path/'<img src=x onerror="window.__hacked=1">', labels=labels)
    change_manifest(folder, languages=dict(kept=['de', PAYLOADS[0]], left_out=['sw', PAYLOADS[1]]), scores={'de': .875, PAYLOADS[0]: .5}, metric=PAYLOADS[2], made_by=PAYLOADS[3])
    with_page(folder)
    read_export(folder)                                                  # the seal counts the page in
    with served(folder) as address:
        opened(browser, address)
        browser.fill('#first', 'ᚠᚢᚦᚨᚱᚲ '*30)
        browser.wait_for_selector('#notes li >> nth=1')
        notes = browser.locator('#notes').text_content()
        assert 'longer than 16 tokens' in notes and 'left out: ' in notes and 'Swahili' in notes
        browser.click('summary')
        shown = browser.locator('#result').text_content()
        assert all(l in shown for l in labels) and browser.locator('#result li').count() == len(labels)
        assert 'German' in browser.locator('#scores').text_content() and '87.5' in browser.locator('#scores').text_content()
        assert browser.evaluate('() => window.__hacked') is None and browser.locator('img, iframe, h1 >> nth=1').count() == 0
        quiet(browser, address)

def test_it_fits_and_is_used_by_keyboard(tmp_path, browser):
    folder = with_page(make_export(tmp_path/'exported', labels=['a label with many words', 'x'*90, 'c']))
    with served(folder) as address:
        opened(browser, address)
        browser.keyboard.press('Tab')
        browser.keyboard.type('Wake me up')
        browser.wait_for_selector('#result .best')
        for width in (400, 1280):
            browser.set_viewport_size(dict(width=width, height=800))
            assert browser.evaluate('() => document.documentElement.scrollWidth <= innerWidth')
            assert browser.evaluate("""() => ['#first', '.best', 'h1'].every(s => { const b = document.querySelector(s).getBoundingClientRect(); return b.left >= 0 && b.right <= innerWidth; })""")

def test_a_page_without_its_model_says_so(tmp_path, browser):
    folder = with_page(make_export(tmp_path/'exported'))
    (folder/'onnx'/'model.onnx').unlink()
    with served(folder) as address:
        browser.goto(address)
        browser.wait_for_selector('#status.bad')
        assert 'serve the whole exported folder' in browser.locator('#status').text_content()
    shutil.rmtree(folder/'onnx')
    with pytest.raises(InputError, match='no ONNX file'): write_web(folder)
