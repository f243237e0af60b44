"A user's own files: every row is read as it is, or rejected with its row number."
import json, os, shutil, subprocess, sys
from collections import Counter

import pandas as pd, pytest

from privkd_nb import core
from privkd_nb.data.catalog import CATALOG, TaskInfo, own_files
from privkd_nb.jobs.config import RunConfig
from privkd_nb.core import InputError, file_hash, files_hash
from privkd_nb.models.encoders import layer_stack
from privkd_nb.record import Run
from privkd_nb.data.own import read_own
from privkd_nb.data.tasks import hold_out, load_task

ROWS = [dict(text=f'{w} {i}', label=l, language=g, split='test' if i > 11 else 'train') for g, w in dict(de='Frage', en='query').items() for l in ('ask', 'tell') for i in range(14)]


def write(folder, rows=ROWS, name='mine.csv', encoding='utf-8'):
    folder.mkdir(parents=True, exist_ok=True)
    df, p = pd.DataFrame(rows), folder/name
    if p.suffix == '.csv': df.to_csv(p, index=False, encoding=encoding)
    elif p.suffix == '.parquet': df.to_parquet(p, index=False)
    else: p.write_text('\n'.join(json.dumps(r, ensure_ascii=False) for r in rows), encoding=encoding)
    return p


@pytest.mark.parametrize('name', ['mine.csv', 'mine.jsonl'])
@pytest.mark.parametrize('encoding', ['latin-1', 'utf-16', 'utf-16-le'])
def test_other_encodings_are_rejected(tmp_path, name, encoding):
    p = write(tmp_path, [ROWS[0] | dict(text='grüße'), *ROWS[1:]], name, encoding)
    with pytest.raises(InputError, match=rf'{name} is not UTF-8 text \(line \d+\); save it with the encoding UTF-8'): load_task(str(p))


def test_a_byte_order_mark_is_ignored(tmp_path):
    assert load_task(str(write(tmp_path, encoding='utf-8-sig'))).fingerprint() == load_task(str(write(tmp_path/'b'))).fingerprint()


def test_bytes_in_parquet_are_rejected(tmp_path):
    p = write(tmp_path, [r | dict(text=r['text'].encode()) for r in ROWS], 'mine.parquet')
    with pytest.raises(InputError, match='holds bytes'): load_task(str(p))


def test_csv_values_are_read_as_text(tmp_path):
    rows = [dict(text=t, label=l, language='no', split=s) for t, l, s in [('007', '1', 'train'), ('true', '02', 'train'), ('1e3', '1', 'dev'), ('2024-01-01', '1', 'test')]]
    data = read_own(write(tmp_path, rows))[1]
    assert data['train'].text.tolist() == ['007', 'true'] and data['train'].label.tolist() == ['1', '02'] and data['test'].text.tolist() == ['2024-01-01']


@pytest.mark.parametrize('column', ['tokens', 'ner_tags'])
def test_lists_in_a_csv_are_rejected(tmp_path, column):
    rows = [dict(tokens=['Ada', 'left'], ner_tags=['B-PER', 'O'], language='en', split=s) for s in ('train', 'train', 'test')]
    load_task(str(write(tmp_path, rows, 'mine.parquet'))), load_task(str(write(tmp_path, rows, 'mine.jsonl')))
    with pytest.raises(InputError, match=r'mine.csv \(train\), row 1: tokens is .* not a list of words; .*Parquet or JSON Lines'): load_task(str(write(tmp_path, rows)))
    with pytest.raises(InputError, match=rf'row 1: {column} is'): load_task(str(write(tmp_path, [r | {column: ' '.join(r[column])} for r in rows], 'mine.parquet')))


@pytest.mark.parametrize('name', ['validation', 'valid', 'val', 'dev', 'Dev', ' VAL '])
def test_other_names_of_splits_are_accepted(tmp_path, name):
    rows = [r | dict(split=name) if i % 5 == 0 and r['split'] == 'train' else r for i, r in enumerate(ROWS)]
    data = read_own(write(tmp_path, rows))[1]
    assert len(data['validation']) == sum(r['split'] == name for r in rows) > 0 and sum(map(len, data.values())) == len(rows)
    for s in ('train', 'test', name): write(tmp_path/'folder', [{k: v for k, v in r.items() if k != 'split'} for r in rows if r['split'] == s], f'{s.strip()}.csv')
    assert load_task(str(tmp_path/'folder')).fingerprint() == load_task(str(tmp_path/'mine.csv')).fingerprint()


