"Losses on logits and on representations of texts: where each is defined, what it equals, and what a trainer refuses."
from dataclasses import replace

import numpy as np, pytest, torch

from privkd_nb.core import KINDS, InputError
from privkd_nb.data.encoding import Encoded
from privkd_nb.jobs.config import RunConfig
from privkd_nb.losses.laws import check_term, trial
from privkd_nb.losses.terms import TERMS, check_kind, distill_terms, parse_losses, softened_terms, term, term_label
from privkd_nb.models.tiny import tiny_model
from privkd_nb.record import History
from privkd_nb.train.arguments import training_args
from privkd_nb.train.efficiency import Efficiency
from privkd_nb.train.trainer import DistillTrainer


@pytest.fixture(autouse=True)
def only_builtin():
    "Remove user-defined terms after each test"
    yield
    for k in [k for k, t in TERMS.items() if not t.builtin]: del TERMS[k]


def spread():
    @term(reads='logits', whole_batch=True)
    def spread(s, t, b): return torch.where(b.valid[...,None], s.logits.float()-t.logits.float(), 0.).pow(2).mean(-1).sum()**2/max(b.totals['labels'], 1)**2
    return spread


def trainer(folder, losses, classes=3, micro_batches=1, steps=2, cache=None, memory='fixed', **config):
    names = 'xyzuvw'[:classes]
    g = np.random.default_rng(0)
    data = Encoded(g.integers(5, 120, (8, 4)).tolist(), g.integers(0, classes, 8).tolist(), ['en']*8, range(8), pad_id=1)
    still = dict(hidden_dropout_prob=0., attention_probs_dropout_prob=0.)
    student, teacher = (tiny_model(layers=2, labels=[*names], seed=s, **still, **c) for s, c in ((0, config), (1, dict(initializer_range=1.))))
    args = training_args(folder, 8, 1, lr=1e-2, batch_size=8, micro_batches=micro_batches, use_cpu=True, max_steps=steps, eval_strategy='no', save_strategy='no')
    return DistillTrainer(student, teacher, losses, [0, 1], train_dataset=data, eval_dataset=data, args=args, history=History(), efficiency=Efficiency(cache=cache, memory=memory))


def test_a_term_of_the_whole_batch_is_not_split(tmp_path):
    spread()
    with pytest.raises(InputError, match='the spread term compares the texts of a whole step.*split over 2 micro-batches; use one'): trainer(tmp_path, 'ce,spread', micro_batches=2)
    check_term(TERMS['spread'])                               # the law of micro-batches is not asked of it
    tr = trainer(tmp_path, 'ce,spread', memory='fit')
    tr.train()
    with tr.efficient:
        assert tr.efficient.shrink() and tr.args.gradient_accumulation_steps == 1 and tr.efficient.checkpointing   # less memory, but no smaller batches
        assert not tr.efficient.shrink()


def test_a_term_of_the_whole_batch_trains_in_one_process(tmp_path, monkeypatch):
    from privkd_nb.jobs.fine_tune import load_data
    spread()
    monkeypatch.setenv('WORLD_SIZE', '2')
    with pytest.raises(InputError, match='split over 2 processes; train in one process'): load_data(RunConfig(tiny=True, losses='ce,spread'))


def test_too_few_classes_are_refused_as_soon_as_they_are_known(tmp_path):
    from privkd_nb.jobs.fine_tune import load_data
    @term(reads='logits', fewest=3, because='of two, one is right')
    def order(s, t, b): return (s.logits-t.logits).pow(2).mean()
    says = 'the order term needs at least 3 classes, and the task has 2: of two, one is right'
    with pytest.raises(InputError, match=says): RunConfig(dataset='pawsx', losses='ce,order')              # before anything is read
    with pytest.raises(InputError, match='the order term is not defined for any number of labels a text'): RunConfig(dataset='playground-labels', losses='ce,order')
    path = tmp_path/'mine.csv'
    path.write_text('text,label,language\n'+''.join(f'{w} {i},{"yn"[i % 2]},en\n' for w in 'abc' for i in range(8)))
    cfg = RunConfig(dataset=str(path), losses='ce,order')
    with pytest.raises(InputError, match=says): load_data(cfg)                                               # before the teacher
    with pytest.raises(InputError, match=says): trainer(tmp_path, 'ce,order', classes=2)
    trainer(tmp_path, 'ce,order', classes=3)
    RunConfig(dataset='tsm', losses='ce,order')


