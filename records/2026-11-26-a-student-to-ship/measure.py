"Latency and throughput of a student as it is shipped against its fp32 teacher in transformers.pipeline, in turns, in one process each way"
import argparse, json, os, sys, time
import numpy as np, pandas as pd
p = argparse.ArgumentParser()
p.add_argument('teacher'); p.add_argument('export'); p.add_argument('data', help='test.parquet with text and language')
p.add_argument('--languages', required=True); p.add_argument('--per_language', type=int, default=32); p.add_argument('--rounds', type=int, default=5)
p.add_argument('--threads', type=int, default=1); p.add_argument('--out', default='speed.json')
a = p.parse_args()
os.environ['OMP_NUM_THREADS'] = str(a.threads)
d = pd.read_parquet(a.data, columns=['id', 'text', 'language'])
d = d[d.language.isin(a.languages.split(','))]
texts = [t for _,g in d.groupby('language') for t in g.text.sample(a.per_language, random_state=0)]
import torch
torch.set_num_threads(a.threads)
from transformers import pipeline
from privkd_nb import Student
teacher = pipeline('text-classification', model=a.teacher, device='cpu')
student = Student(a.export, threads=a.threads)
def per_text(f, xs):
    out = []
    for x in xs:
        s, c = time.perf_counter(), time.process_time(); f(x); out.append((time.perf_counter()-s, time.process_time()-c))
    return np.median(out, axis=0)
def rate(f, xs):
    s, c = time.perf_counter(), time.process_time(); f(xs); return len(xs)/(time.perf_counter()-s), len(xs)/(time.process_time()-c)
teacher(texts[:8]); student(texts[:8])
rows = []
for r in range(a.rounds):                         # in turns, so that whatever else the machine does hits both
    sub = [texts[i] for i in np.random.default_rng(r).permutation(len(texts))[:40]]
    one = dict(teacher=per_text(teacher, sub), student=per_text(lambda t: student([t]), sub))
    many = dict(teacher=rate(lambda xs: teacher(xs, batch_size=64), texts), student=rate(student, texts))
    rows += [dict(round=r, model=m, ms=1000*one[m][0], cpu_ms=1000*one[m][1], texts_per_second=many[m][0], texts_per_cpu_second=many[m][1]) for m in one]
f = pd.DataFrame(rows)
m = f.groupby('model').median(numeric_only=True)
ratios = {'latency': [float(t.ms/s.ms) for t,s in zip(f[f.model=='teacher'].itertuples(), f[f.model=='student'].itertuples())],
          'throughput': [float(s.texts_per_second/t.texts_per_second) for t,s in zip(f[f.model=='teacher'].itertuples(), f[f.model=='student'].itertuples())],
          'cpu_latency': [float(t.cpu_ms/s.cpu_ms) for t,s in zip(f[f.model=='teacher'].itertuples(), f[f.model=='student'].itertuples())],
          'cpu_throughput': [float(s.texts_per_cpu_second/t.texts_per_cpu_second) for t,s in zip(f[f.model=='teacher'].itertuples(), f[f.model=='student'].itertuples())]}
print(m.round(2)); print({k: (round(min(v),1), round(float(np.median(v)),1), round(max(v),1)) for k,v in ratios.items()})
f.to_csv(a.out.replace('.json','.csv'), index=False)
