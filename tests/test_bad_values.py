"Paths, files and values that cannot be used end in one sentence; numbers keep their digits."
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


def test_numbers_are_compared_exactly():
    from privkd_nb.data.files import Number
    from privkd_nb.data.labels import fold, label_name, lookalikes
    assert not lookalikes([str(10**400), str(10**400+1), '9007199254740993', '9007199254740992'])
    assert fold('1e2') == fold('100.0') and fold(' 1.50') == fold('1.5') and fold('1e99999999999999') and fold('0') == fold('0.0')
    names = ['9007199254740993.0', '9007199254740992.0', '1e400', '2e400', '0.30000000000000000001', '0.3']
    assert len({label_name(Number(n)) for n in names}) == len(names)
    assert [label_name(Number(n)) for n in ('0.0', '-0.0', '1e2', '2.50', '7')] == ['0', '0', '100', '2.5', '7']


@pytest.mark.parametrize('separator', [';', '\t'])
@pytest.mark.parametrize('quoted_header', [False, True])
def test_another_separator_is_found_besides_quotes(tmp_path, separator, quoted_header):
    from privkd_nb.data.files import read_table
    header = ['"text"', '"label"'] if quoted_header else ['text', 'label']
    (tmp_path/'train.csv').write_text('\n'.join(separator.join(r) for r in (header, ['"Yes, I do"', '"a"'])))
    df = read_table(tmp_path/'train.csv')
    assert df.to_dict('records') == [dict(text='Yes, I do', label='a')] and df.attrs['separator'] == separator


@pytest.mark.parametrize('dtype', ['object', 'string'])
@pytest.mark.parametrize('text', ['\u200b', '\u200b \ufeff\u2060 \u200d'])
def test_a_text_without_width(text, dtype):
    import pandas as pd
    from privkd_nb.data.sources import check_rows
    rows = dict(text=['Yes', text], label=['a', 'b'], language=['en', 'en'])
    with pytest.raises(InputError, match='the first is row 2'): check_rows(pd.DataFrame(rows).astype({'text': dtype}), 'sequence')
    check_rows(pd.DataFrame(rows | dict(text=['Yes', f'a{text}'])).astype({'text': dtype}), 'sequence')
