"The report of a study: what it says follows from its frames, nothing of others acts in it, and it is written whole and anew."
import re

import nbformat
import pandas as pd
import pytest

from browser import chromium
from hostile import HACK, PAYLOADS, check_figure, check_markdown, file_name, make_hostile_study
from privkd_nb.analysis.attribution import attribution
from privkd_nb.analysis.compare import choose, differences
from privkd_nb.analysis.load import Study
from privkd_nb.core import InputError, write_json
from privkd_nb.figures.against import against_figure
from privkd_nb.figures.attribution import attribution_figure
from privkd_nb.figures.paper_figures import data_figure, learning_figure, learning_rows, lines_latex
from privkd_nb.figures.paper_tables import PaperTable, best_students, paper_rows
from privkd_nb.report.evidence import Evidence
from privkd_nb.report.limits import limits
from privkd_nb.report.parts import StudyReport
from privkd_nb.report.words import findings, split_sentence, sure_text
from privkd_nb.report.write import write_report

SCENE = dict(scenario='all', fraction=.1)


@pytest.fixture(scope='module')
def hostile(tmp_path_factory): return make_hostile_study(tmp_path_factory.mktemp('runs')/file_name(9))

@pytest.fixture(scope='module')
def written(hostile): return write_report(hostile)


def shifted(arm, by):
    "The sample's scores, with those of one arm changed; and a report's evidence on them"
    e = Evidence('sample', **SCENE)
    at = (e.scores.arm == arm) & (e.scores.model == 'student') & (e.scores.metric == 'accuracy')
    e.scores = e.scores.assign(value=e.scores.value.where(~at, by(e.scores.value)))
    for k in ('arrays', 'rows', '_against', 'split_'): e.__dict__.pop(k, None)
    return e


def test_the_verb_follows_the_interval():
    assert split_sentence(Evidence('sample', **SCENE)).startswith('**The start matters more')
    for by, verdict in {.6: '**These runs do not show', .9: '**The distillation matters more'}.items():      # what distillation alone is worth
        assert split_sentence(shifted('scratch · paper', lambda v: v+by)).startswith(verdict)


def test_one_seed_has_no_verb():
    e = Evidence('sample', seed=0, **SCENE)
    text = ' '.join(findings(e))
    assert 'one seed: no interval' in text and 'cannot be split: one seed in all four arms' in text and 'do not show' not in text and not re.search(r'The (start|distillation) matters|distillation (helps|hurts)\*\*', text)
    assert 'no test' in sure_text(e)


def test_one_arm_with_one_seed_is_named():
    e = Evidence('sample', **SCENE)
    e.scores = e.scores[(e.scores.arm != 'copy_ft · ce') | (e.scores.seed == 0)]
    for k in ('arrays', 'rows', 'trained'): e.__dict__.pop(k, None)
    assert split_sentence(e).startswith('**The gain cannot be split: one seed in <code>copy_ft · ce</code>.**')


def test_no_worse_by_one_rule():
    "The table of equivalence and the tests in words say the same of every arm, after Holm's correction"
    r = StudyReport('sample', **SCENE)
    tested = r._tests()
    tested.loc[(tested.arm == 'copy_ft · ce') & (tested.test == 'no worse'), ['p', 'p_holm', 'finding']] = .02, .1, ''      # shown without the correction alone
    said = r.equivalence().frame.loc[(r.e.reference, 'copy_ft · ce')]
    assert said['no worse by 1 point'] != 'yes' and (said['p'], said['p (Holm)']) == ('0.020', '0.100') and 'after Holm' in r.equivalence_note().data
    del r.tested
    found = r._tests()
    found = found[(found.test == 'no worse') & (found.group == 'all')].set_index('arm').finding
    table = r.equivalence().frame.loc[r.e.reference, 'no worse by 1 point']
    assert {a: v == 'yes' for a,v in table.items()} == {a: v == 'no worse' for a,v in found.items()}


