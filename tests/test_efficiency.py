"No optimization changes a number: each is compared with the plain computation, on whole training runs."
import copy, shutil

import pytest, torch
from transformers import TrainerCallback, TrainingArguments

from privkd_nb.data.encoding import encode
from privkd_nb.compute.compile import FasterOfTwo
from privkd_nb.jobs.config import RunConfig
from privkd_nb.core import InputError
from privkd_nb.init.student import init_student
from privkd_nb.jobs.distil import distil
from privkd_nb.models.encoders import layers_of
from privkd_nb.record import History
from privkd_nb.init.spec import InitSpec
from privkd_nb.train.store import StoreFullError
from privkd_nb.data.tasks import load_task
from privkd_nb.models.tiny import tiny_batch, tiny_model
from privkd_nb.models.tokenizer import train_tokenizer
from privkd_nb.jobs.joint import SharedTeacher, distil_jointly, take_turns
from privkd_nb.train.trainer import DistillTrainer
from privkd_nb.train.efficiency import Efficiency, EfficientTraining
from privkd_nb.train.arguments import training_args

PLAIN = dict(embedding_rows='all', unpadding='off', compile='off')


@pytest.fixture(scope='module')
def data():
    task = load_task(languages='en,hi,sw', fraction=.2)
    tok = train_tokenizer(load_task(languages='en,hi,sw').train.text, 2000)
    return task, tok, *(encode(d, tok, task.labels, 64) for d in (task.train, task.validation))


