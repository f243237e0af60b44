"A study as it is written: its runs, their roles, and the line that a refusal names."
import json
from itertools import product
from pathlib import Path

import pytest

from privkd_nb import InputError, RunConfig, Study
from privkd_nb.core import ResultError, content_key
from privkd_nb.jobs.study import grid
from privkd_nb.studies.definition import read_studies, read_study

TEXT = '''# which start is best?
question: Which start is best?
init: [copy_ft, scratch]
losses:
  - ce
  - "ce,logits"
fraction: [.1, .3]
seeds: 2
arms:
  - {init: copy_base, losses: ce, seeds: 1}
exclude:
  - {init: scratch, fraction: .3}
tiny: true
'''


@pytest.fixture
def write(tmp_path):
    "Writes a study file, in which a text is replaced by another one"
    def f(old='', new='', name='starts.yaml'):
        assert old in TEXT
        (tmp_path/name).write_text(TEXT.replace(old, new) if old else TEXT)
        return tmp_path/name
    return f


def said(path, **changes):
    with pytest.raises(InputError) as e: Study.read(path, **changes)
    return str(e.value)


def asked(study): return [(c.seed, c.init, c.losses, c.fraction) for c in study.configs if study.roles[content_key(c.identity())] == 'asked']


def test_the_runs_of_a_file(write):
    study = Study.read(write())
    product_ = [(i, l, f) for i,l,f in product(['copy_ft', 'scratch'], ['ce', 'ce,logits'], [.1, .3]) if (i, f) != ('scratch', .3)]
    arm = [('copy_base', 'ce', f) for f in (.1, .3)]
    assert asked(study) == [(0, *r) for r in product_+arm] + [(1, *r) for r in product_]       # seeds outermost
    assert study.name == 'starts' and study.question == 'Which start is best?' and study.reference == dict(init='copy_ft', losses='ce,logits')
    assert Study.read(write(), controls='off').roles == {k: r for k,r in study.roles.items() if r == 'asked'}


def test_python_and_json_make_the_same_runs(write, tmp_path):
    given = dict(question='Which start is best?', init=['copy_ft', 'scratch'], losses=['ce', 'ce,logits'], fraction=[.1, .3], seeds=2,
                 arms=[dict(init='copy_base', losses='ce', seeds=1)], exclude=[dict(init='scratch', fraction=.3)], tiny=True)
    (tmp_path/'starts.json').write_text(json.dumps(given, indent='\t'))
    assert Study(**given).roles == Study.read(write()).roles == Study.read(tmp_path/'starts.json').roles


def test_a_plain_product_is_the_grid_of_before():
    given = dict(init=['copy_ft', 'scratch'], losses=['ce', 'paper'], seed=[3, 1], tiny=True)
    assert Study(**given, controls='off').configs == grid(**given)


def test_losses_may_be_written_as_tables_print_them(write):
    printed = Study(init=['copy_ft', 'scratch'], losses=['ce', 'ce+logits', '0.5·kl'], exclude=[dict(init='scratch', losses='ce+logits')], reference='copy_ft/ce+logits')
    typed = Study(init=['copy_ft', 'scratch'], losses=['ce', 'ce,logits', 'kl=.5'], exclude=[dict(init='scratch', losses='ce,logits')], reference='copy_ft/ce,logits')
    assert printed.roles == typed.roles
    message = said(write('"ce,logits"', '"ce+logitz"'))
    assert 'line 6' in message and "Did you mean 'logits'?" in message


