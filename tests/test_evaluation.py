"Scores against independent counts."
import random
from dataclasses import replace

import numpy as np, pandas as pd, pytest, torch

from privkd_nb.data.encoding import Collate, encode, model_inputs
from privkd_nb.data.tasks import Task, load_task
from privkd_nb.evaluation.scores import decoded, entity_scores, metric_rows, predict, text_scores, with_means
from privkd_nb.jobs.config import RunConfig
from privkd_nb.jobs.fine_tune import scored_examples, scored_texts, validation_subset
from privkd_nb.models.tiny import ARCHITECTURES, tiny_model
from privkd_nb.models.tokenizer import train_tokenizer


def spans(tags):
    "Entities of an IOB2 sequence, counted by hand: an I- without its B- opens one too, as conlleval has it"
    res, start, kind = set(), None, None
    for i, t in enumerate([*tags, 'O']):
        if start is not None and (t[0] != 'I' or t[2:] != kind): res.add((kind, start, i)); start = None
        if t[0] == 'B' or t[0] == 'I' and start is None: start, kind = i, t[2:]
    return res


def test_entities_agree_with_a_count_by_hand():
    rng = random.Random(0)
    tags = ['O', 'O', 'B-PER', 'I-PER', 'B-LOC', 'I-LOC', 'B-ORG', 'I-ORG']
    for _ in range(50):
        gold = [[rng.choice(tags) for _ in range(rng.randint(1, 12))] for _ in range(8)]
        pred = [[t if rng.random() < .6 else rng.choice(tags) for t in g] for g in gold]
        g = {(i, *s) for i, x in enumerate(gold) for s in spans(x)}
        p = {(i, *s) for i, x in enumerate(pred) for s in spans(x)}
        prec, rec = len(g & p)/max(len(p), 1), len(g & p)/max(len(g), 1)
        sc = entity_scores(gold, pred)
        assert np.isclose(sc['entity_precision'], prec) and np.isclose(sc['entity_recall'], rec)
        assert np.isclose(sc['entity_f1'], 2*prec*rec/(prec+rec) if prec+rec else 0)


def test_macro_f1_agrees_with_a_count_by_hand():
    rng = np.random.default_rng(0)
    for _ in range(20):
        g, p = rng.choice(list('abcd'), 40), rng.choice(list('abcde'), 40)
        f = []
        for c in sorted(set(g)):
            tp = ((g == c) & (p == c)).sum()
            f.append(2*tp/((g == c).sum()+(p == c).sum()))
        assert np.isclose(text_scores(g, p)['macro_f1'], np.mean(f))


def test_no_entities_at_all_have_no_score():
    assert np.isnan(list(entity_scores([['O']], [['O']]).values())).all() and entity_scores([['O']], [['B-PER']])['entity_f1'] == 0


def test_a_mean_is_a_group_and_no_language():
    scores = pd.DataFrame(dict(seen=[True, False, False], n=[10, 20, 30], accuracy=[.9, .5, .1]), index=pd.Index(['en', 'mean', 'sw'], name='language'))
    m = with_means(scores)                          # even a language that is called so
    assert m.accuracy['language', 'mean'] == .5 and np.allclose(m.accuracy[[('all', ''), ('seen', ''), ('unseen', '')]], [.5, .9, .3]) and m.n['all', ''] == 60
    assert list(with_means(scores[scores.seen]).index) == [('language', 'en'), ('all', '')]
    rows = metric_rows(scores, 'student', 'test', 3)
    assert set(rows.group) == {'language', 'all', 'seen', 'unseen'} and set(rows[rows.group != 'language'].language) == {''} and rows[rows.group != 'language'].seen.isna().all()


TEXTS = [f'{w} ' * n for n in (1, 2, 3, 5, 8) for w in ('yes', 'no', 'maybe now', 'Berlin')]


@pytest.fixture(scope='module')
def tokenizer(): return train_tokenizer(TEXTS, 300)