def test_a_term_says_itself_which_models_it_cannot_compare(tmp_path):
    @term(reads='logits', check=lambda s, t, kind: f'a {kind} task with {t.num_hidden_layers} layers' if t.num_hidden_layers == 2 else '')
    def picky(s, t, b): return (s.logits-t.logits).pow(2).mean()
    with pytest.raises(InputError, match='the picky term cannot compare these models: a sequence task with 2 layers'): trainer(tmp_path, 'picky')


def test_a_term_that_needs_labels_counts_where_there_is_one():
    seen = {}
    @term(reads='logits', labelled=True)
    def half(s, t, b): seen.update(valid=b.valid.tolist(), n=b.totals['labels']); return s.logits.sum()
    from dataclasses import replace
    from privkd_nb.losses.terms import distill_terms
    s, t, b = trial()
    b = replace(b, labels=torch.tensor([1, -100, 2, -100]), totals=b.totals | dict(labels=2, valid=4), compared=torch.tensor([True]*4))
    distill_terms(['half'], s, t, b)
    assert seen == dict(valid=[True, False, True, False], n=2)
    assert TERMS['half'].needs_labels and not TERMS['kl'].needs_labels


def own_data(folder, labels, rows=24):
    path = folder/'mine.csv'
    path.write_text('text,label,language\n'+''.join(f'{"abcdef"[i % 6]} {i},{labels[i % len(labels)]},en\n' for i in range(rows)))
    return str(path)


@pytest.mark.parametrize('name', ['dkd', 'dist', 'kl_std'])
def test_two_classes_are_refused_and_three_are_said(tmp_path, name):
    from privkd_nb.jobs.fine_tune import load_data
    says = f'the {name} term needs at least 3 classes, and the task has 2: .*two'
    with pytest.raises(InputError, match=says): RunConfig(dataset='pawsx', losses=f'ce,{name}')
    with pytest.raises(InputError, match=says): load_data(RunConfig(dataset=own_data(tmp_path, 'yn'), losses=f'ce,{name}'))
    with pytest.raises(InputError, match=f'the {name} term is not defined for any number of labels a text'): RunConfig(dataset='playground-labels', losses=name)
    said = load_data(RunConfig(dataset=own_data(tmp_path, 'xyz'), losses=f'ce,{name}')).said
    assert any(f'with 3 classes the {name} term says little' in s for s in said) == (name != 'dkd')
    RunConfig(dataset='uner', losses=f'ce,{name}')


def softmax(z): e = np.exp(z-z.max()); return e/e.sum()
def kl(p, q): return float((p*np.log(p/q)).sum())
def coin(z): p = 1/(1+np.exp(-z)); return np.array([p, 1-p])


def plain(name, s, t, y, several):
    "A term of one text or word by its formula, in float64 and one text at a time; temperature 2"
    if several: return float(np.mean([plain(name, np.array([a, 0.]), np.array([b, 0.]), 1-int(l), False) for a, b, l in zip(s, t, y)]))
    p, q = softmax(t/2), softmax(s/2)
    if name == 'smooth': return -float(((.9*np.eye(len(s))[y]+.1/len(s))*np.log(softmax(s))).sum())
    if name == 'soft_ce': return -4*float((p*np.log(q)).sum())
    if name == 'rkl': return 4*kl(q, p)
    if name == 'jsd': return 2*kl(p, (p+q)/2)+2*kl(q, (p+q)/2)
    if name == 'kl_std': return 4*kl(*(softmax((z-z.mean())/z.std(ddof=1)/2) for z in (t, s)))
    if name == 'dkd':
        rest = lambda d: np.delete(d, y)/(1-d[y])
        return 4*(kl(*(np.array([d[y], 1-d[y]]) for d in (p, q)))+8*kl(rest(p), rest(q)))
    raise KeyError(name)


