"What a person, and a script, sees on the terminal: results, lists, predictions, help and refusals."
import io, json, os, subprocess, sys
from pathlib import Path

import pandas as pd, pytest

from privkd_nb.cli import main
from privkd_nb.core import InputError
from privkd_nb.finding import find_run
from privkd_nb.jobs.config import RunConfig
from privkd_nb.jobs.distil import distil
from privkd_nb.jobs.study import grid, run_study
from privkd_nb.markup import text_width
from privkd_nb.record import Run

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT/'nbs'/'run.ipynb'
LONG = 'de\x1b[31m|`'*2                  # the name of a language may be anything


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "Three tiny runs, with a language of a hostile name"
    folder = tmp_path_factory.mktemp('terminal')
    rows = [(f'{t} {i}', l, lang) for i in range(6) for t, l in (('wake me up', 'alarm'), ('play jazz', 'music')) for lang in ('en', LONG)]
    (folder/'mine').mkdir()
    for split in ('train', 'test'):
        pd.DataFrame(rows, columns=['text', 'label', 'language']).to_csv(folder/'mine'/f'{split}.csv', index=False)
    settings = dict(dataset=str(folder/'mine'), tiny=True, losses='ce', fraction=1, out_dir=str(folder/'runs'))
    run_study(grid(**settings, init=['scratch', 'copy_ft'], seed=0)+grid(**settings, seed=1), report=lambda line: None)
    return folder/'runs'


def said(capsys, *words):
    "What a command prints, its errors, and its exit status"
    capsys.readouterr()
    try: status = main(list(map(str, words)))
    except SystemExit as e: status = e.code
    out = capsys.readouterr()
    return out.out, out.err, status


def made(folder): return sorted(str(p.relative_to(folder)) for p in folder.rglob('*'))


# ---- the result

@pytest.mark.parametrize('columns', [80, 200])
def test_a_run_on_record_tells_its_result(folder, capsys, monkeypatch, columns):
    monkeypatch.setenv('COLUMNS', str(columns))
    cfg = dict(dataset=folder.parent/'mine', losses='ce', fraction=1, init='scratch', out_dir=folder)
    out, err, status = said(capsys, 'distil', '--tiny', *(w for k, v in cfg.items() for w in (f'--{k}', v)))
    run = find_run(folder/'1')
    m = run.metrics.query("split == 'test' and model == 'student' and metric == 'accuracy' and group == 'all'")
    mean = next(l for l in out.splitlines() if l.startswith('mean'))
    assert status == 0 and 'already on record' in out and f'{m.value.item():.3f}' in mean.split()[2], out
    table = out[out.index('language'):out.index('A student of')]
    assert max(map(text_width, table.splitlines())) <= columns and '\x1b' not in out and table.splitlines()[-2].startswith('mean')
    assert str(run.path/'model') in out and 'privkd predict' in out and f'privkd explore {folder}' in out
    assert 'its scores mean nothing' in out.replace('\n', ' ')


def test_the_next_command_that_is_named_works(folder, capsys):
    import shlex
    out, _, _ = said(capsys, 'show', folder/'2')
    command = next(l for l in out.splitlines() if l.startswith('try next')).removeprefix('try next').strip()
    out, err, status = said(capsys, *shlex.split(command)[1:])
    assert status == 0 and len(out.splitlines()) == 1 and out.split()[0] in ('alarm', 'music') and 0 < float(out.split()[1]) <= 1


def test_a_study_ends_with_its_arms(folder, capsys):
    out, err, status = said(capsys, 'study', '--dataset', folder.parent/'mine', '--tiny', '--losses', 'ce', '--fraction', 1, '--out_dir', folder, '--seed', 0, 1)
    row = next(l for l in out.splitlines() if l.startswith('copy_ft · ce'))
    scores = [Run.load(find_run(folder/str(i)).path).metrics.query("split == 'test' and model == 'student' and group == 'all' and metric == 'accuracy'").value.item() for i in (2, 3)]
    assert status == 0 and row.split()[3:5] == ['2', f'{sum(scores)/2:.3f}'] and '95 % interval' in out and 'privkd explore' in out


