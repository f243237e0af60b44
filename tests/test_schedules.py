"Weights that change, two stages, layers to match and the meter: by hand, against autograd, resumed, and with nothing changed where they are left out."
from dataclasses import replace

import pytest, torch

from privkd_nb.compute.forward import forward
from privkd_nb.core import InputError, file_hash
from privkd_nb.data.encoding import encode
from privkd_nb.data.tasks import load_task
from privkd_nb.init.student import InitSpec, init_student
from privkd_nb.jobs.config import RunConfig
from privkd_nb.losses.magnitudes import GradientMeter
from privkd_nb.losses.schedules import TermWeights
from privkd_nb.losses.terms import distill_terms
from privkd_nb.models.encoders import layer_stack
from privkd_nb.models.tiny import tiny_model
from privkd_nb.models.tokenizer import train_tokenizer
from privkd_nb.record import History
from privkd_nb.train.arguments import training_args
from privkd_nb.train.efficiency import Efficiency
from privkd_nb.train.trainer import DistillTrainer, batch_totals

SMALL = InitSpec('scratch', config=dict(hidden_size=16, num_attention_heads=4, intermediate_size=32))
OWN = 'schedule stages match meter temp efficiency'.split()


@pytest.fixture(scope='module')
def data():
    task = load_task(languages='en,sw', fraction=.1)
    tok = train_tokenizer(load_task(languages='en,sw').train.text, 500)
    return task, tok, encode(task.train, tok, task.labels, 64)


@pytest.fixture
def trainer(data, tmp_path):
    def make(name='a', losses='ce,kl,hidden', spec=InitSpec(n_layers=2), dropout=True, **kw):
        task, tok, enc = data
        off = {} if dropout else dict(hidden_dropout_prob=0., attention_probs_dropout_prob=0.)
        teacher = tiny_model(layers=4, labels=task.labels, vocab_size=500, seed=1, **off)
        student, card = init_student(spec, teacher)
        own, folder = {k: kw.pop(k) for k in OWN if k in kw}, tmp_path/name
        args = training_args(folder, len(enc), 1, **dict(lr=1e-3, batch_size=8, evals=1, use_cpu=True, max_steps=6) | kw)
        tr = DistillTrainer(student, teacher, losses, card.layers, history=History(), train_languages=['en', 'sw'], args=args,
                            train_dataset=enc, eval_dataset=enc.take(range(16)), processing_class=tok, **own)
        return tr
    return make


def rows(tr, split='train'):
    h = tr.history.frame()
    return h[h.split == split].pivot(index='step', columns='metric', values='value')


def weights(tr): return {k: v.clone() for k,v in tr.model.state_dict().items()}


def same(a, b): return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k,v in a.items())


def gradients(tr, step=0, steps=1):
    "The gradient of a batch at some step of the training"
    batch = tr.data_collator([tr.train_dataset[i] for i in range(6)])
    tr.totals, tr.state.global_step, tr.state.max_steps = batch_totals([batch]), step, steps
    tr.model.eval().zero_grad()
    tr.compute_loss(tr.model, batch).backward()
    return {k: p.grad.clone() for k,p in tr.model.named_parameters() if p.grad is not None}


def test_constant_weights_change_nothing(trainer):
    plain, told = trainer('plain'), trainer('told', schedule='kl=constant,ce=constant:1')
    for tr in (plain, told): tr.train()
    assert same(weights(plain), weights(told)) and plain.history.frame().equals(told.history.frame())
    assert set(plain.history.frame().split) == {'train', 'validation'}
    half = trainer('half', losses='ce,kl=0.5,hidden')
    by_schedule = trainer('by schedule', schedule='kl=constant:0.5')
    for tr in (half, by_schedule): tr.train()
    assert same(weights(half), weights(by_schedule)) and rows(half).equals(rows(by_schedule))


