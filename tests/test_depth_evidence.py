"Layers chosen by evidence: the search with shared prefixes computes what students that were copied compute, and costs what is said"
import json, math
from itertools import combinations

import numpy as np, pandas as pd, pytest, torch
from privkd_nb.compute.by_layer import layer_batches
from privkd_nb.core import InputError
from privkd_nb.data.encoding import Encoded
from privkd_nb.init.copying import copy_weights, fresh_model, student_config
from privkd_nb.init.depth import MEASURED
from privkd_nb.init.changes import layer_changes
from privkd_nb.init.importance import block_influence
from privkd_nb.init.sample import balanced_sample, fair_shares
from privkd_nb.init.search import RULES, Searcher, choose_layers, depth_rule, layer_runs, layers_in, search, subset_logits
from privkd_nb.models.architectures import ARCHITECTURES
from privkd_nb.models.tiny import tiny_model


def texts(n=24, kind='sequence', seed=0, languages=('de', 'hi', 'sw'), labels=3):
    "Random texts of different lengths"
    rng = np.random.default_rng(seed)
    ids = [[5, *rng.integers(6, 120, rng.integers(2, 9)).tolist(), 6] for _ in range(n)]
    words = [[-1, *range(len(i)-2), -1] for i in ids] if kind == 'token' else None
    if kind == 'token': y = [rng.integers(0, labels, len(i)-2).tolist() for i in ids]
    else: y = rng.integers(0, 2, (n, labels)) if kind == 'multilabel' else rng.integers(0, labels, n).tolist()
    return Encoded(ids, y, [languages[i % len(languages)] for i in range(n)], [str(i) for i in range(n)], words, pad_id=1, kind=kind)


def copied(teacher, layers):
    "A student that was copied, as any other"
    student = fresh_model(type(teacher), student_config(teacher, layers), 0)
    copy_weights(student, teacher, layers)
    return student.eval()


@pytest.mark.parametrize('arch', ARCHITECTURES)
def test_shared_prefixes_compute_what_copied_students_do(arch):
    teacher, data = tiny_model(arch, 5), texts(9)
    lacks = ARCHITECTURES[arch].lacks
    subsets = [s for s in combinations(range(5), 3) if not lacks or s[0] == 0]
    with torch.no_grad():
        batches = [one for _,one in layer_batches(teacher, data, max_tokens=40)]
        assert len(batches) > 1
        for s,logits in subset_logits(batches, subsets):
            student = copied(teacher, list(s))
            for one,z in zip(batches, logits): assert torch.equal(z, student(**one.sent).logits), (arch, s)


@pytest.mark.parametrize('kind', ['sequence', 'token', 'multilabel'])
def test_grades_are_those_of_the_tables(kind):
    from privkd_nb.evaluation.scores import evaluate_by_language
    labels = ['O', 'B-A', 'I-A'] if kind == 'token' else 3
    teacher, data = tiny_model(layers=4, labels=labels, kind=kind), texts(30, kind)
    grades = search(teacher, data, [[0, 2], [1, 3]]).set_index('layers')
    for name in grades.index:
        student = copied(teacher, layers_in(name))
        if kind == 'multilabel': student.config.problem_type = teacher.config.problem_type
        student.config.id2label = teacher.config.id2label
        wanted = evaluate_by_language(student, data)[dict(sequence='accuracy', token='entity_f1', multilabel='micro_f1')[kind]]
        for l,v in wanted.items(): assert grades.loc[name, f'score {l}'] == pytest.approx(v, nan_ok=True)
        assert grades.loc[name, 'score'] == pytest.approx(wanted.mean())


def test_divergence_is_that_of_the_predictions():
    teacher, data = tiny_model(layers=4), texts(12)
    grades = search(teacher, data, [[0, 3]])
    student, kl = copied(teacher, [0, 3]), {}
    with torch.no_grad():
        for _,one in layer_batches(teacher, data):
            p, q = (m(**one.sent).logits.double().softmax(-1) for m in (teacher, student))
            for l,v in zip(data.languages[_], (p*(p/q).log()).sum(-1).tolist()): kl.setdefault(l, []).append(v)
    assert grades.kl[0] == pytest.approx(np.mean([np.mean(v) for v in kl.values()]), rel=1e-5)
    assert grades.attrs['full']['kl'] == 0


@pytest.mark.parametrize('n,m,wanted', [(12, 6, 57), (12, 3, 72), (6, 3, 15)])
def test_greedy_makes_as_many_evaluations_as_stated(n, m, wanted):
    teacher, data = tiny_model(layers=n, hidden_size=8, num_attention_heads=2, intermediate_size=8), texts(6)
    chosen = choose_layers('greedy', teacher, m, data)
    assert chosen.cost['evaluations'] == wanted == sum(range(m+1, n+1)) and len(chosen.layers) == m
    assert chosen.cost['layers_run'] < chosen.cost['layers_alone']


