"Real processes and real signals: who works on a run, what ends with its parent, and what a killed process leaves."
import json, os, signal, subprocess, sys, textwrap, time

import pytest

from privkd_nb.core import build_once, is_held, replacing_folder, sweep
from privkd_nb.jobs.background import BackgroundRun, FailedError
from privkd_nb.jobs.config import RunConfig
from privkd_nb.jobs.distil import run_lock
from privkd_nb.record import Run, StatusFile, alive, lock_files

pytestmark = pytest.mark.skipif(os.name == 'nt', reason='skipped: signals and locks of Unix')


def start(code, *args, **kw):
    "A Python program that prints 'ready' when it is"
    p = subprocess.Popen([sys.executable, '-c', textwrap.dedent(code), *map(str, args)], stdout=subprocess.PIPE, text=True, **kw)
    line = p.stdout.readline()
    assert line.strip() == 'ready', line
    return p


def exists(pid):
    "Whether a process runs: one that has ended and waits for its parent does not"
    try: return open(f'/proc/{pid}/stat').read().rsplit(')', 1)[1].split()[0] != 'Z'
    except (FileNotFoundError, ProcessLookupError): return False


def until(condition, seconds=30):
    end = time.monotonic()+seconds
    while not condition():
        assert time.monotonic() < end, 'it took too long'
        time.sleep(.02)


# Locks

def test_the_process_id_of_somebody_else_is_nobody(tmp_path):
    "As after a restart of the machine: `progress.json` names a living process, which has nothing to do with the run"
    run = BackgroundRun(RunConfig(tiny=True, out_dir=str(tmp_path)))
    StatusFile(run.path).step(3, 10)
    assert json.loads((run.path/'progress.json').read_text())['pid'] == os.getpid()
    assert not run.alive and not alive(run.path)
    with pytest.raises(FailedError): run.wait(5)                          # and does not wait for ever
    run.stop(5)
    with run_lock(Run(run.path)):
        assert run.alive and alive(run.path) is True
        assert run.start().process is None                                # somebody is at work
        with pytest.raises(TimeoutError): run.wait(.1)
    assert not run.alive


def test_a_killed_holder_holds_nothing(tmp_path):
    p = start('''
        import sys, time
        from filelock import FileLock
        from privkd_nb.record import lock_files
        lock = FileLock(lock_files(sys.argv[1])[0])
        lock.acquire()
        print('ready', flush=True); time.sleep(60)''', tmp_path/'run')
    assert alive(tmp_path/'run') is True
    p.kill(); p.wait()
    assert alive(tmp_path/'run') is False


def test_two_starts_are_one_process(tmp_path):
    "The second one comes before the first process has taken the run's own lock"
    a, b = (BackgroundRun(RunConfig(tiny=True, out_dir=str(tmp_path))) for _ in range(2))
    a.start()
    try:
        assert b.alive and b.start().process is None
        assert is_held(lock_files(a.path)[1])
    finally: a.process.kill()
    a.process.wait()
    until(lambda: not b.alive, 5)


# Signals

PARENT = '''
    import os, signal, subprocess, sys, time
    from privkd_nb.processes import answer_signals, ending, start_child, wait_for
    if 'program' in sys.argv: answer_signals()
    env = os.environ | dict(PYTHONPATH=os.pathsep.join([sys.argv[1], os.environ.get('PYTHONPATH', '')]))
    children = [start_child(['child'], env, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for c in children: c.stdout.readline()
    open(sys.argv[1]+'/pids', 'w').write(' '.join(str(c.pid) for c in children))
    print('ready', flush=True)
    with ending(children):
        for c in children: wait_for(c)
'''
DEAF = "import signal, time\nfor s in (signal.SIGTERM, signal.SIGINT): signal.signal(s, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(60)"


@pytest.mark.parametrize('number, how, child', [
    (signal.SIGTERM, 'program', 'plain'), (signal.SIGINT, 'program', 'deaf'), (signal.SIGKILL, 'script', 'deaf'), (signal.SIGTERM, 'script', 'plain')])
def test_children_end_with_their_parent(tmp_path, number, how, child):
    (tmp_path/'child.py').write_text(DEAF if child == 'deaf' else "import time; print('up', flush=True); time.sleep(60)")
    p = start(PARENT, tmp_path, how)
    pids = (tmp_path/'pids').read_text().split()
    assert all(map(exists, pids))
    began = time.monotonic()
    p.send_signal(number)
    until(lambda: p.poll() is not None and not any(map(exists, pids)), 10)
    assert time.monotonic()-began < 3 and p.returncode != 0


def test_half_of_the_three_seconds_are_for_a_busy_machine():
    from privkd_nb.processes import GRACE, PATIENCE
    assert GRACE < PATIENCE and GRACE+PATIENCE <= 1.5


def test_a_library_that_computes_does_not_delay_the_end():
    "As polars does for half a minute: the main thread gets to run no Python"
    p = start('''
        import hashlib
        from privkd_nb.processes import answer_signals
        answer_signals()
        print('ready', flush=True)
        hashlib.pbkdf2_hmac('sha256', b'', b'', 100_000_000)''')
    began = time.monotonic()
    p.send_signal(signal.SIGINT)
    p.wait(10)
    assert time.monotonic()-began < 3