def test_a_local_teacher_is_described():
    r = StudyReport('sample', **SCENE)
    for c in r.e.runs: r.e.study.configs[c] = r.e.study.configs[c] | dict(base='@888596674fec', teacher='auto')
    assert '888596674fec' not in r.data().data and 'fine-tuned here from a local copy of a model' in r.data().data
    assert 'base of the teacher was a local copy' in r.made().data and '888596674fec' in r.made().data


def scored(arm, values, model='student', **trained):
    "Scores as of a study: a row of `values` a seed, a column a language; `trained`: how the arm was trained on each language"
    about = dict(dataset='d', scenario='cl', fraction=.1, split='test', group='language', metric='accuracy', model=model, arm=arm)
    return pd.DataFrame([about | dict(run=f'{arm}{i}', seed=i, language=l, seen=k == 'seen', texts=k == 'texts', value=v)
                         for i, row in enumerate(values) for (l, k), v in zip(trained.items(), row)])

def displayed(*parts): return PaperTable(paper_rows(pd.concat(parts, ignore_index=True)), best_students(pd.concat(parts, ignore_index=True)))


@pytest.mark.parametrize('draw', [lambda s: learning_figure(learning_rows(s.history)), lambda s: data_figure(paper_rows(s.scores)),
                                  lambda s: lines_latex(paper_rows(s.scores))])
def test_scenarios_are_not_joined(draw):
    with pytest.raises(InputError, match=r"playground \(all\), playground \(cl\), .* as in choose\(rows, scenario='all'\)"): draw(Study.open('sample'))


def test_bold_needs_a_test():
    s = choose(Study.open('sample').scores, **SCENE)
    with_test, without = PaperTable(paper_rows(s), best_students(s)), PaperTable(paper_rows(s))
    assert with_test.bold == {('copy_ft · paper', ('playground', 'all', .1, 'all'))} and '<b>' in with_test.html() and r'\textbf' in with_test.latex()
    assert not without.bold and '<b>' not in without.html() and r'\textbf' not in without.latex()
    two = displayed(scored('copy_ft · ce', [[.9], [.901]], de='seen'), scored('scratch · ce', [[.5], [.5]], de='seen'))
    assert not two.bold and two.best.p_holm.isna().all() and 'share 3 seeds' in two.caption      # two seeds are no finding here either


@pytest.mark.parametrize('scratch, bold', [([.5, .5, .5, .9, .9], set()), ([.6, .6, .6, .9, .9], {'scratch · ce'})])
def test_bold_is_ahead_on_the_seeds_of_its_test(scratch, bold):
    "Five seeds with the highest mean, three of them shared: bold only if ahead on these"
    plain = scored('scratch · ce', [[x] for x in scratch], de='seen')
    t = displayed(plain, scored('copy_ft · ce', [[.549], [.55], [.551]], de='seen'))
    assert set(t.best.arm) == {'scratch · ce'} and {a for a, _ in t.bold} == bold


def test_a_column_has_the_same_languages_for_all():
    "Texts without labels that one arm does not read; a language that another one lacks"
    distilled = scored('copy_ft · paper', [[.8, .7, .6]]*3, de='seen', fr='texts', sw='unseen')
    with pytest.warns(UserWarning, match='d, cl, 10 %: left out, not scored for every student: ka'):
        t = displayed(distilled, scored('copy_ft · ce', [[.7, .6, .2, .9]]*3, de='seen', fr='unseen', sw='unseen', ka='unseen'))
    assert t.rows.n.tolist() == [3, 1, 1, 1]*2 and 'not run' not in t.cells.values()
    assert list(t.best.languages) == ['all', 'seen', 'texts', 'unseen']
    assert [t.cells['copy_ft · ce', ('d', 'cl', .1, g)][:5] for g in ('texts', 'unseen')] == ['0.600', '0.200']
    assert '(trained on: 1; trained on, no labels: 1; not trained on: 1)' in t.caption
    assert 'Not every student was trained on 1 of' in t.caption


