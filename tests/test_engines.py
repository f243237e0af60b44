"A study on several machines, some of which are lost, and in several processes that are killed: it ends as one that nothing has disturbed."
import json, os, signal, subprocess, sys, threading, time
from dataclasses import replace
from pathlib import Path

import pandas as pd, pytest
from safetensors.torch import load_file

from privkd_nb import grid
from privkd_nb.core import InputError, write_checksums
from privkd_nb.hub import quietly
from privkd_nb.jobs.distil import StoppedError
from privkd_nb.record import StatusFile
from privkd_nb.studies import away, ray_engine
from privkd_nb.studies.engines import run_configs
from privkd_nb.studies.storage import Storage

SETTINGS = dict(init=['scratch', 'copy_ft'], losses='ce,logits', seed=[0, 1], languages='de,sw', tiny=True)


def study(folder, **kw): return grid(**SETTINGS | kw, out_dir=str(folder/'runs'))


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
    "The runs of a study in one process"
    with quietly(): return {r.path.name: r for r in run_configs(study(tmp_path_factory.mktemp('undisturbed')), report=lambda line: None)}


def assert_same(runs, undisturbed):
    "Every table and every weight, to the last bit"
    assert {r.path.name for r in runs} == {*undisturbed}
    for r in runs:
        was = undisturbed[r.path.name]
        assert r.on_record and not r.faults(full=True)
        for name in ('metrics', 'predictions', 'history'): pd.testing.assert_frame_equal(r.read(name), was.read(name), check_exact=True)
        mine, theirs = (load_file(p.path/'model'/'model.safetensors') for p in (r, was))
        assert mine.keys() == theirs.keys() and all(mine[k].equal(theirs[k]) for k in mine)


def until(condition, seconds=120):
    end = time.monotonic()+seconds
    while not (found := condition()):
        assert time.monotonic() < end, 'it took too long'
        time.sleep(.02)
    return found


# Another machine goes on

def as_machine(monkeypatch, path): monkeypatch.setenv('PRIVKD_CACHE', str(path))


def test_a_lost_run_goes_on_elsewhere_from_its_checkpoint(undisturbed, tmp_path, monkeypatch):
    storage, (cfg, *_) = Storage(tmp_path/'shared'), study(tmp_path)
    name, was = next((n, r) for n, r in undisturbed.items() if r.config == cfg.identity())
    def stop_at_two(self, step, steps, first=0): self.at = dict(step=step, steps=steps, first=first); return step == 2
    with quietly(), monkeypatch.context() as m:
        as_machine(m, tmp_path/'machine_1')
        folders = away.make_teacher(cfg, storage)
        m.setattr(StatusFile, 'step', stop_at_two)
        with pytest.raises(StoppedError): away.train_here(away.here(cfg, name, storage), storage)
    assert storage.names('.unfinished', name) == ['checkpoint-1', 'checkpoint-2', 'config.json', 'environment.json', 'progress.json']
    assert not storage.has(name)
    as_machine(monkeypatch, tmp_path/'machine_2')
    made = []
    monkeypatch.setattr('privkd_nb.jobs.fine_tune.fine_tune', lambda *a: made.append(a))             # it is brought, not made
    with quietly():
        away.bring_made(storage, folders, [])
        run = away.train_here(away.here(cfg, name, storage), storage)
    assert run.progress['first'] == 2 and not made and storage.names('.unfinished') == []
    assert_same([run], {name: was})


def test_what_was_damaged_in_the_storage_is_made_again(undisturbed, tmp_path):
    (name, was), *_ = undisturbed.items()
    storage, (cfg,) = Storage('memory://damaged'), [c for c in study(tmp_path) if c.identity() == was.config]
    storage.put(was.path, name)
    storage.write(b'nothing', name, 'model', 'model.safetensors')
    with quietly(), pytest.warns(UserWarning, match='model.safetensors has 7 bytes instead of'): runs = run_configs([cfg], storage=storage.url, report=lambda line: None)
    assert_same(runs, {name: was})
    assert storage.bring(name, tmp_path/'copy') == {}
    with pytest.raises(InputError, match='leave redo or storage out'): run_configs([replace(cfg, redo=True)], storage=storage.url)