@pytest.mark.parametrize('bad', ['held', '', None])
def test_an_unknown_split_is_rejected(tmp_path, bad):
    for name in ('mine.csv', 'mine.jsonl'):
        with pytest.raises(InputError, match=f'{name}, row 3: split=.* is not a split; write train, validation'): load_task(str(write(tmp_path, [r | dict(split=bad) if i == 2 else r for i, r in enumerate(ROWS)], name)))


def test_files_of_a_folder_are_read_or_rejected(tmp_path):
    for s in ('train', 'test'): write(tmp_path, [{k: v for k, v in r.items() if k != 'split'} for r in ROWS if r['split'] == s], f'{s}.csv')
    (tmp_path/'runs').mkdir(), (tmp_path/'README.md').touch(), (tmp_path/'.hidden.csv').touch(), (tmp_path/'train.py').touch()
    assert set(own_files(tmp_path)) == {'train', 'test'}
    for name, message in [('extra.csv', 'extra.csv belongs to no split'), ('dev.txt', 'dev.txt cannot be read'), ('train.parquet', 'two files for train, train.csv and train.parquet')]:
        (tmp_path/name).touch()
        for load in (lambda: load_task(str(tmp_path)), lambda: RunConfig(dataset=str(tmp_path))):
            with pytest.raises(InputError, match=message): load()
        (tmp_path/name).unlink()


@pytest.mark.parametrize('column', ['text', 'label', 'language'])
@pytest.mark.parametrize('empty', ['', '   ', None])
@pytest.mark.parametrize('at', [4, 13])            # a training row, whether held out or not, and a test row
def test_empty_values_are_rejected_with_their_row_number(tmp_path, column, empty, at):
    rows = [r | {column: empty} if i == at else r for i, r in enumerate(ROWS)]
    if column == 'label' and rows[at]['split'] == 'train':              # a training text without a label is used without one
        for name in ('mine.csv', 'mine.jsonl'): assert any('have no label; they are used without one' in s for s in load_task(str(write(tmp_path, rows, name))).notes)
        return
    for name in ('mine.csv', 'mine.jsonl'):
        if column == 'label' and at == 4:          # a training text without a label is used without one, and that is said
            task = load_task(str(write(tmp_path, rows, name)))
            assert any('1 of 24 training texts in de have no label' in n for n in task.notes)         # its text stands there with a label, too
            continue
        with pytest.raises(InputError, match=rf"{name} \({rows[at]['split']}\) has rows with an empty {column}; remove them \(1 of \d+, the first is row {at+1}\)"): load_task(str(write(tmp_path, rows, name)))


@pytest.mark.parametrize('at', range(12))
def test_errors_give_the_row_number_in_the_file(tmp_path, at):
    rows = [dict(tokens=['Ada', 'left'], ner_tags=['B-PER'] if i == at else ['B-PER', 'O'], language='en', split='test' if i % 2 else 'train') for i in range(12)]
    with pytest.raises(InputError, match=rf'row {at+1}: 2 tokens but 1 tags'): load_task(str(write(tmp_path, rows, 'mine.jsonl')))


def test_a_data_set_that_is_not_on_the_hub_raises(monkeypatch):
    monkeypatch.setitem(CATALOG, 'local', TaskInfo('local', 'token', ['en', 'de'], 'entity_f1'))
    monkeypatch.setitem(CATALOG, 'remote', TaskInfo('remote', 'token', ['en', 'de'], 'entity_f1', hub='me/remote'))
    with pytest.raises(InputError, match='local is not on the hub; pass data_dir'): load_task('local')
    with pytest.raises(InputError, match='the layout of remote in me/remote is not known'): load_task('remote')