def test_teachers_are_counted():
    "One teacher that was scored on more languages once is one; two that score alike are two"
    arms, both = [f'{init} · ce · base={base}' for init, base in ('ax', 'bx', 'by')], dict(de='seen', fr='seen')
    students, theirs = ([scored(a, [[v, v]], m, **both) for a in arms] for m, v in dict(student=.5, teacher=.9).items())
    theirs[1] = scored(arms[1], [[.9]], 'teacher', de='seen')
    def found(n): return (rows := paper_rows(pd.concat(students[:n]+theirs[:n])))[rows.start == 'teacher']
    assert found(2)[['seeds', 'n']].values.tolist() == [[1, 1]] and found(3).seeds.tolist() == [2]


def test_a_line_is_about_one_group_of_languages():
    "A language group that is chosen, and a legend entry for each start, also of one that the first panel lacks"
    rows = paper_rows(choose(Study.open('sample').scores, scenario='cl'))
    rows = rows[(rows.start != 'scratch') | (rows.losses != 'ce')]
    assert lines_latex(rows).count('(0.1,') == 5 and lines_latex(rows, languages='unseen').count('(0.1,') == 5
    assert re.findall(r'legendentry\{(.*?)\}', lines_latex(rows)) == [r'copy\_base', r'copy\_ft', 'scratch']
    assert lines_latex(rows).count('forget plot') == 2                               # entries belong to the plots of a panel in order
    with pytest.raises(InputError, match="no mean over all languages; name what they have, as languages='seen'"):
        lines_latex(rows[rows.languages == 'seen'])
    for draw in (data_figure, lines_latex):
        with pytest.raises(InputError, match="languages='foo' is not a choice"): draw(rows, languages='foo')


@pytest.mark.parametrize('base', ['scratch/ce', dict(init='scratch', losses='ce'), None])
def test_the_arm_that_was_subtracted(base):
    d = differences(choose(Study.open('sample').scores, **SCENE), 'scratch/ce')
    assert 'minus that of scratch · ce' in against_figure(d, base).layout.title.text.replace('<br>', ' ')
    with pytest.raises(InputError, match="base='scratch/ce' is no whole name"): against_figure(pd.DataFrame(d.to_dict('list')), 'scratch/ce')


def test_a_table_without_students_says_so():
    t = PaperTable(paper_rows(choose(Study.open('sample').scores, scenario='none')))
    assert t.caption == 'No student has a score.'
    assert all('nan' not in s for s in (t.html(), t.latex(), repr(t), t._repr_markdown_()))


def test_a_definition_decides(tmp_path):
    "Its question, its arm in question, its runs; what is missing is said"
    folder = make_hostile_study(tmp_path/'runs')
    runs = sorted(p.name for p in folder.iterdir() if (p/'done.json').exists())
    kept = [dict(run=r, role='asked' if i else 'same_start', seed=0) for i, r in enumerate(runs[:2])]
    write_json(folder/'my.study.json', dict(version=1, question=f'Is <b>this</b> so? $x$ {HACK}', name='my', design='factorial', definition=dict(init=['a']),
               reference=dict(init='copy_ft'), runs=kept+[dict(run='0'*12, role='scratch', seed=0)], written='2026'))
    r = StudyReport(folder)
    assert r.title == 'my' and r.question.startswith('Is <b>this</b>') and len(r.e.runs) == 2 and len(r.e.missing) == 1
    assert any('1 of 3 runs of the study are not on record (1 of the control scratch)' in l for l in limits(r.e))
    page = write_report(folder, tmp_path/'out'/'page.html').read_text(encoding='utf-8')
    assert '<b>this</b>' not in page and '&lt;b&gt;this' in page.replace('&#60;', '&lt;').replace('&#62;', '&gt;')
    with pytest.raises(InputError, match="has no study 'mine'"): StudyReport(folder, 'mine')


