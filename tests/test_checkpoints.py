"What is trusted when a run goes on: checkpoints, the history, cached models, and the files of a finished run."
import shutil, warnings
from dataclasses import replace
from pathlib import Path

import pandas as pd, pytest, torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from privkd_nb.checkpoints import checkpoint_faults, restore_history, seal_checkpoint
from privkd_nb.core import InputError, build_once, folder_faults, read_json
from privkd_nb.jobs.config import RunConfig
from privkd_nb.jobs.distil import distil, is_settled
from privkd_nb.jobs.fine_tune import base_path, last_checkpoint, teacher_path
from privkd_nb.record import FolderLostError, History, Run, read_history

TINY = dict(dataset='playground', languages='en,de', fraction=.5, tiny=True, losses='ce,logits', batch_size=8)


class At(TrainerCallback):
    "Calls something after one step"
    def __init__(self, step, do): self.step, self.do = step, do
    def on_step_end(self, args, state, control, **kw):
        if state.global_step == self.step: self.do()


def interrupt(): raise KeyboardInterrupt


def interrupted(out, step=7, **kw):
    "The folder of a run that was interrupted after a step"
    cfg = RunConfig(**TINY | kw, out_dir=str(out))
    with pytest.raises(KeyboardInterrupt): distil(cfg, callbacks=[At(step, interrupt)])
    return Run.named(out, cfg.identity()).path


@pytest.fixture(scope='module')
def whole(tmp_path_factory): return distil(RunConfig(**TINY, out_dir=str(tmp_path_factory.mktemp('whole'))))


@pytest.fixture(scope='module')
def half(tmp_path_factory): return interrupted(tmp_path_factory.mktemp('half'))


def again(path, to, damage):
    "Copy an interrupted run, damage it, and start it again: the finished run, and the warnings"
    folder = shutil.copytree(path, to/path.name)
    damage(folder)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        run = distil(RunConfig(**TINY, out_dir=str(to)))
    return run, [str(w.message) for w in caught if str(to) in str(w.message)]


def assert_same(a, b):
    assert (a.path/'model/model.safetensors').read_bytes() == (b.path/'model/model.safetensors').read_bytes()
    for name in ('history', 'metrics', 'predictions'): pd.testing.assert_frame_equal(a.read(name), b.read(name))


def newest(folder): return max((folder/'checkpoints').glob('checkpoint-*'), key=lambda p: int(p.name.split('-')[1]))
def flip(p, at=-9):
    b = bytearray(p.read_bytes())
    b[at] ^= 16
    p.write_bytes(b)
def cut(p): p.write_bytes(p.read_bytes()[:-100])


DAMAGES = dict(
    optimizer_lost=lambda f: (newest(f)/'optimizer.pt').unlink(), schedule_lost=lambda f: (newest(f)/'scheduler.pt').unlink(),
    random_state_lost=lambda f: (newest(f)/'rng_state.pth').unlink(), weights_flipped=lambda f: flip(newest(f)/'model.safetensors'),
    optimizer_flipped=lambda f: flip(newest(f)/'optimizer.pt', 5000), weights_cut=lambda f: cut(newest(f)/'model.safetensors'),
    state_emptied=lambda f: (newest(f)/'trainer_state.json').write_text(''), marker_lost=lambda f: (newest(f)/'checksums.json').unlink(),
    marker_flipped=lambda f: flip(newest(f)/'checksums.json', 60), rows_lost=lambda f: (newest(f)/'rows.json').unlink())


def test_the_example_has_two_checkpoints(half): assert len([*(half/'checkpoints').glob('checkpoint-*')]) == 2