@pytest.mark.parametrize('old, new, line, says', [
    ('scratch]', 'scrach]', 3, "init='scrach' is not a choice; choose from scratch, copy_base, copy_ft"), ('init:', 'innit:', 3, "Did you mean 'init'?"),
    ('  - ce\n', '  - [ce, logitz]\n', 5, "Did you mean 'logits'?"), ('"ce,logits"', 'ce', 6, "losses has 'ce' twice"), ('.3]\n', '.3, 3]\n', 7, 'fraction=3.0 is not above 0'),
    ('fraction: [.1', 'fraction: [.1, 1e-1', 7, 'fraction=1e-1 makes the same runs as fraction=.1 (line 7)'), ('[.1, .3]', '[]', 7, 'fraction is an empty list'),
    ('seeds: 2', 'seeds: 0', 8, 'seeds=0 is no number of seeds'), ('seeds: 2', 'seeds: [0, x]', 8, "seed='x' is not a whole number"), ('seeds: 2', 'seeds:', 8, 'seeds has no value'),
    ('losses: ce, seeds', 'loses: ce, seeds', 10, "Did you mean 'losses'?"), ('copy_base, losses: ce', 'scratch, losses: ce', 10, 'this arm makes the same runs as the lists of the study'),
    ('copy_base', 'pretrained', 10, "init='pretrained' needs the small checkpoint"), ('fraction: .3}', 'fraction: .2}', 12, 'this exclusion fits no run: fraction=.2 is not among .1, .3'),
    ('{init: scratch, fraction: .3}', '{seed: [0, 1]}', 11, 'exclusions leave no run'), ('tiny: true', 'tiny: maybe', 13, "tiny='maybe' is not a choice"),
    ('tiny: true', 'tiny: true\nfraction: .1', 14, 'fraction stands here again, after line 7'), ('tiny: true', 'layers: 99', 13, 'layers=99 is impossible'),
    ('tiny: true', 'languages: [de, en]', 13, 'languages is a list, and a study tries each value of a list on its own; write languages: de,en'),
    ('tiny: true', 'design: factor', 13, "Did you mean 'factorial'?"), ('tiny: true', 'controls: [scratch, same_stat]', 13, "Did you mean 'same_start'?"),
    ('tiny: true', 'reference: copy_base/paper', 13, 'is no arm of this study'), ('tiny: true', 'reference: copy_ft', 13, 'fits several arms'), ('tiny: true', 'baseline: copy_ft', 13, 'baseline is for design: ablation'),
    ('tiny: true', 'out_dir: [a, b]', 13, 'out_dir is a list'), ('tiny: true', 'name: a/b', 13, 'is no name of a file'), ('tiny: true', 'seed: 1', 13, 'seed and seeds are both given'),
    ('seeds: 2', 'seeds: 1000000000', 8, 'write seeds: [1000000000] for that one seed'), ('seeds: 2', 'seeds: 15000', 8, 'it has at most 20,000; write seeds: [15000]'),
    ('seeds: 2', 'seeds: []', 8, 'seeds is empty'), ('question: Which start is best?', 'question: [a, b]', 2, 'question is one sentence'),
    ('[copy_ft, scratch]', '[copy_ft, null]', 3, 'a value of init is empty'), ('tiny: true', 'tiny: true\n<<: *a', 14, 'found undefined alias'),
    ('[.1, .3]', '&a {lr: .1}\n<<: *a', 8, 'merges (<<) are not read'), ('[.1, .3]', '[[[[[.1]]]]]', 7, 'nested too deeply'),
    ('init: [copy_ft, scratch]', 'init: [copy_ft, scratch', 3, 'this is no YAML'), ('Which start is best?\ninit', '""\ninit', 2, 'question is empty'),
    *[('tiny: true', f'{k}: {empty}', 13, f'{k} is empty; give a value, or leave it out.') for k,empty in
      (('reference', '{}'), ('reference', '""'), ('baseline', '[]'), ('controls', '[]'), ('name', '""'))],
    *[(TEXT[TEXT.index(f'{k}:'):], f'{k}: {empty}', line, f'{k} is empty') for k,line in (('arms', 9), ('exclude', 11)) for empty in ('[]', '{}', '""')],
    ('tiny: true', 'reference: {init: [copy_ft, scratch]}', 13, 'reference is one arm, and init has 2 values'),
    ('tiny: true', 'reference:\n  init: copy_ft\n  seeds: 7', 15, 'leave its seeds out'), ('tiny: true', 'reference: {init: copy_ft, seed: 5}', 13, 'leave its seeds out'),
    ('tiny: true', 'design: ablation\nbaseline: {init: [copy_ft, scratch]}', 14, 'baseline is one arm, and init has 2 values'),
    ('tiny: true', 'design: ablation\nbaseline: {init: scratch, fraction: .1}', 14, 'fraction is no factor of an ablation'),
    ('tiny: true', 'design: ablation\nbaseline: {init: scratch, seeds: 9}', 14, 'leave its seeds out'),
    ('tiny: true', 'controls: {same_start: no}', 13, 'is no list; give default, all, off'), ('tiny: true', '? [a, b]\n: c', 13, 'a key is a list or a mapping'),
    ('tiny: true', 'max_tokens: 1\npieces: 1', 14, 'pieces is the former name of max_tokens'),
    ('losses: ce, seeds: 1}', 'fraction: .1}\ndesign: learning_curve', 10, 'fraction=.1 is one share of the data')])
def test_a_wrong_line_is_named(write, old, new, line, says):
    message = said(write(old, new))
    assert message.startswith(f'starts.yaml, line {line}: ') and says in message and message.count('starts.yaml') == 1


WORD = 'copy_ft:greedy/refit'


