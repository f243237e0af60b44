"Tests of initialization, for each architecture: what `init.proofs` checks, and what is no property of an architecture."
import dataclasses, re
from pathlib import Path

import pytest, torch

from privkd_nb.core import InputError, content_key
from privkd_nb.init.proofs import PROOFS, prove
from privkd_nb.init.spec import InitSpec
from privkd_nb.init.card import InitCard
from privkd_nb.init.student import init_student
from privkd_nb.models.architectures import ARCHITECTURES, FUSED_MAPS, VALUE_MAPS, architecture_of, part_of
from privkd_nb.models.encoders import layer_stack, search_layers, weights_hash
from privkd_nb.models.tiny import tiny_model

each = pytest.mark.parametrize('arch', list(ARCHITECTURES))
NO_TYPES = 'it has no types of tokens; the separator tells two texts apart'
NOT_DEFINED = {('rembert', 'unpadding'): 'its attention is written out in its own class and cannot be exchanged'} | {
    (arch, 'token_types'): NO_TYPES for arch in ('xlmr', 'distilbert', 'deberta', 'modernbert', 'xlmr-xl', 'eurobert', 'mmbert')}


@pytest.mark.parametrize('what', list(PROOFS))
@each
def test_what_the_table_of_encoders_claims_holds(arch, what):
    assert prove(arch, what) == {what: NOT_DEFINED.get((arch, what), 'holds')}


@each
def test_the_search_finds_what_the_row_says(arch):
    model = tiny_model(arch)
    assert search_layers(model) == layer_stack(model) and architecture_of(model).model_type == model.config.model_type


def test_no_other_module_knows_where_an_architecture_keeps_its_tensors():
    "DeBERTa's way of computing and the playground's own base model are described by their pages"
    rows, root = ARCHITECTURES.values(), Path(__file__).parent.parent/'privkd_nb'
    places = {p for a in rows for p in (a.layers, *a.embeddings, *a.shared, a.final_norm, a.positions, a.rotary, *a.lacks.get(0, ())) if p}
    names = {p.rpartition('.')[2] for p in places if p.rpartition('.')[2] not in ('layer', 'layers', 'embeddings', 'norm', 'weight')} | {*FUSED_MAPS, *VALUE_MAPS, 'pooler', 'attn_norm'}-{'value'}
    assert {'rel_embeddings', 'final_norm', 'position_embeddings', 'Wqkv', 'LayerNorm'} <= names
    known = {'models/architectures.py', 'models/tensors.py', 'compute/deberta.py', 'models/playground_base.py', 'bench/workload.py'}
    code = {str(p.relative_to(root)): p.read_text(encoding='utf-8') for p in root.rglob('*.py') if p.name != '_modidx.py'}
    found = {(p, k) for p, text in code.items() for k in names if re.search(rf'''['"](\w+\.)*{k}(\.weight)?['"]''', text)}
    assert {k for p, k in found if p == 'models/architectures.py'} == names and {(p, k) for p, k in found if p not in known} == set()


def test_an_architecture_without_a_row_is_searched_and_that_is_said_once():
    from transformers import AutoModelForSequenceClassification as Auto, ElectraConfig
    from privkd_nb.models import encoders
    encoders._said.discard('electra')
    model = Auto.from_config(ElectraConfig(hidden_size=32, embedding_size=16, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64, vocab_size=120))
    with pytest.warns(UserWarning, match='no row of ARCHITECTURES describes electra .*electra.encoder.layer'): assert layer_stack(model)[0] == 'electra.encoder.layer'
    import warnings
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert layer_stack(model)[0] == 'electra.encoder.layer'
    assert part_of(model, 'electra.embeddings.word_embeddings.weight') == 'embeddings'


def test_a_model_that_is_not_built_as_its_row_says_is_searched():
    "As code that comes with a checkpoint and calls itself bert"
    model = tiny_model('bert', 3)
    model.bert.blocks = model.bert.encoder.layer
    del model.bert.encoder
    assert architecture_of(model) is None and search_layers(model)[0] == 'bert.blocks'


@pytest.mark.parametrize('rule', ['stride', 'last', '0,2,3'])
@each
def test_copied_tensors_are_named_in_the_card(arch, rule):
    teacher = tiny_model(arch, 6, seed=3)
    try: student, card = init_student(InitSpec(depth=rule, n_layers=None if rule[0] == '0' else 3), teacher)
    except InputError as e:
        assert rule != 'stride' and ARCHITECTURES[arch].lacks
        assert re.search("has attn_norm.weight, for which layer .* depth=stride, endpoints, first, symmetric, or a list such as '0,", str(e))
        return
    theirs, mine = teacher.state_dict(), student.state_dict()
    assert set(card.copied) | set(card.random) == set(mine) and card.random == []
    for k, source in card.copied.items(): assert torch.equal(mine[k], theirs[source]), k
    stack, layers = layer_stack(student)
    assert len(layers) == 3
    for k in card.copied:
        if k.startswith(stack): assert f"{stack}.{card.layers[int(k[len(stack)+1:].split('.')[0])]}." in card.copied[k]
    assert student.config.num_hidden_layers == 3 and all(len(getattr(student.config, k)) == 3 for k in ARCHITECTURES[arch].per_layer)


