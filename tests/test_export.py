"From a run to a folder that ships: one tiny run, exported once for all tests; what is refused, what is caught, and what a kill leaves."
import json, os, re, shutil, signal, sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from privkd_nb.core import InputError
from privkd_nb.exported import CARD, SEAL, exports_of, read_export
from privkd_nb.jobs.config import RunConfig


def export(run, **kw):
    from privkd_nb.export.chain import export_run
    return export_run(run, **dict(seconds=0, say=lambda line: None) | kw)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "A finished run of seconds, whose labels are those of several languages"
    from privkd_nb.jobs.distil import distil
    return distil(RunConfig(tiny=True, out_dir=str(tmp_path_factory.mktemp('runs')/'runs')))


@pytest.fixture(scope='module')
def made(run):
    "The run, exported as it is by default"
    pytest.importorskip('onnxruntime', reason='skipped: onnxruntime is not installed')
    return export(run)


@pytest.fixture
def at_once(monkeypatch):
    "The fresh process is this one: another costs seconds, and is tried by `made`"
    from privkd_nb.export import fresh
    monkeypatch.setattr(fresh, 'fresh_process', fresh.fresh_predictions)


@pytest.fixture
def copied(run, tmp_path): return Path(shutil.copytree(run.path, tmp_path/run.path.name, ignore=shutil.ignore_patterns('exports')))


def test_the_folder_is_whole_and_the_run_is_what_it_was(made, run):
    from privkd_nb.analysis.load import Study
    from privkd_nb.export.stages import read_waterfall
    from privkd_nb.finding import find_run, run_paths
    from privkd_nb.jobs.verify import verify
    assert made.path == run.path/'exports'/'all' and exports_of(run.path) == [made.path]
    assert list(made.formats) == ['onnx-int8-dynamic'] and sorted(p.name for p in (made.path/'onnx').iterdir()) == ['model_quantized.onnx'] and not (made.path/'model.safetensors').exists()
    assert run.faults(full=True) == {} and verify(run.path.parent).faults == [] and len(Study.open(run.path.parent)) == 1
    w = read_waterfall(made.path)
    assert list(dict.fromkeys(w.stage))[:3] == ['teacher', 'copied', 'trained'] and w.stage.iloc[-1] == 'onnx-int8-dynamic'
    last = w[w.group == 'stage'].set_index('stage')
    assert last.size_mb.notna().all() and last.latency_ms.gt(0).all() and last.size_mb['onnx-int8-dynamic'] < last.size_mb['trained'] < last.size_mb['teacher']
    p = run.predictions.query("model == 'student'")
    own = w[(w.stage == 'trained') & (w.group == 'language')].set_index('language')
    assert own.score.to_dict() == pytest.approx((p.gold == p.predicted).groupby(p.language).mean().to_dict())
    assert made.manifest['scores'] == pytest.approx(w[(w.stage == 'onnx-int8-dynamic') & (w.group == 'language')].set_index('language').score.to_dict())
    shutil.copytree(made.path, beside := run.path.parent/'student')                     # among the runs it is no run
    try: assert [p.name for p in run_paths(run.path.parent)] == [run.path.name] and verify(run.path.parent).faults == [] and Study.open(run.path.parent).skipped == {} and find_run('last', run.path.parent).path == run.path
    finally: shutil.rmtree(beside)


def test_the_cards_python_lines_run(made, monkeypatch, capsys):
    card = (made.path/CARD).read_text(encoding='utf-8')
    code, = re.findall(r'```python\n(.*?)```', card, re.S)
    monkeypatch.chdir(made.path)
    *first, last = code.strip().splitlines()
    names = {}
    exec('\n'.join(first), names)
    assert len(eval(last, names)) == 2 and len(first) == 2
    assert str(made.path.parent.parent.parent) not in card and '/tmp' not in card