def test_weights_by_hand(trainer):
    tr = trainer(losses='ce,kl=2,hidden', schedule='kl=linear:1:0.5,hidden=cosine:1:0,ce=ramp:0.4')
    tr.train()
    w, t = rows(tr, 'meter'), rows(tr)
    assert w['weight:kl'].tolist() == pytest.approx([2., 1.8, 1.6, 1.4, 1.2, 1.])                           # 2·(1-k/10)
    assert w['weight:ce'].tolist() == pytest.approx([0, .5, 1, 1, 1, 1])                                    # k/5 of .4
    assert w['weight:hidden'].tolist() == pytest.approx([1, .904508, .654508, .345492, .095492, 0], abs=1e-6)     # (1+cos πk/5)/2
    terms = {k: w[f'weight:{k}']*t[k].fillna(0) for k in tr.losses}
    assert t.loss.tolist() == pytest.approx(sum(terms.values()).tolist(), rel=1e-5)
    assert t.ce.isna().tolist() == [True]+[False]*5 and t.hidden.isna().tolist() == [False]*5+[True]        # of weight 0: not computed


def test_the_second_stage_is_cross_entropy_alone(trainer):
    staged, plain = trainer('staged', stages=.5), trainer('plain', losses='ce')
    plain.model.set_attn_implementation(staged.model.config._attn_implementation)
    first, second, alone = gradients(staged, 4, 10), gradients(staged, 5, 10), gradients(plain)
    assert same(second, alone) and not same(first, alone)
    imitating = gradients(trainer('kd', losses='kl,hidden'))
    assert same(first, imitating)


def test_the_teacher_is_read_only_where_a_term_compares_with_it(trainer):
    tr = trainer(stages='0.5')
    read, ask = [], tr.teacher_outputs
    tr.teacher_outputs = lambda batch: read.append(tr.state.global_step) or ask(batch)
    tr.train()
    assert read == [0, 1, 2]
    assert rows(tr)[['kl', 'hidden']].notna().all(axis=1).tolist() == [True]*3+[False]*3


def test_inner_states_before_predictions(trainer):
    "TinyBERT's order as a schedule: the head learns nothing in the first stage"
    tr = trainer(losses='hidden,logits', schedule='hidden=before:0.5,logits=after:0.5')
    early, late = gradients(tr, 0, 10), gradients(tr, 9, 10)
    assert not any('classifier' in k for k in early) and any('classifier' in k for k in late)


@pytest.mark.parametrize('micro_batches', [1, 2])
def test_resumed_is_uninterrupted(trainer, micro_batches):
    kw = dict(spec=SMALL, schedule='kl=cosine:1:0.1,hidden=before:0.4', stages='0.7', meter=2, save_steps=1, save_total_limit=None, micro_batches=micro_batches)
    whole = trainer('whole', **kw)
    whole.train()
    for step in (2, 4):                                     # before the projection is left out, and before the labels
        again = trainer('whole', **kw)
        again.history.rows = [r for r in whole.history.rows if r['step'] <= step]
        again.train(resume_from_checkpoint=f'{again.args.output_dir}/checkpoint-{step}')
        assert same(weights(whole), weights(again)), step
        assert again.history.frame().equals(whole.history.frame())


def by_autograd(tr):
    "The gradient norm of each term over the batches of the first step, by a loop of its own"
    norms, batches = {}, tr.get_batch_samples(iter(tr.get_train_dataloader()), tr.args.gradient_accumulation_steps, tr.args.device)[0]
    for k in tr.losses:
        tr.model.zero_grad()
        for b in batches:
            b = tr._prepare_inputs(b)
            with tr.accelerator.autocast():
                s, t = forward(tr.model, b, tr.needed), tr.teacher_for(b) if tr.teacher else None
                distill_terms([k], s, t, tr.term_inputs(tr.model, b), tr.terms)[k].backward()
        norms[k] = sum(p.grad.double().pow(2).sum() for n,p in tr.model.named_parameters() if p.grad is not None and 'projection' not in n).sqrt().item()
    tr.model.zero_grad()
    return norms


@pytest.mark.parametrize('case', [dict(), dict(micro_batches=4), dict(efficiency=Efficiency(embedding_rows='all', unpadding='off')), dict(spec=SMALL, micro_batches=2), dict(bf16=True),
                                  dict(losses='ce'), dict(efficiency=Efficiency(unpadding='off'), gradient_checkpointing=True, gradient_checkpointing_kwargs=dict(use_reentrant=False))],
                         ids=['usual', 'accumulated', 'whole table', 'narrow', 'bf16', 'one term', 'checkpointing'])
