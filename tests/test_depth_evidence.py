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
from privkd_nb.init.merging import copies, folded, merge_plan, merged
from privkd_nb.init.refit import block_of, refit, refit_layer
from privkd_nb.init.sample import balanced_sample, fair_shares
from privkd_nb.init.search import RULES, Searcher, choose_layers, depth_rule, layer_runs, layers_in, search, subset_logits
from privkd_nb.init.spec import own_label
from privkd_nb.models.architectures import ARCHITECTURES
from privkd_nb.models.encoders import layers_of
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
    keep, graded = list(range(5)), []
    while len(keep) > 2:
        graded += (names := [','.join(str(o) for o in keep if o != l) for l in keep])
        keep = layers_in(every[every.layers.isin(names)].iloc[0].layers)
    chosen = choose_layers('greedy', teacher, 2, data)
    assert chosen.layers == keep and sorted(chosen.scores.layers) == sorted(graded)


def test_a_layer_that_does_nothing_goes_first():
    teacher, data = tiny_model('modernbert', layers=5, labels=3), texts(30)
    with torch.no_grad():
        for k,p in teacher.named_parameters():
            if 'layers.3.' in k and k.endswith(('Wo.weight',)): p.zero_()      # pre-norm: the layer is the identity
        right = [teacher(torch.as_tensor(data[i]['input_ids'])[None]).logits.argmax() for i in range(len(data))]
    data.labels = np.array(right)                                                # so that leaving out no other layer is better
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
        assert MEASURED['upside'][:3] == ('texts', 'The last ones', 'here')
        with pytest.raises(InputError, match='stride is a depth rule of this package'):
            @depth_rule()
            def stride(model, sample, n_student, lacks): return [0]
    finally: RULES.pop('upside', None), MEASURED.pop('upside', None)
    with pytest.raises(InputError, match='greedi'): choose_layers('greedi', tiny_model(), 2, texts(3))


NAN = float('nan')
WRONG = [(None, 'returned None; it must return a number a layer, 4 here'), (['a', 'b', 'c', 'd'], r"returned \['a'.*must return a number a layer"),
         ({0: 1., 1: 2., 2: 3., 3: 4.}, 'must return a number a layer'), (3., 'must return a number a layer'), ([1., 2.], 'returned 2 numbers; it must return a number a layer'),
         ([NAN]*4, 'returned NaN for all but 0 of 4 layers, and 2 are wanted'), (pd.DataFrame(dict(score=['a']*4)), 'are no numbers'),
         (pd.DataFrame(dict(score=[1., 2.])), 'returned 2 numbers'), (pd.DataFrame(dict(layers=['0,1'])), 'without the column n_layers'),
         (pd.DataFrame(dict(layers=['0,1'], n_layers=2, score=NAN, kl=NAN)), 'returned no student of 2 layers'),
         (pd.DataFrame(dict(layers=['0,1'], n_layers=3, score=1., kl=0.)), 'returned no student of 2 layers'),
         (pd.DataFrame(dict(layers=['0,9'], n_layers=2, score=1., kl=0.)), "chose the layers '0,9'; write 2 increasing numbers below 4")]

@pytest.fixture
def only_rules_of_the_package():
    "Forget rules of one's own after a test"
    had = set(RULES)
    yield
    for k in set(RULES)-had: RULES.pop(k), MEASURED.pop(k, None)


@pytest.mark.parametrize('value, why', WRONG)
def test_what_an_own_rule_returns_is_checked(value, why, only_rules_of_the_package):
    @depth_rule
    def mine(model, sample, n_student, lacks): return value
    with pytest.raises(InputError, match=f'the depth rule mine .*{why}'): choose_layers('mine', tiny_model(layers=4), 2, texts(3))


@pytest.mark.parametrize('value', [torch.nn.Parameter(torch.tensor([1., 4, 2, 3])), [torch.tensor(v) for v in (1., 4, 2, 3)], pd.Series([1, 4, 2, 3]), [1, 4, NAN, 3]])
def test_numbers_of_every_kind_choose_layers(value, only_rules_of_the_package):
    @depth_rule
    def mine(model, sample, n_student, lacks): "The best"; return value
    assert choose_layers('mine', tiny_model(layers=4), 2, texts(3)).layers == [1, 3] and MEASURED['mine'].title == 'The best'