@pytest.mark.parametrize('reference', [f'{WORD}/ce,kl', dict(init=WORD, losses='ce,kl'), 'copy_ft/ce,kl/refit=0.010/depth=greedy', dict(init='copy_ft', depth='greedy', refit=.01, losses='kl,ce')])
def test_an_init_word_is_a_reference(reference):
    study = Study(init=[WORD, 'copy_ft', 'scratch'], losses=['ce', 'ce,kl'], seeds=1, controls='off', tiny=True, reference=reference)
    assert {k: study.reference[k] for k in ('init', 'depth', 'refit')} == dict(init='copy_ft', depth='greedy', refit='0.01')
    assert len({tuple(a.values()) for _,a,_ in study.arms()}) == len(study) == 6          # each arm is told from the others
    assert Study(init=[WORD, 'copy_ft'], losses=['ce', 'ce,kl'], tiny=True).reference['refit'] == '0.01'
    assert Study(init=[WORD, 'copy_ft'], losses=['ce', 'ce,kl'], tiny=True, reference='copy_ft/ce,kl').reference == dict(init='copy_ft', losses='ce,kl')


def test_an_init_word_is_an_explicit_arm():
    arms = [f'{WORD}/ce,kl', 'copy_ft/refit=0.01/ce', 'copy_ft:greedy/width=16/heads=2/ce,kl', dict(init='copy_ft:last/ffn=32', losses='ce,kl')]
    study = Study(arms=arms, seeds=1, controls='off', tiny=True, layers=2, depth='first', reference=arms[3])
    assert [(c.init, c.depth, c.refit, c.width, c.ffn, c.losses) for c in study.configs] == [
        ('copy_ft', 'greedy', .01, '', '', 'ce,kl'), ('copy_ft', 'first', .01, '', '', 'ce'),
        ('copy_ft', 'greedy', 0., '16:pca', '', 'ce,kl'), ('copy_ft', 'last', 0., '', '32:minitron', 'ce,kl')]


@pytest.mark.parametrize('baseline, listed, starts', [
    ('copy_ft:first/ce', ['copy_ft:first', 'scratch'], [('copy_ft', 'first'), ('scratch', 'auto'), ('copy_ft', 'first')]),
    (dict(init='copy_ft:first', losses='ce'), ['scratch', 'copy_ft:first'], [('copy_ft', 'first'), ('scratch', 'auto'), ('copy_ft', 'first')]),
    ('copy_ft:last/ce', ['copy_ft:first', 'scratch'], [('copy_ft', 'last'), ('copy_ft', 'first'), ('scratch', 'auto'), ('copy_ft', 'last')])])
def test_an_init_word_is_a_baseline(baseline, listed, starts):
    study = Study(design='ablation', baseline=baseline, init=listed, losses=['ce', 'ce,kl'], seeds=1, controls='off', tiny=True)
    assert [(c.init, c.depth) for c in study.configs] == starts and [c.losses for c in study.configs] == ['ce']*(len(starts)-1)+['ce,kl']


def test_an_init_word_that_says_something_else_is_refused_with_its_line(write):
    assert said(write('{init: copy_base, losses: ce, seeds: 1}', '{init: copy_ft:first, depth: last}')).startswith('starts.yaml, line 10: init=copy_ft:first says depth=first, but depth=last')
    assert said(write('{init: copy_base, losses: ce, seeds: 1}', 'copy_ft:frist/refit')).startswith("starts.yaml, line 10: depth='frist' is not a choice")


@pytest.mark.parametrize('text, says', [
    ('{\n"init": "scratch", // one\n"seeds": 1}', 'a.json, line 2: this is no JSON'), ('{\n"init": "scratch"\n"seeds": 1}', "a.json, line 3: this is no JSON (expecting ',' delimiter"),
    ('{"init": "\\ud83c"}', 'a.json, line 1: this has half of a character'), ('['*50_000, 'a.json is nested too deeply'), ('', 'a.json is empty')])
def test_json_is_refused_as_json(tmp_path, text, says):
    (tmp_path/'a.json').write_text(text)
    assert said(tmp_path/'a.json').startswith(says)


def test_a_character_of_two_escapes_is_written_again(tmp_path):
    (tmp_path/'a.json').write_text(json.dumps(dict(question='Which? 🎯', init='scratch', losses='ce', seeds=1, tiny=True, out_dir=str(tmp_path/'runs'))))
    Study.read(tmp_path/'a.json').write()
    assert read_study(tmp_path/'runs')['question'] == 'Which? 🎯'


