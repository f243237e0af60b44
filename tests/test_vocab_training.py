"A student whose vocabulary is a part of its teacher's: trained on the same texts, in other token ids, and sometimes in other tokens."
import json

import numpy as np, pandas as pd, pytest, torch

from privkd_nb.compute.forward import forward
from privkd_nb.core import InputError
from privkd_nb.data.encoding import IGNORE, encode
from privkd_nb.data.two_encodings import TwoEncodings, collate_of
from privkd_nb.init.spec import InitSpec
from privkd_nb.init.student import InitCard, init_student
from privkd_nb.losses.terms import PAPER, TERMS, add_term, Term
from privkd_nb.models.tiny import tiny_model
from privkd_nb.models.tokenizer import train_tokenizer
from privkd_nb.models.tokenizer_file import trim_tokenizer
from privkd_nb.record import History
from privkd_nb.train.arguments import training_args
from privkd_nb.train.efficiency import Efficiency
from privkd_nb.train.trainer import DistillTrainer, batch_totals

WORDS = ['play', 'some', 'music', 'stop', 'it', 'wake', 'me', 'tomorrow', 'spiel', 'etwas', 'Musik', 'halt', 'wecke', 'mich', 'morgen']
OTHERS = ['weather', 'radio', 'light', 'Wetter', 'Licht', 'please']          # Tokens that no text needs
LABELS = ['O', 'B-LOC', 'I-LOC']


def frame(kind, n=40):
    "Sentences of two to seven words"
    rng = np.random.default_rng(0)
    lists = [[*rng.choice(WORDS, 2+i % 6)] for i in range(n)]
    ys = [[LABELS[(i+j) % 3] for j in range(len(w))] for i,w in enumerate(lists)]
    gold = dict(token=dict(tokens=lists, ner_tags=ys), sequence=dict(text=[*map(' '.join, lists)], label=[y[0] for y in ys]),
                multilabel=dict(text=[*map(' '.join, lists)], labels=[[*{*y}] for y in ys]))[kind]
    return pd.DataFrame(dict(id=[str(i) for i in range(n)], language=[['en', 'de'][i % 2] for i in range(n)]) | gold)


@pytest.fixture(scope='module')
def tok(): return train_tokenizer([' '.join(WORDS+OTHERS)]*20, 420)


def both_encodings(df, tok, kind, keep=None, max_length=64):
    "A table as the teacher reads it, and as a student reads it that keeps the tokens of all texts, or of those with the words `keep`"
    theirs = encode(df, tok, LABELS, max_length, kind)
    small, old_ids = trim_tokenizer(tok, np.unique(theirs.flat) if keep is None else np.concatenate(tok(keep)['input_ids']))
    return TwoEncodings(encode(df, small, LABELS, max_length, kind), theirs, old_ids), small


METRICS = dict(sequence='accuracy', token='entity_f1', multilabel='micro_f1')


def trainer(folder, data, teacher, spec=InitSpec(), losses=PAPER, efficiency=None, **kw):
    student, card = init_student(spec, teacher, old_ids=getattr(data, 'old_ids', None))
    args = training_args(folder, len(data), **dict(epochs=2, lr=1e-3, batch_size=8, use_cpu=True, metric=METRICS[data.kind])|kw)
    return DistillTrainer(student, teacher, losses, card.layers, history=History(folder/'history.jsonl'), train_languages=['en'], train_dataset=data, eval_dataset=data,
                          efficiency=efficiency, args=args)


def losses_of(tr):
    h = tr.history.frame()
    return h[h.split == 'train'].pivot(index='step', columns='metric', values='value').astype(float)


