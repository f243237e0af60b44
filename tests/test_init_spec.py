"An initialization in one word: what it reads, prints, refuses, and builds"
import itertools, json, random

import numpy as np, pytest, torch

from privkd_nb import Study
from privkd_nb.core import InputError
from privkd_nb.data.encoding import Encoded
from privkd_nb.init.card import MADE, InitCard, shares
from privkd_nb.init.depth import DEPTH_RULES, MEASURED, MERGED, by_texts
from privkd_nb.init.spec import COPIED, RANDOM, SOURCES, WIDTH_METHODS, InitSpec
from privkd_nb.init.methods import check_origin
from privkd_nb.init.student import init_student
from privkd_nb.jobs.config import LATER, RunConfig, recorded_spec
from privkd_nb.models.encoders import weights_hash
from privkd_nb.models.tiny import tiny_model


def drawn_spec(rng):
    "Any spec that can be, as keyword arguments"
    source = rng.choice([s for s in SOURCES if s != 'pretrained'])
    depth = 'auto' if source == 'random_subset' else rng.choice(['auto', 'random:7', '1,3,5', *DEPTH_RULES, *MEASURED, *(() if source == 'shuffled' else MERGED)])
    kw = dict(source=source, depth=depth, vocab=rng.choice(['off', 'auto', 30000]), seed=rng.choice([0, 3]))
    if depth != '1,3,5': kw['n_layers'] = rng.choice([None, 3])
    if rng.random() < .6:
        kw |= {k: rng.choice([None, n]) for k, n in dict(heads=6, ffn=768).items()} | dict(width=rng.choice([192, 384]))
        if source not in RANDOM: kw |= dict(method=rng.choice(['', *WIDTH_METHODS]), steps=rng.choice([1, 8]))
        if kw.get('method') in ('truncate', 'select', 'pca', 'guide'): kw['steps'] = 1
    if source in COPIED and source != 'shuffled': kw['refit'] = rng.choice([0., .01, .125])
    if source in ('copy_ft', 'copy_base'): kw['parts'] = 'head' if not kw.get('refit') and not by_texts(depth) else rng.choice(['embeddings,encoder,head', 'embeddings,encoder'])
    if source == 'scratch': kw['config'] = rng.choice([None, dict(hidden_size=64, hidden_act='relu') if 'width' not in kw else dict(hidden_act='relu')])
    if source == 'shuffled' and depth in MERGED: kw['depth'] = 'last'
    if source == 'copy_base':                                    # it has no head that labels could judge
        if depth in MEASURED and MEASURED[depth].needs == 'labels': kw['depth'] = 'influence'
        if kw.get('method') == 'taylor': kw['method'] = 'minitron'
    return kw


def test_every_spec_reads_back_from_its_word_and_from_json():
    rng, words = random.Random(0), set()
    for _ in range(400):
        spec = InitSpec(**drawn_spec(rng))
        assert InitSpec.parse(str(spec)) == spec, str(spec)
        assert InitSpec(**json.loads(json.dumps(spec.as_json()))) == spec
        assert not set(str(spec)) & set(' ;"\'$&|<>()*?\\')       # it needs no quotes in a shell
        words.add(str(spec))
    assert len(words) > 300


def test_options_may_stand_in_any_order():
    options = ['width=384:taylor:8', 'heads=6', 'refit', 'vocab=30000', 'layers=6']
    assert len({InitSpec.parse('/'.join(['copy_ft:endpoints', *o])).word() for o in itertools.permutations(options)}) == 1


