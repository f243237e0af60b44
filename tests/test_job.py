"The main job through each of its interfaces, its error messages, and the files that it writes."
import json, os, subprocess, sys, time
from pathlib import Path

import pandas as pd, pytest, torch
from conftest import TINY

from privkd_nb.jobs.config import RunConfig
from privkd_nb.core import InputError
from privkd_nb.jobs.distil import distil
from privkd_nb.record import Run

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT/'nbs'/'run.ipynb'


def call(*args, timeout=300, **kw):
    return subprocess.run([str(Path(sys.executable).parent/args[0]), *map(str, args[1:])], capture_output=True, text=True, timeout=timeout, **{'stdin': subprocess.DEVNULL, **kw})


def figures(nb): return sum('application/vnd.plotly.v1+json' in o.get('data', {}) and 'text/html' in o['data'] for c in nb['cells'] for o in c.get('outputs', []))


def test_papermill_without_an_output_path_prints_the_notebook(tmp_path):
    before = NOTEBOOK.read_bytes()
    p = call('papermill', NOTEBOOK, '-p', 'init', 'copy_ft', '-p', 'tiny', True, '-p', 'out_dir', tmp_path)
    assert p.returncode == 0, p.stderr[-2000:]
    assert figures(json.loads(p.stdout)) == 2 and NOTEBOOK.read_bytes() == before


def test_the_cookbook_with_tiny_runs_of_one_seed(tmp_path):
    nb = json.loads((ROOT/'nbs'/'cookbook.ipynb').read_text(encoding='utf-8'))
    nb['cells'].insert(0, nb['cells'][1] | dict(id='tiny', source=TINY))
    (tmp_path/'given.ipynb').write_text(json.dumps(nb), encoding='utf-8')
    p = call('papermill', tmp_path/'given.ipynb', tmp_path/'cookbook.ipynb', '-p', 'seeds', 1)
    assert p.returncode == 0, p.stderr[-2000:]
    assert figures(json.loads((tmp_path/'cookbook.ipynb').read_text(encoding='utf-8'))) == 1


def test_the_first_tutorial_with_tiny(tmp_path):
    p = call('papermill', ROOT/'nbs'/'tutorials'/'01_first_distillation.ipynb', tmp_path/'first.ipynb', '-p', 'tiny', True, '-p', 'out_dir', tmp_path)
    assert p.returncode == 0, p.stderr[-2000:]
    assert figures(json.loads((tmp_path/'first.ipynb').read_text(encoding='utf-8'))) >= 3


def test_privkd_run(tmp_path):
    before = NOTEBOOK.read_bytes()
    args = ['privkd', 'run', '--init', 'scratch', '--languages', 'en,sw,zh', '--tiny', '--losses', 'ce,logits=0.5', '--out_dir', tmp_path]
    with NOTEBOOK.open() as piped: p = call(*args, stdin=piped)            # a notebook piped into it must overwrite nothing
    assert p.returncode == 0, p.stderr[-2000:]
    assert NOTEBOOK.read_bytes() == before
    assert 'distilling (scratch)' in p.stderr and 'accuracy=' in p.stderr  # progress, on the terminal
    found = {l.split()[0]: Path(l.split()[1]) for l in p.stdout.splitlines() if l.startswith(('model ', 'notebook '))}
    run = Run.load(found['notebook'].parent)
    assert found['model'] == run.path/'model' and 'reaches a mean test accuracy of' in p.stdout.replace('\n', ' ')
    assert {'config.json', 'environment.json', 'metrics.parquet', 'history.parquet', 'predictions.parquet', 'init_card.json', 'model', 'run.ipynb', 'done.json'} <= set(os.listdir(run.path))
    assert run.config['losses'] == {'ce': 1., 'logits': .5} and run.environment['data']['train'] > 0
    assert set(run.predictions.language) == {'en', 'sw', 'zh'} and set(run.predictions.model) == {'student', 'teacher'}
    again = call(*args)
    assert 'already on record' in again.stdout and again.stdout.splitlines()[2:] == p.stdout.splitlines()[-len(again.stdout.splitlines())+2:]


