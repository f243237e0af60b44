"Text that comes from data, names or parameters stays text, in every view of the package."
import ast, json, re, warnings
from pathlib import Path

import pandas as pd, plotly.graph_objects as go
import pytest

from hostile import OURS, PAYLOADS, Page, check_figure, check_html, check_markdown, file_name, make_hostile_study, payload
from privkd_nb.apps.plot_view import static_bundle
from privkd_nb.figures.save import escape_latex
from privkd_nb.markup import Table, as_html, as_markdown, html_attr, html_text, md_code, md_text, plot_text, read_plot_text, visible

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope='module')
def folder(tmp_path_factory): return make_hostile_study(tmp_path_factory.mktemp('hostile')/file_name(0))


@pytest.fixture(scope='module')
def study(folder):
    from privkd_nb.analysis.load import Study
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        study = Study.open(folder)
    assert file_name(4) in str(caught[0].message)
    return study


def shown(text): return ' '.join(text.split())


@pytest.mark.parametrize('i', range(len(PAYLOADS)))
def test_each_text_is_shown_as_it_was_typed(i):
    p = PAYLOADS[i]
    as_typed = shown(visible(p))
    assert shown(check_html(f'<p>{html_text(p)}</p>').text) == as_typed
    assert shown(check_html(f'<td lang="{html_attr(p)}">a</td>').text) == 'a'
    for template in ('{}', 'a {} b', '- {}', '**{}**', '| a |\n| - |\n| {} |', '1. x\n2. {}', '{} `x`'):
        for write in (md_text, md_code):
            if write is md_code and '**' in template: continue
            for page in check_markdown(template.format(write(p))): assert as_typed in shown(page.text), (template, write(p))
    assert read_plot_text(plot_text(p)) == visible(p, 120)


def test_latex_reads_text():
    for p in PAYLOADS: assert not re.search(r'[\\{}_%&#$~^<>|"]', re.sub(r'\\[_%&#${}]|\\text[a-z]+\{\}|\$\\cdot\$', '', escape_latex(p)))


def test_a_table_escapes_cells_index_columns_and_their_names():
    p = PAYLOADS[0]
    frames = [pd.DataFrame({p: [p, 1.5, None]}, index=pd.Index([p, 'b', 'c'], name=p)).rename_axis(columns=p), pd.DataFrame({p: pd.Categorical([p])}, index=pd.CategoricalIndex([p]))]
    frames += [pd.concat({p: frames[0]}, axis=1, names=[p]), pd.concat({p: frames[0]}, names=[p]), frames[0].T, pd.DataFrame({(p, 'a'): [1], (p, 'b'): [2]}), pd.DataFrame({'a': [p]})]
    for f in frames:
        assert p in check_html(as_html(f)).text and p in check_html(Table(f)._repr_html_()).text
        for page in check_markdown(as_markdown(f)): assert p in page.text and 'table' in page.tags


def test_reprs_of_records(folder, study):
    from privkd_nb.data.tasks import Task
    from privkd_nb.init.card import InitCard
    from privkd_nb.jobs.report import language_table, summary
    from privkd_nb.record import Run
    words = ''
    for k in range(4):
        run = Run.load(folder/file_name(k))
        card = InitCard.load(run.path/'init_card.json')
        for text in (run._repr_markdown_(), summary(run), card._repr_markdown_(), as_markdown(language_table(run))):
            pages = check_markdown(text)
            words += pages[0].text
            assert '\x1b' not in text
        check_html(Table(language_table(run))._repr_html_())
        for o in (run, card): assert not re.search('[\x00-\x1f\u202e]', repr(o))
    rows = pd.DataFrame([dict(id=p, language=p, text=p, label=p) for p in PAYLOADS])
    task = Task(name=PAYLOADS[0], kind='sequence', metric='accuracy', labels=PAYLOADS, train_languages=PAYLOADS, eval_languages=PAYLOADS, train=rows, validation=rows, test=rows)
    words += check_markdown(task._repr_markdown_())[0].text
    assert not re.search('[\x00-\x1f\u202e]', repr(task))
    for p in PAYLOADS: assert shown(visible(p)) in shown(words), p


