"Scores against independent counts."
import random

import numpy as np

from privkd_nb.evaluation.scores import entity_scores, text_scores


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


def test_no_entities_at_all_is_not_a_crash():
    assert entity_scores([['O']], [['O']])['entity_f1'] == 0
