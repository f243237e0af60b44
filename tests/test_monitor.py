"What the monitor shows of long, broken and repeated histories; without a browser."
import gc, json, os, platform, shutil, subprocess, sys, threading, time
from pathlib import Path

import nbformat, numpy as np, pytest

from fake_run import FakeRun

from privkd_nb.core import InputError
from privkd_nb.analysis.curves import downsample
from privkd_nb.apps.monitor import ENDED, Monitor, Shown, hides_outputs
from privkd_nb.figures.run import curves_figure, describe, monitor_figure
from privkd_nb.record import History, HistoryTail, Run, StatusFile


def rows(steps, **values): return ''.join(json.dumps(dict(step=s, split='train', language='all', metric=k, value=f(s)))+'\n' for s in steps for k, f in values.items())


def test_fifty_thousand_steps_stay_fluid(tmp_path):
    run = Run(tmp_path/'long')
    run.path.mkdir()
    spike = dict(loss=lambda s: 1/s, ce=lambda s: 9. if s == 31_234 else 1/s, learning_rate=lambda s: 1e-3)
    (run.path/'history.jsonl').write_text(rows(range(1, 50_001), **spike))
    StatusFile(run.path).step(50_000, 60_000)
    m = Monitor(run, start=False)
    m.look()
    lines = [t for t in m.view.figure.data if t.type == 'scatter' and t.x is not None and len(t.x) > 100]
    assert lines and all(len(t.x) <= 1500 for t in lines)
    assert max(max(t.y) for t in lines) == 9                               # no extreme is lost
    sent = []
    m.view.send = lambda content, buffers=None: sent.append(content)
    m.view.flush(); m.view._made_at = 0
    start = time.perf_counter()
    for s in range(50_001, 50_041):
        with (run.path/'history.jsonl').open('a') as f: f.write(rows([s], **spike))
        m.look(); m.view.flush()
    each = (time.perf_counter()-start)/40
    assert each < .1, each                                                 # some ms on a quiet machine: far below a quarter of a second
    assert [len(t.x) for t in m.view.figure.data if t.type == 'scatter' and t.x is not None and len(t.x) > 100][0] <= 1500
    assert max(len(json.dumps(c)) for c in sent) < 5_000                   # a piece, not the picture


def test_extremes_are_kept_whatever_the_length():
    rng = np.random.default_rng(0)
    for n in (5, 599, 600, 601, 1000, 12_345):
        y = rng.standard_normal(n)
        x, d = downsample(np.arange(n), y, 600)
        assert len(x) <= 600 and (x[0], x[-1]) == (0, n-1) and (d.min(), d.max()) == (y.min(), y.max()) and (np.diff(x) > 0).all()


def test_a_resumed_run_is_read_again_from_its_checkpoint(tmp_path):
    h = History(tmp_path/'history.jsonl')
    for s in range(1, 9): h.add(s, dict(ce=float(s)))
    tail = HistoryTail(h.path)
    assert len(tail.read()) == 8
    again = History(h.path)
    again.rewind(5)
    again.add(6, dict(ce=60.))
    read = tail.read()
    assert tail.restarted and [r[0] for r in read] == [1, 2, 3, 4, 5, 6] and read[-1][-1] == 60.


def test_a_wrong_place_is_one_sentence(tmp_path):
    (tmp_path/'file').write_text('')
    with pytest.raises(InputError, match='is a file'): Monitor(tmp_path/'file')
    with pytest.raises(InputError, match='cannot be watched'): Monitor(7.5)


def test_a_half_written_or_broken_line_costs_only_itself(tmp_path):
    tail = HistoryTail(tmp_path/'history.jsonl')
    whole = rows([1, 2], ce=float)
    tail.path.write_text(whole+'{"step": 3, "spl')
    assert [r[0] for r in tail.read()] == [1, 2] and tail.read() == []
    tail.path.write_text(whole+'{"step": 3, "spl\n'+rows([4], ce=float))
    assert [r[0] for r in tail.read()] == [4] and not tail.restarted


