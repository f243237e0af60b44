"""Make the two data sets of this record from local copies of UNER and MASSIVE.

    python make_data.py DATA OUT      # DATA holds the folders uner and massive
"""
import sys
from pathlib import Path

import pandas as pd

from privkd_nb.data.catalog import CATALOG
from privkd_nb.data.playground import same_label_pairs
from privkd_nb.data.sources import read_split
from privkd_nb.data.subsets import few_rows

LOCALES = 'de-DE en-US es-ES hi-IN ru-RU sw-KE th-TH zh-CN'.split()


def entity_types(split, n, data):
    "UNER's sentences with the types of entities that occur in them; at most `n` a language"
    info = CATALOG['uner']
    df = few_rows(read_split('uner', split, info.languages, data), n)
    types = df.ner_tags.map(lambda tags: sorted({t[2:] for t in tags if t != 'O'}))
    return pd.DataFrame(dict(id=df.id, text=df.tokens.map(' '.join), labels=types, language=df.language))


def same_intent(split, n, data):
    "Pairs of MASSIVE's utterances: the same `n` sentences in every locale; training pairs differ from locale to locale"
    df = read_split('massive', split, LOCALES, data)
    en = df[df.language == 'en-US']
    ids = few_rows(en, n).id if split != 'train' else en.id
    rows = df[df.id.isin(ids)].to_dict('records')
    if split != 'train': return pd.DataFrame(same_label_pairs(rows))
    parts = [few_rows(df[df.language == l], n, seed).to_dict('records') for seed, l in enumerate(LOCALES)]
    return pd.DataFrame([p for seed, part in enumerate(parts) for p in same_label_pairs(part, seed=seed)])


if __name__ == '__main__':
    data, out = map(Path, sys.argv[1:])
    for name, make, sizes in (('types', entity_types, (200, 60, 100)), ('pairs', same_intent, (600, 40, 80))):
        (out/name).mkdir(parents=True, exist_ok=True)
        for split, n in zip(('train', 'validation', 'test'), sizes): make(split, n, data).to_parquet(out/name/f'{split}.parquet', index=False)