def test_a_storage_that_cannot_be_written_is_refused_before_training(tmp_path):
    (tmp_path/'file').write_text('no folder')
    with pytest.raises(InputError, match='cannot be written .*; give a path or URL'): run_configs(study(tmp_path), storage=str(tmp_path/'file'/'shared'))
    assert [p.name for p in tmp_path.iterdir()] == ['file']


def test_of_two_machines_that_put_a_run_at_once_one_wins(tmp_path, monkeypatch):
    "Their files are mixed when the first one looks, and it puts its own once more"
    storage, folders = Storage('memory://mixed'), [tmp_path/'a', tmp_path/'b']
    for p in folders:
        p.mkdir()
        (p/'numbers').write_text(p.name)
        write_checksums(p/'done.json')
    put_file, others = storage.fs.put_file, iter(['numbers'])
    def mixed(path, there, **kw):
        put_file(path, there, **kw)
        if name := next(others, None): put_file(str(folders[1]/name), storage.at('run', name))
    monkeypatch.setattr(storage.fs, 'put_file', mixed)
    storage.put(folders[0], 'run')
    assert storage.bring('run', tmp_path/'copy') == {} and (tmp_path/'copy'/'numbers').read_text() == 'a'


# Killed

class Forked:
    "What a worker's process is, without importing everything anew"
    def __init__(self, work):
        read, write = os.pipe()
        self.stdout, self.returncode, self.pid = os.fdopen(read), None, os.fork()
        if self.pid: return os.close(write)
        try:
            os.dup2(write, 1)
            sys.stdout = sys.__stdout__ = os.fdopen(1, 'w', buffering=1)
            os._exit(work() or 0)
        finally: os._exit(70)

    def poll(self):
        if self.returncode is None and (found := os.waitpid(self.pid, os.WNOHANG))[0]: self.returncode = os.waitstatus_to_exitcode(found[1])
        return self.returncode

    def kill(self): os.kill(self.pid, signal.SIGKILL)
    terminate = kill
    def wait(self, timeout=None): until(lambda: self.poll() is not None, timeout or 60); return self.returncode


