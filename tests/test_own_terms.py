"A user-defined loss term works wherever a built-in one does, without a change in the package."
from types import SimpleNamespace

import numpy as np, pytest, torch

from privkd_nb import RunConfig, distil
from privkd_nb.compute.forward import LAYERED
from privkd_nb.core import InputError
from privkd_nb.data.encoding import encode
from privkd_nb.data.tasks import load_task
from privkd_nb.init.spec import InitSpec
from privkd_nb.init.student import init_student
from privkd_nb.losses.laws import check_term
from privkd_nb.losses.terms import READS, TERMS, check_pair, parse_losses, term, term_label
from privkd_nb.models.tiny import tiny_model
from privkd_nb.models.tokenizer import train_tokenizer
from privkd_nb.record import History
from privkd_nb.train.arguments import training_args
from privkd_nb.train.efficiency import Efficiency
from privkd_nb.train.trainer import DistillTrainer


@pytest.fixture(autouse=True)
def only_builtin():
    "Remove user-defined terms after each test"
    yield
    for k in [k for k, t in TERMS.items() if not t.builtin]: del TERMS[k]


def cosine(a, b): return 1-torch.nn.functional.cosine_similarity(a.float(), b.float(), dim=-1)


def last_cos(**kw):
    @term(reads='last', **kw)
    def last_cos(s, t, b): return cosine(b.project(s.last), t.last).sum()/max(b.totals['tokens'], 1)
    return last_cos


@pytest.fixture(scope='module')
def data():
    task = load_task(languages='en,sw', fraction=.1)
    tok = train_tokenizer(load_task(languages='en,sw').train.text, 500)
    return task, tok, encode(task.train, tok, task.labels, 32)


def trained(data, folder, losses, spec=InitSpec(), **kw):
    task, tok, enc = data
    drop = dict(hidden_dropout_prob=0., attention_probs_dropout_prob=0.)
    teacher = tiny_model(layers=4, labels=task.labels, vocab_size=500, seed=1, **drop)
    student, card = init_student(spec, teacher)
    tr = DistillTrainer(student, teacher, losses, card.layers, history=History(), efficiency=Efficiency(**kw), train_dataset=enc, eval_dataset=enc, processing_class=tok,
                        args=training_args(folder, len(enc), 1, lr=1e-3, batch_size=8, use_cpu=True, max_steps=6, eval_strategy='no', save_strategy='no'))
    tr.train()
    h = tr.history.frame()
    return tr, {k: h[h.metric == k].value.values for k in ['loss', *tr.losses]}


def test_an_own_term_is_weighted_recorded_and_cached(data, tmp_path):
    mine = last_cos()
    check_term(mine)
    tr, live = trained(data, tmp_path/'a', {'ce': 1, mine: .5})
    assert np.allclose(live['loss'], live['ce']+.5*live['last_cos'], atol=1e-4) and live['last_cos'][0] > 0
    cached, cached_losses = trained(data, tmp_path/'b', 'ce,last_cos=0.5', cache=tmp_path/'cache')
    assert (tr.teacher_outputs.how, cached.teacher_outputs.how) == ('computed every step', 'cached')
    assert all(np.allclose(live[k], cached_losses[k], rtol=1e-4) for k in live)


def test_last_is_the_teachers_last_layer_not_the_last_matched_one(data, tmp_path):
    last_cos()
    tr, _ = trained(data, tmp_path, 'last_cos', InitSpec('copy_ft', depth='first', n_layers=2))
    assert tr.layers == [0, 1] and tr.teacher_outputs.sources[0].needed.hidden == (4,) and tr.needed.hidden == (2,)


KEPT = dict(hidden={1, 2}, last={2}, embedding={0}, scores={0, 1}, last_scores={1}, attention={0, 1}) | {k: {0, 1} for k in ('values', 'queries', 'keys')} | {
    f'last_{k}': {1} for k in ('values', 'queries', 'keys')} # Read -> layers of a student of two