@pytest.mark.parametrize('at_work', ["hashlib.pbkdf2_hmac('sha256', b'', b'', 100_000_000)", "time.sleep(60)", "run_like_a_kernel()"])
def test_an_interrupted_command_says_so_once(at_work):
    "Also where a library or a kernel keeps the main thread for longer than it has"
    p = start(f'''
        import hashlib, sys, time
        from privkd_nb.cli import console
        def run_like_a_kernel():
            try: time.sleep(60)
            finally: time.sleep(20)                          # it waits for the kernel to end
        def work(given):
            'list: work'
            print('ready', flush=True)
            {at_work}
        console.COMMANDS['list'] = console.COMMANDS['list']._replace(call=work)
        sys.argv[1:] = ['list']
        sys.exit(console.main())''', stderr=subprocess.PIPE)
    p.send_signal(signal.SIGINT)
    assert p.communicate(timeout=10)[1].strip() == 'privkd: interrupted; the same command resumes from the last checkpoint' and p.returncode == 130


def test_a_study_and_its_workers_end_together(tmp_path):
    "Killed, the parent can do nothing; its workers end, their locks are free, and the next study sweeps what is left"
    p = start('''
        import os, sys, threading, time
        from privkd_nb.jobs import study
        study.teacher_configs = lambda configs: []          # the workers make it
        began = study.start_worker
        def start_worker(*a):
            p = began(*a)
            with open(sys.argv[1]+'/pids', 'a') as f: f.write(f'{p.pid} ')
            return p
        study.start_worker = start_worker
        print('ready', flush=True)
        study.run_study(study.grid(tiny=True, seed=[0, 1], out_dir=sys.argv[1]), workers=2)''', tmp_path, stderr=subprocess.DEVNULL)
    until(lambda: (tmp_path/'pids').exists() and len((tmp_path/'pids').read_text().split()) == 2)
    pids = (tmp_path/'pids').read_text().split()
    until(lambda: list(tmp_path.glob('.study-*.json')))
    time.sleep(.3)
    assert all(map(exists, pids))
    p.kill(); p.wait()
    began = time.monotonic()
    until(lambda: not any(map(exists, pids)), 10)
    assert time.monotonic()-began < 3
    from privkd_nb.jobs.study import sweep_requests
    assert list(tmp_path.glob('.study-*'))
    sweep_requests(tmp_path)
    assert not list(tmp_path.glob('.study-*'))


# What is left

BUILD = '''
    import sys, time
    from pathlib import Path
    from privkd_nb.core import build_once
    def build(tmp):
        (tmp/'weights').write_text('half')
        print('ready', flush=True); time.sleep(60)
    build_once(Path(sys.argv[1])/sys.argv[2], build)'''


def test_a_killed_build_is_swept_at_the_next_use(tmp_path):
    dead, at_work = start(BUILD, tmp_path, 'base'), start(BUILD, tmp_path, 'other')
    dead.kill(); dead.wait()
    assert len(list(tmp_path.glob('.*.tmp'))) == 2
    build_once(tmp_path/'base', lambda tmp: (tmp/'weights').write_text('whole'))
    (left,) = tmp_path.glob('.*.tmp')
    assert left.name.startswith('.other.') and (tmp_path/'base'/'weights').read_text() == 'whole'   # somebody works on that one
    at_work.kill(); at_work.wait()
    build_once(tmp_path/'base', None)                                                                 # there already: it sweeps all the same
    assert not list(tmp_path.glob('.*.tmp')) and not list(tmp_path.glob('.*.new'))


def test_a_folder_is_never_lost_between_two_names(tmp_path):
    "Killed between the two renames: the old folder is put back"
    with replacing_folder(tmp_path/'model') as tmp: (tmp/'weights').write_text('first')
    p = start('''
        import os, sys, time
        from pathlib import Path
        from privkd_nb.core import replacing_folder
        rename = Path.rename
        def slow(self, to):
            res = rename(self, to)
            if str(to).endswith('.old'): print('ready', flush=True); time.sleep(60)
            return res
        Path.rename = slow
        with replacing_folder(sys.argv[1]+'/model') as tmp: (tmp/'weights').write_text('second')''', tmp_path)
    p.kill(); p.wait()
    assert not (tmp_path/'model').exists()
    sweep(tmp_path)
    assert (tmp_path/'model'/'weights').read_text() == 'first' and [q.name for q in tmp_path.iterdir()] == ['model']


# Clocks

def test_a_clock_that_is_set_back_stops_nothing(tmp_path, monkeypatch):
    status = StatusFile(tmp_path/'run', every=0.)
    status.step(1, 10)
    now = time.time
    monkeypatch.setattr(time, 'time', lambda: now()-3600)
    status.step(2, 10)
    p = Run(tmp_path/'run').progress
    assert p['step'] == 2 and 0 <= p['seconds'] < 60
    from privkd_nb.apps.monitor import Runs
    runs = Runs(tmp_path/'run')
    monkeypatch.setattr(time, 'time', lambda: now()+7200)
    runs.read(tmp_path/'run')
    assert runs.news[tmp_path/'run'].quiet < 60
    from privkd_nb.jobs.study import time_line
    assert time_line(time.monotonic(), 1) == '0 s'