@pytest.mark.parametrize('given, says', [
    (dict(arms=5), 'arms=5 is no list'), (dict(exclude=5), 'exclude=5 is no list'), (dict(arms=''), "has no value for init"), (dict(arms={}), 'an arm names no parameter'),
    (dict(exclude={}), 'an exclusion is written as'), (dict(reference={}), 'an arm names no parameter'), (dict(reference=[]), 'an arm names no parameter'),
    (dict(seeds=True), 'seeds=True is no number of seeds'), (dict(seeds=''), "seeds='' is not a whole number"), (dict(controls=dict(same_start=False)), 'is no list'),
    (dict(question=dict(init='scratch')), r'write Study\(\*\*given\)')])
def test_what_python_cannot_mean_is_refused(given, says):
    with pytest.raises(InputError, match=says): Study(init='scratch', losses='ce', tiny=True, **given)


def test_a_run_of_many_seeds_is_checked_once(monkeypatch):
    checked, settle = [], RunConfig.settle
    monkeypatch.setattr(RunConfig, 'settle', lambda self: (checked.append(self), settle(self)))
    study = Study(init=['copy_ft', 'scratch'], losses=['ce,logits', 'paper'], depth=['first', 'random'], arms=[dict(init='noise', seeds=[7])], seeds=40, tiny=True)
    assert len(study) > 400 and len(checked) < 80
    assert [p.name for p in study.runs[::17]] == [content_key(p.cfg.identity()) for p in study.runs[::17]]
    assert [p.cfg for p in study.runs[::17]] == [RunConfig(**vars(p.cfg)) for p in study.runs[::17]]


def test_words_of_yaml_that_are_no_truth_values(write):
    study = Study.read(write('tiny: true', 'vocab: off\nunpadding: on\nout_dir: yes'))
    assert {(c.vocab, c.unpadding, c.out_dir) for c in study.configs} == {('off', 'on', 'yes')}


def test_what_is_changed_has_no_line(write):
    assert said(write(), init='scrach').startswith("init='scrach'") and said(write(), exclude=[dict(init='x')]).startswith('this exclusion')
    assert len(asked(Study.read(write(), exclude=[], arms=[], seeds=1, fraction=.1))) == 4


@pytest.mark.parametrize('given, roles', [
    (dict(losses='ce,logits'), {('copy_ft', 'ce'): 'same_start', ('scratch', 'ce,logits'): 'scratch', ('scratch', 'ce'): 'scratch'}),
    (dict(losses='ce'), {}), (dict(losses='ce,logits', controls='no'), {}), (dict(losses='ce,logits', init='scratch'), {('scratch', 'ce'): 'same_start'}),
    (dict(losses='ce,logits', controls='same_start'), {('copy_ft', 'ce'): 'same_start'}), (dict(losses=['ce', 'ce,logits'], init=['copy_ft', 'scratch']), {}),
    (dict(losses='ce,logits', student='my_small'), {('copy_ft', 'ce'): 'same_start', ('scratch', 'ce,logits'): 'scratch', ('scratch', 'ce'): 'scratch',
                                                    ('pretrained', 'ce,logits'): 'pretrained', ('pretrained', 'ce'): 'pretrained'})])
def test_every_distilled_arm_has_its_controls(given, roles):
    study = Study(**given, seeds=2, tiny=True)
    found = {(p.cfg.init, p.cfg.losses): p.role for p in study.runs if p.role not in ('asked', 'random_subset')}
    assert found == roles and len({p.name for p in study.runs}) == len(study) and {p.cfg.seed for p in study.runs} == {0, 1}


def test_a_start_without_copied_layers_is_run_once_for_all_depths():
    study = Study(depth=['first', 'last'], losses='ce,logits', seeds=1, tiny=True)
    assert [(p.cfg.init, p.cfg.losses) for p in study.runs if p.role == 'scratch'] == [('scratch', 'ce,logits'), ('scratch', 'ce')]
    layers = [p for p in Study(depth=['first', 'last'], losses='paper', seeds=1, tiny=True).runs if p.role == 'scratch']
    assert [(p.cfg.losses, p.cfg.depth) for p in layers] == [('paper', 'first'), ('ce', 'auto'), ('paper', 'last')]   # its layers are compared


def test_a_value_that_some_runs_do_not_read():
    study = Study(init=['copy_ft', 'pretrained'], student=['a', 'b'], losses='ce', seeds=1, tiny=True)
    assert [(c.init, c.student) for c in study.configs] == [('copy_ft', 'a'), ('pretrained', 'a'), ('pretrained', 'b')]