def test_nothing_acts_in_a_report(hostile, written):
    r = StudyReport(hostile)
    for part in ('found', 'data', 'attribution', 'tests', 'limits', 'made'):
        shown = getattr(r, part)()
        if shown is not None: check_markdown(shown.data)
    for part in ('differences_figure', 'results_figure', 'languages_figure', 'learning_figure'): check_figure(getattr(r, part)())
    latex = r.table().latex()
    assert not re.search(r'(?<!\\)[$%#]', latex.replace(r'$\cdot$', '')) and '<' not in latex
    html = written.read_text(encoding='utf-8')
    assert 'onerror="' not in html.split('</main>')[0] and f'<script>{HACK}' not in html
    nbformat.validate(nbformat.read(written.with_suffix('.ipynb'), 4))


def test_a_report_in_a_browser(written):
    "Figures are drawn, nothing is loaded, nothing acts, nothing is wider than a telephone"
    with chromium(400, 800) as page:
        asked = []
        page.on('request', lambda q: asked.append(q.url) if q.url.startswith('http') else None)
        page.goto(written.as_uri())
        page.wait_for_function("document.querySelectorAll('.privkd-figure .main-svg').length > 3")
        assert page.evaluate('window.__hacked') is None and page.evaluate('document.documentElement.scrollWidth') <= 400 and not asked
        assert page.evaluate("[...document.querySelectorAll('main img, main iframe, #hack')].length") == 0
        words = page.evaluate("document.querySelector('main').innerText")
        assert 'What was found' in words and 'What it does not show' in words and PAYLOADS[0] in words


def test_written_anew(tmp_path):
    "A rerun says what the runs say then; an interrupted one leaves what was there"
    two = SCENE | dict(arm=['scratch/ce', 'copy_ft/ce'])
    page = write_report('sample', tmp_path, seed=0, **two)
    before = page.read_text(encoding='utf-8')
    write_report('sample', tmp_path, **two)
    after = page.read_text(encoding='utf-8')
    assert 'One seed an arm' in before and 'One seed an arm' not in after and 'n = 3 seeds' in after
    assert sorted(p.name for p in tmp_path.iterdir()) == ['report.html', 'report.ipynb']
    cells = [c for c in nbformat.read(page.with_suffix('.ipynb'), 4).cells if c.cell_type == 'code']
    names = {}
    exec(cells[0].source.replace('use_notebook_renderer()', '', 1), names)             # it runs again, and says the same
    assert eval(cells[1].source, names).data == cells[1].outputs[0]['data']['text/markdown']


def test_figures_on_a_telephone():
    "No text of a figure in a live notebook, where nothing breaks titles anew, is cut at 400 pixels; a table is scrolled inside its box"
    s = Study.open('sample')
    part = choose(s.scores, scenario='cl')
    split = attribution(part, start=('scratch', 'copy_ft'), distillation=('ce', 'paper'))
    figs = [learning_figure(learning_rows(choose(s.history, scenario='all'))), data_figure(paper_rows(choose(s.scores, scenario='all'))),
            against_figure(differences(part, 'copy_ft · paper'), 'copy_ft · paper'), attribution_figure(split)]
    drawn = ''.join(f.to_html(include_plotlyjs=i == 0, full_html=False, config=dict(responsive=True)) for i,f in enumerate(figs))
    with chromium(400, 800) as page:
        page.set_content(f'<body style="margin:0">{drawn}{PaperTable(paper_rows(s.scores)).html()}')
        page.wait_for_function(f"document.querySelectorAll('.main-svg .gtitle').length >= {len(figs)}")
        cut = page.evaluate("[...document.querySelectorAll('.js-plotly-plot text')].filter(t => t.getBoundingClientRect().width).filter(t => "
                            "{ const b = t.getBoundingClientRect(); return b.left < -1 || b.right > 401; }).map(t => t.textContent)")
        assert not cut and page.evaluate('document.documentElement.scrollWidth') <= 400
