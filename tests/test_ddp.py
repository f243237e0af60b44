"Two processes over gloo give the numbers of one, at equal global batch."
import os, socket, subprocess, sys
from pathlib import Path

import pytest, torch
from safetensors.torch import load_file

from privkd_nb.record import History, Run

HERE = Path(__file__).parent


def launch(n, *cmd):
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    env = os.environ | dict(OMP_NUM_THREADS='1', TOKENIZERS_PARALLELISM='false', PYTHONPATH=str(HERE.parent))
    start = [sys.executable] if n == 1 else [sys.executable, '-m', 'torch.distributed.run', f'--nproc-per-node={n}', '--master-addr=127.0.0.1', f'--master-port={port}']
    out = subprocess.run([*start, *map(str, cmd)], env=env, capture_output=True, text=True, timeout=300)
    assert out.returncode == 0, out.stderr[-3000:]
    return out


@pytest.mark.parametrize('losses,cache,parts,narrow', [('paper', 'none', 1, ''), ('ce,logits', 'cache', 2, ''), ('hidden', 'none', 1, 'narrow')])
def test_two_processes_are_one(tmp_path, losses, cache, parts, narrow):
    for n in (1, 2): launch(n, HERE/'ddp_worker.py', tmp_path/str(n), parts, losses, cache, narrow)
    one, two = (History(tmp_path/str(n)/'history.jsonl').frame() for n in (1, 2))
    assert one.drop(columns='value').equals(two.drop(columns='value'))
    assert ((one.value-two.value).abs() <= 1e-4*one.value.abs()+1e-6).all()
    a, b = (load_file(tmp_path/str(n)/'model'/'model.safetensors') for n in (1, 2))
    assert a.keys() == b.keys()
    for k in a: assert torch.allclose(a[k], b[k], atol=2e-4), (k, (a[k]-b[k]).abs().max())
    if cache == 'cache': assert len(list((tmp_path/'2'/'cache').glob('*/*.safetensors'))) == 1      # filled by one of the two


def test_a_whole_run_on_two_processes(tmp_path):
    out = launch(2, '-m', 'privkd_nb.cli', 'distil', '--tiny', '--out_dir', tmp_path/'runs', '--losses', 'ce,logits')
    run = Run.load(out.stdout.split('on record: ')[1].splitlines()[0].strip())
    assert run.history.query("metric == 'loss'").step.is_unique
    assert not run.read('speed').empty and not (run.path/'checkpoints').exists()
