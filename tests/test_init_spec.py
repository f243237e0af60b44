"An initialization in one word: what it reads, prints, refuses, and builds"
import itertools, json, random

import numpy as np, pytest, torch

from privkd_nb import Study
from privkd_nb.core import InputError
from privkd_nb.data.encoding import Encoded
from privkd_nb.init.card import MADE, InitCard, shares
from privkd_nb.init.depth import DEPTH_RULES, MEASURED, MERGED
from privkd_nb.init.spec import COPIED, RANDOM, SOURCES, WIDTH_METHODS, InitSpec
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
        if source not in RANDOM: kw |= dict(method=rng.choice(['', *WIDTH_METHODS]), steps=rng.choice([1, 8]), uneven=rng.choice([True, False]))
    if source in COPIED: kw['refit'] = rng.choice([0., .01, .125])
    if source in ('copy_ft', 'copy_base'): kw['parts'] = rng.choice(['embeddings,encoder,head', 'embeddings,encoder', 'head'])
    if source == 'scratch': kw['config'] = rng.choice([None, dict(hidden_size=64, hidden_act='relu')])
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
    options = ['width=384:taylor:8', 'uneven', 'refit', 'vocab=30000', 'layers=6']
    assert len({InitSpec.parse('/'.join(['copy_ft:endpoints', *o])).word() for o in itertools.permutations(options)}) == 1


@pytest.mark.parametrize('word,says', {
    '': "init='' is not a choice", 'copy_ft:greddy': "Did you mean 'greedy'?", 'copy_ft/width=0': 'width=0 is too small',
    'copy_ft/width=384:minitron:8:9': 'has 4 parts', 'copy_ft/refit=-1': 'refit=-1.0 must not be negative', 'copy_ft/width': "the option 'width' is not complete",
    'copy_ft/uneven': 'says how a student is narrowed, but nothing is',
    'noise/refit': 'init=noise has none', 'pretrained/width=384': 'takes a checkpoint as it is', 'copy_ft/vocab=-3': 'vocab=-3 is no number of tokens',
    'copy_ft/layers=half': "layers='half' is no number", 'copy_ft/layers=0': 'layers=0 is no number of layers', 'copy_ft/parts=body': "parts='body' is not a choice",
    'copy_ft/width=384/width=192': 'says width twice', 'copy_ft/width=384:taylor/ffn=768:pca': 'says method twice'}.items())
def test_nonsense_is_one_sentence(word, says):
    with pytest.raises(InputError) as e: InitSpec.parse(word)
    assert says in str(e.value) and '\n' not in str(e.value)


def test_one_word_and_its_parts_are_one_run():
    words = dict(init='copy_ft:greedy/layers=3/width=192:taylor:8/refit/vocab=30000/parts=embeddings+encoder')
    parts = dict(init='copy_ft', depth='greedy', layers=3, width='192:taylor:8', refit=.01, vocab='30000', parts='embeddings,encoder')
    a, b = RunConfig(**words, losses='ce'), RunConfig(**parts, losses='ce')
    assert a == b and a.identity() == b.identity() and recorded_spec(a.identity()) == a.init_spec()
    assert RunConfig(width='192').identity() == RunConfig(width='192:minitron').identity() != RunConfig().identity()


def test_a_random_student_is_the_same_for_every_method_of_narrowing():
    assert str(InitSpec.parse('scratch/width=384:pca:8/uneven')) == 'scratch/width=384'
    assert RunConfig(init='mimetic', width='16:taylor:8').identity() == RunConfig(init='mimetic/width=16').identity()


def test_a_study_has_arms_by_one_word_and_controls_that_fit_them():
    words = ['copy_ft:endpoints', 'shuffled', 'copy_ft:greedy/width=16:taylor:2/refit', 'mimetic']
    study = Study(init=words, losses=['ce', 'ce,logits'], seeds=1, calibration=64, tiny=True, name='starts')
    asked = study.configs
    assert {str(c.init_spec()) for c in asked} >= {'copy_ft:greedy/width=16:taylor:2/refit', 'mimetic:stride_odd'}
    assert {(c.init, c.width) for c in study.configs} >= {('scratch', '16'), ('random_subset', '16:taylor:2')}


def test_a_run_at_the_defaults_keeps_its_name():
    c = RunConfig().identity()
    assert not {'width', 'heads', 'ffn', 'uneven', 'refit', 'calibration'} & set(c) and {'width', 'calibration'} <= set(LATER)
    assert RunConfig(calibration=64).identity() == c and RunConfig(calibration=64, depth='influence').identity()['calibration'] == 64
    with pytest.raises(InputError, match='width=192:taylor, ffn=100:pca name different methods'): RunConfig(width='192:taylor', ffn='100:pca')


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
    assert set(card.made) <= set(student.state_dict()) and set(card.made.values()) <= set(MADE) and len(card.layers) == student.config.num_hidden_layers
    share = shares(student, card.copied, card.made)
    assert abs(sum(share.values())-1) < 1e-9 and share['copied'] == card.share_copied
    theirs = (base if card.source == 'copy_base' else teacher).state_dict()
    for k, v in student.state_dict().items():                    # what is called a copy is one
        if k in card.copied and k not in card.made: assert torch.equal(v, theirs[card.copied[k]]), k


def test_what_looks_at_texts_says_that_it_has_none():
    teacher = tiny_model('xlmr', layers=6)
    for word in ('copy_ft:greedy', 'copy_ft:influence', 'copy_ft:laco', 'copy_ft/refit', 'copy_ft/width=16:minitron'):
        with pytest.raises(InputError, match='training texts; pass a sample of them'): init_student(word, teacher)
    with pytest.raises(InputError, match='the base model has no head of the task'): init_student('copy_base:greedy', teacher, teacher, sample=texts())
    with pytest.raises(InputError, match='leaves out what they need'): init_student('copy_ft/refit/parts=encoder', teacher, sample=texts())


def test_an_old_card_still_loads(tmp_path):
    _, card = init_student('copy_ft', tiny_model(layers=4))
    old = {k: v for k, v in vars(card).items() if k not in ('spec', 'made', 'chosen', 'width', 'diagnosis')}
    (tmp_path/'card.json').write_text(json.dumps(old))
    assert InitCard.load(tmp_path/'card.json').copied == card.copied