def test_the_meter_agrees_with_autograd(trainer, case):
    measured, plain = trainer('measured', dropout=False, meter=3, **case), trainer('plain', dropout=False, **case)
    own = by_autograd(trainer('own', dropout=False, **case))
    for tr in (measured, plain): tr.train()
    got = rows(measured, 'meter')
    assert got.index.tolist() == [1, 4]
    assert {k: got[f'gradient:{k}'][1] for k in own} == pytest.approx(own, rel=2e-2 if case.get('bf16') else 1e-4)
    assert got[[f'weight:{k}' for k in own]].eq(1).all().all()
    assert same(weights(measured), weights(plain)) and rows(measured).equals(rows(plain))       # it changes nothing


def test_the_meter_leaves_dropout_alone(trainer):
    measured, plain = trainer('measured', meter=1), trainer('plain')
    for tr in (measured, plain): tr.train()
    assert same(weights(measured), weights(plain))


def test_without_memory_the_meter_is_turned_off(trainer, monkeypatch):
    def none(*args): raise torch.OutOfMemoryError('out of memory')
    monkeypatch.setattr(GradientMeter, 'add', none)
    tr, plain = trainer('short', meter=1), trainer('plain')
    for t in (tr, plain): t.train()
    assert 'no memory' in tr.report['meter_note'] and same(weights(tr), weights(plain))


def test_the_usual_meter_takes_no_more_than_its_share():
    for terms in (1, 2, 5):
        for steps in (10, 24, 25, 124, 126, 216, 1000):
            m = GradientMeter(-1, terms)
            assert sum(m.due(k, steps) for k in range(steps))*terms*.6/steps <= .03          # a backward pass is about .6 of a step


def test_layers_to_match(trainer):
    other = trainer('other', match='0,1')
    assert other.layers == [0, 1] and other.term_inputs(other.model, other.data_collator([other.train_dataset[0]])).hidden_pairs == [(1, 1), (2, 2)]
    usual, listed = gradients(trainer('usual')), gradients(trainer('listed', match=[1, 3]))
    assert same(usual, listed) and not same(usual, gradients(other))


@pytest.mark.parametrize('cfg', [dict(depth='0,1,2,5', match='0,1,2,3'), dict(depth='all', match='reversed'), dict(depth='all', match='5,4,3,2,1,0'),
                                 dict(depth='greedy', match='0,1,2'), dict(depth='mean', layers=2, match='0,1'), dict(init='random_subset', match='0,1,2')])
def test_layers_are_matched_with_as_many_as_the_student_has(cfg):
    assert RunConfig(**cfg, losses='ce,hidden').match == cfg['match']


@pytest.mark.parametrize('bad,says', [
    (dict(schedule='logits=ramp', losses='ce,kl'), "schedule='logits' is not a choice; choose from ce, kl"),
    (dict(schedule='kl=sine', losses='ce,kl'), "the schedule of kl='sine' is not a choice"),
    (dict(schedule='kl=linear:1', losses='ce,kl', stages='1'), 'stages=1 is not above 0 and below 1'),
    (dict(stages='0.5', losses='kl'), 'no term that compares with labels'),
    (dict(stages='0.5', patience=2), 'patience=2 may end the training before its second stage'),
    (dict(match='0,1'), 'match lists 2 layers (0,1), but the student has 3'),
    (dict(depth='0,1,2,5', match='0,1,2', losses='ce,hidden'), 'match lists 3 layers (0,1,2), but the student has 4'),
    (dict(depth='all', match='0,2,4'), 'match lists 3 layers (0,2,4), but the student has 6'),
    (dict(match='last', losses='ce,kl'), 'losses=ce,kl compares none'),
    (dict(match='lst'), "match='lst' is not a choice"),
    (dict(temp=0), 'temp=0.0 must be above 0'),
    (dict(meter=-2), 'meter=-2 is no number of steps'),
    (dict(schedule='ce=before:0.5', losses='ce'), 'no term has a weight above 0 between 50 % and 100 %')])
def test_nonsense_is_refused_before_anything_is_loaded(bad, says):
    with pytest.raises(InputError) as e: RunConfig(**bad)
    assert says in str(e.value) and '\n' not in str(e.value)


