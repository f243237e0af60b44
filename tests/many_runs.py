"A folder of as many finished runs as wanted, with the numbers of the sample study; for tests of reading and of speed."
import json
from pathlib import Path

from privkd_nb.analysis.load import Study
from privkd_nb.core import content_key
from privkd_nb.record import HISTORY, METRICS


def make_runs(folder, n: int) -> Path:
    "`n` run folders under `folder`: the sample's runs, again and again under further seeds"
    study = Study.open('sample')
    scores, history = study.scores.groupby('run', observed=True), study.history.groupby('run', observed=True)
    runs, seeds = list(study.configs), 1+max(c['seed'] for c in study.configs.values())
    for i in range(n):
        r = runs[i % len(runs)]
        config = {k: v for k, v in study.configs[r].items() if k not in ('teacher_run', 'texts', 'metric')} | dict(seed=study.configs[r]['seed']+seeds*(i//len(runs)))
        path = Path(folder)/content_key(config)
        path.mkdir(parents=True)
        (path/'config.json').write_text(json.dumps(config))
        (path/'environment.json').write_text(json.dumps(dict(metric=study.configs[r]['metric'], teacher=dict(hash='x'))))
        (path/'init_card.json').write_text(json.dumps(study.card(r)))
        scores.get_group(r)[METRICS].to_parquet(path/'metrics.parquet', index=False)
        history.get_group(r)[HISTORY].to_parquet(path/'history.parquet', index=False)
        p = study.predictions(r).assign(split='test')
        p[['id', 'language', 'text']].drop_duplicates().to_parquet(path/'texts.parquet', index=False)
        p.drop(columns='text').to_parquet(path/'predictions.parquet', index=False)
        (path/'done.json').write_text('{}')
    return Path(folder)
