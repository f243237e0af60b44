"Pairs, several labels a text and class weights, from a file to a saved student."
import json

import numpy as np, pandas as pd, pytest, torch

from privkd_nb.core import InputError
from privkd_nb.data.encoding import Collate, Encoded, encode
from privkd_nb.data.report import data_report
from privkd_nb.data.tasks import load_task
from privkd_nb.jobs.config import RunConfig


def rows(**columns): return [dict(text=f'{w} {i}', language=l, **{k: f(i) for k, f in columns.items()}) for i, (w, l) in enumerate([(w, l) for w in ('Wake me', 'Play it', 'Stop it') for l in ('en', 'sw')]*4)]


def write(path, rows, end='.jsonl'):
    path = path.with_suffix(end)
    df = pd.DataFrame(rows)
    if end == '.csv': df.to_csv(path, index=False)
    elif end == '.parquet': df.to_parquet(path)
    else: path.write_text('\n'.join(json.dumps(r) for r in rows))
    return path


SETS = [['a', 'b'], ['a'], []]


@pytest.mark.parametrize('end,column,cell,given,kind', [
    ('.jsonl', 'labels', lambda i: SETS[i % 3], {}, 'multilabel'), ('.parquet', 'topics', lambda i: SETS[i % 3], dict(label_column='topics'), 'multilabel'),
    ('.csv', 'labels', lambda i: ';'.join(SETS[i % 3]), {}, 'multilabel'), ('.csv', 'labels', lambda i: json.dumps(SETS[i % 3]), {}, 'multilabel'),
    ('.csv', 'mood', lambda i: ' / '.join(SETS[i % 3]), dict(label_column='mood', label_separator='/'), 'multilabel'),
    ('.csv', 'labels', lambda i: 'ab'[i % 2], {}, 'sequence'), ('.csv', 'label', lambda i: ['a;b', 'a'][i % 2], {}, 'sequence'),
    ('.csv', 'labels', lambda i: ['a;b', 'a'][i % 2], dict(label_separator='none'), 'sequence')])
def test_whether_a_text_has_several_labels_is_told_by_its_file(tmp_path, end, column, cell, given, kind):
    task = load_task(write(tmp_path/'mine', rows(**{column: cell}), end), **given)
    assert task.kind == kind
    if kind == 'sequence': return
    assert task.labels == ['a', 'b'] and task.metric == 'micro_f1'
    assert {tuple(l) for l in task.train.labels} == {('a', 'b'), ('a',), ()}        # no label applies, which is no missing label
    report = data_report(task)
    assert report.labels.train['a'] == sum('a' in l for l in task.train.labels) and not report.missing


@pytest.mark.parametrize('labels,says', [(['a', 'a'], "labels has 'a' twice"), (['a', ''], 'labels has an empty name'), ('a', "row 3: labels is 'a', not a list of names"), ([['a']], 'is .*a list, not a single value')])
def test_a_list_of_labels_that_is_none_is_refused_with_its_row(tmp_path, labels, says):
    with pytest.raises(InputError, match=f'row 3.*{says}' if 'row' not in says else says): load_task(write(tmp_path/'mine', [r | (dict(labels=labels) if i == 2 else {}) for i, r in enumerate(rows(labels=lambda i: ['a']))]))


def test_a_pair_is_one_text_for_leaks_duplicates_and_names(tmp_path):
    data = rows(label=lambda i: 'ab'[i % 2], text_pair=lambda i: 'Why?')
    path = write(tmp_path/'mine', data)
    task, single = load_task(path), load_task(path, text_column='text')
    assert 'text_pair' in task.train and 'text_pair' not in single.train and task.fingerprint() != single.fingerprint()
    again = [r | dict(split='train' if i % 2 else 'test') for i, r in enumerate([r for r in data for _ in 'ab'])]          # each pair in both splits …
    assert data_report(load_task(write(tmp_path/'twice', again))).shared['test in train'] > 20        # some are validation rows
    other = [r | dict(text_pair=f"Why? {i}") for i, r in enumerate(again)]                                                # … and the first text alone
    assert data_report(load_task(write(tmp_path/'once', other))).shared['test in train'] == 0
    with pytest.raises(InputError, match='rows with an empty text_pair; remove'): load_task(write(tmp_path/'empty', [*data, data[0] | dict(text_pair=' ')]))