@pytest.mark.parametrize('arch,kind,source', [('xlmr', 'sequence', 'copy_ft'), ('xlmr', 'token', 'copy_ft'), ('bert', 'multilabel', 'scratch'), ('modernbert', 'token', 'copy_ft')])
def test_a_student_without_the_tokens_that_do_not_occur_is_trained_bit_by_bit_like_one_with_all(tmp_path, tok, arch, kind, source):
    df = frame(kind)
    teacher = tiny_model(arch, 4, LABELS, kind, vocab_size=len(tok))
    both, small = both_encodings(df, tok, kind)
    assert both.same.all() and len(small) < len(tok)
    whole, own = (trainer(tmp_path/name, data, teacher, InitSpec(source), evals=1) for name,data in (('whole', both.for_teacher), ('own', both)))
    assert own.model.get_input_embeddings().num_embeddings == len(small)
    for t in (whole, own): t.train()
    a, b = losses_of(whole), losses_of(own)
    assert len(a) == 10 and (a.drop(columns='learning_rate') == b[a.columns].drop(columns='learning_rate')).all(axis=None), abs(a-b).max()
    batch = collate_of(both)([both[i] for i in range(8)])
    with torch.no_grad(): assert torch.equal(forward(whole.model.eval(), batch['teacher']).logits, forward(own.model.eval(), batch).logits)


KEEP = 'play some music stop it wake me'.split()      # The German words, and tomorrow, are read in smaller pieces


@pytest.fixture(scope='module')
def differing(tok):
    "A table of words of which some texts differ, and a teacher of it"
    data, _ = both_encodings(frame('token'), tok, 'token', KEEP)
    assert 0 < data.same.sum() < len(data)
    return data, tiny_model('xlmr', 4, LABELS, 'token', vocab_size=len(tok), hidden_dropout_prob=0., attention_probs_dropout_prob=0.)


def terms_of(tr, items, n=1):
    "Each term of some examples, in `n` micro-batches"
    parts = [tr.data_collator([items[j] for j in at]) for at in np.array_split(range(len(items)), n)]
    tr.totals, tr.recorder.micro_batches = batch_totals(parts), []
    tr.model.eval()
    with torch.no_grad():
        for p in parts: tr.compute_loss(tr.model, p)
    return dict(zip(tr.losses, torch.stack(tr.recorder.micro_batches).sum(0)[1:].tolist()))


def test_texts_in_other_tokens_are_left_out_of_terms_that_compare_tokens(tmp_path, differing):
    data, teacher = differing
    tr, at = trainer(tmp_path, data, teacher), range(12)
    some = [i for i in at if data.same[i]]
    assert 0 < len(some) < len(at)
    all_of, alike = terms_of(tr, [data[i] for i in at]), terms_of(tr, [data[i] for i in some])
    for k in ('hidden', 'embedding', 'attention'): assert abs(all_of[k]-alike[k]) <= 1e-5*alike[k], k
    assert alike['embedding'] < 1e-12 < alike['hidden']                  # rows and norm are the teacher's own
    none = terms_of(tr, [data[i] for i in at if not data.same[i]])
    assert none['hidden'] == none['embedding'] == none['attention'] == 0 and none['ce'] > 0 and none['logits'] > 0


def test_micro_batches_add_up_when_texts_are_left_out(tmp_path, differing):
    data, teacher = differing
    tr, items = trainer(tmp_path, data, teacher), [data[i] for i in range(12)]
    one = terms_of(tr, items)
    for n in (2, 5, 12):
        for k,v in terms_of(tr, items, n).items(): assert abs(v-one[k]) < 1e-5*max(v, 1e-6), (n, k)