def test_designs():
    given = dict(init=['copy_ft', 'scratch', 'copy_base'], losses=['paper', 'ce'], depth=['auto', 'first'], fraction=[.3, .1], seeds=1, controls='off', tiny=True)
    def arms(study): return [(c.fraction, c.init, c.losses, c.depth) for c in study.configs]
    assert len(arms(Study(**given))) == 22                       # scratch and ce read no depth
    first = [(.3, 'copy_ft', 'paper', 'auto'), (.3, 'scratch', 'paper', 'auto'), (.3, 'copy_base', 'paper', 'auto'), (.3, 'copy_ft', 'ce', 'auto'), (.3, 'copy_ft', 'paper', 'first')]
    assert arms(Study(**given, design='ablation')) == first + [(.1, *a[1:]) for a in first]
    other = arms(Study(**given, design='ablation', baseline='copy_base/ce'))
    assert other[0] == (.3, 'copy_base', 'ce', 'auto') and len(other) == 10 and (.3, 'copy_base', 'paper', 'auto') in other
    with pytest.raises(InputError, match='depth=first makes the same runs as depth=auto'): Study(**given, design='ablation', baseline='scratch/ce')
    curve = arms(Study(**{**given, 'depth': 'auto', 'losses': 'ce'}, design='learning_curve'))
    assert [a[0] for a in curve] == [.1]*3+[.3]*3
    assert [c.fraction for c in Study(design='learning_curve', losses='ce', seeds=1, tiny=True).configs] == [.01, .03, .1, .3, 1]
    with pytest.raises(InputError, match='a learning curve needs several'): Study(design='learning_curve', fraction=.1)


def test_the_definition_is_kept_beside_the_runs(tmp_path):
    out = str(tmp_path/'runs')
    first, second = (Study(question=q, init=i, losses='ce,logits', seeds=1, tiny=True, out_dir=out) for q,i in (('One?', 'copy_ft'), ('Two?', 'copy_base')))
    assert read_study(tmp_path) == {} == (read_study(out) if Path(out).exists() else {})
    first.write()
    assert second.write().name == 'two.study.json'
    assert {d['question'] for d in read_studies(out)} == {'One?', 'Two?'} and read_study(out, 'one')['reference'] == dict(init='copy_ft', losses='ce,logits')
    kept = read_study(out, 'two')
    assert [(r['run'], r['role']) for r in kept['runs']] == list(second.roles.items()) and kept['definition']['init'] == 'copy_base'
    assert Study(**kept['definition']).roles == second.roles                                  # it can be made again from its record


def test_the_definition_of_another_study_stays(write, tmp_path):
    def read(file='starts.yaml', old='', new='', **options): return Study.read(write(old, new, file), out_dir=str(tmp_path/'runs'), **options)
    def kept(name='starts'): return {r['run'] for r in read_study(tmp_path/'runs', name)['runs']}
    read(seeds=1).write()
    assert kept() == {*read(seeds=1).roles}
    read().write()                                                                            # after a trial, the whole
    for options in (dict(seeds=1), dict(controls='off'), dict(epochs=3), {}):
        read(**options).write()
        assert kept() == {*read().roles}, options
    more = read(seed=[5], seeds=None)
    more.write(), read().write()
    assert kept() == {*read().roles} | {*more.roles}                                          # another seed comes to it
    read(tiny=True).write()
    assert kept('starts-tiny') == {*read(tiny=True).roles}
    (tmp_path/'b').mkdir()
    other = read('b/starts.yaml', 'Which start', 'Which loss', epochs=3)
    for begin in (other.merged, other.write, read('b/starts.yaml', 'Which start', 'Which loss', seeds=1).write):
        with pytest.raises(InputError, match="has another study called starts, which asks 'Which start is best"): begin()
    read('b/starts.yaml', 'Which start', 'Which loss', epochs=3, name='losses').write()
    assert kept('losses') == {*other.roles} and read_study(tmp_path/'runs', 'starts')['question'] == 'Which start is best?'
    edited = read(old='seeds: 2', new='seeds: 2\nepochs: 4')
    edited.write()
    assert kept() == {*edited.roles}                                                          # the same question in an edited file


def test_the_public_study_opens_finished_runs():
    from privkd_nb.analysis.load import Study as Reader
    assert type(Study.open('sample')) is Reader and len(Study.open('sample')) == 72


# ---- the plan, and what is run of it

SECONDS = dict(training=40., scoring=8., outputs=30.)


