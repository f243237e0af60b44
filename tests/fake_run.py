"A run that is written by hand, for what watches runs"
import math

import numpy as np

from privkd_nb.core import write_json
from privkd_nb.record import History, Run, StatusFile


class FakeRun(Run):
    "Seven terms that fall, with one outlier; scores of some languages, the first two of them unseen"
    def __init__(self, path, languages=4, steps=300):
        super().__init__(path)
        self.languages, self.steps = [f'l{i:02d}' for i in range(languages)], steps
        write_json(self.path/'environment.json', dict(metric='accuracy', train_languages=self.languages[2:]))
        self.status, self.rows, self.rng = StatusFile(self.path, every=0), History(self.path/'history.jsonl'), np.random.default_rng(0)

    def train(self, first, last):
        sizes = dict(ce=3, logits=40, kl=.4, hidden=1.2, embedding=.1, attention=.02)
        for s in range(first, last+1):
            v = {k: a*math.exp(-s/150)*math.exp(.2*self.rng.normal()) for k, a in sizes.items()}
            if s == 20: v['ce'] = 1e-9
            self.rows.add(s, dict(loss=sum(v.values()), **v, learning_rate=1e-3*(1-s/(self.steps+1))))
        self.status.step(last, self.steps)

    def score(self, step, split, low=.2, high=.8):
        self.rows.add(step, dict(accuracy=(low+high)/2), split)
        for i, l in enumerate(self.languages): self.rows.add(step, dict(accuracy=low+(high-low)*i/len(self.languages)), split, l, 'language')