@pytest.mark.parametrize('name,kind', [(k, kind) for k in ('smooth', 'soft_ce', 'rkl', 'jsd', 'kl_std', 'dkd') for kind in TERMS[k].kinds])
def test_each_term_is_its_formula_text_by_text(name, kind):
    from privkd_nb.losses.terms import distill_terms
    s, t, b = trial(kind, seed=5)
    a, o, y = s.logits.double().numpy(), t.logits.double().numpy(), b.labels.numpy()
    if kind == 'token': a, o, y = (v[y >= 0] for v in (a, o, y))
    want = np.mean([plain(name, *row, kind == 'multilabel') for row in zip(a, o, y)])
    assert distill_terms([name], s, t, b)[name].item() == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize('labelled', [True, False])
def test_dkd_compares_where_there_is_a_label_and_kl_everywhere(labelled):
    from dataclasses import replace
    from privkd_nb.losses.terms import distill_terms
    s, t, b = trial()
    known = torch.tensor([True, labelled, True, labelled])
    b = replace(b, labels=torch.where(known, b.labels, -100), totals=b.totals | dict(labels=int(known.sum()), valid=4), compared=torch.ones(4, dtype=bool))
    each = [[plain(k, *(o.logits[i].double().numpy() for o in (s, t)), int(b.labels[i]), False) for i in range(4) if known[i] or k == 'rkl'] for k in ('dkd', 'rkl')]
    got = distill_terms(['dkd', 'rkl'], s, t, b)
    assert [got[k].item() for k in got] == pytest.approx([np.mean(e) for e in each], rel=1e-5)


def test_every_term_trains_a_student_of_another_size(tmp_path):
    losses = 'ce,smooth,soft_ce,rkl,jsd,kl_std,dkd,dist,rkd'
    tr = trainer(tmp_path, losses, classes=5, steps=30, cache=tmp_path/'cache', hidden_size=16, intermediate_size=32)
    tr.train()
    h = tr.history.frame().pivot(index='step', columns='metric', values='value')
    each = h[losses.split(',')]
    assert tr.teacher_outputs.how == 'cached' and not hasattr(tr.model, 'distill_projection')
    assert np.allclose(h.loss, each.sum(axis=1), rtol=1e-3) and (each.iloc[-1] < each.iloc[0]).all()


def test_relations_of_texts_need_no_equal_sizes_and_see_past_a_turn():
    from privkd_nb.losses.texts import rkd
    g = torch.Generator().manual_seed(0)
    x, turn = torch.randn(6, 8, generator=g), torch.linalg.qr(torch.randn(8, 8, generator=g))[0]
    wide = torch.cat([3*x@turn+1, torch.zeros(6, 4)], 1)
    assert rkd(wide, x) < 1e-6 < rkd(wide[torch.randperm(6, generator=g)], x)
    same = torch.zeros(4, 3, requires_grad=True)                       # all texts equal: no distances at all
    rkd(same, x[:4]).backward()
    assert torch.isfinite(same.grad).all()


@pytest.mark.parametrize('scale', [1e-5, 1e5, 1e12])
def test_terms_that_know_no_scale_neither_overflow_nor_vanish(scale):
    from privkd_nb.losses.divergences import standardized_kl
    from privkd_nb.losses.features import cosine_loss, pkd_loss
    from privkd_nb.losses.texts import rkd
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randn(12, 16, generator=g) for _ in '12')
    for f in (rkd, standardized_kl, cosine_loss, lambda s, t: pkd_loss(s, t, torch.ones(3, 4))):
        a, b = x.clone().requires_grad_(), (scale*x).requires_grad_()
        plain, scaled = f(a, y), f(b, scale*y)
        plain.backward(); scaled.backward()
        assert plain > .05 and torch.allclose(scaled, plain, rtol=1e-4) and torch.allclose(scale*b.grad, a.grad, rtol=1e-2, atol=1e-6)
        with torch.autocast('cpu', torch.bfloat16): assert torch.allclose(f(x, y), plain, rtol=1e-4)


@pytest.mark.parametrize('kind', KINDS)
def test_the_terms_that_read_the_temperature_are_those_of_the_list(kind):
    s, t, b = trial(kind)
    some = [k for k,x in TERMS.items() if x.builtin and kind in x.kinds]
    def value(k, temp): return float(distill_terms([k], s, t, replace(b, temp=temp))[k].detach())
    assert softened_terms(some) == [k for k in some if value(k, 1.) != value(k, 4.)]
