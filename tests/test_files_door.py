"One door for files: every value as it stands, one spelling of names, tags that can be scored, sizes known before they are unpacked."
import csv, io, json, os, random

import numpy as np, pandas as pd, pyarrow as pa, pyarrow.parquet as pq, pytest

from privkd_nb.analysis.compare import differences, overall, score_arrays
from privkd_nb.core import InputError
from privkd_nb.data.catalog import own_files, scenario_languages
from privkd_nb.data.files import read_table
from privkd_nb.data.labels import check_tags, fold, lookalikes
from privkd_nb.data.own import check_splits, read_own
from privkd_nb.data.sources import tidy
from privkd_nb.data.tasks import load_task
from privkd_nb.evaluation.scores import entity_scores, metric_rows, score_predictions, with_means
from privkd_nb.figures.run import languages_figure
from privkd_nb.record import History, read_history

ODD = ['mean', 'all', 'seen', 'unseen', 'nan', 'NA', 'null', 'None', 'true', '1', 'mean seen', 'en']   # languages and labels that are just that


def rows(languages=('de', 'en'), labels=('ask', 'tell'), n=8, **more):
    return [dict(text=f'{g} {l} {i}', label=l, language=g, split='train' if i < n-4 else 'dev' if i < n-2 else 'test', **more) for g in languages for l in labels for i in range(n)]


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == '.csv':
        with path.open('w', newline='', encoding='utf-8') as f:
            w = csv.DictWriter(f, list(rows[0]))
            w.writeheader(), w.writerows(rows)
    elif path.suffix == '.parquet': pd.DataFrame(rows).to_parquet(path, index=False)
    else: path.write_text('\n'.join(json.dumps(r, ensure_ascii=False) for r in rows), encoding='utf-8')
    return path


def folder(path, **splits):
    for name, rs in splits.items(): write(path/f'{name}.csv', [{k: v for k, v in r.items() if k != 'split'} for r in rs])
    return str(path)


# Text files

def random_csv(rng, n):
    "A table of hard values, and the same as CSV text with random line ends and quoting"
    def value():
        s = ''.join(rng.choice(['a', 'ß', ',', '\n', '\r\n', '"', ' ', '", "', 'NA', '🙂', 'x'*rng.randint(0, 300)]) for _ in range(rng.randint(1, 8)))
        return s.replace('\r\n', '\n')
    table = [['text', 'label', 'language'], *([value()+'t', rng.choice(['NA', 'nan', '007', '1e3', 'true']), rng.choice('de en'.split())] for _ in range(n))]
    out = io.StringIO(newline='')
    csv.writer(out, lineterminator=rng.choice(['\n', '\r\n']), quoting=rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])).writerows(table)
    return table, out.getvalue()


@pytest.mark.parametrize('seed', range(12))
def test_csv_with_quoted_line_breaks_is_read_as_it_was_written(tmp_path, seed):
    rng = random.Random(seed)
    table, text = random_csv(rng, rng.choice([1, 40, 6000]))              # 6000 rows are some megabytes
    p = tmp_path/'mine.csv'
    p.write_bytes(text.encode('utf-8-sig' if seed % 2 else 'utf-8'))
    df = read_table(p)
    assert [list(df), *df.values.tolist()] == table


def test_a_text_of_a_megabyte_is_read(tmp_path):
    long = 'x'*1_000_000
    assert read_table(write(tmp_path/'a.csv', [dict(text=long, label='y', language='en')])).text[0] == long
    assert csv.field_size_limit() < 1_000_000                           # Python's own limit is as it was


@pytest.mark.parametrize('text,says', [
    ('text,label\na,b\nc\n', r'row 2 \(line 3\) has 1 values, but the header has 2 columns'),
    ('text,label\n"a\nb",c\nd,e,f\n', r'row 2 \(line 4\) has 3 values'),
    ('text,label\n"a,b\nc,d\n', r'row 1 \(line 2\) is not valid CSV'),
    ('text;label\na;b;c\n', r'row 1 \(line 2\) has 3 values, but the header has 2 columns; write one value a column, and texts with semicolons in quotes'),
    ('text,label,label\na,b,c\n', "two columns 'label'"),
    ('text,label\na\0b,c\n', r'has a NUL character \(line 2\)'),
    ('', 'is empty')])
