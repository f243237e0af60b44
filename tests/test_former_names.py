"Options that have another name now accept the former one, with one line of notice."
import re

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
    assert Run.named('runs', identity).path.name == '41eee8ae7f1e'


def test_make_passes_every_parameter_on():
    from dataclasses import fields
    listed = re.search(r'^PARAMETERS := ((?:.*\\\n)*.*)$', (ROOT/'Makefile').read_text(), re.M)[1].replace('\\', '').split()
    assert [p.lower() for p in listed] == [f.name for f in fields(RunConfig)]
