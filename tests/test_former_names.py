"Options that have another name now accept the former one, with one line of notice."
import inspect, re

import pytest

from conftest import ROOT
from privkd_nb import DistillTrainer, RunConfig, training_args
from privkd_nb.core import InputError
from privkd_nb.jobs.study import grid, run_study
from privkd_nb.models.tiny import tiny_batch, tiny_model
from privkd_nb.train.efficiency import Efficiency


def notice(old, new): return pytest.warns(FutureWarning, match=f'^{old} is now called {new}; the former name is accepted until version 0.3.$')


@pytest.mark.parametrize('old,new,value', [('packing', 'unpadding', 'off'), ('vocabulary', 'embedding_rows', 'all'), ('pieces', 'max_tokens', 300)])
def test_options_of_a_run(old, new, value):
    for make in (RunConfig, Efficiency, lambda **kw: grid(**kw)[0], RunConfig.of):
        with notice(old, new): cfg = make({old: value}) if make == RunConfig.of else make(**{old: value})
        assert getattr(cfg, new) == value
    with pytest.raises(InputError, match=f'{old} is the former name of {new}, and both were given'): RunConfig(**{old: value, new: value})


def test_a_notebooks_defaults_give_way_to_a_former_name():
    with notice('packing', 'unpadding'): assert RunConfig.of(dict(unpadding='auto', packing='off', other=1)).unpadding == 'off'


def test_functions_and_the_trainer(tmp_path):
    with notice('parts', 'micro_batches'): assert training_args(tmp_path, 64, parts=4, use_cpu=True).gradient_accumulation_steps == 4
    with notice('economy', 'efficiency'), pytest.raises(InputError, match='needs a teacher'): DistillTrainer(tiny_model(), None, 'ce,logits', economy=Efficiency())
    with notice('together', 'share_teacher'), pytest.raises(InputError, match='the study has no runs'): run_study([], together=True)
    with notice('say', 'report'), pytest.raises(InputError, match='the study has no runs'): run_study([], say=print)
    with notice('pads', 'padding'): assert tiny_batch(pads=3)['attention_mask'].sum() == tiny_batch(padding=3)['attention_mask'].sum() == 24


def test_a_padding_id_is_not_needed_any_more():
    from privkd_nb import evaluate_by_language
    from privkd_nb.data.encoding import Encoded
    data = Encoded([[0, 7, 2]], [0], ['en'], ['a'], pad_id=1)
    with pytest.warns(FutureWarning, match='^pad_id is not needed any more and is ignored'): assert len(evaluate_by_language(tiny_model(), data, pad_id=0)) == 1


@pytest.mark.parametrize('name,key', [('max_tokens', 'pieces')])
def test_runs_keep_their_names(name, key):
    identity = RunConfig(tiny=True, losses='ce,logits', **{name: 300}).identity()
    assert identity[key] == 300 and name not in identity
    from privkd_nb.record import Run
    assert Run.named('runs', identity).path.name == '2b91c1a6e2d5'


def test_make_passes_every_parameter_on():
    from dataclasses import fields
    listed = re.search(r'^PARAMETERS := ((?:.*\\\n)*.*)$', (ROOT/'Makefile').read_text(), re.M)[1].replace('\\', '').split()
    assert [p.lower() for p in listed] == [f.name for f in fields(RunConfig)]


# The parameters of every public name in version 0.1.0
EARLIER = dict(
    BackgroundRun='cfg',
    DistillTrainer='student teacher losses layers attention_on temp history train_languages economy ask',
    Explorer='runs view',
    InitCard='source depth layers parts seed architecture tensors source_hash models share_copied scores',
    InitSpec='source depth n_layers parts seed config',
    Monitor='what every start',
    Run='path',
    RunConfig=('dataset data_dir languages eval_languages scenario teacher_scenario fraction teacher_fraction base teacher init student '
             'parts layers depth losses epochs teacher_epochs lr batch_size max_length patience batching pieces vocabulary packing '
             'memory compile cache budget seed out_dir tiny redo'),
    Task='name kind labels metric train validation test train_languages eval_languages',
    curves_figure='history smooth points',
    differences='scores base metric reps level',
    distil='cfg task models ask watch',
    encode='df tokenizer labels max_length',
    evaluate_by_language='model data train_languages pad_id batch_size',
    init_student='spec teacher base',
    language_table='run metric',
    languages_figure='metrics metric split',
    load_data='cfg who',
    load_encoder='name kind labels trust_remote_code',
    load_models='cfg task having',
    load_runs='folder train',
    load_task='name data_dir languages scenario eval_languages fraction seed limit',
    load_tokenizer='name',
    overall='scores metric reps level',
    parse_losses='losses',
    playground_base='spec progress',
    resolve_layers='rule n_teacher n_student',
    summary='run',
    training_args='folder n_train epochs lr batch_size updates parts seed evals metric patience',
)


@pytest.mark.parametrize('name', EARLIER)
def test_every_parameter_of_a_public_name_is_accepted_still(name):
    import privkd_nb
    what = getattr(privkd_nb, name)
    known = {*inspect.signature(what).parameters, *getattr(what, 'former_names', {})}
    assert set(EARLIER[name].split()) <= known
    assert {new for new in getattr(what, 'former_names', {}).values() if new} <= {*inspect.signature(what).parameters, 'teacher_source'}


def test_former_attributes_read_and_write_the_current_ones():
    cfg = RunConfig()
    with notice('pieces', 'max_tokens'): cfg.pieces = 512
    assert cfg.max_tokens == 512
    with notice('packing', 'unpadding'): assert cfg.packing == 'auto'