def test_what_a_rule_needs_names_the_run(only_rules_of_the_package):
    def mine(model, sample, n_student, lacks): return [1, 2, 3]
    depth_rule()(mine)
    plain = own_label('mine', MEASURED)
    depth_rule('labels')(mine)
    assert own_label('mine', MEASURED) != plain and own_label('greedy', MEASURED) == 'greedy'
    with pytest.raises(InputError, match="needs='text' is not a choice"): depth_rule(needs='text')(mine)


def test_merges_are_the_sums_that_they_are_called():
    teacher = tiny_model(layers=6)
    w = {k: [layer.state_dict()[k] for layer in layers_of(teacher)] for k in layers_of(teacher)[0].state_dict()}
    wanted = dict(mean=lambda v: [(v[0]+v[1]+v[2])/3, (v[3]+v[4]+v[5])/3], interpolate=lambda v: [v[0], v[5]])
    for rule,f in wanted.items():
        student = copied(teacher, [0, 1])
        plan, layers = merged(student, teacher, rule)
        for i,layer in enumerate(layers_of(student)):
            for k,v in layer.state_dict().items(): torch.testing.assert_close(v, f(w[k])[i])
        assert layers == dict(mean=[2, 5], interpolate=[0, 5])[rule]
        untouched = [k for k in student.state_dict() if 'encoder.layer.' not in k]
        assert untouched and all(torch.equal(student.state_dict()[k], teacher.state_dict()[k]) for k in untouched)


def test_laco_folds_differences_and_keeps_as_many_layers_as_asked_for():
    teacher, data = tiny_model(layers=7), texts(12)
    for m in range(1, 8):
        plan = merge_plan('laco', teacher, m, data)
        assert len(plan) == m and all(sum(p.weights.values()) == pytest.approx(1) for p in plan)      # theta + differences
        assert [p.layer for p in plan] == sorted({p.layer for p in plan}) and plan[-1].layer == 6
    student, once = copied(teacher, [0, 1, 2, 3, 4]), folded(copies(7), 2, 2)
    merged(student, teacher, once)
    theirs, mine = layers_of(teacher), layers_of(student)
    for k,v in mine[2].state_dict().items():
        l, a, b = (theirs[i].state_dict()[k] for i in (2, 3, 4))
        torch.testing.assert_close(v, l+(a-l)+(b-l))
    assert torch.equal(mine[3].output.dense.weight, theirs[5].output.dense.weight)


def test_laco_folds_where_nothing_is_lost():
    "In a pre-norm encoder a layer without outputs is the identity: two of them, otherwise like the next one, fold into it exactly"
    teacher, data = tiny_model('eurobert', layers=6), texts(12)
    with torch.no_grad():
        for l in (2, 3):
            layers_of(teacher)[l].load_state_dict(layers_of(teacher)[4].state_dict())
            for k,p in layers_of(teacher)[l].named_parameters():
                if k.endswith(('o_proj.weight', 'down_proj.weight')): p.zero_()
    student = copied(teacher, [0, 1, 2, 3])
    plan, layers = merged(student, teacher, 'laco', data)
    assert layers == [0, 1, 4, 5] and plan[2].weights == {2: -1, 3: 1, 4: 1}
    for _,one in layer_batches(teacher, data): torch.testing.assert_close(student(**one.sent).logits, one.logits)


REFITS = [a for a in ARCHITECTURES if a != 'mmbert']


def small_teacher(arch, layers):
    "With feed-forward blocks of 64 units and norms that differ"
    teacher = tiny_model(arch, layers, **dict(hidden_dim=64) if arch == 'distilbert' else {})
    with torch.no_grad():
        for k,p in teacher.named_parameters():
            if p.ndim == 1 and k.endswith('weight'): p.normal_(1, .1)
    return teacher


@pytest.mark.parametrize('arch', REFITS)
def test_refit_of_a_copy_of_all_layers_changes_nothing(arch):
    teacher, data = small_teacher(arch, 3), texts(30)
    student = copied(teacher, [0, 1, 2])
    refit(student, teacher, [0, 1, 2], data)
    assert all(torch.equal(a, b) for a,b in zip(student.state_dict().values(), teacher.state_dict().values()))