def test_names_of_runs():
    "Defaults keep their names; what changes numbers gives another one; one training has one name"
    usual = RunConfig().identity()
    assert not {'temp', 'schedule', 'stages', 'match', 'meter'} & set(usual)
    assert RunConfig(meter=7, schedule='ce=constant').identity() == usual
    for changed in (dict(schedule='ce=ramp'), dict(stages='0.3'), dict(match='last')): assert RunConfig(**changed).identity() != usual
    assert RunConfig(temp=4.).identity() == usual       # no term of the paper's set reads it
    assert RunConfig(losses='ce,kl', temp=4.).identity() != RunConfig(losses='ce,kl').identity()
    a, b = (RunConfig(losses='ce,kl', schedule=s).identity() for s in ('kl=linear, ce=ramp', 'ce=ramp:0.1,kl=linear:1:0'))
    assert a == b


def test_students_trained_jointly(tmp_path):
    from privkd_nb.jobs.distil import distil
    from privkd_nb.jobs.joint import distil_jointly
    cfg = RunConfig(tiny=True, losses='ce,kl,hidden', schedule='kl=linear:1:0', stages=.5, match='first', meter=2, temp=3, cache='off', out_dir=str(tmp_path/'joint'))
    both = distil_jointly([cfg, replace(cfg, init='scratch')])
    alone = distil(replace(cfg, out_dir=str(tmp_path/'alone')))
    assert len({file_hash(r.path/'model'/'model.safetensors') for r in (both[0], alone)}) == 1 and both[0].history.equals(alone.history)
    h = alone.history
    assert {'weight:kl', 'gradient:ce'} <= set(h[h.split == 'meter'].metric)


def test_a_plan_at_any_step():
    w = TermWeights(dict(ce=1., kl=3.), 'kl=linear:1:0', '0.5')
    assert w.at(2, 9) == dict(ce=0., kl=3*.75) and w.at(4, 9) == dict(ce=1., kl=0.) and w.at(0, 1) == dict(ce=0., kl=3.)
    assert w.frame(9).kl.gt(0).sum() == 4


class Once(torch.autograd.Function):
    "As a compiled layer does, it gives up after one backward pass"
    @staticmethod
    def forward(ctx, x): ctx.n = 0; return x.view_as(x)
    @staticmethod
    def backward(ctx, grad):
        ctx.n += 1
        if ctx.n > 1: raise RuntimeError('This backward function was compiled with non-empty donated buffers which requires retain_graph=False')
        return grad


def test_the_meter_goes_back_through_compiled_layers(trainer, monkeypatch):
    def compiled(model, on=True):
        for layer in layer_stack(model)[1]:
            def once(*args, layer=layer, **kw):
                out = layer._call_impl(*args, **kw)
                return Once.apply(out) if torch.is_tensor(out) else (Once.apply(out[0]), *out[1:])
            layer._compiled_call_impl = once if on else None
    monkeypatch.setattr('privkd_nb.train.efficiency.compile_layers', compiled)
    kw = dict(efficiency=Efficiency(compile='on'), max_steps=2, dropout=False)
    measured, plain = trainer('measured', meter=1, **kw), trainer('plain', **kw)
    own = by_autograd(trainer('own', dropout=False))
    for tr in (measured, plain): tr.train()
    assert same(weights(measured), weights(plain))
    assert {k: rows(measured, 'meter')[f'gradient:{k}'][1] for k in own} == pytest.approx(own, rel=1e-3)


def test_the_monitor_draws_pulls_as_they_come(tmp_path):
    from privkd_nb.apps.monitor import Monitor
    h = History(tmp_path/'history.jsonl')
    h.add(1, dict(loss=3., ce=1., kl=2., learning_rate=1e-3))
    h.add(1, {'weight:ce': 1., 'weight:kl': .5, 'gradient:ce': 2., 'gradient:kl': 6.}, 'meter')
    m = Monitor(tmp_path, start=False)
    def drawn(): return {t.name: list(t.y) for t in m.view.figure.data if t.name and t.name.endswith('pull')}
    assert drawn() == {'cross entropy, pull': [2.], 'kl, pull': [3.]}
    h.add(4, {'weight:kl': .25, 'gradient:kl': 8.}, 'meter')
    m.look()
    assert drawn()['kl, pull'] == [3., 2.]