# ---- list, show, predict

def test_the_list_has_a_line_a_run_and_is_sorted(folder, capsys):
    rows = json.loads(said(capsys, 'list', folder, '--json')[0])
    assert [r['number'] for r in rows] == [1, 2, 3] and [r['init'] for r in rows] == ['scratch', 'copy_ft', 'copy_ft'] and {r['state'] for r in rows} == {'finished'}
    assert all(0 <= r['score'] <= 1 and r['unseen'] is None and r['parameters'] > 0 for r in rows)
    by_score = [r['score'] for r in json.loads(said(capsys, 'list', folder, '--json', '--sort', 'score')[0])]
    assert by_score == sorted(by_score, reverse=True)
    out, _, status = said(capsys, 'list', folder)
    assert status == 0 and out.startswith('3 runs in') and [l.split()[0] for l in out.splitlines()[3:]] == ['1', '2', '3'] and 'losses ce' in out.splitlines()[0]
    assert "Did you mean 'score'" in said(capsys, 'list', folder, '--sort', 'scor')[1]
    for words in (['--sort', 'score'], ['--reverse']):                        # a line begins with the number of its run
        numbers = [str(r['number']) for r in json.loads(said(capsys, 'list', folder, '--json', *words)[0])]
        lines = said(capsys, 'list', folder, *words)[0].splitlines()[3:]
        assert [l.split()[0] for l in lines] == numbers and all(l.split()[1].startswith(find_run(folder/n).path.name[:6]) for l, n in zip(lines, numbers))


def test_runs_that_look_alike_are_told_apart_by_what_differs(tmp_path, capsys):
    like = dict(dataset='mine.csv@6a8f', init='copy_ft', losses=dict(ce=1.), scenario='all', fraction=1., seed=0, languages='all', teacher='@84b647ba7e0b', epochs=2)
    for i, more in enumerate((dict(), dict(labels='yes,no'), dict(labels='no,yes'), dict(tiny=True, languages='de,en'), dict(dataset='other.csv@11', epochs=5))):
        Run(tmp_path/f'ab{i}').begin(like | more, dict(began=f'2026-01-0{i+1}T00:00:00Z'))
    assert [r['differs'] for r in json.loads(said(capsys, 'list', tmp_path, '--json')[0])] == ['', 'labels yes,no', 'labels no,yes', 'languages de,en, tiny', '']
    assert 'labels no,yes' in said(capsys, 'list', tmp_path)[0].splitlines()[5] and 'differs' not in said(capsys, 'list', 'sample')[0]


def test_an_agreement_is_never_listed_as_a_score(capsys, monkeypatch):
    from privkd_nb.analysis import overview
    runs = pd.DataFrame([dict(number=1, run='ab', state='finished', agreement=.984), dict(number=2, run='cd', state='finished', score=.7), dict(number=3, run='ef', state='finished', agreement=.99)])
    monkeypatch.setattr(overview, 'list_runs', lambda folder: runs.reindex(columns=overview.COLUMNS))
    head, *lines = said(capsys, 'list', 'sample', '--sort', 'score')[0].splitlines()[2:]
    assert head.split() == ['run', 'score', 'agreement'] and [l.split()[0] for l in lines] == ['2', '3', '1']
    assert [len(l) for l in lines] == [len(head)-len('agreement')-2, len(head), len(head)]       # each in its column


@pytest.mark.parametrize('low, high, text', [(-1.012, 2.695, '0.000 to 1.000'), (.59, .634, '0.590 to 0.634')])
def test_shown_intervals_end_where_a_score_does(low, high, text):
    from privkd_nb.apps.compare import with_interval
    from privkd_nb.cli.output import interval_text
    assert interval_text(low, high, 2) == text and with_interval(.6, low, high) == f"0.600 [{text.replace(' to', ',')}]"
    assert with_interval(.1, -1.5, .3, '+') == '+0.100 [-1.000, +0.300]'


def test_a_text_without_entities_says_so():
    from privkd_nb.cli.looking import prediction_line
    assert prediction_line(dict(words=['it', 'rains'], labels=['O', 'O'])) == 'it rains  (no entity)' and prediction_line(dict(words=['Rome'], labels=['B-LOC'])) == 'Rome/B-LOC'


