"""Measure how often every test of a comparison claims what is not so, and how often its intervals hold the truth.

    python tools/error_rates.py [--studies 2000] [--minutes 4] [--out nbs/explanations/error_rates.csv]

Designs that the table has already are left out, so a run that was ended goes on where it stopped: repeat the command until it prints 'complete'.
"""
import argparse, time
from itertools import product
from pathlib import Path

import pandas as pd

from privkd_nb.analysis.coverage import Design, Texts
from privkd_nb.analysis.error_rates import comparison_coverage, false_claims, false_claims_from_one_run, false_claims_over_texts

ROOT = Path(__file__).resolve().parent.parent
SEEDS = (3, 5, 10)
MOVES = dict(together=dict(together=.15, own=.1), apart=dict(together=0., own=.15))
KEY = ['question', 'arms', 'metric', 'moves', 'languages', 'seeds', 'texts', 'effect']


def jobs(studies):
    "Keys of rows that are computed together, and what computes them"
    for n, arms, (mv, scatter), metric in product(SEEDS, ('paired', 'unpaired'), MOVES.items(), ('accuracy', 'f1')):
        if metric == 'f1' and arms == 'unpaired': continue
        d = Design(seeds=n, languages=12, texts=100, arms=arms, metric=metric, **scatter)
        key = dict(arms=arms, metric=metric, moves=mv, languages=12, seeds=n, texts=100)
        yield dict(question='false claim, seeds') | key | dict(effect=0.), lambda: false_claims(d, studies)
        for effect in (0., .15, .45):
            yield dict(question='coverage') | key | dict(effect=effect), lambda: comparison_coverage(d._replace(effect=effect), studies)
    for n, metric, shared in product((60, 200), ('accuracy', 'f1'), (True, False)):
        key = dict(arms='two models', metric=metric, moves='translations' if shared else 'apart', languages=6, seeds=1, texts=n, effect=0.)
        def over_texts():                                                   # behind by a point in accuracy is no point of F1
            found = false_claims_over_texts(Texts(n, 6, shared, metric), studies//4)
            return {k: v for k, v in found.items() if metric == 'accuracy' or 'swap' in k}
        yield dict(question='false claim, texts') | key, over_texts
    for n in (200, 1000, 3000):
        key = dict(arms='two recipes', metric='accuracy', moves='together', languages=1, seeds=1, texts=n, effect=0.)
        yield dict(question='false claim, recipes') | key, lambda: {'McNemar of one run each': false_claims_from_one_run(Design(texts=n), studies)}


def main(studies, minutes, out):
    table = pd.read_csv(out) if out.exists() else pd.DataFrame(columns=[*KEY, 'what', 'rate', 'studies'])
    done, rows, start = set(table[KEY].astype(str).apply(tuple, axis=1)) if len(table) else set(), [], time.time()
    def save(): pd.concat([table, pd.DataFrame(rows)], ignore_index=True).round(dict(rate=4)).to_csv(out, index=False, lineterminator='\n')
    for key, compute in jobs(studies):
        if tuple(map(str, key.values())) in done: continue
        if time.time()-start > 60*minutes:
            save()
            return print(f'{len(table)+len(rows)} rows so far: repeat to go on')
        made = studies//4 if key['question'] == 'false claim, texts' else studies
        rows += [key | dict(what=k, rate=v, studies=made) for k, v in compute().items()]
    save()
    print(f'complete: {len(table)+len(rows)} rows')


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--studies', type=int, default=2000, help='simulated studies a row; a quarter of it over texts')
    parser.add_argument('--minutes', type=float, default=4, help='a job ends after about so many')
    parser.add_argument('--out', type=Path, default=ROOT/'nbs/explanations/error_rates.csv', help='the table')
    a = parser.parse_args()
    main(a.studies, a.minutes, a.out)
