"An exported student without torch: it agrees with the model that it was made of, imports nothing heavy, and says what it cannot do."
import json, subprocess, sys, warnings
from pathlib import Path

import numpy as np, pandas as pd
import pytest
from transformers import AutoTokenizer

from exported_folder import TEXTS, TOKENIZERS, change_manifest, make_export
from privkd_nb import Classifier, InputError, Student
from privkd_nb.exported import read_export
from privkd_nb.models.loading import load_tokenizer
from privkd_nb.models.tiny import tiny_model
from privkd_nb.runtime import LanguageWarning, read_tokenizer

pytest.importorskip('onnxruntime', reason='skipped: onnxruntime is not installed')
RUNES = 'ᚠᚢᚦᚨᚱᚲ' # In no vocabulary
HEAVY = 'torch', 'transformers', 'pandas', 'datasets', 'pyarrow', 'polars', 'scipy', 'sklearn', 'fastcore', 'plotly', 'safetensors', 'onnx'
CASES = dict(sequence=dict(), multilabel=dict(tokenizer='bpe', thresholds=dict(lights=.2, alarm=.6, weather=.5)), token=dict(arch='modernbert', tokenizer='byte_level', labels=['O', 'B-X', 'I-X']),
             pairs=dict(arch='bert', tokenizer='word_pieces', pairs=True, types=True))


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    "An export of each kind"
    kinds = {k: 'sequence' if k == 'pairs' else k for k in CASES}
    return {k: make_export(tmp_path_factory.mktemp('exports')/k, kinds[k], **kw) for k, kw in CASES.items()}

@pytest.fixture
def folder(folders): return folders['sequence']


@pytest.mark.parametrize('kind', CASES)
@pytest.mark.filterwarnings('ignore::privkd_nb.runtime.LanguageWarning')
def test_predictions_are_those_of_the_model_in_torch(folders, kind):
    student, pairs = Student(folders[kind]), dict(pairs=TEXTS[::-1]) if kind == 'pairs' else {}
    found, expected = student(TEXTS, **pairs).table(), Classifier(folders[kind]).predict(TEXTS, **pairs)
    assert found.columns.tolist() == [*expected.columns, 'unknown']
    for c in set(expected)-{'probability', 'probabilities'}: assert found[c].tolist() == expected[c].tolist(), c
    if kind == 'multilabel':
        assert all(list(f) == list(e) and np.allclose(list(f.values()), list(e.values()), atol=1e-4) for f, e in zip(found.probabilities, expected.probabilities))
        assert len({tuple(l) for l in found.labels}) > 2
    elif kind != 'token': assert np.allclose(found.probability, expected.probability, atol=1e-4) and found.label.nunique() > 1
    assert 0 < found.cut.sum() < len(TEXTS)
    one = [student(t, **{k: v[i] for k, v in pairs.items()}) for i, t in enumerate(TEXTS)]
    assert [p.get('label', p.get('labels')) for p in one] == found.get('label', found.get('labels')).tolist()        # whatever shares its batch


@pytest.mark.parametrize('family', TOKENIZERS)
@pytest.mark.parametrize('words', [False, True])
def test_texts_are_split_as_transformers_does(tmp_path, family, words):
    TOKENIZERS[family]().save_pretrained(tmp_path)
    tiny_model('xlmr', 1).save_pretrained(tmp_path)
    theirs, ours = load_tokenizer(str(tmp_path), words), read_tokenizer(tmp_path, 16, words)
    texts = [t.split() for t in TEXTS] if words else TEXTS
    expected = theirs(texts, truncation=True, max_length=16, is_split_into_words=words)
    found = ours.encode_batch(texts, is_pretokenized=words)
    assert [e.ids for e in found] == expected['input_ids']
    if words: assert [e.word_ids for e in found] == [expected.word_ids(i) for i in range(len(texts))]
    else:
        both = theirs(texts, texts[::-1], truncation=True, max_length=16, return_token_type_ids=True)
        found = ours.encode_batch(list(zip(texts, texts[::-1])))
        assert [e.ids for e in found] == both['input_ids'] and [e.type_ids for e in found] == both['token_type_ids']


ALONE = """
import sys
class Blocked:
    def find_spec(self, name, *_):
        if name.split('.')[0] in {heavy}: raise ImportError(f'{{name}} is blocked')
sys.meta_path.insert(0, Blocked())
from privkd_nb import Student
p = Student({folder!r})({texts!r})
import json; print(json.dumps(p)); print(sorted(set(sys.modules) & set({heavy})))
"""

