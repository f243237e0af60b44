"Phases: what is shown and written while a job works, and what is left when it ends."
import io, sys, threading, time, warnings
from types import SimpleNamespace

import pytest

from privkd_nb.analysis.overview import list_runs
from privkd_nb.cli.console import main
from privkd_nb.data.report import DataReport
from privkd_nb.data.tasks import load_task
from privkd_nb.jobs.config import RunConfig
from privkd_nb.jobs.distil import distil, run_lock
from privkd_nb.phases import Open, Phase, counted, open_phases, passing_bars, phase, reporting_to, seconds_left
from privkd_nb.record import Run, StatusFile
from privkd_nb.state import describe


@pytest.fixture
def soon(monkeypatch, capsys):
    "Every look comes at once, and every phase is slow enough to be drawn"
    monkeypatch.setattr(Open, 'every', .004)
    monkeypatch.setattr(Open, 'delay', 0.)
    return lambda: capsys.readouterr().err


def test_what_is_over_is_not_written_later(tmp_path, soon):
    status = StatusFile(tmp_path)
    with reporting_to(status):
        for i in range(60):
            status.write('preparing')
            with phase('reading', 3, 'files') as p: p.update(); time.sleep(.005)
            status.write('training')
            assert Run(tmp_path).progress['state'] == 'training' and 'phase' not in Run(tmp_path).progress, i
    assert status.phase is None and open_phases().phases == []


def test_the_inner_phase_is_written_and_the_outer_one_is_there_again(tmp_path, soon):
    status = StatusFile(tmp_path)
    def written(name, key='name'):
        until = time.time()+5
        while (found := Run(tmp_path).progress.get('phase') or {}).get(key) != name and time.time() < until: time.sleep(.004)
        return found
    with reporting_to(status):
        status.write('preparing')
        with phase('loading the models'):
            assert written('loading the models')['left'] is None
            with pytest.raises(ValueError), phase('hashing', 10, 'B'): assert written('hashing')['total'] == 10; raise ValueError
            assert written('loading the models')['total'] is None
            with counted('predicting', 8, 'texts') as p:
                p.update(2)
                found = written(2, 'done')
                assert (found['name'], found['total'], found['unit']) == ('loading the models', 8, 'texts') and found['left'] >= 0
    lines = soon().replace('\r', '\n').split('\n')
    assert any('hashing' in l for l in lines) and any('2/8' in l for l in lines) and all(len(l) <= 100 for l in lines)


def test_what_the_file_knows_already_does_not_hide_the_phase_around_it(tmp_path, soon):
    with reporting_to(status := StatusFile(tmp_path)):
        status.write('preparing')
        with phase('fine-tuning the teacher', 8, 'steps', drawn=False) as p, phase('training', drawn=False, told=False):
            for done in (1, 2):
                p.update()
                open_phases().show()
                assert [Run(tmp_path).progress['phase'][k] for k in ('name', 'done')] == ['fine-tuning the teacher', done]
                with phase('evaluating the teacher'): open_phases().show(); assert Run(tmp_path).progress['phase']['name'] == 'evaluating the teacher'
                assert status.phase['name'] == 'fine-tuning the teacher'
    assert status.phase is None


@pytest.mark.parametrize('columns, most', [('60', 60), ('300', 100), ('0', 80)])
def test_a_line_is_no_wider_than_the_terminal(soon, monkeypatch, columns, most):
    monkeypatch.setenv('COLUMNS', columns)
    with phase('evaluating the student', 4, 'texts') as p: time.sleep(.02); p.update()
    assert max(map(len, soon().replace('\r', '\n').split('\n'))) == most


def test_a_sentence_stands_on_a_line_of_its_own(soon, monkeypatch):
    screen = io.StringIO()
    for name in ('stdout', 'stderr'): monkeypatch.setattr(sys, name, screen)
    task = load_task('playground', languages='en', limit=8)
    with phase('describing data and models'):
        open_phases().show()
        task.announce()
        with warnings.catch_warnings():
            warnings.simplefilter('always')
            monkeypatch.setattr(warnings, 'showwarning', lambda message, *args: print(message, file=sys.stderr))
            DataReport.warn(SimpleNamespace(warnings=['most labels are missing']))
    lines = screen.getvalue().split('\n')
    for said in (task.trained_on(), 'most labels are missing'):
        *before, shown = next(l for l in lines if said in l).split('\r')
        assert shown == said and not ''.join(before[-1:]).strip(), before      # the phase's line was erased