@pytest.mark.parametrize('reads', READS)
def test_a_forward_pass_returns_only_what_the_term_reads(data, tmp_path, reads):
    seen, kind = {}, dict(last='hidden', embedding='hidden', scores='attention').get(reads.removeprefix('last_'), reads.removeprefix('last_'))

    @term(reads=reads)
    def peek(s, t, b):
        seen.update(kept={k: set(s[k]) for k in LAYERED}, last=s.get('last'), other=t)
        return (s.logits if reads == 'logits' else s[kind][max(KEPT[reads])]).float().clamp(-1, 1).mean()
    tr, _ = trained(data, tmp_path, 'peek')
    assert seen['kept'] == {k: KEPT[reads] if k == kind else set() for k in LAYERED}
    assert (seen['other'].logits is not None) == (reads == 'logits') and (seen['last'] is not None) == (reads == 'last')
    assert (tr.model.config._attn_implementation == 'eager') == (kind == 'attention')


def test_gold_terms_need_no_teacher(data, tmp_path):
    @term(reads='logits', gold=True)
    def smooth_ce(s, t, b): return torch.nn.functional.cross_entropy(s.logits.float(), b.labels, label_smoothing=.1, reduction='sum')/max(b.totals['labels'], 1)
    tr, _ = trained(data, tmp_path, {'ce': 1, smooth_ce: 1})
    assert tr.teacher is None and tr.teacher_outputs is None


def test_hidden_sizes_are_projected_or_must_be_equal(data, tmp_path):
    narrow = InitSpec('scratch', config=dict(hidden_size=16, intermediate_size=32))
    tr, _ = trained(data, tmp_path, {'ce': 1, last_cos(width='projected'): 1}, narrow)
    assert tr.model.distill_projection.weight.shape == (32, 16)
    with pytest.raises(InputError, match='the last_cos term needs equal hidden sizes, but the student has 16 and the teacher 32'):
        trained(data, tmp_path, {'ce': 1, last_cos(width='equal'): 1}, narrow)
    with pytest.raises(InputError, match='the halved term compares head by head'):
        @term(reads='attention', heads='equal')
        def halved(s, t, b): return 0
        check_pair(['halved'], tiny_model(num_attention_heads=2).config, tiny_model().config, [0, 1, 2, 3])


def test_the_name_of_a_run_depends_on_the_source_of_its_terms(tmp_path):
    def cfg(): return RunConfig(tiny=True, losses='ce,last_cos=0.5', out_dir=str(tmp_path))
    last_cos()
    first = cfg().identity()
    assert first['losses'] == {'ce': 1., term_label('last_cos'): .5} and term_label('last_cos').startswith('last_cos@')

    @term(reads='last')
    def last_cos_(s, t, b): return 2*cosine(s.last, t.last).sum()/max(b.totals['tokens'], 1)
    TERMS['last_cos'] = TERMS.pop('last_cos_')
    assert cfg().identity()['losses'] != first['losses']
    run = distil(cfg())
    assert set(run.history[run.history.split == 'train'].metric) >= {'last_cos', 'ce'} and run.config['losses'] == cfg().identity()['losses']


def test_invalid_terms_raise():
    with pytest.raises(InputError, match=r'the function cosine without a list of what it reads; write @term\(reads=...\) above it'): parse_losses({'ce': 1, cosine: 1})
    with pytest.raises(InputError, match="reads='logit' is not a choice.*Did you mean 'logits'"): term(reads='logit')(cosine)
    with pytest.raises(InputError, match='kl is a term of this package; give yours another name'):
        @term(reads='logits')
        def kl(s, t, b): return 0
    assert list(parse_losses([last_cos(), 'ce'])) == ['last_cos', 'ce']


