"""Execute the pages that publish results, and store what they show.

    python tools/results.py [PAGE ...]      # of PAGES; all without one

Each page runs with the settings in PAGES, which are real but small, in the folder runs/pages: what is on record there is read, so an
interrupted call goes on where it was. Progress bars, notices and anything that names this machine's folders are not stored.
"""
import argparse, os, re, sys, tempfile
from pathlib import Path

import nbformat
import papermill

from privkd_nb.core import replacing

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT/'runs'/'pages'
BENCH = dict(models='xlmr-base', losses='ce,logits', arms='privkd,privkd_cached,plain', steps=6, rounds=3, scaling=False)
PAGES = {                                                               # page -> its parameters, where they are not the defaults
    'index': {}, 'run': {}, 'study': {}, 'effect': {}, 'bench': BENCH, 'results': {}, 'cookbook': {},
    'tutorials/01_first_distillation': {}, 'tutorials/02_your_data': {}, 'tutorials/03_reading_a_run': {},
    'how_to/add_a_dataset': {}, 'how_to/export_a_student': {},
    'how_to/no_labels': {}, 'how_to/resume_a_run': {}, 'how_to/save_time': {}, 'how_to/use_a_student': {}}
LARGEST = 400_000                                                       # bytes of a stored page
PLACES = [f'{p}/' for p in (ROOT, Path.home(), tempfile.gettempdir(), '/home', '/Users') if str(p) != '/'] # Folders of this machine, or of any


def keep(output) -> bool:
    "Whether an output belongs in the stored page: no progress bar, no notice, no widget that needs a kernel"
    if output['output_type'] != 'stream': return 'application/vnd.jupyter.widget-view+json' not in output.get('data', {})
    text = ''.join(output['text'])
    return '%|' not in text and (output['name'] == 'stdout' or text.startswith('privkd:'))


def joined(outputs) -> list:
    "Outputs, with lines printed one after another as one output"
    found = []
    for o in outputs:
        if found and o['output_type'] == found[-1]['output_type'] == 'stream' and o['name'] == found[-1]['name']: found[-1]['text'] += o['text']
        else: found.append(o)
    return found


def cleaned(executed, page):
    "The page with the outputs of its executed copy, and without what papermill adds"
    done = {c.id: c for c in executed.cells if c.cell_type == 'code' and 'injected-parameters' not in c.metadata.get('tags', [])}
    for c in page.cells:
        if c.cell_type == 'code': c.outputs, c.execution_count = joined(o for o in done[c.id].outputs if keep(o)), None
    for c in page.cells:
        for o in c.get('outputs', []):
            if 'execution_count' in o: o.execution_count = None
            if 'metadata' in o: o.metadata = {}                           # the output of a stream has none
    return page


def faults(name, text) -> list:
    "What must not be published"
    found = re.findall('(?:'+'|'.join(map(re.escape, PLACES))+r')[\w./-]*', text)
    if len(text.encode()) > LARGEST: found.append(f'{len(text.encode()):,} bytes, more than {LARGEST:,}')
    return [f'{name}: {f}' for f in found]


def execute(name, parameters):
    "Execute a page and store its outputs"
    path = ROOT/'nbs'/f'{name}.ipynb'
    WORK.mkdir(parents=True, exist_ok=True)
    out = WORK/f'{path.stem}.executed.ipynb'
    papermill.execute_notebook(str(path), str(out), parameters, kernel_name='python3', cwd=str(WORK), progress_bar=False)
    page = cleaned(nbformat.read(out, 4), nbformat.read(path, 4))
    text = nbformat.writes(page)+'\n'
    if found := faults(name, text): sys.exit('\n'.join(found))
    with replacing(path) as tmp: tmp.write_text(text, encoding='utf-8')
    print(f'{name}: {len(text)/1024:.0f} KB')


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('pages', nargs='*', metavar='PAGE', help=f'of {", ".join(PAGES)}')
    chosen = parser.parse_args().pages or list(PAGES)
    if unknown := set(chosen)-set(PAGES): sys.exit(f"{', '.join(sorted(unknown))} is no page with results; choose from {', '.join(PAGES)}.")
    os.environ.setdefault('PRIVKD_CACHE', str(ROOT/'.cache'))
    for name in chosen: execute(name, PAGES[name])
    os.execvp('nbdev_clean', ['nbdev_clean'])