def test_it_runs_where_nothing_heavy_is_installed(folder):
    texts = TEXTS[:2]
    res = subprocess.run([sys.executable, '-c', ALONE.format(heavy=HEAVY, folder=str(folder), texts=texts)], capture_output=True, text=True)
    assert res.returncode == 0, res.stderr
    predictions, heavy = res.stdout.splitlines()
    assert json.loads(predictions) == Student(folder)(texts) and heavy == '[]'


def test_what_is_no_text_is_refused_with_its_place(folder):
    student = Student(folder)
    for given, said in (([1.5], 'text 0 is 1.5, a float'), (['a', float('nan')], 'text 1 is nan'), (['a', None], 'text 1 is None'), (['a', '  '], 'text 1 is empty'), ([b'a'], 'text 0 is bytes; decode it'),
                        (['a', bytearray(b'b')], 'text 1 is bytearray; decode it'), ([{'a': 1}], "text 0 is {'a': 1}, a dict"), ([('a', 'b')], 'text 0 is')):
        with pytest.raises(InputError, match=said): student(given)
    with pytest.raises(InputError, match='text 0 is empty'): student('')
    for given, said in ((3, '3 is no text, but a int'), ({'Wake me': 1}, 'is no text, but a dict'), ({}, '{} is no text, but a dict'), (b'Wake', 'text 0 is bytes; decode it'), (pd.DataFrame(dict(text=['a'])), 'a DataFrame; give a string or a list')):
        with pytest.raises(InputError, match=said): student(given)
    assert student([]) == [] and student(iter(['a'])) == student(['a']) == student(np.array(['a']))

def test_words_are_given_as_a_text_or_a_list(folders):
    student = Student(folders['token'])
    assert student(['Wake me', ['Wake', 'me']])[0] == student('Wake me') == student([['Wake', 'me']])[0]
    for given, said in {((),): 'text 0 is empty', (b'Wake me',): 'text 0 is bytes', (('a', b'b'),): 'text 0 is bytes', (('a', 1),): r"text 0 is \('a', 1\), a tuple; give a list of words or a string"}.items():
        with pytest.raises(InputError, match=said): student(list(given))
    with pytest.raises(InputError, match='labels words'): student.probabilities(['a'])

def test_many_texts_come_back_in_order(folder, monkeypatch):
    monkeypatch.setattr('privkd_nb.runtime.CHUNK', 7)
    student, texts = Student(folder, max_tokens=40), TEXTS*4
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', LanguageWarning)
        found = student(texts)
        assert [p.label for p in found] == [student(t).label for t in texts] and found.texts == texts
    assert np.allclose([p.probability for p in found], student.probabilities(texts).max(1))


def test_a_language_that_was_left_out_is_reported(folder):
    student = Student(folder)
    with pytest.warns(LanguageWarning, match="'sw' is left out of this export, which is for de, en"): student('Wake me up', language='sw')
    with pytest.warns(LanguageWarning, match="^'fr-CA' is not among the languages that the export is for: de, en; "): student(['Wake me up']*2, language=['en-US', 'fr-CA'])
    for bad in (5, {'de': 1}, b'de'):
        with pytest.raises(InputError, match="is not a language; give a code such as 'de', or one a text"): student('Wake me up', language=bad)
    for bad in (float('nan'), ['de']):
        with pytest.raises(InputError, match=r"language 1 is (nan|\['de'\]), a (float|list); give a code"): student(['Wake me up']*2, language=['en', bad])
    with pytest.raises(InputError, match="export the run again with this language"): student('Wake me up', language='sw', strict=True)
    with pytest.warns(LanguageWarning, match=r"1 of 2 texts has many tokens that the vocabulary lacks \(text 1, 'ᚠᚢᚦᚨᚱᚲ'"): assert student(['Wake me up', RUNES])[1].unknown > .4
    with pytest.raises(InputError, match='leave them out'): student(RUNES, strict=True)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert student('Wake me up', language='en').unknown == 0

AT_LINE_5 = """import threading
from privkd_nb import Student
student = Student({folder!r})
def ask():
    student(['Wake me up']*4, language=['ru', 'fr', 'ru', 'it'])
ask(); t = threading.Thread(target=ask); t.start(); t.join()
student('{runes}')
"""