@pytest.mark.parametrize('word,says', {
    '': "init='' is not a choice", 'copy_ft:greddy': "Did you mean 'greedy'?", 'copy_ft/width=0': 'width=0 is too small',
    'copy_ft/width=384:minitron:8:9': 'has 4 parts', 'copy_ft/refit=-1': 'refit=-1.0 is no ridge', 'copy_ft/width': "the option 'width' is not complete",
    'copy_ft/ffn=32/uneven': "option='uneven' is not a choice",
    'noise/refit': 'init=noise has none', 'pretrained/width=384': 'takes a checkpoint as it is', 'copy_ft/vocab=-3': 'vocab=-3 is no number of tokens',
    'copy_ft/layers=half': "layers='half' is no whole number", 'copy_ft/layers=0': 'layers=0 is no number of layers', 'copy_ft/parts=body': "parts='body' is not a choice",
    'copy_ft/width=384/width=192': 'says width twice', 'copy_ft/width=384:taylor/ffn=768:pca': 'says method twice',
    'copy_ft:1 3 5': "depth='1 3 5' is not a choice", 'copy_ft:5,3,1': 'depth=[5, 3, 1] must be increasing', 'copy_ft:1,1,1': 'must be increasing',
    'copy_ft:1,2/layers=3': 'make them agree', 'copy_ft/refit=nan': 'refit=nan is no ridge', 'copy_ft/refit=inf': 'refit=inf is no ridge', 'copy_ft//layers=3': 'an option is empty',
    'copy_ft/': 'an option is empty', 'copy_ft/layers=3/layers=6': 'says layers twice', 'copy_ft/width=1e3': "width='1e3' is no whole number",
    'scratch/config.x=[1': 'is no number, text or list', 'scratch/config.=3': 'names no setting', 'scratch/width=16/config.hidden_size=32': 'say the same size twice',
    'shuffled/refit': 'init=shuffled puts others there', 'shuffled:stride/refit': 'init=shuffled puts others there', 'copy_ft:greedy/parts=head': 'parts=head copies none',
    'copy_ft:mean/parts=head': 'parts=head copies none', 'copy_base:greedy': 'the base model has no head of the task', 'copy_base/width=16:taylor': 'the base model has no head',
    'copy_ft/refit/parts=head': 'leaves out what they need', 'copy_ft/width=64:select:4': 'select ranks by place alone', 'copy_ft/width=64:guide:4': 'guide projects once'}.items())
def test_nonsense_is_one_sentence(word, says):
    with pytest.raises(InputError) as e: InitSpec.parse(word)
    assert says in str(e.value) and '\n' not in str(e.value)


def test_one_word_and_its_parts_are_one_run():
    words = dict(init='copy_ft:greedy/layers=3/width=64:taylor:8/refit/vocab=30000/parts=embeddings+encoder')
    parts = dict(init='copy_ft', depth='greedy', layers=3, width='64:taylor:8', refit=.01, vocab='30000', parts='embeddings,encoder')
    a, b = RunConfig(**words, losses='ce'), RunConfig(**parts, losses='ce')
    assert a == b and a.identity() == b.identity() and recorded_spec(a.identity()) == a.init_spec()
    assert RunConfig(width='64', losses='ce').identity() == RunConfig(width='64:pca', losses='ce').identity() != RunConfig().identity()


@pytest.mark.parametrize('given, says', [
    (dict(init='copy_ft/width=16:select', tiny=True), 'the student would have 1 head and the teacher has 2; give heads=2, or use losses=ce,logits,hidden,embedding'),
    (dict(width='9999', tiny=True), 'width=9999 is impossible: the model has 32'), (dict(width='100'), 'width=100 is no multiple'),
    (dict(width='64', losses='ce,minilm'), 'give heads=4, or use losses=ce.'), (dict(init='copy_base', depth='ablation', losses='ce'), 'has no head of the task'),
    (dict(refit=.01, parts='head'), 'leaves out what they need'), (dict(init='shuffled', refit=.01, layers=3, tiny=True), 'init=shuffled puts others there'),
    (dict(depth='1 3 5'), "depth='1 3 5' is not a choice"), (dict(match='1 3 5', losses='hidden'), "match='1 3 5' is not a choice"),
    (dict(init='copy_ft:auto', depth='first'), 'says depth=auto, but depth=first was given'), (dict(width='64:pca:8', losses='ce'), 'pca projects once')])
