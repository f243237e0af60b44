"A teacher of the user's own, whatever its outputs are called, is taken or refused with what differs, through a whole run."
import importlib.util, json, sys
from types import SimpleNamespace

import pandas as pd, pytest, torch
from safetensors.torch import load_file

from privkd_nb.core import InputError
from privkd_nb.jobs.config import RunConfig
from privkd_nb.jobs.distil import distil
from privkd_nb.jobs.fine_tune import load_data
from privkd_nb.models.encoders import model_labels
from privkd_nb.models.loading import load_encoder
from privkd_nb.models.tiny import tiny_model
from privkd_nb.record import Run
from test_hub import client, hub                                     # noqa: F401 (a fixture)
from test_models_door import PeftModel, adapter, edited, words_of

WORDS = [f'w{i}' for i in range(20)]
ROWS = [dict(text=f'{a} {b}', label=l, language=g) for g in ('de', 'en') for l, a in enumerate(WORDS[:3]) for b in WORDS[3:15]]        # 72


def data(path, names=None):
    pd.DataFrame(ROWS).assign(label=[r['label'] if names is None else names[r['label']] for r in ROWS]).to_csv(path, index=False)
    return str(path)


def teacher(folder, n=3, **config):
    "A folder as `trainer.save_model` leaves it: outputs without names, unless the script gave some"
    tiny_model('bert', 4, [f'LABEL_{i}' for i in range(n)], seed=3).save_pretrained(folder)
    words_of(*WORDS).save_pretrained(folder)
    return str(edited(folder, **config))


def names(*ls): return dict(id2label=dict(enumerate(ls)), label2id={l: i for i, l in enumerate(ls)})


def config(tmp_path, dataset, t, **kw): return RunConfig(dataset=dataset, teacher=t, out_dir=str(tmp_path/'runs'), epochs=1, batch_size=32, **kw)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch): monkeypatch.setenv('PRIVKD_CACHE', str(tmp_path/'cache'))


def student_labels(run): return model_labels(SimpleNamespace(config=load_encoder(str(run.path/'model')).config))


def test_a_plain_trainers_folder_with_integer_labels(tmp_path, capsys):
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, Trainer, TrainingArguments
    base, csv = teacher(tmp_path/'base'), data(tmp_path/'mine.csv')
    tok, df = AutoTokenizer.from_pretrained(base), pd.read_csv(csv)
    ds = Dataset.from_pandas(df).map(lambda b: tok(b['text'], truncation=True, max_length=16), batched=True)
    args = TrainingArguments(str(tmp_path/'work'), num_train_epochs=8, per_device_train_batch_size=8, learning_rate=1e-2, report_to=[], save_strategy='no', use_cpu=True, disable_tqdm=True)
    trainer = Trainer(AutoModelForSequenceClassification.from_pretrained(base), args, train_dataset=ds, data_collator=DataCollatorWithPadding(tok), processing_class=tok)
    trainer.train(), trainer.save_model(tmp_path/'out')
    run = distil(config(tmp_path, csv, str(tmp_path/'out')))
    said = capsys.readouterr().out
    assert 'if the teacher was trained on texts of mine.csv, some of them are test texts now' in said and 'of your 72 texts (the others: ' in said
    p = run.read('predictions').query("model == 'teacher'")
    assert (p.gold == p.predicted).mean() > .9 and student_labels(run) == ['0', '1', '2']          # its outputs mean what the script meant


def test_labels_name_the_outputs_in_their_order(tmp_path):
    csv, t = data(tmp_path/'mine.csv', ['yes', 'no', 'maybe']), teacher(tmp_path/'t')
    task = load_data(config(tmp_path, csv, t, labels='yes,no,maybe'))
    assert task.labels == ['maybe', 'no', 'yes']
    with pytest.raises(InputError, match=r"\(0 of 3 labels agree; .*\); name the teacher's 3 outputs in the order that it was trained with: labels='NAME0,NAME1,NAME2'"): distil(config(tmp_path, csv, t))
    run, other = (distil(config(tmp_path, csv, t, labels=l, losses='ce')) for l in ('yes,no,maybe', 'maybe,no,yes'))
    assert run.path != other.path
    p, q = (r.read('predictions').query("model == 'teacher'").predicted.tolist() for r in (run, other))
    assert [dict(yes='maybe', maybe='yes').get(l, l) for l in p] == q and set(p) <= {'yes', 'no', 'maybe'}
    for bad, says in [('yes,no', 'labels=yes,no are 2 different names, but the teacher has 3 outputs'), ('yes,no,no', 'are 2 different names')]:
        with pytest.raises(InputError, match=says): distil(config(tmp_path, csv, t, labels=bad))
    with pytest.raises(InputError, match="labels= has 'mayby', the data 'maybe'; did you mean 'maybe'"): distil(config(tmp_path, csv, t, labels='yes,no,mayby'))
    with pytest.raises(InputError, match="labels= does not name 'maybe', which the data has"): distil(config(tmp_path, csv, t, labels='yes,no,x'))
    with pytest.raises(InputError, match='names the outputs of a teacher of yours'): RunConfig(dataset=csv, labels='a,b')


@pytest.mark.parametrize('losses', ['paper', 'ce,logits'])
def test_a_teacher_with_more_labels_gives_its_student_all(tmp_path, losses):
    csv, t = data(tmp_path/'mine.csv', ['yes', 'no', 'maybe']), teacher(tmp_path/'t', 5, **names('no', 'later', 'yes', 'maybe', 'never'))
    run = distil(config(tmp_path, csv, t, losses=losses, init='copy_ft'))
    assert student_labels(run) == ['no', 'later', 'yes', 'maybe', 'never']
    teachers, students = load_encoder(t), load_encoder(str(run.path/'model'))
    assert students.classifier.weight.shape == teachers.classifier.weight.shape
    p = run.read('predictions')
    assert set(p.gold) == {'yes', 'no', 'maybe'} and len(run.history) and run.history.value.notna().all()
    task = load_data(config(tmp_path, csv, t))
    assert 'the teacher knows 2 labels that your texts do not have (later, never); the student learns them from the teacher alone' in task.said


