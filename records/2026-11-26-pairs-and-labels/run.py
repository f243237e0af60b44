"""Train the runs of this record: for each data set one teacher, and students with the paper's losses and with gold labels alone, of three seeds.

    python run.py DATA BASE OUT      # DATA from make_data.py, BASE a pretrained encoder
"""
import sys

from privkd_nb.jobs.config import RunConfig
from privkd_nb.jobs.distil import distil

SETTINGS = dict(types=dict(lr=5e-4, teacher_epochs=4, fraction=.25, epochs=6), pairs=dict(lr=4e-4, teacher_epochs=3, fraction=.05, epochs=6))

if __name__ == '__main__':
    data, base, out, *names = sys.argv[1:]
    for name in names or SETTINGS:
        for seed in range(3):
            for losses in ('paper', 'ce'):
                distil(RunConfig(dataset=f'{data}/{name}', base=base, losses=losses, seed=seed, out_dir=f'{out}/{name}', **SETTINGS[name]))