def test_what_no_teacher_could_give_is_refused_before_anything_runs(given, says):
    with pytest.raises(InputError) as e: RunConfig(**given)
    assert says in str(e.value) and 'hidden=' not in str(e.value)


def test_a_teacher_on_disk_is_asked_for_its_sizes(tmp_path):
    def folder(arch, **more):
        d = tiny_model(arch, layers=4).config.to_dict() | more
        (tmp_path/arch).mkdir(exist_ok=True)
        (tmp_path/arch/'config.json').write_text(json.dumps(d))
        return dict(teacher=str(tmp_path/arch), losses='ce,logits')
    for arch in ('xlmr', 'distilbert', 'eurobert', 'modernbert'):
        with pytest.raises(InputError, match='width=64 is impossible: the model has 32'): RunConfig(**folder(arch), width='64')
        assert RunConfig(**folder(arch), width='16').known_sizes().hidden_size == 32
    with pytest.raises(InputError, match='those of a modernbert are not alike'): RunConfig(**folder('modernbert'), depth='mean')
    with pytest.raises(InputError, match='would grade all 2,704,156 ways'): RunConfig(**folder('xlmr', num_hidden_layers=24), depth='exhaustive')
    with pytest.raises(InputError, match='where the feed-forward blocks of electra end'): RunConfig(**folder('xlmr', model_type='electra'), refit=.01)


def test_a_random_student_is_the_same_for_every_method_of_narrowing():
    assert str(InitSpec.parse('scratch/width=384:pca:8/parts=head')) == 'scratch/width=384'
    assert RunConfig(init='mimetic', width='32:taylor:8', losses='ce').identity() == RunConfig(init='mimetic/width=32', losses='ce').identity()


def test_a_study_has_arms_by_one_word_and_controls_that_fit_them():
    words = ['copy_ft:endpoints', 'shuffled', 'copy_ft:greedy/width=16:taylor:2/refit', 'mimetic']
    study = Study(init=words, losses=['ce', 'ce,logits'], seeds=1, calibration=64, tiny=True, name='starts')
    asked = study.configs
    assert {str(c.init_spec()) for c in asked} >= {'copy_ft:greedy/width=16:taylor:2/refit', 'mimetic:stride_odd'}
    assert {(c.init, c.width) for c in study.configs} >= {('scratch', '16'), ('random_subset', '16:taylor:2')}


def test_a_run_at_the_defaults_keeps_its_name():
    c = RunConfig().identity()
    assert not {'width', 'heads', 'ffn', 'refit', 'calibration'} & set(c) and {'width', 'calibration'} <= set(LATER)
    assert RunConfig(calibration=64).identity() == c and RunConfig(calibration=64, depth='influence').identity()['calibration'] == 64
    with pytest.raises(InputError, match='width=192:taylor, ffn=100:pca name different methods'): RunConfig(width='192:taylor', ffn='100:pca')


def test_an_exclusion_knows_a_start_in_any_spelling():
    words = ['copy_ft:endpoints/width=16', 'copy_ft:greedy', 'scratch']
    study = Study(init=words, losses='ce', seeds=1, controls='off', tiny=True, exclude=[dict(init='copy_ft:endpoints/width=16:pca')])
    assert {str(c.init_spec()) for c in study.configs} == {'copy_ft:greedy', 'scratch:stride_odd'}
    with pytest.raises(InputError, match='fits no run'): Study(init=words, losses='ce', tiny=True, exclude=[dict(init='copy_ft:first')]).configs


