"Losses on states, attention and relations: each by its formula, live and from the cache, for students of other sizes, and refused where it is not defined."
import math
from types import SimpleNamespace

import numpy as np, pytest, torch
from safetensors.torch import load_file

from privkd_nb.compute.attention import captured_qkv, use_eager
from privkd_nb.compute.forward import OutputSpec, forward
from privkd_nb.compute.unpadding import can_unpad, unpadded
from privkd_nb.core import InputError
from privkd_nb.data.encoding import Encoded, batch_counts
from privkd_nb.losses.cka import cka, cka_loss
from privkd_nb.losses.features import attention_mse, attention_probabilities
from privkd_nb.losses.logits import masked_mean
from privkd_nb.losses.relations import attention_kl, minilm2_loss, relation_heads, relation_kl, relation_scores
from privkd_nb.losses.terms import ATTENTION, TERMS, TermInputs, check_pair, distill_terms, required_outputs
from privkd_nb.models.tiny import tiny_batch, tiny_model
from privkd_nb.record import History
from privkd_nb.train.arguments import training_args
from privkd_nb.train.efficiency import Efficiency
from privkd_nb.train.teacher import teacher_key
from privkd_nb.train.trainer import DistillTrainer

MINE = ['cosine', 'pkd', 'hidden_layers', 'attention_prob', 'attention_kl', 'minilm', 'minilm2', 'cka']
STILL = dict(hidden_dropout_prob=0., attention_probs_dropout_prob=0.)


# ---- each term is its formula, computed text by text without padding, from the modules of the model ----

def look(model, x):
    "Hidden states of one text; queries, keys, values and attention of each layer by head, from the layers' own maps"
    hidden = [h[0].double() for h in model(input_ids=x[None], output_hidden_states=True).hidden_states]
    maps = [l.attention.self for l in model.roberta.encoder.layer]
    q, k, v = ([getattr(m, n).double()(h) for m, h in zip(maps, hidden)] for n in ('query', 'key', 'value'))
    heads = lambda x, A: x.reshape(len(x), A, -1).permute(1, 0, 2)
    h = model.config.num_attention_heads
    return hidden, q, k, v, [torch.einsum('hid,hjd->hij', heads(a, h), heads(b, h))/math.sqrt(a.shape[1]/h) for a, b in zip(q, k)], heads


def kl(p, q): return (p*(p/q).log()).sum(-1)


def plain_terms(student, teacher, texts, layers):
    "Sums over the texts of each term but the last, and what each is divided by"
    sums, last, n, pairs, all_states = dict.fromkeys(MINE, 0.), layers[-1], 0, 0, {i: ([], []) for i in range(len(layers))}
    for x in texts:
        (hs, qs, ks, vs, As, heads), (ht, qt, kt, vt, At, _) = look(student, x), look(teacher, x)
        unit = lambda h: h/h.norm(dim=-1, keepdim=True)
        R = lambda x, A: (lambda y: (torch.einsum('aid,ajd->aij', y, y)/math.sqrt(y.shape[-1])).softmax(-1))(heads(x, A))
        sums['cosine'] += (1-(unit(hs[-1])*unit(ht[-1])).sum(-1)).sum()
        sums['pkd'] += sum(((unit(hs[i+1][:1])-unit(ht[l+1][:1]))**2).sum() for i, l in [*enumerate(layers)][:-1])
        sums['hidden_layers'] += sum(((hs[i+1]-ht[l+1])**2).mean(-1).sum() for i, l in enumerate(layers))
        sums['attention_prob'] += sum(((As[i].softmax(-1)-At[l].softmax(-1))**2).mean(0).sum() for i, l in enumerate(layers))
        sums['attention_kl'] += sum(kl(At[l].softmax(-1), As[i].softmax(-1)).mean(0).sum() for i, l in enumerate(layers))
        sums['minilm'] += (kl(At[last].softmax(-1), As[-1].softmax(-1))+kl(R(vt[last], 4), R(vs[-1], 4))).mean(0).sum()
        sums['minilm2'] += sum(kl(R(t[last], 2), R(s[-1], 2)).mean(0).sum() for s, t in ((qs, qt), (ks, kt), (vs, vt)))    # 32/16 heads
        for i, l in enumerate(layers): all_states[i][0].append(hs[i+1]); all_states[i][1].append(ht[l+1])
        n, pairs = n+len(x), pairs+len(x)**2
    sums['cka'] = sum(1-plain_cka(torch.cat(a), torch.cat(b)) for a, b in all_states.values())
    per = dict.fromkeys(MINE, n) | dict(pkd=len(texts), attention_prob=pairs, cka=1)
    return {k: (v/per[k]).item() for k, v in sums.items()}