def test_a_csv_that_cannot_be_meant_is_refused(tmp_path, text, says):
    (tmp_path/'a.csv').write_text(text)
    with pytest.raises(InputError, match=says): read_table(tmp_path/'a.csv')


def test_json_values_stay_as_they_are(tmp_path):
    times = [r | dict(text=f'2024-01-{i+1:02}T10:00:00Z', label=['2024-01-01', 'NA', 'null'][i % 3]) for i, r in enumerate(rows(n=14))]
    data = read_own(write(tmp_path/'a.jsonl', times))[1]
    assert {t for d in data.values() for t in d.text} == {r['text'] for r in times} and {l for d in data.values() for l in d.label} == {'2024-01-01', 'NA', 'null'}
    (tmp_path/'b.jsonl').write_text('{"text": 1.50, "label": 1.0, "language": "en", "split": "train"}\n\n{"text": "a\u2028b", "label": 1, "language": "en", "split": "test"}\r\n')
    data = read_own(tmp_path/'b.jsonl')[1]
    assert data['train'].text[0] == '1.50' and data['test'].text[0] == 'a\u2028b' and data['train'].label[0] == data['test'].label[0] == '1'


@pytest.mark.parametrize('column,value,says', [
    ('text', {'de': 'Frage', 'en': 'x'}, r"row 3: text is \{'de': 'Frage', 'en': 'x'\}, a dictionary"),
    ('text', ['Frage'], r"row 3: text is \['Frage'\], a list"),
    ('label', ['ask', 'x'], r"row 3: label is \['ask', 'x'\], a list, .*keep one label, or call the column labels"),
    ('label', [], 'row 3: label is .*a list'), ('label', {'a': 1}, 'row 3: .*a dictionary'), ('language', ['de'], 'row 3: language is'), ('id', {'n': 1}, 'row 3: id is'),
    ('text', 'half \ud83d', 'row 3: text holds a NUL or half a character'), ('text', 'a\0b', 'row 3: text holds a NUL')])
def test_what_is_no_single_text_is_refused_with_its_row(tmp_path, column, value, says):
    p = tmp_path/'a.jsonl'
    p.write_text('\n'.join(json.dumps(r | {column: value} if i == 2 else r) for i, r in enumerate(rows())))
    with pytest.raises(InputError, match=rf'a.jsonl \(train\), {says}'): load_task(str(p))


@pytest.mark.parametrize('line,says', [('[1]', 'not an object'), ('"a"', 'not an object'), ('{"text": ', 'line 2'), ('{"label": "a", "label": "b"}', 'twice'), ('['*100_000, 'line 2')])
def test_a_line_that_is_no_object_is_refused_with_its_number(tmp_path, line, says):
    (tmp_path/'a.jsonl').write_text('{"text": "a"}\n'+line)
    with pytest.raises(InputError, match=f'line 2.*{says}|{says}'): read_table(tmp_path/'a.jsonl')


def test_a_compressed_file_of_a_split_is_not_ignored(tmp_path):
    folder(tmp_path, train=rows(), test=rows())
    (tmp_path/'dev.csv.gz').touch()
    with pytest.raises(InputError, match='dev.csv.gz cannot be read'): own_files(tmp_path)


# Parquet

def test_names_of_classes_are_read_from_the_file(tmp_path):
    from datasets import ClassLabel, Dataset, Features, Sequence, Value, disable_progress_bars
    disable_progress_bars()
    names, text = ['ask', 'tell'], dict(language=Value('string'), split=Value('string'))
    rs = [r | dict(label=names.index(r['label'])) for r in rows()]
    Dataset.from_list(rs, features=Features(dict(text=Value('string'), label=ClassLabel(names=names)) | text)).to_parquet(tmp_path/'a.parquet')
    assert load_task(str(tmp_path/'a.parquet')).labels == names
    tags = ['O', 'B-PER', 'I-PER']
    ner = [dict(tokens=['Ada', 'L', 'met'], ner_tags=[1, 2, 0], language='de', split=s) for s in ('train', 'train', 'test')]
    Dataset.from_list(ner, features=Features(dict(tokens=Sequence(Value('string')), ner_tags=Sequence(ClassLabel(names=tags))) | text)).to_parquet(tmp_path/'b.parquet')
    task = load_task(str(tmp_path/'b.parquet'))
    assert task.labels == tags and task.test.ner_tags[0] == ['B-PER', 'I-PER', 'O']
    hidden = pa.table(dict(text=['a'], label=[-1], language=['en'])).replace_schema_metadata(pq.read_schema(tmp_path/'a.parquet').metadata)
    pq.write_table(hidden, tmp_path/'c.parquet')
    with pytest.raises(InputError, match='has the label -1, but labels go from 0 to 1'): read_table(tmp_path/'c.parquet')


