"What runs write is sent to trackers once, however often it is asked for and whatever happens in between"
import importlib.util, json, shutil, sys
from types import SimpleNamespace

import pytest
from privkd_nb.core import InputError
from privkd_nb.jobs import mirror as M, trackers as T
from privkd_nb.jobs.mirror import Mirror, final_scores, mirror, next_rows, number_name, run_parameters, steps_of, target_of
from privkd_nb.record import Run


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    "The folder of a finished run"
    from privkd_nb import RunConfig, distil
    return distil(RunConfig(languages='de,sw', losses='ce', epochs=4, tiny=True, out_dir=str(tmp_path_factory.mktemp('mirror')/'runs'))).path


class Part:
    "A run as it looks after part of its history"
    def __init__(self, finished, runs, name=None):
        self.path = runs/(name or finished.name)
        shutil.copytree(finished, self.path)
        self.lines = (self.path/'history.jsonl').read_text().splitlines(True)
        self.kept = {n: (self.path/n).read_bytes() for n in ('done.json', 'history.parquet')}
    def at(self, share):
        for n in self.kept: (self.path/n).unlink(missing_ok=True)
        (self.path/'history.jsonl').write_text(''.join(self.lines[:int(len(self.lines)*share)]))
    def finish(self):
        (self.path/'history.jsonl').write_text(''.join(self.lines))
        for n, b in self.kept.items(): (self.path/n).write_bytes(b)


class Fake:
    "A tracker that keeps every point; like Weights & Biases and MLflow, it knows which step it has"
    runs, tells, fails = {}, True, False
    def __init__(self, target, again=None):
        self.points, self.target, self.again = self.runs.setdefault(target.id, []), target, again
    def reached(self): return max((s for s, _ in self.points), default=None) if self.tells else None
    def log(self, step, values):
        if self.fails: raise RuntimeError('no network\nat all')
        self.points.append((step, dict(values)))
    def flush(self): pass
    def close(self, finished): pass


@pytest.fixture
def fake(monkeypatch):
    Fake.runs, Fake.tells, Fake.fails = {}, True, False
    monkeypatch.setitem(T.TRACKERS, 'wandb', Fake)
    monkeypatch.setattr(M, 'check_tracker', lambda to: to)
    return Fake


def sent(fake, path, attempt=''):
    points = fake.runs[f'privkd-{path.name}{attempt}']
    steps = [s for s, _ in points]
    assert steps == sorted(set(steps)), 'a step was sent twice'
    return points


def check_whole(points, run):
    "Every row of the history and every final score was sent with its step and value"
    assert [(s, v) for s, v, _ in steps_of(run.history, True)][:-1] == points[:-1]
    last = steps_of(run.history, True)[-1]
    assert points[-1] == (last[0], last[1] | final_scores(run)) and 'test/accuracy/sw' in points[-1][1]


def test_a_run_is_sent_in_parts_and_never_twice(finished, tmp_path, fake):
    p, lines = Part(finished, tmp_path/'runs'), []
    for share in (.3, .3, .6, .2, .7): p.at(share); mirror(tmp_path/'runs', 'wandb', report=lines.append)
    before = len(sent(fake, p.path))
    assert before and 'final' not in ''.join(lines)
    p.finish()
    for _ in range(2): mirror(tmp_path/'runs', 'wandb', report=lines.append)
    check_whole(sent(fake, p.path), Run(p.path))
    assert lines[-1].startswith('nothing new') and 'with its final scores' in lines[-2]


@pytest.mark.parametrize('at', [0, 1, 3])
def test_after_a_kill_the_tracker_is_asked_what_it_has(finished, tmp_path, fake, monkeypatch, at):
    p, log = Part(finished, tmp_path/'runs'), Fake.log
    def killed(self, step, values):
        log(self, step, values)
        if len(self.points) > at: raise SystemExit
    monkeypatch.setattr(Fake, 'log', killed)
    with pytest.raises(SystemExit): mirror(tmp_path/'runs', 'wandb')
    monkeypatch.setattr(Fake, 'log', log)
    mirror(tmp_path/'runs', 'wandb')
    check_whole(sent(fake, p.path), Run(p.path))


def test_a_lost_state_doubles_nothing(finished, tmp_path, fake):
    p, lines = Part(finished, tmp_path/'runs'), []
    m = mirror(tmp_path/'runs', 'wandb', report=lines.append)
    m.state.unlink()
    mirror(tmp_path/'runs', 'wandb', report=lines.append)
    check_whole(sent(fake, p.path), Run(p.path))
    assert lines[-1].startswith('nothing new')


