"Losses on logits and on representations of texts: where each is defined, what it equals, and what a trainer refuses."
import numpy as np, pytest, torch

from privkd_nb.core import InputError
from privkd_nb.data.encoding import Encoded
from privkd_nb.jobs.config import RunConfig
from privkd_nb.losses.laws import check_term, trial
from privkd_nb.losses.terms import TERMS, check_kind, parse_losses, term, term_label
from privkd_nb.models.tiny import tiny_model
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


def trainer(folder, losses, classes=3, micro_batches=1, **kw):
    names = 'xyzuvw'[:classes]
    g = np.random.default_rng(0)
    data = Encoded(g.integers(5, 120, (8, 4)).tolist(), g.integers(0, classes, 8).tolist(), ['en']*8, range(8), pad_id=1)
    student, teacher = (tiny_model(layers=2, labels=[*names], seed=s) for s in (0, 1))
    args = training_args(folder, 8, 1, batch_size=8, micro_batches=micro_batches, use_cpu=True, max_steps=2, eval_strategy='no', save_strategy='no')
    return DistillTrainer(student, teacher, losses, [0, 1], train_dataset=data, eval_dataset=data, args=args, efficiency=Efficiency(**kw))


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