def test_silence_is_distinguished_from_work_that_takes_long():
    here = dict(step=5, steps=10, first=0, seconds=5., updated=time.time()-600, pid=os.getpid(), host=platform.node())
    assert describe(here|dict(state='training')).startswith('no update for 10 min')
    assert describe(here|dict(state='preparing'), working=True) == 'preparing, for 10 min'        # its lock is held
    assert describe(here|dict(state='preparing')).startswith('no update for 10 min')
    assert 'its process is gone' in describe(here|dict(state='scoring'), working=False)
    assert describe(here|dict(state='training'), quiet=1) == 'training 5 of 10, 5 s left'         # the other machine's clock is wrong
    assert describe(here|dict(state='training', updated=time.time()+3600)) == 'training 5 of 10, 5 s left'


def test_an_error_is_shown_and_does_not_end_the_watch(tmp_path):
    run = Run(tmp_path/'r')
    StatusFile(run.path).write('training')
    m = Monitor(run, start=False)
    def fail(): raise OSError('the share is gone')
    m.look = fail
    m.follow()
    until = time.time()+5
    while 'the share is gone' not in m.state.value and time.time() < until: time.sleep(.05)
    assert 'the share is gone' in m.state.value and m.thread.is_alive()
    m.stop()
    m.thread.join(5)
    assert not m.thread.is_alive()


def until(condition, seconds=20):
    end = time.monotonic()+seconds
    while not condition():
        assert time.monotonic() < end, 'it took too long'
        time.sleep(.05)


def shown_in(m, stills, lives):
    "As if displayed in JupyterLab: the saved figure, and the widget below it"
    def handle(updates): return type('Handle', (), dict(update=lambda self, bundle, raw: updates.append(bundle)))()
    m._displays.append(Shown(handle(stills), handle(lives)))


def is_live(bundle): return 'application/vnd.jupyter.widget-view+json' in bundle


def test_a_run_that_ended_leaves_a_plain_figure(tmp_path):
    run = Run(tmp_path/'r')
    status, h = StatusFile(run.path, every=0), History(run.path/'history.jsonl')
    status.step(1, 2)
    m, stills, lives = Monitor(run), [], []
    shown_in(m, stills, lives)
    h.add(2, dict(ce=float('nan')))
    status.write('finished')
    until(lambda: m._settled)
    assert lives == [ENDED] and 'finished' in stills[-1]['text/html'] and not is_live(stills[-1])
    m.stop()
    monitor_figure(run.history, run.progress).to_json()                                           # a line of NaN only


@pytest.mark.parametrize('how', ['resumed', 'redone', 'replaced'])
def test_a_run_that_goes_on_is_followed(tmp_path, how):
    run = Run(tmp_path/'r')
    def train(first, last, value, end):
        status, h = StatusFile(run.path, every=0), History(run.path/'history.jsonl')
        status.write('preparing')
        if first == 1: h.rewind(-1)
        for s in range(first, last+1): h.add(s, dict(ce=value)); status.step(s, 9)
        if end: status.write(end)
    train(1, 2, 1., None)
    m, stills, lives = Monitor(run, every=.25), [], []
    shown_in(m, stills, lives)
    train(3, 4, 1., 'stopped' if how == 'resumed' else 'finished')
    if how != 'resumed':
        h = History(run.path/'history.jsonl'); h.rewind(99)
        run.write('history', h.frame()); run.finish()
    until(lambda: m._settled)
    assert list(m.feed.curves.lines['ce'].values) == [1.]*4 and ('stopped at a checkpoint' if how == 'resumed' else 'finished') in stills[-1]['text/html']
    assert lives == ([] if how == 'resumed' else [ENDED])           # a stopped run keeps its buttons
    if how == 'replaced': shutil.rmtree(run.path)
    (run.path/'done.json').unlink(missing_ok=True)
    train(*dict(resumed=(5, 6, 2., None)).get(how, (1, 2, 2., None)))
    until(lambda: list(m.feed.curves.lines['ce'].values) == ([1.]*4 if how == 'resumed' else [])+[2.]*2)
    until(lambda: how == 'resumed' or is_live(lives[-1]))
    until(lambda: 'training' in m.state.value)
    train(*dict(resumed=(7, 9, 3., 'finished')).get(how, (1, 9, 3., 'finished')))
    until(lambda: lives and lives[-1] is ENDED and 'finished' in stills[-1]['text/html'])
    assert m.feed.curves.lines['ce'].values[-1] == 3.
    m.stop()


