"A row that is read equals the row that was written, whatever happens to the files and writers of a store."
import os, resource, shutil, signal, subprocess, sys, time, warnings
from pathlib import Path

import numpy as np, pytest
from privkd_nb.core import InputError, hold
from privkd_nb.train.store import RowStore, StoreFullError

ME = dict(weights='b5bb9d80', precision='float32')


def key(i): return int(i).to_bytes(16, 'big')        # key(256) ends in a zero byte
def row(i): return np.random.default_rng(i).normal(size=(i % 5, 3)).astype('f4')
def rows(ids): return dict(hidden=[row(i) for i in ids], label=[np.int64(i) for i in ids])
def segments(folder): return sorted(Path(folder).glob('segment-*.safetensors'))


def agrees(store, ids):
    "The store has these rows, and they are correct"
    assert store.has(map(key, ids)).all()
    for i, h, n in zip(ids, store.get(map(key, ids), 'hidden'), store.get(map(key, ids), 'label')):
        assert h.dtype == 'f4' and n.shape == () and n == i
        np.testing.assert_array_equal(h, row(i))


def opened(folder, about=ME):
    "A store and its warnings"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        return RowStore(folder, about), [str(w.message) for w in caught]


def process(code, *args, **kw):
    "A process with the helpers of this file"
    return subprocess.Popen([sys.executable, '-c', f'import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom test_store import *\n{code}', *map(str, args)], text=True, **kw)


@pytest.fixture
def store(tmp_path):
    "Ten rows in one segment, five in another"
    s = RowStore(tmp_path/'rows', ME)
    s.add([key(i) for i in range(10)], rows(range(10)))
    s.add([key(i) for i in range(10, 15)], rows(range(10, 15)))
    return s


def first_segment(store): return store.folder/next(n for n, s in store.segments.items() if key(0) in s.keys)


# Round trips

@pytest.mark.parametrize('dtype', 'f2 f4 f8 i1 i2 i4 i8 u1 u2 u4 u8 ? >f4'.split())
def test_every_type_and_shape(tmp_path, dtype):
    rng = np.random.default_rng(0)
    for n, shapes in enumerate([[(), ()], [(3,), (0,), (2,)], [(2, 3), (0, 3), (5, 1)], [(1, 2, 3, 4), (2, 2, 2, 0)]]):
        v = [(rng.normal(size=s)*9).astype(dtype) for s in shapes]
        keys = [key(100*n+i) for i in range(len(v))]
        RowStore(tmp_path/'rows', ME).add(keys, {'x': v, 'keys': v})
        for name in 'x', 'keys':
            for a, b in zip(v, RowStore(tmp_path/'rows', ME).get(keys, name)):
                assert (a.shape, a.dtype.newbyteorder('<')) == (b.shape, b.dtype) and b.flags.aligned
                np.testing.assert_array_equal(a, b)


def test_random_histories(tmp_path):
    "Against a dictionary: any order of adding, filling, reopening and reading"
    for seed in range(8):
        rng, known, folder = np.random.default_rng(seed), {}, tmp_path/str(seed)
        stores = [RowStore(folder, ME) for _ in range(2)]
        for _ in range(25):
            s, ids = stores[rng.integers(2)], rng.integers(0, 60, rng.integers(1, 12)).tolist()
            do = rng.integers(4)
            if do == 0: s.add([key(i) for i in ids], rows(ids))
            if do == 1:
                s.refresh()
                expected = len(set(ids)-known.keys())
                assert s.fill([key(i) for i in ids], lambda at: rows([ids[j] for j in at]), batch=int(rng.integers(1, 5)), nbytes=int(rng.integers(1, 200))) == expected
            if do == 2: stores[rng.integers(2)] = RowStore(folder, ME)
            if do in (0, 1): known |= {i: 1 for i in ids}
            s.refresh()
            query = rng.integers(0, 60, 9).tolist()
            assert s.has([key(i) for i in query]).tolist() == [i in known for i in query]
            assert s.missing([key(i) for i in query]) == [n for n, i in enumerate(query) if i not in known and i not in query[:n]]
            assert len(s) == len(known)
        agrees(stores[0], list(known)) if len(stores[0]) == len(known) else agrees(RowStore(folder, ME), list(known))
        assert RowStore(folder, ME).nbytes == sum(p.stat().st_size for p in segments(folder))


def test_views_are_read_only(store):
    x = store.get([key(3)], 'hidden')[0]
    with pytest.raises(ValueError): x[:] = 0
    with pytest.raises(ValueError): x.setflags(write=True)
    assert not x.flags.owndata