@pytest.mark.parametrize('kind', ['sequence', 'token'])
@pytest.mark.parametrize('arch', ARCHITECTURES)
def test_scoring_by_tokens_without_padding_predicts_the_same(tokenizer, arch, kind):
    labels, words = ['O', 'B-X', 'I-X'], [t.split() for t in TEXTS]
    cells = dict(text=TEXTS, label=labels[0]) if kind == 'sequence' else dict(tokens=words, ner_tags=[['O']*len(w) for w in words])
    data = encode(pd.DataFrame(dict(id=list(map(str, range(len(TEXTS)))), language='en') | cells), tokenizer, labels)
    model = tiny_model(arch, labels=labels, kind=kind, vocab_size=300)
    plain = decoded(((i, b, model(**model_inputs(b)).logits) for i, b in alone(model, data)), data, labels)
    for kw in (dict(), dict(max_tokens=20), dict(unpad=False)):
        found = predict(model.train(), data, **kw)
        assert found.predicted.tolist() == plain.predicted.tolist() and np.allclose(found.loss, plain.loss, atol=1e-5) and model.training, kw


def alone(model, data):
    "One example a batch, in the order of the data"
    model.eval()
    with torch.inference_mode():
        for i in range(len(data)): yield np.array([i]), Collate(data.pad_id)([data[i]])


def test_a_budget_of_tokens_bounds_every_forward_pass(tokenizer):
    data, sizes = encode(pd.DataFrame(dict(id=TEXTS, language='en', text=TEXTS, label='a')), tokenizer, ['a', 'b']), []
    model = tiny_model(labels=['a', 'b'], vocab_size=300)
    model.register_forward_pre_hook(lambda m, a, kw: sizes.append(kw['input_ids'].numel()), with_kwargs=True)
    predict(model, data, max_tokens=40, unpad=False)
    assert max(sizes) <= 40 and sizes[0] >= sizes[-1] and len(sizes) > 3
    assert predict(model, data.take([]))['predicted'].tolist() == []                      # nothing to score


@pytest.fixture(scope='module')
def many():
    "Texts in three languages, of which one is trained on: 300 validation texts each"
    def rows(n, langs): return pd.DataFrame([dict(id=f'{l}{i}', text=f'text {i} '+'x '*(i % 7), label='ab'[i % 2], language=l) for l in langs for i in range(n)])
    return Task('own', 'sequence', ['a', 'b'], 'accuracy', rows(100, ['de']), rows(300, ['de', 'en', 'sw']), rows(4, ['de', 'en', 'sw']), ['de'], ['de', 'en', 'sw'])


def test_evaluation_costs_a_tenth_of_training_at_most(many, tokenizer):
    validation = encode(validation_subset(many), tokenizer, many.labels)
    def n(size, **kw): return scored_texts(RunConfig(**kw), replace(many, train_size=size), validation)
    for size, epochs in ((2000, 10), (8000, 3), (40_000, 1)):                        # in forward passes over texts
        assert 6*3*n(size, epochs=epochs) <= .1*3*epochs*size < 6*3*(n(size, epochs=epochs)+2) or n(size, epochs=epochs) == 200
    assert n(100, epochs=1) == 167 and n(10**6, epochs=1) == 200                     # 500 in all at least, 200 a language at most
    assert n(2000, epochs=1, patience=2) == n(2000, epochs=1, tiny=True) == 200      # scores decide; a trial has few texts
    hundred = [f'l{i}' for i in range(100)]
    wide = encode(pd.concat([many.test.assign(language=l, id=l) for l in hundred]), tokenizer, many.labels)
    assert scored_texts(RunConfig(epochs=1), many, wide) == 10


def test_the_same_validation_texts_are_scored_whatever_the_seed(many, tokenizer):
    validation = encode(validation_subset(many), tokenizer, many.labels)
    def chosen(seed, **kw):
        task = replace(many, train=many.train.sample(100-seed, random_state=seed), train_size=100, said=[])
        return scored_examples(RunConfig(seed=seed, epochs=1, **kw), task, validation).names, task.said
    (a, said), (b, _), (c, _), (d, quiet) = chosen(0), chosen(1, init='scratch'), chosen(2, losses='ce'), chosen(0, patience=1)
    assert list(a) == list(b) == list(c) and set(a) < set(d) == set(validation.names) and [str(x)[:2] for x in a].count('sw') == 167
    assert said == ['167 validation texts a language are scored during training (501 of 600), so that it takes little of the time'] and not quiet


def test_the_size_of_a_fraction_does_not_depend_on_the_seed():
    tasks = [load_task(languages='en,sw,zh', fraction=.13, seed=s) for s in range(6)]
    assert len({t.train_size for t in tasks}) == 1 and all(abs(len(t.train)-t.train_size) < 20 for t in tasks)