def test_a_refusal_in_a_notebook_reads_as_any_other():
    from privkd_nb.cli.console import explained
    PapermillExecutionError = type('PapermillExecutionError', (Exception,), dict(ename='InputError', evalue='languages=fr is not in the data.'))
    assert explained(PapermillExecutionError()) == ('languages=fr is not in the data.', 2)


def test_a_narrow_terminal_leaves_columns_out_and_says_so(capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '60')
    out = said(capsys, 'list', 'sample')[0]
    table = out.split('\n\n')[1]
    assert max(map(text_width, table.splitlines())) <= 60 and 'not shown, because the terminal is narrow' in out and len(table.splitlines()) == 73


def test_numbers_stay_when_runs_come_and_when_they_are_resumed(tmp_path):
    first, second = (Run.named(tmp_path, dict(i=i)).begin(dict(i=i), dict(began=f'2026-01-0{i}T00:00:00Z')) for i in (2, 1))
    assert find_run('1', tmp_path).path == second.path
    third = Run.named(tmp_path, dict(i=3)).begin(dict(i=3), {})
    first.begin(dict(i=2), {})                                              # resumed: it keeps the time at which it began
    assert [find_run(str(n), tmp_path).path for n in (1, 2, 3)] == [second.path, first.path, third.path] == [find_run(n, tmp_path).path for n in ('run 1', '2', 'last')]


def test_short_names_that_are_ambiguous_or_unknown_are_refused_with_candidates(tmp_path):
    for name in ('ab12', 'ab34', 'ff00'): Run(tmp_path/name).begin(dict(name=name), {})
    assert find_run('ab3', tmp_path).path.name == find_run(f'{tmp_path}/ab3').path.name == 'ab34'
    with pytest.raises(InputError, match="'ab' is the beginning of 2 runs in .*: ab12, ab34"): find_run('ab', tmp_path)
    with pytest.raises(InputError, match=r"'zz' names no run in .*, which has 1 \(ab12\), 2 \(ab34\), 3 \(ff00\)"): find_run('zz', tmp_path)
    with pytest.raises(InputError, match="Did you mean 'last'"): find_run('lst', tmp_path)
    with pytest.raises(InputError, match="names no run"): find_run('4', tmp_path)
    with pytest.raises(InputError, match="names no run"): find_run('', tmp_path)


def test_a_run_is_shown_for_people_and_for_scripts(folder, capsys):
    out, err, status = said(capsys, 'show', 'last', '--runs', folder)
    assert status == 0 and all(w in out for w in ('init copy_ft · losses ce', 'fraction 1 · seed 1', 'teacher auto', '· tiny', "of the student's parameters are copied")) and 'its scores mean nothing' in out.replace('\n', ' ')
    got = json.loads(said(capsys, 'show', folder/'3', '--json')[0])
    assert got['run'] == find_run(folder/'3').path.name and got['config']['seed'] == 1 and Path(got['model']).is_dir() and got['notebook'] is None
    assert {r['language'] for r in got['languages']} == {'en', LONG, 'mean'}
    out, err, status = said(capsys, 'show', 'nothing', '--runs', folder)
    assert status == 2 and err.startswith("privkd: 'nothing' names no run in") and len(err.splitlines()) == 1


def test_predictions_come_one_a_text_from_words_and_from_lines(folder, capsys, monkeypatch):
    monkeypatch.setattr(sys, 'stdin', io.StringIO('play jazz\nwake me up\n'))
    rows = json.loads(said(capsys, 'predict', folder/'2', 'wake me up', '-', '--json')[0])
    assert [r['text'] for r in rows] == ['wake me up', 'play jazz', 'wake me up'] and rows[0]['label'] == rows[2]['label'] and rows[0]['probability'] == pytest.approx(rows[2]['probability'])
    model = find_run(folder/'2').path/'model'
    assert json.loads(said(capsys, 'predict', model, 'wake me up', '--json')[0])[0]['label'] == rows[0]['label']          # the folder of a model
    out, err, status = said(capsys, 'predict', folder/'2', 'on and '*300)
    assert status == 0 and 'were cut at' in err and len(out.splitlines()) == 1