@pytest.mark.parametrize('args, message', [
    (['--init', 'copyft'], "mimetic, pretrained. Did you mean 'copy_ft'?"), (['--languages', 'en,xx'], "languages='xx' is not a choice; choose from ar, de"),
    (['--layers', '9'], 'the teacher has 6 layers, so choose 1 to 6'), (['--dataset', 'masive'], 'neither a known task'), (['--losses', 'hiden'], "Did you mean 'hidden'")])
def test_an_invalid_option_gives_one_sentence_quickly(args, message):
    start = time.time()
    p = call('privkd', 'run', *args)
    assert p.returncode == 2 and message in p.stderr and 'Traceback' not in p.stderr and len(p.stderr.strip().splitlines()) == 1
    assert time.time()-start < 3                                           # on a busy machine; under one second on a quiet one


def test_a_stopped_run_prints_one_sentence(tmp_path, monkeypatch, capsys):
    from privkd_nb import cli
    from privkd_nb.jobs import distil as job
    def stopped(cfg): raise job.StoppedError('run x was stopped at step 3 of 9, at a checkpoint; start it again and it goes on from there.')
    monkeypatch.setattr(job, 'distil', stopped)
    assert cli.main(['distil', '--tiny', '--out_dir', str(tmp_path)]) == 1
    assert capsys.readouterr().err == 'privkd: run x was stopped at step 3 of 9, at a checkpoint; start it again and it goes on from there.\n'


def test_former_options_are_accepted_with_a_notice(tmp_path, monkeypatch, capsys):
    from privkd_nb import cli
    from privkd_nb.jobs import distil as job, study
    made, out = [], ['--tiny', '--out_dir', str(tmp_path)]
    for name in ('runs.print_result', 'study.print_study'): monkeypatch.setattr(f'privkd_nb.cli.{name}', lambda *found: None)
    monkeypatch.setattr(job, 'distil', lambda cfg: made.append(cfg) or Run(tmp_path))
    monkeypatch.setattr(study, 'run_study', lambda configs, workers, report, share_teacher: made.append((configs, share_teacher)) or [Run(tmp_path)])
    monkeypatch.setattr('privkd_nb.cli.runs.execute', lambda notebook, to, given: made.append(given) or to.write_text('{}'))
    notice = 'privkd: {} is now called {}; the former name is accepted until version 0.3.\n'.format
    assert cli.main(['distil', '--packing', 'off', *out]) == 0 and made.pop().unpadding == 'off'
    assert capsys.readouterr().err == notice('packing', 'unpadding')
    assert cli.main(['run', '--vocabulary', 'all', *out]) == 0 and made.pop()['embedding_rows'] == 'all'
    assert capsys.readouterr().err == notice('vocabulary', 'embedding_rows')
    assert cli.main(['study', '--pieces', '100', '200', '--together', '--controls', 'off', *out]) == 0
    configs, share_teacher = made.pop()
    assert share_teacher and [c.max_tokens for c in configs] == [100, 200]
    assert capsys.readouterr().err == notice('together', 'share_teacher')+notice('pieces', 'max_tokens')
    assert cli.main(['distil', '--packing', 'off', '--unpadding', 'off', *out]) == 2 and 'both were given' in capsys.readouterr().err


@pytest.mark.parametrize('command', ['run', 'distil', 'study'])
def test_former_options_are_not_in_the_help(command, capsys):
    from privkd_nb.cli import main
    with pytest.raises(SystemExit): main([command, '--help'])
    text = capsys.readouterr().out
    assert '--unpadding' in text and not [o for o in ('--packing', '--vocabulary', '--pieces', '--together') if o in text]


def test_a_study_request_of_an_earlier_version_is_accepted(tmp_path):
    from dataclasses import asdict
    from privkd_nb.jobs.study import main
    cfg = asdict(RunConfig(tiny=True, losses='ce', out_dir=str(tmp_path)))
    for new,old in dict(embedding_rows='vocabulary', unpadding='packing', max_tokens='pieces').items(): cfg[old] = cfg.pop(new)
    (tmp_path/'request.json').write_text(json.dumps(dict(together=True, configs=[cfg])))
    with pytest.warns(FutureWarning, match='is now called'): assert main([tmp_path/'request.json']) == 0
    assert Run.named(tmp_path, RunConfig(tiny=True, losses='ce').identity()).finished


