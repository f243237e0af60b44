import gc, importlib.util, os
from pathlib import Path

import pytest
from filelock import FileLock

os.environ.setdefault('HF_HUB_OFFLINE', '1')
os.environ.setdefault('OMP_NUM_THREADS', '1')     # the models are tiny: threads would only wait for each other
os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')
ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent/'shared'


LONG = 'fences background engines efficiency ddp faults job monitor_browser site_browser explorer_browser'.split() # Files that take long, the longest first


def pytest_addoption(parser): parser.addoption('--slow', action='store_true', help='also run the tests that are marked as slow')


def pytest_configure(config): config.addinivalue_line('markers', 'slow: takes long, and its kind is tested by others too; runs with --slow')


def pytest_collection_modifyitems(config, items):
    "Begin with the files that take long, so that two workers end at about the same time; leave out what is slow"
    if not config.getoption('slow'):
        for item in items:
            if item.get_closest_marker('slow'): item.add_marker(pytest.mark.skip(reason='skipped: slow; runs with --slow'))
    rank = {f'test_{name}': i for i,name in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture(scope='module', autouse=True)
def what_is_there_is_not_garbage():
    "Take what earlier files imported and keep out of the garbage collections of this one, of which each training asks for four: half the time of these tests"
    import privkd_nb.jobs.distil, privkd_nb.models.tiny
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def in_float32(monkeypatch):
    "Compare in float32 on a GPU, too, where runs compute in bfloat16"
    import torch
    if torch.cuda.is_available(): monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda *a, **kw: False)


@pytest.fixture
def shared_data():
    "Local copies of the real data sets"
    if not (SHARED/'data').is_dir(): pytest.skip('skipped: no shared data')
    return SHARED/'data'


@pytest.fixture
def shared_base():
    "A small pretrained encoder"
    if not (SHARED/'models'/'mini-base').is_dir(): pytest.skip('skipped: no shared data')
    return SHARED/'models'/'mini-base'


# Before code of a page that trains: its runs are tiny unless they say otherwise
TINY = """
import gc
from functools import wraps
import privkd_nb.jobs.distil
from privkd_nb.jobs.config import RunConfig
gc.collect(); gc.freeze()
RunConfig.__init__ = wraps(RunConfig.__init__)(lambda self, *a, _full=RunConfig.__init__, **k: _full(self, *a, **dict(tiny=True) | k))
"""


def load_tool(name):
    "A file of tools/ as a module: one of them is called like the standard library's `site`"
    spec = importlib.util.spec_from_file_location(f'tools_{name}', ROOT/'tools'/f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='session')
def docs():
    "tools/site.py"
    pytest.importorskip('zensical', reason='skipped: zensical is not installed')
    return load_tool('site')


@pytest.fixture(scope='session')
def site(docs, tmp_path_factory):
    "The folder of the site, built once without Quarto, also for several processes of the tests; nothing writes into it"
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if os.environ.get('PYTEST_XDIST_WORKER') else base)/'site'
    folder.mkdir(exist_ok=True)
    with FileLock(folder/'lock'):
        if not (done := folder/'done').exists():
            docs.build(folder/'docs')
            done.touch()
    return folder/'docs'


@pytest.fixture(autouse=True)
def quiet():
    from transformers.utils import logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()
