"A run is what is in its data and models: equal content is the same run, other content another; and everything random is drawn from its seed."
import json, os, shutil, subprocess, sys, time
from dataclasses import replace
from pathlib import Path

import pandas as pd, pytest, torch
from safetensors.torch import load_file, save_file

from privkd_nb.core import InputError, content_key, remembered_hash
from privkd_nb.data.report import data_report
from privkd_nb.data.tasks import few_rows, hold_out, load_task, take_fraction
from privkd_nb.jobs.config import RunConfig
from privkd_nb.jobs.distil import StoppedError, distil
from privkd_nb.jobs.fine_tune import base_path, load_data, load_models, teacher_key, teacher_path
from privkd_nb.models.encoders import weights_hash
from privkd_nb.models.loading import load_encoder, load_tokenizer

ROOT = Path(__file__).parent.parent


def start(code, cache, **kw):
    "A process of its own, with a cache of its own"
    return subprocess.Popen([sys.executable, '-c', code], env={**os.environ, 'PRIVKD_CACHE': str(cache), 'PYTHONPATH': str(ROOT)}, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kw)


MAKE = """
import sys, torch
from pathlib import Path
from privkd_nb.core import file_hash
from privkd_nb.jobs.config import RunConfig
from privkd_nb.jobs.distil import distil
torch.rand({draws})                       # a process that has drawn before
run = distil(RunConfig(tiny=True, languages='de,en', out_dir={out!r}, {more}))
print(run.path.name, run.environment['teacher']['hash'], file_hash(run.path/'model/model.safetensors'), file_hash(run.path/'metrics.parquet'))
"""


def test_two_empty_caches_give_the_same_teacher_and_student(tmp_path):
    "In two processes, one of which has used the global random state before"
    two = [start(MAKE.format(draws=n, out=str(tmp_path/f'runs{n}'), more=''), tmp_path/f'cache{n}') for n in (1, 7)]
    ends = [p.communicate(timeout=300) for p in two]
    assert [p.returncode for p in two] == [0, 0], ends[0][1][-2000:]
    a, b = (out.splitlines()[-1].split() for out, _ in ends)                # before it stands what was trained on
    assert a == b and len(a) == 4


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
    "A folder with a teacher, and its configuration"
    cfg = RunConfig(tiny=True, languages='de,en', losses='ce', out_dir=str(tmp_path_factory.mktemp('runs')))
    folder = tmp_path_factory.mktemp('teacher')/'mine'
    shutil.copytree(teacher_path(cfg, base_path(cfg)), folder)
    return replace(cfg, teacher=str(folder))


def with_zero_output(folder):
    weights = load_file(folder/'model.safetensors')
    save_file({k: v*0 if 'out_proj' in k else v for k,v in weights.items()}, folder/'model.safetensors', {'format': 'pt'})


def test_a_retrained_teacher_in_the_same_folder_is_another_run(teacher, tmp_path):
    cfg = replace(teacher, teacher=str(shutil.copytree(teacher.teacher, tmp_path/'t')))
    first = distil(cfg)
    with_zero_output(tmp_path/'t')
    second = distil(cfg)
    assert second.path != first.path and second.environment['teacher']['hash'] != first.environment['teacher']['hash']


@pytest.mark.parametrize('file, text', [('config.json', None), ('tokenizer_config.json', '{}')])
def test_what_is_in_a_teachers_folder_names_the_run(teacher, tmp_path, file, text):
    moved = Path(shutil.copytree(teacher.teacher, tmp_path/'elsewhere'/'renamed'))
    cfg = replace(teacher, teacher=str(moved))
    assert cfg.identity() == teacher.identity() and content_key(cfg.identity()) == content_key(replace(cfg, teacher=os.path.relpath(moved)).identity())
    old = json.loads((moved/file).read_text())
    (moved/file).write_text(text or json.dumps(old | dict(layer_norm_eps=.1)))
    assert cfg.identity() != teacher.identity()


def test_bases_with_equal_weights_and_other_tokenizers_give_two_teachers(tmp_path):
    cfg = RunConfig(tiny=True, languages='de,en')
    base = base_path(cfg)
    task, other = load_data(cfg, 'teacher'), Path(shutil.copytree(base, tmp_path/'base'))
    assert teacher_key(cfg, task, str(other)) == teacher_key(cfg, task, base)
    text = (other/'tokenizer.json').read_text().replace('"byte_fallback": true', '"byte_fallback":  true')
    keys = {teacher_key(cfg, task, base)}
    for name, new in {'tokenizer.json': text+' ', 'config.json': (other/'config.json').read_text()+' '}.items():
        (other/name).write_text(new)
        keys.add(teacher_key(cfg, task, str(other)))
    assert len(keys) == 3


