"""What the model cards of the paper's authors say of the same comparisons, as `authors.csv`.

    python authors.py CARDS.csv

CARDS.csv has a row a revision of a card of the first author's repositories on the hub (haryoaw/scenario-...), with the columns dataset, train_languages,
train_fraction, backbone, student_hidden, learning_rate, kd (yes or no), init (scr, pr, po), f1_final and notes. A cell is the mean of its
repositories, each of which is one run, without those that collapsed to one label; cards without a known width are left out. A difference is
taken between cells that agree in everything but what is compared.
"""
import sys
import pandas as pd

SAME = ['dataset', 'train_languages', 'backbone', 'student_hidden', 'learning_rate']
STARTS = dict(po='copy_ft', pr='copy_base', scr='scratch')
COLLAPSED = dict(MASSIVE=5, TSM=17, UNER=5)     # F1 in points up to which a student says one label of everything


def cells(cards):
    "The mean F1 of each cell, in points, and the number of its runs"
    c = cards.assign(f1=100*pd.to_numeric(cards.f1_final, errors='coerce'))
    c = c[c.f1.notna() & c.init.isin(STARTS) & c.kd.isin(['yes', 'no']) & (c.train_fraction == '100%') & c.student_hidden.notna()]
    c = c.assign(student_hidden=c.student_hidden.astype(int), scenario=c.train_languages.str.split('(').str[0].str.lower())
    runs = c.groupby([*SAME, 'scenario', 'kd', 'init', 'model']).f1.mean().reset_index()
    runs['collapsed'] = runs.f1 <= runs.dataset.map(COLLAPSED)
    t = runs.groupby([*SAME, 'scenario', 'kd', 'init'])
    return pd.DataFrame(dict(f1=runs[~runs.collapsed].groupby([*SAME, 'scenario', 'kd', 'init']).f1.mean(), runs=t.size(), collapsed=t.collapsed.sum())).reset_index()


def pairs(t):
    "Differences between cells that agree in all else"
    for keys,g in t.groupby([*SAME, 'scenario']):
        v = {(r.kd, r.init): r for r in g.itertuples()}
        asked = [(f'{STARTS[a]} over {STARTS[b]}', kd, (kd, a), (kd, b)) for kd in ('no', 'yes') for a,b in (('po', 'scr'), ('pr', 'scr'), ('po', 'pr'))]
        asked += [('distillation', STARTS[i], ('yes', i), ('no', i)) for i in STARTS]
        for what,given,a,b in asked:
            if a in v and b in v:
                yield dict(zip(['dataset', 'train_languages', 'backbone', 'width', 'lr'], keys[:5])) | dict(scenario=keys[5], comparison=what, given=given,
                    difference=round(v[a].f1-v[b].f1, 2), runs_a=v[a].runs, runs_b=v[b].runs, collapsed=v[a].collapsed+v[b].collapsed)


if __name__ == '__main__':
    found = pd.DataFrame(pairs(cells(pd.read_csv(sys.argv[1]))))
    found['given'] = found.given.replace(dict(no='without distillation', yes='with distillation'))
    found.sort_values(['comparison', 'given', 'dataset', 'scenario']).to_csv('authors.csv', index=False)
    print(found.to_string())