def test_figures_of_a_study(study):
    from privkd_nb.analysis.compare import by_language, choose, overall, teacher_scores
    from privkd_nb.analysis.curves import training_band
    from privkd_nb.figures import comparisons as F
    from privkd_nb.figures.layermap import layermap_figure
    from privkd_nb.figures.run import curves_figure, languages_figure, monitor_figure
    from privkd_nb.figures.save import figure_data, results_table, to_latex
    d = choose(study.scores, fraction=.1)
    frame, teacher, all_ = by_language(d), teacher_scores(d), overall(d)
    figs = dict(scores=F.scores_figure(frame, teacher), gap=F.heatmap_figure(frame, teacher), training=F.training_figure(training_band(study.history, 'loss'), PAYLOADS[0]),
                fractions=F.fraction_figure(all_), results=F.results_figure(all_), card=layermap_figure(study.card(next(iter(study.configs)))))
    run = next(iter(study.configs))
    metrics, history = (t[t.run == run] for t in (study.scores, study.history))
    figs |= dict(languages=languages_figure(metrics), curves=curves_figure(history), monitor=monitor_figure(history, dict(state=PAYLOADS[0], updated=0.), title=PAYLOADS[1]))
    text = {k: check_figure(f) for k, f in figs.items()}
    langs = sorted(set(frame.language))
    for k in ('scores', 'gap', 'languages', 'monitor'):
        for l in langs: assert visible(l, 24 if k == 'monitor' else 120) in text[k], (k, l)
    for k in ('scores', 'training', 'fractions', 'results'):
        for a in study.arms: assert visible(a, 120) in text[k], (k, a)
    drawn = set(figure_data(figs['gap']).x.str.removesuffix(' (unseen)'))
    assert {visible(l, 120) for l in langs} <= drawn
    for f in figs.values(): check_script(static_bundle(f)['text/html'])
    assert '<img' not in to_latex(results_table(all_)).replace(r'\textless{}', '')


def check_script(text, scripts=None):
    "HTML of a figure: nothing of the data ends the script that holds it"
    page = Page(text)
    assert page.tags <= {'div', 'script', 'html', 'head', 'body', 'meta', 'p', 'b', 'i', 'code', 'span'}, page.tags
    plain = Page(static_bundle(go.Figure(go.Scatter(x=['a'], y=['b'])))['text/html'])
    assert [a for a in page.attrs if a[0] == 'script'].__len__() == [a for a in plain.attrs if a[0] == 'script'].__len__()


def test_the_explorer_and_its_views(study, tmp_path):
    from privkd_nb.apps.explorer import Explorer
    from privkd_nb.apps.explorer_views import VIEWS
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        ex = Explorer(study.path)
    heading = check_html(ex.children[0].value).text
    seen = [visible(i[k]) for k_ in ex.controls.named for i in getattr(ex, k_).items for k in ('label', 'about', 'why', 'hint')]
    assert [t for t in seen if re.search('[\x00-\x1f\u202e]', t)] == []                   # the page writes them as text
    assert study.path.name in heading and file_name(4) in heading
    for view in VIEWS:
        ex.view.value = view
        if ex.answer.figure is not None: check_script(ex._repr_mimebundle_()[0]['text/html']); check_figure(ex.answer.figure)
        elif 'They agree' not in ex.answer.html: assert check_html(ex.text.value, OURS|{'style'}).text
        check_html(ex.text.value, OURS|{'style'})
        for kind in ('csv', 'html'): assert re.fullmatch(r'privkd_[\w.+=-]+', ex.file(kind)[0])
        saved = ex.save(tmp_path/'view.html').read_text()
        assert 'plotly' in saved or check_html(saved, OURS|{'style', 'meta', '!doctype html'}, meta=('charset',))
    ex.view.value, langs = 'examples', [v for _, v in ex.language.options[1:]]
    seen = ''
    for l in langs:
        ex.language.value = l
        seen += shown(check_html(ex.text.value, OURS|{'style'}).text)
    assert [p[:60] for p in PAYLOADS if shown(visible(p))[:100] not in seen] == []
    assert 'x'*2001 not in seen
    ex.view.value = 'scores'
    for l in langs:
        ex.clicked(dict(customdata=[plot_text(l)]))
        assert ex.language.value == l
        check_html(ex.text.value)


