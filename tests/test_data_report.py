"The data report: what is counted, what is said, and that a run says and keeps it."
import csv, json, time, warnings

import numpy as np, pandas as pd, pytest

from privkd_nb.data.encoding import encode
from privkd_nb.data.report import DataWarning, cut_table, data_report, text_keys
from privkd_nb.data.tasks import Task, load_task
from privkd_nb.models.tokenizer import train_tokenizer


def table(rows, kind='sequence'):
    x, y = ('text', 'label') if kind == 'sequence' else ('tokens', 'ner_tags')
    return pd.DataFrame([{'id': str(i), x: t, y: l, 'language': g} for i, (t, l, g) in enumerate(rows)])


def rows(languages=('de', 'en'), labels=('ask', 'tell'), n=40, word='w', first=0): return [(f'{word} {g} {l} {i}', l, g) for g in languages for l in labels for i in range(first, first+n)]


def task(train=None, validation=None, test=None, seen=('de', 'en'), scored=('de', 'en'), kind='sequence', notes=()):
    parts = [table(r, kind) for r in (rows() if train is None else train, rows(first=40, n=10) if validation is None else validation, rows(first=50, n=10) if test is None else test)]
    y = 'label' if kind == 'sequence' else 'ner_tags'
    labels = sorted({l for d in parts for v in d[y] for l in ([v] if kind == 'sequence' else v)})
    return Task('mine', kind, labels, 'accuracy', *parts, list(seen), list(scored), list(notes))


def said(t, **kw): return data_report(t, **kw).warnings


def test_clean_data_say_nothing():
    assert said(task()) == [] and said(load_task()) == []
    assert all(n == 0 for n in data_report(load_task()).shared.values())


def test_counts_agree_with_counting_by_hand():
    rng = np.random.default_rng(0)
    def some(n): return [(str(rng.integers(30)), str(rng.choice(list('ab'))), str(rng.choice(['de', 'en']))) for _ in range(n)]
    for _ in range(20):
        parts = some(50), some(20), some(20)
        r = data_report(task(*parts))
        sets = [{(t, g) for t, _, g in p} for p in parts]
        assert r.shared == {f'{a} in {b}': sum((t, g) in sets[j] for t, _, g in parts[i]) for a, i, b, j in (('validation', 1, 'train', 0), ('test', 2, 'train', 0), ('test', 2, 'validation', 1))}
        assert r.two_labels == sum(len({l for t2, l, g2 in parts[0] if (t2, g2) == k}) > 1 for k in sets[0])
        assert r.labels.to_dict() == {s: {l: sum(x[1] == l for x in p) for l in r.labels.index} for s, p in zip(('train', 'validation', 'test'), parts)}
        assert r.missing == {g: n for g in ('de', 'en') if (n := sum(not any(x[1:] == (l, g) for x in parts[0]) for l in r.labels.index)) and any(x[2] == g for x in parts[0])}


def test_one_text_in_two_languages_is_two_texts():
    keys = text_keys(dict(a=table([('Taxi', 'x', 'de'), ('Taxi', 'x', 'en'), ('Taxi', 'y', 'de')])))['a']
    assert keys[0] == keys[2] != keys[1]
    words = text_keys(dict(a=table([(['a b'], ['O'], 'de'), (['a', 'b'], ['O', 'O'], 'de')], 'token')))['a']
    assert words[0] != words[1]


@pytest.mark.parametrize('change,says', [
    (dict(test=rows(n=10)), '40 of 40 test texts stand in the training rows, too'),
    (dict(validation=rows(n=10)), '40 of 40 validation texts stand in the training rows, too'),
    (dict(train=[*rows(), ('w de ask 0', 'tell', 'de'), ('w de ask 1', 'tell', 'de')]), "training texts with two labels: 2 (the first is 'w de ask 0' in de)"),
    (dict(test=rows(labels=('ask', 'sing'), first=50)), 'labels of test that no training row has: sing (80 of 160)'),
    (dict(validation=rows(('de',), first=40)), 'en has no validation rows'),
    (dict(scored=('de', 'en', 'sw')), 'sw has no test rows'),
    (dict(train=rows(labels=('ask',))), 'all training rows have the label ask; there is nothing to learn'),
    (dict(train=rows(labels=('ask', 'Ask', 'tell'))), 'the labels Ask, ask differ in their spelling only'),
    (dict(train=rows(('en', 'en-US')), seen=('en', 'en-US')), 'the languages en and en-US may be one in two spellings'),
    (dict(notes=['ids are numbered']), 'ids are numbered')])
