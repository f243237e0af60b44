"Narrowing: exact for every architecture, blind to padding and to the order of units, and a model that transformers can load."
from dataclasses import replace

import numpy as np, pytest, torch

from privkd_nb.core import InputError
from privkd_nb.data.encoding import Encoded
from privkd_nb.init.axes import axes_of, cut, pruned, whole, widths_of
from privkd_nb.init.spec import WIDTH_METHODS, own_label
from privkd_nb.init.width import narrow, target_widths
from privkd_nb.init.width_scores import SCORERS, Scores, width_method
from privkd_nb.models.architectures import ARCHITECTURES
from privkd_nb.models.encoders import layer_stack
from privkd_nb.models.tiny import tiny_batch, tiny_model

BATCH = tiny_batch()


def sample_of(n=12, pads=0, seed=0):
    "Random texts in two languages; `pads` tokens of padding are forced by one long text without a label"
    rng = np.random.default_rng(seed)
    ids = [rng.integers(5, 120, k).tolist() for k in rng.integers(3, 12, n)]
    return Encoded(ids, rng.integers(0, 3, n).tolist(), ['en', 'sw']*(n//2), [str(i) for i in range(n)], pad_id=1)


@torch.no_grad()
def logits(model): return model(BATCH['input_ids'], BATCH['attention_mask']).logits


def close(a, b): return torch.allclose(a, b, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def permuted(model, seed=0):
    "A model that computes the same with its heads, units and residual dimensions in another order, and where each unit went"
    g, kept = torch.Generator().manual_seed(seed), whole(model)
    def order(n): return torch.randperm(n, generator=g)
    w, n = widths_of(model.config), model.config.num_hidden_layers
    groups = [order(w.kv) for _ in range(n)]
    size = w.heads//w.kv
    heads = [torch.cat([k*size+order(size) for k in g_]) for g_ in groups]
    return replace(kept, hidden=order(w.hidden), pool=order(w.hidden), heads=heads, kv=groups, ffn=[order(w.ffn) for _ in range(n)])


@pytest.mark.parametrize('arch', ARCHITECTURES)
def test_the_order_of_units_does_not_matter(arch):
    "Heads, units, pooled units and residual dimensions in any order give the same logits: every axis has its right name"
    for kind in 'sequence', 'token':
        model = tiny_model(arch, layers=3, kind=kind)
        assert close(logits(pruned(model, permuted(model))), logits(model))


@pytest.mark.parametrize('arch', ARCHITECTURES)
def test_a_narrow_model_equals_the_model_that_was_cut_in_memory(arch, tmp_path):
    "and it is saved and loaded by transformers as it is"
    model = tiny_model(arch, layers=3)
    small, plan = narrow(model, 16, method='minitron', sample=sample_of())
    assert small.config.hidden_size == 16 and plan.sizes.heads == 2 and plan.sizes.ffn == widths_of(model.config).ffn//2
    assert close(logits(small), logits(pruned(model, plan.kept)))
    small.save_pretrained(tmp_path)
    assert torch.equal(logits(type(small).from_pretrained(tmp_path)), logits(small))
    assert not {p.data_ptr() for p in small.parameters()} & {p.data_ptr() for p in model.parameters()}


def test_a_kept_network_equals_hand_made_slices():
    model = tiny_model('bert', layers=2)
    small, plan = narrow(model, 16, ffn=20, method='select')
    sd, old = small.state_dict(), model.state_dict()
    hidden, heads = torch.arange(0, 32, 2), torch.tensor([0, 2])
    rows = torch.cat([torch.arange(h*8, h*8+8) for h in heads])
    units = torch.linspace(0, 63, 20).round().long()
    layer = 'bert.encoder.layer.1.'
    expected = {'bert.embeddings.word_embeddings.weight': (slice(None), hidden), 'bert.embeddings.LayerNorm.bias': (hidden,),
                layer+'attention.self.query.weight': (rows[:,None], hidden), layer+'attention.self.value.bias': (rows,),
                layer+'attention.output.dense.weight': (hidden[:,None], rows), layer+'intermediate.dense.weight': (units[:,None], hidden),
                layer+'output.dense.weight': (hidden[:,None], units), layer+'output.LayerNorm.weight': (hidden,),
                'bert.pooler.dense.weight': (hidden[:,None], hidden), 'classifier.weight': (slice(None), hidden)}
    for name, at in expected.items(): assert torch.equal(sd[name], old[name][at]), name
    assert plan.tensors['classifier.bias'] == 'copied' and plan.tensors['classifier.weight'] == 'sliced'


@pytest.mark.parametrize('arch', ARCHITECTURES)
def test_units_that_add_nothing_can_go(arch):
    "A feed-forward unit and a head whose outgoing weights are zero"
    model = tiny_model(arch, layers=2)
    w, kept = widths_of(model.config), whole(model)
    group = w.heads//w.kv                                    # EuroBERT: all heads of one group
    with torch.no_grad():
        for name, a in axes_of(model).items():
            t = model.get_parameter(name)
            if a.dims == ('hidden', 'ffn'): t[:,5] = 0
            if a.dims == ('hidden', 'heads'): t[:,group*w.head_dim:2*group*w.head_dim] = 0
    def without(n, gone): return torch.tensor([i for i in range(n) if i not in gone])
    less = replace(kept, ffn=[without(w.ffn, [5])]*2, heads=[without(w.heads, range(group, 2*group))]*2, kv=[without(w.kv, [1])]*2)
    assert close(logits(pruned(model, less)), logits(model))
    more = replace(less, ffn=[without(w.ffn, [6])]*2)
    assert not close(logits(pruned(model, more)), logits(model))


@pytest.mark.parametrize('method', [m for m in SCORERS if not SCORERS[m].by_place and not SCORERS[m].basis])
@pytest.mark.parametrize('arch', ['xlmr', 'deberta', 'mmbert', 'eurobert'])
def test_importance_does_not_see_padding(method, arch):
    "Alone, a text has no padding; in one batch all but the longest have"
    model, sample = tiny_model(arch, layers=2), sample_of()
    together, alone = SCORERS[method].fn(model, sample, None), [SCORERS[method].fn(model, sample.take([i]), None) for i in range(len(sample))]
    power = 2 if method == 'minitron' else 1
    for axis in 'heads', 'ffn':
        for l, s in enumerate(getattr(together, axis)):
            parts = torch.stack([getattr(o, axis)[l] for o in alone])
            if method == 'subclone' and axis == 'heads': continue # a norm of sums
            assert torch.allclose(s**power, (parts**power).sum(0), rtol=1e-4), (axis, l)


@pytest.mark.parametrize('method', [m for m in SCORERS if not SCORERS[m].by_place and not SCORERS[m].basis])
def test_importance_follows_the_units(method):
    "A model with its units in another order has their scores in that order"
    model, sample = tiny_model('bert', layers=2), sample_of()
    kept = permuted(model)
    a, b = SCORERS[method].fn(model, sample, None), SCORERS[method].fn(pruned(model, kept), sample, None)
    assert torch.allclose(a.hidden[kept.hidden], b.hidden, rtol=1e-3)
    for l in range(2):
        assert torch.allclose(a.heads[l][kept.heads[l]], b.heads[l], rtol=1e-3)
        assert torch.allclose(a.ffn[l][kept.ffn[l]], b.ffn[l], rtol=1e-3)


@pytest.mark.parametrize('arch', ['bert', 'distilbert', 'deberta', 'xlmr-xl', 'rembert', 'xlmr'])
def test_as_many_heads_of_half_the_width(arch):
    "Width 768 with 12 heads becomes 384 with 12, as the paper's narrow students"
    model = tiny_model(arch, layers=2)
    small, plan = narrow(model, 16, heads=4, method='select')
    assert plan.sizes.heads == 4 and plan.sizes.head_dim == 4
    assert plan.kept.lines('heads', 0).tolist() == list(range(0, 32, 2))    # weight selection's own rule, on every row
    assert close(logits(small), logits(pruned(model, plan.kept)))


def test_subcloning_scales_what_loses_inputs():
    model, sample = tiny_model('bert', layers=2), sample_of()
    small, plan = narrow(model, 16, method='subclone', sample=sample)
    name, table = 'bert.encoder.layer.0.attention.self.query.weight', 'bert.embeddings.word_embeddings.weight'
    axes = axes_of(model)
    assert plan.tensors[name] == 'scaled' and plan.tensors[table] == 'sliced' and plan.tensors['classifier.bias'] == 'copied'
    assert torch.allclose(small.state_dict()[name], cut(model.state_dict()[name], axes[name], plan.kept)*2**.5)
    assert torch.equal(small.state_dict()[table], cut(model.state_dict()[table], axes[table], plan.kept))


def test_what_no_rule_knows_is_refused():
    with pytest.raises(InputError, match='conv'): narrow(tiny_model('deberta', layers=2, conv_kernel_size=3), 16, method='truncate')
    odd = tiny_model('bert', layers=2)
    odd.bert.encoder.layer[0].adapter = torch.nn.Linear(32, 4)
    with pytest.raises(InputError, match='adapter'): narrow(odd, 16, method='truncate')


def test_a_model_without_a_head_is_narrowed_too():
    base = tiny_model('xlmr', layers=2).roberta
    small, _ = narrow(base, 16, method='truncate')
    assert type(small) is type(base) and small.config.hidden_size == 16
    assert len(layer_stack(small)[1]) == 2 and target_widths(base, 16).heads == 2


def test_projections_are_models_that_load_and_the_fit_helps(tmp_path):
    "The norms are fitted: without that, a projected model is further from its teacher"
    from privkd_nb.init import width
    for arch in ARCHITECTURES:
        model = tiny_model(arch, layers=2)
        small, plan = narrow(model, 16, method='pca', sample=sample_of())
        assert set(plan.tensors.values()) == {'projected', 'sliced', 'copied'}, arch
        small.save_pretrained(tmp_path/arch)
        assert torch.equal(logits(type(small).from_pretrained(tmp_path/arch)), logits(small))
    errors = {}
    for fit in True, False:
        with pytest.MonkeyPatch.context() as m:
            if not fit: m.setattr(width, 'fit_norms', lambda *a: None)
            found = [(logits(narrow(t, 24, method='pca', sample=sample_of())[0])-logits(t)).square().mean() for t in (tiny_model('bert', layers=2, seed=s) for s in range(4))]
        errors[fit] = float(sum(found))
    assert errors[True] < errors[False]


def test_layers_of_different_sizes_are_for_memory_alone():
    from privkd_nb.init.pruning import prune
    model, want = tiny_model('bert', layers=3), replace(widths_of(tiny_model('bert', layers=1).config), heads=2, kv=2, ffn=32)
    kept, _ = prune(model, want, 'taylor', sample_of(), steps=2, uneven=True)
    assert sum(map(len, kept.heads)) == 6 and sum(map(len, kept.ffn)) == 96 and len({*map(len, kept.ffn)}) > 1
    assert logits(pruned(model, kept)).isfinite().all()
    for arch in ARCHITECTURES:
        with pytest.raises(InputError, match='one number of heads'): narrow(tiny_model(arch, layers=1), ffn=32, method='select', uneven=True)


@pytest.mark.parametrize('kind', ['token', 'multilabel'])
def test_taylor_knows_every_kind_of_task(kind):
    rng, s = np.random.default_rng(0), sample_of()
    ids = [s.flat[a:b].tolist() for a, b in zip(s.offsets, s.offsets[1:])]
    labels = [rng.integers(0, 3, len(i)).tolist() for i in ids] if kind == 'token' else rng.integers(0, 2, (12, 3)).tolist()
    words = [list(range(len(i))) for i in ids] if kind == 'token' else None
    data = Encoded(ids, labels, ['en']*12, s.names, words, pad_id=1, kind=kind)
    model = tiny_model('bert', layers=2, kind=kind)
    small, _ = narrow(model, 16, method='taylor', sample=data)
    assert logits(small).isfinite().all() and small.config.problem_type == model.config.problem_type


def test_what_an_architecture_refuses_has_a_reason():
    "The generated table: the words that some architecture refuses, and a sliced student that is told from another"
    from privkd_nb.init.methods import methods_table, why_refused
    words = ['copy_ft:last', 'copy_ft/width=16:guide', 'copy_ft/width=16:select/heads=4', 'copy_ft/heads=2:select', 'copy_ft/ffn=32:select']
    table = methods_table([a for a in ARCHITECTURES if a != 'mmbert'], words)
    refused = {w: {a for a, mark in row.items() if mark == 'refused'} for w, row in table.iterrows()}
    assert refused == {words[0]: {'modernbert'}, words[1]: {'deberta', 'rembert'}, words[2]: {'modernbert'},
                       words[3]: set(ARCHITECTURES)-{'eurobert', 'mmbert'}, words[4]: set()}
    assert why_refused(table).reason.str.len().min() > 40


@pytest.fixture
def only_methods_of_the_package():
    "Forget methods of one's own after a test"
    had = set(SCORERS)
    yield
    for k in set(SCORERS)-had: SCORERS.pop(k), WIDTH_METHODS.pop(k, None)


def own(value, name='mine', **kw):
    "A width method that returns a value"
    def f(model, sample, want): return value
    f.__name__ = name
    return width_method(**kw)(f)


HAS_32 = [(None, 'returned None; it must return `Scores`'), (dict(width=torch.ones(32)), 'must return `Scores`'), (torch.ones(32), 'must return `Scores`'),
          (Scores(torch.ones(16)), r'hidden of the shape \(16,\); give a tensor of the shape \(32,\), one number a unit'),
          (Scores(torch.full((32,), torch.nan)), 'hidden with NaN for 32 of 32 units'), (Scores(['a']*32), "hidden as \\['a'.*give a tensor"),
          (Scores(ffn=torch.ones(2, 7)), r'ffn of layer 0 of the shape \(7,\); give a tensor of the shape \(64,\)'),
          (Scores(heads=[torch.ones(4)]), 'give a list of 2 tensors, one a layer'), (Scores(pool=torch.ones(3)), 'pool of the shape')]

@pytest.mark.parametrize('value, why', HAS_32)
def test_what_an_own_method_returns_is_checked(value, why, only_methods_of_the_package):
    own(value)
    for steps in 1, 2:
        with pytest.raises(InputError, match=f'the width method mine .*{why}'): narrow(tiny_model('bert', layers=2), 16, method='mine', steps=steps)


def test_lists_and_tensors_with_gradients_are_scores(only_methods_of_the_package):
    own(dict(hidden=[float(i) for i in range(32)], ffn=torch.nn.Parameter(torch.arange(128.).view(2, 64))))
    kept = narrow(tiny_model('bert', layers=2), 16, method='mine')[1].kept
    assert kept.hidden.tolist() == list(range(16, 32)) and kept.ffn[1].tolist() == list(range(32, 64))


def test_a_method_without_texts_is_told_how_to_get_some(only_methods_of_the_package):
    @width_method()
    def mine(model, sample, want): return Scores(torch.ones(32)*len(sample))
    with pytest.raises(InputError, match=r"mine was given no texts .* stopped at .*NoneType.*; write @width_method\(needs='texts'\)"):
        narrow(tiny_model('bert', layers=2), 16, method='mine')
    assert len(narrow(tiny_model('bert', layers=2), 16, method='mine', sample=sample_of())[1].kept.hidden) == 16


def test_the_name_and_the_need_of_a_method_are_checked(only_methods_of_the_package):
    with pytest.raises(InputError, match="needs='text' is not a choice; choose from texts, labels"): own(None, needs='text')
    with pytest.raises(InputError, match="basis='state' is not a choice"): own(None, basis='state')
    for name in 'minitron', 'pca':
        was = SCORERS[name], WIDTH_METHODS[name]
        with pytest.raises(InputError, match=f'{name} is a width method of this package; give yours another name'): own(None, name)
        assert (SCORERS[name], WIDTH_METHODS[name]) == was
    with pytest.raises(InputError, match="a width method cannot be called 'a:b'"): width_method(name='a:b')(lambda *a: None)

    @width_method
    def bare(model, sample, want): "what is written without parentheses"
    assert bare.__name__ == 'bare' and WIDTH_METHODS['bare'].title == 'what is written without parentheses' and SCORERS['bare'].fn is bare


def test_what_decides_a_methods_result_names_the_run(only_methods_of_the_package):
    def label(**kw): own(None, **kw); return own_label('mine', WIDTH_METHODS)
    labels = [label(), label(needs='texts'), label(needs='labels'), label(scale=True), label(basis='table')]
    assert len({*labels}) == 5 and label() == labels[0] and all(own_label(k, WIDTH_METHODS) == k for k in WIDTH_METHODS if k != 'mine')
