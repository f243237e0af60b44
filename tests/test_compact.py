"Compacted runs are the same runs: read in place, on record, never lost, and damage is named."
import json, os, shutil, signal, subprocess, sys, time, warnings
from pathlib import Path

import numpy as np, pandas as pd, polars as pl, pytest
from conftest import load_tool
from privkd_nb.analysis.compact import compact, to_compact
from privkd_nb.analysis.compare import by_language, differences, overall
from privkd_nb.analysis.load import Study
from privkd_nb.analysis.overview import list_runs
from privkd_nb.analysis.pack import pack
from privkd_nb.core import InputError, read_json
from privkd_nb.finding import find_run
from privkd_nb.record import COMPACT, DONE, INDEX, Run, compacted_of


@pytest.fixture(scope='module')
def scale(): return load_tool('scale')

@pytest.fixture(scope='module')
def made(scale, tmp_path_factory):
    "Twenty run folders, some of them with models"
    folder = scale.make_runs(tmp_path_factory.mktemp('runs')/'runs', 20)
    for p in sorted(folder.iterdir())[:3]: (p/'model').mkdir(); (p/'model'/'model.safetensors').write_bytes(b'weights')
    return folder

@pytest.fixture(scope='module')
def folded(made, tmp_path_factory):
    "The same, compacted, without their folders"
    folder = shutil.copytree(made, tmp_path_factory.mktemp('compacted')/'runs')
    return folder, compact(folder, remove=True, report=no_lines)

@pytest.fixture
def few(made, tmp_path):
    "Four of the folders, to spoil"
    for p in sorted(made.iterdir())[:4]: shutil.copytree(p, tmp_path/'runs'/p.name)
    return tmp_path/'runs'

def no_lines(line): pass

def values(t): # Of scores or histories, whatever their order and types
    key = [c for c in ('run', 'arm', 'dataset', 'step', 'split', 'group', 'language', 'seen', 'model', 'metric') if c in t]
    return dict(zip(map(tuple, t[key].astype(object).astype('str').values.tolist()), t.value))

def same(a, b):
    assert list(a.configs) == list(b.configs) and all(a.configs[r] == b.configs[r] for r in b.configs) and a.arms == b.arms and a.metric == b.metric
    assert values(a.scores) == values(b.scores) and values(a.history) == values(b.history)


def test_a_compacted_study_is_the_same_study(made, folded):
    (folder, done), a = folded, Study.open(made)
    assert (done.new, done.runs, done.left) == (20, 20, {}) and done.freed > 1e6 and done.tables == 0 and done.models == 3*7
    assert sorted(p.name for p in folder.iterdir() if not p.name.startswith('.')) == sorted([COMPACT, *list(a.configs)[:3]])   # those with models
    b = Study.open(folder)
    same(b, a)
    for r in list(a.configs)[::7]:
        columns = ['id', 'language', 'model', 'gold', 'predicted', 'probability', 'text']
        theirs, ours = (s.predictions(r)[columns].sort_values(columns[:3], ignore_index=True) for s in (a, b))
        pd.testing.assert_frame_equal(theirs, ours, check_dtype=False)
        assert a.card(r) == b.card(r) and Run(made/r).environment == Run(folder/r).environment
        for name in ('metrics', 'history'):
            theirs, ours = (t.assign(**{c: t[c].astype(str) for c in t if c != 'value'}) for t in (Run(f/r).read(name) for f in (made, folder)))
            pd.testing.assert_frame_equal(theirs, ours, check_dtype=False, rtol=0, atol=0)


def test_lists_tables_and_names_are_the_same(made, folded):
    folder, a, b = folded[0], list_runs(made), list_runs(folded[0])
    pd.testing.assert_frame_equal(a.drop(columns='path'), b.drop(columns='path'), check_dtype=False)
    assert b.score.notna().all() and [find_run(n, folder).path.name for n in ('1', 'last', b.run[3][:8])] == [b.run[0], b.run[19], b.run[3]]
    where = dict(dataset='task00', scenario='all')
    one, other = Study.open(made).choose(**where), Study.open(folder).choose(**where)
    for table in (overall, by_language, lambda s: differences(s, one.arms[0])):
        pd.testing.assert_frame_equal(table(one.scores), table(other.scores), check_dtype=False, check_categorical=False)
    assert one.scores.arm.astype(str).tolist() and set(other.scores.run) == {r for r, c in Study.open(made).configs.items() if c['scenario'] == 'all'}


