"What no file can be called, and what is no file, ends in one sentence."
import json, os

import pytest

from privkd_nb.core import InputError, cache_dir, read_json


@pytest.mark.parametrize('name, words', [('file', 'no folder for it'), ('file/below', 'no folder for it'), ('x'*300, 'name is too long'), ('loop', 'circle')])
def test_a_cache_that_cannot_be(tmp_path, monkeypatch, name, words):
    (tmp_path/'file').write_text('')
    (tmp_path/'loop').symlink_to('loop')
    monkeypatch.setenv('PRIVKD_CACHE', str(tmp_path/name))
    with pytest.raises(InputError, match=words): cache_dir('base')
    with pytest.raises(InputError): cache_dir()


@pytest.mark.parametrize('option', ['out_dir', 'dataset', 'data_dir'])
@pytest.mark.parametrize('value', ['x'*300, 'a\0b'])
def test_options_that_are_no_path(option, value):
    from privkd_nb.jobs.config import RunConfig
    with pytest.raises(InputError, match=f'{option}=.* is no path'): RunConfig(tiny=True, **{option: value}).check_data()


def test_an_output_folder_below_a_file(tmp_path):
    from privkd_nb.jobs.config import RunConfig
    (tmp_path/'file').write_text('')
    with pytest.raises(InputError, match='out_dir=.*no folder for it'): RunConfig(tiny=True, out_dir=str(tmp_path/'file'/'runs')).check_data()


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='no named pipes here')
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path/'done.json')
    with pytest.raises(InputError, match='not a file'): read_json(tmp_path/'done.json')


def test_half_a_character_in_an_id(tmp_path):
    from privkd_nb.data.files import read_table
    from privkd_nb.data.sources import check_rows
    (tmp_path/'train.jsonl').write_text(json.dumps(dict(id='\ud800', text='Yes', label='a', language='en')))
    with pytest.raises(InputError, match='row 1: id holds'): check_rows(read_table(tmp_path/'train.jsonl'), 'sequence', 'train')


@pytest.mark.parametrize('word', ['Grüezi'.encode(), 'sprächlein'.encode()])
def test_a_flipped_byte_in_parquet(tmp_path, word):
    import pandas as pd
    from privkd_nb.data.files import read_table
    p = tmp_path/'train.parquet'
    pd.DataFrame({'text': ['Grüezi'], 'label': ['a'], 'language': ['de'], 'sprächlein': ['x']}).to_parquet(p, compression='none', index=False)
    raw = p.read_bytes()
    assert word in raw
    p.write_bytes(raw.replace(word, word.replace(b'\xc3', b'\xff')))
    with pytest.raises(InputError, match='train.parquet cannot be read as parquet'): read_table(p)
