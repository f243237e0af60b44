"Controls keep what they should keep and lose the rest, in every architecture; the diagnosis of an untrained student is what a plain computation gives."
import copy, json
from contextlib import contextmanager

import numpy as np, pytest, torch

from privkd_nb.analysis.arms import arm_words, read_arm
from privkd_nb.analysis.load import Study
from privkd_nb.analysis.starts import start_rows
from privkd_nb.compute.forward import OutputSpec
from privkd_nb.core import InputError
from privkd_nb.data.encoding import Encoded
from privkd_nb.data.two_encodings import TwoEncodings
from privkd_nb.figures.diagnosis import diagnosis_figure
from privkd_nb.figures.layermap import copied_pairs
from privkd_nb.init.card import InitCard
from privkd_nb.init.controls import attention_maps, kept, mimetic, permute_weights, shuffled_layers
from privkd_nb.init.copying import copy_weights, fresh_model, student_config
from privkd_nb.init.diagnosis import diagnose, distance, start_weights, states_of
from privkd_nb.init.spec import InitSpec
from privkd_nb.jobs.config import RunConfig
from privkd_nb.jobs.distil import distil, prepare_student
from privkd_nb.jobs.fine_tune import load_data, load_models
from privkd_nb.models.architectures import ARCHITECTURES, PARTS, architecture_of
from privkd_nb.models.encoders import layers_of
from privkd_nb.models.loading import load_encoder
from privkd_nb.models.tensors import ATTENTION_MAPS
from privkd_nb.models.tiny import tiny_batch, tiny_model
from privkd_nb.studies.definition import Study as StudyPlan
from privkd_nb.train.teacher import LiveTeacher, cached_teacher


def copied(teacher, layers):
    student = fresh_model(type(teacher), student_config(teacher, layers), 0)
    return student, copy_weights(student, teacher, layers, PARTS)


def logits(model):
    with torch.no_grad(): return model(**{k: v for k, v in tiny_batch().items() if k != 'labels'}).logits


@pytest.mark.parametrize('arch', ARCHITECTURES)
def test_wrong_order_and_wrong_places(arch):
    teacher, right = tiny_model(arch, 4), [0, 1, 3]
    wrong = shuffled_layers(right, 1, ARCHITECTURES[arch].lacks)
    shuffled, names = copied(teacher, wrong)
    plain, _ = copied(teacher, right)
    assert sorted(wrong) == right and wrong != right
    assert kept(shuffled, teacher, wrong)['values'].min() == 1 and kept(shuffled, teacher, right).loc['encoder', 'values'] < .6
    assert not torch.allclose(logits(shuffled), logits(plain), atol=1e-4)
    said = permute_weights(plain, names, 3)
    table = kept(plain, teacher, right)
    assert set(said) == {k for k, _ in plain.named_parameters()} and (table.distribution == 1).all() and table['values'].max() < .6
    assert torch.isfinite(logits(plain)).all()


def test_only_the_named_tensors_are_permuted():
    student, _ = copied(tiny_model(layers=4), [1, 3])
    before = {k: v.clone() for k, v in student.state_dict().items()}
    permute_weights(student, {'classifier.dense.weight'}, 0)
    assert [k for k, v in student.state_dict().items() if not torch.equal(v, before[k])] == ['classifier.dense.weight']


@pytest.mark.parametrize('arch', [a for a in ARCHITECTURES if a != 'eurobert'])
def test_mimetic_changes_attention_alone(arch):
    model = tiny_model(arch, 2)
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    made = mimetic(model, 5)
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == set(made) and torch.equal(state, torch.get_rng_state())
    other = tiny_model(arch, 2)
    mimetic(other, 5)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values()))
    q, k, v, o = (attention_maps(layers_of(model)[0])[what][1].detach() for what in ATTENTION_MAPS)
    vo, qk = v.T @ o.T, [a.T @ b for a, b in zip(q.chunk(4), k.chunk(4))]
    assert vo.diagonal().mean() < -.2 and all(p.diagonal().mean() > .2 for p in qk)   # the signs differ
    assert abs(vo[~torch.eye(32, dtype=bool)].mean()) < .05


def test_scales_of_mimetic_are_arguments():
    model = tiny_model(layers=1)
    mimetic(model, 0, alpha=(0., 0.), beta=(1., .5))
    _, _, v, o = (attention_maps(layers_of(model)[0])[what][1].detach() for what in ATTENTION_MAPS)
    assert torch.allclose(v.T @ o.T, -.5*torch.eye(32), atol=1e-5)