def test_a_named_index_is_a_column_and_categories_are_text(tmp_path):
    df = pd.DataFrame(rows())
    df.set_index('label').to_parquet(tmp_path/'a.parquet')
    df.set_index(['label', 'language']).to_parquet(tmp_path/'b.parquet')
    df.astype({'label': 'category', 'language': 'category', 'text': 'category'}).to_parquet(tmp_path/'c.parquet')
    df.rename_axis('id').to_parquet(tmp_path/'d.parquet')
    want = load_task(str(write(tmp_path/'e.parquet', rows()))).train.drop(columns='id')
    for n in 'abcd': assert load_task(str(tmp_path/f'{n}.parquet')).train.drop(columns='id').equals(want), n
    assert load_task(str(tmp_path/'d.parquet')).train.id.tolist()[:3] == ['0', '1', '2']


@pytest.mark.parametrize('column,nested', [('text', False), ('label', False), ('tokens', True)])
def test_a_small_file_that_unpacks_to_gigabytes_is_refused(tmp_path, column, nested):
    import resource
    n, long = 3000, pa.array(['x'*1_000_000])
    def words(n): return pa.DictionaryArray.from_arrays(pa.array([0]*n, pa.int32()), long)
    bomb = pa.ListArray.from_arrays(pa.array(range(n+1), pa.int32()), words(n)) if nested else words(n)
    pq.write_table(pa.table({column: bomb, 'language': ['en']*n}), tmp_path/'a.parquet', compression='zstd')
    assert os.path.getsize(tmp_path/'a.parquet') < 20_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=r'unpacks to more than 2 GB \(at least 3.0 GB\).*PRIVKD_DATA_GB'): read_table(tmp_path/'a.parquet')
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss-before < 300_000       # KB


def test_the_limit_on_size_holds_for_every_format(tmp_path, monkeypatch):
    monkeypatch.setenv('PRIVKD_DATA_GB', '0.0000001')
    for name in ('a.csv', 'a.jsonl', 'a.parquet'):
        with pytest.raises(InputError, match='unpacks to more than 1e-07 GB'): read_table(write(tmp_path/name, rows()))
    monkeypatch.setenv('PRIVKD_DATA_GB', 'much')
    with pytest.raises(InputError, match="PRIVKD_DATA_GB='much' is not a number"): read_table(tmp_path/'a.csv')


@pytest.mark.parametrize('value,says', [(b'x', 'holds bytes'), ({'de': 'x'}, 'a text or a label is one string')])
def test_other_types_of_columns_are_refused(tmp_path, value, says):
    with pytest.raises(InputError, match=says): read_table(write(tmp_path/'a.parquet', [dict(text=value, label='a', language='en')]))


# Names

@pytest.mark.parametrize('label', [lambda l: f'{"ask tell".split().index(l)}.0', str.upper, lambda l: f'{l}\u200b', lambda l: ' '.join(['my', l])])
def test_a_split_with_another_spelling_is_refused(tmp_path, label):
    base = [r | dict(label=dict(ask='0', tell='1')[r['label']] if '.0' in label('ask') else f"my_{r['label']}" if ' ' in label('ask') else r['label']) for r in rows()]
    path = folder(tmp_path, train=base, test=[r | dict(label=label(r['label'])) for r in rows()])
    with pytest.raises(InputError, match=r'\(test\) spells 2 of its labels unlike the training rows: .* \(there .*write them alike'): load_task(path)