def bert_tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast
    words = ['[PAD]', '[CLS]', '[SEP]', '[UNK]', *'abcdefgh']
    tok = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token='[UNK]'))
    tok.pre_tokenizer = pre_tokenizers.Whitespace()
    tok.post_processor = processors.TemplateProcessing(single='[CLS] $A [SEP]', pair='[CLS] $A [SEP] $B:1 [SEP]:1', special_tokens=[('[CLS]', 1), ('[SEP]', 2)])
    return PreTrainedTokenizerFast(tokenizer_object=tok, pad_token='[PAD]', unk_token='[UNK]', model_input_names=['input_ids', 'token_type_ids', 'attention_mask'])


def test_token_types_tell_the_texts_apart_with_and_without_padding():
    from privkd_nb.compute.forward import forward
    from privkd_nb.compute.unpadding import unpadded
    from privkd_nb.models.tiny import tiny_model
    from privkd_nb.train.teacher import example_keys
    tok = bert_tokenizer()
    df = pd.DataFrame(dict(id=[*'01'], text=['a b', 'a b c'], text_pair=['c d', 'd'], label=['x', 'y'], language='en'))
    pairs = encode(df, tok, ['x', 'y'])
    model, batch = tiny_model('bert', labels=['x', 'y']), Collate(pairs.pad_id)([pairs[0], pairs[1]])
    assert batch['token_type_ids'].tolist() == [[0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 1, 1]]
    plain, short = forward(model, batch).logits, forward(model, batch, unpad=unpadded).logits
    assert torch.allclose(plain, short, atol=1e-5)
    assert not torch.allclose(plain, forward(model, {k: v for k, v in batch.items() if k != 'token_type_ids'}).logits, atol=1e-3)
    assert len({*example_keys(pairs), *example_keys(Encoded([pairs.flat[:7]], [0], ['en'], ['0'], pad_id=0))}) == 3       # equal tokens, other types
    cut = encode(df, tok, ['x', 'y'], max_length=6)
    assert cut.cut.all() and cut.types.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 1, 1]     # of the longer text, or the first of equal ones


def test_token_types_are_for_models_that_know_several(tmp_path):
    "XLM-R has one row of them, DistilBERT none: a second type would be an index beyond the table, or an unknown argument"
    from privkd_nb.compute.forward import forward
    from privkd_nb.jobs.fine_tune import check_lengths
    from privkd_nb.models.loading import load_tokenizer
    from privkd_nb.models.tiny import tiny_model
    df = pd.DataFrame(dict(id=['0'], text=['a b'], text_pair=['c d'], label=['x'], language='en'))
    typed = encode(df, bert_tokenizer(), ['x', 'y'])
    batch = Collate(0)([typed[0]])
    for arch, config in dict(xlmr=dict(type_vocab_size=1), distilbert={}, modernbert={}, bert={}).items():
        model = tiny_model(arch, 2, pad_token_id=0, **config)
        for part in (model, bert_tokenizer()): part.save_pretrained(tmp_path/arch)
        with_types = encode(df, load_tokenizer(str(tmp_path/arch)), ['x', 'y']).types is not None
        assert with_types == (arch == 'bert')
        same = torch.equal(forward(model, batch).logits, forward(model, {k: v for k, v in batch.items() if k != 'token_type_ids'}).logits)
        assert same != with_types
    with pytest.raises(InputError, match='a pair has the token type 2, but BertForSequenceClassification knows 2 of them'):
        check_lengths(model, 64, Encoded([[1, 4]], [0], ['en'], ['0'], pad_id=0, types=[[0, 2]]))


