"""Measure how often every interval of the package holds the truth, over the whole grid of simulated studies.

    python tools/coverage.py [--studies 2000] [--minutes 4] [--out nbs/explanations/coverage.csv]

Designs that the table has already are left out, so a run that was ended goes on where it stopped: repeat the command until it prints 'complete'.
"""
import argparse, time
from itertools import product
from pathlib import Path

import pandas as pd

from privkd_nb.analysis.coverage import Design, Texts, coverage, text_coverage, true_value

ROOT = Path(__file__).resolve().parent.parent
SEEDS = (2, 3, 5, 10)
MOVES = dict(together=dict(together=.15, own=.1), apart=dict(together=0., own=.15))
OVER_SEEDS = ('bootstrap', 'whole_seeds', 't', 'bootstrap_t', 'bca')
FEW = ('bootstrap', 'whole_seeds', 't')
KEY = ['question', 'method', 'statistic', 'metric', 'moves', 'languages', 'seeds', 'texts']


def designs():
    "question, scatter, design, statistic, methods: the grid"
    def rows(question, methods, statistic='mean', languages=(3, 12), moves=MOVES, metrics=('accuracy', 'f1'), **kw):
        for n, l, mv, metric in product(SEEDS, languages, moves, metrics):
            d = Design(seeds=n, languages=l, metric=metric, **MOVES[mv], **kw)
            yield question, mv, d, statistic, methods
    yield from rows('one arm', OVER_SEEDS)
    yield from rows('one arm, one language', OVER_SEEDS, languages=(1,), moves=['together'])
    yield from rows('one arm', FEW, 'iqm', languages=(12,))
    small = dict(texts=100)
    yield from rows('paired arms, alike', FEW, languages=(12,), arms='paired', **small)
    yield from rows('paired arms, alike, one language', FEW, languages=(1,), moves=['together'], arms='paired', **small)
    yield from rows('paired arms, apart', FEW, languages=(12,), moves=['together'], metrics=['accuracy'], arms='paired', effect=.15, **small)
    yield from rows('unpaired arms, alike', ('t',), languages=(12,), moves=['together'], metrics=['accuracy'], arms='unpaired', **small)
    for q,arms in (('one arm', 'one'), ('paired arms', 'paired')):
        yield from rows(f'{q}, languages a sample', ('t', 'crossed', 'both'), moves=['together'], metrics=['accuracy'], arms=arms, sampled=True, **small)
    yield from rows('one arm, one seed in ten collapses', FEW, languages=(12,), moves=['together'], metrics=['accuracy'], collapse=True, **small)


def text_designs():
    "Test sets: shared or not, drawn together or not"
    for n, l, metric, shared in product((20, 50, 200), (1, 6), ('accuracy', 'f1'), (True, False)):
        if l == 1 and shared: continue
        for together in (True, False)[:l]: yield Texts(n, l, shared, metric), together


def jobs(studies):
    "Keys of rows that are computed together, and what computes them"
    for q, mv, d, stat, methods in designs():
        key = dict(statistic=stat, metric=d.metric, moves=mv, languages=d.languages, seeds=d.seeds, texts=d.texts)
        yield [dict(question=q, method=m) | key for m in methods], lambda: list(coverage(d, methods, stat, studies, truth=truth(d, stat)).values())
    for d, together in text_designs():
        key = dict(question='two students, new texts', method='ids together' if together else 'texts apart', statistic='mean', metric=d.metric,
                   moves='translations' if d.shared else 'apart', languages=d.languages, seeds=1, texts=d.texts)
        yield [key], lambda: [text_coverage(d, together, studies, reps=400)]


TRUTHS = {}
def truth(d, stat):
    "Zero where two arms are alike, else simulated once for all numbers of seeds"
    if d.arms != 'one' and not d.effect: return 0.
    k = (d._replace(seeds=1), stat)
    if k not in TRUTHS: TRUTHS[k] = true_value(d, stat, rows=30_000)
    return TRUTHS[k]


def main(studies, minutes, out):
    table = pd.read_csv(out) if out.exists() else pd.DataFrame(columns=[*KEY, 'coverage', 'width', 'studies'])
    done, rows, start = set(table[KEY].astype(str).apply(tuple, axis=1)) if len(table) else set(), [], time.time()
    def save(): pd.concat([table, pd.DataFrame(rows)], ignore_index=True).round(dict(coverage=4, width=5)).to_csv(out, index=False, lineterminator='\n')
    for keys, compute in jobs(studies):
        if all(tuple(map(str, k.values())) in done for k in keys): continue
        if time.time()-start > 60*minutes:
            save()
            return print(f'{len(table)+len(rows)} rows so far: repeat to go on')
        rows += [k | held._asdict() for k, held in zip(keys, compute())]
    save()
    print(f'complete: {len(table)+len(rows)} rows')


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--studies', type=int, default=2000, help='simulated studies a row')
    parser.add_argument('--minutes', type=float, default=4, help='a job ends after about so many')
    parser.add_argument('--out', type=Path, default=ROOT/'nbs/explanations/coverage.csv', help='the table')
    a = parser.parse_args()
    main(a.studies, a.minutes, a.out)
