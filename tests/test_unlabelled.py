"Texts without labels: what is read, what each term sees, who is trained on what, and what is said of it."
import numpy as np, pandas as pd, pytest, torch

from privkd_nb.analysis.compare import overall
from privkd_nb.analysis.load import Study
from privkd_nb.analysis.overview import list_runs
from privkd_nb.core import InputError
from privkd_nb.data.encoding import IGNORE, Collate, Encoded
from privkd_nb.data.report import data_report
from privkd_nb.data.tasks import load_task
from privkd_nb.init.spec import InitSpec
from privkd_nb.init.student import init_student
from privkd_nb.jobs.config import RunConfig
from privkd_nb.jobs.distil import distil
from privkd_nb.jobs.fine_tune import load_data, load_models
from privkd_nb.jobs.joint import distil_jointly
from privkd_nb.jobs.report import agreement_table, language_table, result_text, summary
from privkd_nb.models.loading import load_encoder
from privkd_nb.models.tiny import tiny_model
from privkd_nb.record import History
from privkd_nb.train.arguments import training_args
from privkd_nb.train.trainer import DistillTrainer

NO_DROPOUT = dict(hidden_dropout_prob=0., attention_probs_dropout_prob=0.)


def examples(kind='sequence', n=16, bare=(0, 1, 2, 3, 9, 12), c=3):
    "Examples in two languages; those in `bare` have no label"
    rng = np.random.default_rng(0)
    ids = [[0, *rng.integers(5, 100, rng.integers(2, 9)).tolist(), 2] for _ in range(n)]
    words = [[-1, *range(len(i)-2), -1] for i in ids] if kind == 'token' else None
    labels = [rng.integers(0, c, len(i)-2).tolist() for i in ids] if words else rng.integers(0, c, n).tolist()
    labels = [([IGNORE]*len(l) if words else IGNORE) if i in bare else l for i, l in enumerate(labels)]
    return Encoded(ids, labels, ['en', 'de']*(n//2), [f'{i}' for i in range(n)], words, pad_id=1)


def trained(folder, data, losses='ce,logits,hidden', batch_size=8, micro_batches=1, resume=None, evals=1, epochs=2):
    teacher = tiny_model('xlmr', 4, kind=data.kind, seed=1, **NO_DROPOUT)
    student, card = init_student(InitSpec('scratch', depth='first', n_layers=2, seed=2), teacher)
    args = training_args(folder, len(data), epochs, 2e-3, batch_size, micro_batches=micro_batches, evals=evals, use_cpu=True,
                         metric='accuracy' if data.kind == 'sequence' else 'entity_f1')
    tr = DistillTrainer(student, teacher, losses, card.layers, history=History(), train_languages=['en', 'de'], args=args, train_dataset=data, eval_dataset=data)
    tr.train(resume_from_checkpoint=resume)
    return tr


def weights(tr): return {k: v.detach().clone() for k, v in tr.model.named_parameters()}


@pytest.mark.parametrize('kind', ['sequence', 'token'])
def test_gold_terms_see_labelled_texts_and_the_others_all(tmp_path, kind):
    whole, some = examples(kind), [i for i in range(16) if i not in (0, 1, 2, 3, 9, 12)]
    def first(data, losses): return trained(tmp_path/losses, data, losses, batch_size=16, epochs=1).history.frame().query("step == 1").set_index('metric').value
    def of(rows):
        one = lambda v: [v[i] for i in rows]
        full = examples(kind, bare=()) if len(rows) == 16 else whole
        words = one([full.words[a:b] for a, b in zip(full.offsets, full.offsets[1:])]) if kind == 'token' else None
        return Encoded(one([full.flat[a:b].tolist() for a, b in zip(full.offsets, full.offsets[1:])]), one(full.labels), one(full.languages), one(full.names), words, pad_id=1)
    both = first(whole, 'ce,logits')
    assert both.ce == pytest.approx(first(of(some), 'ce').ce, rel=1e-4)
    assert both.logits == pytest.approx(first(of(range(16)), 'logits').logits, rel=1e-4)


def test_accumulation_adds_up_with_micro_batches_without_a_label(tmp_path):
    data = examples(bare=range(12))                                        # four labels: some micro-batches, and some steps, have none
    one, two, four = (weights(trained(tmp_path/str(m), data, micro_batches=m)) for m in (1, 2, 4))
    for k in one: assert torch.allclose(one[k], two[k], atol=2e-5) and torch.allclose(one[k], four[k], atol=2e-5), k
    assert all(torch.isfinite(v).all() for v in one.values())


def test_a_resumed_training_ends_alike(tmp_path):
    whole = trained(tmp_path/'a', data := examples(), evals=2)
    again = trained(tmp_path/'b', data, evals=2, resume=str(sorted((tmp_path/'a').glob('checkpoint-*'))[0]))
    for k, v in weights(whole).items(): assert torch.equal(v, weights(again)[k]), k


# ---- reading ----

ROWS = [dict(text=f'{w} {t} {l}', label=w, language=l) for l in ('de', 'en') for w in ('stop', 'play') for t in range(20)]


def save(path, rows): pd.DataFrame(rows).to_csv(path, index=False); return path


def test_rows_files_and_splits_without_labels(tmp_path):
    bare = [r | dict(label='') if r['language'] == 'de' and i % 20 < 2 else r for i, r in enumerate(ROWS)]
    task = load_task(save(tmp_path/'a.csv', bare+[dict(text=f'habari {i}', label=None, language='sw') for i in range(10)]))
    assert len(task.unlabelled) == 4+10-2 and task.text_languages == ['sw'] and {k: len(v) for k, v in task.held.items()} == dict(test=2)
    assert any('4 of 40 training texts in de have no label' in w for w in data_report(task).warnings) and not any('in sw' in n for n in task.notes)
    folder = tmp_path/'f'; folder.mkdir()
    save(folder/'train.csv', ROWS[::2]); save(folder/'test.csv', ROWS[1::2])
    same = load_task(folder).fingerprint()
    (folder/'unlabelled.sw.txt').write_text('Habari yako\n\nAsante sana\nAsante sana\n')
    save(folder/'unlabelled.csv', [dict(text=ROWS[1]['text'], language='de'), *(dict(text=ROWS[i]['text'], language='de') for i in range(0, 20, 2)), dict(text='neu', language='de')])
    task = load_task(folder)
    assert task.unlabelled.groupby('language').size().to_dict() == dict(de=1, sw=1) and len(task.held['test']) == 1
    assert sum('are left out' in s for s in task.said) == 2 and 'and on 2 without labels (de 1, sw 1)' in task.trained_on()
    assert load_data(RunConfig(dataset=str(folder)), 'teacher').fingerprint() == same
    assert load_task(save(tmp_path/'s.csv', [r | dict(split='train' if i % 2 else 'test') for i, r in enumerate(ROWS)]
                                            +[dict(text='neu', label='', language='de', split='unlabelled')])).unlabelled.text.tolist() == ['neu']


def test_labels_missing_where_they_are_needed(tmp_path):
    bare, says = save(tmp_path/'a.csv', [r | dict(label='') for r in ROWS]), 'a.csv has no training text with a label; label some, or give a fine-tuned model as teacher, which knows'
    with pytest.raises(InputError, match=says): load_task(bare)
    with pytest.raises(InputError, match=says): distil(RunConfig(dataset=str(bare), base='no/such-model', out_dir=str(tmp_path/'runs'))) # before the model is looked for
    with pytest.raises(InputError, match='rows with an empty label; remove'):
        load_task(save(tmp_path/'b.csv', [r | dict(split='train' if i % 2 else 'test', label=r['label'] if i else '') for i, r in enumerate(ROWS)]))
    pd.DataFrame(dict(tokens=[['in', 'Bern', f'{i}'] for i in range(20)], language='de')).to_json(words := tmp_path/'words.jsonl', orient='records', lines=True)
    assert data_report(load_task(words, labels=['O', 'B-LOC'])).missing == {}                # words without a single tag are a task for a teacher
    with pytest.raises(InputError, match="without_labels='xx' is not a choice"): RunConfig(without_labels='xx')
    with pytest.raises(InputError, match='give 0 for none, or -1 for all'): RunConfig(unlabelled=-2)
    with pytest.raises(InputError, match='no labels to fine-tune a teacher'): load_data(RunConfig(without_labels='all'), 'teacher')


def test_a_budget_is_nested_and_depends_on_the_seed_alone():
    def texts(n, seed=0, **kw): return set(load_task('playground', languages='en,sw', fraction=.1, without_labels='sw,rest', unlabelled=n, seed=seed, **kw).unlabelled.text)
    assert texts(5) < texts(20) < texts(-1) and texts(20) != texts(20, seed=1) and not texts(0)
    task = load_task('playground', languages='en,sw', fraction=.1, without_labels='sw')
    assert task.train_languages == ['en'] and task.text_languages == ['sw'] and set(task.train.language) == {'en'}
    assert 'unlabelled' not in RunConfig().identity() and 'without_labels' not in RunConfig().identity()


# ---- runs ----

@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp('bare')
    cfg = RunConfig(tiny=True)
    models = load_models(cfg, load_data(cfg))
    models.teacher.save_pretrained(folder/'teacher'); models.tokenizer.save_pretrained(folder/'teacher')
    return folder


def test_a_language_without_a_label_is_a_group_of_its_own(tiny):
    kw = dict(tiny=True, out_dir=str(tiny/'runs'), without_labels='sw', unlabelled=10)
    alone = distil(RunConfig(init='scratch', **kw))
    m = alone.metrics.query("metric == 'accuracy' and model == 'student'")
    assert {*m.group} == {'language', 'all', 'seen', 'texts'} and m[m.texts == True].language.tolist() == ['sw']
    assert alone.environment['data']['unlabelled'] == 10 and alone.environment['text_languages'] == ['sw']
    assert alone.environment['data']['report']['rows']['sw']['unlabelled'] == 10
    assert language_table(alone).seen['sw'] == 'text only' and '10 texts without labels' in summary(alone)
    other = distil(RunConfig(init='scratch', **kw | dict(without_labels='', unlabelled=-1)))
    study = Study.open(tiny/'runs')
    assert len(study.arms) == 2 and set(overall(study.scores).languages) == {'all', 'seen', 'texts'} and 'texts' not in other.metrics
    both = distil_jointly([RunConfig(init=i, **kw | dict(out_dir=str(tiny/'joint'))) for i in ('scratch', 'copy_ft')])
    a, b = (load_encoder(str(r.path/'model'), 'sequence').state_dict() for r in (alone, both[0]))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_without_any_label_a_given_teacher_is_enough(tiny):
    rows = load_task('playground', languages='en,sw').train[['text', 'language']].groupby('language').head(60)
    path = str(save(tiny/'texts.csv', rows))
    with pytest.raises(InputError, match="has no column 'label'.*give a fine-tuned model as teacher"): RunConfig(dataset=path).check_files()
    kw = dict(dataset=path, teacher=str(tiny/'teacher'), out_dir=str(tiny/'bare'))
    with pytest.raises(InputError, match='losses=ce compares with labels, and no training text has one'): load_data(RunConfig(losses='ce', **kw))
    run = distil(RunConfig(tiny=True, **kw))
    assert {*run.metrics.metric} == {'n', 'agreement'} and {*run.history.query("split == 'validation'").metric} == {'agreement'}
    assert 'ce' not in set(run.history.metric) and run.predictions.gold.isna().all()
    assert list(language_table(run)) == ['seen', 'n', 'agreement'] and 'says nothing of how often both are right' in summary(run)
    row = list_runs(tiny/'bare').iloc[0]
    assert row.agreement == language_table(run).agreement['mean'] and pd.isna(row.score)
    assert 'Before any training it agreed in' in summary(run) and 'where no test text' not in result_text(run)
    assert (run.path/'model'/'model.safetensors').exists() and Study.open(tiny/'bare').metric in ('agreement', 'accuracy')


def test_a_given_teacher_tells_the_kind_of_texts_without_labels(tiny):
    import json, shutil
    shutil.copytree(tiny/'teacher', several := tiny/'several')
    c = json.loads((several/'config.json').read_text())
    (several/'config.json').write_text(json.dumps(c | dict(problem_type='multi_label_classification')))
    path = str(save(tiny/'few.csv', load_task('playground', languages='en,sw').train[['text', 'language']].groupby('language').head(20)))
    run = distil(RunConfig(tiny=True, dataset=path, teacher=str(several), losses='logits', out_dir=str(tiny/'kinds')))
    assert json.loads((run.path/'model'/'config.json').read_text())['problem_type'] == 'multi_label_classification'
    assert {*run.metrics.metric} == {'n', 'agreement'} and run.predictions.predicted.map(lambda p: isinstance(p, (list, np.ndarray))).all()


def test_agreement_stands_beside_scores_and_is_not_counted_among_them(tiny):
    rows = load_task('playground', languages='en,sw').train.groupby(['language', 'label']).head(8)
    path = str(save(tiny/'some.csv', rows.assign(label=rows.label.mask(rows.language == 'sw'))[['text', 'label', 'language']]))
    run = distil(RunConfig(tiny=True, dataset=path, out_dir=str(tiny/'some')))
    scored, agreed = language_table(run), agreement_table(run)
    assert list(agreed.index) == ['sw'] and 'sw' not in scored.index and scored.n['mean'] == scored.n['en'] < scored.n['en']+agreed.n['sw']
    line = next(l for l in result_text(run).splitlines() if l.startswith('sw '))
    assert line.split() == ['sw', f"{agreed.agreement['sw']:.3f}", str(agreed.n['sw'])]