def test_a_pipe_gets_json_alone(folder):
    p = subprocess.run([sys.executable, '-W', 'always', '-m', 'privkd_nb.cli', 'predict', str(folder/'1'), 'wake me up', '--json'], capture_output=True, text=True, timeout=120,
                       env={**os.environ, 'PYTHONPATH': str(ROOT)})
    assert p.returncode == 0 and json.loads(p.stdout)[0]['label'] in ('alarm', 'music'), p.stderr


def test_a_reader_that_ends_early_is_no_error(folder):
    p = subprocess.run(f'{sys.executable} -m privkd_nb.cli list sample | head -1', shell=True, capture_output=True, text=True, timeout=120, env={**os.environ, 'PYTHONPATH': str(ROOT)})
    assert p.stdout.startswith('72 runs in sample') and p.stderr == ''


# ---- help and typing errors

def test_the_command_alone_greets(capsys):
    out, err, status = said(capsys)
    assert status == 0 and err == '' and sum(l.startswith('  privkd ') for l in out.splitlines()) == 3 and max(map(len, out.splitlines())) <= 80


def test_every_command_has_two_examples_that_parse(capsys, monkeypatch):
    from privkd_nb.cli.console import COMMANDS, make_parser
    import shlex
    monkeypatch.setenv('COLUMNS', '80')
    for name, command in COMMANDS.items():
        out, _, status = said(capsys, name, '--help')
        assert status == 0 and out.count('\n  privkd ') >= 2, name
        assert max(map(len, out.splitlines())) <= 80
        for e in command.examples: make_parser().parse_args(shlex.split(e.split(' <')[0]))
    out = said(capsys, 'run', '--help')[0]
    groups = [l[:-1] for l in out.splitlines() if l in ('data:', 'teacher:', 'student:', 'training:', 'efficiency:', 'run:')]
    assert groups == ['data', 'teacher', 'student', 'training', 'efficiency', 'run'] and out.index('  --teacher_epochs') < out.index('  --init INIT') and "'auto'" not in out


@pytest.mark.parametrize('words, message', [
    (['run', '--loses', 'ce'], '--loses is not an option of privkd run; did you mean --losses?'), (['run', '--los', 'ce'], '--los is not an option of privkd run'),
    (['distil', '--out-dri', 'x'], 'did you mean --out_dir?'), (['lst'], "'lst' is not a command of privkd; did you mean list?"), (['run', '--seed'], '--seed needs a value'),
    (['--init', 'copy_ft'], '--init is an option of run, distil and study; write privkd run --init copy_ft'), (['pack', 'a'], 'privkd pack needs to'), (['pack', 'a', 'b', 'c'], "'c' is not expected"),
    (['run', '--seed', '0', '1', '2'], 'in privkd study several, as in --seed 0 1 2'), (['run', '--init', 'copy_ft', 'copy_base'], 'in privkd study several'),
    (['study', '--init', 'scratch,copy_ft'], 'several values have spaces between them, as in --init scratch copy_ft'), (['study', '--seed', '0,1'], 'as in --seed 0 1.'),
    (['run', '--teacher', 'my_teachr'], "there is no folder my_teachr here"),
    (['explore', '--port', 'x'], "--port='x' is not a whole number")])
def test_a_typing_error_gets_one_sentence(capsys, monkeypatch, tmp_path, words, message):
    (tmp_path/'my_teacher').mkdir(); (tmp_path/'my_teacher'/'config.json').write_text('{}')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    out, err, status = said(capsys, *words)
    assert status == 2 and message in err and out == '' and len(err.splitlines()) == 1 and err.startswith('privkd: ')


# ---- what is refused leaves nothing

def refuse(monkeypatch):
    def prepare(cfg, models, task=None): raise InputError('the base has other layers.')
    monkeypatch.setattr('privkd_nb.jobs.distil.prepare_student', prepare)