def plain_cka(x, y):
    n = len(x)
    def centered(x):                       # U-centering, Szekely and Rizzo 2014
        K = x@x.T
        K.fill_diagonal_(0)
        r = K.sum(1)/(n-2)
        K = K-r[:, None]-r[None]+K.sum()/((n-1)*(n-2))
        return K.fill_diagonal_(0)
    a, b = centered(x), centered(y)
    return (a*b).sum()/((a*a).sum()*(b*b).sum()).sqrt()


def values(student, teacher, layers, batch, terms=MINE, unpad=None):
    n, N = student.config.num_hidden_layers, teacher.config.num_hidden_layers
    s, t = (forward(m, batch, required_outputs(terms, l, n_layers=k), unpad) for m, l, k in ((student, range(n), n), (teacher, layers, N)))
    return distill_terms(terms, s, t, TermInputs(batch['labels'], batch['attention_mask'], batch_counts(batch), layers, last=(n, N)))


@torch.no_grad()
def test_each_term_is_its_formula_text_by_text():
    student, teacher, layers = tiny_model('xlmr', 3, seed=1, spread=.2), tiny_model('xlmr', 6, seed=2, spread=.2), [0, 3, 4]
    for m in (student, teacher): use_eager(m)
    batch = tiny_batch(4, 9, padding=4)
    texts = [x[m.bool()] for x, m in zip(batch['input_ids'], batch['attention_mask'])]
    got, want = values(student, teacher, layers, batch), plain_terms(student.double(), teacher.double(), texts, layers)
    assert min(want.values()) > 1e-4
    for k in MINE: assert got[k].item() == pytest.approx(want[k], rel=2e-4), k


# ---- what is captured ----

@pytest.mark.parametrize('arch', ['xlmr', 'distilbert', 'deberta', 'modernbert', 'eurobert'])
@torch.no_grad()
def test_queries_and_keys_are_the_same_without_padding(arch):
    model, batch = tiny_model(arch, 4, spread=.2), tiny_batch(padding=4)
    needed = OutputSpec(queries=(0, 3), keys=(0, 3), values=(3,))
    plain = forward(model, batch, needed)
    assert {k: set(plain[k]) for k in ('queries', 'keys', 'values')} == dict(queries={0, 3}, keys={0, 3}, values={3})
    assert all(x.shape == (int(batch['attention_mask'].sum()), 32) and x.std() > .01 for k in ('queries', 'keys') for x in plain[k].values())
    assert not torch.allclose(plain.queries[3], plain['keys'][3])
    if not can_unpad(model): return
    for k, xs in forward(model, batch, needed, unpadded).items():
        if k in ('queries', 'keys', 'values'):
            for l, x in xs.items(): assert torch.allclose(x, plain[k][l], atol=1e-4), (k, l)


@torch.no_grad()
def test_debertas_positions_do_not_pass_for_queries():
    model, batch = tiny_model('deberta', 2), tiny_batch(b=1, padding=0)
    maps, calls = model.base_model.encoder.layer[1].attention.self, []
    hook = maps.query_proj.register_forward_hook(lambda m, args, out: calls.append(out))
    with captured_qkv(model, queries=[1], keys=[1]) as got: model(**batch)
    hook.remove()
    assert len(calls) == 2 and torch.equal(got['queries'][1], calls[0]) and got['queries'][1].shape == got['keys'][1].shape == (1, 9, 32)


def test_the_key_of_cached_outputs_is_as_before_where_no_query_is_read():
    model = tiny_model()
    about = teacher_key(model, OutputSpec(False, (1,), (0,), values=(1,)))
    assert [*about][-4:] == ['hidden', 'attention', 'on', 'values']
    assert teacher_key(model, OutputSpec(False, (1,), (0,), values=(1,), queries=(1,))) == about | dict(queries=[1])


# ---- training ----