def test_key_spellings(store):
    assert store.has([key(3).hex(), np.frombuffer(key(4), 'V16')[0], key(99)]).tolist() == [True, True, False]
    assert store.has(np.frombuffer(key(3)+key(99), np.uint8).reshape(2, 16)).tolist() == [True, False]
    for bad in b'short', 'zz', 3, 'ab':
        with pytest.raises(InputError, match='16 bytes'): store.has([bad])


@pytest.mark.parametrize('wrong', [{}, dict(x=[np.zeros(2)]), dict(x=[np.zeros(2), np.zeros((2, 2))]), dict(x=[np.zeros(2), np.zeros(2, 'f4')]),
                                   dict(x=['a', 'b']), dict(x=[object(), object()]), dict(x=[1j, 2j])])
def test_invalid_rows_raise(store, wrong):
    before = segments(store.folder)
    with pytest.raises(InputError): store.add([key(50), key(51)], wrong)
    assert segments(store.folder) == before and not store.has([key(50)]).any()
    with pytest.raises(InputError, match="has no 'z'"): store.get([key(1)], 'z')


# Damaged files

def test_truncation_anywhere_is_detected(store):
    seg = first_segment(store)
    whole = seg.read_bytes()
    for n in sorted({0, 1, 7, 8, 9, 50, len(whole)//2, *range(len(whole)-9, len(whole))}):
        seg.write_bytes(whole[:n])
        s, messages = opened(store.folder)
        assert len(messages) == 1 and str(seg) in messages[0] and 'truncated' in messages[0]
        assert s.missing(map(key, range(15))) == list(range(10))
        agrees(s, range(10, 15))
        assert s.fill([key(i) for i in range(15)], rows) == 10 and seg.read_bytes() == whole       # recomputed, with equal bytes
        agrees(RowStore(store.folder, ME), range(15))
        (quarantined,) = store.folder.glob('*.damaged-1')
        assert quarantined.read_bytes() == whole[:n]          # nothing is lost
        quarantined.unlink()


def test_a_flipped_bit_anywhere_is_detected(store):
    seg = first_segment(store)
    whole = seg.read_bytes()
    for at in {*range(16), *np.random.default_rng(0).integers(0, len(whole), 150).tolist(), len(whole)-1}:     # length, header, shapes, data, keys
        content = bytearray(whole)
        content[at] ^= 1 << at % 8
        seg.write_bytes(content)
        s, messages = opened(store.folder)
        assert len(messages) == 1 and str(seg) in messages[0] and ('its content does not match its name' in messages[0] or at < 8), at
        assert s.missing(map(key, range(15))) == list(range(10)), at
    assert len(list(store.folder.glob('*.damaged*'))) > 100


def test_longer_and_renamed_segments_are_detected(store):
    a, b = segments(store.folder)
    a.write_bytes(a.read_bytes()+b'\0')
    shutil.copy(b, b.with_name('segment-0123456789abcdef.safetensors'))
    s, messages = opened(store.folder)
    assert len(messages) == 2 and all('does not match' in o for o in messages) and len(s.segments) == 1


def test_an_unreadable_segment_is_not_used(store):
    seg = first_segment(store)
    seg.unlink()
    seg.mkdir()                                       # opening it is an OSError
    s, messages = opened(store.folder)
    assert 'cannot be read' in messages[0] and len(s) == 5


# Owner of the rows

@pytest.mark.parametrize('about', ['{"weights": "other"}', '{"half":', '', '\0\xff', None, '{"weights": "b5bb9d80", "precision": "float32", "more": 1}'])
def test_a_foreign_folder_is_quarantined(store, about):
    path = store.folder/'about.json'
    path.unlink() if about is None else path.write_text(about, encoding='latin-1')
    s, messages = opened(store.folder)
    assert len(messages) == 1 and 'foreign-1' in messages[0] and len(s) == 0 and s.get([], 'x') == []
    assert len(segments(f'{store.folder}.foreign-1')) == 2      # moved, unchanged
    s.add([key(1)], rows([1]))
    agrees(opened(store.folder)[0], [1])
    assert len(opened(store.folder, ME | dict(weights='x'))[0]) == 0 and Path(f'{store.folder}.foreign-2').is_dir()


def test_owners_are_compared_as_json(store):
    s, messages = opened(store.folder, dict(reversed(ME.items())))
    assert not messages and len(s) == 15


def test_foreign_segments_are_quarantined(store, tmp_path):
    "Also segments that a program adds after its folder was quarantined"
    new, _ = opened(store.folder, ME | dict(weights='x'))
    store.add([key(1)], dict(hidden=[row(2)], label=[np.int64(2)]))
    agrees(store, [3])                                          # its memory maps stay valid
    with pytest.warns(UserWarning, match='belong to another owner'): new.refresh()
    assert len(new) == 0 and len(list(new.folder.glob('*.foreign-1'))) == 1


def test_other_files_are_left_alone(tmp_path):
    (tmp_path/'thesis.tex').write_text('mine')
    _, messages = opened(tmp_path)
    assert not messages and (tmp_path/'thesis.tex').read_text() == 'mine'


# Writers

FILL = '''
import pathlib, time
s, log = RowStore(sys.argv[1], ME), []
def compute(at):
    time.sleep(.01)
    log.extend(ids[i] for i in at)
    return rows([ids[i] for i in at])
ids = [(7*i+int(sys.argv[2])) % 200 for i in range(300)]
print('ready', flush=True); sys.stdin.readline()
s.fill([key(i) for i in ids], compute, batch=10, nbytes=500)
agrees(s, ids)
print(*log)
'''


def test_two_processes_compute_each_row_once(tmp_path):
    ps = [process(FILL, tmp_path/'rows', n, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for n in (0, 100)]
    for p in ps: assert p.stdout.readline() == 'ready\n'
    for p in ps: p.stdin.write('go\n'); p.stdin.flush()
    made = [int(i) for p in ps for i in p.communicate(timeout=60)[0].split()]
    assert [p.returncode for p in ps] == [0, 0] and sorted(made) == list(range(200))
    agrees(RowStore(tmp_path/'rows', ME), range(200))


def test_opening_does_not_wait_for_a_writer(store):
    with store.lock():
        p = process('agrees(RowStore(sys.argv[1], ME), range(15))', store.folder)
        assert p.wait(30) == 0


def test_a_folder_is_not_quarantined_while_it_is_written(store):
    with store.lock():
        p = process('RowStore(sys.argv[1], dict(weights="x"))', store.folder, stderr=subprocess.DEVNULL)
        with pytest.raises(subprocess.TimeoutExpired): p.wait(2)
        agrees(opened(store.folder)[0], range(15))
    assert p.wait(30) == 0 and len(segments(store.folder)) == 0


def test_several_processes_create_one_store_at_once(tmp_path):
    ps = [process('s = RowStore(sys.argv[1], ME); s.add([key(int(sys.argv[2]))], rows([int(sys.argv[2])]))', tmp_path/'rows', i) for i in range(3)]
    assert [p.wait(60) for p in ps] == [0]*3
    agrees(RowStore(tmp_path/'rows', ME), range(3))
    assert not list(tmp_path.glob('*foreign*'))


def test_an_interrupted_fill_keeps_its_finished_batches(store):
    ids, n = list(range(100, 140)), 0
    def compute(at):
        nonlocal n
        if n == 3: raise KeyboardInterrupt
        n += 1
        return rows([ids[i] for i in at])
    with pytest.raises(KeyboardInterrupt): store.fill(map(key, ids), compute, batch=10)
    agrees(RowStore(store.folder, ME), ids[:30])
    assert store.fill([key(i) for i in ids], lambda at: rows([ids[i] for i in at])) == 10
    agrees(store, ids)


def test_fill_checks_the_number_of_computed_rows(store):
    with pytest.raises(InputError, match='compute gave 1 of label for 2 positions'): store.fill([key(90), key(91)], lambda at: dict(label=[np.int64(0)]))
    assert not store.has([key(90), key(91)]).any()


KILLED = '''
import os, signal
s, fsync = RowStore(sys.argv[1], ME), os.fsync
s.add([key(1)], rows([1]))
def die(f):
    fsync(f)
    with open(f'/proc/self/fd/{f}', 'r+b') as half: half.truncate(int(sys.argv[2]))
    os.kill(os.getpid(), signal.SIGKILL)
os.fsync = die
with s.lock(): s.add([key(i) for i in range(2, 9)], rows(range(2, 9)))
'''


@pytest.mark.parametrize('written', [0, 100, 1000])
def test_killed_while_writing(tmp_path, written):
    assert process(KILLED, tmp_path/'rows', written).wait(60) == -signal.SIGKILL
    (left,) = (tmp_path/'rows').glob('.tmp-*')
    assert left.stat().st_size == written
    s, messages = opened(tmp_path/'rows')
    assert not messages and not left.exists() and len(s) == 1
    agrees(s, [1])
    assert s.fill([key(i) for i in range(9)], rows) == 8         # a killed process releases its lock
    agrees(s, range(9))


def test_killed_anywhere(tmp_path):
    "A writer is killed at any moment: its rows are correct, and filling continues"
    ids = list(range(300))
    for n in range(3):
        p = process('''
import pathlib
s = RowStore(sys.argv[1], ME); print('ready', flush=True)
s.fill([key(i) for i in range(300)], lambda at: (time.sleep(.004), rows(at))[1], batch=5, nbytes=1)''', tmp_path/'rows', stdout=subprocess.PIPE)
        p.stdout.readline()
        time.sleep(.03+.02*n)
        p.kill(); p.wait(); p.stdout.close()
        s, messages = opened(tmp_path/'rows')
        assert not messages and not list(s.folder.glob('.tmp-*'))
        agrees(s, [i for i in ids if s.has([key(i)])[0]])
    s.fill([key(i) for i in ids], rows)
    agrees(RowStore(tmp_path/'rows', ME), ids)


def test_only_abandoned_temporary_files_are_deleted(store):
    mine, old = store.folder/'.tmp-aa', store.folder/'.tmp-elsewhere-1-bb'
    for p in mine, old: p.write_bytes(b'half')
    with store.lock():                                         # not while another process writes
        p = process('RowStore(sys.argv[1], ME)', store.folder)
        assert p.wait(30) == 0 and old.exists()
    with hold(mine):                                           # as its writer does as long as it lives
        s, messages = opened(store.folder)
        assert not messages and len(s) == 15 and (mine.exists(), old.exists()) == (True, False)
    opened(store.folder)
    assert not mine.exists()


def test_read_only_folder(store, tmp_path):
    "A read-only store can be read, although a killed writer left a temporary file"
    (store.folder/'.tmp-elsewhere-1-aa').touch()
    ro = tmp_path/'ro'
    ro.mkdir()
    if subprocess.run(['mount', '-t', 'tmpfs', 'none', ro], capture_output=True).returncode: pytest.skip('skipped: mounting is not permitted')
    try:
        shutil.copytree(store.folder, ro/'rows')
        subprocess.run(['mount', '-o', 'remount,ro', ro], check=True)
        s, messages = opened(ro/'rows')
        agrees(s, range(15))
        assert not messages and s.fill(map(key, range(15)), None) == 0
        with pytest.raises(OSError): s.add([key(50)], rows([50]))
    finally: subprocess.run(['umount', '-l', ro], check=True)


def test_a_store_is_pickled_without_its_rows(store):
    import pickle
    content = pickle.dumps(store)
    assert len(content) < 1000
    agrees(pickle.loads(content), range(15))


# Full disks

def check_full_disk(folder):
    "Add rows until the disk is full: earlier rows stay readable"
    s, n = RowStore(folder, ME), 0
    big = lambda i: dict(hidden=[np.full((100, 500), i, 'f4')])  # 200 kB
    try:
        while n < 100: s.add([key(n)], big(n)); n += 1
    except StoreFullError as e: error = e
    assert 2 <= n < 100 and s.folder.name in str(error) and 'There is no room for 200,' in str(error) and 'unharmed' in str(error)
    for t in s, opened(folder)[0]:
        assert len(t) == n and t.missing([key(n)]) == [0]
        assert all((x == i).all() for i, x in enumerate(t.get(map(key, range(n)), 'hidden')))
    assert not list(s.folder.glob('.tmp*'))
    with pytest.raises(StoreFullError): s.fill([key(i) for i in range(n+2)], lambda at: dict(hidden=[np.zeros((400, 500), 'f4') for _ in at]))


def test_full_tmpfs(tmp_path):
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=2m', 'none', tmp_path], capture_output=True).returncode: pytest.skip('skipped: mounting is not permitted')
    try: check_full_disk(tmp_path/'rows')
    finally: subprocess.run(['umount', '-l', tmp_path], check=True)


def test_no_room_for_a_file(tmp_path):
    "Where mounting is not permitted: a limit on the size of a file"
    code = '''
s = RowStore(sys.argv[1], ME)
s.add([key(1)], rows([1]))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))
with pytest.raises(StoreFullError, match='There is no room for'): s.add([key(2)], dict(hidden=[np.zeros((100, 100), 'f4')]))
assert not list(s.folder.glob('.tmp*'))
s.add([key(3)], rows([3]))
for t in s, RowStore(sys.argv[1], ME): agrees(t, [1, 3]); assert len(t) == 2
'''
    assert process(code, tmp_path/'rows').wait(60) == 0


def test_full_disk_when_the_folder_is_created(tmp_path):
    "Not even the folder can be created"
    code = '''
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
with pytest.raises(StoreFullError): RowStore(sys.argv[1], ME)
'''
    assert process(code, tmp_path/'rows').wait(60) == 0
    assert len(RowStore(tmp_path/'rows', ME)) == 0
