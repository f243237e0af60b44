"A user's own file as it is: without a split, with other names, separators and languages, it works or is refused in one sentence."
import json, random

import pandas as pd, pytest

from privkd_nb.core import InputError
from privkd_nb.data.report import data_report
from privkd_nb.data.subsets import hold_out_groups
from privkd_nb.data.tasks import load_task
from privkd_nb.jobs.config import RunConfig
from privkd_nb.jobs.fine_tune import load_data
from privkd_nb.jobs.study import teacher_configs
from privkd_nb.record import Run

WORDS = dict(de='Hemd Kleid Buch Handy Rad Hut Ring Tasse Lampe Tisch'.split(), en='shirt dress book phone bike hat ring cup lamp table'.split())
TEMPLATES = dict(where=['{} {}?', 'Where {} {}'], back=['{} back {}', 'Return {} {}'], thanks=['{} thanks {}', 'Great {} {}'])
ROWS = [dict(text=t.format(g, w), label=l, language=g) for g in WORDS for l, ts in TEMPLATES.items() for t in ts for w in WORDS[g]]      # 120: 20 of each language and label


def save(path, df=None, **kw):
    df = pd.DataFrame(ROWS) if df is None else pd.DataFrame(df)
    if path.suffix == '.jsonl': path.write_text('\n'.join(json.dumps(r, ensure_ascii=False) for r in df.to_dict('records')), encoding='utf-8')
    elif path.suffix == '.parquet': df.to_parquet(path, index=False)
    else: df.to_csv(path, index=False, **kw)
    return str(path)


def texts(task): return {s: sorted(getattr(task, s).text) for s in ('train', 'validation', 'test')}


# A test set where there is none

def test_a_file_without_a_split_is_divided_by_language_and_label(tmp_path):
    task = load_task(save(tmp_path/'mine.csv'))
    assert task.divided and task.said == ['mine.csv has no column split: 24 of its 120 texts, chosen by language and label, are the test set (test=0.2)']
    assert task.test.groupby(['language', 'label']).size().tolist() == [4]*6
    assert sorted(sum(texts(task).values(), [])) == sorted(r['text'] for r in ROWS) and len(task.validation) >= 6
    half = load_task(str(tmp_path/'mine.csv'), test=.5)
    assert len(half.test) == 60 and set(task.test.text) <= set(half.test.text)


@pytest.mark.parametrize('seed', range(3))
def test_the_division_does_not_depend_on_the_order_of_rows(tmp_path, seed):
    mixed = random.Random(seed).sample(ROWS, len(ROWS))
    assert texts(load_task(save(tmp_path/'a.csv', mixed))) == texts(load_task(save(tmp_path/'b.parquet')))


def test_equal_texts_and_translations_stay_on_one_side(tmp_path):
    twice = ROWS+[r | dict(text=r['text'].upper()+' ') for r in ROWS]+ROWS[:50]
    task = load_task(save(tmp_path/'a.csv', twice))
    sides = [{' '.join(t.casefold().split()) for t in getattr(task, s).text} for s in ('train', 'validation', 'test')]
    assert not sides[0] & sides[2] and not sides[0] & sides[1] and not sides[1] & sides[2]
    pairs = [dict(id=str(i), text=f'{g} {i} {l}', label=l, language=g) for i, l in enumerate(['ask', 'tell']*40) for g in ('de', 'en', 'sw')]
    task = load_task(save(tmp_path/'b.csv', pairs))
    assert set(task.test.id).isdisjoint({*task.train.id, *task.validation.id}) and 12 <= task.test.id.nunique() <= 20
    assert task.test.groupby('id').language.nunique().eq(3).all()


def test_rare_labels_and_languages_are_trained_on():
    rows = pd.DataFrame(ROWS+[dict(text='Hm', label='other', language='en'), dict(text='Ja', label='where', language='da'), dict(text='Nej', label='where', language='da')])
    test = rows[hold_out_groups(rows.assign(id=rows.index.astype(str)))]
    assert 'other' not in set(test.label) and (test.language == 'da').sum() == 1


