"Two processes over gloo give the numbers of one, at an equal effective batch."
import os, socket, subprocess, sys
from pathlib import Path

import pytest, torch
from ddp_worker import CASES, main
from safetensors.torch import load_file

from privkd_nb.record import History, Run

HERE = Path(__file__).parent


def launch(*cmd, **env):
    "On two processes"
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    env = os.environ | dict(OMP_NUM_THREADS='1', TOKENIZERS_PARALLELISM='false', PYTHONPATH=str(HERE.parent)) | env
    start = [sys.executable, '-m', 'torch.distributed.run', '--nproc-per-node=2', '--master-addr=127.0.0.1', f'--master-port={port}']
    out = subprocess.run([*start, *map(str, cmd)], env=env, capture_output=True, text=True, timeout=300)
    assert out.returncode == 0, out.stderr[-3000:]
    return out


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp('ddp')
    for name, case in CASES.items(): main(folder/'1'/name, **case)
    launch(HERE/'ddp_worker.py', folder/'2')
    return folder


@pytest.mark.parametrize('case', CASES)
def test_two_processes_match_one(trained, case):
    one, two = (trained/n/case for n in '12')
    x, y = (History(p/'history.jsonl').frame() for p in (one, two))
    assert x.drop(columns='value').equals(y.drop(columns='value'))
    assert ((x.value-y.value).abs() <= 1e-4*x.value.abs()+1e-6).all()
    a, b = (load_file(p/'model'/'model.safetensors') for p in (one, two))
    assert a.keys() == b.keys()
    for k in a: assert torch.allclose(a[k], b[k], atol=2e-4), (k, (a[k]-b[k]).abs().max())
    if CASES[case].get('cache'): assert len(list((two/'cache').glob('*/*.safetensors'))) == 1      # filled by one of the two


def test_a_whole_run_on_two_processes(tmp_path):
    "With an empty cache: base, teacher and student are all trained"
    out = launch('-m', 'privkd_nb.cli', 'distil', '--tiny', '--out_dir', tmp_path/'runs', '--losses', 'ce,logits', PRIVKD_CACHE=str(tmp_path/'cache'))
    assert out.stdout.count('on record: ') == 1
    run = Run.load(out.stdout.split('on record: ')[1].splitlines()[0].strip())
    assert run.environment['efficiency']['processes'] == 2
    assert run.history.query("metric == 'loss'").step.is_unique
    assert not run.read('speed').empty and not (run.path/'checkpoints').exists()


def test_processes_that_would_train_separately_raise(tmp_path, monkeypatch):
    from privkd_nb.core import InputError
    monkeypatch.setenv('WORLD_SIZE', '2'); monkeypatch.setattr('privkd_nb.train.arguments.on_cpu', lambda: False)
    with pytest.raises(InputError, match='2 processes were started.* know of 1'): main(tmp_path, 'ce')