@pytest.mark.parametrize('damage', DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(damage, half, tmp_path):
    after, before = sorted((half/'checkpoints').glob('checkpoint-*'), key=lambda p: -int(p.name.split('-')[1]))
    folder = shutil.copytree(half, tmp_path/'run')
    DAMAGES[damage](folder)
    with pytest.warns(UserWarning) as caught: at = last_checkpoint(folder/'checkpoints')
    assert Path(at).name == before.name and len(caught) == 1
    assert after.name in str(caught[0].message) and 'is not used' in str(caught[0].message) and (folder/'checkpoints/damaged'/after.name).is_dir()


def test_without_a_whole_checkpoint_the_run_begins_anew_and_says_so(half, tmp_path):
    folder = shutil.copytree(half, tmp_path/'run')
    for p in (folder/'checkpoints').glob('checkpoint-*'): (p/'optimizer.pt').unlink()
    with pytest.warns(UserWarning, match='training begins anew') as caught: assert last_checkpoint(folder/'checkpoints') is None
    assert len(caught) == 3


@pytest.mark.parametrize('damage', [lambda p: p.unlink(), lambda p: p.write_text(''), lambda p: p.write_text(''.join(p.read_text().splitlines(True)[:4])),
                                    lambda p: p.write_text(''.join(p.read_text().splitlines(True)[2:])), lambda p: flip(p, 100)], ids=['lost', 'empty', 'end', 'beginning', 'flipped'])
def test_rows_that_the_history_lost_are_noticed_and_restored(damage, half, tmp_path):
    folder, path = shutil.copytree(half, tmp_path/'run'), tmp_path/'run/history.jsonl'
    history, upto = History(path), int(newest(folder).name.split('-')[1])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        restore_history(history, newest(folder))
    damage(path)
    with pytest.warns(UserWarning, match='history.jsonl had lost or changed .* they were restored'): restore_history(history, newest(folder))
    pd.testing.assert_frame_equal(read_history(path), read_history(half/'history.jsonl').query('step <= @upto'))


def test_a_run_with_a_damaged_checkpoint_and_history_ends_with_the_same_numbers(half, whole, tmp_path, capsys):
    def damage(folder): flip(newest(folder)/'optimizer.pt', 5000); (folder/'history.jsonl').unlink()
    run, messages = again(half, tmp_path, damage)
    assert len(messages) == 2 and 'optimizer.pt has other content' in messages[0] and 'restored' in messages[1]
    assert f"resumed at step {run.progress['first']} of" in capsys.readouterr().err
    assert 0 < run.progress['first'] < int(newest(half).name.split('-')[1])
    assert_same(run, whole)


def test_the_best_checkpoint_is_checked_too_and_found_where_the_run_is_now(whole, tmp_path):
    path = interrupted(tmp_path/'a', step=8, patience=9)
    best = Path(read_json(newest(path)/'trainer_state.json')['best_model_checkpoint']).name
    assert best != newest(path).name
    (tmp_path/'a').rename(tmp_path/'moved')
    path = shutil.copytree(tmp_path/'moved'/path.name, tmp_path/'damaged')
    run = distil(RunConfig(**TINY, patience=9, out_dir=str(tmp_path/'moved')))
    scores = run.history.query("split == 'validation' and group == 'all' and metric == 'accuracy'").set_index('step').value
    assert scores.idxmax() == (0 if best == 'start' else int(best.split('-')[1]))     # so the student is that checkpoint, in its new place
    kept, end = (load_file(p/'model.safetensors') for p in (path/'checkpoints'/best, run.path/'model'))
    assert all(torch.equal(kept[k], end[k]) for k in end if '.encoder.' in k) and any('.encoder.' in k for k in end)
    flip(path/'checkpoints'/best/'model.safetensors')
    with pytest.warns(UserWarning, match=f'names {best} as the best one, which is not whole'): assert last_checkpoint(path/'checkpoints', best=True) is None


def test_a_run_whose_folder_is_moved_stops_at_once_and_resumes_from_its_new_place(whole, tmp_path):
    cfg = RunConfig(**TINY, out_dir=str(tmp_path/'old'))
    name, steps = Run.named(cfg.out_dir, cfg.identity()).path.name, []
    class Steps(TrainerCallback):
        def on_step_begin(self, args, state, control, **kw): steps.append(state.global_step+1)
    move = At(7, lambda: (tmp_path/'old'/name).rename(tmp_path/name))
    with pytest.raises(FolderLostError, match='was moved or deleted while the run was trained'): distil(cfg, callbacks=[move, Steps()])
    assert max(steps) <= 8 and not (tmp_path/'old'/name).exists()
    (tmp_path/'new').mkdir(); (tmp_path/name).rename(tmp_path/'new'/name)
    run = distil(replace(cfg, out_dir=str(tmp_path/'new')))
    assert run.progress['first'] > 0
    assert_same(run, whole)


def test_lost_setup_of_a_finished_run_is_written_again_without_training(whole, tmp_path):
    folder = shutil.copytree(whole.path, tmp_path/whole.path.name)
    (folder/'config.json').unlink(); flip(folder/'environment.json', 40)
    with pytest.warns(UserWarning, match='config.json is missing, environment.json has other content.*made again without training'):
        run = distil(RunConfig(**TINY, out_dir=str(tmp_path)))
    assert run.on_record and not run.faults(full=True) and run.progress == whole.progress
    assert run.config == whole.config and run.environment['remade'] and run.environment['data'] == whole.environment['data']


@pytest.mark.parametrize('damage', [lambda f: (f/'metrics.parquet').unlink(), lambda f: flip(f/'predictions.parquet'), lambda f: shutil.rmtree(f/'model'),
                                    lambda f: cut(f/'model/model.safetensors'), lambda f: flip(f/'done.json', 60), lambda f: (f/'done.json').write_text('{'),
                                    lambda f: ((f/'config.json').unlink(), flip(f/'model/model.safetensors'))],
                         ids=['metrics', 'flipped', 'model', 'weights', 'marker', 'half_a_marker', 'weights_that_only_a_full_check_sees'])
def test_a_finished_run_with_damaged_results_is_set_aside_and_made_again(damage, whole, tmp_path):
    folder, cfg = shutil.copytree(whole.path, tmp_path/whole.path.name), RunConfig(**TINY, out_dir=str(tmp_path))
    assert is_settled(Run(folder), cfg)
    damage(folder)
    with pytest.warns(UserWarning, match='it is trained again'): assert not is_settled(Run(folder), cfg)
    assert not [*folder.iterdir()] and [*tmp_path.glob('.*.damaged-1')]


def test_another_runs_files_under_this_runs_name_are_set_aside(whole, tmp_path):
    cfg = RunConfig(**TINY, seed=7, out_dir=str(tmp_path))
    run = Run.named(tmp_path, cfg.identity())
    shutil.copytree(whole.path, run.path)
    assert not run.on_record and run.config['seed'] == 0
    with pytest.warns(UserWarning, match=f"another run's .{whole.path.name}.; it is trained again"): assert not is_settled(run, cfg)
    assert not [*run.path.iterdir()] and [*tmp_path.glob('.*.damaged-1')]


def test_a_finished_run_whose_checksums_were_emptied_is_made_again(whole, tmp_path):
    folder, cfg = shutil.copytree(whole.path, tmp_path/whole.path.name), RunConfig(**TINY, out_dir=str(tmp_path))
    (folder/'done.json').write_text('{"finished": "2024-01-01T00:00:00Z"}')
    with pytest.warns(UserWarning, match='done.json has no checksums, which this version writes; it is trained again'): assert not is_settled(Run(folder), cfg)


@pytest.mark.parametrize('damage', [lambda p: flip(p/'weights'), lambda p: cut(p/'weights'), lambda p: (p/'weights').unlink(), lambda p: (p/'done.json').unlink(),
                                    lambda p: (p/'done.json').write_bytes(b'\xff'), lambda p: (p/'done.json').write_text('null'), lambda p: flip(p/'done.json', 60)])
def test_a_damaged_cached_folder_is_named_and_built_again(damage, tmp_path):
    def build(p): (p/'weights').write_bytes(bytes(range(200)))
    path = build_once(tmp_path/'m', build)
    damage(path)
    with pytest.warns(UserWarning, match='is not used'): build_once(path, build)
    assert (path/'weights').read_bytes() == bytes(range(200)) and (tmp_path/'m.damaged-1').is_dir()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        build_once(path, None)


def test_a_byte_of_a_cached_teacher_is_noticed(tmp_path, monkeypatch):
    cfg = RunConfig(**TINY)
    here = Path(base_path(cfg)), Path(teacher_path(cfg, base_path(cfg)))
    for p in here: shutil.copytree(p, tmp_path/p.parent.name/p.name)
    monkeypatch.setenv('PRIVKD_CACHE', str(tmp_path))
    path = tmp_path/'teachers'/here[1].name
    flip(path/'model.safetensors')
    with pytest.warns(UserWarning, match='model.safetensors has other content than was written'): assert Path(teacher_path(cfg, base_path(cfg))) == path
    assert (path.parent/f'{path.name}.damaged-1').is_dir() and not folder_faults(path/'done.json')


@pytest.mark.parametrize('marker', ['{}', '{"complete": true}'])
def test_a_cached_folder_without_checksums_is_built_again(marker, tmp_path):
    (tmp_path/'m').mkdir(); (tmp_path/'m/weights').write_text('1'); (tmp_path/'m/done.json').write_text(marker)
    def build(p): (p/'weights').write_text('2')
    with pytest.warns(UserWarning, match='done.json has no checksums; it was moved to'): build_once(tmp_path/'m', build)
    assert (tmp_path/'m/weights').read_text() == '2' and (tmp_path/'m.damaged-1/weights').read_text() == '1'
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        build_once(tmp_path/'m', None)


def test_a_checkpoint_whose_checksums_were_emptied_is_damaged(tmp_path):
    (tmp_path/'c').mkdir(); (tmp_path/'c/model.safetensors').write_text('1'); seal_checkpoint(tmp_path/'c', History())
    assert checkpoint_faults(tmp_path/'c') == {}
    (tmp_path/'c/checksums.json').write_text('{}')
    assert checkpoint_faults(tmp_path/'c') == {'checksums.json': 'has no checksums'}


def test_reading_a_damaged_table_of_a_finished_run_is_one_sentence(whole, tmp_path):
    run = Run(shutil.copytree(whole.path, tmp_path/'run'))
    for name in ('metrics', 'history', 'predictions', 'texts', 'speed'):
        flip(run.path/f'{name}.parquet', 200)
        with pytest.raises(InputError, match=f'{name}.parquet has other content than was written'): run.read(name)
    for name in ('config', 'environment'):
        flip(run.path/f'{name}.json', 40)
        with pytest.raises(InputError, match=f'{name}.json has other content than was written'): getattr(run, name)
