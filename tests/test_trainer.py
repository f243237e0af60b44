"Properties of complete training steps, for each architecture and both kinds of task."
import pandas as pd, pytest, torch

from privkd_nb.data.encoding import encode
from privkd_nb.core import InputError
from privkd_nb.init.student import init_student
from privkd_nb.compute.forward import forward
from privkd_nb.losses.laws import copy, twice, why_exempt
from privkd_nb.losses.terms import PAPER, TERMS, TermInputs, distill_terms, required_outputs
from privkd_nb.record import History
from privkd_nb.init.spec import InitSpec
from privkd_nb.compute.attention import use_eager
from privkd_nb.models.tiny import tiny_batch, tiny_model
from privkd_nb.models.tokenizer import train_tokenizer
from privkd_nb.train.trainer import DistillTrainer, batch_totals
from privkd_nb.train.recording import DivergedError
from privkd_nb.train.arguments import training_args

ALL = list(TERMS)


def terms(student, teacher, layers, batch, grad=False):
    n, n_teacher = student.config.num_hidden_layers, teacher.config.num_hidden_layers
    with torch.set_grad_enabled(grad):
        s = forward(student, batch, required_outputs(ALL, range(n), n_layers=n))
    with torch.no_grad(): t = forward(teacher, batch, required_outputs(ALL, layers, n_layers=n_teacher))
    return distill_terms(ALL, s, t, TermInputs(batch['labels'], batch['attention_mask'], batch_totals([batch]), layers, last=(n, n_teacher)))


def pair(arch, kind, n=2):
    teacher = tiny_model(arch, 4, kind=kind, seed=1)
    student, card = init_student(InitSpec('scratch', depth='first', n_layers=n, seed=2), teacher)
    for m in (student, teacher): use_eager(m)
    return student, teacher, card.layers


@pytest.mark.parametrize('kind', ['sequence', 'token'])
@pytest.mark.parametrize('arch', ['xlmr', 'bert', 'distilbert', 'deberta', 'modernbert', 'eurobert', 'xlmr-xl', 'rembert'])
class TestTerms:
    def test_padding_changes_no_loss_and_no_gradient(self, arch, kind):
        student, teacher, layers = pair(arch, kind)
        short = tiny_batch(4, 9, kind, padding=3)
        pad = lambda x, v: torch.nn.functional.pad(x, (0, 5), value=v)
        long = dict(input_ids=pad(short['input_ids'], 1), attention_mask=pad(short['attention_mask'], 0),
                    labels=pad(short['labels'], -100) if kind == 'token' else short['labels'])
        for k, v in (a := terms(student, teacher, layers, short, True)).items():
            w = terms(student, teacher, layers, long, True)[k]
            assert torch.allclose(v, w, rtol=1e-4), k
            params = list(student.parameters())
            for g, h in zip(torch.autograd.grad(a[k], params, allow_unused=True, retain_graph=True), torch.autograd.grad(w, params, allow_unused=True)):
                if g is not None: assert torch.allclose(g, h, rtol=1e-3, atol=1e-4*g.abs().max().item()+1e-7), k

    def test_a_doubled_batch_has_the_same_loss(self, arch, kind):
        student, teacher, layers = pair(arch, kind)
        one = tiny_batch(3, 8, kind)
        two = {k: torch.cat([v, v]) for k, v in one.items()}
        a, b = terms(student, teacher, layers, one), terms(student, teacher, layers, two)
        for k, v in a.items(): assert why_exempt(TERMS[k], twice) or torch.allclose(v, b[k], rtol=1e-4), k

    def test_gradients_reach_the_student_and_not_the_teacher(self, arch, kind):
        student, teacher, layers = pair(arch, kind)
        for k in ALL:
            student.zero_grad()
            terms(student, teacher, layers, tiny_batch(kind=kind), True)[k].backward()
            assert sum(p.grad.abs().sum() for p in student.parameters() if p.grad is not None) > 0, k
            assert all(p.grad is None for p in teacher.parameters()), k

    def test_a_full_copy_has_zero_distillation_loss(self, arch, kind):
        teacher = tiny_model(arch, 4, kind=kind)
        student, card = init_student(InitSpec(n_layers=4), teacher)
        for m in (student, teacher): use_eager(m)
        for k, v in terms(student, teacher, card.layers, tiny_batch(kind=kind)).items():
            if not why_exempt(TERMS[k], copy): assert v.abs() < 1e-6, (k, v)

    def test_bfloat16_losses_are_close(self, arch, kind):
        student, teacher, layers = pair(arch, kind)
        full = terms(student, teacher, layers, tiny_batch(kind=kind))
        with torch.autocast('cpu', dtype=torch.bfloat16): half = terms(student, teacher, layers, tiny_batch(kind=kind))
        for k in ALL:
            assert half[k].dtype == torch.float32 and torch.isfinite(half[k]), k
            assert torch.allclose(full[k], half[k], rtol=.15, atol=.05), k