def record(cfg, **phases):
    "A finished run as far as its times go: 100 steps of .4 s, 8 s beside them"
    from privkd_nb.core import write_checksums, write_json
    from privkd_nb.record import Run
    run, s = Run.named(cfg.out_dir, cfg.identity()), SECONDS | phases
    run.path.mkdir(parents=True)
    write_json(run.path/'config.json', cfg.identity())
    times = {'training': dict(seconds=s['training']), "computing the teacher's outputs": dict(seconds=s['outputs']), 'scoring the student': dict(seconds=s['scoring'])}
    write_json(run.path/'environment.json', dict(phases=times, seconds=sum(s.values()), why='CPU, 1 threads, float32'))
    write_json(run.path/'progress.json', dict(state='finished', step=100, steps=100))
    write_checksums(run.path/'done.json', ('progress.json',))
    return run


@pytest.fixture
def study(tmp_path, monkeypatch):
    "Eight runs on the playground; its teacher is said to be in the cache"
    monkeypatch.setattr('privkd_nb.studies.plan.teacher_cached', lambda cfg: True)
    return Study(question='Which?', init=['copy_ft', 'scratch'], losses=['ce', 'ce,logits'], seeds=2, controls='off', out_dir=str(tmp_path/'runs'))


def test_a_plan_without_a_record_says_that_no_time_is_known(study):
    plan = study.plan()
    assert plan.counts() == '8 runs: 0 on record, 8 to train' and plan.unknown == 8 and 'not known' in plan.time_words()
    assert plan.teacher_words() == ['teachers: 1 in the cache', 'teacher passes over training texts: 2 to make, for 4 distilled runs']
    assert not study.out_dir.exists()                                                         # a plan leaves nothing


@pytest.mark.parametrize('which', [
    dict(losses=['ce', 'ce,logits', 'kl', 'paper']), dict(losses='paper', init=['copy_ft', 'noise', 'random_subset'], seeds=3, fraction=1), dict(losses='paper', depth=['first', 'last', 'stride_odd']),
    dict(losses='embedding,logits', depth=['first', 'last'], fraction=[.2, 1]), dict(losses='ce,logits', tiny=True, fraction=1), dict(losses='ce,logits', scenario=['en', 'all'])])
def test_passes_are_those_of_the_cache(which):
    from privkd_nb.init.depth import resolve_layers
    from privkd_nb.jobs.fine_tune import load_data
    from privkd_nb.losses.terms import parse_losses, required_outputs, teacher_terms
    from privkd_nb.studies.plan import pass_keys
    texts, real = {}, set()
    runs = Study(**dict(dict(seeds=2, controls='off'), **which)).runs
    for c in (p.cfg for p in runs):
        key = c.scenario, c.fraction, c.seed
        if key not in texts: texts[key] = content_key(sorted(load_data(c).train.text))
        n = c.known_depth()
        needed = required_outputs(teacher_terms(parse_losses(c.losses)), resolve_layers(c.depth_rule(), n, None, c.lacks(), c.seed), n_layers=n)
        real |= {(texts[key], *o) for o in [('logits',)]*needed.logits+[(needed.hidden, needed.attention)]*needed.inner}    # a store holds either
    assert len({k for p in runs for k in pass_keys(p)}) == len(real) > 0


def test_times_follow_from_the_steps_of_runs_on_record(study):
    first = record(study.configs[0])                                                          # copy_ft, ce: 40 s of training, and 8
    plan = study.plan()
    assert plan.states[first.path.name] == 'on record' and [round(d.seconds, 6) for d in plan.due] == [78., 48., 48., 48., 78., 48., 48.]
    assert plan.due[0].basis == '1 run with other losses' and plan.due[1].basis == '1 run of the same kind'
    assert round(plan.seconds) == 396 and plan.time_words() == 'time: about 7 min, one run after another, 60 s of it for teachers (by runs with other losses and runs of the same kind)'
    record(study.configs[1], training=60., outputs=0.)                                        # its pass is made, and its own losses are known
    plan = study.plan()
    assert [round(d.seconds, 6) for d in plan.due] == [48., 68., 48., 68., 48., 68.]
    assert 'teacher passes over training texts: 1 to make, for 3 distilled runs' in plan.words() and plan.cells().on_record.tolist() == [1, 1, 0, 0]


def test_data_of_one_name_are_two_cells(tmp_path):
    for folder, text in dict(a='Yes', b='No').items():
        (tmp_path/folder).mkdir()
        (tmp_path/folder/'d.csv').write_text('text,label,language\n'+f'{text},y,en\nIt is,n,en\n'*5)
    study = Study(init='scratch', losses='ce', dataset=[str(tmp_path/f/'d.csv') for f in 'ab'], seeds=1, out_dir=str(tmp_path/'runs'))
    assert study.plan().cells()[['dataset', 'seeds', 'to_train']].values.tolist() == [['a/d.csv', 1, 1], ['b/d.csv', 1, 1]]