def test_the_monitor(folder):
    from privkd_nb.apps.monitor import Monitor
    m = Monitor(folder, start=False)
    m.runs.scanned_at = 0
    m.look()
    words = ''.join(check_html(w.value).text for w in (m.state, m.table))
    for k in range(4): assert file_name(k)[:8] in words
    check_figure(m.figure)
    assert not re.search('[\x00-\x1f\u202e]', repr(m))
    m._try_look = lambda: m._show_status(PAYLOADS[0])
    m._try_look()
    assert PAYLOADS[0] in check_html(m.state.value).text


# ---- nothing else in the package writes markup

WRITERS = {'html_text', 'html_attr', 'md_text', 'md_code', 'as_html', 'as_markdown'}
MARKUP = re.compile(r'</?[a-zA-Z]|\*\*|`|\]\(')
ALLOWED = { # What may stand in markup without going through a writer, because it is markup made by one, or text of the package's own
    'apps.explorer': {'left_out', 'training', 'examples', 'self.answer.html', 'now'},
    'apps.explorer_views': {'lang', 'text', 'gold', 'models', 'CSS', 'head', 'rows', 'more', 'limit', 'note', 'self._difference_note(c, a, b)', 'table'},
    'apps.monitor': {'at', 'bar', 'done', 'label', 'look', "''.join(map(row, self.runs.paths))"},
    'figures.save': {'fig.to_html'},                                         # plotly's own, whose texts are `plot_text`; `<` is escaped in its JSON
    'figures.pages': {'get_plotlyjs()', "ALL.replace('FIT', FIT)"}, 'stored': {'data', 'inside', 'sentence'},      # plotly.js; JSON in an attribute, and a sentence of our own
    'data.tasks': {'self.metric'}, 'jobs.report': {"size_of(models['student'])", "size_of(models['teacher'])", 'score'},
    'figures.style': {'text', 'note', 'l'},
    'analysis.against': {'where'}, 'studies.definition': {"self.design.replace('_', ' ')"},      # names through `md_text`; one of three words
    'apps.study_monitor': {'wide', 'look', "progress_html(l.share, '6em')", "progress_html(study.share / max(1, len(study.titles)), '14em')", "''.join(map(line_html, lines))"},
    'figures.paper_tables': {"''.join(head)", "''.join(body)", 'table', 'box', 'names', "''.join((f'<td><b>{t}</b></td>' if b else f'<td>{t}</td>' for t, b in texts))", 'n', 't'},
    'report.page': {'FIT', "packaged('report.js')", 'figure_html(data[PLOTLY_JSON])', "data['text/html']", "markdown2html_mistune(data['text/markdown']).strip()",
                    'get_plotlyjs()', 'own', 'slug(found[1])'},                                  # our scripts, plotly's, and outputs that writers have made
    'report.limits': {"' '.join(limits(e)[:most])", "counted(n, 'run')", 'parts'},                # sentences of our own, with names through `md_text` and `md_code`
    'report.words': {'setting_text(e.main)', 'code_of(e, e.reference)', 'code_of(e, other)', 'code_of(e, best.arm)', 'k', "' and '.join(said)", 'seeds', "counted(k, 'comparison')",
                     'near', 'told', 'value(r)', 'value(seen)', 'value(best)', 'value(r, False)', "n['ahead']", "n['behind']", "counted(len(d), 'language')",
                     'seed_span(d.seeds)', "counted(int(r.n), 'language')", "f': {parts}' if parts else ''", 'why'},
    'studies.lines': {'node.style', 'problem', 'k.style'},                                        # PyYAML's style of a scalar; a message of an error
    'studies.plan': {"'; '.join(found[:most])", 'more', 'self.study.out_dir'},                    # lines of a terminal; `_repr_markdown_` escapes them
    'export.card': {'install', 'language'}, 'figures.waterfall': {'row.verdict'},     # words of our own; one of two words, or nothing is written
    'figures.run': {'sign', 'color', 'who', 'when', 'plot_text(score_name(metric))'},       # a sign, its colour, a word of our own; plotly's texts
    'init.search': {'subset_name(self.layers)', 'what'}, 'figures.losses': {'name'},       # numbers with commas, a word of our own; the names of three measures
    'init.card': {'SOURCES[self.source]', 'arrows', 'copied', 'source', "random_ or 'nothing'", 'sizes'},
}