def test_a_chosen_part_reads_its_own_files_alone(folded, tmp_path):
    folder = shutil.copytree(folded[0], tmp_path/'runs')
    study = Study.open(folder)
    others = [p for p in (folder/COMPACT/'scores').rglob('*.parquet') if 'scenario=all' not in str(p)]
    assert others
    for p in others: p.write_bytes(b'no table')
    assert len(study.choose(scenario='all').scores)
    with pytest.raises(InputError, match='bytes instead of'): study.scores


def test_a_compacted_run_is_on_record_and_a_new_one_is_beside_it(folded, made, scale, tmp_path):
    folder = shutil.copytree(folded[0], tmp_path/'runs')
    name = next(r for r in Study.open(folder).configs if not (folder/r).exists())
    run = Run(folder/name)
    assert run.finished and run.on_record and Run.load(run.path).config == Run(made/name).config and not run.path.exists()
    new = scale.make_runs(tmp_path/'more', 23)
    for p in new.iterdir():
        if p.name not in Study.open(folder).configs: shutil.move(p, folder/p.name)
    both = Study.open(folder)
    assert len(both) == 23 and len(list_runs(folder)) == 23 and both.scores.run.nunique() == 23 and both.history.run.nunique() == 23
    parts = len(compacted_of(folder).parts)
    done = compact(folder, report=no_lines)
    assert (done.new, done.runs) == (3, 23) and done.parts <= parts+1 and done.tables > 0
    same(Study.open(folder), both)
    assert compact(folder, report=no_lines)[:2] == (0, 23)


def test_a_run_that_was_made_again_replaces_what_was_compacted(few):
    compact(few, report=no_lines)
    run = Run(sorted(p for p in few.iterdir() if (p/DONE).exists())[0])
    old, environment = run.metrics, run.environment
    assert run.compacted
    run.begin(run.config, environment | dict(again=True))
    assert not run.finished and run.compacted is None and len(Study.open(few)) == 3        # as with any run that is begun anew
    run.write('metrics', old.assign(value=old.value*.5)); run.finish()
    assert run.compacted is None and run.finished and 'again' in run.environment
    assert Study.open(few).scores.query('run == @run.path.name').value.max() < old.value.max()
    assert compact(few, remove=True, report=no_lines)[:3] == (1, 4, len(compacted_of(few).parts))
    assert run.compacted and run.environment['again'] and np.allclose(run.metrics.value, old.value*.5)


def test_what_cannot_be_compacted_keeps_its_folder_and_is_named(few):
    a, b, c, d = sorted(few.iterdir())
    (a/DONE).unlink()
    (b/'predictions.parquet').write_bytes((b/'predictions.parquet').read_bytes()[:-9]+b'123456789')
    shutil.copytree(c, few/'spare')
    runs, left = to_compact(few)
    assert runs == [c.name, d.name] and left[a.name] == 'unfinished' and 'predictions.parquet' in left[b.name] and left['spare'] == f'a copy of {c.name}'
    done = compact(few, remove=True, report=no_lines)
    assert done.left.keys() == left.keys() and (a/'config.json').exists() and (b/DONE).exists() and (few/'spare'/DONE).exists()
    with pytest.warns(UserWarning, match='left out'): assert len(Study.open(few)) == 2


def test_thinned_histories_keep_scores_and_are_compared_as_thinned(few):
    before = Study.open(few).history
    done = compact(few, points=5, remove=True, report=no_lines)
    now = Study.open(few).history
    assert done.freed and len(now[now.split == 'train']) < len(before[before.split == 'train'])/5
    assert values(now[now.split != 'train']) == values(before[before.split != 'train'])


def test_tables_read_in_place_with_pyarrow_and_polars(folded):
    import pyarrow.dataset as ds
    root, study = folded[0]/COMPACT, Study.open(folded[0])
    p = pl.scan_parquet(root/'scores', hive_partitioning=True).filter(scenario='all', init='copy_ft').collect()
    t = ds.dataset(root/'scores', partitioning='hive').to_table(filter=(ds.field('scenario') == 'all') & (ds.field('init') == 'copy_ft'))
    assert len(p) == len(t) == len(study.choose(scenario='all', init='copy_ft').scores) > 0