def test_a_folder_and_a_column_may_lack_a_test_set(tmp_path):
    (tmp_path/'mine').mkdir()
    save(tmp_path/'mine'/'train.csv')
    assert load_task(str(tmp_path/'mine')).said == ['mine has no test file: 24 of its 120 texts, chosen by language and label, are the test set (test=0.2)']
    column = save(tmp_path/'a.csv', [r | dict(split='dev' if i % 5 == 0 else 'train') for i, r in enumerate(ROWS)])
    task = load_task(column)
    assert len(task.validation) == 24 and 'a.csv has no rows with split=test' in task.said[0] and len(task.train)+len(task.test) == 96
    save(tmp_path/'mine'/'test.csv', ROWS[:9])
    assert load_task(str(tmp_path/'mine')).said == []
    with pytest.raises(InputError, match='test=0.3 is for data without a test set, but .*mine has one; leave test out'): load_task(str(tmp_path/'mine'), test=.3)


def test_the_share_and_the_columns_name_a_run_only_where_they_are_used(tmp_path):
    p = save(tmp_path/'mine.csv')
    def name(**kw): return Run.named(tmp_path, RunConfig(dataset=p, **kw).identity()).path.name
    plain = RunConfig(dataset=p).identity()
    assert name() == name(test=.2) == name(fraction=1, label_column='') != name(test=.3) and name(language='de') != name()
    assert not {'test', 'labels', 'language', 'text_column', 'text_pair_column', 'label_column', 'label_separator', 'language_column'} & {*plain} and plain['fraction'] == 1
    assert RunConfig().identity()['fraction'] == .1 and RunConfig(dataset='massive').fraction == .1 and RunConfig(fraction=1).fraction == 1
    assert len(teacher_configs([RunConfig(dataset=p, **kw) for kw in (dict(), dict(test=.3), dict(seed=1), dict(label_column='label'))])) == 3


@pytest.mark.parametrize('given', [dict(test=0), dict(test=1), dict(test=-1), dict(language='de', language_column='lang')])
def test_a_description_that_cannot_be_is_refused_at_once(tmp_path, given):
    with pytest.raises(InputError, match='is not between 0 and 1|give one of the two'): RunConfig(dataset=save(tmp_path/'mine.csv'), **given)


@pytest.mark.parametrize('given', [dict(test=.3), dict(language='de'), dict(text_column='utt'), dict(labels='a,b')])
def test_what_describes_own_files_is_refused_for_the_catalog(given):
    with pytest.raises(InputError, match='describes files of your own|names the outputs of a teacher of yours'): RunConfig(**given)


# What is said

def test_what_is_trained_on_is_said_to_the_last_text(tmp_path, capsys):
    p = save(tmp_path/'mine.csv')
    task = load_data(RunConfig(dataset=p, fraction=.25, languages='en', eval_languages='en,de'))
    assert task.trained_on() == f'training on {len(task.train)} of your 120 texts (the others: {task.rest["left out by fraction=0.25"]} left out by fraction=0.25, ' \
                                f'{task.rest["in languages left out (de)"]} in languages left out (de), {len(task.validation)} validation, 24 test); de: scored without training'
    assert len(task.train)+sum(task.rest.values()) == 120 and len(task.train) < 15
    task.announce(), task.announce('fine-tuning the teacher')
    assert [l.split(' (')[0] for l in capsys.readouterr().out.splitlines()] == [
        'mine.csv has no column split: 24 of its 120 texts, chosen by language and label, are the test set', f'training on {len(task.train)} of your 120 texts',
        f'fine-tuning the teacher on {len(task.train)} of your 120 texts']
    tiny = load_data(RunConfig(tiny=True))
    whole = load_task(languages='de,en,sw')
    assert len(tiny.train)+sum(tiny.rest.values()) == sum(len(getattr(whole, s)) for s in ('train', 'validation', 'test')) and tiny.rest['left out of a quick trial'] > 0
    assert tiny.trained_on().startswith(f'training on {len(tiny.train)} of the {len(whole.train)+sum(whole.rest.values()):,} texts of playground (the others: ')


# Names of columns

@pytest.mark.parametrize('name', ['a.csv', 'a.jsonl', 'a.parquet', 'a.tsv'])
def test_usual_names_are_found_and_said_and_others_are_given(tmp_path, name):
    kw = dict(sep='\t') if name == 'a.tsv' else {}
    want = texts(load_task(save(tmp_path/'want.csv')))
    task = load_task(save(tmp_path/name, pd.DataFrame(ROWS).rename(columns=dict(text='utt', label='intent', language='locale')).assign(n=1), **kw))
    assert texts(task) == want and f'{name} is read with utt as text, intent as label, locale as language' in task.said
    strange = save(tmp_path/name, pd.DataFrame(ROWS).rename(columns=dict(text='a', label='b', language='c')), **kw)
    task = load_task(strange, text_column='a', label_column='b', language_column='c')
    assert texts(task) == want and not any('is read with' in s for s in task.said)
    other = save(tmp_path/name, pd.DataFrame(ROWS).assign(mood=[r['label'][::-1] for r in ROWS]), **kw)
    assert load_task(other, label_column='mood').labels == sorted(l[::-1] for l in TEMPLATES)


