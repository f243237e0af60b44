"A run that is killed and started again ends where an uninterrupted one ends, to the last bit."
import os, signal, subprocess, sys, time
from pathlib import Path

import pandas as pd, torch
from resume_worker import main
from safetensors.torch import load_file

WORKER = Path(__file__).parent/'resume_worker.py'


def worker(folder, *more): return [sys.executable, str(WORKER), str(folder), *more]


def test_kill_dash_nine(tmp_path):
    main(tmp_path/'whole')
    p = subprocess.Popen(worker(tmp_path/'killed', 'slowly'))
    until = time.time()+240
    while not list((tmp_path/'killed'/'checkpoints').glob('checkpoint-*/trainer_state.json')):
        assert p.poll() is None and time.time() < until
        time.sleep(.05)
    time.sleep(.5)                                                    # somewhere between two checkpoints
    os.kill(p.pid, signal.SIGKILL)
    p.wait()
    assert not (tmp_path/'killed'/'end').exists()
    with (tmp_path/'killed'/'history.jsonl').open('a') as f: f.write('{"step": 99, "spl')     # the line it was writing
    subprocess.run(worker(tmp_path/'killed'), check=True, timeout=300)

    a, b = (load_file(tmp_path/k/'end'/'model.safetensors') for k in ('whole', 'killed'))
    assert a.keys() == b.keys() and any('projection' in k for k in a)
    for k in a: assert torch.equal(a[k], b[k]), k
    pd.testing.assert_frame_equal(*(pd.read_parquet(tmp_path/k/'history.parquet') for k in ('whole', 'killed')))