@pytest.mark.parametrize('arch', REFITS)
def test_refit_is_an_independent_least_squares(arch):
    "Text by text without padding, from plain hooks, solved by numpy as one augmented system; layer 0 of three"
    teacher, data, lam = small_teacher(arch, 4), texts(40), .01
    student = copied(teacher, [0, 2])
    block = block_of(teacher)
    old = layers_of(student)[0].get_submodule(block.linear)
    W = np.vstack([old.weight.detach().numpy().T, *([old.bias.detach().numpy()] if old.bias is not None else [])]).astype(float)
    A, R = [], []
    for i in range(len(data)):
        ids, seen = torch.tensor([data[i]['input_ids'].tolist()]), {}
        def see(model, l, key):
            layer = layers_of(model)[l]
            linear = layer.get_submodule(block.linear)
            hooks = [linear.register_forward_hook(lambda m, a, out: seen.update({key+'a': a[0]}))]
            if block.norm: hooks.append(layer.get_submodule(block.norm).register_forward_hook(lambda m, a, out: seen.update({key+'u': a[0]})))
            else: hooks.append(layer.register_forward_hook(lambda m, a, out: seen.update({key+'u': out[0] if isinstance(out, tuple) else out})))
            with torch.no_grad(): model(input_ids=ids, attention_mask=torch.ones_like(ids))
            for h in hooks: h.remove()
        see(student, 0, 's'), see(teacher, 1, 't')               # its successor copies layer 2, which reads what layer 1 puts out
        a = seen['sa'][0].double().numpy()
        A.append(np.hstack([a, np.ones((len(a), 1))]) if old.bias is not None else a)
        R.append((seen['tu']-seen['su'])[0].double().numpy())
    A, R = np.vstack(A), np.vstack(R)
    alpha = lam*np.square(A).sum()/A.shape[1]
    delta = np.linalg.lstsq(np.vstack([A, np.sqrt(alpha)*np.eye(A.shape[1])]), np.vstack([R, np.zeros((A.shape[1], R.shape[1]))]), rcond=None)[0]
    refit(student, teacher, [0, 2], data, lam)
    new = np.vstack([old.weight.detach().numpy().T, *([old.bias.detach().numpy()] if old.bias is not None else [])])
    np.testing.assert_allclose(new, W+delta, atol=1e-4*np.abs(W+delta).max())
    assert np.abs(delta).max() > .01
    if block.norm:
        mine, theirs = (layers_of(m)[l].get_submodule(block.norm).state_dict() for m,l in ((student, 0), (teacher, 1)))
        assert all(torch.equal(mine[k], theirs[k]) for k in mine)


@pytest.mark.parametrize('arch', ['xlmr', 'deberta', 'modernbert'])
def test_refit_does_not_see_padding(arch):
    teacher, data = tiny_model(arch, 4), texts(30)
    alone, padded = copied(teacher, [0, 2]), copied(teacher, [0, 2])
    refit(alone, teacher, [0, 2], data, max_tokens=1)             # a text a batch
    refit(padded, teacher, [0, 2], data, max_tokens=10_000)       # all in one
    for a,b in zip(alone.parameters(), padded.parameters()): torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_refit_touches_the_second_matrices_and_their_norms_alone():
    teacher, data = small_teacher('xlmr', 6), texts(60)
    student, before = copied(teacher, [1, 3, 5]), copied(teacher, [1, 3, 5]).state_dict()
    report = refit(student, teacher, [1, 3, 5], data)
    changed = {k for k,v in student.state_dict().items() if not torch.equal(v, before[k])}
    ends = ['output.dense.weight', 'output.dense.bias', 'output.LayerNorm.weight']                                  # the norms' biases are all 0
    assert changed == {f'roberta.encoder.layer.{i}.{k}' for i in range(3) for k in ends if i < 2 or 'Norm' not in k}  # the last one is its own
    assert (report.after < report.before).all() and report.gives.tolist() == [2, 4, 5]


def test_refit_is_sequential():
    "The second layer is fitted on what the refitted first one puts out"
    teacher, data = tiny_model(layers=6), texts(60)                      # whose norms are all alike
    student, second = copied(teacher, [1, 3, 5]), copied(teacher, [1, 3, 5])
    refit(student, teacher, [1, 3, 5], data)
    first = layers_of(second)[0].load_state_dict(layers_of(student)[0].state_dict())
    pairs = [(a, b) for (_,a),(_,b) in zip(layer_batches(second, data), layer_batches(teacher, data))]
    with torch.no_grad():
        states = [(a.run(0, a.first), b.run(2, b.run(1, b.run(0, b.first)))) for a,b in pairs]
        refit_layer(second, teacher, 1, range(3, 5), pairs, states, .01)
    torch.testing.assert_close(layers_of(second)[1].output.dense.weight, layers_of(student)[1].output.dense.weight)


def test_an_encoder_whose_blocks_are_unknown_is_not_refitted():
    teacher = tiny_model(layers=2)
    teacher.config.model_type = 'other'
    with pytest.raises(InputError, match='refit does not know where the feed-forward blocks of other end'): block_of(teacher)