def test_logits_are_compared_word_by_word_and_no_further_than_both_have_read(tmp_path, tok):
    df = frame('token')
    data, small = both_encodings(df, tok, 'token', KEEP, max_length=9)
    lost = [i for i in range(len(data)) if data.cut[i] and not data.teacher.cut[i]]        # more pieces: cut in the student's encoding alone
    assert lost
    teacher = tiny_model('xlmr', 4, LABELS, 'token', vocab_size=len(tok))
    tr = trainer(tmp_path, data, teacher, losses='ce,logits')
    batch = tr.data_collator([data[i] for i in range(len(data))])
    with torch.no_grad(): mine, theirs = forward(tr.model.eval(), batch).logits, forward(teacher, batch['teacher']).logits
    total, n = 0., 0
    for r in range(len(data)):
        words, teachers = (e.words[e.offsets[r]:e.offsets[r+1]].tolist() for e in (data, data.teacher))
        for w in {*words} & {*teachers} - {-1}:
            total, n = total+(mine[r,words.index(w)]-theirs[r,teachers.index(w)]).pow(2).mean().item(), n+1
    tr.totals = batch_totals([batch])
    assert tr.totals['valid'] == n < sum(map(len, df.tokens)) and tr.totals['labels'] >= n
    assert abs(terms_of(tr, [data[i] for i in range(len(data))])['logits']-total/n) < 1e-5


def test_a_word_that_the_teacher_did_not_read_counts_for_its_label_alone(tmp_path, tok):
    df = pd.DataFrame(dict(id=['0'], language=['en'], tokens=[['spiel', 'etwas', 'Musik', 'halt']], ner_tags=[['O', 'B-LOC', 'O', 'O']]))
    small, old_ids = trim_tokenizer(tok, np.concatenate(tok(WORDS)['input_ids']))
    long, short = encode(df, small, LABELS, 64), encode(df, tok, LABELS, 4)
    assert short.cut.all() and not long.cut.any()
    counts = collate_of(d := TwoEncodings(long, short, old_ids))([d[0]])['counts']
    assert (counts['labels'], counts['valid'], counts['same_tokens']) == (4, 2, 0)


def test_own_terms_see_the_same_restriction(tmp_path, differing):
    data, teacher = differing
    seen = {}
    def gap(s, t, b):
        seen.update(s=len(s.last), t=len(t.last), total=b.totals['tokens'], logits=len(s.logits))
        return (s.last-t.last).abs().mean(-1).sum()/b.totals['tokens']
    add_term(Term('gap_here', gap, 'last,logits'))
    try:
        tr = trainer(tmp_path, data, teacher, losses='gap_here')
        terms_of(tr, [data[i] for i in range(12)])
    finally: del TERMS['gap_here']
    n = int(data.lengths[:12][data.same[:12]].sum())
    assert seen == dict(s=n, t=n, total=n, logits=12)


def test_the_teachers_cached_outputs_are_found_by_its_own_tokens(tmp_path, tok, monkeypatch):
    import privkd_nb.train.teacher as module
    df, cache = frame('sequence'), Efficiency(cache=tmp_path/'cache')
    teacher = tiny_model('xlmr', 4, LABELS, vocab_size=len(tok))
    data, _ = both_encodings(df, tok, 'sequence', KEEP)
    plain = trainer(tmp_path/'a', data.for_teacher, teacher, efficiency=cache)
    def computed(*_, **kw): raise AssertionError('the teacher has computed this before')
    monkeypatch.setattr(module, 'teacher_outputs', computed)
    own = trainer(tmp_path/'b', data, teacher, efficiency=cache)
    assert own.teacher_outputs.how == plain.teacher_outputs.how == 'cached'
    live = trainer(tmp_path/'c', data, teacher)
    items = [data[i] for i in range(10)]
    cached, computed = terms_of(own, items), terms_of(live, items)
    assert all(abs(cached[k]-computed[k]) < 1e-5 for k in computed)


def test_the_teachers_table_is_reduced_to_the_tokens_that_it_reads(tmp_path, differing):
    data, teacher = differing
    tr = trainer(tmp_path, data, teacher, losses='ce,logits', evals=1, epochs=1)
    ids = []
    tr.teacher.register_forward_pre_hook(lambda m, a, kw: ids.append(type(m.get_input_embeddings()).__name__), with_kwargs=True)
    tr.train()
    assert 'ReducedEmbedding' in ids and tr.report['rows'] <= tr.model.config.vocab_size
    assert teacher.get_input_embeddings().num_embeddings == teacher.config.vocab_size
