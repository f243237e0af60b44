"What runs ask of one teacher is computed once, and is what the teacher says"
import warnings

import numpy as np, pandas as pd, pytest, torch

from privkd_nb.data.encoding import encode
from privkd_nb.data.tasks import load_task
from privkd_nb.evaluation.scores import predict
from privkd_nb.init.importance import block_influence
from privkd_nb.jobs.config import RunConfig
from privkd_nb.jobs.distil import distil
from privkd_nb.models.encoders import weights_hash
from privkd_nb.models.tiny import ARCHITECTURES, tiny_model
from privkd_nb.models.tokenizer import train_tokenizer
from privkd_nb.train import teacher, teacher_scores
from privkd_nb.train.teacher_scores import cached_influence, teacher_predictions

TEXTS = [f'{w} '*n for n in (1, 2, 3, 5, 8) for w in ('yes', 'no', 'maybe now', 'Berlin')]
LABELS = ['O', 'B-X', 'I-X']


@pytest.fixture(scope='module')
def tokenizer(): return train_tokenizer(TEXTS, 300)


def table(kind, tokenizer):
    words = [t.split() for t in TEXTS]
    cells = dict(text=TEXTS, label=LABELS[0]) if kind == 'sequence' else dict(tokens=words, ner_tags=[['O']*len(w) for w in words])
    return encode(pd.DataFrame(dict(id=list(map(str, range(len(TEXTS)))), language=['en', 'de']*10) | cells), tokenizer, LABELS)


@pytest.mark.parametrize('kind', ['sequence', 'token'])
@pytest.mark.parametrize('arch', ARCHITECTURES)
def test_cached_predictions_are_the_live_ones(tmp_path, tokenizer, arch, kind, monkeypatch):
    model, data = tiny_model(arch, labels=LABELS, kind=kind, vocab_size=300), table(kind, tokenizer)
    live, first = predict(model, data), teacher_predictions(model, data, tmp_path)
    monkeypatch.setattr(teacher, 'teacher_outputs', None)                # from now on they are read
    again, part = teacher_predictions(model, data, tmp_path), teacher_predictions(model, data.take(data.languages == 'de'), tmp_path)
    assert again.equals(first) and again.predicted.tolist() == live.predicted.tolist() and np.allclose(again.loss, live.loss, atol=1e-5)
    assert part.predicted.tolist() == live[live.language == 'de'].predicted.tolist()


def test_another_teacher_has_other_predictions(tmp_path, tokenizer):
    data = table('sequence', tokenizer)
    for seed in range(3):
        model = tiny_model(labels=LABELS, vocab_size=300, seed=seed)
        assert teacher_predictions(model, data, tmp_path).predicted.tolist() == predict(model, data).predicted.tolist()
        assert cached_influence(model, data, tmp_path) == block_influence(model, data)
    with torch.no_grad(): model.classifier.out_proj.weight.mul_(-1)      # the same model, trained on
    assert teacher_predictions(model, data, tmp_path).predicted.tolist() == predict(model, data).predicted.tolist()


def test_a_full_disk_and_damaged_rows_cost_time_and_nothing_else(tmp_path, tokenizer, monkeypatch):
    model, data = tiny_model(labels=LABELS, vocab_size=300), table('sequence', tokenizer)
    live = predict(model, data)
    teacher_predictions(model, data, tmp_path), cached_influence(model, data, tmp_path)
    for p in tmp_path.glob('*/segment-*'):
        raw = bytearray(p.read_bytes()); raw[-1] ^= 1; p.write_bytes(raw)
    with pytest.warns(UserWarning, match='its content does not match its name'):
        assert teacher_predictions(model, data, tmp_path).predicted.tolist() == live.predicted.tolist()
        assert cached_influence(model, data, tmp_path) == block_influence(model, data)
    def full(*a): raise teacher.StoreFullError(28, 'no room')
    monkeypatch.setattr('privkd_nb.train.store.write_segment', full)
    with pytest.warns(UserWarning, match="the teacher's predictions are not cached"):
        assert teacher_predictions(model, data, tmp_path/'b').predicted.tolist() == live.predicted.tolist()
    with pytest.warns(UserWarning, match='the influence of layers is not cached'):
        assert cached_influence(model, data, tmp_path/'b') == block_influence(model, data)


def test_a_second_run_asks_the_teacher_nothing_again(tmp_path, monkeypatch):
    monkeypatch.setenv('PRIVKD_CACHE', str(tmp_path/'cache'))
    asked, hashed, real = [], [], teacher.teacher_outputs
    monkeypatch.setattr(teacher, 'teacher_outputs', lambda *a, **kw: asked.append(len(a[2])) or real(*a, **kw))
    monkeypatch.setattr(teacher_scores, 'block_influence', lambda *a: hashed.append(1) or block_influence(*a))
    task = load_task(languages='en,sw', limit=40)
    tiny_model(labels=task.labels, vocab_size=500).save_pretrained(tmp_path/'teacher')
    train_tokenizer(task.train.text, 500).save_pretrained(tmp_path/'teacher')
    def run(seed, out, **kw): return distil(RunConfig(tiny=True, teacher=str(tmp_path/'teacher'), languages='en,sw', losses='ce', seed=seed, out_dir=str(tmp_path/out), **kw))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        first = run(0, 'a')
        after = len(asked), len(hashed)
        second, off = run(1, 'a'), run(1, 'b', cache='off')
    assert after == (3, 1) and (len(asked), len(hashed)) == (3, 2)        # texts of the diagnosis, of validation and test; without the cache, live again
    def of_teacher(r): return r.predictions[r.predictions.model == 'teacher'].reset_index(drop=True)
    def history(r): return r.history[r.history.split == 'teacher'].value.tolist()
    assert of_teacher(first).equals(of_teacher(second)) and history(first) == history(second) == history(off)
    assert of_teacher(off).predicted.equals(of_teacher(second).predicted) and np.allclose(of_teacher(off).loss, of_teacher(second).loss, atol=1e-5)


def test_weights_are_hashed_again_after_any_change():
    model, seen = tiny_model(), set()
    def new():
        before = len(seen)
        seen.add(weights_hash(model)); seen.add(weights_hash(model))
        return len(seen)-before
    assert new() == 1
    with torch.no_grad(): model.roberta.embeddings.word_embeddings.weight[77, 5] += 1          # one number
    assert new() == 1
    model.classifier.out_proj.weight.data = model.classifier.out_proj.weight.data*2
    assert new() == 1
    model.load_state_dict(tiny_model(seed=3).state_dict())
    assert new() == 1 and weights_hash(model) == weights_hash(tiny_model(seed=3))
    for p in model.parameters(): p.grad = torch.ones_like(p)
    torch.optim.AdamW(model.parameters(), fused=True).step()
    assert new() == 1