def test_an_invalid_parameter_stops_papermill_at_the_first_cell(tmp_path):
    p = call('papermill', NOTEBOOK, tmp_path/'x.ipynb', '-p', 'init', 'copyft')
    assert p.returncode != 0 and "Did you mean 'copy_ft'?" in p.stderr
    ran = [c for c in json.loads((tmp_path/'x.ipynb').read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'code' and c['execution_count']]
    assert 'RunConfig.of' in ''.join(ran[-1]['source'])


def test_make_passes_parameters_through():
    p = subprocess.run(['make', '-n', 'run', 'INIT=scratch', 'OUT_DIR=elsewhere'], cwd=ROOT, capture_output=True, text=True, env={**os.environ, 'SEED': '7'})
    assert "--init 'scratch'" in p.stdout and "--out_dir 'elsewhere'" in p.stdout and '--seed' not in p.stdout


def test_an_unfinished_run_is_repeated_and_a_finished_one_is_read(tmp_path):
    cfg = RunConfig(tiny=True, languages='en,de', losses='ce', out_dir=str(tmp_path))
    run = distil(cfg)
    first = run.metrics
    (run.path/'done.json').unlink()
    with pytest.raises(InputError, match='is unfinished'): Run.load(run.path)
    pd.testing.assert_frame_equal(distil(cfg).metrics, first)              # trained again from the beginning: the same numbers
    pd.testing.assert_frame_equal(distil(cfg).history, run.history)


def test_your_own_files(tmp_path):
    from privkd_nb.data.sources import read_split
    for split in ('train', 'test'):
        df = read_split('playground', split, ['en', 'hi'])[['text', 'label', 'language']]
        df.to_csv(tmp_path/f'{split}.csv', index=False) if split == 'train' else df.to_json(tmp_path/f'{split}.jsonl', orient='records', lines=True, force_ascii=False)
    run = distil(RunConfig(dataset=str(tmp_path), base='playground', tiny=True, losses='ce', out_dir=str(tmp_path/'runs')))
    assert set(run.metrics.language) == {'en', 'hi', ''} and set(run.metrics.group) == {'language', 'all'}
    assert 'accuracy' in set(run.metrics.metric)


def test_the_labels_of_a_given_teacher_are_reordered_or_rejected(tmp_path):
    from privkd_nb.jobs.fine_tune import load_data, load_models, teacher_path, base_path
    from privkd_nb.models.loading import load_encoder, load_tokenizer
    from privkd_nb.models.encoders import set_labels
    cfg = RunConfig(tiny=True, languages='en,de', out_dir=str(tmp_path))
    path, task = teacher_path(cfg, base_path(cfg)), load_data(cfg)
    model, tok = load_encoder(path), load_tokenizer(path)
    text = tok('Turn on the light', return_tensors='pt')
    model.config.id2label = dict(enumerate(reversed(task.labels)))
    model.save_pretrained(tmp_path/'turned'); tok.save_pretrained(tmp_path/'turned')
    got = load_models(RunConfig(tiny=True, languages='en,de', teacher=str(tmp_path/'turned')), task).teacher
    assert torch.allclose(got(**text).logits, model(**text).logits.flip(-1), atol=1e-6)
    set_labels(model, [f'x{i}' for i in range(14)])
    model.save_pretrained(tmp_path/'other'); tok.save_pretrained(tmp_path/'other')
    with pytest.raises(InputError, match=r"does not know the data's labels \(0 of 14 labels agree; only in the teacher: 'x0', 'x1'.*only in the data: 'alarm_remove'.*take a teacher of these labels"): load_models(RunConfig(tiny=True, languages='en,de', teacher=str(tmp_path/'other')), task)


@pytest.mark.parametrize('dataset, langs, kw', [('massive', 'en-US,de-DE,sw-KE', {}), ('tsm', 'ar,en,hi', dict(scenario='cl')), ('uner', 'de,en', dict(scenario='en'))])
def test_real_data(tmp_path, shared_data, shared_base, dataset, langs, kw):
    run = distil(RunConfig(dataset=dataset, data_dir=str(shared_data), languages=langs, base=str(shared_base), tiny=True, out_dir=str(tmp_path), **kw))
    m = run.metrics.query("split == 'test' and model == 'student'")
    assert m[m.metric == 'n'].value.sum() > 0 and m.value.notna().all()
    if kw: assert {'seen', 'unseen'} <= set(m.group)
