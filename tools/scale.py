"""How long a store of many runs takes to open, list and compare: synthetic runs with the numbers of the sample study, jittered, in folders of their own or compacted.

    python tools/scale.py make FOLDER 10000            # run folders, with markers and checksums as a run writes them
    python tools/scale.py make FOLDER 100000 --compact # the same runs, written directly as `privkd compact` leaves them
    python tools/scale.py measure FOLDER               # seconds to open, list, choose and compare, in a process of its own
"""
import argparse, hashlib, io, json, os, time
from pathlib import Path

import numpy as np, pandas as pd

from privkd_nb.analysis.load import Study
from privkd_nb.core import content_key
from privkd_nb.record import HISTORY, METRICS

CASES = 18 # Inits, losses and fractions of the sample
FACTORS = dict(seed=5, scenario=['all', 'cl', 'en'], dataset=20, depth=['stride', 'first', 'last'], epochs=[10, 5, 20]) # The fastest first; then further seeds


def factors(i: int) -> dict:
    "The parameters of run `i` besides those of the sample"
    found, i = {}, i//CASES
    for k, of in FACTORS.items():
        n = of if isinstance(of, int) else len(of)
        found[k], i = (i % n if isinstance(of, int) else of[i % n]), i//n
    return found | dict(seed=found['seed']+FACTORS['seed']*i, dataset=f"task{found['dataset']:02d}")


class Samples:
    "What the runs of the sample study have written, as bytes where runs share it"
    def __init__(self, history_points=None):
        study = Study.open('sample')
        cells = {}
        for r, c in study.configs.items(): cells.setdefault((c['init'], content_key(c['losses']), c['fraction']), r)
        self.runs, self.study = list(cells.values()), study
        assert len(self.runs) == CASES
        scores, history = (dict(list(t.groupby('run', observed=True))) for t in (study.scores, study.history))
        self.metrics = {r: plain(scores[r][METRICS]) for r in self.runs}
        self.history = {r: plain(history[r][HISTORY]) for r in self.runs}
        self.files = {r: self._files(r) for r in self.runs}

    def _files(self, r):
        p = plain(self.study.predictions(r)).assign(split='test')
        tables = dict(history=self.history[r], predictions=p.drop(columns='text'), texts=p[['id', 'language', 'text']].drop_duplicates())
        return {f'{k}.parquet': as_parquet(d) for k, d in tables.items()} | {'init_card.json': as_json(self.study.card(r))}

    def config(self, i: int) -> dict:
        "The configuration of run `i`"
        c = {k: v for k, v in self.study.configs[self.runs[i % CASES]].items() if k not in ('teacher_run', 'texts', 'metric')}
        return c | factors(i) | dict(recipe=2)

    def scores(self, i: int) -> pd.DataFrame:
        "The metrics of run `i`, with noise of its own"
        d = self.metrics[self.runs[i % CASES]]
        noise = np.random.default_rng(i).normal(0, .01, len(d))*((d.metric != 'n') & (d.model == 'student'))
        return d.assign(value=(d.value+noise).where(d.metric == 'n', (d.value+noise).clip(0, 1)))


def plain(df): return df.astype({k: 'str' for k in df if isinstance(df[k].dtype, pd.CategoricalDtype)}).reset_index(drop=True)

def as_json(x) -> bytes: return (json.dumps(x, indent=1, ensure_ascii=False)+'\n').encode()

def as_parquet(df) -> bytes:
    f = io.BytesIO()
    df.to_parquet(f, index=False)
    return f.getvalue()


def make_runs(folder, n: int) -> Path:
    "`n` run folders, each with the marker that a finished run writes, but without waiting for the disk"
    s, folder, shared = Samples(), Path(folder), {}
    for i in range(n):
        r, config = s.runs[i % CASES], s.config(i)
        env = dict(began=began(i), metric='accuracy', train_languages=['de', 'en'], teacher=dict(name='teacher', hash=config['dataset']))
        own = {'config.json': as_json(config), 'environment.json': as_json(env), 'metrics.parquet': as_parquet(s.scores(i))}
        path = folder/content_key(config)
        path.mkdir(parents=True)
        for name, content in own.items(): (path/name).write_bytes(content)
        for name, content in s.files[r].items():                                    # many names for one file
            if (r, name) in shared: os.link(shared[r, name], path/name)
            else: (path/name).write_bytes(content); shared[r, name] = path/name
            if shared[r, name].stat().st_nlink > 30_000: del shared[r, name]
        entries = {k: dict(size=len(v), sha256=hashlib.sha256(v).hexdigest()) for k, v in sorted((own | s.files[r]).items())}
        marker = dict(finished=began(i+60), files=entries)
        (path/'done.json').write_bytes(as_json(marker | dict(seal=content_key(marker, 16))))
    return folder


def began(i: int) -> str: return time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(1.79e9+i))


if __name__ == '__main__':
    import sys
    t = time.time(); make_runs(sys.argv[2], int(sys.argv[3])); print(time.time()-t)
