"Whole runs, both ways: the same students, an interrupted measurement, and the page that shows the record."
import json
from pathlib import Path

import pandas as pd, pytest

from privkd_nb.bench import whole as ways
from privkd_nb.bench.whole import Whole, measure_way, prepare, same_predictions
from privkd_nb.bench.whole_report import RECORD, frames_of, parts_of, read_frames, where_time_goes
from privkd_nb.core import ResultError

ROOT = Path(__file__).parent.parent
TINY = Whole('playground', languages='sw', teacher='tiny', base='tiny', fraction=.2, epochs=2, test_rows=20, validation_rows=10, inits='scratch,copy_base', seeds=1)


@pytest.fixture(scope='module')
def measured(tmp_path_factory):
    "Two runs here, one of them with the Trainer, too"
    folder = prepare(TINY, tmp_path_factory.mktemp('whole')/'work')
    return folder, measure_way(TINY, folder, 'privkd', TINY.runs, alone=False), measure_way(TINY, folder, 'plain', TINY.runs[1:], alone=False)


def test_both_ways_train_the_same_student(measured):
    folder, here, there = measured
    a, b = here['runs'][1], there['runs'][0]
    assert (a['init'], a['steps'], a['texts']['train']) == (b['init'], b['steps'], b['texts']['train']) == ('copy_base', 6, 84)
    assert same_predictions(a, b) == dict(student=1., teacher=1.)
    assert same_predictions(here['runs'][0], b)['student'] < 1            # the comparison can fail


def test_the_times_of_the_phases_are_the_time_of_the_run(measured):
    folder, *results = measured
    frames = frames_of(results, folder)
    for way in ('privkd', 'plain'):
        parts = parts_of(frames, way)
        assert parts['training'] > 0 and parts['final scoring'] > 0 and parts.min() > -.1
        assert parts.sum() == pytest.approx(frames.runs[frames.runs.way == way].cpu.sum()+frames.ways[frames.ways.way == way].importing.sum())
    runs = frames.runs[frames.runs.way == 'privkd']
    assert (runs.until_training < runs.seconds).all() and runs.teacher.nunique() == 1
    assert where_time_goes(frames, 9).columns.tolist()[-1] == 'Trainer, 9 runs'


def test_what_was_measured_is_not_measured_again(measured, monkeypatch):
    folder, here, there = measured
    monkeypatch.setattr(ways, 'run_way', lambda request: pytest.fail('it was measured again'))
    assert measure_way(TINY, folder, 'plain', TINY.runs[1:], alone=False) == there


def test_a_way_that_fails_is_an_error_with_the_reason(measured, monkeypatch):
    def broken(request): raise ValueError('no room')
    monkeypatch.setattr(ways, 'run_way', broken)
    with pytest.raises(ResultError, match='plain ended early .ValueError: no room'): measure_way(TINY, measured[0], 'plain', TINY.runs[:1], alone=False)


def test_the_page_shows_the_record(monkeypatch):
    "The cells of the page, as they stand, without a kernel"
    if not RECORD.is_dir(): pytest.skip('skipped: no record')
    shown, names = [], {}
    monkeypatch.setattr('IPython.display.display', lambda *a: shown.extend(a))
    for c in json.loads((ROOT/'nbs'/'bench_whole.ipynb').read_text(encoding='utf-8'))['cells']:
        if c['cell_type'] == 'code' and 'check_parameters' not in ''.join(c['source'])[:20]: exec(''.join(c['source']), names)
        elif c['cell_type'] == 'code': exec(''.join(c['source']).split('\n', 1)[1], names)
    frames = read_frames(RECORD)
    assert names['table'].loc['all'].min() > 0 and len(frames.runs[frames.runs.way == 'privkd']) == 9
    same = pd.read_csv(RECORD/'same.csv')
    assert (same.teacher > .999).all() and (same.student > .98).all()