def test_a_refused_run_leaves_nothing(tmp_path, capsys, monkeypatch):
    refuse(monkeypatch)
    for words in (['distil'], ['study', '--seed', '0', '1'], ['study', '--init', 'scratch', 'copy_ft', '--share_teacher']):
        out, err, status = said(capsys, *words, '--tiny', '--losses', 'ce', '--out_dir', tmp_path/'a'/'b')
        assert status == 2 and err.splitlines()[-1].endswith('the base has other layers.') and made(tmp_path) == []


def test_a_refused_run_keeps_what_an_earlier_start_has_written(folder, tmp_path, monkeypatch):
    import shutil
    from privkd_nb.jobs.distil import StoppedError
    run = find_run(folder/'2')
    kept = Run(shutil.copytree(run.path, tmp_path/'runs'/run.path.name))
    cfg = RunConfig(dataset=str(folder.parent/'mine'), tiny=True, losses='ce', fraction=1, out_dir=str(tmp_path/'runs'))
    refuse(monkeypatch)
    before = {p: p.read_bytes() for p in kept.path.rglob('*') if p.is_file()}
    for redo in (True, False):
        if not redo: (kept.path/'done.json').unlink(); before.pop(kept.path/'done.json')
        with pytest.raises(InputError, match='other layers'): distil(RunConfig(**{**cfg.__dict__, 'redo': redo}))
        assert {p: p.read_bytes() for p in kept.path.rglob('*') if p.is_file()} == before


def test_a_refused_notebook_leaves_nothing_and_a_wrong_folder_is_a_sentence(tmp_path, capsys):
    (tmp_path/'d').mkdir()
    for split in ('train', 'test'): pd.DataFrame(dict(text=['many words', 'short']*8, label=['a', 'b']*8, language='en')).to_csv(tmp_path/'d'/f'{split}.csv', index=False)
    before = made(tmp_path)
    out, err, status = said(capsys, 'run', '--dataset', tmp_path/'d', '--tiny', '--layers', 9, '--fraction', 1, '--out_dir', tmp_path/'runs')
    assert status == 2 and 'layers=9 is impossible: the teacher has 4 layers' in err.splitlines()[-1] and made(tmp_path) == before
    for command in ('run', 'distil', 'study'):
        out, err, status = said(capsys, command, '--tiny', '--out_dir', '/proc/privkd-x')
        assert status == 2 and 'cannot be written: there is no folder for it' in err and len(err.splitlines()) == 1, err


def test_a_refused_background_run_is_removed_when_its_reason_was_told(tmp_path):
    from privkd_nb.jobs.background import BackgroundRun, FailedError
    run = BackgroundRun(RunConfig(tiny=True, losses='ce', teacher='playground', out_dir=str(tmp_path/'runs')))
    with pytest.raises(FailedError, match='playground'): run.start().wait(120)
    assert made(tmp_path) == []


# ---- papermill

def test_papermill_with_a_name_that_is_no_parameter(tmp_path):
    p = subprocess.run([str(Path(sys.executable).parent/'papermill'), str(NOTEBOOK), str(tmp_path/'out.ipynb'), '-p', 'innit', 'copy_ft'], cwd=tmp_path,
                       capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    assert p.returncode != 0 and "innit is no parameter of this notebook. Did you mean 'init'?" in p.stderr and made(tmp_path) == ['out.ipynb']


@pytest.mark.parametrize('name', ['run', 'effect', 'bench', 'bench_whole'])
def test_notebooks_check_the_names_that_papermill_is_given(name):
    from privkd_nb.jobs.config import assigned_names, check_parameters
    cells = [''.join(c['source']) for c in json.loads((ROOT/'nbs'/f'{name}.ipynb').read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'code']
    assert any(s.startswith(('check_parameters(globals())', 'cfg = RunConfig.of(globals())')) for s in cells[:4])
    known = assigned_names(cells[0])[0]
    check_parameters(dict(In=['', cells[0], f'# Parameters\n{known} = 1\n']))
    with pytest.raises(InputError, match=f'{known}x is no parameter of this notebook'): check_parameters(dict(In=['', cells[0], f'# Parameters\n{known}x = 1\n']))
