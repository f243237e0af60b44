"Folders of as many finished runs as wanted, with the numbers of the sample study; for tests of reading and of speed."
import json, shutil
from pathlib import Path

import pandas as pd

from privkd_nb.analysis.load import Study
from privkd_nb.core import content_key
from privkd_nb.record import HISTORY, METRICS


def widened(frame, codes):
    "The rows of each language once for each of its new codes"
    if not len(codes): return frame
    langs = sorted(set(frame.language)-{''})
    more = [frame[frame.language == langs[i % len(langs)]].assign(language=c) for i, c in enumerate(codes)]
    return pd.concat([frame[frame.language == ''], *more], ignore_index=True)


def make_runs(folder, n: int, codes=()) -> Path:
    "`n` run folders under `folder`: the sample's runs, again and again under further seeds; with `codes`, scores in so many languages"
    study = Study.open('sample')
    scores, history = study.scores.groupby('run', observed=True), study.history.groupby('run', observed=True)
    runs, seeds, first = list(study.configs), 1+max(c['seed'] for c in study.configs.values()), {}
    for i in range(n):
        r = runs[i % len(runs)]
        config = {k: v for k, v in study.configs[r].items() if k not in ('teacher_run', 'texts', 'metric')} | dict(seed=study.configs[r]['seed']+seeds*(i//len(runs)))
        path = Path(folder)/content_key(config)
        if r in first: shutil.copytree(first[r], path)
        else:
            path.mkdir(parents=True)
            widened(scores.get_group(r)[METRICS], codes).to_parquet(path/'metrics.parquet', index=False)
            widened(history.get_group(r)[HISTORY], codes).to_parquet(path/'history.parquet', index=False)
            p = study.predictions(r).assign(split='test')
            p[['id', 'language', 'text']].drop_duplicates().to_parquet(path/'texts.parquet', index=False)
            p.drop(columns='text').to_parquet(path/'predictions.parquet', index=False)
            (path/'environment.json').write_text(json.dumps(dict(metric=study.configs[r]['metric'], teacher=dict(hash='x'))))
            (path/'init_card.json').write_text(json.dumps(study.card(r)))
            (path/'done.json').write_text('{}')
        first.setdefault(r, path)
        (path/'config.json').write_text(json.dumps(config))
    return Path(folder)


def many_scores(n: int, codes=()) -> Study:
    "A study in memory with the scores and histories of `make_runs`, for tests that are not about reading"
    sample = Study.open('sample')
    runs, seeds = list(sample.configs), 1+max(c['seed'] for c in sample.configs.values())
    study = Study(sample.path, {}, {}, packed=True)
    parts = dict(scores=[], history=[])
    per_run = {k: dict(list(widened(getattr(sample, k), codes).groupby('run', observed=True))) for k in parts}
    for i in range(n):
        r, again = runs[i % len(runs)], i//len(runs)
        study.configs[f'{r}-{again}'] = sample.configs[r] | dict(seed=sample.configs[r]['seed']+seeds*again)
        for k in parts: parts[k].append(per_run[k][r].assign(run=f'{r}-{again}', seed=per_run[k][r].seed+seeds*again))
    for k, frames in parts.items(): setattr(study, k, pd.concat(frames, ignore_index=True))
    return study