def is_number(value): # f'{x:.3f}', f'{n:,}', f'{len(x)}': a text would be an error
    spec = value.format_spec and ''.join(getattr(v, 'value', '0') for v in value.format_spec.values)
    return bool(spec) and bool(re.search(r'[fgde%,]$', spec)) or bool(re.search(r'^(len|int|round)\(|\.(sum|nunique)\(\)$', ast.unparse(value.value)))

def is_constant(node): return isinstance(node, ast.Constant) or isinstance(node, ast.IfExp) and is_constant(node.body) and is_constant(node.orelse)

def written(node): return any(getattr(n, 'id', '') in WRITERS for n in ast.walk(node))


def faults(source, allowed=()):
    "Places of a module where a value may become markup without a writer: interpolation among tags or Markdown, pandas' HTML, an escape of one's own"
    tree = ast.parse(source)
    messages = [n for n in ast.walk(tree) if isinstance(n, ast.Raise) or isinstance(n, ast.Call) and ast.unparse(n.func) in ('InputError', 'warnings.warn', 'print')]
    skipped = {id(n) for m in messages for n in ast.walk(m)}
    for n in ast.walk(tree):
        if id(n) in skipped: continue
        if isinstance(n, ast.Attribute) and n.attr in ('to_html', 'to_markdown', 'style') and ast.unparse(n) not in allowed: yield f'line {n.lineno}: {ast.unparse(n)}'
        if isinstance(n, (ast.Import, ast.ImportFrom)) and 'html' in (getattr(n, 'module', ''), *(a.name for a in n.names)): yield f'line {n.lineno}: {ast.unparse(n)}'
        if isinstance(n, ast.JoinedStr) and MARKUP.search(''.join(v.value for v in n.values if isinstance(v, ast.Constant))):
            for v in n.values:
                if isinstance(v, ast.FormattedValue) and not (written(v) or is_number(v) or is_constant(v.value) or ast.unparse(v.value) in allowed): yield f'line {n.lineno}: {{{ast.unparse(v.value)}}}'


def modules():
    package = ROOT/'privkd_nb'
    return {'.'.join(f.relative_to(package).with_suffix('').parts): f.read_text(encoding='utf-8') for f in sorted(package.rglob('*.py')) if f.stem not in ('_modidx', 'markup')}


def test_only_markup_writes_markup():
    found = [f'{name}: {f}' for name, source in modules().items() for f in faults(source, ALLOWED.get(name, ()))]
    assert not found, 'write these through privkd_nb.markup, or list them in ALLOWED with a reason:\n'+'\n'.join(found)
    assert set(ALLOWED) <= set(modules())


def test_the_rule_sees_what_it_forbids():
    bad = ["h = f'<b>{name}</b>'", "t = frame.to_html()", "t = frame.style.format('{:.1f}')", 'from html import escape', 'import html', "m = f'**{name}**: {len(x)}'", "m = f'`{name}`'"]
    good = ["h = f'<b>{html_text(name)}</b>'", "m = f'**{x:.3f}**'", "raise InputError(f'`{name}` is not')", "h = f'<b>{\"a\" if x else \"b\"}</b>'"]
    assert [len(list(faults(b))) for b in bad] == [1]*len(bad) and not any(list(faults(g)) for g in good)