def doomed(tokens, out, kill):
    "A step after which a process is killed, once for each token; the token says which runs were finished then"
    step_of = StatusFile.step
    def step(self, step, steps, first=0):
        stop = step_of(self, step, steps, first)
        for t in tokens if step == 2 else ():
            try: mark = os.open(t, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileExistsError: continue
            os.write(mark, json.dumps({p.parent.name: p.read_text() for p in out.glob('*/done.json')}).encode())
            kill()
        return stop
    return step


def test_a_study_that_is_killed_three_times(undisturbed, tmp_path, monkeypatch):
    "Twice a worker, and once the whole study: it ends as one that was never killed, and no finished run is trained again"
    from privkd_nb.jobs import study as jobs
    configs, lines = study(tmp_path), []
    out, whole, *workers = Path(configs[0].out_dir), *(tmp_path/name for name in ('whole', 'one', 'two'))
    monkeypatch.setattr(jobs, 'start_worker', lambda request, log, workers, place: Forked(lambda: jobs.main([request])))
    def begin():
        os.setpgid(0, 0)
        run_configs(configs, engine='pool', workers=2, report=lines.append)
    with monkeypatch.context() as m:                            # the workers too, which would end by themselves: see test_processes
        m.setattr(StatusFile, 'step', doomed([whole], out, lambda: os.killpg(0, signal.SIGKILL)))
        assert Forked(begin).wait(120) == -signal.SIGKILL and whole.is_file()
    monkeypatch.setattr(StatusFile, 'step', doomed(workers, out, lambda: os.kill(os.getpid(), signal.SIGKILL)))
    with quietly(): runs = run_configs(configs, engine='pool', workers=2, report=lines.append)
    assert all(w.is_file() for w in workers) and sum('was killed (signal 9); another one goes on' in l for l in lines) == 2
    assert_same(runs, undisturbed)
    for t in (whole, *workers):
        assert all((out/n/'done.json').read_text() == was for n, was in json.loads(t.read_text()).items())


# Several machines

QUICK = dict(RAY_health_check_initial_delay_ms='0', RAY_health_check_period_ms='300', RAY_health_check_timeout_ms='1000', RAY_health_check_failure_threshold='2',
             RAY_USAGE_STATS_ENABLED='0', RAY_DISABLE_MEMORY_MONITOR='1', RAY_enable_metrics_collection='0',
             RAY_prestart_worker_first_driver='0', RAY_enable_worker_prestart='0')


def patiently(start, times=3):
    "Ray gives a node's helpers 15 seconds to start, which a busy machine may need longer for"
    for _ in range(times):
        try: return start()
        except Exception as e:
            if 'timed out during startup' not in str(e): raise
    why = f'this machine is too busy: Ray gave up starting a node {times} times'
    pytest.fail(why) if os.environ.get('PRIVKD_RAY') == 'required' else pytest.skip(why)


@pytest.fixture
def two_machines(tmp_path, monkeypatch):
    "A Ray cluster of two nodes, each with a core and a cache of its own"
    pytest.importorskip('ray', reason="Ray is not installed: pip install 'privkd_nb[ray]'")
    for k, v in QUICK.items(): monkeypatch.setenv(k, v)
    monkeypatch.setenv('PYTHONPATH', str(Path(__file__).parent.parent))
    from ray.cluster_utils import Cluster
    ray_engine.import_ray()
    def node(i): return dict(num_cpus=1, object_store_memory=80_000_000, include_log_monitor=False, env_vars=dict(PRIVKD_CACHE=str(tmp_path/f'machine_{i}')))
    cluster = patiently(lambda: Cluster(initialize_head=True, head_node_args=node(1) | dict(include_dashboard=False, no_monitor=True)))
    try:
        cluster.second = patiently(lambda: cluster.add_node(**node(2)))
        yield cluster
    finally: cluster.shutdown()


def children(pid): return [int(p) for p in subprocess.run(['pgrep', '-P', str(pid)], capture_output=True, text=True).stdout.split()]


def pull_the_plug(node):
    "kill -9 for every process of a node"
    pids = [p.process.pid for ps in node.all_processes.values() for p in ps]
    for pid in [c for p in pids for c in children(p)]+pids:
        try: os.kill(pid, signal.SIGKILL)
        except ProcessLookupError: pass


def said(cluster, words): return sum(p.read_text(errors='replace').count(words) for p in Path(cluster.head_node.get_session_dir_path(), 'logs').glob('worker-*'))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='nodes are killed as on Linux')
def test_a_machine_is_lost_and_nothing_else(two_machines, undisturbed, tmp_path):
    storage, finished, lost, lines = Storage(tmp_path/'shared'), {}, [], []
    def trained_there(): # A run that the second machine has begun, when another one is finished
        if not [n for n in storage.names() if n in undisturbed]: return
        raylet = two_machines.second.all_processes['raylet'][0].process.pid
        for n in storage.names('.unfinished'):
            state = json.loads(storage.read('.unfinished', n, 'progress.json') or '{}')
            if n in undisturbed and state.get('pid') in children(raylet): return n
    def kill():
        lost.append(until(trained_there))
        finished.update({n: storage.read(n, 'done.json') for n in storage.names() if storage.has(n)})
        pull_the_plug(two_machines.second)
    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    runs = run_configs(study(tmp_path), engine='ray', address=two_machines.address, storage=storage.url, report=lines.append)
    thread.join(5)
    assert lost and finished and lost[0] not in finished
    assert_same(runs, undisturbed)
    assert all(storage.read(n, 'done.json') == was for n, was in finished.items())                   # none of them was trained again
    assert said(two_machines, 'fine-tuning the teacher on ') == 1 and said(two_machines, '\ntraining on ') <= len(runs)+1
    assert sum('a machine of the cluster was lost' in l for l in lines) == 1
    assert storage.names('.unfinished') == [] and lines[0] == '4 runs, 0 of them on record' and sum('accuracy' in l for l in lines) == 4