@pytest.mark.parametrize('rename, given, says', [
    (dict(label='mood'), {}, r"mine.csv has no column 'label'; it has the columns text, mood, language; use label_column='mood'; or, if there are none, give a fine-tuned model as teacher"),
    (dict(label='mood'), dict(label_column='moood'), r"no column 'moood' \(label_column\); it has the columns text, mood, language\. Did you mean 'mood'\?"),
    (dict(language='intent'), {}, r"no column 'language'.*; use language='de' if all texts are German, or language_column='intent'"),
    (dict(), dict(language='de'), r"language='de' is for files without languages, but .*mine.csv has them in its column 'language'; leave it out"),
    (dict(), dict(text_column='label', label_column='label'), r"the column 'label' is named for two uses, text_column and label_column"),
    (dict(text='a', label='b', language='c'), {}, r'has none of the columns text, label and language; it has the columns a, b, c; name yours with text_column='),
    (dict(text='sentence', language='query'), {}, r"'sentence' and 'query' could both be it; use text_column='sentence'")])
def test_a_missing_column_is_one_sentence_with_the_option(tmp_path, rename, given, says):
    with pytest.raises(InputError, match=says): load_task(save(tmp_path/'mine.csv', pd.DataFrame(ROWS).rename(columns=rename)), **given)


def test_a_column_of_another_kind_does_not_disturb(tmp_path):
    df = pd.DataFrame(ROWS).assign(tags=[['x']]*len(ROWS), words=[dict(n=1)]*len(ROWS), subset='web')
    assert texts(load_task(save(tmp_path/'a.parquet', df))) == texts(load_task(save(tmp_path/'b.csv')))
    parts = pd.DataFrame(ROWS).assign(partition=['test' if i % 4 == 0 else 'train' for i in range(len(ROWS))])
    assert len(load_task(save(tmp_path/'c.csv', parts)).test) == 30


@pytest.mark.parametrize('names', [('tokens', 'ner_tags'), ('words', 'tags'), ('sentence', 'pos')])
@pytest.mark.parametrize('ending', ['jsonl', 'parquet'])
def test_word_labels_have_options_too(tmp_path, names, ending):
    rows = [{names[0]: ['Anna', 'sees', f'town{i}'], names[1]: ['B-PER', 'O', 'B-LOC' if i % 2 else 'O'], 'lang': 'de'} for i in range(20)]
    given = dict(text_column='sentence', label_column='pos') if names[0] == 'sentence' else {}
    task = load_task(save(tmp_path/f'a.{ending}', rows), **given)
    assert task.kind == 'token' and task.labels == ['O', 'B-LOC', 'B-PER'] and len(task.test) == 4


# Separators, marks and empty lines

@pytest.mark.parametrize('name', ['a.csv', 'a.tsv'])
@pytest.mark.parametrize('sep, word', [(';', 'semicolons'), ('\t', 'tabs'), ('|', 'bars')])
@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig'])
def test_other_separators_are_recognised_and_said(tmp_path, name, sep, word, encoding):
    rows = [r | dict(text=f'{r["text"]}, "so"\nto say; yes') for r in ROWS]
    task = load_task(save(tmp_path/name, rows, sep=sep, encoding=encoding))
    assert task.said[0] == f'{name} separates its columns by {word}' and texts(task) == texts(load_task(save(tmp_path/'b.jsonl', rows)))


def test_empty_lines_are_no_rows(tmp_path):
    p = save(tmp_path/'a.csv', sep=';')
    lines = (tmp_path/'a.csv').read_text().splitlines()
    (tmp_path/'a.csv').write_text('\n\n'.join(lines)+'\n;;\n\n')
    assert len(load_task(p).train) > 80
    (tmp_path/'a.csv').write_text('\n'.join(lines)+'\n;x;de\n')
    with pytest.raises(InputError, match=r'rows with an empty text; remove them \(1 of 121, the first is row 121\)'): load_task(p)