def test_numbers_of_some_outputs_are_enough(tmp_path):
    assert load_data(config(tmp_path, data(tmp_path/'mine.csv'), teacher(tmp_path/'t', 5))).labels == ['0', '1', '2', '3', '4']
    floats = data(tmp_path/'floats.csv', ['0.0', '1.0', '2.0'])
    assert load_data(config(tmp_path, floats, str(tmp_path/'t'))).labels == ['0.0', '1.0', '2.0', '3', '4']
    from_one = data(tmp_path/'one.csv', ['1', '2', '3'])
    three = teacher(tmp_path/'three')
    with pytest.raises(InputError, match="0 of 3 labels agree.*labels='NAME0,NAME1,NAME2'"): distil(config(tmp_path, from_one, three))
    assert load_data(config(tmp_path, from_one, three, labels='1,2,3')).labels == ['1', '2', '3']


def test_a_label_that_the_teacher_does_not_know_is_named(tmp_path):
    csv = data(tmp_path/'mine.csv', ['yes', 'no', 'perhaps'])
    with pytest.raises(InputError, match=r"\(2 of 3 labels agree; only in the teacher: 'maybe'; only in the data: 'perhaps'\); remove the texts of labels that it does not know"):
        distil(config(tmp_path, csv, teacher(tmp_path/'a', **names('yes', 'no', 'maybe'))))
    with pytest.raises(InputError, match="'Yes' and 'yes' differ in their spelling only, so write them alike"): distil(config(tmp_path, csv, teacher(tmp_path/'b', **names('Yes', 'no', 'perhaps'))))
    with pytest.raises(InputError, match='contradicts the teacher, which names its outputs yes, no, perhaps; leave labels out'):
        distil(config(tmp_path, csv, teacher(tmp_path/'c', **names('yes', 'no', 'perhaps')), labels='no,yes,perhaps'))
    assert not list((tmp_path/'runs').glob('*/metrics.parquet'))


def test_an_adapters_folder(tmp_path, monkeypatch):
    tiny_model('bert', 4, ['a', 'b', 'c'], seed=3).bert.save_pretrained(tmp_path/'base')
    words_of(*WORDS).save_pretrained(tmp_path/'base')
    adapter(tmp_path/'lora', tmp_path/'base')
    if importlib.util.find_spec('peft') is None: monkeypatch.setitem(sys.modules, 'peft', SimpleNamespace(PeftModel=PeftModel))
    run = distil(config(tmp_path, data(tmp_path/'mine.csv'), str(tmp_path/'lora')))
    assert student_labels(run) == ['0', '1', '2']
    merged, student = load_encoder(str(tmp_path/'lora')), load_file(run.path/'model'/'model.safetensors')
    assert merged.config.num_hidden_layers == 4 and len({k.split('.')[3] for k in student if '.layer.' in k}) == 2


def test_a_name_on_the_hub(hub, tmp_path):
    from test_hub import Hub
    teacher(tmp_path/'repo')
    Hub.repositories[('models', 'someone/teacher')] = tmp_path/'repo'
    code = f"""
from privkd_nb.jobs.config import RunConfig
from privkd_nb.jobs.distil import distil
run = distil(RunConfig(dataset={data(tmp_path/'mine.csv', ['yes', 'no', 'maybe'])!r}, teacher='someone/teacher', labels='yes,no,maybe', out_dir={str(tmp_path/'runs')!r}, epochs=1))
print(run.config['teacher'], run.environment['teacher']['name'], run.config['labels'], run.finished)
"""
    p = client(code, hub, tmp_path)
    assert p.stdout.splitlines()[-1].split()[1:] == ['someone/teacher', 'yes,no,maybe', 'True'] and 'someone/teacher@' in p.stdout, p.stderr[-1500:]


def test_a_teacher_that_knows_nothing_is_said_once_and_by_no_tiny_run(tmp_path):
    from privkd_nb.jobs.report import summary
    from privkd_nb.jobs.study import run_study
    csv, t = data(tmp_path/'mine.csv', ['yes', 'no', 'maybe']), teacher(tmp_path/'t')
    edit, lines = dict(labels='yes,no,maybe', losses='ce', init='copy_ft'), []
    runs = run_study([config(tmp_path, csv, t, seed=s, **edit) for s in (0, 1)], report=lines.append)
    p = runs[0].read('predictions').query("model == 'teacher'")
    assert (p.gold == p.predicted).mean() <= p.gold.value_counts(normalize=True).max()                   # untrained
    assert sum('is no better than always giving the most frequent test label (0.' in l for l in lines) == 1
    says = summary(runs[0], plain=True)
    assert says.count("so it has nothing to teach. Are labels in the order of the teacher's outputs?") == 1 and 'keeps' not in says and 'in no language' not in says
    tiny = summary(distil(config(tmp_path, csv, t, tiny=True, **edit)), plain=True)
    assert tiny.endswith('its scores mean nothing.') and 'keeps' not in tiny and 'nothing to teach' not in tiny
    good = Run(tmp_path/'runs'/runs[1].path.name)
    m = good.metrics
    m.loc[(m.model == 'teacher') & (m.metric == 'accuracy'), 'value'] = .5
    (good.path/'done.json').unlink()                                                                   # edited below
    good.write('metrics', m)
    assert 'the student keeps ' in (says := summary(good, plain=True)) and 'nothing to teach' not in says
