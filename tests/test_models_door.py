"What a model's folder may lack or get wrong: each fault ends in one sentence before anything is trained."
import json, re

import pytest, torch
from safetensors.torch import load_file, save_file

from privkd_nb.core import InputError
from privkd_nb.models.encoders import weights_hash
from privkd_nb.models.loading import load_encoder
from privkd_nb.models.parts import part_of
from privkd_nb.models.tiny import ARCHITECTURES, tiny_model

LABELS = ['a', 'b', 'c']


def saved(folder, arch='xlmr', **kw):
    "A folder with a tiny model"
    folder.mkdir(exist_ok=True)
    tiny_model(arch, 4, LABELS, **kw).save_pretrained(folder)
    return folder


def renamed(folder, rename):
    "The same folder with other names in its weights; None leaves a tensor out"
    tensors = load_file(folder/'model.safetensors')
    save_file({rename(k): v for k, v in tensors.items() if rename(k)}, folder/'model.safetensors', {'format': 'pt'})
    return folder


def edited(folder, **values):
    "The same folder with other values in its config.json; None leaves one out"
    cfg = json.loads((folder/'config.json').read_text()) | values
    (folder/'config.json').write_text(json.dumps({k: v for k, v in cfg.items() if v is not None}))
    return folder


def refused(match, folder, *args, **kw):
    "The message, which is one sentence"
    with pytest.raises(InputError, match=match) as e: load_encoder(str(folder), *args, **kw)
    assert '\n' not in str(e.value) and str(e.value).endswith('.')
    return str(e.value)


@pytest.mark.parametrize('arch', list(ARCHITECTURES))
@pytest.mark.parametrize('labels', [None, ['x', 'y']])
def test_names_of_a_compiled_model_are_refused(arch, labels, tmp_path):
    folder = renamed(saved(tmp_path/'t', arch), lambda k: '_orig_mod.'+k)
    said = refused('weights of the .* are not in .*_orig_mod', folder, labels=labels)
    assert ('teacher' if labels is None else 'base') in said and re.search(r'\d+ of \d+ weights', said)


@pytest.mark.parametrize('prefix, cause', [('module.', 'several devices'), ('base_model.model.', 'merge_and_unload'), ('student.', "begin with 'student.")])
def test_the_cause_is_told_from_the_names(prefix, cause, tmp_path):
    refused(cause, renamed(saved(tmp_path/'t'), lambda k: prefix+k))


@pytest.mark.parametrize('arch', list(ARCHITECTURES))
def test_a_teacher_lacks_no_weight_and_a_base_only_its_head(arch, tmp_path):
    model = tiny_model(arch, 4, LABELS)
    for i, missing in enumerate(dict(model.named_parameters())):
        if i % 7 and i < len(dict(model.named_parameters()))-4: continue        # every seventh, and those at the end
        folder = renamed(saved(tmp_path/f'{i}', arch), lambda k: None if k == missing else k)
        assert missing in refused('1 of', folder)
        if part_of(model, missing) != 'head': refused('1 of', folder, labels=['x', 'y'])
        else: load_encoder(str(folder), labels=['x', 'y'])


def test_a_base_without_a_head_is_a_base_and_not_a_teacher(tmp_path):
    model = tiny_model('bert', 4, LABELS)
    model.bert.save_pretrained(tmp_path/'base')
    loaded = load_encoder(str(tmp_path/'base'), labels=LABELS)
    assert weights_hash(loaded.bert) == weights_hash(model.bert)
    refused('fine-tuned as another task', tmp_path/'base')


def test_a_base_under_another_prefix_is_refused(tmp_path):
    tiny_model('xlmr', 4, LABELS).roberta.save_pretrained(tmp_path/'base')
    refused("names begin with 'encoder.model.'", renamed(tmp_path/'base', lambda k: 'encoder.model.'+k), labels=LABELS)


@pytest.mark.parametrize('labels', [None, LABELS, ['x', 'y']])
@pytest.mark.parametrize('values, match', [
    (dict(max_position_embeddings=514), r'is \(66, 32\) in the weights .* but \(514, 32\) by its config.json'),
    (dict(vocab_size=130), r'\(120, 32\)'), (dict(intermediate_size=96), r'\(64'), (dict(num_hidden_layers=6), 'weights of the'),
    (dict(num_hidden_layers=2), 'have no place')])
def test_an_edited_configuration_is_refused(values, match, labels, tmp_path):
    refused(match, edited(saved(tmp_path/'t'), **values), labels=labels)


def test_a_teacher_with_another_number_of_labels_is_refused_and_a_base_is_not(tmp_path):
    folder = edited(saved(tmp_path/'t'), id2label={str(i): f'l{i}' for i in range(5)}, label2id={f'l{i}': i for i in range(5)})
    refused(r'classifier.* is \(3', folder)
    assert load_encoder(str(folder), labels=['x', 'y']).config.num_labels == 2


def test_harmless_extra_weights_are_accepted(tmp_path):
    folder = saved(tmp_path/'t')
    tensors = load_file(folder/'model.safetensors')
    save_file(tensors | {'lm_head.bias': torch.zeros(3), 'roberta.pooler.dense.bias': torch.zeros(3),
                         'roberta.embeddings.position_ids': torch.arange(9)}, folder/'model.safetensors', {'format': 'pt'})
    assert weights_hash(load_encoder(str(folder))) == weights_hash(tiny_model('xlmr', 4, LABELS))


@pytest.mark.parametrize('arch', list(ARCHITECTURES))
def test_a_new_head_depends_on_its_seed_alone(arch, tmp_path):
    tiny_model(arch, 4, LABELS).base_model.save_pretrained(tmp_path/'base')
    drawn = []
    for seed, other in [(0, 1), (0, 2), (1, 1)]:
        torch.manual_seed(other)
        before = torch.get_rng_state()
        drawn.append(weights_hash(load_encoder(str(tmp_path/'base'), labels=LABELS, seed=seed)))
        assert torch.equal(before, torch.get_rng_state())
    assert drawn[0] == drawn[1] != drawn[2]