def test_the_name_of_a_run_depends_on_the_content_of_its_files(tmp_path):
    def name(p, **kw): return Run.named(tmp_path, RunConfig(dataset=str(p), **kw).identity()).path.name
    p = write(tmp_path/'a')
    first, cfg = name(p), RunConfig(dataset=str(p))
    assert name(p) == first and name(os.path.relpath(p)) == first and cfg.identity()['dataset'].startswith('mine.csv@')
    assert name(shutil.copy(p, write(tmp_path/'b'))) == first
    before = cfg.identity()
    text = p.read_text()
    p.write_text(text.replace('query 0', 'query X'))                       # of equal size, written immediately
    assert name(p) != first and cfg.identity() != before
    p.write_text(text)
    assert name(p) == first
    for s in ('train', 'test'): write(tmp_path/'folder', [{k: v for k, v in r.items() if k != 'split'} for r in ROWS if r['split'] == s], f'{s}.csv')
    whole = name(tmp_path/'folder')
    (tmp_path/'folder/notes.md').write_text('no data')
    assert name(tmp_path/'folder') == name(f'{tmp_path}/folder/') == whole
    shutil.copy(tmp_path/'folder/test.csv', tmp_path/'folder/dev.csv')
    assert name(tmp_path/'folder') != whole
    assert RunConfig().identity()['dataset'] == 'playground' and RunConfig(dataset='massive', data_dir=str(tmp_path)).identity()['dataset'] == 'massive'


def test_an_unchanged_file_is_hashed_once(tmp_path, monkeypatch):
    p = write(tmp_path)
    first, now = file_hash(p), core.time.time()
    assert first not in core._FILES.values()                               # too recent: it could be written again within the resolution of the clock
    monkeypatch.setattr(core.time, 'time', lambda: now+60)                  # long after it was written
    assert file_hash(p) == first and first in core._FILES.values()
    p.write_text(p.read_text().replace('query 0', 'query X'))
    assert file_hash(p) != first
    assert files_hash([p]) != files_hash([shutil.copy(p, tmp_path/'other.csv')])


def test_hashing_imports_no_large_package(tmp_path):
    code = f"import sys; from privkd_nb.jobs.config import RunConfig; RunConfig(dataset={str(write(tmp_path))!r}).identity(); print([m for m in ('torch', 'pandas', 'pyarrow') if m in sys.modules])"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60).stdout.strip() == '[]'


def test_held_out_validation_data_is_stratified():
    many = pd.DataFrame([dict(text=f'{g}{l}{i}', label=l, language=g) for g, n in dict(en=400, de=40, sw=2, yo=1).items() for l in ('a', 'b') for i in range(n) if (g, l) != ('yo', 'b')])
    for seed in range(20):
        train, held = hold_out(many, seed)
        assert sorted([*train.text, *held.text]) == sorted(many.text)
        n = Counter(zip(held.language, held.label))
        assert all(abs(n['en', l]-40) <= 1 and abs(n['de', l]-4) <= 1 for l in 'ab')
        assert (held.language == 'sw').sum() >= 1 and set(train.language) == {'en', 'de', 'sw', 'yo'} and 'yo' not in set(held.language)
    texts = [set(hold_out(many, s)[1].text) for s in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]


def test_validation_data_has_every_language(tmp_path):
    rows = ROWS + [dict(text=f'hoja {i}', label='ask', language='es', split='train' if i < 2 else 'test') for i in range(3)]
    held = []
    for seed in range(10):
        task = load_task(str(write(tmp_path, rows)), seed=seed)
        assert set(task.validation.language) == {'de', 'en', 'es'} == set(task.train.language)
        held.append(set(task.validation.text))
    assert all(h == held[0] for h in held)             # a teacher (seed 0) never trains on what a student is validated on


def test_a_model_with_several_lists_of_layers_raises():
    from transformers import XLMConfig, XLMForSequenceClassification
    for n in (2, 6):
        with pytest.raises(InputError, match='spreads its layers over 4 lists'): layer_stack(XLMForSequenceClassification(XLMConfig(emb_dim=16, n_layers=n, n_heads=2, n_words=50)))


