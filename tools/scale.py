"""How long folders of many runs take to open, list and compare: synthetic runs with the numbers of the sample study and noise, in folders of their own or compacted.

    python tools/scale.py make FOLDER 10000              # run folders, with the markers and checksums that a run writes
    python tools/scale.py make FOLDER 100000 --compacted # as `privkd compact` leaves them, without predictions, the histories' last steps alone
    python tools/scale.py measure FOLDER                 # seconds to open it, list it, and compare a part of it, each for the first time
"""
import argparse, hashlib, io, json, os, time, warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np, pandas as pd, polars as pl

from privkd_nb.analysis.arms import losses_name
from privkd_nb.analysis.compact import in_order, number_table, partition, write_index, write_part
from privkd_nb.analysis.load import Study
from privkd_nb.analysis.overview import mean_scores, size_row
from privkd_nb.core import content_key
from privkd_nb.record import COMPACT, HISTORY, METRICS

CASES = 18 # Initializations, losses and fractions of the sample
FACTORS = dict(scenario=['all', 'cl', 'en'], seed=5, dataset=20, depth=['stride', 'first', 'last'], epochs=[10, 5, 20]) # The fastest first; then more seeds


def factors(i: int) -> dict:
    "The parameters of run `i` besides those of the sample"
    found, i = {}, i//CASES
    for k, of in FACTORS.items():
        n = of if isinstance(of, int) else len(of)
        found[k], i = (i % n if isinstance(of, int) else of[i % n]), i//n
    return found | dict(seed=found['seed']+FACTORS['seed']*i, dataset=f"task{found['dataset']:02d}")


def plain(df): return df.astype({k: 'str' for k in df if isinstance(df[k].dtype, pd.CategoricalDtype)}).reset_index(drop=True)


class Samples:
    "What the runs of the sample study have written"
    def __init__(self):
        self.study = Study.open('sample')
        cells = {}
        for r, c in self.study.configs.items(): cells.setdefault((c['init'], content_key(c['losses']), c['fraction']), r)
        self.runs = list(cells.values())
        assert len(self.runs) == CASES
        scores, history = (dict(list(t.groupby('run', observed=True))) for t in (self.study.scores, self.study.history))
        self.metrics = {r: plain(scores[r][METRICS]) for r in self.runs}
        self.history = {r: plain(history[r][HISTORY]) for r in self.runs}

    def run(self, i: int) -> str: return self.runs[i % CASES]

    def config(self, i: int) -> dict:
        "The configuration of run `i`"
        c = {k: v for k, v in self.study.configs[self.run(i)].items() if k not in ('teacher_run', 'texts', 'metric')}
        return c | factors(i) | dict(recipe=2)

    def scores(self, i: int) -> pd.DataFrame:
        "The metrics of run `i`, with noise of its own"
        d = self.metrics[self.run(i)]
        return d.assign(value=noisy(d.value.to_numpy(), (d.metric != 'n') & (d.model == 'student'), i))


def noisy(values, where, seed): # Scores stay between 0 and 1
    noise = np.random.default_rng(seed).normal(0, .01, len(values))
    return np.where(where, (values+noise).clip(0, 1), values)


def as_json(x) -> bytes: return (json.dumps(x, indent=1, ensure_ascii=False)+'\n').encode()


def as_parquet(df) -> bytes:
    df.to_parquet(f := io.BytesIO(), index=False)
    return f.getvalue()


def began(i: int) -> str: return time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(1.79e9+i))


def environment(i: int) -> dict:
    "What a run says of its machine and its data, in short"
    return dict(began=began(i), device='cpu', metric='accuracy', train_languages=['de', 'en'], data=dict(train=252, validation=327, test=2688, evaluated=200),
                lr=1e-3, teacher=dict(name='teacher', hash='84b647ba7e0b'), seconds=60)


def marker(files: dict, i: int) -> bytes:
    "As `Run.finish` writes it, without waiting for the disk"
    entries = {k: dict(size=len(v), sha256=hashlib.sha256(v).hexdigest()) for k, v in sorted(files.items())}
    content = dict(finished=began(i+60), files=entries)
    return as_json(content | dict(seal=content_key(content, 16)))


def shared_files(s: Samples, r: str) -> dict:
    "Files that the runs of a case have in common, whatever their seed"
    p = plain(s.study.predictions(r)).assign(split='test')
    tables = dict(history=s.history[r], predictions=p.drop(columns='text'), texts=p[['id', 'language', 'text']].drop_duplicates())
    return {f'{k}.parquet': as_parquet(d) for k, d in tables.items()} | {'init_card.json': as_json(s.study.card(r) | dict(tensors={}))}


def make_runs(folder, n: int) -> Path:
    "`n` run folders"
    s, folder, first = Samples(), Path(folder), {}
    shared = {r: shared_files(s, r) for r in s.runs}
    for i in range(n):
        r, config = s.run(i), s.config(i)
        own = {'config.json': as_json(config), 'environment.json': as_json(environment(i)), 'metrics.parquet': as_parquet(s.scores(i))}
        path = folder/content_key(config)
        path.mkdir(parents=True)
        for name, content in own.items(): (path/name).write_bytes(content)
        for name, content in shared[r].items():                             # one file under many names
            known = first.get((r, name))
            if known and known.stat().st_nlink < 30_000: os.link(known, path/name)
            else: (path/name).write_bytes(content); first[r, name] = path/name
        (path/'done.json').write_bytes(marker(own | shared[r], i))
    return folder