def test_quotes_in_a_file_with_tabs_may_be_text(tmp_path):
    (tmp_path/'a.tsv').write_text('text\tlabel\tlanguage\n'+''.join(f'"{r["text"]}" he said\t{r["label"]}\t{r["language"]}\n' for r in ROWS))
    assert load_task(str(tmp_path/'a.tsv')).train.text.str.fullmatch('".*" he said').all()


# Languages

def test_languages_are_known_by_any_code_or_name(tmp_path):
    p = save(tmp_path/'a.csv', pd.DataFrame(ROWS).assign(language=[dict(de='German', en='English')[r['language']] for r in ROWS]))
    for code in ('de', 'deu', 'DE', 'de_DE', 'Deutsch', 'german'):
        task = load_task(p, languages=code)
        assert task.train_languages == ['German'] and f'{code} is German in a.csv' in task.said
    assert load_task(p, scenario='en').train_languages == ['English']
    with pytest.raises(InputError, match=r"languages='fr' is not a choice; choose from English, German\."): load_task(p, languages='de,fr')
    assert RunConfig(dataset='massive', languages='English,sw').languages == 'English,sw'
    mixed = pd.DataFrame(ROWS).assign(language=['German' if i % 2 and r['language'] == 'de' else r['language'] for i, r in enumerate(ROWS)])
    assert 'the languages German and de may be one in two spellings' in data_report(load_task(save(tmp_path/'b.csv', mixed))).warnings


def test_a_file_in_one_language(tmp_path):
    p = save(tmp_path/'a.csv', [{k: r[k] for k in ('text', 'label')} for r in ROWS if r['language'] == 'de'])
    with pytest.raises(InputError, match="use language='de' if all texts are German"): load_task(p)
    assert load_task(p, language='de').table().index.tolist() == ['de']
    with pytest.raises(InputError, match='scenario=.en. trains on English, but none of de'): load_task(p, language='de', scenario='en')


# What cannot work

@pytest.mark.parametrize('rows, says', [
    (ROWS[:1], 'its 1 texts are too few to be divided'), (ROWS[:2], 'no language has two training rows'),
    ([ROWS[0], ROWS[20], ROWS[21]], 'has 3 texts, too few to be divided into training, validation and test texts; add some|no language has two'),
    ([r | dict(label='x') for r in ROWS], "have the label 'x'; a classifier needs at least two labels"), ([dict(text='Yes', label=r['label'], language='de') for r in ROWS], 'too few to be divided')])
def test_too_little_is_one_sentence(tmp_path, rows, says):
    with pytest.raises(InputError, match=says): load_task(save(tmp_path/'a.csv', rows))


def test_a_column_that_is_no_label_is_noticed(tmp_path):
    task = load_task(save(tmp_path/'a.csv', [r | dict(label=f'{i/7:.3f}') for i, r in enumerate(ROWS)]))
    assert any('is this the column of labels?' in w for w in data_report(task).warnings)


def test_numbers_with_a_point_are_labels(tmp_path):
    assert load_task(save(tmp_path/'a.csv', [r | dict(label=float(len(r['label']))) for r in ROWS])).labels == ['4.0', '5.0', '6.0']


def test_what_is_wrong_with_a_file_is_said_before_a_kernel_starts(tmp_path, monkeypatch):
    from privkd_nb.cli import runs
    p = save(tmp_path/'mine.csv', pd.DataFrame(ROWS).rename(columns=dict(label='mood')))
    monkeypatch.setattr(runs, 'execute', lambda *a: pytest.fail('a kernel was started'))
    (tmp_path/'base').mkdir()
    (tmp_path/'base'/'config.json').write_text('{}')
    with pytest.raises(InputError, match="use label_column='mood'"): runs.run_notebook(dict(dataset=p, base=str(tmp_path/'base'), out_dir=str(tmp_path/'runs')))
    assert not (tmp_path/'runs').exists()


def test_a_language_that_nobody_knows_is_said(tmp_path):
    pd.DataFrame(dict(text=[f'a{i}' for i in range(40)], label=['x', 'y']*20)).to_csv(tmp_path/'mine.csv', index=False)
    said = {l: load_task(tmp_path/'mine.csv', language=l).said for l in ('klingon', 'German', 'deu_Latn')}
    assert [l for l,s in said.items() if any('no language that is known here' in x for x in s)] == ['klingon']