def test_steps_grow_with_epochs_data_and_languages(study, tmp_path):
    from privkd_nb.studies.times import estimate, measured_runs
    record(study.configs[0])
    def seconds(**change): return round(estimate(RunConfig(**dict(init='scratch', losses='ce', seed=4) | change).identity(), measured_runs(study.out_dir)).seconds, 6)
    assert [seconds(), seconds(epochs=20), seconds(fraction=.2), seconds(scenario='cl'), seconds(scenario='en')] == [48., 88., 88., 28., round(8+40/12, 6)]
    assert str(seconds(max_length=64)) == str(seconds(tiny=True)) == 'nan'                    # another kind: not known


def test_a_teacher_to_fine_tune_is_in_the_plan(study, monkeypatch):
    monkeypatch.setattr('privkd_nb.studies.plan.teacher_cached', lambda cfg: False)
    record(study.configs[0])
    plan = study.plan()
    assert plan.teacher_words()[0] == 'teachers: 1 to fine-tune'
    assert round(plan.due[0].once) == 30+2*40*4*1/(10*.1) and plan.due[2].once == 0           # four epochs of all data, with twice the layers


def test_a_damaged_run_is_made_again(study):
    run = record(study.configs[0])
    (run.path/'config.json').unlink()
    plan = study.plan()
    assert plan.counts() == '8 runs: 0 on record, 1 damaged (`privkd verify` says why), 8 to train'
    assert f'{run.path.name}: config.json is missing' in plan.words()[1]


@pytest.fixture
def engine(monkeypatch):
    "Instead of an engine: records what it is given, a minute a run on a clock of its own"
    from types import SimpleNamespace
    clock, lots = SimpleNamespace(now=0.), []
    def run_configs(configs, engine, workers, report, **how):
        lots.append(len(configs))
        for i,c in enumerate(configs, 1):
            record(c, training=52., outputs=0.)
            clock.now += 60
            report(f'{i}/{len(configs)} a run: accuracy 0.5 (60 s)')
    monkeypatch.setattr('privkd_nb.studies.running.run_configs', run_configs)
    monkeypatch.setattr('privkd_nb.studies.running.time', SimpleNamespace(monotonic=lambda: clock.now))
    return SimpleNamespace(lots=lots, clock=clock)


def test_runs_are_begun_while_they_fit(study, engine):
    lines = []
    runs = study.run(max_hours=5.5/60, report=lines.append)
    assert len(runs) == 5 and engine.clock.now == 300 and engine.lots[0] == 1                 # the first one measures
    assert lines[:5] == [f'{i}/8 a run: accuracy 0.5 (60 s)' for i in range(1, 6)]
    assert lines[5].startswith('3 runs not begun, because 30 s are left, and the shortest takes about 60 s: ') and 'seed 1' in lines[5]
    assert len(study.run(max_hours=1, report=lines.append)) == 8 and read_study(study.out_dir)['question'] == 'Which?'


def test_a_lot_that_is_refused_does_not_end_the_study(study, engine, monkeypatch):
    "The first run has no teacher, and its lot is this run alone"
    from privkd_nb.studies import running
    trains, lots = running.run_configs, iter([True])
    def first_refused(configs, *a, **kw):
        if next(lots, False): raise InputError('no run of the study could begin: no such teacher')
        return trains(configs, *a, **kw)
    monkeypatch.setattr(running, 'run_configs', first_refused)
    with pytest.raises(ResultError, match='no such teacher'): study.run(max_hours=1, report=lambda line: None)
    assert sum(engine.lots) == 7


def test_a_refused_study_leaves_nothing(study, monkeypatch, tmp_path):
    def refuse(*a, **kw): raise InputError('no run of the study could begin: x')
    monkeypatch.setattr('privkd_nb.studies.running.run_configs', refuse)
    for hours in (0, 1):
        with pytest.raises(InputError, match='could begin'): study.run(max_hours=hours)
    assert list(tmp_path.iterdir()) == []
    for wrong in (dict(max_hours=-1), dict(engine='pol'), dict(workers=-2)):
        with pytest.raises(InputError): study.run(**wrong)
    assert list(tmp_path.iterdir()) == []


# ---- in the terminal