def by_case(s: Samples, frames: dict) -> pl.DataFrame:
    "A table of each case in one, with the column `case`"
    return pl.concat([pl.from_pandas(frames[r]).with_columns(case=pl.lit(c)) for c, r in enumerate(s.runs)])


def stacked(names: list, table: pl.DataFrame) -> pl.DataFrame:
    "The rows that many runs have, from `by_case`"
    return pl.DataFrame(dict(run=names, case=pl.Series(np.arange(len(names)) % CASES, dtype=pl.Int32))).join(table, on='case', maintain_order='left').drop('case')


class Written(NamedTuple):
    "The JSON files of a case; those of its runs differ in the time alone"
    environment: str
    card: dict
    init_card: str
    marker: str


def written(s: Samples, r: str) -> Written:
    card = s.study.card(r) | dict(tensors={})
    return Written(as_json(environment(0)).decode(), card, as_json(card).decode(), marker({'init_card.json': as_json(card)}, 0).decode())


def compacted_tables(s: Samples, ids, cases: list, scores: pl.DataFrame, history: pl.DataFrame) -> dict:
    "The tables of one part; `ids` are whole rounds of the cases"
    rows = []
    for i in ids:
        config, w = s.config(i), cases[i % CASES]
        rows.append(dict(run=content_key(config), init=config['init'], losses=losses_name(config['losses']), fraction=config['fraction'], seed=config['seed'],
            config=json.dumps({k: v for k, v in config.items() if k != 'seed'}), metric='accuracy', **size_row(w.card), began=began(i), done='0'*64,
            points=1, texts=None, teacher=None, model_mb=6., environment=w.environment.replace(began(0), began(i)), init_card=w.init_card, marker=w.marker))
    names = [r['run'] for r in rows]
    scores = stacked(names, scores)
    student = ((scores['metric'] != 'n') & (scores['model'] == 'student')).to_numpy()
    scores = scores.with_columns(value=pl.Series(noisy(scores['value'].to_numpy(), student, ids[0])))
    means = mean_scores(scores, {n: 'accuracy' for n in names}).rename(dict(texts='texts_only')).drop('metric')
    runs = pl.DataFrame(rows, infer_schema_length=None, schema_overrides=dict(texts=pl.String, teacher=pl.String)).join(means, on='run').sort('init', 'losses', 'fraction', 'seed', 'run')
    return dict(runs=runs, scores=in_order(number_table(scores), runs), history=in_order(number_table(stacked(names, history)), runs))


def make_compacted(folder, n: int, most: int = 2000) -> Path:
    "`n` runs, compacted: parts of at most `most` runs"
    s, root, parts, files, groups = Samples(), Path(folder)/COMPACT, [], {}, {}
    last = {r: h[(h.split == 'validation') & (h.step == h.step.max())] for r, h in s.history.items()}
    cases, tables = [written(s, r) for r in s.runs], [by_case(s, t) for t in (s.metrics, last)]
    for i in range(0, n, CASES):
        f = factors(i)
        groups.setdefault((f['dataset'], f['scenario']), []).extend(range(i, min(i+CASES, n)))
    for where, ids in groups.items():
        for k in range(0, len(ids), size := most//CASES*CASES):
            part, entries = write_part(root, partition(*where), compacted_tables(s, ids[k:k+size], cases, *tables))
            parts.append(part); files |= entries
    write_index(root, parts, files)
    return Path(folder)


def measure(folder, report=print) -> dict:
    "Seconds of work, each done for the first time in this process"
    from privkd_nb.analysis.compare import by_language, differences, overall
    from privkd_nb.analysis.overview import list_runs
    taken = {}
    def timed(what, work):
        start = time.perf_counter(), time.process_time()
        found = work()
        taken[what] = wall, cpu = time.perf_counter()-start[0], time.process_time()-start[1]
        report(f'{what:40}{wall:8.2f} s, of the processor {cpu:6.2f} s')
        return found
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        study = timed('open', lambda: Study.open(folder))
        report(f'{len(study):,} runs of {len(study.arms)} arms')
        place = study.about.select('dataset', 'scenario', 'fraction').row(0, named=True)
        part = timed(f"choose {', '.join(map(str, place.values()))}", lambda: study.choose(**place))
        timed(f'its scores ({len(part):,} runs)', lambda: part.scores)
        timed('overall', lambda: overall(part.scores))
        timed('by_language', lambda: by_language(part.scores))
        timed('differences', lambda: differences(part.scores, part.arms[0]))
        timed('list', lambda: list_runs(folder))
    return taken


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('what', choices=['make', 'measure'])
    parser.add_argument('folder')
    parser.add_argument('n', type=int, nargs='?', default=10_000)
    parser.add_argument('--compacted', action='store_true')
    a = parser.parse_args()
    measure(a.folder) if a.what == 'measure' else (make_compacted if a.compacted else make_runs)(a.folder, a.n)