def test_the_cards_head_is_what_the_hub_reads(made):
    from huggingface_hub import ModelCard
    data = ModelCard.load(made.path/CARD, ignore_metadata_errors=False).data
    assert data.license is None and data.pipeline_tag == 'text-classification' and data.language == ['multilingual', 'de', 'en', 'sw']
    found = {r.metric_name: r.metric_value for r in data.eval_results}
    assert found['accuracy, sw'] == pytest.approx(made.manifest['scores']['sw'], abs=1e-4)


def test_it_is_made_once(made, run, tmp_path):
    seal = (made.path/SEAL).stat().st_mtime_ns
    assert export(run).path == made.path and (made.path/SEAL).stat().st_mtime_ns == seal
    with pytest.raises(InputError, match='holds another export .* replace it with --redo'): export(run, out=made.path, format='torch')
    (tmp_path/'mine').mkdir()
    (tmp_path/'mine'/'thesis.tex').write_text('years of work')
    for redo in (False, True):
        with pytest.raises(InputError, match='holds other files, which are not touched'): export(run, out=tmp_path/'mine', redo=redo)
    assert (tmp_path/'mine'/'thesis.tex').read_text() == 'years of work'


def test_nothing_is_replaced_that_was_not_asked_for(run, at_once, tmp_path):
    out, how = tmp_path/'student', dict(format='torch', vocab='off', texts=5)
    export(run, out=out, **how)
    assert {oct(q.stat().st_mode) for q in out.rglob('*') if q.is_file()} == {oct((out/CARD).stat().st_mode)}    # what the umask gives
    card = (out/CARD).read_text(encoding='utf-8').replace('---\n', '---\nlicense: mit\n', 1)
    (out/CARD).write_text(card, encoding='utf-8')
    assert export(run, out=out, **how).path == out and (out/CARD).read_text(encoding='utf-8') == card         # as the card asks for
    with pytest.raises(InputError, match='holds another export .*--redo'): export(run, out=out, **how | dict(texts=6))
    for name in ('notes.txt', '.git/HEAD'):
        (out/name).parent.mkdir(exist_ok=True)
        (out/name).write_text('mine')
        for redo in (False, True):
            with pytest.raises(InputError, match=f'holds {name}, .* would be lost'): export(run, out=out, redo=redo, **how | dict(texts=6))
        (out/name).unlink()
    (out/SEAL).unlink()
    with pytest.raises(InputError, match='a damaged export .*replace it with --redo'): export(run, out=out, **how)
    assert (out/CARD).read_text(encoding='utf-8') == card
    assert export(run, out=out, redo=True, **how).path == out and 'license: mit' not in (out/CARD).read_text(encoding='utf-8')


def test_more_text_is_told_apart_and_places_are_tried_first(run, tmp_path):
    from privkd_nb.cli.console import interrupted
    from privkd_nb.export.chain import text_mark
    for name in 'ab': (tmp_path/f'{name}.de.txt').write_text(f'{name} word')
    a, b, whole = (text_mark(str(p)) for p in (tmp_path/'a.de.txt', tmp_path/'b.de.txt', tmp_path))
    assert len({a, b, whole, text_mark(None)}) == 4 and text_mark(tmp_path/'a.de.txt') == a
    for out in (tmp_path/'a.de.txt'/'x', Path('/proc/x')):
        with pytest.raises(InputError, match=f'{out} cannot be written .* --out'): export(run, out=out, format='torch')
    assert 'begins anew' in interrupted(['export', 'last']) and 'checkpoint' in interrupted(['run'])


def test_torch_alone_needs_no_onnxruntime_and_loads_as_any_model(run, tmp_path, at_once, monkeypatch):
    from transformers import pipeline
    for name in ('onnx', 'onnxscript', 'onnxruntime'): monkeypatch.setitem(sys.modules, name, None)
    found = export(run, out=tmp_path/'torch', format='torch', languages='de,sw')
    assert found.manifest['languages']['left_out'] == ['en'] and list(found.formats) == ['torch']
    assert pipeline('text-classification', model=str(found.path))('guten Morgen')[0]['label'] in found.labels
    with pytest.raises(InputError, match=r"is not installed: pip install 'privkd_nb\[onnx\]'"): export(run, out=tmp_path/'onnx', format='onnx')
    assert not (tmp_path/'onnx').exists()


