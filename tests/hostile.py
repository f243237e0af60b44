"Texts that would act if anything read them as HTML, Markdown, SVG, a plotly template or a terminal's codes; a study whose every string is one; and readers that tell."
import json, re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd

from privkd_nb.analysis.load import Study
from privkd_nb.record import HISTORY, METRICS

HACK = 'window.__hacked=1'
PAYLOADS = [f'<img src=x onerror="{HACK}">', f'<script>{HACK}</script>', f'"><svg onload={HACK}>', f"'><iframe srcdoc='<script>parent.{HACK}</script>'>",
            f'</script><script>{HACK}</script>', '</textarea></title></td></table><h1 id=hack>out</h1>', f'[link](javascript:{HACK})', '**bold** _it_ `code` ~~s~~',
            '| a | b |', '$x^2$ \\(y\\) $$z$$', '<!-- comment', '<b>bold</b><br>%{x}', f'<a href="javascript:{HACK}">l</a>', '&lt;b&gt; &amp; &#36; &copy', '# head\n- item\n\n---\n1. one',
            '\x1b[31mred\x1b[2J\x07', 'a\u202eesrever', '![i](x) <https://x.org> www.x.org', 'x'*5000+f'<img src=x onerror={HACK}>', '%{y:.3f}%{customdata[0]}<extra>e</extra>',
            '{{7*7}} ${7*7} {% x %}', '<style>*{display:none}</style>', 'constructor', '1', '2024-01-01', 'mean', '<foreignObject><img src=x></foreignObject>']


def payload(i, extra=''): return PAYLOADS[i % len(PAYLOADS)]+extra*(i >= len(PAYLOADS))

def file_name(i): # A payload that a folder or file can be called
    return re.sub(r'[/\x00-\x1f]', '_', payload(i))[:60]