def test_refusals_name_the_cure():
    with pytest.raises(InputError, match='2 heads share them'): mimetic(tiny_model('eurobert', 2), 0)
    with pytest.raises(InputError, match='two layers that can change places'): shuffled_layers([0, 3], 0, ARCHITECTURES['mmbert'].lacks)


# --- the diagnosis before training

def encoded(kind='sequence', n=24, seed=0, labels=3, **kw):
    g = np.random.default_rng(seed)
    ids = [g.integers(5, 120, k).tolist() for k in g.integers(4, 9, n)]
    words = [list(range(len(x))) for x in ids] if kind == 'token' else None
    gold = [g.integers(0, labels, len(x)).tolist() for x in ids] if kind == 'token' else g.integers(0, 2, (n, labels)) if kind == 'multilabel' else g.integers(0, labels, n)
    return Encoded(ids, gold, ['de', 'sw', 'th']*(n//3), [str(i) for i in range(n)], words, pad_id=1, kind=kind, **kw)


@pytest.mark.parametrize('arch,kind', [('xlmr', 'token'), ('xlmr', 'multilabel'), ('mmbert', 'sequence'), ('eurobert', 'sequence'), ('deberta', 'token')])
def test_a_whole_copy_is_its_teacher(arch, kind):
    teacher, data = tiny_model(arch, 3, kind=kind), encoded(kind)
    student, _ = copied(teacher, [0, 1, 2])
    if kind == 'multilabel': student.config.problem_type = teacher.config.problem_type
    d = diagnose(student, teacher, [0, 1, 2], data)
    assert json.loads(json.dumps(d)) == d and set(d['languages']) == {'de', 'sw', 'th'}
    for row in d['languages'].values(): assert row['student'] == row['teacher'] and row['kl'] == 0
    assert [(r['student'], r['teacher']) for r in d['layers']] == [('embeddings',)*2, (0, 0), (1, 1), (2, 2)]
    assert all(r['cka'] == pytest.approx(1, abs=1e-3) and r['norm'] == pytest.approx(1, abs=1e-3) for r in d['layers'])


@pytest.mark.parametrize('arch', ['xlmr', 'mmbert', 'eurobert'])
def test_numbers_are_those_of_a_plain_computation(arch):
    teacher, data = tiny_model(arch, 4, seed=2), encoded()
    student, _ = copied(teacher, [0, 2])
    if arch != 'xlmr': student.get_parameter(architecture_norm(student)).data.mul_(3)    # a final norm is no part of the last layer
    d = diagnose(student, teacher, [0, 2], data)
    states, logits_ = [[], []], [[], []]
    for i in range(len(data)):
        x = dict(input_ids=torch.tensor(data[i]['input_ids'])[None].long())
        for m, s, z in zip((student, teacher), states, logits_):
            with torch.no_grad(), captured(m, s): z.append(m(**x).logits[0].double().log_softmax(-1))
    kl = [float((t.exp()*(t-s)).sum()) for s, t in zip(*logits_)]
    for l, row in d['languages'].items():
        at = data.languages == l
        assert row['kl'] == pytest.approx(np.mean(np.array(kl)[at]), abs=2e-4)
        assert row['student'] == pytest.approx(np.mean([int(z.argmax()) == y for z, y, a in zip(logits_[0], data.labels, at) if a]), abs=1e-4)
    mine, theirs = (torch.cat([s[-1 if i == 1 else 2] for s in of]) for i, of in ((1, states[0]), (2, states[1])))
    assert d['layers'][2]['norm'] == pytest.approx(float(mine.norm(dim=-1).mean()/theirs.norm(dim=-1).mean()), rel=1e-3)
    assert d['layers'][2]['cka'] == pytest.approx(plain_cka(mine.double().numpy(), theirs.double().numpy()), abs=2e-3)


def architecture_norm(model): return f'{model.base_model_prefix}.{architecture_of(model).final_norm}.weight'


@contextmanager
def captured(model, into):
    "The output of every layer, by hooks"
    got, hooks = [], []
    for layer in layers_of(model): hooks.append(layer.register_forward_hook(lambda m, a, out: got.append((out[0] if isinstance(out, tuple) else out).reshape(-1, 32))))
    yield
    for h in hooks: h.remove()
    into.append(got)


def plain_cka(X, Y):
    def hsic(K, L):
        n, one = len(K), np.ones(len(K))
        K, L = (M-np.diag(np.diag(M)) for M in (K, L))
        return (np.trace(K@L)+one@K@one*(one@L@one)/(n-1)/(n-2)-2/(n-2)*(one@K@L@one))/n/(n-3)
    K, L = X@X.T, Y@Y.T
    return hsic(K, L)/np.sqrt(hsic(K, K)*hsic(L, L))


def test_padding_does_not_count():
    teacher, data = tiny_model('xlmr', 4), encoded()
    student, _ = copied(teacher, [1, 3])
    alone = [diagnose(student, teacher, [1, 3], data.take([i])) for i in range(3)]
    for i, d in enumerate(alone):
        together = diagnose(student, teacher, [1, 3], data.take(range(3)))
        assert together['languages'][data.languages[i]] == pytest.approx(d['languages'][data.languages[i]], abs=2e-4)


def test_a_student_with_its_own_vocabulary_is_compared_where_tokens_are_the_same():
    teacher, old_ids = tiny_model('xlmr', 4), np.arange(120)
    data = encoded()
    other = Encoded([data[i]['input_ids'].tolist()+[7]*(i % 2) for i in range(24)], data.labels, data.languages.tolist(), data.names, pad_id=1)
    both = TwoEncodings(other, data, old_ids)                 # every second text is read in another way
    student, _ = copied(teacher, [1, 3])
    d = diagnose(student, teacher, [1, 3], both)
    same = diagnose(student, teacher, [1, 3], data.take(range(0, 24, 2)))
    assert [r['cka'] for r in d['layers']] == pytest.approx([r['cka'] for r in same['layers']], abs=2e-3)
    assert [r['norm'] for r in d['layers']] == pytest.approx([r['norm'] for r in same['layers']], abs=1e-3)
    nothing = diagnose(student, teacher, [1, 3], both.take(range(1, 24, 2)))
    assert nothing['layers'] == [] and set(nothing['languages']) == {'de', 'sw', 'th'}


def test_without_labels_there_is_a_divergence_and_no_score():
    teacher, data = tiny_model('xlmr', 4), encoded()
    data.labels[:] = -100
    d = diagnose(copied(teacher, [1, 3])[0], teacher, [1, 3], data)
    assert all(set(row) == {'kl'} for row in d['languages'].values())


def test_a_narrower_student_is_compared():
    teacher, data = tiny_model('xlmr', 4), encoded()
    student = fresh_model(type(teacher), student_config(teacher, [1, 3], hidden_size=16), 0)
    assert all(np.isfinite(r['cka']) and .1 < r['norm'] < 10 for r in diagnose(student, teacher, [1, 3], data)['layers'])


def test_the_cache_gives_the_same_diagnosis(tmp_path):
    teacher, data = tiny_model('xlmr', 4), encoded()
    student, _ = copied(teacher, [1, 3])
    live = LiveTeacher(teacher, OutputSpec(hidden=states_of(teacher)))
    found = []
    for _ in '12':
        found.append(diagnose(student, teacher, [1, 3], data, source=cached_teacher(live, data, tmp_path)))
        n = live.n_forward
    assert found[0] == found[1] == diagnose(student, teacher, [1, 3], data) and live.n_forward == n


def test_the_modes_of_both_models_stay():
    teacher, data = tiny_model('xlmr', 2), encoded()
    student, _ = copied(teacher, [0, 1])
    student.train()
    diagnose(student, teacher, [0, 1], data)
    assert student.training and not teacher.training


def test_start_weights_survive_training_and_tell_the_distance():
    teacher = tiny_model('xlmr', 4)
    student, names = copied(teacher, [1, 3])
    noisy = fresh_model(type(teacher), student_config(teacher, [1, 3]), 5)
    for model, kept_twice in ((student, 0), (noisy, None)):
        before, start = copy.deepcopy(model), start_weights(model, teacher, None, names=names)
        owned = sum(v.data_ptr() not in {p.data_ptr() for p in teacher.parameters()} for v in start.values())
        assert owned == kept_twice or kept_twice is None and owned > 10
        model(**{k: v for k, v in tiny_batch().items()}).loss.backward()
        with torch.no_grad():
            for p in model.parameters(): p.sub_(p.grad)
        went = distance(start, model)
        for place, row in distance(before, model).items(): assert went[place] == pytest.approx(row)
        assert all(row['moved'] > 0 for row in went.values())
        for k, v in before.named_parameters(): assert torch.equal(v, start[k])


# --- in a run

@pytest.fixture(scope='module')
def tiny_runs(tmp_path_factory):
    "One student a start, on the playground"
    kw = dict(tiny=True, out_dir=str(tmp_path_factory.mktemp('runs')), losses='ce,logits')
    cfg = RunConfig(**kw)
    task = load_data(cfg)
    models = load_models(cfg, task)
    return {init: (distil(c := RunConfig(init=init, **kw), task, models), c, task, models) for init in ('copy_ft', 'permuted', 'mimetic', 'head_only')}


def test_a_run_has_its_diagnosis_and_the_distance(tiny_runs):
    for init, (run, cfg, task, models) in tiny_runs.items():
        card = InitCard.load(run.path/'init_card.json')
        d, student = card.diagnosis, load_encoder(run.path/'model', task.kind)
        assert d['metric'] == task.metric and set(d['languages']) == set(run.predictions.language) and len(d['layers']) == 1+len(card.layers)
        assert sum(d['shares'].values()) == pytest.approx(1, abs=1e-3)
        assert (d['shares']['copied'] > .9, d['shares']['transformed'] > .9) == (init == 'copy_ft', init == 'permuted')
        again, _ = prepare_student(cfg, models, task)                # the start, built anew
        assert d['distance'] == distance(again, student) and all(v['moved'] > 0 for v in d['distance'].values())
    near = {init: InitCard.load(r.path/'init_card.json').diagnosis['layers'][0]['cka'] for init, (r, *_) in tiny_runs.items()}
    assert near['copy_ft'] > .999 > .9 > max(near['permuted'], near['mimetic'])


def test_a_study_shows_its_starts(tiny_runs):
    study = Study.open(tiny_runs['copy_ft'][0].path.parent)
    rows = start_rows(study, 'init')
    assert set(rows.start) == {*tiny_runs, 'teacher'} and set(rows.panel) == {'score', 'kl', 'cka', 'norm', 'distance'}
    fig = diagnosis_figure(rows)
    assert len({t.marker.color for t in fig.data}) == len(tiny_runs)+1
    assert [a.split(' · ')[0] for a in study.arms] == ['mimetic', 'permuted', 'head_only', 'copy_ft']
    assert 'structure of trained attention' in arm_words('mimetic · ce', dict(init='mimetic'))


def test_a_lost_card_has_its_diagnosis_again(tiny_runs):
    run, cfg, task, models = tiny_runs['head_only']
    had = InitCard.load(run.path/'init_card.json').diagnosis
    (run.path/'init_card.json').unlink()
    with pytest.warns(UserWarning, match='made again without training'): distil(cfg, task, models)
    found = InitCard.load(run.path/'init_card.json').diagnosis
    assert {p: v['moved'] for p, v in found.pop('distance').items()} == pytest.approx({p: v['moved'] for p, v in had.pop('distance').items()})
    assert found == had


@pytest.mark.parametrize('init', ['shuffled', 'permuted', 'embeddings_only', 'body_only', 'head_only', 'mimetic'])
def test_a_control_is_one_word_everywhere(init):
    study = StudyPlan(init='copy_ft', losses='ce,logits', seeds=1, controls=f'default,{init}')
    added = [p for p in study.runs if p.role == init]
    assert [p.cfg.init for p in added] == [init] and added[0].cfg.losses == 'ce,logits'
    assert read_arm(init) == dict(init=init) and RunConfig(init=f'{init}:endpoints').depth == 'endpoints'
    assert copied_pairs(dict(source=init, parts=InitSpec(init).parts, layers=[1, 3])) != [] or init in ('permuted', 'mimetic')


def test_padding_of_words_does_not_count():
    teacher, data = tiny_model('xlmr', 4, kind='token'), encoded('token', n=3)
    student, _ = copied(teacher, [1, 3])
    together = diagnose(student, teacher, [1, 3], data)['languages']
    for i in range(3): assert diagnose(student, teacher, [1, 3], data.take([i]))['languages'][data.languages[i]] == pytest.approx(together[data.languages[i]], abs=2e-4)