@pytest.fixture
def collapse(monkeypatch):
    "Files of 8 bits that compute something else, as when a scale is wrong"
    from privkd_nb.export import chain
    from privkd_nb.export.onnx_scores import onnx_logits
    def broken(model, data, **kw):
        for idx, batch, z in onnx_logits(model, data, **kw):
            if 'quantized' in str(model.path): z = z*0+z.flip(-1)                    # the labels are mixed up
            yield idx, batch, z
    monkeypatch.setattr(chain, 'onnx_logits', broken)


def test_a_collapse_is_refused_and_auto_takes_the_next_safer_format(run, made, tmp_path, at_once, collapse, monkeypatch):
    from privkd_nb.export import chain
    from privkd_nb.export.verdict import StageRefusedError
    real = chain.read_recorded
    def good(run): # A student that is always right: its own predictions are the gold labels
        rec = real(run)
        own = rec.student.predicted
        return rec._replace(student=rec.student.assign(gold=own), teacher=rec.teacher.assign(gold=own), rows=rec.rows.assign(label=own))
    monkeypatch.setattr(chain, 'read_recorded', good)
    write, kept = chain.to_onnx, tmp_path/'kept.onnx'
    def once(model, path, *a): # The same file twice: it takes seconds
        if not kept.exists(): write(model, kept, *a)
        return shutil.copyfile(kept, path)
    monkeypatch.setattr(chain, 'to_onnx', once)
    with pytest.raises(StageRefusedError) as e: export(run, out=tmp_path/'named', format='onnx-int8-dynamic', vocab='off')
    first, *table = str(e.value).splitlines()
    assert 'has surely lost more than 1 point since' in first and '--format onnx-int8 is the next safer choice' in first and {'de', 'en', 'sw', 'mean'} <= {l.split()[0] for l in table if l.strip()}
    assert [p.name for p in tmp_path.iterdir()] == ['kept.onnx']
    lines = []
    found = export(run, out=tmp_path/'auto', vocab='off', say=lines.append)
    assert list(found.formats) == ['onnx-int8'] and any('onnx-int8-dynamic' in l and 'refused' in l for l in lines)
    card = (found.path/CARD).read_text(encoding='utf-8')
    assert 'onnx-int8-dynamic has surely lost' in card and '&#45;' not in card and '-0.0' not in card
    assert not (found.path/'onnx'/'model_quantized.onnx').exists()


def killed_at(place, run, out):
    "Export in a process that is killed: the signal that it ended with"
    from privkd_nb.export import chain
    if not (pid := os.fork()):
        real = getattr(chain, place)
        def dying(*a, **kw):
            if place != 'check_fresh': real(*a, **kw)
            os.kill(os.getpid(), signal.SIGKILL)
        setattr(chain, place, dying)
        try: export(run, out=out, format='torch', vocab='off')
        finally: os._exit(1)
    return os.waitpid(pid, 0)[1]


@pytest.mark.parametrize('place', ['save_trimmed', 'write_checksums', 'check_fresh'])
def test_a_kill_leaves_no_folder_that_loads(place, run, at_once, tmp_path):
    out = tmp_path/'student'
    assert killed_at(place, run, out) == signal.SIGKILL
    assert not out.exists()
    left, = (q for q in tmp_path.iterdir() if q.name.startswith('.student.'))
    assert left.suffix == '.tmp'
    with pytest.raises(InputError, match='interrupted export has left'): read_export(left)
    if place == 'check_fresh':                                                      # the next export sweeps what was left
        assert list(export(run, out=out, format='torch', vocab='off').formats) == ['torch'] and [q.name for q in tmp_path.iterdir()] == ['student']