def test_a_warning_names_the_line_that_called_once(folder, tmp_path):
    (tmp_path/'mine.py').write_text(AT_LINE_5.format(folder=str(folder), runes=RUNES), encoding='utf-8')
    res = subprocess.run([sys.executable, '-W', 'always', 'mine.py'], cwd=tmp_path, capture_output=True, text=True)
    at = [l.split(': LanguageWarning: ') for l in res.stderr.splitlines() if 'LanguageWarning: ' in l]
    assert res.returncode == 0 and [Path(a).name for a, _ in at] == ['mine.py:5', 'mine.py:5', 'mine.py:7'], res.stderr
    assert at[0][1].startswith("'ru', 'fr', 'it' are not among the languages that the export is for: de, en; ")

def test_bytes_of_foreign_characters_count_as_unknown(folders):
    for kind in ('multilabel', 'token'):
        student = Student(folders[kind])
        with pytest.warns(LanguageWarning): assert student(RUNES).unknown > .5
        assert student('Wake me up at seven').unknown == 0


def test_the_smallest_file_is_taken_and_damage_is_named(tmp_path):
    folder = make_export(tmp_path/'e')
    small = folder/'onnx'/'model_int8.onnx'
    small.write_bytes((folder/'onnx'/'model.onnx').read_bytes())
    change_manifest(folder, formats={'torch': 'model.safetensors', 'onnx': 'onnx/model.onnx', 'onnx-int8': 'onnx/model_int8.onnx'})
    with open(folder/'onnx'/'model.onnx', 'ab') as f: f.write(b'\0')
    assert Student(folder).format == 'onnx-int8'                           # the damaged file is not read
    with pytest.raises(InputError, match=r"is damaged \(onnx/model.onnx has .* bytes instead of"): Student(folder, 'onnx')
    with pytest.raises(InputError, match="format='onnx-int4' is not a choice"): Student(folder, 'onnx-int4')
    small.write_bytes(b'not a model')
    with pytest.raises(InputError, match='is damaged'): Student(folder)
    with pytest.raises(InputError, match='onnxruntime .* cannot run'): Student(folder, check=False)
    for name in ('done.json', 'privkd.json'):                              # cut off, or changed
        whole = (folder/name).read_text()
        for bad in (whole[:-9], whole.replace('a', 'b', 1)):
            (folder/name).write_text(bad)
            for read in (Student, read_export):
                with pytest.raises(InputError, match=rf'{name}.*; export it again\.$'): read(folder)
        (folder/name).write_text(whole)
    change_manifest(folder, formats={'torch': 'model.safetensors'})
    with pytest.raises(InputError, match='--format onnx-int8'): Student(folder)
    (folder/'privkd.json').unlink()
    with pytest.raises(InputError, match='is not an exported student'): Student(folder)

def test_threads_and_providers(folder, monkeypatch):
    def threads(**kw): return Student(folder, **kw).logits.session.get_session_options().intra_op_num_threads
    monkeypatch.setenv('OMP_NUM_THREADS', '3')
    assert threads() == 3 and threads(threads=2) == 2
    monkeypatch.delenv('OMP_NUM_THREADS')
    monkeypatch.setattr('os.sched_getaffinity', lambda pid: {0}, raising=False)
    assert threads() == 1
    for bad in (-1, 1.5, True, 'two'):
        with pytest.raises(InputError, match='threads='): Student(folder, threads=bad)
    with pytest.raises(InputError, match='providers='): Student(folder, providers='NoSuchProvider')
    assert Student(folder, providers='CPUExecutionProvider')('Wake').label


def test_the_terminal_predicts_from_an_exported_folder_without_torch(folders, capsys):
    from privkd_nb.cli import main
    command = f"import sys; from privkd_nb.cli import main; main(['predict', {str(folders['sequence'])!r}, 'Wake me up', {RUNES!r}, '--json']); print('torch' in sys.modules, file=sys.stderr)"
    res = subprocess.run([sys.executable, '-c', command], capture_output=True, text=True)
    first, second = json.loads(res.stdout)
    assert {k: v for k, v in first.items() if k != 'text'} == Student(folders['sequence'])('Wake me up') and second['unknown'] > .4
    assert res.stderr.splitlines()[-1] == 'False' and 'many tokens that the vocabulary lacks' in res.stderr
    assert main(['predict', str(folders['pairs']), 'Wake me up']) == 2 and 'was trained on pairs of texts' in capsys.readouterr().err
    assert main(['predict', str(folders['pairs']), 'Wake me up', '--pair', 'at seven']) == 0
    assert main(['predict', str(folders['token']), 'Wake me '*20]) == 0
    assert 'were cut at 16 tokens' in (said := capsys.readouterr()).err and said.out.count('Wake') >= 20
