"""Lexical distance to English, from translations of the same sentences: recompute the table of `nbs/api/analysis/24_facts.ipynb`.

    python tools/language_facts.py ../shared/data          # print it
    python tools/language_facts.py ../shared/data --check  # compare it with the package's

Two sentences share letters by chance, more so in languages with short words. So the overlap of a sentence with its translation is
compared with its overlap with other sentences: 0 for English itself, 1 where a translation shares no more than any other sentence.
Letters of other scripts are romanized by anyascii (`pip install anyascii`, made with 0.3.3).
"""
import re, sys, unicodedata
from pathlib import Path

import numpy as np, pandas as pd


def trigrams(text):
    "The sets of three letters of a sentence, romanized, with its word boundaries"
    from anyascii import anyascii
    t = ' '+re.sub('[^a-z]+', ' ', anyascii(unicodedata.normalize('NFC', text)).lower()).strip()+' '
    return {t[i:i+3] for i in range(len(t)-2)}


def dice(a, b): return 2*len(a & b)/max(len(a)+len(b), 1)


def distance(texts, english, rng, shuffles=3):
    "How little the translations have in common, relative to other sentences"
    pairs = [i for _ in range(shuffles) for i in enumerate(rng.permutation(len(english)))]
    same, other = np.mean([dice(*p) for p in zip(texts, english)]), np.mean([dice(texts[i], english[j]) for i, j in pairs])
    return float((1-same)/(1-other))


def massive_distances(folder, every=1, languages=None):
    "By locale, over the training utterances of MASSIVE"
    d = pd.read_parquet(Path(folder)/'massive'/'train.parquet', columns=['id', 'text', 'language'])
    d = d[d.id.isin(sorted(d.id.unique())[::every])].sort_values(['language', 'id'])
    chosen = {'en-US', *(languages or d.language.unique())}
    grams = {l: [trigrams(t) for t in g.text] for l, g in d[d.language.isin(chosen)].groupby('language')}
    return {l: distance(g, grams['en-US'], np.random.default_rng(0)) for l, g in grams.items()}


def other_distances(folder, massive):
    "Of hr, sk and sr, which MASSIVE lacks: over news and encyclopaedia, by the line that fits the languages that both have"
    d, found = pd.read_parquet(Path(folder)/'text'/'sentences.parquet'), {}
    for source, wanted in dict(sib200=['hr', 'sk'], ntrex=['sr']).items():
        texts = {l: g.text.tolist() for l, g in d[d.source == source].groupby('language')}
        texts = {l: [trigrams(t) for t in v] for l, v in texts.items() if len(v) == len(texts['en'])}      # others lack a sentence
        here = {l: distance(v, texts['en'], np.random.default_rng(0)) for l, v in texts.items()}
        both = [(here[l], massive[m]) for m in massive for l in [m.split('-')[0]] if l in here and l not in ('en', 'zh')]
        slope, start = np.polyfit(*np.transpose(both), 1)
        print(f'{source}: {len(both)} languages in both, r = {np.corrcoef(*np.transpose(both))[0, 1]:.2f}', file=sys.stderr)
        found |= {l: start+slope*here[l] for l in wanted}
    return found


def as_table(distances, width=130):
    "Lines of a code and its distance"
    lines = ['']
    for item in (f'{l} {v:.3f}'.replace(' 0.', ' .') for l, v in sorted(distances.items())):
        if len(lines[-1])+len(item)+2 > width: lines.append('')
        lines[-1] += (', ' if lines[-1] else '')+item
    return ',\n'.join(lines)


if __name__ == '__main__':
    massive = massive_distances(sys.argv[1])
    found = massive | other_distances(sys.argv[1], massive)
    if '--check' not in sys.argv: print(as_table(found))
    else:
        from privkd_nb.analysis.facts import LEXICAL
        off = {l: (v, LEXICAL.get(l)) for l, v in found.items() if l not in LEXICAL or abs(v-LEXICAL[l]) > 5e-4}
        print(f'{len(found)} languages, {len(off)} differ: {off}' if off else f'{len(found)} languages agree')
        sys.exit(bool(off))