def test_a_run_that_began_anew_is_a_new_run(finished, tmp_path, fake):
    p, lines = Part(finished, tmp_path/'runs'), []
    p.at(.5); mirror(tmp_path/'runs', 'wandb', report=lines.append)
    first, rows = len(sent(fake, p.path)), [json.loads(l) for l in p.lines]
    (p.path/'history.jsonl').write_text(''.join(json.dumps(r | dict(value=(r['value'] or 0)+1))+'\n' for r in rows[:len(rows)*3//4]))
    mirror(tmp_path/'runs', 'wandb', report=lines.append)
    assert len(sent(fake, p.path)) == first and sent(fake, p.path, '-2')[0][1] != sent(fake, p.path)[0][1] and 'began anew' in lines[-1]


def test_following_sends_what_comes_and_ends_quietly(finished, tmp_path, fake, monkeypatch):
    p, lines, shares = Part(finished, tmp_path/'runs'), [], iter([.5, .5, 1, None])
    p.at(.2)
    def sleep(_):
        share = next(shares)
        if share is None: raise KeyboardInterrupt
        p.finish() if share == 1 else p.at(share)
    monkeypatch.setattr(M.time, 'sleep', sleep)
    mirror(tmp_path/'runs', 'wandb', follow=True, report=lines.append)
    check_whole(sent(fake, p.path), Run(p.path))
    assert lines[-1] == 'interrupted; the same command goes on from here' and sum('sent' in l for l in lines) == 2


def test_what_cannot_be_read_is_named_and_the_others_are_sent(finished, tmp_path, fake):
    good, bad, lines = Part(finished, tmp_path/'runs'), Part(finished, tmp_path/'runs', 'broken'), []
    (bad.path/'config.json').write_text('{"init": ')
    (tmp_path/'runs'/'.hidden').mkdir(); (tmp_path/'runs'/'.hidden'/'config.json').write_text('{}')
    mirror(tmp_path/'runs', 'wandb', report=lines.append)
    assert list(fake.runs) == [f'privkd-{good.path.name}'] and 'broken is left out' in ''.join(lines)


def test_only_one_mirror_at_a_time(finished, tmp_path, fake):
    Part(finished, tmp_path/'runs')
    m = Mirror(tmp_path/'runs', 'wandb')
    with m.alone(), pytest.raises(InputError, match='another `privkd mirror` is sending'): mirror(tmp_path/'runs', 'wandb')
    mirror(tmp_path/'runs', 'wandb', project='other')           # another target has a memory of its own
    assert len(list((tmp_path/'runs').glob('.mirror-*.json'))) == 1


def test_a_failing_tracker_is_one_sentence_and_nothing_is_lost(finished, tmp_path, fake):
    p = Part(finished, tmp_path/'runs')
    fake.fails = True
    with pytest.raises(InputError, match=r'wandb did not take the runs \(no network\)'): mirror(tmp_path/'runs', 'wandb')
    fake.fails = False
    mirror(tmp_path/'runs', 'wandb')
    check_whole(sent(fake, p.path), Run(p.path))


def test_a_missing_tracker_is_one_sentence(finished, monkeypatch, capsys):
    from privkd_nb.cli.console import main
    monkeypatch.setattr(T.importlib.util, 'find_spec', lambda name: None)
    assert main(['mirror', str(finished.parent), '--to', 'mlflow']) == 2
    assert "mlflow is not installed: pip install 'privkd_nb[mlflow]'" in capsys.readouterr().err


def test_names_are_safe_and_stay_apart(finished):
    hostile = ['a b', 'a/b', 'a_b', '', '..', 'ä', '<b>', '日本', 'mean_seen', 'x'*300, "'; drop"]
    names = [number_name('test', 'language', l, 'accuracy') for l in hostile]+[number_name('test', g, '', 'accuracy') for g in ('all', 'seen', 'unseen')]
    assert len(set(names)) == len(names)-1                       # only a language called mean_seen is taken for the mean
    assert all(T.re.fullmatch(r'[A-Za-z0-9_./-]{1,200}', n) and '..' not in n for n in names)
    t = target_of(Run(finished), 'p', '')
    assert t == target_of(Run(finished), 'p', '') and t.id == f'privkd-{finished.name}' and t.config['losses'] == 'ce' and t.config['tiny'] is True
    assert all(isinstance(v, (str, int, float, bool)) for v in run_parameters(Run(finished)).values())


def read_back(to, run, where):
    "The points of the loss, and the parameters, as the tracker itself has them"
    t = target_of(run, 'try it', where)
    if to == 'tensorboard':
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        e = EventAccumulator(f'{where}/{t.name}').Reload()
        assert e.PluginTagToContent('hparams')
        return [(p.step, p.value) for p in e.Scalars('train/loss')], [p.value for p in e.Scalars('test/accuracy/sw')]
    if to == 'mlflow':
        from mlflow import MlflowClient
        c = MlflowClient(where)
        r, = c.search_runs([c.get_experiment_by_name('try it').experiment_id])
        assert r.data.params['init'] == 'copy_ft' and r.info.status == 'FINISHED'
        return [(p.step, p.value) for p in c.get_metric_history(r.info.run_id, 'train/loss')], [p.value for p in c.get_metric_history(r.info.run_id, 'test/accuracy/sw')]
    from trackio.sqlite_storage import SQLiteStorage
    logs = SQLiteStorage.get_logs('try it', t.name)
    return [(l['step'], l['train/loss']) for l in logs if 'train/loss' in l], [l['test/accuracy/sw'] for l in logs if 'test/accuracy/sw' in l]


@pytest.mark.parametrize('to', ['tensorboard', 'mlflow', 'trackio'])
def test_the_real_tracker_has_every_point_once(to, finished, tmp_path, monkeypatch):
    pytest.importorskip(to, reason=f'skipped: {to} is not installed')
    where = f'sqlite:///{tmp_path}/mlflow.db' if to == 'mlflow' else str(tmp_path/'there')
    p = Part(finished, tmp_path/'runs')
    p.at(.6); mirror(tmp_path/'runs', to, 'try it', where)
    remember = Mirror.remember
    def killed(self, name, **known):
        if known.get('done'): raise SystemExit
        remember(self, name, **known)
    monkeypatch.setattr(Mirror, 'remember', killed)
    p.finish()
    with pytest.raises(SystemExit): mirror(tmp_path/'runs', to, 'try it', where)               # killed when everything was sent
    monkeypatch.undo()
    for _ in range(2): mirror(tmp_path/'runs', to, 'try it', where)
    run = Run(p.path)
    losses, score = read_back(to, run, where)
    h = run.history.query("split == 'train' and metric == 'loss'")
    assert [s for s, _ in losses] == h.step.tolist() and [v for _, v in losses] == pytest.approx(h.value.tolist(), rel=1e-6)
    assert score == pytest.approx([final_scores(run)['test/accuracy/sw']])


def test_weights_and_biases_is_called_as_it_documents(monkeypatch):
    calls = []
    run = SimpleNamespace(step=8, resumed=True, log=lambda v, step: calls.append((step, v)), finish=lambda: calls.append('finish'))
    def init(**kw): calls.append(kw); return run
    monkeypatch.setitem(sys.modules, 'wandb', SimpleNamespace(init=init, Settings=lambda **kw: kw))
    w = T.WandB(T.Target('p', '', 'name', 'privkd-1', 'copy_ft · ce', dict(init='copy_ft')))
    assert w.reached() == 7
    w.log(8, {'train/loss': 1.}); w.close(True)
    kw, *rest = calls
    assert (kw['project'], kw['id'], kw['name'], kw['group'], kw['resume'], kw['config']) == ('p', 'privkd-1', 'name', 'copy_ft · ce', 'allow', dict(init='copy_ft'))
    assert rest == [(8, {'train/loss': 1.}), 'finish']
    run.resumed = False
    assert w.reached() is None


def test_report_to_of_the_trainer_keeps_working(tmp_path, monkeypatch):
    pytest.importorskip('tensorboard', reason='skipped: tensorboard is not installed')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from privkd_nb import RunConfig, distil, training_args
    from privkd_nb.jobs import distil as D
    monkeypatch.setenv('TENSORBOARD_LOGGING_DIR', str(tmp_path/'board'))
    assert training_args(tmp_path, 10).report_to == []                                       # nothing is reported unless it is asked for
    monkeypatch.setattr(D, 'training_args', lambda *a, **kw: training_args(*a, **kw, report_to=['tensorboard']))
    run = distil(RunConfig(languages='de,sw', losses='ce', tiny=True, out_dir=str(tmp_path/'runs')))
    e = EventAccumulator(str(tmp_path/'board')).Reload()
    h = run.history.query("split == 'validation' and group == 'all' and metric == 'accuracy' and step > 0")
    found = {p.step: p.value for p in e.Scalars('eval/accuracy')}
    assert [found[s] for s in h.step] == pytest.approx(h.value.tolist()) and len(found) >= 1