@each
def test_scratch_shares_nothing_and_is_the_architectures_own(arch):
    teacher = tiny_model(arch, 6, spread=.2)
    student, card = init_student(InitSpec('scratch', depth='stride', seed=1), teacher)
    assert card.copied == {} and card.source_hash is None
    theirs = {k: v for k, v in teacher.state_dict().items()}
    for k, v in student.named_parameters():
        if v.ndim > 1 and k in theirs and theirs[k].shape == v.shape: assert not torch.equal(v, theirs[k]), k
        if v.ndim > 1 and part_of(student, k) == 'encoder': assert v.std() < .1, k     # the teacher's spread is .2
    again, _ = init_student(InitSpec('scratch', depth='stride', seed=1), teacher)
    other, _ = init_student(InitSpec('scratch', depth='stride', seed=2), teacher)
    assert weights_hash(again) == weights_hash(student) != weights_hash(other)


@each
def test_copy_base_takes_the_base_and_no_head(arch):
    teacher, base = tiny_model(arch, 6, seed=1), tiny_model(arch, 6, seed=2, labels=2)
    student, card = init_student(InitSpec('copy_base', depth='first'), teacher, base)
    assert all(torch.equal(student.state_dict()[k], base.state_dict()[s]) for k, s in card.copied.items())
    assert all(part_of(student, k) == 'head' for k in card.random) and card.random


@each
def test_pretrained_checkpoint_is_taken_as_it_is(arch):
    teacher, small = tiny_model(arch, 6, seed=1), tiny_model(arch, 2, seed=5)
    student, card = init_student(InitSpec('pretrained'), teacher, small)
    assert weights_hash(student) == weights_hash(small) and len(card.layers) == 2
    with pytest.raises(InputError, match='pass it as base'): init_student(InitSpec('pretrained'), teacher)


@pytest.mark.parametrize('arch, settings', [('modernbert', dict(classifier_pooling='mean')), ('eurobert', dict(classifier_pooling='bos')), ('eurobert', dict(classifier_pooling='mean')),
                                            ('eurobert', dict(num_key_value_heads=4)), ('deberta', dict(position_biased_input=False)), ('deberta', dict(conv_kernel_size=3)),
                                            ('rembert', dict(input_embedding_size=32)), ('xlmr', dict(type_vocab_size=1))])
def test_what_checkpoints_set_otherwise_holds_too(arch, settings, monkeypatch):
    from dataclasses import replace
    row = ARCHITECTURES[arch]
    monkeypatch.setitem(ARCHITECTURES, arch, replace(row, settings=row.settings | settings))
    for what in ('row', 'full_copy', *(['unpadding'] if 'conv_kernel_size' not in settings else [])): assert prove(arch, what) == {what: NOT_DEFINED.get((arch, what), 'holds')}


def a_base(folder, arch='modernbert', **config):
    "A folder with a tiny base model of six layers, and the playground's tokenizer"
    from privkd_nb.models.loading import load_tokenizer
    from privkd_nb.models.playground_base import TINY_BASE, playground_base
    tok = load_tokenizer(str(playground_base(TINY_BASE)))
    tiny_model(arch, 6, **dict(vocab_size=len(tok)) | config).save_pretrained(folder)
    tok.save_pretrained(folder)
    return str(folder)


def test_a_run_of_defaults_ends_well_whatever_the_first_layer_lacks(tmp_path, capsys):
    from privkd_nb.jobs.config import RunConfig
    from privkd_nb.jobs.distil import distil
    cfg = RunConfig(base=a_base(tmp_path/'base'), tiny=True, languages='de,en', out_dir=str(tmp_path/'runs'))
    run = distil(cfg)
    card = InitCard.load(run.path/'init_card.json')
    assert (cfg.depth, run.config['depth'], card.depth, card.layers) == ('auto', 'endpoints', 'endpoints', [0, 3, 5])
    assert 'layer 0 lacks attn_norm.weight' in card.note and card.note in capsys.readouterr().out
    assert content_key(dataclasses.replace(cfg, depth='endpoints').identity()) == run.path.name         # as whoever names it


def test_a_depth_that_cannot_be_copied_is_refused_before_anything_is_loaded(tmp_path, monkeypatch):
    from privkd_nb.jobs.config import RunConfig
    from privkd_nb.models import content
    (tmp_path/'config.json').write_text('{"model_type": "modernbert", "num_hidden_layers": 22}')
    for bad in (dict(depth='stride_odd'), dict(depth='last', init='copy_base'), dict(depth='1,5')):
        with pytest.raises(InputError, match='which has attn_norm.weight, into layer 0, .* use depth=auto, stride, endpoints'): RunConfig(base=str(tmp_path), **bad)
    for fine in (dict(depth='stride_odd', init='scratch'), dict(depth='last', parts='embeddings,head'), dict(depth='stride_odd', layers=22), dict(layers=1), dict(depth='0,5')):
        RunConfig(base=str(tmp_path), **fine)
    hub = RunConfig(base='some/model', depth='last')                                        # is not on this machine yet …
    assert RunConfig(base='some/model').identity()['depth'] == 'stride_odd'
    monkeypatch.setattr(content, 'hub_file', lambda *_: tmp_path/'config.json')             # … and now its configuration is
    with pytest.raises(InputError, match='into layer 0'): hub.pin()
    assert RunConfig(base='some/model').identity()['depth'] == 'endpoints'


def test_runs_of_the_default_depth_keep_their_names():
    from privkd_nb.jobs.config import RunConfig
    assert content_key(RunConfig().identity()) == '3c93b5d8465b'                            # of the run that the notebook shows