@pytest.mark.parametrize('table', ['runs', 'scores', 'history', 'predictions', 'texts'])
def test_a_changed_byte_is_named_in_a_sentence(table, folded, tmp_path):
    from privkd_nb.jobs.verify import repair, verify
    folder = shutil.copytree(folded[0], tmp_path/'runs')
    file = next((folder/COMPACT/table).rglob('*.parquet'))
    whole = file.read_bytes()
    file.write_bytes(whole[:len(whole)//2]+bytes([whole[len(whole)//2]^1])+whole[len(whole)//2+1:])
    with pytest.raises(InputError, match='has other content than was written; take another copy') as e:
        study = Study.open(folder); study.scores, study.history
        for r in study.configs: study.predictions(r)
    assert str(file) in str(e.value)
    found = verify(folder)
    assert [f.file for f in found.faults] == [file.relative_to(folder/COMPACT).as_posix()] and 'must be made again' in found.faults[0].cure
    repair(found)
    assert verify(folder).faults == [] and 0 < len(Study.open(folder)) < 20
    assert read_json(folder/COMPACT/INDEX)['version'] == 1


def test_runs_of_a_damaged_part_are_not_on_record(folded, tmp_path):
    from types import SimpleNamespace
    from privkd_nb.studies.plan import Plan, state_of
    folder = shutil.copytree(folded[0], tmp_path/'runs')
    runs = list(compacted_of(folder).rows)
    def states(): return {r: state_of(SimpleNamespace(name=r, cfg=SimpleNamespace(out_dir=str(folder), redo=False))) for r in runs}
    assert set(states().values()) == {'on record'}
    file = max((folder/COMPACT/'scores').rglob('*.parquet'), key=lambda p: p.stat().st_size)
    whole, name = file.read_bytes(), file.relative_to(folder).as_posix()
    file.write_bytes(whole[:len(whole)//2]+bytes([whole[len(whole)//2]^1])+whole[len(whole)//2+1:])
    found, n = states(), pl.read_parquet(file, hive_partitioning=False)['run'].n_unique()
    assert list(found.values()).count('damaged') == n > 1
    [said] = Plan(SimpleNamespace(out_dir=folder), found, [], {}).damage_words()
    assert f'{name} has other content than was written ({n} runs)' in said and said.count(name) == 1
    with pytest.warns(UserWarning, match=f'{name} has other content'): t = list_runs(folder)
    assert set(t.run[t.state == 'damaged']) == {r for r, s in found.items() if s == 'damaged'}


def test_a_part_is_read_once_however_many_runs_ask(folded, monkeypatch):
    import privkd_nb.record as record
    read, real = [], record.remembered_hash
    stored = record.Compacted(folded[0])
    monkeypatch.setattr(record, 'remembered_hash', lambda p, *a: read.append(p) or real(p, *a))
    assert not any(stored.faults(r) for r in stored.rows) and len(read) == len(set(read)) == len(stored.files)


def test_compacted_runs_tell_their_times(few):
    from privkd_nb.core import write_json
    from privkd_nb.studies.times import measured_runs
    for i, p in enumerate(sorted(few.iterdir())):
        run = Run(p)
        write_json(p/'environment.json', run.environment | dict(phases=dict(training=dict(seconds=40.+i)), seconds=60., why='CPU'))
        write_json(p/'progress.json', dict(state='finished', steps=int(run.read('history').step.max())))
        run.finish()
    def times(): return sorted(tuple(map(str, (m.step, m.rest, m.steps, m.size, m.device, sorted(m.config.items())))) for m in measured_runs(few))
    before = times()
    compact(few, report=no_lines)
    assert len(before) == 4 and times() == before                               # told twice, counted once
    compact(few, remove=True, report=no_lines)
    assert not list(few.glob(f'*/{DONE}')) and times() == before


KILLED = """
import os, signal, sys
from privkd_nb.analysis import compact, load, overview           # nothing of Polars has run yet, so that a fork is safe
def child(folder, at):
    seen = 0
    def hook(event, args):
        nonlocal seen
        if event in ('os.rename', 'os.remove', 'os.rmdir', 'os.mkdir') and folder in str(args[0]):
            seen += 1
            if seen == at: os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    compact.compact(folder, remove=True, report=lambda s: None)
    os._exit(seen)
def run(*a):
    if not (pid := os.fork()): child(*a)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
first, *folders = sys.argv[1:]
steps = run(first, 0)
print(steps, *(run(f, 1+i*steps//len(folders)) for i, f in enumerate(folders)))
"""

def test_a_process_that_is_killed_loses_nothing(few, tmp_path):
    before, names = Study.open(few), sorted(p.name for p in few.iterdir())
    folders = [shutil.copytree(few, tmp_path/f'k{i}'/'runs') for i in range(8)]
    p = subprocess.run([sys.executable, '-c', KILLED, *map(str, folders)], capture_output=True, text=True, timeout=300)
    steps, *codes = map(int, p.stdout.split())
    assert steps > 30 and codes == [-9]*7, p.stdout+p.stderr
    whole = 0
    for folder in folders[1:]:
        same(Study.open(folder), before)
        assert all(Run(folder/r).on_record for r in names)
        for r in names: assert len(Run(folder/r).predictions) == len(Run(few/r).predictions)
        whole += sum((folder/r/'predictions.parquet').exists() for r in names)
        assert compact(folder, remove=True, report=no_lines).runs == 4
        same(Study.open(folder), before)
        left = {q.relative_to(folder/COMPACT).as_posix() for q in (folder/COMPACT).rglob('*') if q.is_file()}
        assert left == {INDEX, *compacted_of(folder).files} and not any((folder/r/'metrics.parquet').exists() for r in names)
    assert 0 < whole < 4*7                            # killed while it compacted, and while it emptied folders


def test_resuming_trains_nothing_that_is_compacted(few, monkeypatch):
    from privkd_nb.jobs import study as jobs
    compact(few, remove=True, report=no_lines)
    class Config:
        redo, out_dir = False, str(few)
        def __init__(self, r): self.run = r
        def identity(self): return Run(few/self.run).config
    assert not any(jobs.is_free(Config(r)) for r in compacted_of(few).rows)


def test_show_compare_recommend_pack_and_the_explorer_read_both(folded, tmp_path, capsys):
    from privkd_nb.analysis.recommend import recommend
    from privkd_nb.apps.compare import Comparison
    from privkd_nb.apps.explorer_data import explorer_data
    from privkd_nb.apps.explorer_views import Views
    from privkd_nb.cli.console import main
    folder, where = folded[0], dict(dataset='task00', scenario='all', fraction=.1)
    assert main(['show', '2', '--runs', str(folder)]) == 0 and 'copied' in capsys.readouterr().out
    assert main(['list', str(folder), '--most', '2']) == 0 and '2 of 20 runs' in capsys.readouterr().out
    assert len(Comparison(folder, **where).table()) and len(recommend(folder, **where).table)
    study = Study.open(folder).choose(scenario='cl')
    data = explorer_data(Views(study))
    assert len(data['cells']) == 2 and len(data['examples']['runs']) == 2
    assert len(Study.open(pack(study, tmp_path/'packed'))) == 2


def test_refusals_are_one_sentence(tmp_path, few, capsys):
    from privkd_nb.cli.console import main
    assert main(['compact', str(tmp_path/'none')]) == 2 and 'is not a folder' in capsys.readouterr().err
    (tmp_path/'empty').mkdir()
    assert main(['compact', str(tmp_path/'empty')]) == 2 and 'holds no finished run' in capsys.readouterr().err
    with pytest.raises(InputError, match='points=-1'): compact(few, points=-1)
    from filelock import FileLock
    with FileLock(few/f'.{COMPACT}.lock'), pytest.raises(InputError, match='another process'): compact(few)
    assert main(['compact', str(few)]) == 0 and '--remove frees' in capsys.readouterr().out


def test_ten_thousand_compacted_runs_answer_in_a_fraction_of_a_second(scale, tmp_path):
    taken = scale.measure(scale.make_compacted(tmp_path/'runs', 10_008, most=5000), report=no_lines)
    slow = {k: cpu for k, (_, cpu) in taken.items() if cpu > 2}
    assert not slow and sum(cpu for _, cpu in taken.values()) < 4, taken          # about 1 s
