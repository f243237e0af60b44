"Training in another process: a stopped run loses nothing, and two workers share a study."
import subprocess, sys, time

import pandas as pd, pytest, torch
from filelock import Timeout
from safetensors.torch import load_file

from privkd_nb.core import InputError, ResultError
from privkd_nb.jobs import study as jobs
from privkd_nb.jobs.background import BackgroundRun, FailedError
from privkd_nb.models.playground_base import TINY_BASE, playground_base
from privkd_nb.jobs.config import RunConfig
from privkd_nb.jobs.distil import StoppedError, distil, run_lock
from privkd_nb.record import Run
from privkd_nb.jobs.study import grid, run_study


@pytest.fixture(scope='module')
def settings(): return dict(base=str(playground_base(TINY_BASE)), languages='de,en,sw', fraction=.3, teacher_fraction=.2, teacher_epochs=1, epochs=25)


def until(condition, seconds=120):
    end = time.time()+seconds
    while not condition():
        assert time.time() < end, 'it took too long'
        time.sleep(.05)


def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one(settings, tmp_path):
    cfgs = [RunConfig(**settings, out_dir=str(tmp_path/k)) for k in ('whole', 'stopped')]
    whole = distil(cfgs[0])
    run = BackgroundRun(cfgs[1]).start()
    before = time.time()
    until(lambda: run.progress.get('state') == 'training' and run.progress['step'] > 5)
    assert run.start().process.pid == run.progress['pid']              # a second start starts no second process
    run.stop()
    assert not run.alive and not run.finished and run.progress['state'] == 'stopped' and not (run.path/'stop').exists()
    at = run.progress['step']
    assert 5 < at < run.progress['steps'] and (run.path/'checkpoints'/f'checkpoint-{at}').is_dir()
    with pytest.raises(StoppedError, match=f'stopped at step {at} of'): run.wait()
    again = BackgroundRun(cfgs[1]).start()
    assert again.wait(300).finished and again.progress['first'] == at
    a, b = (load_file(r.path/'model'/'model.safetensors') for r in (whole, again))
    for k in a: assert torch.equal(a[k], b[k]), k
    pd.testing.assert_frame_equal(whole.history, again.history)
    pd.testing.assert_frame_equal(whole.metrics, again.metrics)


def test_a_run_is_read_and_stopped_from_another_process(settings, tmp_path):
    run = BackgroundRun(RunConfig(**settings | dict(epochs=60), out_dir=str(tmp_path), losses='ce')).start()
    until(lambda: run.progress.get('state') == 'training')
    code = f"from privkd_nb.record import Run; r = Run({str(run.path)!r}); print(r.progress['state'], len(r.history) > 0, r.finished)"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.split() == ['training', 'True', 'False']
    other = BackgroundRun(run.cfg)                                     # as in another kernel, without a handle of the process
    assert other.alive
    other.stop()
    until(lambda: not run.alive, 20)                                   # its state is 'stopped' shortly before the process ends


def test_one_writer_at_a_time(settings, tmp_path):
    run = Run(tmp_path/'x')
    with run_lock(run):
        with pytest.raises(Timeout): run_lock(run, 0).acquire()


def test_a_killed_run_raises(settings, tmp_path):
    run = BackgroundRun(RunConfig(**settings | dict(epochs=60), out_dir=str(tmp_path), losses='ce', seed=3)).start()
    until(lambda: run.progress.get('state') == 'training' and run.progress['step'] > 3)
    run.process.kill()
    with pytest.raises(FailedError, match='ended early'): run.wait(30)


def test_two_workers_share_a_study(settings, tmp_path):
    lines, configs = [], grid(**settings | dict(epochs=2), losses='ce', init=['scratch', 'copy_ft'], seed=[0, 1], out_dir=str(tmp_path))
    runs = run_study(configs, workers=2, report=lines.append)
    assert all(r.finished for r in runs) and len({r.path for r in runs}) == 4
    assert lines[0] == '4 runs, 0 of them on record' and sorted(l.split()[0] for l in lines if ' s)' in l) == ['1/4', '2/4', '3/4', '4/4']    # beside what is trained on
    assert not list(tmp_path.glob('.study*'))
    from privkd_nb.analysis.load import Study
    assert len(Study.open(tmp_path)) == 4


def test_a_failed_run_does_not_end_the_study(tmp_path, monkeypatch):
    "With several workers, here in this process: neither does a teacher that cannot be made, nor a run that another process trains"
    def make(cfg, *a):
        if cfg.base == 'no/base': raise InputError('there is no model no/base.')
    def train(cfg):
        make(cfg)
        (run := Run.named(cfg.out_dir, cfg.identity())).path.mkdir()
        (run.path/'done.json').write_text('{}')
        return run
    given = dict(start_worker=lambda request, *a: jobs.main([request]), tend=lambda start, *a: [start(0)], base_path=str, teacher_path=make, distil=train,
                 check_inputs=str, score_line=str, teacher_warning=lambda run: '')
    for k, v in given.items(): monkeypatch.setattr(jobs, k, v)
    good, (bad,) = grid(seed=[0, 1], tiny=True, out_dir=str(tmp_path)), grid(base='no/base', tiny=True, out_dir=str(tmp_path))
    with run_lock(held := Run.named(tmp_path, good[1].identity())):
        with pytest.raises(ResultError, match=f'2 of 3 runs failed: .*: the reasons are above; {held.path.name}: locked by another worker'): run_study([bad, *good], workers=2, report=print)
        with pytest.raises(ResultError, match='1 of 1 runs failed: .*: locked by another worker'): run_study(good[1:], workers=2, report=print)
    assert Run.named(tmp_path, good[0].identity()).finished and not held.finished
    with pytest.raises(InputError, match='no model no/base'): run_study([bad], workers=2, report=print)


def test_each_group_is_trained_jointly_by_one_worker(tmp_path):
    configs, lines = grid(seed=[0, 1], init=['scratch', 'copy_ft'], losses='ce,logits', cache='off', tiny=True, out_dir=str(tmp_path)), []
    runs = run_study(configs, workers=2, share_teacher=True, report=lines.append)
    assert all(r.finished for r in runs)
    made = [l for l in lines if 'with 1 more)' in l]
    assert sorted(l.split()[0] for l in made) == ['1/4', '2/4', '3/4', '4/4'], lines        # each once: no worker waited for the other