def test_numbers_of_any_type_are_one_label(tmp_path):
    ys = dict(ask=0, tell=1)
    for s, kind in dict(train=int, dev=float, test=np.int8).items(): write(tmp_path/'p'/f'{s}.parquet', [dict(text=r['text'], label=kind(ys[r['label']]), language='de') for r in rows()])
    assert load_task(str(tmp_path/'p')).labels == ['0', '1']
    for s, kind in dict(train=int, dev=float, test=str).items(): write(tmp_path/'j'/f'{s}.jsonl', [dict(text=r['text'], label=kind(ys[r['label']]), language='de') for r in rows()])
    assert load_task(str(tmp_path/'j')).labels == ['0', '1']


def test_spaces_and_composition_are_evened_out(tmp_path):
    path = folder(tmp_path, train=[r | dict(label=r['label']+'é') for r in rows()], test=[r | dict(label=f" {r['label']}e\u0301 ", language=r['language']+' ') for r in rows()])
    task = load_task(path)
    assert task.labels == ['aské', 'tellé'] and task.eval_languages == ['de', 'en']


def test_labels_that_no_training_row_has(tmp_path):
    with pytest.raises(InputError, match=r'\(test\) has labels that no training row has in 32 of its 32 rows \(fragen, sagen; the training rows have ask, tell\)'):
        load_task(folder(tmp_path/'a', train=rows(), test=rows(labels=('fragen', 'sagen'))))
    some = load_task(folder(tmp_path/'b', train=rows(), test=rows(labels=('ask', 'tell', 'sing'))))
    assert some.labels == ['ask', 'sing', 'tell']                        # the data report says it


def test_languages_that_differ_in_spelling_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"spells 1 of its languages unlike the training rows: 'EN' \(there 'en'\)"):
        load_task(folder(tmp_path/'a', train=rows(), test=rows(('de', 'EN'))))
    assert load_task(folder(tmp_path/'b', train=rows(), test=rows(('de', 'en', 'sw')))).eval_languages == ['de', 'en', 'sw']  # zero-shot


def test_what_folds_together():
    assert lookalikes(['play_music', 'Play music', 'play-music', '1', '1.0', '01', '-1', 'a+', 'a']) == [['01', '1', '1.0'], ['Play music', 'play-music', 'play_music']]
    assert fold('-1') != fold('1') and fold('C++') != fold('C') and fold('A-') != fold('A')


def test_labels_are_those_of_the_whole_file(tmp_path):
    p = write(tmp_path/'a.csv', [*rows(), dict(text='selten', label='rare', language='de', split='train')])
    assert load_task(str(p), scenario='en').labels == load_task(str(p)).labels == load_task(str(p), languages='en').labels == ['ask', 'rare', 'tell']


@pytest.mark.parametrize('code', ['en', 'EN', 'en-US', 'en_GB', 'eng', 'eng_Latn', 'English', 'Eng-latn'])
def test_english_has_many_codes(tmp_path, code):
    assert load_task(str(write(tmp_path/'a.csv', rows(('deu_Latn', code)))), scenario='en').train_languages == [code]


def test_other_languages_are_not_english():
    for code in ('enm', 'de-en', 'engl', 'e'):
        with pytest.raises(InputError, match=f'none of de, {code} has the code en, eng or english'): scenario_languages('en', ['de', code])


# Tags

def ner(*tags, split=('train', 'train', 'test')): return [dict(tokens=[f'w{i}' for i in range(len(t))], ner_tags=t, language='de', split=s) for s in split for t in tags]


@pytest.mark.parametrize('tags,says', [([1, 0], "the tag '0' is not .*numbers have no meaning"), (['ORG', 'O'], "the tag 'ORG' .*write B- before"), (['PER', 'O'], 'write B- before'),
    (['S-PER', 'O'], 'S- and U- become B-'), (['B-PER', 'E-PER'], 'E- and L- become I-'), (['B', 'I'], 'write B-'), (['PER-B', 'o'], 'write B-'), (['1', '0'], 'numbers have no meaning')])