def test_terms_of_ones_own_have_colours_of_their_own(tmp_path):
    run = Run(tmp_path/'r')
    run.path.mkdir()
    (run.path/'history.jsonl').write_text(rows(range(1, 30), loss=float, ce=float, my_term=float, my_other=float))
    for figure in (monitor_figure(run.history), curves_figure(run.history)):
        colors = {t.name: t.line.color for t in figure.select_traces(dict(mode='lines')) if t.line.width > 1}
        assert {'my_term', 'my_other'} < set(colors) and len(set(colors.values())) == len(colors) == 4


def executed(folder, *cells):
    "The outputs of a notebook's first cell, as nbclient, papermill and nbconvert leave them"
    from nbclient import NotebookClient
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    NotebookClient(nb, timeout=60, kernel_name='python3', resources=dict(metadata=dict(path=str(folder)))).execute()
    return nb.cells[0].outputs


def test_an_executed_notebook_has_the_last_state(tmp_path):
    run = FakeRun(tmp_path/'runs'/'one')
    run.train(1, 20)
    end = """import sys; sys.path.insert(0, {0!r})
from fake_run import FakeRun; import time
run = FakeRun('runs/one'); run.rows.rewind(20); run.train(21, 60); run.status.write('finished')
run.write('history', run.rows.frame()); run.finish(); time.sleep(4)""".format(str(Path(__file__).parent))
    still, live = executed(tmp_path, "from privkd_nb.apps.monitor import Monitor\nMonitor('runs/one')", end)
    figure = still['data']['application/vnd.plotly.v1+json']
    assert 'finished' in figure['layout']['title']['text'] and 'finished' in still['data']['text/html']
    assert live['data'] == ENDED


@pytest.mark.parametrize('end', ['finished', 'stopped', None])
def test_what_an_executed_notebook_says_is_of_one_moment(tmp_path, end):
    "Although nothing is heard after its last cell"
    FakeRun(tmp_path/'runs'/'one').train(1, 20)
    last = f"""import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
from fake_run import FakeRun
run = FakeRun('runs/one'); run.rows.rewind(20); run.train(21, 60); end = {end!r}
if end: run.status.write(end)
if end == 'finished': run.write('history', run.rows.frame()); run.finish()"""
    still, live = executed(tmp_path, "from privkd_nb.apps.monitor import Monitor\nMonitor('runs/one', every=30)", last)
    says = {'finished': 'finished', 'stopped': 'stopped at a checkpoint, step 60', None: 'training 60'}[end]
    assert says in still['data']['application/vnd.plotly.v1+json']['layout']['title']['text']
    if end == 'finished': assert live['data'] == ENDED
    else: assert is_live(live['data']) and says in live['data']['text/plain']


def test_the_thread_ends_with_its_process(tmp_path):
    "A kernel that ends is not held up by monitors, and writes no traceback"
    FakeRun(tmp_path/'one').train(1, 20)
    code = f"from privkd_nb.apps.monitor import Monitor; m = Monitor({str(tmp_path/'one')!r}); assert m.thread.is_alive(); import time; time.sleep(.6)"
    began = time.monotonic()
    p = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60)
    assert (p.returncode, p.stderr) == (0, '') and time.monotonic()-began < 40


def test_views_that_are_closed_end_the_thread_and_one_that_opens_starts_it_again(tmp_path):
    FakeRun(tmp_path/'one').train(1, 20)
    m, looks = Monitor(tmp_path/'one'), []
    look = m.look
    m.look = lambda: (looks.append(1), look())
    def message(there): m._on_message(m.view, dict(type='view', there=there), [])
    message(True); message(True); message(False)
    assert m._unseen_since is None
    time.sleep(2.2)
    assert 1 <= len(looks) <= 10                                          # it looks, and does not spin
    message(False)
    m._unseen_since -= 60
    until(lambda: not m.thread.is_alive())
    message(True)
    assert m.thread.is_alive()
    m.close()
    until(lambda: not m.thread.is_alive())


def test_a_monitor_that_nobody_has_is_gone(tmp_path):
    FakeRun(tmp_path/'one').train(1, 20)
    before = threading.active_count()
    for _ in range(5): Monitor(tmp_path/'one')
    gc.collect()
    until(lambda: threading.active_count() <= before)


