"""Losses, layer lists and index rules against independent implementations.

Each term of the table against its formula in SciPy or torch.nn, text by text and without padding; against TextBrewer and torchdistill where
these are installed (`pip install --no-deps textbrewer torchdistill`), and what these do otherwise, as far as it matters."""
import numpy as np, pytest, torch
from scipy import special, stats
from scipy.spatial import distance
from torch import nn
from torch.distributions import Bernoulli

from privkd_nb.core import KINDS
from privkd_nb.init.depth import resolve_layers
from privkd_nb.init.width_scores import evenly
from privkd_nb.losses import classes, divergences, features, logits, relations, texts
from privkd_nb.losses.laws import trial
from privkd_nb.losses.terms import TERMS, distill_terms

T, BUILTIN = 2., [k for k,t in TERMS.items() if t.builtin]


# ---- every term against its formula ----

def double(x): return x.detach().numpy().astype(np.float64)
def lengths(b): return b.mask.sum(1).tolist()
def by_text(x, b): return np.split(double(x), np.cumsum(lengths(b))[:-1])                      # states of the tokens of each text
def squares(a, b): return [double(x)[:,:n,:n] for x,n in zip(a, lengths(b))]                   # attention of each text, (h,n,n)
def both(s, t, b, key, i, j): return zip(*(by_text(o[key][l], b) for o,l in ((s, i), (t, j))))
def rows(z, b, temp=1., std=False):
    "Probabilities of the classes where a prediction counts; of yes and no for each of several labels"
    z = double(z)[b.valid.numpy()]
    z = (stats.zscore(z, axis=-1, ddof=1) if std else z)/temp
    return special.softmax(np.stack([z, 0*z], -1).reshape(-1, 2) if b.kind == 'multilabel' else z, axis=-1)
def kl(p, q): return special.rel_entr(p, q).sum(-1)
def predicted(each): return lambda s, t, b: T**2*np.mean(each(rows(t.logits, b, T), rows(s.logits, b, T)))
def gold(s, b): return (s.logits[b.valid], b.labels[b.valid])

def ce(s, t, b, smoothing=0.):
    z, y = gold(s, b)
    if b.kind != 'multilabel': return nn.CrossEntropyLoss(label_smoothing=smoothing)(z, y)
    return -Bernoulli(logits=z).log_prob(y.float()).mean()*(1-smoothing/2)-Bernoulli(logits=z).log_prob(1-y.float()).mean()*smoothing/2

def dkd(s, t, b, alpha=1., beta=8.):
    "The two parts as in the paper: of the right class against the rest, and among the rest"
    total, y = 0., b.labels[b.valid].tolist()
    for p,q,k in zip(rows(t.logits, b, T), rows(s.logits, b, T), y):
        rest = [i for i in range(len(p)) if i != k]
        total += alpha*kl(np.array([p[k], 1-p[k]]), np.array([q[k], 1-q[k]]))+beta*kl(p[rest]/p[rest].sum(), q[rest]/q[rest].sum())
    return T**2*total/len(y)

def dist(s, t, b):
    q, p = rows(s.logits, b, T), rows(t.logits, b, T)
    def apart(a, b): return 1-np.mean([stats.pearsonr(x, y)[0] for x,y in zip(a, b)])
    return T**2*(apart(q, p)+apart(q.T, p.T))

def rkd(s, t, b):
    x, y = (np.stack([v.mean(0) for v in by_text(o.hidden[2], b)]) for o in (s, t))
    def apart(v):
        d = distance.pdist(v)
        return distance.squareform(d/d.mean())
    def turned(v): return np.array([[[np.dot(u(v[i]-v[j]), u(v[k]-v[j])) for k in range(len(v))] for i in range(len(v))] for j in range(len(v))])
    def u(d): return d/max(np.linalg.norm(d), 1e-12)
    return special.huber(1, apart(x)-apart(y)).mean()+2*special.huber(1, turned(x)-turned(y)).mean()

def mse(key='hidden'):
    def of(s, t, b):
        pairs = [(0, 0)] if key == 'embedding' else b.hidden_pairs
        return sum(nn.MSELoss()(s.hidden[i], t.hidden[j]).item() for i,j in pairs)
    return of