def test_tags_that_cannot_be_scored_are_refused(tmp_path, tags, says):
    for name in ('a.jsonl', 'a.parquet'):
        p = write(tmp_path/name, [*ner(['O', 'O'] if isinstance(tags[0], str) else [0, 0], split=['train']), *ner(tags)])
        with pytest.raises(InputError, match=rf'{name} \(train\), row {1 if tags == [1, 0] else 2}: .*{says}'): load_task(str(p))


def test_entities_may_begin_with_i():
    check_tags(pd.Series([['I-PER', 'I-LOC', 'O', 'B-PER', 'I-PER']]), 'x')
    assert entity_scores([['I-PER', 'O']], [['B-PER', 'O']])['entity_f1'] == 1


# No F1 without entities

def predictions(**languages): return pd.DataFrame([dict(id=str(i), language=l, gold=g, predicted=p) for l, pairs in languages.items() for i, (g, p) in enumerate(pairs)])


def test_a_language_without_entities_has_no_f1_and_is_left_out():
    hit, empty, false = (['B-PER', 'O'], ['B-PER', 'O']), (['O', 'O'], ['O', 'O']), (['O', 'O'], ['B-PER', 'O'])
    sc = score_predictions(predictions(de=[hit, hit], sw=[empty]), ['de'])
    assert np.isnan(sc.loc['sw', ['entity_f1', 'entity_precision', 'entity_recall']].astype(float)).all() and sc.entity_f1['de'] == 1
    m = with_means(sc)
    assert m.entity_f1['all', ''] == 1 and np.isnan(m.entity_f1['unseen', '']) and m.n['all', ''] == 3
    long = metric_rows(sc, 'student', 'test', 1)
    assert long[(long.group == 'all') & (long.metric == 'entity_f1')].value.item() == 1
    assert len(languages_figure(long, 'entity_f1').data[-1].y) == 1
    assert score_predictions(predictions(de=[hit], sw=[false]), ['de']).entity_f1['sw'] == 0        # an entity too many is a mistake


def test_studies_leave_out_a_language_without_f1():
    ARMS = 'copy_ft · paper', 'scratch · paper'
    def run(seed, arm, sw): return [dict(run=f'{arm}{seed}', arm=arm, dataset='d', scenario='all', fraction=1., seed=seed, model=m, split='test', group='language', language=l, seen=True, metric='entity_f1', value=v)
                                    for m in ('student', 'teacher') for l, v in dict(de=.5+.1*seed, sw=sw).items()]
    scores = pd.DataFrame([r for seed in (0, 1) for arm in ARMS for r in run(seed, arm, np.nan if seed else 0.)])
    assert [list(x) for x in score_arrays(scores, 'entity_f1').values()] == [['de'], ['de']]
    assert overall(scores, 'entity_f1', reps=50).query("statistic == 'mean'").score.round(6).tolist() == [.55, .55]
    assert set(differences(scores, ARMS[0], 'entity_f1', reps=50).language) == {'de', ''}


def test_the_history_stays_valid_json(tmp_path):
    from privkd_nb.train.trainer import DistillTrainer
    class Trainer:
        history = History(tmp_path/'history.jsonl')
        class state: global_step = 3
    sc = score_predictions(predictions(de=[(['B-PER'], ['B-PER'])], sw=[(['O'], ['O'])]), ['de'])
    DistillTrainer.record_means(Trainer, with_means(sc), 'validation')
    for line in (tmp_path/'history.jsonl').read_text().splitlines(): json.loads(line, parse_constant=lambda c: pytest.fail(f'{c} is not JSON'))
    h = read_history(tmp_path/'history.jsonl')
    assert h[(h.language == 'sw')].empty and (h[(h.group == 'all') & (h.metric == 'entity_f1')].value == 1).all()


# Ids

def test_ids_that_come_twice_are_numbered(tmp_path):
    per_label = [dict(id=str(i % 8)) | r for i, r in enumerate(rows())]
    task = load_task(str(write(tmp_path/'a.csv', per_label)))
    for d in (task.train, task.validation, task.test): assert not d.duplicated(['language', 'id']).any()
    assert 'id that another row of their language has; all rows of de, en are numbered instead' in task.notes[0]
    shared = [dict(id=f'{i % 16}') | r for i, r in enumerate(rows())]        # translations of one another
    task = load_task(str(write(tmp_path/'b.csv', shared)))
    assert not task.notes and set(task.test.id[task.test.language == 'de']) == set(task.test.id[task.test.language == 'en'])