def test_only_rank_0_shows_and_writes(tmp_path, soon, monkeypatch):
    monkeypatch.setenv('RANK', '1')
    with reporting_to(status := StatusFile(tmp_path)):
        status.write('preparing')
        with phase('reading', 3, 'files') as p: p.update(); time.sleep(.03)
    assert soon() == '' and 'phase' not in Run(tmp_path).progress


def test_two_threads_write_to_their_own_runs(tmp_path, soon):
    def work(name):
        with reporting_to(status := StatusFile(tmp_path/name)):
            status.write('scoring')
            with phase(name): time.sleep(.06); found[name] = Run(tmp_path/name).progress['phase']['name']
    found, threads = {}, [threading.Thread(target=work, args=(n,)) for n in 'ab']
    for t in threads: t.start()
    for t in threads: t.join()
    assert found == dict(a='a', b='b')


def test_passing_bars_leave_nothing_in_a_file(soon):
    with passing_bars('distilling'), phase('scoring', 4, 'texts') as p: time.sleep(.03); p.update()
    assert soon() == ''


def test_a_lost_folder_stops_no_phase(tmp_path, soon):
    status = StatusFile(tmp_path/'run')
    status.write('preparing')
    (tmp_path/'run').rename(tmp_path/'moved')
    with reporting_to(status), phase('reading') as p: time.sleep(.03)
    assert not (tmp_path/'run').exists() and p.bar is None


@pytest.mark.parametrize('done, total, seconds', [(0, 5, 3), (5, 0, 3), (7, 5, 0), (1e-320, 1e300, 1e10), (3, None, 1)])
def test_time_left_is_a_time_or_unknown(done, total, seconds):
    left = seconds_left(done, total, seconds)
    assert left is None or 0 <= left < float('inf')
    words = describe(dict(state='scoring', phase=dict(name='scoring', done=done, total=total, left=left)), quiet=0)
    assert words.startswith('scoring') and not any(w in words for w in ('nan', 'inf', '-'))


def test_a_run_names_its_phases(tmp_path, monkeypatch):
    begun, counted, init = set(), set(), Phase.__init__
    def state(): return open_phases().status and open_phases().status.state
    def noted(self, name, *args): begun.add((state(), name)); init(self, name, *args)
    monkeypatch.setattr(Phase, '__init__', noted)
    monkeypatch.setattr(Phase, 'update', lambda self, n=1: counted.add((state(), self.name, self.unit)))
    run = distil(RunConfig(languages='de,en,sw', tiny=True, init='scratch', out_dir=str(tmp_path)))
    assert begun >= {('preparing', n) for n in ('loading the data', 'building the student', 'encoding the texts', 'evaluating the student')}
    assert begun >= {('scoring', n) for n in ('scoring the student', 'scoring the teacher', 'measuring speed', 'saving the student')}
    assert counted >= {('scoring', 'scoring the student', 'texts'), ('training', 'evaluating the student', 'texts'), ('preparing', 'hashing the weights', 'B')}
    assert run.progress['state'] == 'finished' and 'phase' not in run.progress


def test_list_and_show_tell_what_a_run_is_at(tmp_path, capsys):
    run = Run(tmp_path/'0123456789ab').begin(dict(init='scratch'), {})
    StatusFile(run.path).write('scoring')
    with run_lock(run):
        status = StatusFile(run.path)
        status.state = 'scoring'
        status.tell(dict(name='scoring the student', done=3200, total=29740, unit='texts', seconds=5., left=41.))
        words = 'scoring the student: 3,200 of 29,740 texts, 41 s left'
        assert list_runs(tmp_path).doing[0] == words
        for args in (['list', str(tmp_path)], ['show', str(run.path)]):
            assert not main(args)
            assert words in capsys.readouterr().out