def test_what_is_serious_is_said(change, says): assert any(says in w for w in said(task(**change))), said(task(**change))


def test_tags_have_their_own_findings():
    def ner(n, *tags): return [([f'w{i}{j}' for j in range(len(t))], t, g) for g in ('de', 'en') for i in range(n) for t in tags]
    t = task(ner(5, ['I-PER', 'O']), ner(1, ['B-PER', 'O']), [(['x'], ['O'], 'en'), (['y'], ['B-PER'], 'de')], kind='token')
    r = data_report(t)
    assert r.without_b == 10 and any('entities that begin with I-: 10' in w for w in r.warnings) and any('en has no entity in the test rows, and thus no F1' in w for w in r.warnings)


@pytest.mark.parametrize('kind', ['sequence', 'token'])
def test_what_is_cut_is_what_is_longer(kind):
    texts = [' '.join(['wort']*n) for n in (1, 3, 4, 9)]
    t = task(*[[(x if kind == 'sequence' else x.split(), 'ask' if kind == 'sequence' else ['O']*len(x.split()), 'de') for x in texts]]*3, kind=kind)
    tok = train_tokenizer(texts, 500)
    lengths = [len(tok(x).input_ids) for x in texts]
    for most in range(3, max(lengths)+1):
        e = encode(t.train, tok, t.labels, most)
        assert e.cut.tolist() == [n > most for n in lengths] and max(e.lengths) <= most
        assert cut_table(dict(train=e)).cut.tolist() == [sum(n > most for n in lengths)]
    assert any('12 of 12 texts are cut at max_length=2, most of them in de (12 of 12)' in w for w in said(t, tokenizer=tok, max_length=2))
    assert not any('cut' in w for w in said(t, tokenizer=tok, max_length=max(lengths)))


def test_a_report_is_json_and_no_markup():
    hostile = '<img src=x onerror=alert(1)>|*_`$'
    r = data_report(task(train=rows((hostile, 'en'), (hostile, 'tell')), seen=(hostile, 'en'), scored=(hostile, 'en')))
    assert '<img' not in r._repr_markdown_() and json.loads(json.dumps(r.record())) == r.record()


def test_a_run_warns_and_keeps_the_report(tmp_path):
    from privkd_nb import RunConfig, distil
    data = [dict(text=t, label=l, language=g, split=s) for s, rs in dict(train=rows(n=10), dev=rows(first=40, n=4), test=rows(n=4)).items() for t, l, g in rs]
    with (tmp_path/'a.csv').open('w', newline='') as f: w = csv.DictWriter(f, list(data[0])); w.writeheader(); w.writerows(data)
    cfg = dict(dataset=str(tmp_path/'a.csv'), tiny=True, fraction=1., out_dir=str(tmp_path/'runs'))
    with pytest.warns(DataWarning, match='16 of 16 test texts stand in the training rows, too') as seen: run = distil(RunConfig(**cfg, max_length=4))
    report = run.environment['data']['report']
    assert any('72 of 72 texts are cut at max_length=4' in str(w.message) for w in seen) and sorted(str(w.message) for w in seen if w.category is DataWarning) == sorted(report['warnings'])
    assert report['cut'] == {g: dict(train=20, validation=8, test=8) for g in ('de', 'en')} and report['shared']['test in train'] == 16


def test_a_million_rows_take_a_second(shared_data):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        t = load_task('massive', data_dir=shared_data, languages='de-DE,en-US,th-TH,sw-KE,vi-VN,zh-CN')
    start = time.process_time()
    r = data_report(t)
    assert time.process_time()-start < 1 and r.rows.train.tolist() == [11514]*6     # all 52 locales: .9 s
    assert 0 < r.shared['test in train'] < .1*len(t.test)