def test_an_earlier_record_with_repeated_ids_stays_as_long_as_it_is(tmp_path):
    from privkd_nb.analysis.examples import disagreements
    from privkd_nb.analysis.load import Study
    n, study = 200, Study(tmp_path, {'r': {}, 'q': {}}, {})
    texts = pd.DataFrame(dict(id=[str(i % 3) for i in range(n)], language='en', text=[f't{i}' for i in range(n)]))
    for run, wrong in dict(r=0, q=7).items():
        (tmp_path/run).mkdir()
        gold = [f'{i} {"wrong" if i < wrong else ""}' for i in range(n)]
        pd.concat([texts.drop(columns='text').assign(gold='x', predicted=gold, model=m) for m in ('student', 'teacher')]).to_parquet(tmp_path/run/'predictions.parquet')
        texts.to_parquet(tmp_path/run/'texts.parquet')
    p = study.predictions('q')
    assert len(p) == 2*n and p.text.tolist() == texts.text.tolist()*2 and not p.duplicated(['model', 'language', 'id']).any()
    assert sorted(disagreements(study, 'r', 'q').text) == [f't{i}' for i in range(7)]


# Names that programs take for something else

@pytest.mark.parametrize('name', ['a.csv', 'a.jsonl', 'a.parquet'])
def test_odd_names_are_names(tmp_path, name):
    task = load_task(str(write(tmp_path/name, rows(ODD, ('nan', 'None', 'null', 'true')))))
    assert task.eval_languages == sorted(ODD) and task.labels == ['None', 'nan', 'null', 'true']
    assert load_task(str(tmp_path/name), languages='mean,all').eval_languages == ['mean', 'all']
    assert load_task(str(tmp_path/name), languages='all').eval_languages == sorted(ODD)
    with pytest.raises(InputError, match="languages='all' is not a choice"): load_task(str(write(tmp_path/'b.csv', rows())), languages='de,all')
    assert list(tidy(pd.DataFrame(rows(ODD)), 'sequence').language.unique()) == ODD


def test_a_run_over_odd_names(tmp_path):
    from privkd_nb import RunConfig, Study, distil, language_table
    from privkd_nb.analysis.compare import by_language
    p = write(tmp_path/'a.csv', rows(ODD, ('nan', 'None')))
    run = distil(RunConfig(dataset=str(p), tiny=True, out_dir=str(tmp_path/'runs'), scenario='cl'))
    t = language_table(run)
    assert list(t.index) == [*sorted(ODD), 'mean', 'mean seen', 'mean unseen'] and set(t.n[:12]) == {4}
    study = Study.open(tmp_path/'runs')
    assert set(by_language(study.scores, reps=20).language) == set(ODD)
    assert len(study.predictions(run.path.name).query("model == 'student'")) == 4*len(ODD)
    assert set(languages_figure(run.metrics).data[-1].y) == {l if t.seen[:12][l] else f'{l} (unseen)' for l in ODD}


# Real data

@pytest.mark.parametrize('name,split', [('massive', 'test'), ('tsm', 'train'), ('uner', 'train')])
def test_real_data_are_read_as_they_stand(shared_data, name, split):
    from privkd_nb.data.catalog import CATALOG
    from privkd_nb.data.sources import read_split
    raw = pd.read_parquet(shared_data/name/f'{split}.parquet')
    languages = list(raw.language.unique())[:3]
    raw, df = raw[raw.language.isin(languages)], read_split(name, split, [l for l in CATALOG[name].languages if l in languages], shared_data)
    assert len(df) == len(raw) and df.language.tolist() == raw.language.tolist() and not df.duplicated(['language', 'id']).any()
    if name == 'massive': assert df.label.tolist() == raw.intent.tolist() and df.id.tolist() == raw.id.astype(str).tolist()
    if name == 'uner': assert df.ner_tags.map(lambda ts: sum(t != 'O' for t in ts)).tolist() == raw.ner_tags.map(lambda ts: sum(t != 0 for t in ts)).tolist()