def attention(each, per):
    "A sum over layers and texts of what heads say on average, divided by tokens or pairs of tokens"
    def of(s, t, b):
        n = sum(v**per for v in lengths(b))
        return sum(each(x, y).mean(0).sum() for l,m in b.attention_pairs for x,y in zip(squares(s.attention[l], b), squares(t.attention[m], b)))/n
    return of
def soft(x): return special.softmax(x, axis=-1)
def scores(x, heads): return np.stack([v@v.T/np.sqrt(v.shape[1]) for v in np.split(x, heads, axis=1)])     # (h,n,n)
def related(s, t, b, key, heads): return sum(kl(soft(scores(y, heads)), soft(scores(x, heads))).mean(0).sum() for x,y in both(s, t, b, key, 1, 1))/sum(lengths(b))

def minilm(s, t, b):
    own = sum(kl(soft(y), soft(x)).mean(0).sum() for x,y in zip(squares(s.attention[1], b), squares(t.attention[1], b)))/sum(lengths(b))
    return own+related(s, t, b, 'values', s.attention[1].shape[1])

def pkd(s, t, b):
    def first(h): return np.stack([v[0]/np.linalg.norm(v[0]) for v in by_text(h, b)])
    return sum(((first(s.hidden[i])-first(t.hidden[j]))**2).sum(-1).mean() for i,j in b.hidden_pairs[:-1])      # the last layer is left out

def hsic(k, l):
    "Song et al. 2012, with the matrices written out"
    k, l, n, one = k-np.diag(np.diag(k)), l-np.diag(np.diag(l)), len(k), np.ones(len(k))
    return (np.trace(k@l)+one@k@one*(one@l@one)/((n-1)*(n-2))-2/(n-2)*(one@k@l@one))/(n*(n-3))
def cka(s, t, b):
    grams = [(double(s.hidden[i])@double(s.hidden[i]).T, double(t.hidden[j])@double(t.hidden[j]).T) for i,j in b.hidden_pairs]
    return sum(1-hsic(k, l)/np.sqrt(hsic(k, k)*hsic(l, l)) for k,l in grams)

REFERENCES = dict(
    ce=ce, smooth=lambda s, t, b: ce(s, t, b, .1), dkd=dkd, dist=dist, rkd=rkd, pkd=pkd, cka=cka, minilm=minilm,
    logits=lambda s, t, b: nn.MSELoss()(s.logits[b.valid], t.logits[b.valid]),
    kl=predicted(kl), rkl=predicted(lambda p, q: kl(q, p)), soft_ce=predicted(lambda p, q: stats.entropy(p, axis=-1)+kl(p, q)),
    jsd=predicted(lambda p, q: distance.jensenshannon(p, q, axis=-1)**2),
    kl_std=lambda s, t, b: T**2*kl(rows(t.logits, b, T, True), rows(s.logits, b, T, True)).mean(),
    hidden=mse(), hidden_layers=mse(), embedding=mse('embedding'),
    cosine=lambda s, t, b: np.mean([distance.cosine(x, y) for x,y in zip(double(s.hidden[2]), double(t.hidden[2]))]),
    attention=attention(lambda x, y: (x-y)**2, 2), attention_prob=attention(lambda x, y: (soft(x)-soft(y))**2, 2),
    attention_kl=attention(lambda x, y: kl(soft(y), soft(x)), 1),
    minilm2=lambda s, t, b: sum(related(s, t, b, k, 1) for k in ('queries', 'keys', 'values')))            # 6 dimensions are one relation head


def test_every_term_has_a_formula_of_its_own_here():
    assert set(BUILTIN) <= set(REFERENCES)


@pytest.mark.parametrize('name,kind', [(k, kind) for k in BUILTIN for kind in TERMS[k].kinds])
def test_a_term_is_its_formula(name, kind):
    s, t, b = trial(kind, seed=3)
    got = distill_terms([name], s, t, b)[name]
    assert float(got) == pytest.approx(float(REFERENCES[name](s, t, b)), rel=2e-5, abs=1e-6)


