"""The pictures of the landing page, drawn from a study on real data in `records`: for README as SVG, for the site the figure's data, which it draws
in the reader's colours and width; and the card that other sites show of a link.

    python tools/pictures.py [--out nbs/images]

Drawing needs kaleido and pillow (`pip install kaleido pillow`) and a Chrome or Chromium, which kaleido finds on the path or by `BROWSER_PATH`.
"""
import argparse, io
from pathlib import Path

from PIL import Image

from privkd_nb.analysis.load import Study
from privkd_nb.analysis.compare import choose, overall
from privkd_nb.figures.comparisons import results_figure
from privkd_nb.figures.save import save_figure
from privkd_nb.figures.style import COLORS

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT/'records'/'2026-11-26-start-or-distillation'


def replication():
    "Each arm's score in languages that were trained on and in others, on real data"
    scores = Study.open(RECORD/'tenth').scores
    teacher = choose(scores, model='teacher', split='test', metric='accuracy')
    fig = results_figure(overall(scores))
    for group,dash in (('seen', 'solid'), ('unseen', 'dot')):
        fig.add_vline(choose(teacher, group=group).value.mean(), line=dict(color=COLORS['teacher'], dash=dash, width=1.5),
                      annotation_text='teacher' if group == 'seen' else '', annotation_position='top')
    fig.for_each_annotation(lambda a: a.update(text=''), selector=dict(text='massive, cl'))
    fig.update_xaxes(title_text='mean accuracy, a tenth of the data')
    return fig.update_layout(title_text='Accuracy by start and losses', margin_t=75, paper_bgcolor='white', plot_bgcolor='white')


def card():
    "What it is, and the picture, 1200 × 630"
    fig = replication()
    note = 'Small multilingual encoders from big ones: where should the student\'s weights come from?'
    title = dict(text=f'<b>PrivKD</b><br><span style="font-size:25px">{note}</span>', x=.035, xref='container', y=.94, yref='container', yanchor='top', pad=dict(t=30), font=dict(size=54, color='#0072b2'))
    fig.update_traces(marker_size=15, error_x_thickness=3)
    return fig.update_layout(title=title, width=1200, height=630, margin=dict(t=190, l=250, r=40, b=80), font_size=20, xaxis_title_font_size=22)


def draw(folder):
    "All pictures, into a folder"
    folder.mkdir(parents=True, exist_ok=True)
    for kind in ('svg', 'json'): save_figure(replication(), folder/f'replication.{kind}', width=900)
    Image.open(io.BytesIO(card().to_image('png', width=1200, height=630))).quantize(64).save(folder/'card.png', optimize=True)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, default=ROOT/'nbs/images', help='folder')
    draw(parser.parse_args().out)