def test_what_nothing_reads_makes_no_other_run(tmp_path):
    def name(**kw): return RunConfig(**dict(losses='ce') | kw).identity()
    assert name(temp=4.) == name() and name(losses='ce,hidden', temp=4.) == name(losses='ce,hidden')
    assert name(losses='ce,kl', temp=4.) != name(losses='ce,kl')
    for init in ('scratch', 'mimetic'):
        assert name(init=f'{init}:greedy') == name(init=init)
        assert len({str(name(init=f'{init}:{d}')) for d in ('auto', 'all', '0,1')}) == 3                    # numbers of layers
        assert name(init=f'{init}:first', losses='ce,hidden') != name(init=init, losses='ce,hidden')    # the layers that are compared
        assert name(init=f'{init}:first', losses='ce,hidden', match='last') == name(init=init, losses='ce,hidden', match='last')
    assert name(init='noise:first') != name(init='noise')                                               # of which layers it has the scale
    (tmp_path/'config.json').write_text('{"model_type": "xlm-roberta", "num_hidden_layers": 3}')
    assert name(init='pretrained/layers=3', student=str(tmp_path)) == name(init='pretrained', student=str(tmp_path))
    with pytest.raises(InputError, match='layers=2, but the checkpoint has 3'): name(init='pretrained/layers=2', student=str(tmp_path))
    with pytest.raises(InputError, match='temp=-1.0 must be above 0'): name(temp=-1.)                   # also where nothing reads it


def texts(n=24):
    rng = np.random.default_rng(0)
    ids = [[5, *rng.integers(6, 120, rng.integers(2, 9)).tolist(), 6] for _ in range(n)]
    return Encoded(ids, rng.integers(0, 3, n).tolist(), [('de', 'hi')[i % 2] for i in range(n)], [str(i) for i in range(n)], None, pad_id=1, kind='sequence')


WORDS = [s for s in SOURCES if s != 'pretrained']+['copy_ft:greedy', 'copy_base:influence', 'copy_ft:laco', 'copy_ft:mean', 'copy_ft:endpoints/refit',
         'copy_ft/width=16:minitron', 'copy_ft/width=16:select/parts=encoder', 'copy_base/width=16:truncate', 'permuted/width=16:truncate', 'copy_ft:greedy/refit/width=16:minitron']


@pytest.mark.parametrize('word', WORDS)
def test_a_spec_builds_the_same_student_twice_and_its_card_is_whole(word, tmp_path):
    teacher, base = tiny_model('xlmr', layers=6, seed=1, labels=3), tiny_model('xlmr', layers=6, seed=2, labels=3)
    before = weights_hash(teacher), weights_hash(base)
    (student, card), (again, _) = (init_student(word, teacher, base, sample=texts()) for _ in range(2))
    assert weights_hash(student) == weights_hash(again) and (weights_hash(teacher), weights_hash(base)) == before
    assert not student.training and InitCard.load(card.save(tmp_path/'card.json')) == card and InitSpec.parse(card.spec).source == card.source
    assert set(card.made) <= set(student.state_dict()) and {w for how in card.made.values() for w in how.split('+')} <= set(MADE) and len(card.layers) == student.config.num_hidden_layers
    share = shares(student, card.copied, card.made)
    assert abs(sum(share.values())-1) < 1e-9 and share['copied'] == card.share_copied
    theirs = (base if card.source == 'copy_base' else teacher).state_dict()
    for k, v in student.state_dict().items():                    # what is called a copy is one
        if k in card.copied and k not in card.made: assert torch.equal(v, theirs[card.copied[k]]), k


def drawn_start(rng):
    "Any way to build a student of half the size, as a word, or None if it is refused"
    source = rng.choice(['copy_ft', 'copy_base', 'body_only', 'random_subset', 'shuffled', 'permuted', 'noise'])
    depth = '' if source == 'random_subset' else ':'+rng.choice(['first', 'mean', 'laco', 'interpolate', 'influence'])
    size = rng.choice(['', '/width=16', '/ffn=24', '/heads=2/width=8'])
    how = size and ':'+rng.choice([m for m in WIDTH_METHODS if m != 'taylor'])
    parts = rng.choice(['', '', '/parts=embeddings+encoder'])*(source not in ('body_only',))
    word = source+depth+(size+how if 'heads' not in size else f'/heads=2{how}/width=8')+rng.choice(['', '/refit'])+parts
    try: return InitSpec.parse(word).word()
    except InputError: return None