def test_relations_of_several_heads():
    "MiniLMv2 with two relation heads, of a student that is narrower than its teacher"
    (s, t, b), heads = trial(narrow=4), 2
    want = sum(related(s, t, b, k, heads) for k in ('queries', 'keys', 'values'))
    got = relations.minilm2_loss(*([o[k][1] for k in ('queries', 'keys', 'values')] for o in (s, t)), b.mask, heads=heads)
    assert float(got) == pytest.approx(want, rel=2e-5)


# ---- TextBrewer ----

@pytest.fixture
def brewer(): return pytest.importorskip('textbrewer.losses', reason='skipped: textbrewer is not installed')


@pytest.fixture
def outputs():
    "States (4,7,6), attention (4,2,7,7), logits by token (4,7,5) and by text (4,5) of student and teacher, and a mask with padding"
    g = torch.Generator().manual_seed(5)
    def r(*n): return torch.randn(*n, generator=g)
    mask = (torch.arange(7)[None] < torch.tensor([7, 5, 3, 6])[:,None]).long()
    return dict(hidden=(r(4, 7, 6), r(4, 7, 6)), attention=(r(4, 2, 7, 7), r(4, 2, 7, 7)), token=(r(4, 7, 5), r(4, 7, 5)), text=(r(4, 5), r(4, 5)), mask=mask)


def near(a, b): return float(a) == pytest.approx(float(b), rel=1e-5)


def test_textbrewer_agrees_where_nothing_is_padding(brewer, outputs):
    h, a, z, m = outputs['hidden'], outputs['attention'], outputs['text'], outputs['mask']
    assert near(logits.logit_mse(*z), brewer.kd_mse_loss(*z))
    assert near(divergences.soft_cross_entropy(*z, temp=3.), 9*brewer.kd_ce_loss(*z, temperature=3.))
    assert near(features.hidden_mse(*h), brewer.hid_mse_loss(*h)) and near(features.hidden_mse(*h, m), brewer.hid_mse_loss(*h, m))
    assert near(features.attention_mse(*a, m), brewer.att_mse_loss(*a, m))
    assert near(features.cosine_loss(*h), brewer.cos_loss(*h)) and near(features.cosine_loss(*h, m), brewer.cos_loss(*h, m))
    assert near(features.pkd_loss(*h, m), brewer.pkd_loss(*h))
    p = a[1].softmax(-1)
    assert near(relations.attention_kl(*a), brewer.att_ce_loss(*a, torch.ones(4, 7))+(p*p.log()).sum(-1).mean())     # less the teacher's entropy


def test_textbrewer_leaves_out_the_factor_of_the_temperature(brewer, outputs):
    "At 4 the gradient is a fourteenth of what it is at 1; with the factor it keeps its size"
    s, t = outputs['text']
    def pull(loss, temp): return torch.autograd.grad(loss(s.requires_grad_(), t, temp), s)[0].norm()
    theirs, ours = (pull(f, 4.)/pull(f, 1.) for f in (lambda s, t, T: brewer.kd_ce_loss(s, t, T), lambda s, t, T: divergences.soft_cross_entropy(s, t, temp=T)))
    assert theirs < .1 and .5 < ours < 2
    assert torch.allclose(theirs*16, ours, rtol=1e-4)


def test_textbrewer_counts_padding_in_logits_and_attends_to_it(brewer, outputs):
    s, t = outputs['token']
    m = outputs['mask']
    def padded(x, k=3): return nn.functional.pad(x, (0, 0, 0, k), value=5.)
    longer = nn.functional.pad(m, (0, 3))
    assert not near(brewer.kd_ce_loss(s, t), brewer.kd_ce_loss(padded(s), padded(t)))
    assert near(logits.logit_kl(s, t, m), logits.logit_kl(padded(s), padded(t), longer))
    a, b = (nn.functional.pad(x, (0, 3, 0, 3), value=5.) for x in outputs['attention'])
    assert not near(brewer.att_ce_loss(*outputs['attention'], m), brewer.att_ce_loss(a, b, longer))              # its softmax is one over padding, too
    assert near(brewer.att_mse_loss(*outputs['attention'], m), brewer.att_mse_loss(a, b, longer))


