"""The pictures of the landing page, drawn from the study that comes with the package: for README as SVG, for the site the figure's data, which it draws
in the reader's colours and width; and the card that other sites show of a link.

    python tools/pictures.py [--out nbs/images]

Drawing needs kaleido and pillow (`pip install kaleido pillow`) and a Chrome or Chromium, which kaleido finds on the path or by `BROWSER_PATH`.
"""
import argparse, io
from pathlib import Path

from PIL import Image

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


def card():
    "What it is, and the picture, 1200 × 630"
    fig = fraction()
    note = 'Small multilingual encoders from big ones: where should the student\'s weights come from?'
    title = dict(text=f'<b>PrivKD</b><br><span style="font-size:25px">{note}</span>', x=.035, xref='container', y=.94, yref='container', yanchor='top', pad=dict(t=30), font=dict(size=54, color='#0072b2'))
    fig.update_traces(line_width=4, marker_size=14)
    return fig.update_layout(title=title, width=1200, height=630, margin=dict(t=240, l=110, r=40, b=90), font_size=22, legend=dict(y=.75, font_size=20, entrywidth=200),
        xaxis_title_font_size=24, yaxis_title_font_size=24)


def draw(folder):
    "All pictures, into a folder"
    folder.mkdir(parents=True, exist_ok=True)
    for kind in ('svg', 'json'): save_figure(fraction(), folder/f'fraction.{kind}', width=900)
    Image.open(io.BytesIO(card().to_image('png', width=1200, height=630))).quantize(64).save(folder/'card.png', optimize=True)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, default=ROOT/'nbs/images', help='folder')
    draw(parser.parse_args().out)
