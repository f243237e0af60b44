"""The pictures of the landing page, drawn from the study that comes with the package.

    python tools/pictures.py [--out nbs/images]

Drawing needs kaleido (`pip install kaleido`) and a Chrome or Chromium, which kaleido finds on the path or by `BROWSER_PATH`.
"""
import argparse
from pathlib import Path

from privkd_nb.analysis.load import Study
from privkd_nb.analysis.compare import choose, overall
from privkd_nb.figures.comparisons import fraction_figure
from privkd_nb.figures.save import save_figure

ROOT = Path(__file__).resolve().parent.parent


def fraction():
    "Score against the share of the data, all languages"
    scores = choose(Study.open('sample').scores, scenario='all')
    teacher = scores.query("model == 'teacher' and group == 'all' and metric == 'accuracy'").value.mean()
    fig = fraction_figure(overall(scores), teacher=teacher)
    fig.for_each_annotation(lambda a: a.update(text=''), selector=dict(text='all languages'))
    return fig.update_layout(height=420, margin_t=105, legend_y=1-58/420, paper_bgcolor='white', plot_bgcolor='white')


PICTURES = {'fraction.svg': fraction}

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, default=ROOT/'nbs/images', help='folder')
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items(): save_figure(draw(), out/name, width=900)
