"Damage on disk is named, all of it, and takes nothing else down: `privkd verify`, and everything that reads many runs."
import json, os, shutil, warnings
from pathlib import Path

import pandas as pd, pytest

from many_runs import make_runs
from privkd_nb.analysis.load import Study, load_runs
from privkd_nb.analysis.pack import pack
from privkd_nb.checkpoints import seal_checkpoint
from privkd_nb.cli import main
from privkd_nb.core import InputError, build_once, content_key, read_json, write_json
from privkd_nb.jobs.verify import verify
from privkd_nb.record import History, Run


def flip(p, at=None):
    b = bytearray(p.read_bytes())
    b[len(b)//2 if at is None else at] ^= 1
    p.write_bytes(b)


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    "Sixteen finished runs, with something in place of a model"
    folder = make_runs(tmp_path_factory.mktemp('verify')/'runs', 16)
    for p in folder.iterdir():
        (p/'model').mkdir()
        for name in ('config.json', 'model.safetensors'): (p/'model'/name).write_bytes(p.name.encode()*20)
        Run(p).finish()
    return folder


@pytest.fixture
def runs(plain, tmp_path): return shutil.copytree(plain, tmp_path/'runs')


def make_unfinished(path, steps=(5, 10)):
    run, history = Run(path).begin(dict(init='copy_ft', losses=dict(ce=1.), dataset='toy', scenario='all', fraction=1., seed=0), {}), History(path/'history.jsonl')
    for step in range(1, steps[-1]+3):
        history.add(step, dict(loss=1/step))
        if step not in steps: continue
        (at := path/'checkpoints'/f'checkpoint-{step}').mkdir(parents=True)
        for name in ('model.safetensors', 'optimizer.pt', 'scheduler.pt', 'rng_state.pth'): (at/name).write_bytes(f'{name}{step}'.encode()*9)
        seal_checkpoint(at, history)
    return path


@pytest.fixture
def study(runs, tmp_path, monkeypatch):
    "Finished runs, one of an earlier version, unfinished ones, and a cache"
    monkeypatch.setenv('PRIVKD_CACHE', str(tmp_path/'cache'))
    names = sorted(p.name for p in runs.iterdir())
    (runs/names[15]/'done.json').write_text('{"finished": "2024-01-01T00:00:00Z"}')
    for name in ('half', 'half2', 'half3'): make_unfinished(runs/name)
    (runs/'figures').mkdir(); (runs/'figures'/'scores.html').write_text('not a run'); (runs/'notes.txt').write_text('nor this')
    for kind in ('base', 'teachers'):
        for k in 'ab': build_once(tmp_path/'cache'/kind/k, lambda p: [(p/n).write_text(kind) for n in ('config.json', 'model.safetensors')])
    import numpy as np
    from privkd_nb.train.store import RowStore
    RowStore(tmp_path/'cache/teacher_outputs/s', dict(a=1)).add(['0'*32], dict(logits=[np.zeros(3, 'f4')]))
    return runs, names, tmp_path/'cache'


def test_nineteen_faults_are_nineteen_lines_and_none_is_found_before(study, capsys):
    runs, names, cache = study
    assert Run(runs/names[15]).on_record and main(['verify', str(runs), '--cache']) == 0
    out = capsys.readouterr().out
    assert '24 checked, 0 faults' in out and out.count('\n') == 2 and f'not checkable, because an earlier version wrote no checksums: {names[15]}\n' in out

    def run(i, name): return runs/names[i]/name
    flip(run(0, 'metrics.parquet')); flip(run(1, 'history.parquet')); flip(run(2, 'predictions.parquet'))
    run(3, 'texts.parquet').unlink(); flip(run(4, 'config.json')); run(5, 'config.json').write_text('null')
    run(6, 'environment.json').unlink(); run(6, 'environment.json').mkdir(); flip(run(7, 'model/model.safetensors'))
    run(8, 'init_card.json').unlink()
    flip(run(9, 'done.json')); run(10, 'metrics.parquet').write_bytes(run(10, 'metrics.parquet').read_bytes()[:300])
    run(15, 'model/model.safetensors').unlink()
    flip(runs/'half/checkpoints/checkpoint-10/optimizer.pt'); (runs/'half/checkpoints/checkpoint-5/rng_state.pth').unlink()
    (runs/'half2/checkpoints/checkpoint-10/checksums.json').unlink()
    (runs/'half3/history.jsonl').write_text(''.join((runs/'half3/history.jsonl').read_text().splitlines(True)[3:]))
    flip(cache/'base/a/model.safetensors'); (cache/'teachers/b/config.json').unlink(); flip(next((cache/'teacher_outputs/s').glob('segment-*')))
    planted = [(names[i], f) for i, f in enumerate(['metrics.parquet', 'history.parquet', 'predictions.parquet', 'texts.parquet', 'config.json', 'config.json', 'environment.json',
                                                    'model/model.safetensors', 'init_card.json', 'done.json', 'metrics.parquet'])]
    planted += [(names[15], 'model/model.safetensors'), ('half', 'checkpoints/checkpoint-10/optimizer.pt'), ('half', 'checkpoints/checkpoint-5/rng_state.pth'),
                ('half2', 'checkpoints/checkpoint-10/checksums.json'), ('half3', 'history.jsonl'), ('a', 'model.safetensors'), ('b', 'config.json'), ('s', next((cache/'teacher_outputs/s').glob('segment-*')).name)]
    assert len(planted) == 19
    assert sorted((f.where.name, f.file) for f in verify(runs, cache=True).faults) == sorted(planted)
    assert main(['verify', str(runs), '--cache']) == 1
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert len(lines) == 21 and '24 checked, 19 faults' in lines[-1] and 'not checkable' in lines[-2] and '19 faults' in said.err
    for where, file in planted: assert any(l.startswith(f'{where}: {file} ') for l in lines), (where, file)

    assert main(['verify', str(runs), '--cache', '--repair']) == 1                    # what must be trained again
    said = capsys.readouterr()
    assert 'to be made again by the commands above' in said.err and names[0] in said.err and names[4] not in said.err
    left = verify(runs, cache=True).faults
    assert {(f.where.name, f.file) for f in left} == {(names[i], f) for i, f in ((4, 'config.json'), (5, 'config.json'), (6, 'environment.json'), (8, 'init_card.json'))}
    assert not any(f.remake for f in left)                                            # written again without training
    assert len((runs/'half3/history.jsonl').read_text().splitlines()) == 10 and (runs/f'.{names[0]}.damaged-1'/'history.parquet').exists()
    assert not (cache/'base/a').exists() and (cache/'base/a.damaged-1').exists() and (cache/'base/b').exists()


def test_a_run_that_is_trained_now_is_not_judged(study):
    from privkd_nb.jobs.distil import run_lock
    runs, *_ = study
    (runs/'half/checkpoints/checkpoint-10/checksums.json').unlink()                   # as while it is written
    with run_lock(Run(runs/'half')): assert verify(runs).faults == []
    assert len(verify(runs).faults) == 1


@pytest.mark.parametrize('seed', range(3))
def test_any_byte_of_any_file_of_a_run_is_noticed(seed, runs):
    import random
    rng = random.Random(seed)
    for p in sorted(runs.iterdir()):
        for f in [f for f in sorted(p.rglob('*')) if f.is_file()]:
            at = rng.randrange(f.stat().st_size)
            flip(f, at)
            found = [x.file for x in verify(p).faults]
            assert found == [f.relative_to(p).as_posix()], (f, at)
            flip(f, at)
            os.utime(f)


BAD = dict(null=b'null', list=b'[]', empty_dict=b'{}', not_utf8=b'\xff\xfe\x00', empty=b'', nul=b'\0\0', deep=b'['*100_000, text=b'"copy_ft"', number=b'1', losses=b'{"init": "x", "losses": null}',
           seed=b'{"init": "x", "losses": {"ce": 1}, "dataset": "d", "scenario": "all", "fraction": "much", "seed": 0}')


@pytest.mark.parametrize('earlier', [False, True], ids=['hashes', 'earlier_version'])
@pytest.mark.parametrize('name', ['config.json', 'environment.json'])
def test_a_bad_json_file_costs_its_own_run_only(name, earlier, runs):
    names = sorted(p.name for p in runs.iterdir())
    if earlier: [(p/'done.json').write_text('{}') for p in runs.iterdir()]
    bad = {n: k for n, k in zip(names, BAD) if earlier is False or name == 'config.json' or k not in ('empty_dict', 'losses', 'seed')}
    for n, k in bad.items(): (runs/n/name).write_bytes(BAD[k])
    (runs/names[12]/name).unlink(); (runs/names[12]/name).mkdir()
    (runs/names[13]/name).unlink(); (runs/names[13]/name).symlink_to('nowhere')
    with pytest.warns(UserWarning, match='left out') as caught: df = load_runs(runs)
    gone = {*bad, names[12], names[13]}
    assert set(df.run) == {*names}-gone and set(df.attrs['skipped']) == gone
    assert all(f'{n} (' in str(caught[0].message) for n in gone)


@pytest.mark.parametrize('name', ['metrics', 'history', 'predictions', 'texts'])
def test_a_flipped_byte_of_a_table_is_named_at_opening(name, runs):
    names = sorted(p.name for p in runs.iterdir())
    for n, at in zip(names[:6], (.1, .3, .5, .7, .9, .99)): flip(runs/n/f'{name}.parquet', int(at*(runs/n/f'{name}.parquet').stat().st_size))
    with pytest.warns(UserWarning, match='left out 6'): study = Study.open(runs)
    assert set(study.skipped) == {*names[:6]} and all(f'{name}.parquet has other content' in w for w in study.skipped.values())
    assert set(study.table().run) == {*names[6:]}


def test_the_content_of_a_large_table_is_compared_when_it_is_read(runs, monkeypatch):
    from privkd_nb.analysis import load
    monkeypatch.setattr(load, 'SMALL', 0)
    name = sorted(p.name for p in runs.iterdir())[0]
    flip(runs/name/'predictions.parquet')
    study = Study.open(runs)
    with pytest.raises(InputError, match=f'{name}/predictions.parquet has other content than was written'): study.predictions(name)


def test_a_lost_model_is_named_and_the_numbers_stay(runs):
    name = sorted(p.name for p in runs.iterdir())[0]
    shutil.rmtree(runs/name/'model')
    with pytest.warns(UserWarning, match=f'{name} .model/config.json is missing'): assert name in Study.open(runs).configs


def test_what_is_no_run_takes_nothing_down(runs):
    (runs/'link').symlink_to('nowhere')
    (runs/'loop').symlink_to('loop')
    with pytest.warns(UserWarning, match='left out 2') as caught: study = Study.open(runs)
    assert len(study) == 16 and 'link (a link to nothing)' in str(caught[0].message)
    assert {f.where.name for f in verify(runs).faults} == {'link', 'loop'}


@pytest.mark.skipif(os.name == 'nt' or os.geteuid() == 0, reason='the administrator may read everything')
def test_a_folder_that_may_not_be_read_is_named(runs):
    p = sorted(runs.iterdir())[0]
    p.chmod(0)
    try:
        with pytest.warns(UserWarning, match=p.name): assert len(Study.open(runs)) == 15
        assert [f.where for f in verify(runs).faults] == [p]
    finally: p.chmod(0o755)


@pytest.mark.parametrize('damage', [lambda p: p.unlink(), lambda p: p.write_bytes(b'no table'), lambda p: flip(p), lambda p: p.write_text('null')], ids=['lost', 'no_table', 'flipped', 'null'])
@pytest.mark.parametrize('earlier', [False, True], ids=['hashes', 'earlier_version'])
def test_pack_leaves_out_what_cannot_be_read_and_names_it(damage, earlier, runs, tmp_path):
    names = sorted(p.name for p in runs.iterdir())
    if earlier: [(p/'done.json').write_text('{}') for p in runs.iterdir()]
    study = Study.open(runs)
    files = dict(zip(names, ('predictions.parquet', 'texts.parquet', 'init_card.json')))
    if earlier and damage(runs/names[3]/'texts.parquet') is None and (runs/names[3]/'texts.parquet').exists(): files.pop(names[1])  # without hashes a flipped byte may still be read
    for n, f in files.items(): damage(runs/n/f)
    with pytest.warns(UserWarning, match='left out') as caught: packed = Study.open(pack(study, tmp_path/'packed'))
    said = ' '.join(str(w.message) for w in caught)
    for n, f in files.items():
        if n not in packed.configs: assert n in said and n in packed.skipped
    kept = {*packed.configs}
    assert {*names[4:]} <= kept and set(packed.scores.run) == set(packed.history.run) == kept
    if not earlier: assert kept == {*names}-{*files}-({names[3]} if not (runs/names[3]/'texts.parquet').exists() else set())
    assert not any('did not record its texts' in t for r in kept for t in packed.predictions(r).text)


def test_a_packed_study_has_checksums(runs, tmp_path):
    folder = pack(Study.open(runs), tmp_path/'packed')
    assert verify(folder).faults == [] and set(read_json(folder/'study.json')['files']) == {'scores.parquet', 'history.parquet', 'predictions.parquet', 'texts.parquet', 'cards.json'}
    run = next(iter(Study.open(folder).configs))
    reads = dict(scores=lambda s: s.scores, history=lambda s: s.history, predictions=lambda s: s.predictions(run), texts=lambda s: s.predictions(run), cards=lambda s: s.card(run))
    for name, read in reads.items():
        p = next(folder.glob(f'{name}.*'))
        flip(p)
        with pytest.raises(InputError, match=f'{p.name} has other content than was written'): read(Study.open(folder))
        assert [f.file for f in verify(folder).faults] == [p.name]
        flip(p)
    flip(folder/'study.json', 100)
    with pytest.raises(InputError, match='study.json'): Study.open(folder)


def test_the_sample_has_checksums():
    assert verify(Study.open('sample').path) [1:] == ([], [])


def test_the_monitor_shows_a_folder_with_damaged_runs(runs):
    from privkd_nb.apps.monitor import RunFeed, Runs
    names = sorted(p.name for p in runs.iterdir())
    for n, bad in zip(names, BAD.values()): (runs/n/'config.json').write_bytes(bad); (runs/n/'environment.json').write_bytes(bad); (runs/n/'progress.json').write_bytes(bad)
    flip(runs/names[0]/'history.parquet', 20); (runs/names[1]/'history.parquet').write_bytes(b'')
    watched = Runs(runs)
    assert {p.name for p in watched.paths} == {*names}
    for p in watched.paths: RunFeed(p).read()


def of_this_version(path, seed=100):
    "A copy of a run as this version would have written it, beside it"
    config = read_json(path/'config.json') | dict(recipe=2, seed=seed)
    new = path.with_name(content_key(config))
    shutil.copytree(path, new)
    write_json(new/'config.json', config)
    return Run(new).finish().path


def left_out(folder):
    with pytest.warns(UserWarning, match='left out') as caught: study = Study.open(folder)
    assert all(name in str(caught[0].message) for name in study.skipped)
    return study.skipped


def test_a_folder_named_like_one_run_that_holds_another_is_left_out(runs):
    a, b = sorted(runs.iterdir())[:2]
    shutil.rmtree(b); shutil.copytree(a, b)
    assert not Run(b).on_record and Run(a).on_record
    assert left_out(runs) == {b.name: f"damaged: done.json is another run's ({a.name})"}
    assert [(f.where, f.file, f.remake) for f in verify(runs).faults] == [(b, 'done.json', True)]
    assert [f.where for f in verify(b).faults] == [b]
    (b/'environment.json').unlink()                                                   # which alone would be written again without training
    assert not Run(b).faults().keys() <= {'config.json', 'environment.json', 'init_card.json'}


@pytest.mark.parametrize('make', [shutil.copytree, lambda a, b: b.symlink_to(a)], ids=['copy', 'link'])
def test_a_copy_of_a_run_is_no_further_run(make, runs, tmp_path):
    a = sorted(runs.iterdir())[0]
    make(a, runs/'00 backup')                                                         # before the run itself in the order of names
    n = len(load_runs(a.parent).query("run == @a.name"))
    assert left_out(runs) == {'00 backup': f'a copy of {a.name}'} and n
    assert [(f.where.name, f.file, f.remake) for f in verify(runs).faults] == [('00 backup', 'config.json', False)]
    with pytest.warns(UserWarning, match='left out'): assert len(Study.open(pack(Study.open(runs), tmp_path/'packed'))) == 16
    a.rename(runs/'original')                                                         # names of one's own: the first is kept
    if not (runs/'00 backup').exists(): return
    assert left_out(runs) == {'original': 'a copy of 00 backup'}


@pytest.mark.parametrize('marker', ['{}', '{"finished": "2026-01-01T00:00:00Z"}'])
def test_a_marker_that_has_lost_its_checksums_is_a_fault(marker, runs):
    p = of_this_version(sorted(runs.iterdir())[0])
    assert Run(p).on_record and verify(runs).faults == []
    (p/'done.json').write_text(marker)
    assert Run(p).faults() == {'done.json': 'has no checksums, which this version writes'}
    assert left_out(runs) == {p.name: 'damaged: done.json has no checksums, which this version writes'}
    found = verify(runs)
    assert [(f.where, f.file) for f in found.faults] == [(p, 'done.json')] and found.not_checkable == []
    (p/'config.json').unlink()                                                        # nothing tells the version any more
    assert 'done.json' in Run(p).faults()


def test_a_packed_study_that_has_lost_its_checksums_is_refused(runs, tmp_path):
    of_this_version(sorted(runs.iterdir())[0])
    folder = pack(Study.open(runs), tmp_path/'packed')
    whole = read_json(folder/'study.json')
    for content in ({k: v for k, v in whole.items() if k not in ('files', 'seal')}, {}):
        write_json(folder/'study.json', content)
        with pytest.raises(InputError, match='pack the study again'): Study.open(folder)
        assert [f.file for f in verify(folder).faults] == ['study.json']


def test_a_cached_model_without_checksums_is_a_fault(study):
    _, _, cache = study
    (cache/'teachers/a/done.json').write_text('{}')
    assert [(f.where.name, f.what) for f in verify(study[0], cache=True).faults] == [('a', 'has no checksums')]


def test_a_lost_marker_of_a_finished_run_is_a_fault(runs):
    a, b, c, *_ = sorted(runs.iterdir())
    for p in (a, b, c): (p/'done.json').unlink()
    (b/'metrics.parquet').unlink(); write_json(b/'progress.json', dict(state='finished'))
    (c/'done.json').symlink_to('done.json')                                           # leads to itself
    assert [(f.where, f.file, f.remake) for f in verify(runs).faults] == [(p, 'done.json', True) for p in (a, b, c)]
    (b/'progress.json').unlink()
    assert verify(b).faults == []                                                     # it may never have been finished


def test_a_name_that_is_not_utf8_takes_nothing_down(runs, tmp_path, capsys):
    a = sorted(runs.iterdir())[0]
    p = Path(os.fsdecode(os.fsencode(runs)+b'/\x80x'))
    try: shutil.copytree(a, p)
    except OSError: pytest.skip('this disk has names in UTF-8 only')
    with pytest.warns(UserWarning, match='x80x .its name is not UTF-8'): study = Study.open(runs)
    assert len(study) == 16 and study.scores.run.nunique() == 16
    assert study.skipped == {'\\x80x': 'its name is not UTF-8; rename it'} and len(Study.open(pack(study, tmp_path/'packed'))) == 16
    assert main(['verify', str(runs)]) == 1 and '17 checked, 1 fault' in capsys.readouterr().out


@pytest.mark.skipif(os.name == 'nt', reason='no such names')
def test_a_backslash_in_a_name_loses_no_rows(runs):
    a = sorted(runs.iterdir())[0]
    a.rename(runs/'a\\b')
    assert 'a\\b' in set(Study.open(runs).scores.run)


@pytest.mark.parametrize('where', ['', 'nothing', 'empty', 'cache', 'cache/teachers'])
def test_what_holds_no_run_is_not_verified(where, study, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path/'empty').mkdir()
    assert main(['verify', where]) != 0
    assert 'checked' not in capsys.readouterr().out
    with pytest.raises(InputError): verify(where, cache=True)
