"What a fault would change without any error: training against a plain loop, and who may see which data."
import copy, math, time
from concurrent.futures import ThreadPoolExecutor

import numpy as np, pandas as pd, pytest, torch
from safetensors.torch import load_file

from privkd_nb.analysis.compare import differences
from privkd_nb.compute.forward import OutputSpec, forward
from privkd_nb.core import build_once, write_json
from privkd_nb.data.encoding import Collate, Encoded, encode
from privkd_nb.data.tasks import hold_out, take_fraction
from privkd_nb.evaluation.scores import metric_rows, predict, with_means
from privkd_nb.init.student import init_student
from privkd_nb.init.spec import InitSpec
from privkd_nb.jobs.config import RunConfig
from privkd_nb.jobs.distil import distil, run_lock
from privkd_nb.jobs.fine_tune import base_path, load_data, teacher_path
from privkd_nb.jobs.study import is_free
from privkd_nb.losses.terms import PAPER
from privkd_nb.models.encoders import align_labels, output_layer, weights_hash
from privkd_nb.models.loading import load_encoder, load_tokenizer
from privkd_nb.models.tiny import tiny_batch, tiny_model
from privkd_nb.models.tokenizer import train_tokenizer
from privkd_nb.record import History, Run
from privkd_nb.train import trainer as training
from privkd_nb.train.arguments import default_lr, training_args
from privkd_nb.train.efficiency import Efficiency
from privkd_nb.train.teacher import Teacher
from privkd_nb.train.teacher_scores import teacher_predictions
from privkd_nb.train.trainer import DistillTrainer

LABELS, N, BATCH, EPOCHS, LR = ['O', 'B-LOC', 'I-LOC', 'B-PER', 'I-PER'], 20, 8, 7, 2e-3
WEIGHTS = dict(ce=1., logits=.5, kl=.3, hidden=.4, embedding=2., attention=.2)
NO_DROPOUT = dict(hidden_dropout_prob=0., attention_probs_dropout_prob=0.)