def test_a_card_never_says_less_than_was_done_to_a_tensor():
    rng = random.Random(3)
    teacher, base = (tiny_model('bert', layers=4, seed=i) for i in (1, 2))
    with torch.no_grad():                                       # no vector of ones or zeros, which every change leaves as it is
        for m in (teacher, base):
            for p in m.parameters():
                if p.ndim == 1: p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))*.1)
    words = {'copy_ft:mean/width=16:select', 'copy_ft/width=16:select/refit', 'copy_ft:laco/width=16:minitron', *filter(None, (drawn_start(rng) for _ in range(30))), 'permuted/width=16:select'}
    seen = set()
    for word in sorted(words):
        student, card = init_student(word+'/layers=2', teacher, base, sample=texts(8))
        source = base if card.source == 'copy_base' else teacher
        check_origin(student, card, source)
        done = {w for how in card.made.values() for w in how.split('+')}
        spec, mixed = InitSpec.parse(word), any(len(m) > 1 for m in card.chosen.get('mixes', []))
        if card.source != 'noise':                              # of which nothing is left
            assert ('merged' in done) == mixed, word
            assert ('refit' in done) == bool(spec.refit) == bool(card.fitted), word
            assert bool(done & {'sliced', 'scaled', 'projected'}) == spec.narrows == bool(card.width), word
        said = ' '.join(card.remarks())
        assert all(w in said for w in done) and ('narrowed by' in said) == spec.narrows and ('refitted' in said) == bool(spec.refit), word
        seen |= set(card.made.values())
    assert seen >= {'merged+sliced', 'refit+sliced', 'merged+refit+sliced', 'merged+permuted', 'sliced+permuted'}, seen


def test_what_looks_at_texts_says_that_it_has_none():
    teacher = tiny_model('xlmr', layers=6)
    for word in ('copy_ft:greedy', 'copy_ft:influence', 'copy_ft:laco', 'copy_ft/refit', 'copy_ft/width=16:minitron'):
        with pytest.raises(InputError, match='training texts; pass a sample of them'): init_student(word, teacher)
    with pytest.raises(InputError, match='the base model has no head of the task'): init_student('copy_base:greedy', teacher, teacher, sample=texts())


def test_an_old_card_still_loads(tmp_path):
    _, card = init_student('copy_ft', tiny_model(layers=4))
    old = {k: v for k, v in vars(card).items() if k not in ('spec', 'made', 'chosen', 'width', 'diagnosis', 'shares', 'fitted')}
    (tmp_path/'card.json').write_text(json.dumps(old))
    assert InitCard.load(tmp_path/'card.json').copied == card.copied


def test_figures_and_words_tell_what_was_done():
    from privkd_nb.analysis.arms import arm_words
    from privkd_nb.apps.explorer_views import layer_answer
    from privkd_nb.cli.looking import weights_text
    from privkd_nb.figures.layermap import copied_pairs, layermap_figure
    _, card = init_student('copy_ft:mean/width=16:select/refit/layers=2', tiny_model('xlmr', layers=4, seed=1), sample=texts())
    told = card._repr_markdown_(), weights_text(card)
    for text in told:
        assert all(w in text for w in ('merged', 'sliced', 'are made from copies', 'narrowed by select', '32 → 16 dimensions', 'refitted'))
    assert '0 ← 0 and 1' in told[0] and '0% of the student' not in told[1]
    assert copied_pairs(vars(card))[1:5] == [(0, 0), (1, 0), (2, 1), (3, 1)] and 'narrowed by select' in layermap_figure(card).layout.title.text
    assert layer_answer(vars(card))[1].source_layer.tolist() == ['0 and 1', '2 and 3']
    arm = 'copy_ft · ce+logits · width=16:select · refit=0.01'
    assert arm_words(arm, dict(init='copy_ft', depth='mean')) == \
        'means of neighbouring layers of the fine-tuned teacher, trained with ce + logits, narrowed to 16 dimensions by select, its layers refitted'