def test_textbrewer_drops_negative_scores_without_a_mask(brewer, outputs):
    "It takes them for masked ones: without a mask, two models that differ there alone are equal"
    s, t = outputs['attention']
    assert brewer.att_mse_loss(-s.abs()-1, -t.abs()-1) == 0 and features.attention_mse(-s.abs()-1, -t.abs()-1) > .1


# ---- torchdistill ----

@pytest.fixture
def distill(): return pytest.importorskip('torchdistill.losses.mid_level', reason='skipped: torchdistill is not installed')


def given(loss, z, **kw): return loss({'m': dict(output=z[0])}, {'m': dict(output=z[1])}, **kw)
def made(cls, **kw): return cls('m', 'output', 'm', 'output', **dict(alpha=0.) | kw)       # KDLoss(alpha=None), its default, fails without beta


def test_torchdistill_agrees_on_texts(distill, outputs):
    z, y = outputs['text'], torch.tensor([0, 3, 1, 4])
    assert near(logits.logit_kl(*z, temp=3.), 9*given(made(distill.KDLoss, temperature=3.), z))
    assert near(.3*logits.cross_entropy(z[0], y)+.7*logits.logit_kl(*z, temp=3.), given(made(distill.KDLoss, temperature=3., alpha=.3), z, targets=y))
    assert near(divergences.standardized_kl(*z, temp=3.), 9*given(made(distill.LogitStdKDLoss, temperature=3.), z))
    assert near(classes.dist(*z, temp=3.), given(made(distill.DISTLoss, tau=3.), z))
    h = [x[:,0] for x in outputs['hidden']]
    assert near(texts.rkd(*h), given(distill.RKDLoss('m', 'm', dist_factor=1., angle_factor=2., reduction='mean'), h))


def test_torchdistill_is_made_for_texts_and_not_for_tokens(distill, outputs):
    "Its softmax is one over dimension 1, words where there are any, and its mean one over texts"
    s, t = outputs['token']
    theirs, flat = given(made(distill.KDLoss, temperature=1.), (s, t)), given(made(distill.KDLoss, temperature=1.), (s.flatten(0, 1), t.flatten(0, 1)))
    assert near(flat, logits.logit_kl(s, t, temp=1.)) and theirs > 3*flat
    words = s.transpose(1, 2), t.transpose(1, 2)                     # with the classes in dimension 1, the mean is still one over texts: 7 times as much
    assert near(given(made(distill.KDLoss, temperature=1.), words), 7*flat)


def test_torchdistill_leaves_the_factor_to_whoever_weighs(distill, outputs):
    "KDLoss has temp² beside a gold loss, and none alone"
    z, y = outputs['text'], torch.tensor([0, 3, 1, 4])
    alone, beside = given(made(distill.KDLoss, temperature=4.), z), given(made(distill.KDLoss, temperature=4., alpha=1e-9, beta=1.), z, targets=y)
    assert near(beside, 16*alone)


# ---- published lists and rules ----

def test_distilberts_layers():
    "The list in DistilBERT's own script for BERT base, and the first of each pair that PKD's skip skips"
    assert resolve_layers('endpoints', 12, 6) == [0, 2, 4, 7, 9, 11]
    assert resolve_layers('stride_odd', 12, 6) == [1, 3, 5, 7, 9, 11]


def test_the_index_rule_of_weight_selection():
    "Equal steps where the sizes divide; else rounded equal distances up to the last unit, where the first release counted one too far"
    for n in range(2, 70):
        for m in range(1, n+1):
            at = evenly(n, m).tolist()
            exact = np.arange(m)*(n//m) if n % m == 0 else np.linspace(0, n-1, m)
            assert len(set(at)) == m and at == sorted(at) and 0 <= at[0] and at[-1] < n and np.abs(at-exact).max() <= .5+1e-4, (n, m)
            if n % m and m > 1: assert at[-1] == n-1 and torch.linspace(0, n, m).long()[-1] == n           # out of range
    assert torch.equal(evenly(768, 384), torch.arange(0, 768, 2)) and evenly(12, 5).tolist() == [0, 3, 6, 8, 11]
