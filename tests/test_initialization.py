"Tests of initialization, for each architecture and both kinds of task."
import copy

import pytest, torch

from privkd_nb.core import InputError
from privkd_nb.init.student import init_student
from privkd_nb.models.encoders import layer_stack, weights_hash
from privkd_nb.models.loading import load_encoder
from privkd_nb.models.architectures import part_of
from privkd_nb.init.spec import InitSpec
from privkd_nb.models.tiny import ARCHITECTURES, tiny_batch, tiny_model

pytestmark = pytest.mark.parametrize('arch', list(ARCHITECTURES))


def logits(model, batch): return model(input_ids=batch['input_ids'], attention_mask=batch['attention_mask']).logits


def refused(arch, rule):
    "ModernBERT's first layer has no attention norm, so a copy must begin with it"
    if arch != 'modernbert' or rule in ('first', 'endpoints', '0,2,3'): return False
    with pytest.raises(InputError, match="has attn_norm.weight, for which layer 0 .* depth=stride, endpoints, first, symmetric, or a list such as '0,"):
        init_student(InitSpec(depth=rule, n_layers=3), tiny_model(arch, 6))
    return True


@pytest.mark.parametrize('kind', ['sequence', 'token'])
def test_full_depth_copy_is_the_teacher(arch, kind):
    teacher = tiny_model(arch, 6, kind=kind)
    student, card = init_student(InitSpec(n_layers=6), teacher)
    assert torch.equal(logits(student, tiny_batch(padding=3)), logits(teacher, tiny_batch(padding=3)))
    assert card.random == [] and card.share_copied == 1


@pytest.mark.parametrize('rule', ['stride_odd', 'endpoints', 'first', 'last', 'random:7', '0,2,3'])
def test_half_depth_copies_are_named_and_equal(arch, rule):
    if refused(arch, rule): return
    teacher = tiny_model(arch, 6, seed=3)
    student, card = init_student(InitSpec(depth=rule, n_layers=None if rule[0] == '0' else 3), teacher)
    theirs, mine = teacher.state_dict(), student.state_dict()
    assert set(card.copied) | set(card.random) == set(mine)
    for k, source in card.copied.items(): assert torch.equal(mine[k], theirs[source]), k
    stack, layers = layer_stack(student)
    assert len(layers) == 3
    for k in card.copied:
        if k.startswith(stack): assert f"{stack}.{card.layers[int(k[len(stack)+1:].split('.')[0])]}." in card.copied[k]
    assert card.random == []


@pytest.mark.parametrize('rule', ['stride_odd', 'endpoints', 'first', 'last', 'random:7', '0,2,3'])
@pytest.mark.parametrize('kind', ['sequence', 'token'])
def test_half_a_copy_is_the_teacher_without_the_other_layers(arch, kind, rule):
    "Names of weights are not trusted here: layers are taken out of the teacher itself"
    if refused(arch, rule): return
    teacher, batch = tiny_model(arch, 6, kind=kind, seed=3), tiny_batch(padding=3)
    student, card = init_student(InitSpec(depth=rule, n_layers=None if rule[0] == '0' else 3), teacher)
    cut = copy.deepcopy(teacher)
    name, layers = layer_stack(cut)
    where, _, last = name.rpartition('.')
    setattr(cut.get_submodule(where), last, torch.nn.ModuleList([layers[l] for l in card.layers]))
    cut.config.num_hidden_layers = 3
    assert torch.equal(logits(student, batch), logits(cut, batch))
    assert not torch.allclose(logits(student, batch), logits(teacher, batch), atol=1e-3)


def test_shared_weights_outside_the_layers_are_copied(arch):
    student, card = init_student(InitSpec(depth='first'), tiny_model(arch, 6))
    if arch == 'deberta':
        assert {'deberta.encoder.rel_embeddings.weight', 'deberta.encoder.LayerNorm.weight'} <= set(card.copied)


def test_scratch_shares_nothing_and_is_the_architectures_own(arch):
    teacher = tiny_model(arch, 6, spread=.2)
    student, card = init_student(InitSpec('scratch', seed=1), teacher)
    assert card.copied == {} and card.source_hash is None
    theirs = {k: v for k, v in teacher.state_dict().items()}
    for k, v in student.named_parameters():
        if v.ndim > 1 and k in theirs and theirs[k].shape == v.shape: assert not torch.equal(v, theirs[k]), k
        if v.ndim > 1 and part_of(student, k) == 'encoder': assert v.std() < .1, k     # the teacher's spread is .2
    again, _ = init_student(InitSpec('scratch', seed=1), teacher)
    other, _ = init_student(InitSpec('scratch', seed=2), teacher)
    assert weights_hash(again) == weights_hash(student) != weights_hash(other)


@pytest.mark.parametrize('part', ['embeddings', 'encoder', 'head'])
def test_parts_are_separable(arch, part):
    if part == 'encoder' and refused(arch, 'stride_odd'): return
    student, card = init_student(InitSpec(parts=part), tiny_model(arch, 6))
    assert {part_of(student, k) for k in card.copied} == {part}
    assert all(part_of(student, k) != part for k in card.random)


def test_copy_base_takes_the_base_and_no_head(arch):
    teacher, base = tiny_model(arch, 6, seed=1), tiny_model(arch, 6, seed=2, labels=2)
    student, card = init_student(InitSpec('copy_base', depth='first'), teacher, base)
    assert all(torch.equal(student.state_dict()[k], base.state_dict()[s]) for k, s in card.copied.items())
    assert all(part_of(student, k) == 'head' for k in card.random) and card.random


def test_student_survives_saving(arch, tmp_path):
    student, _ = init_student(InitSpec(depth='first'), tiny_model(arch, 6))
    student.save_pretrained(tmp_path)
    again = load_encoder(str(tmp_path))
    assert torch.allclose(logits(again, tiny_batch()), logits(student, tiny_batch()), atol=1e-6)


def test_pretrained_checkpoint_is_taken_as_it_is(arch):
    teacher, small = tiny_model(arch, 6, seed=1), tiny_model(arch, 2, seed=5)
    student, card = init_student(InitSpec('pretrained'), teacher, small)
    assert weights_hash(student) == weights_hash(small) and len(card.layers) == 2
    with pytest.raises(InputError, match='pass it as base'): init_student(InitSpec('pretrained'), teacher)