def ner_frame(n=24):
    words = [['Anna', 'lives', 'in', 'Berlin'], ['nothing', 'here'], ['we', 'met', 'Ivan', 'Petrov', 'today', 'at', 'noon']]
    tags = [['B-PER', 'O', 'O', 'B-LOC'], ['O', 'O'], ['O', 'O', 'B-PER', 'I-PER', 'O', 'O', 'O']]
    return pd.DataFrame([dict(id=str(i), tokens=words[i % 3], ner_tags=tags[i % 3], language=['en', 'de'][i % 2]) for i in range(n)])


NAMES = ['O', 'B-LOC', 'B-PER', 'I-PER']


def ner_trainer(folder, losses=PAPER, teacher=None, spec=InitSpec(), data=None, **kw):
    df = ner_frame()
    tok = train_tokenizer([' '.join(t) for t in df.tokens], 300)
    teacher = teacher or tiny_model(layers=4, kind='token', labels=NAMES, vocab_size=300)
    student, card = init_student(spec, teacher)
    enc = encode(df, tok, NAMES)
    return DistillTrainer(student, teacher, losses, card.layers, history=History(folder/'history.jsonl'), train_languages=['en'], train_dataset=enc, eval_dataset=enc,
                          processing_class=tok, args=training_args(folder, len(df), **dict(epochs=1, lr=1e-3, batch_size=8, use_cpu=True, metric='entity_f1')|kw))


def test_token_classification_is_scored_by_entity(tmp_path):
    tr = ner_trainer(tmp_path)
    tr.train()
    h = tr.history.frame()
    assert {'entity_f1', 'entity_precision', 'entity_recall'} <= set(h[h.split == 'validation'].metric)
    assert h[h.split == 'train'].step.nunique() == 3


def test_gradient_accumulation_is_exact_for_uneven_numbers_of_labels(tmp_path):
    teacher = tiny_model(layers=4, kind='token', labels=NAMES, vocab_size=300, hidden_dropout_prob=0., attention_probs_dropout_prob=0.)
    def trained(micro_batches):
        tr = ner_trainer(tmp_path/str(micro_batches), teacher=teacher, micro_batches=micro_batches)
        tr.train()
        return tr.history.frame(), torch.cat([p.flatten() for p in tr.model.parameters()])
    (h1, w1), *rest = trained(1), trained(2), trained(8)
    for h, w in rest:
        a, b = (x[(x.split == 'train')].value.astype(float).values for x in (h1, h))
        assert abs(a-b).max() < 1e-3 and (w1-w).abs().max() < 1e-3


def test_attention_kernels(tmp_path):
    assert ner_trainer(tmp_path/'a', 'ce,logits').model.config._attn_implementation == 'sdpa'
    tr = ner_trainer(tmp_path/'b', 'ce,attention')
    assert tr.model.config._attn_implementation == tr.teacher.config._attn_implementation == 'eager'
    tr.save_model(tmp_path/'c')
    assert 'eager' not in (tmp_path/'c'/'config.json').read_text()


def test_incompatible_students_and_teachers_raise(tmp_path):
    heads = InitSpec('scratch', config=dict(num_attention_heads=2))
    with pytest.raises(InputError, match='2 heads and the teacher 4'): ner_trainer(tmp_path, spec=heads)
    with pytest.raises(InputError, match='needs a teacher'): DistillTrainer(tiny_model(), None, 'ce,logits')
    with pytest.raises(InputError, match='4 labels but the teacher 2'):
        DistillTrainer(tiny_model(labels=4), tiny_model(labels=2), 'ce,logits')


def test_the_projection_is_trained(tmp_path):
    tr = ner_trainer(tmp_path, spec=InitSpec('scratch', config=dict(hidden_size=16, intermediate_size=32)))
    before = tr.model.distill_projection.weight.clone()
    tr.train()
    assert not torch.equal(before, tr.model.distill_projection.weight)


def test_divergence_error_names_term_step_and_learning_rate_and_the_checkpoint_stays(tmp_path):
    tr = ner_trainer(tmp_path, epochs=4, evals=4)
    tr.train()
    checkpoints = sorted(tmp_path.glob('checkpoint-*'))
    tr2 = ner_trainer(tmp_path, epochs=8, evals=8)
    compute_loss, calls = tr2.compute_loss, []
    def poisoned(*a, **k):
        calls.append(1)
        if len(calls) == 2:
            with torch.no_grad(): tr2.model.roberta.encoder.layer[0].output.dense.bias.fill_(float('nan'))
        return compute_loss(*a, **k)
    tr2.compute_loss = poisoned
    with pytest.raises(DivergedError, match=r"the loss term 'ce' became nan at step 14 with learning rate .*checkpoint-12"):
        tr2.train(resume_from_checkpoint=str(checkpoints[-1] if checkpoints[-1].name == 'checkpoint-12' else tmp_path/'checkpoint-12'))
    assert (tmp_path/'checkpoint-12'/'model.safetensors').exists()
