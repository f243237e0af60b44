"Controls keep what they should keep and lose the rest, in every architecture."
import pytest, torch

from privkd_nb.core import InputError
from privkd_nb.init.controls import MAPS, attention_maps, kept, mimetic, permute_weights, shuffled_layers
from privkd_nb.init.copying import copy_weights, fresh_model, student_config
from privkd_nb.models.architectures import ARCHITECTURES, PARTS
from privkd_nb.models.encoders import layers_of
from privkd_nb.models.tiny import tiny_batch, tiny_model


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
    q, k, v, o = (attention_maps(layers_of(model)[0])[what][1].detach() for what in MAPS)
    vo, qk = v.T @ o.T, [a.T @ b for a, b in zip(q.chunk(4), k.chunk(4))]
    assert vo.diagonal().mean() < -.2 and all(p.diagonal().mean() > .2 for p in qk)   # the signs differ
    assert abs(vo[~torch.eye(32, dtype=bool)].mean()) < .05


def test_scales_of_mimetic_are_arguments():
    model = tiny_model(layers=1)
    mimetic(model, 0, alpha=(0., 0.), beta=(1., .5))
    _, _, v, o = (attention_maps(layers_of(model)[0])[what][1].detach() for what in MAPS)
    assert torch.allclose(v.T @ o.T, -.5*torch.eye(32), atol=1e-5)


def test_refusals_name_the_cure():
    with pytest.raises(InputError, match='2 heads share them'): mimetic(tiny_model('eurobert', 2), 0)
    with pytest.raises(InputError, match='two layers that can change places'): shuffled_layers([0, 3], 0, ARCHITECTURES['mmbert'].lacks)