def examples(kind, n=N, seed=0):
    "Examples of 4 to 12 tokens in two languages; every third token continues a word and has no label"
    rng = np.random.default_rng(seed)
    ids = [[0, *rng.integers(5, 100, rng.integers(2, 11)).tolist(), 2] for _ in range(n)]
    words = [[-1, *(-1 if j % 3 == 2 else j for j in range(len(i)-2)), -1] for i in ids] if kind == 'token' else None
    labels = [rng.integers(0, len(LABELS), len(i)).tolist() for i in ids] if words else rng.integers(0, len(LABELS), n).tolist()
    return Encoded(ids, labels, ['en', 'de']*(n//2), [f'{i}' for i in range(n)], words, pad_id=1)


def trainer_of(student, teacher, data, folder, losses, layers=None, batch_size=BATCH, epochs=EPOCHS, lr=LR, unpadding='auto', **kw):
    args = training_args(folder, len(data), epochs, lr, batch_size, use_cpu=True, **dict(seed=3, evals=1, metric='accuracy' if data.words is None else 'entity_f1') | kw)
    return DistillTrainer(student, teacher, losses, layers, history=History(), train_languages=['en'], efficiency=Efficiency(unpadding=unpadding),
                          args=args, train_dataset=data, eval_dataset=data)


# ---- training, step by step, against a loop that shares no code with it ----

def look(model, x, layers):
    "Logits, hidden states and attention scores of one example, which has no padding"
    o = model(input_ids=x[None], output_hidden_states=True)
    def score(l):
        a, h = model.roberta.encoder.layer[l].attention.self, o.hidden_states[l][0]
        q, k = (f(h).view(len(x), 4, -1).transpose(0, 1) for f in (a.query, a.key))
        return q @ k.transpose(1, 2)/math.sqrt(q.shape[-1])
    return o.logits[0], [h[0] for h in o.hidden_states], [score(l) for l in layers]


def plain_terms(student, teacher, batch, layers):
    "Each term as its formula says: sums over the examples, divided by the batch's labels, tokens and pairs of tokens"
    sums, labels, tokens, pairs = dict.fromkeys(WEIGHTS, 0.), 0, 0, 0
    for o in batch:
        x, y = torch.tensor(o['input_ids']).long(), torch.tensor(np.atleast_1d(o['labels']))
        (s, sh, sa), (t, th, ta) = look(student, x, range(len(layers))), look(teacher, x, layers)
        s, t = s.view(len(y), -1)[y >= 0], t.view(len(y), -1)[y >= 0].detach()
        p = (t/2).softmax(-1)
        sums['ce'] -= s.log_softmax(-1).gather(1, y[y >= 0][:,None]).sum()
        sums['logits'] += ((s-t)**2).mean(-1).sum()
        sums['kl'] += 4*(p*(p.log()-(s/2).log_softmax(-1))).sum()
        sums['hidden'] += sum(((sh[i+1]-th[l+1].detach())**2).mean(-1).sum() for i,l in enumerate(layers))
        sums['embedding'] += ((sh[0]-th[0].detach())**2).mean(-1).sum()
        sums['attention'] += sum(((a-b.detach())**2).mean(0).sum() for a,b in zip(sa, ta))
        labels, tokens, pairs = labels+len(s), tokens+len(x), pairs+len(x)**2
    per = dict(ce=labels, logits=labels, kl=labels, hidden=tokens, embedding=tokens, attention=pairs)
    return {k: v/per[k] for k,v in sums.items()}


def plain_training(student, teacher, data, layers, seed):
    "Terms, learning rate and length of the gradient at each step: Adam, a linear schedule after a tenth of warm-up, gradients of length 1 at most"
    params = list(student.parameters())
    m, v, rows = [torch.zeros_like(p) for p in params], [torch.zeros_like(p) for p in params], []
    steps = EPOCHS*math.ceil(N/BATCH)
    warm = math.ceil(steps/10)
    for k in range(steps):
        epoch, i = divmod(k, math.ceil(N/BATCH))
        order = np.random.default_rng([seed, epoch]).permutation(N)[i*BATCH:(i+1)*BATCH]
        terms = plain_terms(student, teacher, [data[int(j)] for j in order], layers)
        loss = sum(w*terms[t] for t,w in WEIGHTS.items())
        grads = [torch.zeros_like(p) if g is None else g for p,g in zip(params, torch.autograd.grad(loss, params, allow_unused=True))]
        length = torch.stack([g.norm() for g in grads]).norm()
        lr = LR*(k/warm if k < warm else (steps-k)/(steps-warm))
        with torch.no_grad():
            for p,g,a,b in zip(params, grads, m, v):
                g = g*min(1., 1/(length+1e-6))
                a.mul_(.9).add_(.1*g); b.mul_(.999).add_(.001*g*g)
                p -= lr*(a/(1-.9**(k+1)))/((b/(1-.999**(k+1))).sqrt()+1e-8)
        rows.append({t: x.item() for t,x in terms.items()} | dict(loss=loss.item(), learning_rate=lr, length=length.item()))
    return pd.DataFrame(rows)


@pytest.mark.parametrize('kind, unpadding', [('sequence', 'off'), ('token', 'on')])
def test_training_agrees_with_a_plain_loop(kind, unpadding, tmp_path):
    assert set(WEIGHTS) == {*PAPER, 'kl'}
    teacher, data, layers = tiny_model(layers=4, labels=LABELS, kind=kind, seed=1, spread=.1, **NO_DROPOUT), examples(kind), [1, 2]
    student, card = init_student(InitSpec('scratch', depth=layers, seed=2), teacher)
    plain = copy.deepcopy(student)
    trainer = trainer_of(student, teacher, data, tmp_path, WEIGHTS, card.layers, micro_batches=2, unpadding=unpadding)
    trainer.train()
    got = trainer.history.frame().query("split == 'train'").pivot(index='step', columns='metric', values='value').reset_index(drop=True)
    want = plain_training(plain, copy.deepcopy(teacher), data, layers, seed=3)
    assert (want.length > 1).sum() > 3 and (want.learning_rate.diff() > 0).sum() > 1           # clipping and warm-up are at work
    for k in [*WEIGHTS, 'loss', 'learning_rate']: np.testing.assert_allclose(got[k], want[k], rtol=1e-5, atol=1e-6, err_msg=k)
    for (k,p),q in zip(student.named_parameters(), plain.parameters()): assert (p-q).abs().max() < 1e-6, k


def losses_of_one_batch(folder, seed=3, **config):
    "The loss of the same examples in four epochs, with a learning rate too small to change a weight"
    data, model = examples('sequence'), tiny_model(layers=2, labels=LABELS, seed=1, **NO_DROPOUT | config)
    trainer = trainer_of(model, None, data, folder, 'ce', batch_size=N, epochs=4, lr=1e-30, seed=seed)
    trainer.train()
    return trainer.history.frame().query("metric == 'ce'").value.astype(float).round(5).tolist()


def test_the_student_trains_with_dropout_and_the_seed_decides_it(tmp_path):
    assert len(set(losses_of_one_batch(tmp_path))) == 1
    dropped = losses_of_one_batch(tmp_path, hidden_dropout_prob=.3)
    assert len(set(dropped)) == 4 and dropped == losses_of_one_batch(tmp_path, hidden_dropout_prob=.3) != losses_of_one_batch(tmp_path, 4, hidden_dropout_prob=.3)


# ---- the checkpoint that is kept ----

def test_the_checkpoint_is_chosen_by_seen_languages_each_counting_once(tmp_path, monkeypatch):
    scores = iter([dict(en=.1, fr=.1, de=.1), dict(en=.8, fr=.6, de=.2), dict(en=.1, fr=.7, de=.3), dict(en=.5, fr=.5, de=.9)])
    def scored(model, data, languages=(), *more, **kw):
        at = pd.Index(['en', 'fr', 'de'], name='language')
        return pd.DataFrame(dict(seen=at.isin(languages), n=[1, 1000, 9], accuracy=list(next(scores).values())), index=at)
    monkeypatch.setattr(training, 'evaluate_by_language', scored)
    trainer = trainer_of(tiny_model(layers=2, labels=LABELS, seed=1), None, examples('sequence'), tmp_path, 'ce', epochs=4, evals=4, patience=9)
    trainer.train_languages = ['en', 'fr']
    trainer.train()
    assert (trainer.state.best_global_step, trainer.state.best_metric) == (6, pytest.approx(.7))    # weighted by n it is step 9, with the unseen language 12
    kept = load_file(tmp_path/'checkpoint-6'/'model.safetensors')
    assert torch.equal(kept['classifier.out_proj.weight'], trainer.model.classifier.out_proj.weight)


def test_a_mean_over_languages_counts_each_language_once():
    scores = pd.DataFrame(dict(seen=[True, False, False], n=[1, 1, 998], accuracy=[.9, .6, 0.]), index=pd.Index(['de', 'en', 'th'], name='language'))
    assert with_means(scores).accuracy[[('all', ''), ('seen', ''), ('unseen', '')]].tolist() == pytest.approx([.5, .9, .3])
    rows = metric_rows(scores, 'student', 'test', 3).query("metric == 'accuracy' and group != 'language'")
    assert rows.set_index('group').value.to_dict() == pytest.approx(dict(all=.5, seen=.9, unseen=.3))


def test_scoring_uses_no_dropout_and_leaves_the_model_training():
    model, data = tiny_model(layers=2, labels=LABELS, seed=1, hidden_dropout_prob=.5), examples('sequence')
    want, got = predict(model, data), predict(model.train(), data)
    assert model.training and np.allclose(got.loss, want.loss, atol=1e-6)


# ---- whose outputs are read ----

def test_a_teacher_gets_its_own_outputs_from_a_cache_that_others_filled(tmp_path):
    data, needed = examples('sequence'), OutputSpec(hidden=(1, 2))
    batch = Collate(1)([data[i] for i in (3, 0, 7)])
    for seed in (1, 2):             # the same architecture, configuration and examples, other weights
        model = tiny_model(layers=2, labels=LABELS, seed=seed)
        got, want = Teacher(model, needed, data, tmp_path)(batch), forward(model, batch, needed)
        assert torch.allclose(got.logits, want.logits, atol=1e-5)
        assert all(torch.allclose(got.hidden[i], want.hidden[i], atol=1e-5) for i in needed.hidden)


def test_examples_that_differ_in_one_token_have_outputs_of_their_own(tmp_path):
    data = Encoded([[0, 7, 8, i, 2] for i in (9, 10)]+[[0, 7, 8, 9, 9, 2]], [0, 0, 0], ['en']*3, list('abc'), pad_id=1)
    model, batch = tiny_model(layers=2, labels=LABELS, seed=1), Collate(1)([data[i] for i in range(3)])
    got = Teacher(model, OutputSpec(), data, tmp_path)(batch).logits
    assert torch.allclose(got, forward(model, batch).logits, atol=1e-5) and len(got.round(decimals=3).unique(dim=0)) == 3


def test_a_bases_head_is_not_copied_even_if_it_fits():
    teacher, base = (tiny_model(layers=2, labels=LABELS, seed=seed) for seed in (1, 2))
    student, card = init_student(InitSpec('copy_base'), teacher, base)
    for model in (teacher, base): assert not torch.equal(output_layer(student).weight, output_layer(model).weight)
    assert {k for k in card.random if k.endswith('weight')} == {k for k in student.state_dict() if k.startswith('classifier') and k.endswith('weight')}


@pytest.mark.parametrize('arch', ['xlmr', 'distilbert', 'deberta'])
def test_a_head_is_reordered_with_its_bias(arch):
    model, batch = tiny_model(arch, 2, labels=['a', 'b', 'c']), tiny_batch()
    with torch.no_grad(): output_layer(model).bias.copy_(torch.tensor([0., 10., 20.]))
    def logits(): return model(input_ids=batch['input_ids'], attention_mask=batch['attention_mask']).logits
    before = logits()
    assert align_labels(model, ['c', 'a', 'b']) and torch.allclose(logits(), before[:,[2, 0, 1]], atol=1e-5)


# ---- differences between arms ----

def test_a_difference_is_taken_within_a_seed():
    "Seeds that move both arms alike leave the difference of each seed, and its small spread"
    def arm(name, scores): return [dict(run=f'{name}{s}', arm=name, init=name, losses='ce', dataset='mine', scenario='all', fraction=.1, seed=s, step=1, split='test', group='language',
                                        language=l, seen=True, model='student', metric='accuracy', value=v) for s,v in enumerate(scores) for l in ('de', 'en')]
    d = differences(pd.DataFrame(arm('a · ce', [.10, .50, .90])+arm('b · ce', [.06, .45, .84])), 'b · ce').query("group == 'all'").iloc[0]
    half = 4.302653*.01/3**.5                                       # t with two degrees of freedom, standard deviation .01
    assert (d.score, d.low, d.high) == pytest.approx((.05, .05-half, .05+half), abs=1e-6)


# ---- what becomes of rows ----

def test_a_small_fraction_leaves_no_language_without_rows():
    rows = pd.DataFrame([dict(text=f'{l}{i}', label=str(i % 4), language=l) for l,n in dict(en=200, sw=5, th=1).items() for i in range(n)])
    for seed in range(5): assert set(take_fraction(rows, .01, seed).language) == {'en', 'sw', 'th'}


def test_the_order_of_rows_in_a_file_changes_no_subset():
    rows = pd.DataFrame([dict(id=f'{l}{i}', text=f'{l} {i}', label=str(i % 4), language=l) for l in ('en', 'sw') for i in range(80)])
    def ids(d, seed=0): return sorted(take_fraction(d, .25, seed).id), *(sorted(d.id) for d in hold_out(d, seed))
    assert ids(rows) == ids(rows.sample(frac=1, random_state=1).reset_index(drop=True)) != ids(rows, 1)


@pytest.mark.parametrize('kind', ['sequence', 'token'])
def test_a_long_example_is_cut_with_its_tags(kind):
    words = 'one two three four five six seven'.split()
    row = dict(text=' '.join(words), label='O') if kind == 'sequence' else dict(tokens=words, ner_tags=['O', 'B-PER', 'O', 'O', 'B-LOC', 'O', 'O'])
    tok = train_tokenizer([' '.join(words)]*3, 400)
    whole, cut = (encode(pd.DataFrame([row | dict(language='en', id='a')]), tok, ['O', 'B-LOC', 'B-PER'], n)[0] for n in (128, 6))
    assert len(whole['input_ids']) > 6 and cut['input_ids'].tolist() == [*whole['input_ids'][:5], tok.eos_token_id]
    if kind == 'token': assert cut['labels'].tolist() == [*whole['labels'][:5], -100]


def test_files_are_replaced_and_never_written_into(tmp_path):
    "Who has the old file open, or dies while the new one is written, has the old one whole"
    old, run, history = tmp_path/'old', Run(tmp_path), History(tmp_path/'history.jsonl')
    history.add(1, dict(loss=1.)); history.add(2, dict(loss=2.))
    def write(n): return pd.DataFrame(dict(a=[n]*n))
    for path,first,second in ((tmp_path/'x.json', lambda p: write_json(p, [1]), lambda p: write_json(p, [1, 2])),
                              (tmp_path/'t.parquet', lambda p: run.write('t', write(1)), lambda p: run.write('t', write(2))),
                              (tmp_path/'history.jsonl', lambda p: None, lambda p: history.rewind(1))):
        first(path)
        old.unlink(missing_ok=True); old.hardlink_to(path)                      # the same file under a second name
        before = old.read_bytes()
        second(path)
        assert old.read_bytes() == before != path.read_bytes(), path.name
    assert {p.name for p in tmp_path.iterdir()} == {'old', 'x.json', 't.parquet', 'history.jsonl'}  # nothing else is left


def test_a_folder_is_built_once_however_many_need_it(tmp_path):
    built = []
    def build(folder):
        built.append(folder)
        time.sleep(.3)
    with ThreadPoolExecutor(3) as pool: paths = list(pool.map(lambda i: build_once(tmp_path/'f', build), range(3)))
    assert len(built) == 1 and set(paths) == {tmp_path/'f'}


def test_a_run_that_somebody_trains_is_not_free(tmp_path):
    cfg = RunConfig(tiny=True, out_dir=str(tmp_path))
    with run_lock(Run.named(tmp_path, cfg.identity())): assert not is_free(cfg)
    assert is_free(cfg)


# ---- a whole run: which data each step may see ----

ASK = {'light': ['turn on the light', 'lamp on please', 'make it bright'], 'music': ['play a song', 'some music now', 'next track'],
       'stop': ['be quiet', 'stop it', 'no more of this']}


@pytest.fixture
def setting(tmp_path, monkeypatch):
    "A function that makes a configuration: own files in two languages, a small base, an empty cache"
    monkeypatch.setenv('PRIVKD_CACHE', str(tmp_path/'cache'))
    folder, base = tmp_path/'data', tmp_path/'base'
    folder.mkdir()
    for split,(n,at) in dict(train=(60, 0), validation=(12, 60), test=(18, 72)).items():
        def text(i): return f"{list(ASK.values())[i % 3][i//3 % 3]} {at+i}{' 7'*(i % 4)}"           # none stands in two splits
        rows = [dict(id=f'{split}-{i}', text=text(i), label=list(ASK)[i % 3], language=['en', 'de'][i//3 % 2]) for i in range(n)]
        pd.DataFrame(rows).to_json(folder/f'{split}.jsonl', orient='records', lines=True)
    tok = train_tokenizer([t for ts in ASK.values() for t in ts]+[str(i) for i in range(100)], 400)
    tiny_model(layers=2, labels=2, vocab_size=len(tok), seed=1).save_pretrained(base)
    tok.save_pretrained(base)
    return lambda **kw: RunConfig(**dict(dataset=str(folder), base=str(base), losses='ce,logits', epochs=1, teacher_epochs=1, tiny=True, seed=1,
                                         batch_size=16, out_dir=str(tmp_path/'runs')) | kw)


def test_test_texts_and_unseen_languages_decide_nothing(setting, monkeypatch):
    read, score = [], training.evaluate_by_language
    def watched(model, data, languages=(), *more, **kw):
        read.append((list(data.names), list(languages)))
        return score(model, data, languages, *more, **kw)
    monkeypatch.setattr(training, 'evaluate_by_language', watched)
    def of_teacher(model, data, folder):
        read.append((list(data.names), ['en']))
        return teacher_predictions(model, data, folder)
    monkeypatch.setattr('privkd_nb.jobs.fine_tune.teacher_predictions', of_teacher)
    run = distil(cfg := setting(scenario='en', patience=2, fraction=.5))
    assert len(read) >= 6                                                        # of the teacher's fine-tuning and of the student's training
    for names,languages in read: assert {n.split('-')[0] for n in names} == {'validation'} and languages == ['en']
    assert {n.split('-')[0] for n in run.predictions.id} == {'test'} and len(run.predictions) == 2*18
    assert {'seen', 'unseen'} == set(run.history.group) & {'seen', 'unseen'}
    saved, task = load_encoder(str(run.path/'model')), load_data(cfg)
    again = predict(saved, encode(task.test, load_tokenizer(str(run.path/'model')), task.labels))
    student = run.predictions.query("model == 'student'").reset_index(drop=True)
    assert student.predicted.tolist() == again.predicted.tolist() and np.allclose(student.loss, again.loss, atol=1e-5)


def test_training_reads_training_rows_of_its_languages_and_fraction(setting, monkeypatch):
    made = []
    class Watched(DistillTrainer):
        def train(self, *a, **kw):
            made.append(self)
            return super().train(*a, **kw)
    for module in ('fine_tune', 'distil'): monkeypatch.setattr(f'privkd_nb.jobs.{module}.DistillTrainer', Watched)
    distil(setting(scenario='en', fraction=.4))
    teacher, student = made
    rows = [set(t.train_dataset.names) for t in made]
    assert all(n.startswith('train-') for n in rows[0] | rows[1])
    assert {*teacher.train_dataset.languages, *student.train_dataset.languages} == {'en'}
    assert (len(rows[0]), len(rows[1])) == (30, 12) and rows[1] < rows[0]       # the teacher has all of them
    assert student.args.seed == student.args.data_seed == 1 and student.losses == dict(ce=1., logits=1.)
    assert student.layers == [1]                                                # of two, the one that it was copied from


def test_the_subset_follows_the_seed_and_the_teachers_does_not(setting):
    def names(role='student', **kw): return load_data(setting(**dict(fraction=.5) | kw), role).train.id.tolist()
    assert names() == names() != names(seed=2) and len(names()) == len(names(seed=2)) == 30
    assert set(names(fraction=.2)) < set(names())                               # nested
    assert len(names('teacher')) == 60 and len(names('teacher', teacher_fraction=.5)) == 30
    assert names('teacher', teacher_fraction=.5) == names('teacher', teacher_fraction=.5, seed=2)


def untrained(cfg, monkeypatch):
    "The trainer of a run, before it trains"
    class Seen(Exception): pass
    def caught(trainer, *a, **kw): raise Seen(trainer)
    with monkeypatch.context() as m:
        m.setattr('privkd_nb.jobs.distil.fit', caught)
        with pytest.raises(Seen) as e: distil(cfg)
    return e.value.args[0]


def test_the_order_of_the_data_follows_the_seed(setting, monkeypatch):
    def order(seed, epoch=0):
        sampler = untrained(setting(fraction=1., seed=seed), monkeypatch).sampler()
        sampler.set_epoch(epoch)
        return [i for b in sampler for i in b]
    first = order(1)
    assert first == order(1) and first != order(2) and first != order(1, epoch=1) and sorted(first) == list(range(60))


def test_an_automatic_teacher_depends_on_nothing_that_was_drawn_before(setting, tmp_path, monkeypatch):
    def teacher(cache, seed):
        monkeypatch.setenv('PRIVKD_CACHE', str(tmp_path/cache))
        torch.manual_seed(seed)
        cfg = setting()
        return weights_hash(load_encoder(teacher_path(cfg, base_path(cfg))))
    assert teacher('one', 1) == teacher('two', 2)


def test_all_students_of_a_teacher_have_one_learning_rate(setting, tmp_path, monkeypatch):
    teacher = tiny_model(layers=8, labels=['light', 'music', 'stop'], hidden_size=128, intermediate_size=512, vocab_size=400)
    teacher.save_pretrained(tmp_path/'teacher')
    load_tokenizer(str(tmp_path/'base')).save_pretrained(tmp_path/'teacher')
    rates = [untrained(setting(teacher=str(tmp_path/'teacher'), layers=n), monkeypatch).args.learning_rate for n in (2, 8)]
    assert rates == [default_lr(teacher)]*2 and rates[0] < default_lr(tiny_model(layers=2))


def test_the_untrained_student_is_kept_if_training_only_harms(setting, monkeypatch):
    falling = iter([.9, .8, .7, .6, .5, .4, .3, .2, .1])
    def scored(model, data, languages=(), *more, **kw):
        return pd.DataFrame(dict(seen=True, n=6, accuracy=next(falling)), index=pd.Index(['de', 'en'], name='language'))
    cfg = setting(patience=3, teacher_epochs=1)
    first = untrained(cfg, monkeypatch)                             # its teacher is fine-tuned with scores of its own
    with monkeypatch.context() as m:
        m.setattr(training, 'evaluate_by_language', scored)
        run = distil(cfg)
    assert set(run.metrics.step) == {0} and next(falling) < .8
    kept, begun = load_encoder(str(run.path/'model')).state_dict(), first.model.state_dict()
    assert all(torch.equal(v, begun[k]) for k,v in kept.items())