def stop_at(step):
    from transformers import TrainerCallback
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kw):
            if state.global_step == step: (Path(args.output_dir).parent/'stop').touch()
    return Stop()


def test_an_automatic_teacher_that_came_out_differently_does_not_take_over_an_unfinished_run(tmp_path, monkeypatch):
    "Its name is the same, because it is named by its recipe: what it is stands in the run's environment"
    monkeypatch.setenv('PRIVKD_CACHE', str(tmp_path/'cache'))
    cfg = RunConfig(tiny=True, languages='de,en', losses='ce', batch_size=4, out_dir=str(tmp_path/'runs'))
    with pytest.raises(StoppedError): distil(cfg, callbacks=[stop_at(9)])
    folder = Path(teacher_path(cfg, base_path(cfg)))
    shutil.rmtree(folder.parent)
    import privkd_nb.jobs.fine_tune as ft
    real = ft.seed_for
    monkeypatch.setattr(ft, 'seed_for', lambda seed, *p: real(seed+1, *p))                   # another machine, as it were
    with pytest.warns(UserWarning, match='was begun with another teacher and another source; it begins anew'): run = distil(cfg)
    h = run.history
    assert run.finished and h[h.split == 'train'].step.min() == 1 and len(h[(h.split == 'train') & (h.metric == 'loss')]) == h.step.max()


def contents(df): return sorted(map(str, df.drop(columns='id').to_numpy().tolist()))


@pytest.mark.parametrize('name', ['tsm', 'uner'])
def test_a_shuffled_file_gives_the_same_subset(shared_data, name):
    train = load_task(name, shared_data).train
    mixed = train.sample(frac=1, random_state=1)
    for f in (.03, .1):
        one, two = take_fraction(train, f), take_fraction(mixed, f)
        assert len(one) < len(train) and contents(one) == contents(two)
    assert contents(hold_out(train)[1]) == contents(hold_out(mixed.reset_index(drop=True))[1])
    assert contents(few_rows(train, 20)) == contents(few_rows(mixed, 20)) != contents(few_rows(train, 20, seed=1))


def test_equal_rows_are_counted_not_merged():
    df = pd.DataFrame(dict(id=range(40), text=['same']*20+[f't{i}' for i in range(20)], label='a', language='en'))
    assert [len(take_fraction(df, f)) for f in (.25, .5)] == [10, 20] and len(few_rows(df, 7)) == 7


def test_a_quick_trial_scores_the_same_texts_for_every_seed():
    a, b = (load_data(RunConfig(tiny=True, seed=s)) for s in (0, 1))
    for split in ('validation', 'test'): assert getattr(a, split).equals(getattr(b, split))
    assert not a.train.equals(b.train)


def test_a_remembered_hash_notices_a_change(tmp_path, monkeypatch):
    monkeypatch.setenv('PRIVKD_CACHE', str(tmp_path/'cache'))
    f = tmp_path/'f'
    f.write_bytes(b'one')
    old = f.stat()
    seen = {remembered_hash(f, least=1)}
    f.write_bytes(b'two')
    os.utime(f, ns=(old.st_atime_ns, old.st_mtime_ns))                     # same path, size and time of modification
    assert remembered_hash(f, least=1) not in seen


def test_nothing_random_depends_on_what_was_drawn_before(tmp_path):
    "The projection of a narrow student, dropout and the order of the data come from the run's seed"
    from privkd_nb.data.encoding import encode
    from privkd_nb.init.spec import InitSpec
    from privkd_nb.init.student import init_student
    from privkd_nb.models.tiny import tiny_model
    from privkd_nb.models.tokenizer import train_tokenizer
    from privkd_nb.train.arguments import training_args
    from privkd_nb.train.trainer import DistillTrainer
    task = load_task(languages='en', fraction=.1)
    tok = train_tokenizer(task.train.text, 400)
    data, teacher = encode(task.train, tok, task.labels), tiny_model(layers=4, labels=task.labels, vocab_size=400)
    def student(name, seed, draws=0):
        student, card = init_student(InitSpec('scratch', config=dict(hidden_size=16, intermediate_size=32)), teacher)
        tr = DistillTrainer(student, teacher, 'ce,hidden', card.layers, train_dataset=data, eval_dataset=data, processing_class=tok,
                            args=training_args(tmp_path/name, len(data), max_steps=3, seed=seed, use_cpu=True))
        torch.rand(draws)                                                       # between making a trainer and training
        projection = tr.model.distill_projection.weight.detach().clone()
        tr.train()
        return weights_hash(tr.model), projection
    (one, p), (two, q), (other, r) = student('a', 0), student('b', 0, 9), student('c', 1)
    assert one == two != other and torch.equal(p, q) and not torch.equal(p, r)