def test_the_buttons_do_what_they_say_or_say_why_not(tmp_path):
    run = FakeRun(tmp_path/'one')
    run.status.write('preparing', 'loading the models')
    m = Monitor(run.path, start=False)
    assert 'loading the models' in m.state.value and not m.controls.stop.disabled and m.controls.start.disabled
    m.controls.stop.click()
    assert (run.path/'stop').exists() and m.controls.stop.disabled and 'stopping at a checkpoint' in m.state.value
    (run.path/'stop').unlink()
    run.train(1, 20); run.status.write('stopped')
    m.look()
    assert m.controls.stop.disabled and m.controls.start.disabled and 'the same command there resumes it' in m.controls.start.tooltip
    m.controls.stop.click()
    assert 'there is nothing to stop: stopped at a checkpoint, step 20' in m.controls.note.value
    m.controls.start.click()
    assert 'the command that started it resumes it' in m.controls.note.value
    (run.path/'request.json').write_text('{"losses": ')                    # of a background run, damaged
    m.look()
    assert not m.controls.start.disabled
    m.controls.start.click()
    assert 'request.json' in m.controls.note.value
    assert 'stopped at a checkpoint, step 20 of 300; press Resume' in m.state.value and 'start it again' in m.figure.layout.title.text
    (run.path/'log.txt').write_text('loading\nInputError: the disk is full\n')
    run.status.write('failed')
    m.look()
    assert 'failed at step 20 of 300: InputError: the disk is full' in m.state.value
    os.utime(run.path/'log.txt', (1, 1))                                   # of an earlier process
    m.look()
    assert 'failed at step 20 of 300<' in m.state.value


def test_a_folder_of_runs_shows_the_one_that_is_under_way(tmp_path):
    first, second = FakeRun(tmp_path/'a'), FakeRun(tmp_path/'b')
    first.train(1, 20); first.status.write('stopped')
    second.train(1, 5)
    m = Monitor(tmp_path, start=False)
    assert m.shown == second.path
    second.status.write('stopped')
    first.train(21, 30)
    m.runs.scanned_at = 0
    m.look()
    assert m.shown == first.path and m.pick.value == first.path
    m.pick.value = second.path                                             # chosen: it stays
    m.runs.scanned_at = 0
    m.look()
    assert m.shown == second.path


def test_one_step_near_zero_does_not_flatten_the_lines(tmp_path):
    run = FakeRun(tmp_path/'one')
    run.train(1, 60)
    m = Monitor(run, start=False)
    low, high = m.view.figure.layout.yaxis.range
    assert -3.5 < low < high < 2.5 and any('1 value lies outside' in a.text for a in m.view.figure.layout.annotations)
    assert min(m.view.figure.data[2].y) == pytest.approx(1e-9)              # it is cut off, not taken out


def test_where_no_output_can_hide_another_there_is_one(tmp_path, monkeypatch):
    "As in Colab and VS Code: the widget, and when the run has ended a figure in its place"
    monkeypatch.setitem(sys.modules, 'google.colab', object())
    assert not hides_outputs()
    run, lives = FakeRun(tmp_path/'one'), []
    run.train(1, 20)
    m = Monitor(run, start=False)
    bundle = m._live_bundle(alone=False)
    assert is_live(bundle) and 'application/vnd.plotly.v1+json' in bundle
    m._displays.append(Shown(None, type('Handle', (), dict(update=lambda self, bundle, raw: lives.append(bundle)))()))
    run.status.write('stopped'); m.look(); m.settle()
    assert not is_live(lives[-1]) and 'stopped at a checkpoint' in lives[-1]['text/html']
    run.train(21, 30); m.look(); m._go_live()
    assert is_live(lives[-1])


def test_an_end_after_an_end_is_shown(tmp_path):
    "A run that was resumed and has finished before the monitor looked again"
    run, stills, lives = FakeRun(tmp_path/'one'), [], []
    run.train(1, 20); run.status.write('stopped')
    m = Monitor(run, start=False)
    shown_in(m, stills, lives)
    m.runs.started_at -= 100
    m._step()
    assert 'stopped at a checkpoint' in stills[-1]['text/html'] and not lives
    run.train(21, 300); run.status.write('finished')
    m._step()
    assert 'finished' in stills[-1]['text/html'] and lives == [ENDED]