def test_what_is_no_finished_run_is_refused_in_a_sentence(run, copied, tmp_path):
    from privkd_nb.analysis.load import Study
    from privkd_nb.analysis.pack import pack
    with pytest.raises(InputError, match='is a model, but no run'): export(run.path/'model')
    with pytest.raises(InputError, match='is a packed study, which has no models'): export(pack(Study.open(run.path.parent), tmp_path/'packed'))
    (tmp_path/'photos').mkdir()
    with pytest.raises(InputError, match='names no run'): export(tmp_path/'photos')
    weights = copied/'model'/'model.safetensors'
    weights.write_bytes(weights.read_bytes()[:-4]+b'abcd')
    with pytest.raises(InputError, match='is damaged .*other content'): export(copied)
    (copied/SEAL).unlink()
    with pytest.raises(InputError, match='is unfinished'): export(copied)


def test_a_teacher_that_is_gone_is_left_out_with_a_reason(run, copied, at_once, tmp_path):
    from privkd_nb.export.stages import read_waterfall
    from privkd_nb.record import Run
    env = json.loads((copied/'environment.json').read_text())
    env['teacher']['name'] = '/nowhere/teacher'
    (copied/'environment.json').write_text(json.dumps(env))
    Run(copied).finish()
    found = export(copied, out=tmp_path/'out', format='torch', vocab='off')
    w = read_waterfall(found.path)
    assert list(dict.fromkeys(w.stage)) == ['teacher', 'trained'] and w[(w.stage == 'teacher') & (w.group == 'stage')].size_mb.isna().all()
    card = (found.path/CARD).read_text(encoding='utf-8')
    assert 'is not where it was' in card and 'nowhere' not in card


def test_a_run_with_a_rule_of_ones_own_is_exported_where_that_rule_is_not_at_hand(run, at_once, monkeypatch, tmp_path):
    from privkd_nb.export import chain
    from privkd_nb.export.stages import read_waterfall
    real = chain.read_recorded
    def own(*args):
        rec = real(*args)
        return rec._replace(config=rec.config | dict(depth='heavy@1f2e3d4c'))
    monkeypatch.setattr(chain, 'read_recorded', own)
    found = export(run, out=tmp_path/'out', format='torch', vocab='off')
    assert list(dict.fromkeys(read_waterfall(found.path).stage)) == ['teacher', 'trained']
    assert "depth='heavy' is not a choice" in ' '.join((found.path/CARD).read_text(encoding='utf-8').split())


def test_a_rule_that_has_changed_is_no_start_to_score():
    from privkd_nb.export.recorded import Lacking, spec_on_record
    from privkd_nb.init.spec import WIDTH_METHODS
    from privkd_nb.init.width_scores import SCORERS, width_method
    try:
        @width_method(needs='')
        def lightest(model, sample, want): "the lightest units"
        config = RunConfig(width='16:lightest', losses='ce', tiny=True).identity()
        assert '@' in config['width'] and spec_on_record(config).method == 'lightest'
        with pytest.raises(Lacking, match='has changed'): spec_on_record(config | dict(width='16:lightest@00000000'))
    finally: SCORERS.pop('lightest', None), WIDTH_METHODS.pop('lightest', None)


def test_texts_without_labels_are_compared_with_the_teacher(run):
    from privkd_nb.export.recorded import read_recorded, run_to_export
    from privkd_nb.export.stages import Scored, stage_rows
    rec = read_recorded(run_to_export(run))
    bare = {k: d.assign(gold=d.gold.where(d.language != 'sw', None)) for k, d in dict(teacher=rec.teacher, student=rec.student).items()}
    scored = Scored(bare['teacher'], bare['student'], 'sequence', ['de', 'en'], ['sw'])
    broken = bare['student'].assign(predicted=np.where(bare['student'].language == 'sw', 'nonsense', bare['student'].predicted))
    at = stage_rows('onnx', broken, scored, ('trained', bare['student'])).set_index(['group', 'language'])
    sw = rec.student.language == 'sw'
    agreed = float((rec.student.predicted == rec.teacher.predicted)[sw].mean())
    assert at.metric['language', 'sw'] == 'agreement' and at.score['language', 'sw'] == 0 and at['drop']['language', 'sw'] == pytest.approx(agreed)
    assert at.trained['language', 'sw'] == 'texts' and at.metric['texts', ''] == 'agreement' and at.metric['language', 'de'] == 'accuracy'