def test_pairs_of_a_bert_are_read_with_their_types_from_the_teacher_to_a_pipeline(tmp_path):
    from transformers import pipeline
    from privkd_nb.jobs.distil import distil
    from privkd_nb.models.loading import load_encoder, load_tokenizer
    from privkd_nb.models.tiny import tiny_model
    path = write(tmp_path/'mine', [dict(text=f"{a} {b}", text_pair=f"{c} a", label='xy'[i % 2], language='en') for i, (a, b, c) in enumerate((a, b, c) for a in 'abcd' for b in 'efg' for c in 'bcd')])
    for part in (tiny_model('bert', 2, pad_token_id=0, initializer_range=1.), bert_tokenizer()): part.save_pretrained(tmp_path/'base')
    run = distil(RunConfig(dataset=str(path), base=str(tmp_path/'base'), tiny=True, losses='ce,kl', out_dir=str(tmp_path/'runs')))
    p = pd.read_parquet(run.path/'predictions.parquet').query("split == 'test'")
    first, second = pd.read_parquet(run.path/'texts.parquet').set_index('id').text[p.id.iloc[0]].split(' ‖ ')
    for role, folder in dict(student=str(run.path/'model'), teacher=run.environment['teacher']['name']).items():      # the teacher's come from its cache
        model, enc = load_encoder(folder), load_tokenizer(folder)(first, second, return_tensors='pt')
        with torch.no_grad(): typed, plain = model(**enc).logits.softmax(-1)[0], model(**{k: v for k, v in enc.items() if k != 'token_type_ids'}).logits.softmax(-1)[0]
        assert (typed-plain).abs().max() > 1e-3
        assert p[p.model == role].probability.iloc[0] == pytest.approx(typed.max().item(), abs=1e-5)
        piped = pipeline('text-classification', folder, top_k=1)(dict(text=first, text_pair=second))
        assert piped[0]['score'] == pytest.approx(typed.max().item(), abs=1e-5)


@pytest.mark.parametrize('kind', ['sequence', 'token', 'multilabel'])
def test_class_weights_reach_the_loss_of_teacher_and_student(tmp_path, kind):
    from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
    from privkd_nb.data.weights import class_weights
    from privkd_nb.models.tiny import tiny_model
    from privkd_nb.train.arguments import training_args
    from privkd_nb.train.trainer import DistillTrainer
    g, n, names = np.random.default_rng(0), 6, ['x', 'y', 'z']
    y = dict(sequence=[0, 0, 0, 1, 1, 2], token=[[0, 1], [0, 0], [0, 2], [0, 0], [1, 0], [0, 0]], multilabel=np.eye(3, dtype=int)[[0, 0, 0, 0, 1, 2]])[kind]
    words = [[-1, 0, 1, -1]]*n if kind == 'token' else None
    data = Encoded(g.integers(5, 120, (n, 4)).tolist(), y, ['en']*n, range(n), words, pad_id=1, kind=kind)
    model = tiny_model(labels=names, kind=kind)
    trainer = DistillTrainer(model, losses='ce', class_weights='z=3', train_languages=['en'], args=training_args(tmp_path, n, 1, batch_size=n), train_dataset=data, eval_dataset=data)
    batch = trainer._prepare_inputs(Collate(1)([data[i] for i in range(n)]))        # where the trainer moved the model
    trainer.totals = batch['counts']
    loss = trainer.compute_loss(model.eval(), batch).item()
    z, gold, w = model(batch['input_ids'], batch['attention_mask']).logits, batch['labels'], torch.tensor(class_weights('z=3', data, names), device=model.device)
    if kind == 'multilabel': want = (binary_cross_entropy_with_logits(z, gold.float(), pos_weight=torch.tensor([1., 1, 3], device=model.device), reduction='none')*w[0]).mean()
    else: want = cross_entropy(z.flatten(0, -2), gold.flatten(), weight=w)          # over all training labels, torch's mean is the same
    assert loss == pytest.approx(want.item(), rel=1e-5)
    with pytest.raises(InputError, match="names 'q', which is no label of the data"): class_weights('q=2', data, names)


def test_class_weights_name_a_run_and_its_teacher_only_where_they_are_given():
    assert 'class_weights' not in RunConfig().identity() and RunConfig(class_weights='balanced').identity()['class_weights'] == 'balanced'
    with pytest.raises(InputError, match="class_weights='equal' is neither balanced nor weights above 0 by label"): RunConfig(class_weights='equal')


@pytest.fixture(scope='module')
def study(tmp_path_factory):
    "A tiny run of each built-in task"
    from privkd_nb.analysis.load import Study
    from privkd_nb.jobs.distil import distil
    folder = tmp_path_factory.mktemp('runs')
    runs = {name: distil(RunConfig(dataset=f'playground-{name}', tiny=True, losses='ce,kl,hidden', out_dir=str(folder), **kw)) for name, kw in dict(labels=dict(class_weights='balanced'), pairs={}).items()}
    return runs, Study.open(folder)