def test_the_terminal_shows_the_plan_and_trains_nothing(write, tmp_path, monkeypatch, capsys):
    from privkd_nb.cli import main
    monkeypatch.chdir(tmp_path)
    path = str(write('tiny: true', 'tiny: true\nout_dir: runs'))
    assert main(['study', path, '--dry-run', '--controls', 'off']) == 0
    out = capsys.readouterr().out
    assert out.startswith('Which start is best?\n') and '14 runs: 0 on record, 14 to train' in out and 'copy_base · ce' in out and sorted(p.name for p in tmp_path.iterdir()) == ['starts.yaml']
    for wrong in (['--engine', 'pol'], ['--workers', '-1'], ['--max-hours', '-1'], ['--address', 'auto'], ['--storage', 'x', '--redo']):
        assert main(['study', path, '--dry-run', *wrong]) == 2 and not capsys.readouterr().out
    assert main(['study', path, '--dry-run', '--init', 'copy_f']) == 2 and "init='copy_f' is not a choice" in capsys.readouterr().err
    assert main(['study', str(write('init:', 'inti:'))]) == 2
    assert capsys.readouterr().err == "privkd: starts.yaml, line 3: inti is neither a parameter of a run nor a key of a study. Did you mean 'init'?\n"


def test_options_make_the_runs_of_before_and_their_controls(engine, monkeypatch, tmp_path, capsys):
    from privkd_nb.cli import main
    seen = []
    monkeypatch.setattr('privkd_nb.cli.study.print_study', lambda runs, roles: seen.append(len(runs)))
    monkeypatch.setattr('privkd_nb.studies.running.run_configs', lambda configs, engine, workers, report, **how: seen.append((configs, engine, workers, how)) or [1])
    options = ['--init', 'scratch', 'copy_ft', '--losses', 'ce', 'ce,logits', '--seed', '0', '1', '--tiny', '--out_dir', str(tmp_path)]
    assert main(['study', *options, '--controls', 'off', '--workers', '2']) == 0
    configs, *how = seen[0]
    assert configs == grid(init=['scratch', 'copy_ft'], losses=['ce', 'ce,logits'], seed=[0, 1], tiny=True, out_dir=str(tmp_path)) and how == ['pool', 2, {}]
    assert main(['study', *options]) == 0
    assert [c.init for c in seen[2][0] if c not in configs] == ['random_subset']*2 and seen[2][1:] == ('here', 1, {})
    assert '10 runs (8 asked for, 2 controls)' in capsys.readouterr().out
    assert main(['study', *options, '--workers', '0']) == 2 and 'workers=0 must be at least 1' in capsys.readouterr().err


# ---- the page

def test_the_page_answers_a_study_of_ones_own(tmp_path, monkeypatch):
    "As papermill runs it, but in this process, which has the libraries"
    import plotly.io
    from execnb.shell import CaptureShell
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plotly.io.renderers, 'default', plotly.io.renderers.default)
    (tmp_path/'mine.yaml').write_text('question: Copied or not?\ninit: [copy_ft, scratch]\nlosses: ce\ntiny: true\nout_dir: runs\n')
    page = load_notebook_node(str(Path(__file__).parent.parent/'nbs'/'study.ipynb'))
    nb, shell = parameterize_notebook(page, dict(file='mine.yaml', seeds=1), kernel_name='python3', language='python'), CaptureShell(path=tmp_path)
    said = []
    for c in (c for c in nb.cells if c.cell_type == 'code'):
        said += [str(o.get('data', {}).get('text/markdown', o.get('text', ''))) for o in shell.run(c.source)]
        if shell.exc: raise shell.exc
    assert any('Copied or not?' in s for s in said) and any('2 of 2 runs on record' in s for s in said)
    assert any('one seed: too few to say' in s and 'scratch · ce' in s for s in said)       # one seed, one set of losses
    assert read_study(tmp_path/'runs')['name'] == 'mine'


def test_papermill_understands_the_parameters_of_the_page():
    from papermill import inspect_notebook
    found = inspect_notebook(str(Path(__file__).parent.parent/'nbs'/'study.ipynb'))
    assert list(found) == ['file', 'out_dir', 'seeds', 'engine', 'workers', 'max_hours', 'tiny'] and all(v['help'] for v in found.values())


@pytest.mark.parametrize('controls', ['all', 'permuted', 'noise', 'head_only', 'embeddings_only', 'shuffled'])
def test_a_refitted_start_has_every_control(controls):
    study = Study(init='copy_ft:greedy/refit', losses=['ce', 'ce,logits'], seeds=1, controls=controls, tiny=True, name='fitted')
    refit = {c.init: c.refit for c in study.configs}
    assert refit['copy_ft'] == .01 and len(refit) > 1
    assert all(r == (.01 if i in ('copy_ft', 'body_only', 'random_subset') else 0) for i, r in refit.items())