@pytest.mark.parametrize('dataset', ['playground-labels', 'playground-pairs'])
def test_other_kinds_are_exported_and_predict_what_was_scored(dataset, at_once, tmp_path):
    from privkd_nb.evaluation.texts import Classifier
    from privkd_nb.jobs.distil import distil
    run = distil(RunConfig(dataset=dataset, tiny=True, languages='de,en', losses='ce', out_dir=str(tmp_path/'runs')))
    found = export(run, format='torch')
    assert found.kind == ('multilabel' if dataset == 'playground-labels' else 'sequence') and found.manifest['pairs'] == (dataset == 'playground-pairs')
    p = run.predictions.query("model == 'student'")
    t = run.read('texts')
    given = [t.text[0].split(' ‖ ')[i:i+1] for i in (0, 1)] if found.manifest['pairs'] else [[t.text[0]]]
    got = Classifier(found.path).predict(*given)
    assert list(got['labels' if found.kind == 'multilabel' else 'label'].iloc[:1]) == [list(v) if found.kind == 'multilabel' else v for v in p.predicted[:1]]
    assert (found.manifest['thresholds'] is not None) == (found.kind == 'multilabel')


def test_words_are_exported(at_once, tmp_path):
    from privkd_nb.jobs.distil import distil
    rows = [dict(tokens=[a, 'i', b], ner_tags=['B-PER', 'O', 'B-LOC'], language=l) for l in ('da', 'sv') for a, b in zip(['Anna', 'Bo', 'Per', 'Eva']*10, ['Aarhus', 'Lund', 'Rom']*14)]
    pd.DataFrame(rows).to_json(tmp_path/'names.jsonl', orient='records', lines=True)
    run = distil(RunConfig(dataset=str(tmp_path/'names.jsonl'), tiny=True, losses='ce', out_dir=str(tmp_path/'runs')))
    with pytest.raises(InputError, match='known by name only; say where they are with dataset'): export(run)
    found = export(run, format='torch', dataset=str(tmp_path/'names.jsonl'))
    assert found.kind == 'token' and found.manifest['metric'] == 'entity_f1' and set(found.languages) == {'da', 'sv'}


def test_the_explorer_shows_the_newest_export(made, run):
    from privkd_nb.apps.choice import Choice
    from privkd_nb.apps.explorer_views import Views
    views = Views(run.path.parent)
    c = Choice('playground', 'all', run.config['fraction'], a=views.study.arms[0])
    answer = views.waterfall(c)
    assert [t.type for t in answer.figure.data] == ['bar', 'heatmap'] and len(answer.figure.data[1].y) == 3 and 'onnx-int8-dynamic' in answer.html
    one = views.waterfall(Choice('playground', 'all', run.config['fraction'], a=views.study.arms[0], languages=('sw',)))
    assert len(one.figure.data[1].y) == 1 and views.filename('waterfall', c).startswith('privkd_waterfall_')


def test_the_command_says_each_stage_and_what_to_do_next(run, at_once, tmp_path, capsys):
    from privkd_nb.cli.console import main
    capsys.readouterr()
    assert main(['export', str(run.path), '--format', 'torch', '--vocab', 'off', '--out', str(tmp_path/'s'), '--texts', '5']) == 0
    out = capsys.readouterr().out
    assert re.search(r'^trained: accuracy', out, re.M) and f'exported  {tmp_path/"s"}' in out and 'try next' in out
    for options, words in ((['--format', 'int8'], 'format'), (['--vocab', 'much'], "vocab='much'"), (['--languages', 'xx'], 'languages'), (['--max_drop', '2'], 'max_drop')):
        assert main(['export', str(run.path), *options]) == 2 and words in capsys.readouterr().err