def test_several_labels_from_the_playground_to_a_pipeline(study):
    from sklearn.metrics import f1_score
    from sklearn.preprocessing import MultiLabelBinarizer
    from transformers import pipeline
    from privkd_nb.analysis.examples import disagreements, example_differences
    from privkd_nb.evaluation.texts import Classifier
    run, runs = study[0]['labels'], study[1]
    cfg, p = json.loads((run.path/'model/config.json').read_text()), runs.predictions(run.path.name)
    assert cfg['problem_type'] == 'multi_label_classification' and cfg['thresholds'] == run.environment['thresholds']['student'] and len(cfg['thresholds']) == 10
    of = p[(p.model == 'student') & (p.language == 'sw')]
    hot = MultiLabelBinarizer(classes=sorted(cfg['label2id']))
    m = run.metrics.query("model == 'student' and language == 'sw' and split == 'test'").set_index('metric').value
    assert m['micro_f1'] == pytest.approx(f1_score(hot.fit_transform(of.gold), hot.transform(of.predicted), average='micro', zero_division=0))
    found = example_differences(runs, [run.path.name], ['teacher'], reps=50).set_index('language').score
    teacher = run.metrics.query("model == 'teacher' and language == 'sw' and split == 'test'").set_index('metric').value
    assert found['sw'] == pytest.approx(m['micro_f1']-teacher['micro_f1'])
    text, model = of.text.iloc[0], Classifier(run)
    got = model.predict([text])
    with pytest.raises(InputError, match='was trained on single texts; leave the second'): model.predict([text], [text])
    assert got.labels[0] == list(of.predicted.iloc[0])
    piped = {d['label']: d['score'] for d in pipeline('text-classification', str(run.path/'model'), top_k=None)([text])[0]}
    assert piped == pytest.approx(got.probabilities[0], abs=1e-5)
    assert {v for v in disagreements(runs, run.path.name, 'teacher').a if ' ' not in v} <= {*cfg['label2id'], '(none)'}


def test_pairs_from_the_playground_to_a_prediction(study):
    from privkd_nb.evaluation.texts import Classifier
    run, runs = study[0]['pairs'], study[1]
    of = runs.predictions(run.path.name).query("model == 'student'")
    first, second = of.text.iloc[0].split(' ‖ ')
    model = Classifier(run)
    assert model.predict(first, second).label[0] == of.predicted.iloc[0]
    with pytest.raises(InputError, match='was trained on pairs of texts; give the second ones'): model.predict(first)


@pytest.mark.parametrize('dataset,names,labels', [('xnli', ('premise', 'hypothesis'), ['contradiction', 'entailment', 'neutral']), ('pawsx', ('sentence1', 'sentence2'), ['0', '1'])])
def test_published_pairs_from_a_local_folder(tmp_path, dataset, names, labels):
    (tmp_path/dataset).mkdir()
    for split in ('train', 'validation', 'test'):
        made = [{names[0]: f'{l} {split} {i}', names[1]: 'NS' if dataset == 'pawsx' and i == 1 else 'It is dry.', 'label': i % len(labels), 'language': l} | (dict(id=i) if dataset == 'pawsx' else {}) for l in ('de', 'en') for i in range(6)]
        pd.DataFrame(made).to_parquet(tmp_path/dataset/f'{split}.parquet')
    task = load_task(dataset, tmp_path, languages='en,de')
    assert task.labels == labels and task.test.text_pair.unique().tolist() == ['It is dry.']
    assert task.test[task.test.language == 'en'].id.tolist() == task.test[task.test.language == 'de'].id.tolist() == [str(i) for i in range(6) if dataset == 'xnli' or i != 1]
    assert task.test.label[0] == dict(xnli='entailment', pawsx='0')[dataset]


def test_pairs_of_massive_are_balanced_parallel_and_apart(shared_data):
    from privkd_nb.data.playground import same_label_pairs
    from privkd_nb.data.sources import read_split
    made = {}
    for split in ('validation', 'test'):
        df = read_split('massive', split, ['en-US', 'sw-KE'], shared_data).query('id.str[-1] == "7"')
        made[split] = pd.DataFrame(same_label_pairs(df.to_dict('records')))
        known = dict(zip(df.text, df.label))
        assert all((known[r.text] == known[r.text_pair]) == (r.label == 'same') for r in made[split].itertuples())
        by = made[split].groupby('language').label.value_counts().unstack()
        assert (by['same'] == by['different']).all()
    assert not {*made['test'].text, *made['test'].text_pair} & {*made['validation'].text, *made['validation'].text_pair}