def trained(data, folder, arch='xlmr', losses='ce,logits', dropout=0., steps=20, spec=InitSpec('scratch'), resume=None, batch_size=8, callbacks=(), **kw):
    "20 optimizer steps: the losses in the history, the trainer, and the weights of its student"
    task, tok, train, val = data
    efficiency = Efficiency(**PLAIN | {k: kw.pop(k) for k in list(kw) if k in Efficiency.__dataclass_fields__})
    off = {} if arch in ('modernbert', 'eurobert') else dict(hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    t = tiny_model(arch, 4, task.labels, vocab_size=2000, seed=1, **off)
    student, card = init_student(spec, t)
    args = training_args(folder, len(train), 2, lr=1e-3, batch_size=batch_size, use_cpu=True, max_steps=steps, **dict(eval_strategy='no', save_strategy='no') | kw)
    tr = DistillTrainer(student, t, losses, card.layers, history=History(), efficiency=efficiency, args=args, train_dataset=train, eval_dataset=val, processing_class=tok, callbacks=list(callbacks))
    tr.train(resume_from_checkpoint=resume)
    h = tr.history.frame()
    return h[h.metric == 'loss'].value.to_numpy(), tr, student.state_dict()


def same(a, b, tol=0.):
    assert a.keys() == b.keys()
    for k in a: assert torch.equal(a[k], b[k]) if not tol else torch.allclose(a[k], b[k], atol=tol), (k, (a[k]-b[k]).abs().max())


@pytest.mark.parametrize('arch', ['xlmr', 'deberta', 'modernbert'])
class TestReducedEmbedding:
    def test_weights_after_twenty_steps_are_bitwise_equal(self, data, tmp_path, arch):
        _, _, full = trained(data, tmp_path, arch, dropout=.1, max_grad_norm=0.)
        _, tr, reduced = trained(data, tmp_path, arch, dropout=.1, max_grad_norm=0., embedding_rows='used')
        assert tr.report['rows'] < 1500 and full[next(k for k in full if 'word_emb' in k or 'tok_emb' in k)].shape[0] == 2000
        same(full, reduced)

    def test_with_gradient_clipping_weights_agree_up_to_rounding(self, data, tmp_path, arch):
        # the norm of a longer gradient, mostly zeros, is summed in another order
        (_, _, full), (_, _, reduced) = (trained(data, tmp_path, arch, max_grad_norm=.1, embedding_rows=v) for v in ('all', 'used'))
        same(full, reduced, 1e-5)


def test_an_inexact_reduced_embedding_raises_or_is_reported(data, tmp_path):
    with pytest.raises(InputError, match=r"embedding_rows='used' would not be exact: weight_decay=0.1 moves rows"): trained(data, tmp_path, embedding_rows='used', weight_decay=.1)
    _, tr, _ = trained(data, tmp_path, embedding_rows='auto', weight_decay=.1, steps=2)
    assert tr.report['rows'] is None and 'weight_decay' in tr.report['rows_note']


@pytest.mark.parametrize('arch,losses', [('xlmr', 'ce,logits'), ('xlmr', 'paper'), ('xlmr', 'ce,kl'), ('deberta', 'ce,logits'), ('deberta', 'paper'),
                                         ('modernbert', 'paper'), ('eurobert', 'ce,logits')])
def test_unpadded_losses_and_weights_agree(data, tmp_path, arch, losses):
    (a, _, x), (b, tr, y) = (trained(data, tmp_path, arch, losses, unpadding=p) for p in ('off', 'on'))
    assert tr.report['unpadded'] and tr.report['padding_share'] > .1
    assert abs(a/b-1).max() < 1e-4
    same(x, y, 2e-4)


def test_models_that_cannot_be_unpadded_raise_or_stay_padded(data, tmp_path):
    with pytest.raises(InputError, match="unpadding='on', but"): trained(data, tmp_path, 'rembert', unpadding='on')
    assert trained(data, tmp_path, 'rembert', unpadding='auto', steps=1)[1].report['unpadded'] is False


@pytest.mark.parametrize('unpadding', ['off', 'on'])
def test_a_last_layer_is_compared_with_an_inner_one_before_the_final_norm(data, tmp_path, unpadding):
    "A copy of the first layers has the teacher's hidden states, though its own encoder ends with a norm"
    a, tr, _ = trained(data, tmp_path, 'modernbert', 'hidden', spec=InitSpec(depth='first'), steps=1, unpadding=unpadding)
    assert 0 <= a[0] < 1e-9 and tr.needed.hidden == (-1, 1, 2)
    a, tr, _ = trained(data, tmp_path, 'modernbert', 'hidden', spec=InitSpec(depth='endpoints'), steps=1, unpadding=unpadding)
    assert a[0] > 1e-3 and tr.needed.hidden == (1, 2)               # both are last ones, so both are normalized


def test_unpadding_hooks_are_not_compiled(data, tmp_path):
    with pytest.raises(InputError, match="unpadding='on' and compile='on' do not go together"): trained(data, tmp_path, 'deberta', unpadding='on', compile='on')


@pytest.mark.parametrize('losses', ['ce,logits', 'paper'])
@pytest.mark.parametrize('unpadding', ['off', 'auto'])
def test_cached_teacher_outputs_train_the_same_student(data, tmp_path, losses, unpadding):
    a, live, x = trained(data, tmp_path, losses=losses, unpadding=unpadding)
    b, cached, y = trained(data, tmp_path, losses=losses, unpadding=unpadding, cache=tmp_path/'cache')
    assert live.teacher_outputs.live and not cached.teacher_outputs.live
    assert abs(a/b-1).max() < 1e-4
    same(x, y, 2e-4)


def test_a_damaged_cache_is_reported_and_recomputed(data, tmp_path):
    a, _, _ = trained(data, tmp_path, cache=tmp_path/'cache')
    seg, = (tmp_path/'cache').glob('*/*.safetensors')
    seg.write_bytes(seg.read_bytes()[:-100])
    with pytest.warns(UserWarning, match='truncated'): b, tr, _ = trained(data, tmp_path, cache=tmp_path/'cache')
    assert (a == b).all() and tr.report['teacher'] == 'cached'
    assert len(list((tmp_path/'cache').glob('*/*damaged*'))) == 1


def test_a_full_disk_does_not_stop_a_run(data, tmp_path, monkeypatch):
    a, _, _ = trained(data, tmp_path)
    def full(*a, **kw): raise StoreFullError('There is no room for 9 more bytes')
    monkeypatch.setattr('privkd_nb.train.store.write_segment', full)
    with pytest.warns(UserWarning, match='the teacher computes them at every step'): b, tr, _ = trained(data, tmp_path, cache=tmp_path/'full')
    assert abs(a/b-1).max() < 1e-4 and 'no room' in tr.report['teacher_note']


@pytest.mark.parametrize('limit', [4, 1, 0])
def test_out_of_memory_reduces_the_micro_batch(data, tmp_path, monkeypatch, limit):
    a, _, x = trained(data, tmp_path, losses='paper')
    prepare = EfficientTraining.begin
    def short(self):
        prepare(self)
        def hook(module, args, kw):
            if module.training and len(kw['input_ids']) > max(limit, 1) or not limit and not any(getattr(m, 'gradient_checkpointing', False) for m in module.modules()): raise torch.OutOfMemoryError('pretended')
        self.model.register_forward_pre_hook(hook, with_kwargs=True)
    monkeypatch.setattr(EfficientTraining, 'begin', short)
    with pytest.raises(torch.OutOfMemoryError): trained(data, tmp_path, losses='paper')
    b, tr, y = trained(data, tmp_path, losses='paper', memory='fit')
    assert tr.report['micro_batches'] == (2 if limit == 4 else 8) and tr.report['checkpointing'] is (limit == 0)
    assert abs(a/b-1).max() < 1e-4
    same(x, y, 2e-4)


@pytest.mark.parametrize('batch_size,limit,micro_batches', [(9, 4, 4), (10, 4, 4), (7, 7, 1)])
def test_micro_batches_may_differ_in_size(data, tmp_path, monkeypatch, batch_size, limit, micro_batches):
    a, _, x = trained(data, tmp_path, batch_size=batch_size, steps=6)
    prepare = EfficientTraining.begin
    def short(self):
        prepare(self)
        def hook(module, args, kw):
            if module.training and len(kw['input_ids']) > limit: raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: pretended")
        self.model.register_forward_pre_hook(hook, with_kwargs=True)
    monkeypatch.setattr(EfficientTraining, 'begin', short)
    b, tr, y = trained(data, tmp_path, batch_size=batch_size, steps=6, memory='fit')
    assert tr.report.get('micro_batches', 1) == micro_batches and not tr.report.get('checkpointing')
    assert abs(a/b-1).max() < 1e-4
    same(x, y, 2e-4)


@pytest.mark.skipif(shutil.which('g++') is None and shutil.which('c++') is None, reason='skipped: no C++ compiler for torch.compile')
def test_compiled_layers_compute_the_same_and_are_compiled_once(data, tmp_path):
    from torch._dynamo.utils import counters
    torch._dynamo.reset(); counters.clear()
    a, plain, x = trained(data, tmp_path, unpadding='auto')
    assert not counters['stats']
    b, tr, y = trained(data, tmp_path, unpadding='auto', compile='on')
    shapes = {(data[2].lengths[u].sum(), data[2].lengths[u].max()) for u in tr.sampler().order()}
    assert tr.report['unpadded'] and len(shapes) > 12 and 0 < counters['stats']['unique_graphs'] <= 3, (shapes, counters)
    assert abs(a/b-1).max() < 1e-4
    same(x, y, 2e-4)


def test_layers_that_fail_to_compile_stay_plain(data, tmp_path):
    def broken(graph, inputs): raise NotImplementedError('no compiler here')
    def switch(model, on):
        for layer in layers_of(model):
            if on: layer.compile(backend=broken)
            else: layer._compiled_call_impl = None
    torch._dynamo.reset()
    a, _, x = trained(data, tmp_path)
    class Late(FasterOfTwo):
        def on_train_begin(self, args, state, control, model=None, **kw): self.model, self.trying = model, True
    b, tr, y = trained(data, tmp_path, callbacks=[Late(None, switch, n=2, warm=1)])
    assert (a == b).all() and tr.report['layers'] in ('plain', 'compiled') and not torch._dynamo.config.suppress_errors
    same(x, y)


@pytest.mark.parametrize('arch', ['xlmr', 'deberta'])
@pytest.mark.parametrize('losses', ['embedding', 'ce,logits,embedding', 'ce,hidden'])
def test_the_teacher_computes_only_the_layers_that_losses_read(data, tmp_path, arch, losses):
    (a, live, x), (b, cached, y) = (trained(data, tmp_path, arch, losses, steps=4, spec=InitSpec('scratch', 'first'), cache=c) for c in (None, tmp_path/'cache'))
    assert live.teacher_outputs.sources[0].depth == dict(embedding=1).get(losses, 4 if 'logits' in losses else 2)
    assert live.teacher_outputs.sources[0].needed.logits is ('logits' in losses) and not cached.teacher_outputs.live
    assert abs(a/b-1).max() < 1e-4
    same(x, y, 2e-4)


def test_with_a_given_optimizer_all_embedding_rows_are_trained(data, tmp_path, monkeypatch):
    init = DistillTrainer.__init__
    def given(self, student, *a, **kw):
        opt = torch.optim.SGD(student.parameters(), lr=1e-2)
        init(self, student, *a, optimizers=(opt, torch.optim.lr_scheduler.ConstantLR(opt, 1., 1)), **kw)
    monkeypatch.setattr(DistillTrainer, '__init__', given)
    (a, _, x), (b, tr, y) = (trained(data, tmp_path, embedding_rows=v, steps=4) for v in ('all', 'auto'))
    assert (a == b).all() and tr.report['rows'] is None and 'its optimizer was made before' in tr.report['rows_note']
    same(x, y)
    with pytest.raises(InputError, match="embedding_rows='used' would not be exact: its optimizer was made before"): trained(data, tmp_path, embedding_rows='used', steps=4)


@pytest.mark.parametrize('losses,name', [('ce,logits', 'gradient_checkpointing'), ('paper', 'activation_checkpointing')])
@pytest.mark.filterwarnings('ignore:.*is deprecated and will be removed:FutureWarning')
def test_gradient_checkpointing_disables_unpadding(data, tmp_path, losses, name):
    if not hasattr(TrainingArguments, name): pytest.skip(f'skipped: this transformers has no {name}')
    a, _, x = trained(data, tmp_path, losses=losses, steps=6)
    b, tr, y = trained(data, tmp_path, losses=losses, steps=6, unpadding='auto', **{name: True})
    assert tr.report['unpadded'] is False and abs(a/b-1).max() < 1e-4
    same(x, y, 2e-4)
    with pytest.raises(InputError, match="unpadding='on' and gradient checkpointing do not go together"): trained(data, tmp_path, unpadding='on', **{name: True})
    with pytest.raises(InputError, match='use_reentrant=True'): trained(data, tmp_path, **{name: True, f'{name}_kwargs': dict(use_reentrant=True)})


def test_two_trainings_in_one_folder_have_separate_embedding_tables(data, tmp_path, monkeypatch):
    monkeypatch.setattr('privkd_nb.compute.embedding_rows.LARGE', 0)
    runs_between = []
    def other(args, state, control, **kw):
        if not runs_between: runs_between.append(trained(data, tmp_path, steps=2, embedding_rows='used'))
    class Between(TrainerCallback): on_step_end = staticmethod(other)
    a, _, x = trained(data, tmp_path, embedding_rows='all', steps=4)
    b, _, y = trained(data, tmp_path, embedding_rows='used', steps=4, callbacks=[Between()])
    assert runs_between and (a == b).all() and not list(tmp_path.glob('tables-*'))
    same(x, y)


def test_the_tokenizers_padding_token_keeps_its_embedding_row(data, tmp_path):
    task, tok, train, val = data
    free = next(i for i in range(1999, 0, -1) if i not in train.flat and i not in val.flat)
    other = copy.deepcopy(tok)
    other.pad_token = tok.convert_ids_to_tokens(free)
    assert other.pad_token_id == free
    (a, _, x), (b, _, y) = (trained((task, other, train, val), tmp_path, embedding_rows=v, steps=4) for v in ('all', 'used'))
    assert (a == b).all()
    same(x, y, 1e-5)


def test_out_of_memory_in_a_later_step_resumes_from_the_last_checkpoint(data, tmp_path, monkeypatch):
    a, _, x = trained(data, tmp_path/'a', losses='ce,logits')
    calls, prepare = [], EfficientTraining.begin
    def short(self):
        prepare(self)
        def hook(module, args, kw):
            calls.append(len(kw['input_ids']))
            if module.training and calls[-1] > 4 and len(calls) > 14: raise torch.OutOfMemoryError('pretended')
        self.model.register_forward_pre_hook(hook, with_kwargs=True)
    monkeypatch.setattr(EfficientTraining, 'begin', short)
    b, tr, y = trained(data, tmp_path/'b', losses='ce,logits', memory='fit', save_strategy='steps', save_steps=5)
    assert tr.report['micro_batches'] == 2 and set(calls) >= {8, 4}
    assert len(a) == len(b) and abs(a/b-1).max() < 1e-4
    same(x, y, 2e-4)


def test_a_checkpoint_with_other_embedding_rows_raises(data, tmp_path):
    trained(data, tmp_path, embedding_rows='used', save_strategy='steps', save_steps=10)
    with pytest.raises(InputError, match='was saved with another set of embedding rows; resume with the same data'):
        trained(data, tmp_path, embedding_rows='all', resume=True)


def test_jointly_trained_students_share_one_teacher_forward_pass_per_batch(tmp_path, monkeypatch):
    shared = []
    start = SharedTeacher.__init__
    def init(self, n): start(self, n); shared.append(self)
    monkeypatch.setattr(SharedTeacher, '__init__', init)
    runs = distil_jointly([RunConfig(tiny=True, init=i, losses='ce,logits,attention', cache='off', out_dir=str(tmp_path)) for i in ('scratch', 'copy_base', 'copy_ft')])
    steps = {r.history.query("split == 'train'").step.max() for r in runs}
    assert len(shared) == 1 and {shared[0].n_forward} == steps


def test_a_student_that_fails_does_not_stop_the_others(tmp_path, monkeypatch):
    from privkd_nb.jobs import distil as job
    init = job.init_student
    def broken(spec, *a): 
        if spec.source == 'copy_base': raise RuntimeError('broken on purpose')
        return init(spec, *a)
    monkeypatch.setattr(job, 'init_student', broken)
    configs = [RunConfig(tiny=True, init=i, losses='ce', out_dir=str(tmp_path)) for i in ('scratch', 'copy_base', 'copy_ft')]
    with pytest.raises(RuntimeError, match='broken on purpose'): distil_jointly(configs)
    monkeypatch.undo()
    from privkd_nb.record import Run
    assert [Run.named(c.out_dir, c.identity()).finished for c in configs] == [True, False, True]


def test_an_interruption_stops_all_students_after_the_current_optimizer_step():
    steps = []
    def job(turns):
        for n in range(10):
            steps.append(n)
            if len(steps) == 6: turns.cancelled = True
            turns.on_step_end(None, None, None)
    with pytest.raises(KeyboardInterrupt): take_turns([job, job, job])
    assert len(steps) == 6


@pytest.mark.parametrize('kw', [dict(batching='length'), dict(max_tokens=200)])
def test_batching_options_are_part_of_a_runs_identity(tmp_path, kw):
    a, b = (RunConfig(tiny=True, losses='ce', out_dir=str(tmp_path), **k) for k in ({}, kw))
    assert a.identity() != b.identity()
    run = distil(b)
    assert run.finished and run.environment['efficiency']['padding_share'] < .35


def test_a_second_copy_of_the_unpadding_module_changes_nothing():
    "As when its page is executed in a process that has imported the module"
    import importlib.util
    from privkd_nb.compute import unpadding
    model, batch = tiny_model(), tiny_batch(b=5, t=12, padding=7)
    spec = importlib.util.spec_from_file_location('privkd_nb.compute.unpadding_again', unpadding.__file__)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    with torch.no_grad():
        plain = model(**batch).logits
        with unpadding.unpadded(model, batch['attention_mask'].flatten().nonzero()[:,0], 5, 12): short = model(**batch).logits
    assert torch.allclose(plain, short, atol=1e-5) and unpadding.can_unpad(model)


def test_unpadding_is_judged_by_hidden_states_too():
    "Logits that do not depend on the input, as those of a head of zeros, would be the same whatever the encoder computes"
    from contextlib import contextmanager
    from privkd_nb.compute import unpadding
    model = tiny_model()
    for p in model.classifier.parameters(): torch.nn.init.zeros_(p)
    right = unpadding.unpadded
    @contextmanager
    def mixed(m, *a):                                   # every example attends to all others
        with right(m, *a):
            unpadding._now.batch, at = None, unpadding._now.batch
            yield
            unpadding._now.batch = at
    try:
        unpadding.unpadded = mixed
        assert not unpadding.can_unpad(model)
    finally: unpadding.unpadded = right
    assert unpadding.can_unpad(model)