def test_the_cost_is_what_was_run(monkeypatch):
    from privkd_nb.compute.by_layer import ByLayer
    ran, run = [], ByLayer.run
    monkeypatch.setattr(ByLayer, 'run', lambda self, l, h: (ran.append(l), run(self, l, h))[1])
    teacher, data = tiny_model(layers=6), texts(6)
    chosen = choose_layers('exhaustive', teacher, 3, data)
    assert len(ran)+6 == chosen.cost['layers_run'] and chosen.cost['evaluations'] == 20
    assert chosen.cost['layers_alone'] == 6+20*3
    assert layer_runs(list(combinations(range(12), 6))) == sum(math.comb(6+k, k) for k in range(1, 7)) == 1715


def test_exhaustive_is_the_best_of_all_and_greedy_steps_to_the_best_next():
    teacher, data = tiny_model(layers=5), texts(30)
    every = search(teacher, data, [s for k in range(2, 6) for s in combinations(range(5), k)])
    best = every[every.n_layers == 2].iloc[0]
    assert choose_layers('exhaustive', teacher, 2, data).layers == layers_in(best.layers)
    keep = list(range(5))
    while len(keep) > 2:
        names = [','.join(str(o) for o in keep if o != l) for l in keep]
        keep = layers_in(every[every.layers.isin(names)].iloc[0].layers)
    assert choose_layers('greedy', teacher, 2, data).layers == keep


def test_a_layer_that_does_nothing_goes_first():
    teacher, data = tiny_model('modernbert', layers=5, labels=3), texts(30)
    with torch.no_grad():
        for k,p in teacher.named_parameters():
            if 'layers.3.' in k and k.endswith(('Wo.weight',)): p.zero_()      # pre-norm: the layer is the identity
    for rule in MEASURED:
        if rule not in RULES or RULES[rule].__module__ != 'privkd_nb.init.search': continue
        assert choose_layers(rule, teacher, 4, data, ARCHITECTURES['modernbert'].lacks).layers == [0, 1, 2, 4], rule


def test_the_first_layer_of_modernbert_is_always_kept():
    teacher, data = tiny_model('modernbert', layers=5), texts(12)
    for rule in ('contribution', 'influence', 'ablation', 'greedy', 'exhaustive'):
        assert choose_layers(rule, teacher, 2, data, ARCHITECTURES['modernbert'].lacks).layers[0] == 0


def test_languages_count_alike_whatever_their_number_of_texts():
    teacher, data = tiny_model(layers=4), texts(20)
    many = data.take([*range(20), *np.flatnonzero(data.languages == 'de').tolist()*5])
    for rule in ('contribution', 'influence', 'ablation'):
        a, b = (choose_layers(rule, teacher, 2, d).scores for d in (data, many))
        pd.testing.assert_frame_equal(a, b, check_exact=False, atol=1e-5)
    assert fair_shares(dict(de=1, en=100, hi=3), 10) == dict(de=1, en=6, hi=3)
    assert len(balanced_sample(many, 9)) == 9


def test_changes_are_those_of_block_influence_and_padding_does_not_count():
    teacher, data = tiny_model(layers=4), texts(20, languages=['de'])
    changes = layer_changes(teacher, data)
    np.testing.assert_allclose(changes.score, block_influence(teacher, data), atol=1e-4)
    alone = [layer_changes(teacher, data.take([i]), first=True).score for i in range(20)]      # without any padding
    np.testing.assert_allclose(layer_changes(teacher, data, first=True).score, np.mean(alone, 0), atol=1e-6)


def test_a_model_in_training_is_searched_in_eval_mode_and_goes_on_training():
    teacher, data = tiny_model(layers=4), texts(12)
    wanted = search(teacher, data, [[0, 1], [2, 3]])
    pd.testing.assert_frame_equal(search(teacher.train(), data, [[0, 1], [2, 3]]), wanted)
    assert teacher.training and all(p.grad is None for p in teacher.parameters())


def test_languages_without_labels_have_no_score_but_a_divergence():
    teacher, data = tiny_model(layers=4), texts(12)
    data.labels[data.languages == 'hi'] = -100
    grades = search(teacher, data, [[0, 1]])
    assert np.isnan(grades['score hi'][0]) and grades.score[0] == np.mean([grades['score de'][0], grades['score sw'][0]])


def test_a_choice_is_kept_as_json():
    teacher, data = tiny_model(layers=4), texts(12)
    for rule in ('influence', 'ablation', 'greedy', 'exhaustive'):
        record = choose_layers(rule, teacher, 2, data).record(most=3)
        assert json.loads(json.dumps(record, allow_nan=False)) == record and len(record['scores']) == 3


def test_a_rule_of_ones_own_is_a_choice():
    try:
        @depth_rule(source='here')
        def upside(model, sample, n_student, lacks):
            "The last ones"
            return range(model.config.num_hidden_layers)
        assert choose_layers('upside', tiny_model(layers=4), 2, texts(3)).layers == [2, 3]
        assert MEASURED['upside'] == ('texts', 'The last ones', 'here')
        with pytest.raises(InputError, match='stride is a depth rule of this package'):
            @depth_rule()
            def stride(model, sample, n_student, lacks): return [0]
    finally: RULES.pop('upside', None), MEASURED.pop('upside', None)
    with pytest.raises(InputError, match='greedi'): choose_layers('greedi', tiny_model(), 2, texts(3))