def test_jobs_that_start_processes_reject_own_terms(tmp_path):
    from privkd_nb.jobs.background import BackgroundRun
    from privkd_nb.jobs.study import grid, run_study
    last_cos()
    cfg = dict(tiny=True, losses='ce,last_cos', out_dir=str(tmp_path))
    with pytest.raises(InputError, match='a background run starts processes that do not know the term last_cos'): BackgroundRun(RunConfig(**cfg)).start()
    with pytest.raises(InputError, match='a study with several workers starts processes that do not know the term last_cos'): run_study(grid(**cfg, seed=[0, 1]), workers=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('reads', ['values', 'attention', 'hidden'])
def test_what_it_reads_is_cached_as_it_is_computed(data, tmp_path, reads):
    @term(reads=reads, heads='equal')
    def gap(s, t, b):
        kind = reads if reads != 'hidden' else 'hidden'
        pairs = b.hidden_pairs if reads == 'hidden' else b.attention_pairs
        d = [torch.where(s[kind][i] > -1e4, s[kind][i]-t[kind][j], 0.).float() for i, j in pairs]
        if reads == 'attention': d = [x*(b.mask[:,None,:,None]*b.mask[:,None,None]) for x in d]
        return sum(x.pow(2).sum() for x in d)/b.totals['tokens']
    (_, a), (tr, b) = trained(data, tmp_path/'a', 'gap', unpadding='off'), trained(data, tmp_path/'b', 'gap', cache=tmp_path/'cache')
    assert tr.teacher_outputs.how == 'cached' and np.allclose(a['gap'], b['gap'], rtol=1e-3)


def test_the_name_of_a_run_knows_what_a_term_uses():
    def helper(x): return x.pow(2)

    def with_helper():
        @term(reads='logits')
        def f(s, t, b): return helper(s.logits-t.logits).mean()
        return term_label('f')

    def weighted(w):
        @term(reads='logits')
        def f(s, t, b): return w*(s.logits-t.logits).abs().mean()
        return term_label('f')
    first = with_helper()
    assert with_helper() == first and weighted(1.) == weighted(1.) != weighted(2.)

    def helper(x): return x.abs()
    assert with_helper() != first
    assert weighted(torch.ones(2)) == weighted(torch.ones(2)) != weighted(torch.zeros(2))


def test_a_recorded_term_is_known_again_while_it_is_the_same():
    mine = last_cos()
    label = term_label('last_cos')
    assert parse_losses({label: .5}) == {'last_cos': .5}
    del TERMS['last_cos']
    with pytest.raises(InputError, match='a term that a user defined; define last_cos first'): parse_losses({label: .5})

    @term(reads='last')
    def other(s, t, b): return s.last.mean()
    TERMS['last_cos'] = TERMS.pop('other')
    with pytest.raises(InputError, match='but last_cos has another source now'): parse_losses({label: .5})


def test_the_name_of_a_run_knows_names_in_comprehensions_and_needs_a_version_for_objects():
    def gap(x): return x.abs()

    def summed():
        @term(reads='hidden')
        def f(s, t, b): return sum(gap(s.hidden[i]-t.hidden[j]).mean() for i, j in b.hidden_pairs)
        return term_label('f')
    first = summed()

    def gap(x): return 100*x.abs()
    assert summed() != first

    crit = torch.nn.SmoothL1Loss(beta=1.)
    def f(s, t, b): return crit(s.logits, t.logits)
    term(reads='logits')(f)
    with pytest.raises(InputError, match=r"the term f uses crit, a SmoothL1Loss, which cannot enter a run's name; write @term\(..., version='1'\)"): RunConfig(losses='f').identity()
    labels = []
    for v in ('1', '2'):
        term(reads='logits', version=v)(f)
        labels.append(term_label('f'))
    assert labels[0] != labels[1]
    seen = []
    def noting(s, t, b): seen.append(1); return (s.logits-t.logits).mean()
    term(reads='logits')(noting)
    with pytest.raises(InputError, match='uses seen, a list'): term_label('noting')


def test_a_trainer_keeps_the_term_that_it_was_given(data, tmp_path):
    @term(reads='logits')
    def mine(s, t, b): return (s.logits-t.logits).pow(2).mean()
    task, tok, enc = data
    teacher = tiny_model(layers=4, labels=task.labels, vocab_size=500, seed=1)
    student, card = init_student(InitSpec(), teacher)
    tr = DistillTrainer(student, teacher, {mine: 1}, card.layers, train_dataset=enc, eval_dataset=enc, processing_class=tok,
                        args=training_args(tmp_path, len(enc), 1, batch_size=8, use_cpu=True, max_steps=2, eval_strategy='no', save_strategy='no'))

    @term(reads='hidden')
    def mine(s, t, b): return 1000+s.hidden[1].mean()
    tr.train()
    h = tr.history.frame()
    assert h[h.metric == 'mine'].value.max() < 100


def test_a_configuration_takes_the_term_itself():
    @term(reads='logits')
    def mine(s, t, b): return (s.logits-t.logits).mean()
    first = mine

    @term(reads='logits')
    def mine(s, t, b): return (s.logits-t.logits).abs().mean()
    RunConfig(losses={first: 1})
    assert TERMS['mine'] is first


@pytest.mark.parametrize('value', [1., np.float32(1), None, torch.ones(1)])
def test_a_term_returns_one_number(value, data, tmp_path):
    @term(reads='logits')
    def odd(s, t, b): return value
    with pytest.raises(InputError, match='the term odd returned .*; it must return a tensor with one number'): trained(data, tmp_path, 'ce,odd')


def test_predicting_between_trainings_records_nothing(data, tmp_path):
    tr, first = trained(data, tmp_path/'a', 'ce,logits')
    n = len(tr.history.rows)
    out = tr.predict(data[2])
    assert out.predictions.shape == (len(data[2]), len(data[0].labels)) and len(tr.history.rows) == n and tr.recorder.micro_batches == []


def test_names_with_a_meaning_are_not_for_terms():
    for name in ('loss', 'learning_rate', 'paper', 'accuracy'):
        def f(s, t, b): return 0
        f.__name__ = name
        with pytest.raises(InputError, match=f'a term cannot be called {name}'): term(reads='logits')(f)
    with pytest.raises(InputError, match='losses has ce twice'): parse_losses('ce=1,ce=3')
    with pytest.raises(InputError, match='losses has ce twice'): parse_losses(['ce', 'ce'])


def detached(s, t, b): return (s.logits.detach()-t.logits).pow(2).sum()/max(b.totals['labels'], 1)
def as_array(s, t, b): return torch.as_tensor(((s.logits.detach().numpy()-t.logits.detach().numpy())**2).sum())
def one_more(s, t, b): return (t.logits*torch.ones(1, requires_grad=True)).sum()
def without_gradient(s, t, b):
    with torch.no_grad(): return (s.logits-t.logits).pow(2).sum()

@pytest.mark.parametrize('fn', [detached, as_array, one_more, without_gradient])
def test_a_term_that_is_detached_from_the_student_is_told_so(fn):
    with pytest.raises(AssertionError, match=rf"^{fn.__name__}, sequence task: its value has no gradient at the student's outputs.*detach\(\), no_grad\(\), item\(\)"):
        check_term(term(reads='logits')(fn))


def test_a_plain_number_is_no_value_of_a_term():
    @term(reads='logits')
    def plain(s, t, b): return (s.logits-t.logits).pow(2).sum().item()
    with pytest.raises(AssertionError, match=r'plain, sequence task: the term plain returned .*; it must return a tensor with one number, such as [^;]*$'): check_term(plain)


def test_what_a_gradient_that_differs_in_bf16_can_mean_is_said():
    from privkd_nb.train.matrix import WAYS, check_row
    row = dict(term='mine', kind='sequence', **WAYS[12], off=0., gradient=1., gradient_off=.104, unpadded=False, cached=False, teacher_untouched=True)
    assert row['precision'] == 'bf16'
    with pytest.raises(AssertionError, match='its gradient is off by 0.104 of its length, and 0.1 is allowed; a kink, .*absolute value.*ways='): check_row(SimpleNamespace(**row))
    with pytest.raises(AssertionError, match='is off by 0.104 of its length, and 0.001 is allowed$'): check_row(SimpleNamespace(**row | dict(precision='fp32')))
