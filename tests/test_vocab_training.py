"A student whose vocabulary is a part of its teacher's: trained on the same texts, in other token ids, and sometimes in other tokens."
import json
from types import SimpleNamespace

import numpy as np, pandas as pd, pytest, torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from privkd_nb.analysis.arms import arm_words
from privkd_nb.analysis.load import Study
from privkd_nb.compute.forward import forward
from privkd_nb.core import InputError
from privkd_nb.data.encoding import encode
from privkd_nb.data.tasks import load_task
from privkd_nb.data.two_encodings import TwoEncodings, collate_of
from privkd_nb.evaluation.texts import Classifier
from privkd_nb.figures.layermap import layermap_figure
from privkd_nb.init.spec import InitSpec
from privkd_nb.init.card import InitCard
from privkd_nb.init.student import init_student
from privkd_nb.init.vocabulary import texts_to_choose_by
from privkd_nb.jobs.config import RunConfig
from privkd_nb.jobs.distil import Examples, distil, say_vocabulary
from privkd_nb.jobs.joint import distil_jointly
from privkd_nb.jobs.report import summary
from privkd_nb.jobs.study import joint_groups
from privkd_nb.jobs.verify import verify
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


# ---- whole runs ----

FEW = dict(tiny=True, vocab='512', cache='auto')       # fewer tokens than the training texts use: some of them differ


@pytest.fixture(scope='module')
def run(tmp_path_factory): return distil(RunConfig(**FEW, out_dir=str(tmp_path_factory.mktemp('runs'))))


def weights(run): return load_file(run.path/'model'/'model.safetensors')


def test_a_run_says_what_its_students_vocabulary_is(run, capsys):
    about, card = run.environment['vocabulary'], InitCard.load(run.path/'init_card.json')
    assert (about['size'], about['of'], about['rule'], about['rows']) == (512, 1500, 512, 'copied') and set(about['changed']['test']) == {'de', 'en', 'sw'}
    n = sum(a for a,_ in about['changed']['train'].values())
    assert 0 < n == card.vocabulary['changed'] < card.vocabulary['texts'] == 120
    assert card.models['student']['embeddings'] < card.models['teacher']['embeddings'] and f'{n} of 120 training texts' in card._repr_markdown_()
    assert 'with 512 of its 1,500 tokens' in summary(run) and run.environment['inputs']['vocabulary'] != run.environment['inputs']['tokenizer']
    assert '512 of 1,500 tokens' in layermap_figure(card).layout.title.text
    speed = run.read('speed').groupby('model').tokens.mean()
    assert speed.student > speed.teacher                              # smaller pieces


def test_the_saved_student_is_loaded_with_its_own_tokenizer_and_predicts_as_in_the_record(run):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    tok, model = AutoTokenizer.from_pretrained(run.path/'model'), AutoModelForSequenceClassification.from_pretrained(run.path/'model').eval()
    assert len(tok) == model.config.vocab_size == 512
    rows = run.predictions.query("model == 'student' and split == 'test'").merge(run.read('texts'), on=['id', 'language'])
    with torch.no_grad(): z = model(**tok(rows.text.tolist(), return_tensors='pt', padding=True)).logits
    assert [model.config.id2label[i] for i in z.argmax(-1).tolist()] == rows.predicted.tolist()
    assert Classifier(run).predict(rows.text.tolist()).label.tolist() == rows.predicted.tolist()
    assert not verify(run.path).faults


def test_the_teacher_is_what_it_is_without_a_vocabulary(run):
    plain = distil(RunConfig(**FEW | dict(vocab='off'), out_dir=str(run.path.parent)))
    teachers = [r.predictions.query("model == 'teacher'").reset_index(drop=True) for r in (run, plain)]
    pd.testing.assert_frame_equal(*teachers)
    assert plain.config.get('vocab') is None and run.config['vocab'] == '512'
    study = Study.open(run.path.parent)
    assert {*study.table().arm} == {'copy_ft · paper', 'copy_ft · paper · vocab=512'}
    assert arm_words('copy_ft · paper · vocab=512', run.config).endswith('with 512 tokens')


def test_a_run_that_is_interrupted_ends_as_an_uninterrupted_one(run, tmp_path):
    class Interrupt(TrainerCallback):
        def on_step_end(self, args, state, control, **kw):
            if state.global_step == 3: raise KeyboardInterrupt
    cfg = RunConfig(**FEW, out_dir=str(tmp_path))
    with pytest.raises(KeyboardInterrupt): distil(cfg, callbacks=[Interrupt()])
    again = distil(cfg)
    assert again.path.name == run.path.name
    a, b = weights(run), weights(again)
    assert all(torch.equal(v, b[k]) for k,v in a.items())


