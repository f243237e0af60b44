"Tokens from the cache: the same as without it, whatever happens to the files; and how much memory they take"
import os, subprocess, sys, warnings

import numpy as np, pandas as pd, pytest

from privkd_nb.data import token_cache
from privkd_nb.data.encoding import encode, tokenized
from privkd_nb.data.token_cache import cached_tokens, tokens_key
from privkd_nb.models.tokenizer import train_tokenizer

TEXTS = [f'set an alarm at {i} for {w}' for i in range(40) for w in ('me', 'us two')]


@pytest.fixture(scope='module')
def tokenizer(): return train_tokenizer(TEXTS, 320)


@pytest.fixture
def table(): return pd.DataFrame(dict(id=list(map(str, range(len(TEXTS)))), text=TEXTS, label='a', language=['en', 'de']*40))


def same(a, b): return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


@pytest.mark.parametrize('kind', ['sequence', 'pair', 'token'])
def test_cached_tokens_are_the_same_and_are_read_from_the_file(tmp_path, tokenizer, table, kind, monkeypatch):
    if kind == 'pair': table['text_pair'] = TEXTS[::-1]
    if kind == 'token': table = pd.DataFrame(dict(id=table.id, tokens=[t.split() for t in TEXTS], language=table.language))
    if kind == 'pair': monkeypatch.setattr(tokenizer, 'model_input_names', ['input_ids', 'token_type_ids', 'attention_mask'])
    plain = tokenized(table, tokenizer, 6)
    assert same(plain, cached_tokens(table, tokenizer, 6, folder=tmp_path, few=0)) and plain['cut'].any()
    monkeypatch.setattr(token_cache, 'tokenized', None)                 # from now on they are read
    again = cached_tokens(table, tokenizer, 6, folder=tmp_path, few=0)
    a, b = (encode(table, tokenizer, ['a'], 6, tokens=t) for t in (plain, again))
    assert same(plain, again) and not again['flat'].flags.owndata and not again['flat'].flags.writeable
    assert all(np.array_equal(a[i][k], b[i][k]) for i in (0, 79) for k in a[i]) and b.languages[0] is b.languages[2]


def test_chunks_make_the_same_arrays(tokenizer, table, monkeypatch):
    whole = tokenized(table, tokenizer)
    monkeypatch.setattr('privkd_nb.data.encoding.CHUNK', 7)
    assert same(whole, tokenized(table, tokenizer)) and len(whole['offsets']) == len(table)+1


@pytest.mark.parametrize('harm', ['changed', 'cut off', 'removed', 'unmarked'])
def test_damaged_arrays_are_never_used(tmp_path, tokenizer, table, harm):
    plain = cached_tokens(table, tokenizer, folder=tmp_path, few=0)
    plain = {k: np.array(v) for k, v in plain.items()}
    file, = tmp_path.glob('*/tokens.safetensors')
    raw = bytearray(file.read_bytes())
    raw[-3] ^= 4
    if harm == 'changed': file.write_bytes(raw)
    if harm == 'cut off': file.write_bytes(raw[:-5])
    if harm == 'removed': file.unlink()
    if harm == 'unmarked': file.with_name('done.json').unlink()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter('always')
        again = cached_tokens(table, tokenizer, folder=tmp_path, few=0)
    assert same(plain, again) and any('it was moved to' in str(w.message) for w in found)


def test_a_disk_without_room_costs_the_cache_and_not_the_run(tmp_path, tokenizer, table, monkeypatch):
    def full(*a): raise OSError(28, 'No space left on device')
    monkeypatch.setattr('safetensors.numpy.save_file', full)
    with pytest.warns(UserWarning, match='the tokens of 80 texts are not cached: .*space'):
        assert same(tokenized(table, tokenizer), cached_tokens(table, tokenizer, folder=tmp_path, few=0))
    assert not list(tmp_path.glob('*/tokens.safetensors'))


def test_whatever_decides_the_tokens_decides_the_key(tokenizer, table):
    other = train_tokenizer(TEXTS, 310)
    keys = {tokens_key(*a) for a in ((table, tokenizer, 128, 'sequence'), (table, other, 128, 'sequence'), (table, tokenizer, 64, 'sequence'),
        (table[::-1], tokenizer, 128, 'sequence'), (table.assign(text_pair='x'), tokenizer, 128, 'sequence'), (table[:-1], tokenizer, 128, 'sequence'))}
    tokenizer(['x'], truncation=True, max_length=2)                     # leaves its mark in the tokenizer, but decides nothing
    assert len(keys) == 6 and tokens_key(table.assign(label='b', language='fr'), tokenizer, 128, 'sequence') in keys


MEMORY = """
import resource, sys
import pandas as pd
from privkd_nb.data import encoding
from privkd_nb.data.encoding import encode, Collate
from privkd_nb.data.token_cache import cached_tokens
from privkd_nb.models.tokenizer import train_tokenizer
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss//1024
encoding.CHUNK, n, words = 1000, 25_000, ['set', 'an', 'alarm', 'for', 'me', 'at', 'noon', 'today']
table = pd.DataFrame(dict(text=[' '.join(words[(i >> k) % 8] for k in range(12)) for i in range(n)]))
table = table.assign(id=pd.Series(range(n)).astype(str), label='a', language=['en', 'de']*(n//2)).astype('str')
tokenizer, before = train_tokenizer(words, 330), peak()
data = encode(table, tokenizer, ['a'], tokens=cached_tokens(table, tokenizer, folder=sys.argv[1]))
Collate(data.pad_id)([data[i] for i in range(32)])
print(peak()-before)
"""


def test_a_large_table_takes_little_more_than_its_token_ids(tmp_path):
    run = subprocess.run([sys.executable, '-c', MEMORY, str(tmp_path)], capture_output=True, text=True, env=dict(os.environ, OMP_NUM_THREADS='1'))
    assert not run.returncode, run.stderr
    assert int(run.stdout) < 40, run.stdout                             # MiB; with Python lists of all of them it is 84