@pytest.mark.parametrize('text', ['', '{"num_hidden_layers": 4, "mod', '[]', 'null', '"x"', 'version https://git-lfs.github.com/spec/v1', '<html></html>'])
def test_a_broken_configuration_is_one_sentence_in_the_first_second(teacher, tmp_path, text):
    folder = Path(shutil.copytree(teacher.teacher, tmp_path/'t'))
    (folder/'config.json').write_text(text)
    for k in ('teacher', 'base'):
        with pytest.raises(InputError, match='config.json'): RunConfig(tiny=True, **{k: str(folder)})


def test_a_huge_number_of_layers_costs_nothing(teacher, tmp_path):
    folder = Path(shutil.copytree(teacher.teacher, tmp_path/'t'))
    config = json.loads((folder/'config.json').read_text())
    for changed in (dict(num_hidden_layers=10**9), dict(num_hidden_layers='6'), dict(id2label=None, num_labels=10**9)):
        (folder/'config.json').write_text(json.dumps(config | changed))
        start = time.process_time()
        cfg = replace(teacher, teacher=str(folder))
        for load in (load_encoder, load_tokenizer):
            with pytest.raises(InputError): load(cfg.teacher)
        assert time.process_time()-start < 5


def test_local_copies_of_a_catalogs_task_name_the_run(shared_data, tmp_path):
    shutil.copytree(shared_data/'tsm', tmp_path/'a'/'tsm')
    shutil.copytree(shared_data/'tsm', tmp_path/'b'/'tsm')
    def cfg(folder): return RunConfig(dataset='tsm', data_dir=str(tmp_path/folder), tiny=True)
    first = cfg('a').identity()
    assert cfg('b').identity() == first
    rows = pd.read_parquet(tmp_path/'b'/'tsm'/'train.parquet')
    rows.iloc[::-1].to_parquet(tmp_path/'b'/'tsm'/'train.parquet')
    assert cfg('b').identity() != first


def test_what_was_loaded_before_a_change_does_not_bear_the_new_name(teacher, tmp_path):
    cfg = replace(teacher, teacher=str(shutil.copytree(teacher.teacher, tmp_path/'t')), out_dir=str(tmp_path/'runs'))
    task = load_data(cfg)
    models = load_models(cfg, task)
    with_zero_output(tmp_path/'t')
    with pytest.raises(InputError, match="is not what was loaded"): distil(cfg, task, models)
    own = tmp_path/'mine.csv'
    own.write_text('text,label,language,split\n'+''.join(f'{t} {i},{t},en,{s}\n' for i in range(6) for t in 'ab' for s in ('train', 'test')))
    mine = RunConfig(dataset=str(own), tiny=True, losses='ce', out_dir=cfg.out_dir)
    task = load_data(mine)
    own.write_text(own.read_text().replace('a 1', 'z 1'))
    with pytest.raises(InputError, match='load the data again'): distil(mine, task)


def test_one_class_and_no_room_are_refused_before_a_teacher_is_made(tmp_path):
    own = tmp_path/'mine.csv'
    own.write_text('text,label,language,split\n'+''.join(f'text {i},a,en,{s}\n' for i in range(9) for s in ('train', 'test')))
    with pytest.raises(InputError, match="all rows of .* have the label 'a'"): load_data(RunConfig(dataset=str(own), tiny=True))
    with pytest.raises(InputError, match='max_length=1 leaves no room'): RunConfig(max_length=1)


def test_texts_of_the_whole_training_split_count_as_leaks(tmp_path):
    own = tmp_path/'mine.csv'
    own.write_text('text,label,language,split\n'+''.join(f'{t} {i},{t},en,{s}\n' for i in range(50) for t in 'ab' for s in ('train', 'test')))
    report = data_report(load_data(RunConfig(dataset=str(own), fraction=.1)))
    assert report.shared['test in train'] == 90 and any('90 of 100 test texts' in w for w in report.warnings)     # ten were held out