def test_students_with_one_vocabulary_are_trained_jointly_and_with_two_they_are_not(run, tmp_path):
    configs = [RunConfig(**FEW, init=i, out_dir=str(tmp_path)) for i in ('copy_ft', 'scratch')]
    both = distil_jointly(configs)
    a, b = weights(run), weights(both[0])
    assert all(torch.equal(v, b[k]) for k,v in a.items())
    assert InitCard.load(both[1].path/'init_card.json').vocabulary['rows'] == 'random'
    other = RunConfig(**FEW | dict(vocab='off'), out_dir=str(tmp_path))
    with pytest.raises(InputError, match='not in vocab'): distil_jointly([configs[0], other])
    assert [len(g) for g in joint_groups([*configs, other], True)] == [2, 1]


def test_lost_files_of_the_setup_are_made_again(run):
    before = {n: json.loads((run.path/n).read_text()) for n in ('environment.json', 'init_card.json')}
    (run.path/'init_card.json').unlink()
    (run.path/'environment.json').unlink()
    with pytest.warns(UserWarning, match='made again without training'): distil(RunConfig(**FEW, out_dir=str(run.path.parent)))
    after = {n: json.loads((run.path/n).read_text()) for n in before}
    assert after['init_card.json'] == before['init_card.json'] and after['environment.json']['vocabulary'] == before['environment.json']['vocabulary']


def test_a_vocabulary_that_cannot_be_chosen_is_refused_before_a_teacher_is_made(tmp_path, monkeypatch):
    import privkd_nb.jobs.fine_tune as module
    def made(*_): raise AssertionError('a teacher was made')
    monkeypatch.setattr(module, 'teacher_path', made)
    rows = [dict(text=f'{w} {i}', language=l, label='ab'[i % 2], split=s) for i in range(8) for w,l,s in (('play', 'en', 'train'), ('stop', 'en', 'test'), ('cheza', 'sw', 'test'))]
    pd.DataFrame(rows).to_csv(tmp_path/'mine.csv', index=False)
    given = dict(dataset=str(tmp_path/'mine.csv'), tiny=True, vocab='auto', out_dir=str(tmp_path/'runs'))
    with pytest.raises(InputError, match='vocab=auto needs training or validation texts of every language, and sw has none'): distil(RunConfig(**given))
    (tmp_path/'more.csv').write_text('text\nhabari\n')
    with pytest.raises(InputError, match="more.csv has no column"): distil(RunConfig(**given, vocab_text=str(tmp_path/'more.csv')))
    assert not (tmp_path/'runs').exists()
    (tmp_path/'sw.txt').write_text('cheza muziki\nhabari ya asubuhi\n')
    with pytest.raises(AssertionError, match='a teacher was made'): distil(RunConfig(**given, vocab_text=str(tmp_path/'sw.txt')))


def test_terms_that_have_nothing_to_compare_are_refused(tmp_path, tok):
    df = frame('sequence')
    data, small = both_encodings(df, tok, 'sequence', ['me'])
    card = InitCard('copy_ft', 'first', [0, 1], ['head'], 0, '', {}, None, {}, 1., vocabulary=dict(size=len(small), of=len(tok), rule=300, rows='copied'))
    data.same[:] = False
    task = SimpleNamespace(said=[])
    with pytest.raises(InputError, match="losses has hidden, which compares token by token, but with vocab=300 the student reads no text in its teacher's tokens"):
        say_vocabulary(task, ['ce', 'hidden'], card, Examples(data, data, data))
    say_vocabulary(task, ['ce', 'logits'], card, Examples(data, data, data))
    assert '40 of 40 training texts are read in other tokens; of the test texts' in task.said[0]


def test_a_student_of_a_small_checkpoint_can_be_trimmed_too():
    teacher, base = tiny_model('xlmr', 4, vocab_size=300), tiny_model('xlmr', 2, vocab_size=300, hidden_size=16)
    student, card = init_student(InitSpec('pretrained', depth='stride', vocab=50), teacher, base, old_ids=np.arange(0, 100, 2) | 1)
    assert student.get_input_embeddings().weight.shape == (50, 16) and base.config.vocab_size == 300
    assert card.vocabulary == dict(size=50, of=300, rule=50, rows='copied')


def test_no_test_text_is_counted_and_texts_left_out_of_training_are():
    task = load_task('playground', languages='de,sw', fraction=.1)
    every, tested = load_task('playground', languages='de,sw'), task.test.text.iloc[0]
    more = pd.DataFrame(dict(text=[tested, 'Guten Morgen'], language=['de', 'de']))
    by = texts_to_choose_by(task, every, more)
    assert tested not in {*by['text'].text, *by['own'].text, *by['held'].text} and 'Guten Morgen' in {*by['text'].text}
    left_out = {*every.train.text}-{*task.train.text}-{*task.test.text}
    assert left_out and left_out <= {*by['text'].text} and {*task.train.text} == {*by['own'].text}
    assert {*by['held'].text} == {*task.validation.text}                          # there are other texts of both languages
    bare = texts_to_choose_by(task, more=None)
    assert not len(bare['text'])                                                  # each language is trained on
