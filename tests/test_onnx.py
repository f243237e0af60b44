"Tests of ONNX files: what they compute, what they say, and what is refused."
import json, logging

import numpy as np
import pytest, torch

onnx = pytest.importorskip('onnx', reason='skipped: onnx is not installed')
pytest.importorskip('onnxruntime', reason='skipped: onnxruntime is not installed')

from privkd_nb.core import InputError, ResultError
from privkd_nb.data.encoding import Encoded
from privkd_nb.evaluation.scores import decoded, label_thresholds, predict
from privkd_nb.export import onnx as page
from privkd_nb.export.onnx import to_onnx
from privkd_nb.export.onnx_scores import OnnxModel, onnx_logits
from privkd_nb.export.proof import EXPORTED, exported
from privkd_nb.export.quantize import QUANTIZERS, quantize, rounding, spoil, weights
from privkd_nb.models.architectures import ARCHITECTURES
from privkd_nb.models.tiny import tiny_model


@pytest.fixture(scope='module')
def pairs(tmp_path_factory):
    "A model that reads pairs and gives several labels, in training mode and with a kernel of its own, and its file"
    model = tiny_model('bert', 1, labels=['a', 'b', 'c'], kind='multilabel', vocab_size=300, hidden_size=64).train()
    model.config.thresholds = dict(a=.4, b=.5, c=.6)
    return model, to_onnx(model, tmp_path_factory.mktemp('onnx')/'model.onnx', languages=['en', 'sw'])


def data(kind='multilabel', n=20, vocab=300):
    g = np.random.default_rng(1)
    ids = [g.integers(5, vocab, k).tolist() for k in g.integers(3, 40, n)]
    return Encoded(ids, np.eye(3, dtype=int)[g.integers(0, 3, n)], ['en', 'sw']*(n//2), range(n), pad_id=1, kind=kind,
                   types=[[0]*(len(o)//2)+[1]*(len(o)-len(o)//2) for o in ids])


def test_a_file_predicts_what_its_model_predicts(pairs):
    model, path = pairs
    theirs, student = predict(model, data()), OnnxModel(path, threads=1)
    ours = decoded(onnx_logits(student, data(), max_tokens=100), data(), student.labels, label_thresholds(model))
    assert ours.predicted.tolist() == theirs.predicted.tolist() and np.allclose(ours.loss, theirs.loss, atol=1e-5)
    assert len({tuple(p) for p in ours.predicted}) > 1
    assert (student.kind, student.facts['thresholds'], student.facts['languages']) == ('multilabel', dict(a=.4, b=.5, c=.6), ['en', 'sw'])
    untyped = [z for *_,z in onnx_logits(student, Encoded(*[[*o] for o in ([[5, 6, 7]], [[1, 0, 0]], ['en'], ['x'])], pad_id=1, kind='multilabel'))]
    model.eval()
    with torch.no_grad(): assert torch.allclose(untyped[0], model(torch.tensor([[5, 6, 7]])).logits, atol=1e-5)
    model.train()


HEADS = dict(deberta='sequence', modernbert='token', eurobert='token', rembert='sequence', mmbert='sequence') | {'xlmr-xl': 'token'}
ELSEWHERE = {'bert', 'xlmr', 'distilbert'}        # here with pairs, and on the pages of ONNX scores and of the proof


QUICK = 'deberta', 'mmbert', 'xlmr-xl'            # disentangled attention, rotary positions, normalization before each layer


@pytest.mark.parametrize('arch', [k if k in QUICK else pytest.param(k, marks=pytest.mark.slow) for k in HEADS])
def test_what_the_table_of_encoders_says_of_onnx_holds(arch):
    assert (exported(arch, [HEADS[arch]]) or 'holds') == EXPORTED[arch]
    assert set(HEADS) | ELSEWHERE == set(EXPORTED) == set(ARCHITECTURES)


def test_an_export_leaves_its_model_as_it_was(pairs):
    model, path = pairs
    assert model.training and all(m.training for m in model.modules()) and model.config._attn_implementation == 'sdpa'
    said = {p.key: json.loads(p.value) for p in onnx.load(path).metadata_props}
    assert said['labels'] == ['a', 'b', 'c'] and said['opset'] == onnx.load(path).opset_import[0].version


def test_what_differs_from_torch_leaves_no_file(pairs, tmp_path, monkeypatch):
    model, path = pairs
    other = tiny_model('bert', 1, labels=['a', 'b', 'c'], vocab_size=300, hidden_size=64, seed=1)
    monkeypatch.setattr(page, 'traced', lambda model: onnx.load(path))
    with pytest.raises(ResultError, match='differ by .* from torch'): to_onnx(other, tmp_path/'model.onnx')
    graph = onnx.load(path)
    table = next(i for i in graph.graph.initializer if list(i.dims) == [300, 64])
    for k in range(20):
        twin = onnx.TensorProto(); twin.CopyFrom(table); twin.name += str(k); graph.graph.initializer.append(twin)
    monkeypatch.setattr(page, 'traced', lambda model: graph)
    with pytest.raises(ResultError, match='weights are in it twice'): to_onnx(model, tmp_path/'model.onnx')
    def fails(model): raise ResultError('no graph')
    monkeypatch.setattr(page, 'traced', fails)
    with pytest.raises(ResultError, match='no graph'): to_onnx(model, tmp_path/'model.onnx')
    assert list(tmp_path.iterdir()) == []
    assert model.training


def test_missing_packages_are_named(monkeypatch, tmp_path):
    def gone(name): raise ModuleNotFoundError(f'No module named {name!r}', name=name)
    monkeypatch.setattr(page, 'import_module', gone)
    for call in (lambda: to_onnx(tiny_model(layers=1), tmp_path/'x.onnx'), lambda: OnnxModel(tmp_path/'x.onnx'), lambda: quantize(tmp_path/'x', tmp_path/'y', 'onnx-int8')):
        with pytest.raises(InputError, match=r"pip install 'privkd_nb\[onnx\]'"): call()


WORTH = {'onnx-fp16': (.6, .001, 1), 'onnx-int8': (.45, .05, .9), 'onnx-int8-dynamic': (.45, .1, .9), 'onnx-int4': (.4, .6, .4)} # Size, error, agreement


@pytest.mark.parametrize('how', list(QUANTIZERS))
def test_a_quantized_file_is_small_right_and_says_the_same(pairs, tmp_path, how):
    _, path = pairs
    root = logging.getLogger()
    logs, (size, error, same) = (root.level, len(root.handlers)), WORTH[how]
    found = quantize(path, tmp_path/'q.onnx', how, data())
    assert (root.level, len(root.handlers)) == logs
    assert found.size_mb < size*found.was_mb and 0 < found.mean < error and found.same >= same and found.texts == 20, found
    assert OnnxModel(tmp_path/'q.onnx').facts == OnnxModel(path).facts
    assert set(weights(onnx.load(tmp_path/'q.onnx')).values()) <= {'Gather'}              # the two rows of token types
    if how == 'onnx-fp16':
        with pytest.raises(InputError, match='has no scales'): spoil(tmp_path/'q.onnx')
    else: assert rounding(path, spoil(tmp_path/'q.onnx', tmp_path/'bad.onnx'), data()).mean > 2*found.mean


def test_weights_that_were_passed_over_are_an_error(pairs, tmp_path, monkeypatch):
    _, path = pairs
    monkeypatch.setitem(QUANTIZERS, 'onnx-int8', lambda graph: graph)
    with pytest.raises(ResultError, match='100% of the size were not quantized'): quantize(path, tmp_path/'q.onnx', 'onnx-int8')
    assert list(tmp_path.iterdir()) == []