def test_a_bench_with_unequal_losses_exits_with_an_error(tmp_path, monkeypatch, capsys):
    from privkd_nb import cli
    def executed(notebook, to, given):
        to.write_text('{}')
        (to.parent/'bench.json').write_text(json.dumps(dict(failed=['this package, later epochs on tiny: FAILED: 1.0e-01'])))
    monkeypatch.setattr('privkd_nb.cli.bench.execute', executed)
    assert cli.main(['bench', '--tiny', '--out', str(tmp_path)]) == 1
    assert 'has no result for this package, later epochs on tiny: FAILED: 1.0e-01' in capsys.readouterr().err and (tmp_path/'bench.ipynb').exists()


@pytest.mark.parametrize('args,message', [(['--rounds', '0'], 'rounds=0 must be at least 1'), (['--threads', '-2'], 'threads=-2 must be at least 0'), (['--batch_size', '0'], 'batch_size=0 must be at least 1'), (['--steps', '2'], 'warm=2 leaves nothing of steps=2'),
                                       (['--models', 'xlmr-bse'], "Did you mean 'xlmr-base'"), (['--lengths', 'masive'], "Did you mean 'massive'"), (['--losses', 'ce,lgits'], "Did you mean 'logits'"), (['--tiny', '--rounds', '3'], 'tiny brings its own rounds'),
                                       (['--teacher', 't'], 'teacher is for whole runs; add whole'), (['--whole', '--steps', '3'], 'steps is not for whole runs')])
def test_invalid_options_of_a_bench_raise_before_a_kernel_starts(tmp_path, capsys, monkeypatch, args, message):
    from privkd_nb import cli
    monkeypatch.setattr('privkd_nb.cli.bench.execute', lambda *a: pytest.fail('a kernel was started'))
    assert cli.main(['bench', *args, '--out', str(tmp_path/'b')]) == 2
    assert message in capsys.readouterr().err and not (tmp_path/'b').exists()


def test_pack_overwrites_only_a_packed_study(tmp_path, capsys):
    from many_runs import make_runs
    from privkd_nb.cli import main
    make_runs(tmp_path/'runs', 2)
    (tmp_path/'mine').mkdir(); (tmp_path/'mine'/'thesis.txt').write_text('years of work'); (tmp_path/'note').write_text('a note')
    assert main(['pack', str(tmp_path/'runs'), str(tmp_path/'mine')]) == 2 and 'holds something else than a packed study' in capsys.readouterr().err
    assert main(['pack', str(tmp_path/'runs'), str(tmp_path/'note')]) == 2 and 'is a file' in capsys.readouterr().err
    assert (tmp_path/'mine'/'thesis.txt').read_text() == 'years of work' and (tmp_path/'note').read_text() == 'a note'
    for _ in range(2): assert main(['pack', str(tmp_path/'runs'), str(tmp_path/'new')]) == 0


def test_unexpected_errors_keep_their_traceback(monkeypatch):
    from privkd_nb import cli
    from privkd_nb.jobs import distil as job
    def broken(cfg): raise RuntimeError('index 66 is out of bounds')
    monkeypatch.setattr(job, 'distil', broken)
    with pytest.raises(RuntimeError, match='index 66'): cli.main(['distil', '--tiny'])


def test_a_max_length_beyond_the_models_positions_raises(tmp_path):
    from dataclasses import replace
    from privkd_nb.data.report import DataWarning
    from privkd_nb.jobs.distil import distil, encode_task
    from privkd_nb.jobs.fine_tune import load_data, load_models
    folder = tmp_path/'long'
    folder.mkdir()
    for split in ('train', 'test'): pd.DataFrame(dict(text=['word '*700, 'short']*8, label=['a', 'b']*8, language='en')).to_csv(folder/f'{split}.csv', index=False)
    cfg = RunConfig(dataset=str(folder), tiny=True, max_length=1000, fraction=1, out_dir=str(tmp_path/'runs'))
    task = load_data(cfg)
    models = load_models(cfg, task)
    with pytest.raises(InputError, match=r'max_length=1000 allows a text of \d+ tokens, but .* has positions for 64; use max_length=64 or less'):
        encode_task(replace(cfg, tiny=False), task, models.tokenizer, (models.teacher,))
    with pytest.warns(DataWarning, match='are cut at max_length=64'): assert distil(cfg, task, models).finished      # a tiny run truncates there
