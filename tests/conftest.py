import os
from pathlib import Path

import pytest

os.environ.setdefault('HF_HUB_OFFLINE', '1')
os.environ.setdefault('OMP_NUM_THREADS', '1')     # the models are tiny: threads would only wait for each other
os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')
ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent/'shared'


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


@pytest.fixture(autouse=True)
def quiet():
    from transformers.utils import logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()
