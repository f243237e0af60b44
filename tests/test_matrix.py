"Every loss term through the real trainer, in every precision, padding, cache and accumulation; and the faults of training that must not pass."
from unittest.mock import patch

import pytest, torch

from privkd_nb.compute import forward as forwarding
from privkd_nb.core import KINDS
from privkd_nb.losses.terms import ATTENTION, TERMS
from privkd_nb.models.tiny import tiny_model
from privkd_nb.train import matrix, teacher, trainer
from privkd_nb.train.matrix import WAYS, check_training

BUILTIN, FEW = [k for k,t in TERMS.items() if t.builtin], ['ce', 'kl', 'hidden', 'attention']
NO_DROPOUT = dict(hidden_dropout_prob=0., attention_probs_dropout_prob=0.)


@pytest.mark.parametrize('kind', KINDS)
def test_every_term_comes_out_the_same_in_every_way(kind):
    found = check_training(BUILTIN, [kind])
    assert set(found.term) == {k for k in BUILTIN if kind in TERMS[k].kinds}                       # those that are added later, too
    for k,rows in found.groupby('term'): assert len(rows) == (8 if TERMS[k].whole_batch else len(WAYS)), k


@pytest.mark.parametrize('padding', ['padded', 'unpadded'])
def test_without_attention_the_other_kernel_gives_the_same(padding, tmp_path):
    "Terms that read attention bring the eager kernel; the others come out the same with it and without"
    some = [k for k in BUILTIN if 'sequence' in TERMS[k].kinds and not ATTENTION & {*TERMS[k].reads}]
    (eager, a), (fast, b) = (matrix.one_step(names, 'sequence', tmp_path, padding=padding) for names in ([*some, 'attention'], some))
    assert [t.model.config._attn_implementation for t in (a, b)] == ['eager', 'sdpa']
    for r in matrix.offs(fast, eager): assert max(r['off'], r['gradient_off']) < 1e-4, r


@pytest.mark.parametrize('kind', ['token', 'multilabel'])
def test_a_narrower_student_comes_out_the_same_in_every_way(kind, tmp_path):
    "With its projections, which have a gradient of their own"
    some = [k for k in BUILTIN if kind in TERMS[k].kinds and TERMS[k].width != 'equal' and set(TERMS[k].reads) != {'logits'} and not TERMS[k].whole_batch]
    def models(): return (tiny_model(layers=2, labels=5, kind=kind, seed=2, hidden_size=16, intermediate_size=32, **NO_DROPOUT), *matrix.matrix_models(kind)[1:])
    plain, _ = matrix.one_step(some, kind, tmp_path, models=models())
    for way in (WAYS[4], WAYS[6], WAYS[11]):
        probe, trainer = matrix.one_step(some, kind, tmp_path, models=models(), **way)
        for r in matrix.offs(probe, plain): assert max(r['off'], r['gradient_off']) < 1e-4, (way, r)
    sizes = [p.numel() for p in probe.weights]
    at = [i for i,(n,p) in enumerate(trainer.model.named_parameters()) if 'distill_projection' in n]
    for k in ('hidden', 'hidden_layers', 'cosine'): assert sum(probe.gradients[k].split(sizes)[i].norm() for i in at) > 0, k


# ---- what must not pass ----

def in_training(self, batch, call=teacher.LiveTeacher.__call__):
    self.model.train()
    return call(self, batch)

FAULTS = {
    'a teacher in training mode': ((teacher.LiveTeacher, '__call__', in_training), WAYS[:1], 'the teacher was trained|a copy of the teacher costs'),
    'the counts of one micro-batch': ((trainer, 'batch_totals', lambda samples, f=trainer.batch_totals: f(samples[:1])), WAYS[:2], '2 micro-batches: it is off by'),
    'cached outputs of other texts': ((teacher, 'teacher_outputs', lambda *a, f=teacher.teacher_outputs, **kw: {k: v[::-1] for k,v in f(*a, **kw).items()}), [WAYS[0], WAYS[3]], 'teacher cached, 1 micro-batches: it is off by'),
    'padding among the hidden states': ((forwarding, 'token_index_of', lambda b: torch.arange(int(b['attention_mask'].sum()))), [WAYS[0], WAYS[6]], 'unpadded, teacher live, 1 micro-batches: it is off by'),
}


@pytest.mark.parametrize('fault', FAULTS)
def test_a_fault_of_training_is_noticed(fault):
    (where, name, wrong), ways, says = FAULTS[fault]
    check_training(FEW, ['token'], ways)
    with patch.object(where, name, wrong), pytest.raises(AssertionError, match=says): check_training(FEW, ['token'], ways)


def test_a_teacher_in_training_mode_makes_a_copy_cost_something():
    assert matrix.limit_cases(FEW, ['sequence']).query('asked').copied.abs().max() < 1e-3
    with patch.object(teacher.LiveTeacher, '__call__', in_training):
        assert matrix.limit_cases(FEW, ['sequence']).query('asked').copied.min() > .01