def examples(kind, n=24):
    rng = np.random.default_rng(0)
    ids = [[0, *rng.integers(5, 100, rng.integers(2, 11)).tolist(), 2] for _ in range(n)]
    words = [[-1, *range(len(i)-2), -1] for i in ids] if kind == 'token' else None
    labels = [rng.integers(0, 3, len(i)).tolist() for i in ids] if words else rng.integers(0, 3, n).tolist()
    return Encoded(ids, labels, ['en', 'de']*(n//2), [f'{i}' for i in range(n)], words, pad_id=1)


def trained(folder, losses, arch='xlmr', kind='sequence', cache=None, micro_batches=1, steps=6, checkpoints=False, resume=None, unpadding='auto', **config):
    teacher = tiny_model(arch, 4, kind=kind, labels=['a', 'b', 'c'], seed=1, spread=.2, **(STILL if arch == 'xlmr' else {}))
    student = tiny_model(arch, 2, kind=kind, labels=['a', 'b', 'c'], seed=2, **(STILL if arch == 'xlmr' else {}), **config)
    data = examples(kind)
    args = training_args(folder, len(data), 1, lr=5e-3, batch_size=8, micro_batches=micro_batches, use_cpu=True, max_steps=steps, eval_strategy='no',
                         save_strategy='steps' if checkpoints else 'no', save_steps=3)
    tr = DistillTrainer(student, teacher, losses, [1, 3], history=History(), args=args, train_dataset=data, eval_dataset=data,
                        efficiency=Efficiency(cache=cache, unpadding=unpadding))
    tr.train(resume)
    h = tr.history.frame().pivot(index='step', columns='metric', values='value')
    return tr, h[[k for k in losses.split(',')]]


@pytest.mark.parametrize('arch, kind', [('xlmr', 'sequence'), ('eurobert', 'token')])
def test_live_cached_and_padded_training_are_the_same_and_every_term_falls(arch, kind, tmp_path):
    losses = ','.join(k for k in MINE if kind in TERMS[k].kinds)
    live, a = trained(tmp_path/'a', losses, arch, kind, steps=24)
    cached, b = trained(tmp_path/'b', losses, arch, kind, cache=tmp_path/'cache', unpadding='off', steps=24)
    assert (live.teacher_outputs.how, cached.teacher_outputs.how, cached.report['unpadded']) == ('computed every step', 'cached', False)
    assert np.allclose(a, b, rtol=2e-3, atol=1e-4)
    assert (a.iloc[-3:].mean() < a.iloc[:3].mean()).all(), a.iloc[[0, -1]]


def test_micro_batches_add_up_and_cka_needs_the_whole_step(tmp_path):
    losses = ','.join(k for k in MINE if not TERMS[k].whole_batch)
    (_, a), (_, b) = trained(tmp_path/'a', losses), trained(tmp_path/'b', losses, micro_batches=4)
    assert np.allclose(a, b, rtol=2e-3, atol=1e-4)
    with pytest.raises(InputError, match='the cka term compares the texts of a whole step'): trained(tmp_path/'c', 'ce,cka', micro_batches=2)


SMALL = dict(hidden_size=16, intermediate_size=32, num_attention_heads=2)


def test_a_narrower_student_trains_its_projections_and_ships_none(tmp_path):
    losses = 'cosine,pkd,hidden_layers,minilm2,cka'
    tr, h = trained(tmp_path, losses, checkpoints=True, **SMALL)
    own, start = tr.model.distill_projection, trained(tmp_path/'other', losses, steps=1, **SMALL)[0]
    assert own.weight.shape == (32, 16) and [p.weight.shape for p in own.layers] == [(32, 16)]*2
    assert not torch.equal(own.layers[0].weight, start.model.distill_projection.layers[0].weight) and not torch.equal(*(p.weight for p in own.layers))
    kept = load_file(tmp_path/'checkpoint-3'/'model.safetensors')
    assert {'distill_projection.weight', 'distill_projection.layers.1.weight'} <= set(kept)
    again, more = trained(tmp_path/'again', losses, resume=str(tmp_path/'checkpoint-3'), checkpoints=True, **SMALL)
    assert np.allclose(h.iloc[3:], more.iloc[-3:]) and torch.equal(again.model.distill_projection.layers[1].weight, own.layers[1].weight)
    tr.save_model(tmp_path/'shipped')
    assert not [k for k in load_file(tmp_path/'shipped'/'model.safetensors') if 'projection' in k] and tr.model.distill_projection is own


def test_the_shared_projection_begins_as_before_and_single_ones_do_not_change_it(tmp_path):
    one, both, single = (trained(tmp_path/k, k, steps=1, **SMALL)[0].model.distill_projection for k in ('hidden', 'hidden,hidden_layers', 'hidden_layers'))
    assert isinstance(one, torch.nn.Linear) and isinstance(single, torch.nn.ModuleList) and len(single) == 2
    assert [*one.state_dict()] == ['weight', 'bias'] and torch.allclose(one.weight, both.weight, atol=.02)


def test_of_equal_sizes_hidden_layers_is_hidden(tmp_path):
    tr, h = trained(tmp_path, 'hidden,hidden_layers')
    assert np.array_equal(h.hidden, h.hidden_layers) and not hasattr(tr.model, 'distill_projection')


# ---- what is refused ----

def test_terms_that_cannot_compare_are_refused_before_training(tmp_path):
    for k in ('attention_prob', 'attention_kl', 'minilm'):
        assert ATTENTION & {*TERMS[k].reads}
        with pytest.raises(InputError, match=f'the {k} term compares head by head, but the student has 2 heads'): trained(tmp_path, k, **SMALL)
    config = lambda n: SimpleNamespace(num_labels=3, num_hidden_layers=n, hidden_size=8, num_attention_heads=2)
    with pytest.raises(InputError, match='the student has one layer, and its last one is left out'): check_pair(['pkd'], config(1), config(4), [3])
    with pytest.raises(InputError, match='the pkd term is not defined for one label a word'): trained(tmp_path, 'pkd', kind='token')
    with pytest.raises(InputError, match='layers=None must give one teacher layer'): check_pair(['minilm2'], config(2), config(4))
    with pytest.raises(InputError, match='which the minilm term reads'): required_outputs(['minilm'], [0], 'probabilities')


# ---- hard cases ----

def test_a_local_window_of_one_model_alone_costs_no_infinity():
    g = torch.Generator().manual_seed(0)
    s, t = (torch.randn(2, 2, 6, 6, generator=g) for _ in '12')
    far = (torch.arange(6)[:, None]-torch.arange(6)).abs() > 2
    local = s.masked_fill(far, torch.finfo(s.dtype).min).requires_grad_()
    mask = torch.tensor([[1]*6, [1]*4+[0]*2])
    loss = attention_kl(local, t, mask)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(local.grad).all() and local.grad[0].abs().sum() > 0 and not local.grad[1, :, 4:].any()
    assert torch.allclose(loss, attention_kl(local, t.masked_fill(far, -torch.inf), mask))         # what one does not see, neither does the other
    assert attention_probabilities(local, mask)[..., far].max() == 0


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_masked_scores_in_half_precision_are_no_tokens(dtype):
    z = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(1)).to(dtype)
    hidden = z.clone()
    hidden[..., 3] = torch.finfo(dtype).min
    assert torch.allclose(attention_kl(hidden[..., :3, :], hidden[..., :3, :]*.5), attention_kl(z[..., :3, :3], z[..., :3, :3]*.5), atol=2e-3)


def test_a_text_of_one_token_and_tokens_that_are_all_equal():
    x, mask = torch.ones(3, 4, requires_grad=True), torch.tensor([[1, 0], [1, 1]])
    loss = relation_kl(x, torch.arange(12.).view(3, 4), mask, 2)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(x.grad).all()
    assert relation_scores(x.detach(), mask, 2)[0, 0, 0].tolist() == pytest.approx([2/math.sqrt(2), 0])
    assert TERMS['cka'](*(SimpleNamespace(hidden={1: torch.ones(5, 2)}) for _ in '12'), SimpleNamespace(hidden_pairs=[(1, 1)])).isfinite()


def test_scores_outside_of_one_models_window_cost_nothing_and_all_others_what_they_did():
    g = torch.Generator().manual_seed(2)
    s, t = (torch.randn(2, 2, 6, 6, generator=g) for _ in '12')
    far, mask = (torch.arange(6)[:, None]-torch.arange(6)).abs() > 2, torch.tensor([[1]*6, [1]*4+[0]*2])
    pair = mask[:, :, None]*mask[:, None]
    def before(s, t): return masked_mean((torch.where(pair[:, None].bool(), s, 0.)-torch.where(pair[:, None].bool(), t, 0.)).pow(2).mean(1), pair)
    local, other = (x.masked_fill(far, torch.finfo().min).requires_grad_() for x in (s, t))
    assert torch.equal(attention_mse(s, t, mask), before(s, t)) and torch.equal(attention_mse(local, other, mask), before(local, other))
    near = ((s-t)**2*(pair[:, None]*~far)).sum()/2/pair.sum()                      # the same divisor: pairs of tokens
    for a, b in ((local, t), (s, other), (local, t.masked_fill(far, -torch.inf))): assert torch.allclose(attention_mse(a, b, mask), near)
    attention_mse(local, t, mask).backward()
    assert torch.isfinite(local.grad).all() and local.grad[0].any() and not local.grad[..., far].any()
    assert attention_mse(s*torch.nan, t, mask).isnan() and attention_kl(s*torch.nan, t, mask).isnan()      # what went wrong is not taken for a mask


@pytest.mark.parametrize('layers', [[1, 3], [2, 0], [0, 3]])
def test_modernberts_windows_may_differ_between_compared_layers_in_every_term(layers):
    teacher, student = (tiny_model('modernbert', n, seed=n, spread=.2) for n in (4, 2))
    windows = [getattr(l, 'attention_type', None) for l in teacher.base_model.layers]
    assert any(windows[l] != windows[i] for i, l in enumerate(layers))
    for m in (student, teacher): use_eager(m)
    batch = tiny_batch(3, 24, padding=9)                                           # longer than the window
    got = values(student.train(), teacher, layers, batch, ['attention', *MINE])
    sum(got.values()).backward()
    assert all(v.isfinite() and 0 <= v < 1e3 for v in got.values()), got
    assert all(p.grad.isfinite().all() for p in student.parameters() if p.grad is not None)


def test_relations_of_shared_keys_and_values_are_cut_into_heads_that_divide_them_all():
    g, mask = torch.Generator().manual_seed(3), torch.ones(2, 5)
    def qkv(q, kv): return [torch.randn(2, 5, d, generator=g) for d in (q, kv, kv)]
    s, t = qkv(96, 32), qkv(1152, 384)
    assert relation_heads(1152, 1152) == 72 and relation_heads(1152, 1152, 384, 384) == 64 and relation_heads(96, 1152, 32, 384) == 32
    assert torch.equal(minilm2_loss(s, t, mask), sum(relation_kl(a, b, mask, 32) for a, b in zip(s, t)))


def test_minilm_and_minilm2_of_eighteen_heads_in_six_groups():
    size = dict(hidden_size=144, num_attention_heads=18, num_key_value_heads=6)
    teacher, student = (tiny_model('eurobert', n, seed=n, **size) for n in (3, 2))
    for m in (student, teacher): use_eager(m)
    got = values(student, teacher, [0, 2], tiny_batch(), ['minilm', 'minilm2'])
    assert all(v.isfinite() and v > 1e-4 for v in got.values())


@pytest.mark.parametrize('scale', [1e-5, 1e5, 1e7])
def test_cka_knows_no_scale_and_no_number_of_it_overflows(scale):
    g = torch.Generator().manual_seed(4)
    x, y = torch.randn(30, 8, generator=g), torch.randn(30, 5, generator=g)
    big = (scale*x).requires_grad_()
    loss = cka_loss(big, scale*y)
    loss.backward()
    assert torch.allclose(loss, cka_loss(x, y), atol=1e-4) and cka(big, big).item() == pytest.approx(1, abs=1e-5)
    small = x.requires_grad_()
    cka_loss(small, y).backward()
    assert torch.allclose(scale*big.grad, small.grad, rtol=1e-3, atol=1e-6) and small.grad.abs().max() > 1e-3


def test_cka_has_the_numbers_and_gradients_of_its_plain_formula():
    from privkd_nb.losses.cka import unbiased_hsic as h
    for seed in range(20):
        g = torch.Generator().manual_seed(seed)
        x, y = torch.randn(5+seed, 3+seed, generator=g)*10**(seed/10-1), torch.randn(5+seed, 4, generator=g)
        a, b = (x.clone().requires_grad_() for _ in '12')
        xx, yy, xy = h(b, b), h(y, y), h(b, y)
        want, got = xy/(xx*yy).sqrt(), cka(a, y)
        want.backward(); got.backward()
        assert torch.equal(got, want) and torch.equal(a.grad, b.grad)          # to the last bit


def test_states_that_are_equally_far_from_each_other_say_nothing():
    y = torch.randn(6, 7, generator=torch.Generator().manual_seed(1))
    for x in (torch.eye(6), 3*torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)))[0]+1, torch.full((6, 2), .3)):
        x.requires_grad_()
        c = cka(x, y)
        c.backward()
        assert abs(c) <= 1 and x.grad.isfinite().all() and x.grad.abs().max() < 1e3