def test_pages_show_tables_through_markup():
    for p in (ROOT/'nbs').glob('*.ipynb'):
        if p.name == 'effect.ipynb': continue                     # the playground alone, whose languages are ours
        for c in json.loads(p.read_text(encoding='utf-8'))['cells']:
            source = ''.join(c['source'])
            if c['cell_type'] == 'code': assert not re.search(r'\.style\b(?! import)|\.to_html\(|f.<', source), (p.name, source)


# ---- the site, the terminal

def test_outputs_on_the_site(study):
    from collections import Counter
    import markdown
    from conftest import load_tool
    pytest.importorskip('zensical', reason='skipped: zensical is not installed')
    from privkd_nb.analysis.compare import by_language, choose
    from privkd_nb.figures.comparisons import scores_figure
    from privkd_nb.init.card import InitCard
    pages, site = load_tool('pages'), load_tool('site')
    words = '\n'.join(map(visible, PAYLOADS))
    frame = pd.DataFrame(dict(text=PAYLOADS), index=pd.Index(PAYLOADS, name=PAYLOADS[0]))
    fig = static_bundle(scores_figure(by_language(choose(study.scores, fraction=.1))).update_layout(title_text=plot_text(PAYLOADS[0])))
    card = InitCard.load(study.path/next(iter(study.configs))/'init_card.json')
    shows = [{'text/html': as_html(frame), 'text/plain': words}, {'text/markdown': as_markdown(frame)}, {'text/markdown': card._repr_markdown_()}, {'text/plain': words}, fig]
    outputs = [dict(output_type='execute_result', data=pages.portable(d)) for d in shows]+[dict(output_type='stream', name='stdout', text=words)]
    page = pages.Page('x.ipynb', 'x.html', 'x', '', [])
    for o in outputs:
        for rich in (True, False):
            text = '\n\n'.join(pages.code(dict(cell_type='code', source='', outputs=[o]), '', page, {}, Counter(), rich))
            html = markdown.markdown(text, extensions=[e for e in site.EXTENSIONS if isinstance(e, str) and not e.startswith('pymdownx')]+['fenced_code'])
            attrs = dict(div=('class', 'role', 'aria-label', 'style', 'data-figure'), code=('class',), pre=('class',))
            seen = shown(check_html(html, OURS|{'pre'}, **attrs).text)
            if o is outputs[4]: assert 'aria-label="&lt;img' in html or not rich
            elif o is not outputs[2]: assert [p for p in PAYLOADS if shown(visible(p)) not in seen] == []      # a card has only some


def test_a_terminal_is_told_no_codes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(warnings, 'showwarning', lambda message, *args, **kw: print(message))
    from privkd_nb.cli import main
    odd = tmp_path/'\x1b[2Jodd\u202e'
    (odd/'\x1b[31mrun').mkdir(parents=True)
    (odd/'\x1b[31mrun'/'config.json').write_text('{}')
    assert main(['explore', str(odd)]) == 2 and main(['run', '--dataset', str(odd/'none\x07')]) == 2
    out = ''.join(capsys.readouterr())
    assert 'odd' in out and '31mrun' in out and not re.search('[\x00-\x09\x0b-\x1f\u202e]', out)


def test_names_of_runs_in_progress_lines():
    from privkd_nb.jobs.config import RunConfig
    from privkd_nb.jobs.study import run_titles
    configs = [RunConfig(teacher=t, tiny=True) for t in ('\x1b[31mred\n', 'auto')]
    assert all('\x1b' not in t and '\n' not in t for t in run_titles(configs).values())


def test_pages_store_no_state_of_widgets():
    "A stored widget asks for plotly.js before there is a kernel, and the one that Run All makes then stays empty"
    for p in (ROOT/'nbs').rglob('*.ipynb'):
        if any(part.startswith(('.', '_')) for part in p.relative_to(ROOT/'nbs').parts): continue
        nb = json.loads(p.read_text(encoding='utf-8'))
        assert 'widgets' not in nb['metadata'], f'{p.name}: take metadata.widgets out'
        assert not [o for c in nb['cells'] for o in c.get('outputs', []) if 'application/vnd.jupyter.widget-view+json' in o.get('data', {})], p.name