def make_hostile_study(folder, n=4) -> Path:
    "`n` finished runs of the sample study in a folder, with a payload for every language, label, text, id, arm, run, parameter and tensor"
    study = Study.open('sample')
    configs = [(r, c) for r, c in study.configs.items() if c['scenario'] == 'all' and c['seed'] == 0 and c['fraction'] == .1][:n]
    scores, history = study.scores.groupby('run', observed=True), study.history.groupby('run', observed=True)
    langs = sorted(set(study.scores.language)-{''})
    lang = {l: payload(i) for i, l in enumerate(langs)} | {'': ''}
    for k, (r, c) in enumerate(configs):
        p = study.predictions(r).assign(split='test').astype({k: str for k in ('id', 'language', 'gold', 'predicted', 'text')})
        p = p[p.groupby(['language', 'model'], observed=True).cumcount() < 3*len(PAYLOADS)//len(langs)+2]
        label = {v: payload(i+3) for i, v in enumerate(sorted({*p.gold, *p.predicted}))}
        text = {v: payload(i, ' more')+f' {i}' for i, v in enumerate(sorted(set(p.text)))}
        p = p.assign(language=p.language.map(lang), gold=p.gold.map(label), predicted=p.predicted.map(label), text=p.text.map(text), id=[payload(0)+i for i in p.id])
        losses = c['losses'] | {payload(k+6): 1.}
        config = {k: v for k, v in c.items() if k not in ('teacher_run', 'texts', 'metric')} | dict(teacher=payload(2*k), base=payload(k+7), losses=losses, dataset=payload(0))
        path = Path(folder)/file_name(k)
        path.mkdir(parents=True)
        write = lambda name, d: (path/name).write_text(json.dumps(d))
        write('config.json', config)
        write('environment.json', dict(metric='accuracy', teacher=dict(hash='x'), train_languages=[lang[l] for l in langs[::2]], data=dict(train=10)))
        write('init_card.json', study.card(r) | dict(depth=payload(k+1), architecture=payload(5), source_hash=payload(8), tensors={payload(i): ['encoder', None] for i in range(9)},
              models={payload(i): v for i, v in enumerate(study.card(r)['models'].values())} | study.card(r)['models']))
        h = history.get_group(r)[HISTORY].assign(language=lambda d: d.language.map(lang))
        own = h[h.metric == 'loss'].assign(metric=payload(k+6))
        m = scores.get_group(r)[METRICS].assign(language=lambda d: d.language.map(lang))
        m.to_parquet(path/'metrics.parquet', index=False)
        pd.concat([h, own]).to_parquet(path/'history.parquet', index=False)
        p[['id', 'language', 'text']].drop_duplicates().to_parquet(path/'texts.parquet', index=False)
        p.drop(columns='text').to_parquet(path/'predictions.parquet', index=False)
        write('progress.json', dict(state='finished', step=payload(2), steps=payload(2), first=0, seconds=1., updated=0., pid=1, host=payload(1)))
        write('done.json', {})
    broken = Path(folder)/file_name(4)
    broken.mkdir()
    (broken/'config.json').write_text('{')
    return Path(folder)


class Page(HTMLParser):
    "What a page has: tags, attributes, text"
    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.attrs, self.words, self.within = set(), [], [], []
        self.feed(text); self.close()
    def handle_starttag(self, tag, attrs): self.tags.add(tag); self.attrs += [(tag, *a) for a in attrs]; self.within.append(tag)
    def handle_endtag(self, tag): self.tags.add(tag); self.within = self.within[:-1]
    def handle_comment(self, data): self.tags.add('!--')
    def handle_decl(self, decl): self.tags.add(f'!{decl}')
    def handle_data(self, data): self.words.append(data)
    @property
    def text(self): return ''.join(self.words)


OURS = set('table thead tbody tr th td div p span h3 style b i progress em strong code ul ol li br sup a'.split())
SAFE = dict(a=('download', 'href'), td=('class', 'dir', 'lang', 'style'), th=('style',), table=('class', 'style'), div=('class', 'style'), h3=('style',), progress=('aria-label', 'style', 'value', 'max'), ol=('start',))


def check_html(text, allowed=OURS, **safe):
    "The page, if none of its elements or attributes stems from a payload"
    page = Page(text)
    assert page.tags <= set(allowed), page.tags-set(allowed)
    for tag, name, value in page.attrs:
        assert name in (SAFE|safe).get(tag, ()), (tag, name, value)
        assert name != 'href' or value.startswith('data:text/'), (tag, name, value)
        assert name in ('lang', 'download', 'value', 'max', 'aria-label', 'data-figure') or not any(p in (value or '') for p in PAYLOADS if len(p) > 4), (tag, name, value)
    return page


def check_markdown(text):
    "Two readings of Markdown, JupyterLab's kind (CommonMark with tables) and the site's (Python-Markdown), as pages"
    import markdown, markdown_it
    common = markdown_it.MarkdownIt('gfm-like', dict(linkify=False)).render(text)
    python = markdown.markdown(text, extensions=['attr_list', 'md_in_html', 'tables', 'footnotes', 'def_list', 'admonition'])
    assert not re.search(r'[$\\]', re.sub(r'<span>[$\\]</span>', '', common.replace('&#36;', '$').replace('&#92;', '\\'))), 'a formula'
    return [check_html(t) for t in (common, python)]


TAG = re.compile(r'</?([a-zA-Z!][^\s<>/]*)[^<>]*>')
PAINT = re.compile(r'<span style="color:#[0-9A-Fa-f]{6}">.</span>')       # the sign of a key in its colour
HOLDER = re.compile(r'%\{([^}]*)\}')
KNOWN = re.compile(r'(x|y|z|text|customdata(\[\d\])?|fullData\.name)(:[^}]*)?$')


def check_figure(fig):
    "The texts of a figure as a reader sees them, if plotly reads no tag, formula or place holder that is not ours"
    from html import unescape
    seen = []
    def walk(o, key):
        if isinstance(o, dict):
            for k, v in o.items(): walk(v, k)
        elif isinstance(o, (list, tuple)):
            for v in o: walk(v, key)
        elif isinstance(o, str) and key not in ('legendgroup', 'bdata', 'uirevision'):
            o = PAINT.sub('', o)
            template = key in ('hovertemplate', 'texttemplate')
            assert {t.lower() for t in TAG.findall(o)} <= {'b', 'br', 'sup'} | ({'extra'} if template else set()), (key, o)
            assert '$' not in o, (key, o)
            for h in HOLDER.findall(o): assert template and KNOWN.match(h), (key, o)
            assert not re.search('[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]', o), (key, o)
            seen.append(unescape(re.sub(r'</?(b|br|sup|extra)>', '\n', o)))
    walk(json.loads(fig.to_json()), '')
    return '\n'.join(seen)
