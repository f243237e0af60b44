"""Measure what is left of a fine-tuned teacher that is narrowed without training, in one step or in many.

    python tools/pruning_steps.py TEACHER DATA_DIR [--out nbs/explanations/pruning_steps.csv]

TEACHER is the folder of a teacher that was fine-tuned on MASSIVE, half of whose languages are unseen (scenario `cl`): units are chosen on
32 training texts of each seen language, and accuracy is that of 40 test texts of every language. Rows that the table has already are left
out, so a run that was ended goes on where it stopped.
"""
import argparse
from dataclasses import replace
from pathlib import Path

import pandas as pd
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from privkd_nb.data.encoding import encode
from privkd_nb.evaluation.scores import predict
from privkd_nb.init.axes import pruned, widths_of
from privkd_nb.init.pruning import prune
from privkd_nb.init.width import narrow
from privkd_nb.jobs.config import RunConfig
from privkd_nb.jobs.fine_tune import load_data
from privkd_nb.models.encoders import model_labels

ROOT = Path(__file__).resolve().parent.parent
KEY = ['hidden', 'heads', 'ffn', 'method', 'steps', 'uneven']
LANGUAGES = 'af-ZA,ar-SA,de-DE,el-GR,en-US,fi-FI,fr-FR,hi-IN,id-ID,ja-JP,ru-RU,sw-KE,th-TH,tr-TR,vi-VN,zh-CN'


def settings():
    "Sizes, methods and steps, for a teacher of 12 layers of 12 heads, 384 wide, with 1,536 units"
    for method, steps in [('truncate', 1), ('select', 1), ('guide', 1), ('pca', 1), *((m, n) for m in ('subclone', 'minitron', 'taylor') for n in (1, 8))]:
        yield 192, 6, 768, method, steps, False
    for method, steps in [('minitron', 1), ('minitron', 8), ('taylor', 8)]: yield 384, 12, 768, method, steps, False
    for heads, ffn in [(6, 768), (4, 384)]:
        for method in 'minitron', 'taylor':
            for steps, uneven in [(1, False), (8, False), (8, True)]: yield 384, heads, ffn, method, steps, uneven


def narrowed(teacher, sample, hidden, heads, ffn, method, steps, uneven):
    "A narrow model; one that no configuration describes in memory"
    if heads*32 == hidden: return narrow(teacher, hidden, heads, ffn, method, sample, steps)[0]
    return pruned(teacher, prune(teacher, replace(widths_of(teacher.config), heads=heads, kv=heads, ffn=ffn), method, sample, steps, uneven)[0])


def accuracy(model, data, seen):
    "Mean over seen and over unseen languages"
    df = predict(model, data)
    right, known = df.gold == df.predicted, df.language.isin(seen)
    return dict(seen=round(right[known].mean(), 3), unseen=round(right[~known].mean(), 3))


def main(folder, data_dir, out):
    cfg = RunConfig(dataset='massive', languages=LANGUAGES, scenario='cl', teacher_fraction=.25, data_dir=data_dir)
    task, tokenizer = load_data(cfg, 'teacher'), AutoTokenizer.from_pretrained(folder)
    teacher = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    labels, seen = model_labels(teacher), sorted(task.train.language.unique())
    sample = encode(task.train.groupby('language').sample(32, random_state=0), tokenizer, labels)
    test = encode(task.test.groupby('language').head(40), tokenizer, labels)
    have = pd.read_csv(out) if out.exists() else pd.DataFrame([dict(zip(KEY, (384, 12, 1536, 'teacher', 0, False))) | accuracy(teacher, test, seen)])
    for s in settings():
        if (have[KEY] == list(s)).all(axis=1).any(): continue
        row = dict(zip(KEY, s)) | accuracy(narrowed(teacher, sample, *s), test, seen)
        print(row, flush=True)
        have = pd.concat([have, pd.DataFrame([row])], ignore_index=True)
        have.to_csv(out, index=False)


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('teacher')
    p.add_argument('data_dir')
    p.add_argument('--out', type=Path, default=ROOT/'nbs'/'explanations'/'pruning_steps.csv')
    args = p.parse_args()
    main(args.teacher, args.data_dir, args.out)
