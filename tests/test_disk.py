"Full disks and disks that can only be read: one sentence, nothing lost, and what is there serves."
import errno, resource, subprocess

import pytest

from privkd_nb.core import DiskError, InputError, build_once, disk_errors, replacing, replacing_folder, write_json
from privkd_nb.jobs.background import BackgroundRun
from privkd_nb.jobs.config import RunConfig
from privkd_nb.jobs.distil import distil
from privkd_nb.record import History, StatusFile


@pytest.fixture
def disk(tmp_path):
    "A small disk: `disk(size)` makes it, or changes it"
    at = tmp_path/'disk'
    at.mkdir()
    def mount(*options): return subprocess.run(['mount', *options, at], capture_output=True).returncode
    if mount('-t', 'tmpfs', '-o', 'size=64k', 'none'): pytest.skip('skipped: mounting is not permitted')
    def change(options):
        assert not mount('-o', f'remount,{options}')
        return at
    yield change
    subprocess.run(['umount', '-l', at], check=True)


def test_a_full_disk_stops_a_run_which_then_resumes(disk, tmp_path):
    cfg = dict(tiny=True, losses='ce', cache='off')
    out = disk('size=200k')
    with pytest.raises(DiskError, match='cannot be written: the disk is full; free some space') as e: distil(RunConfig(**cfg, out_dir=str(out)))
    assert '\n' not in str(e.value) and isinstance(e.value, InputError)
    disk('size=200m')
    run, other = (distil(RunConfig(**cfg, out_dir=str(d))) for d in (out, tmp_path/'runs'))
    assert run.metrics.equals(other.metrics) and not list(run.path.rglob('.*.tmp'))


def test_a_run_on_a_disk_that_can_only_be_read(disk, tmp_path, monkeypatch):
    "What is on record there is read; nothing else is begun; and a cache there serves"
    home = disk('size=200m')
    monkeypatch.setenv('PRIVKD_CACHE', str(home/'cache'))
    cfg = RunConfig(tiny=True, losses='ce', out_dir=str(home/'runs'))
    run = distil(cfg)
    disk('ro')
    assert distil(cfg).metrics.equals(run.metrics)
    again = distil(RunConfig(tiny=True, losses='ce', out_dir=str(tmp_path/'runs')))      # its base, teacher and outputs are in the cache
    assert again.metrics.equals(run.metrics)
    for new in (lambda c: distil(c), lambda c: BackgroundRun(c).start()):
        with pytest.raises(DiskError, match='the disk can only be read; choose a folder'): new(RunConfig(tiny=True, losses='ce', seed=1, out_dir=str(home/'runs')))


def test_every_way_to_write_says_it(disk):
    home = disk('size=64k')
    build_once(home/'base', lambda p: None)
    write_json(home/'x.json', {'a': 1})
    full = b'0'*10**5
    with pytest.raises(DiskError, match='x.json cannot be written: the disk is full'):
        with replacing(home/'x.json') as tmp: tmp.write_bytes(full)
    with pytest.raises(DiskError, match='the disk is full'):
        with replacing_folder(home/'model') as tmp: (tmp/'weights').write_bytes(full)
    assert (home/'x.json').read_text() == '{\n "a": 1\n}\n' and not list(home.glob('.*.tmp')) and not (home/'model').exists()
    disk('ro')
    with pytest.raises(DiskError, match='can only be read'): write_json(home/'y.json', {})
    with pytest.raises(DiskError, match='can only be read'): StatusFile(home).write('training')
    with pytest.raises(DiskError, match='can only be read'): History(home/'history.jsonl').add(1, dict(loss=1.))
    with pytest.raises(DiskError, match='can only be read'): build_once(home/'other', None)
    assert build_once(home/'base', None) == home/'base'


def test_errors_of_other_libraries_are_known():
    from safetensors import SafetensorError
    for error in (SafetensorError('Error while serializing: I/O error: No space left on device (os error 28)'), OSError('[Errno 28] Error writing bytes to file'),
                  RuntimeError('[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0'), OSError(errno.EDQUOT, 'x'), OSError(errno.EFBIG, 'x')):
        with pytest.raises(DiskError, match='model cannot be written'):
            with disk_errors('model'): raise error
    with pytest.raises(FileNotFoundError):
        with disk_errors('model'): raise FileNotFoundError(errno.ENOENT, 'no file')


def test_a_limit_on_files_is_a_sentence_too(tmp_path):
    "EFBIG in place of ENOSPC, for machines where nothing can be mounted"
    was = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, was[1]))
    try:
        with pytest.raises(DiskError, match='larger than is allowed; free some space') as e: distil(RunConfig(tiny=True, losses='ce', cache='off', out_dir=str(tmp_path)))
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, was)
    from privkd_nb.cli.console import explained
    assert explained(e.value)[1] == 2 and explained(OSError(errno.ENOSPC, 'x', 'runs/a')) == ('runs/a cannot be written: the disk is full; free some space, or choose another folder (out_dir; PRIVKD_CACHE for caches).', 2)
