"What a model's folder may lack or get wrong: each fault ends in one sentence before anything is trained."
import copy, importlib.util, json, re, sys
from types import SimpleNamespace

import pytest, torch
from safetensors.torch import load_file, save_file

from privkd_nb.core import InputError
from privkd_nb.init.spec import InitSpec
from privkd_nb.init.student import init_student
from privkd_nb.models.encoders import layer_stack, model_labels, weights_hash
from privkd_nb.models.outputs import align_outputs
from privkd_nb.models.languages import check_languages, probe_tokenizer
from privkd_nb.models.loading import load_encoder, load_tokenizer, save_tokenizer
from privkd_nb.models.architectures import part_of
from privkd_nb.models.tiny import ARCHITECTURES, tiny_model

LABELS = ['a', 'b', 'c']


def saved(folder, arch='xlmr', **kw):
    "A folder with a tiny model"
    folder.mkdir(exist_ok=True)
    tiny_model(arch, 4, LABELS, **kw).save_pretrained(folder)
    return folder


def renamed(folder, rename):
    "The same folder with other names in its weights; None leaves a tensor out"
    tensors = load_file(folder/'model.safetensors')
    save_file({rename(k): v for k, v in tensors.items() if rename(k)}, folder/'model.safetensors', {'format': 'pt'})
    return folder


def edited(folder, **values):
    "The same folder with other values in its config.json; None leaves one out"
    cfg = json.loads((folder/'config.json').read_text()) | values
    (folder/'config.json').write_text(json.dumps({k: v for k, v in cfg.items() if v is not None}))
    return folder


def refused(match, folder, *args, **kw):
    "The message, which is one sentence"
    with pytest.raises(InputError, match=match) as e: load_encoder(str(folder), *args, **kw)
    assert '\n' not in str(e.value) and str(e.value).endswith('.')
    return str(e.value)


@pytest.mark.parametrize('arch', list(ARCHITECTURES))
@pytest.mark.parametrize('labels', [None, ['x', 'y']])
def test_names_of_a_compiled_model_are_refused(arch, labels, tmp_path):
    folder = renamed(saved(tmp_path/'t', arch), lambda k: '_orig_mod.'+k)
    said = refused('weights of the .* are not in .*_orig_mod', folder, labels=labels)
    assert ('teacher' if labels is None else 'base') in said and re.search(r'\d+ of \d+ weights', said)


@pytest.mark.parametrize('prefix, cause', [('module.', 'several devices'), ('base_model.model.', 'merge_and_unload'), ('student.', "begin with 'student.")])
def test_the_cause_is_told_from_the_names(prefix, cause, tmp_path):
    refused(cause, renamed(saved(tmp_path/'t'), lambda k: prefix+k))


@pytest.mark.parametrize('arch', list(ARCHITECTURES))
def test_a_teacher_lacks_no_weight_and_a_base_only_its_head(arch, tmp_path):
    model = tiny_model(arch, 4, LABELS)
    for i, missing in enumerate(dict(model.named_parameters())):
        if i % 11 and i < len(dict(model.named_parameters()))-2: continue        # every eleventh, and those at the end
        folder = renamed(saved(tmp_path/f'{i}', arch), lambda k: None if k == missing else k)
        assert missing in refused('1 of', folder)
        if part_of(model, missing) != 'head': refused('1 of', folder, labels=['x', 'y'])
        else: load_encoder(str(folder), labels=['x', 'y'])


def test_a_base_without_a_head_is_a_base_and_not_a_teacher(tmp_path):
    model = tiny_model('bert', 4, LABELS)
    model.bert.save_pretrained(tmp_path/'base')
    loaded = load_encoder(str(tmp_path/'base'), labels=LABELS)
    assert weights_hash(loaded.bert) == weights_hash(model.bert)
    refused('fine-tuned as another task', tmp_path/'base')


def test_a_base_under_another_prefix_is_refused(tmp_path):
    tiny_model('xlmr', 4, LABELS).roberta.save_pretrained(tmp_path/'base')
    refused("names begin with 'encoder.model.'", renamed(tmp_path/'base', lambda k: 'encoder.model.'+k), labels=LABELS)


@pytest.mark.parametrize('labels', [None, LABELS, ['x', 'y']])
@pytest.mark.parametrize('values, match', [
    (dict(max_position_embeddings=514), r'is \(66, 32\) in the weights .* but \(514, 32\) by its config.json'),
    (dict(vocab_size=130), r'\(120, 32\)'), (dict(intermediate_size=96), r'\(64'), (dict(num_hidden_layers=6), 'weights of the'),
    (dict(num_hidden_layers=2), 'have no place')])
def test_an_edited_configuration_is_refused(values, match, labels, tmp_path):
    refused(match, edited(saved(tmp_path/'t'), **values), labels=labels)


def test_a_teacher_with_another_number_of_labels_is_refused_and_a_base_is_not(tmp_path):
    folder = edited(saved(tmp_path/'t'), id2label={str(i): f'l{i}' for i in range(5)}, label2id={f'l{i}': i for i in range(5)})
    refused(r'classifier.* is \(3', folder)
    assert load_encoder(str(folder), labels=['x', 'y']).config.num_labels == 2


def test_harmless_extra_weights_are_accepted(tmp_path):
    folder = saved(tmp_path/'t')
    tensors = load_file(folder/'model.safetensors')
    save_file(tensors | {'lm_head.bias': torch.zeros(3), 'roberta.pooler.dense.bias': torch.zeros(3),
                         'roberta.embeddings.position_ids': torch.arange(9)}, folder/'model.safetensors', {'format': 'pt'})
    assert weights_hash(load_encoder(str(folder))) == weights_hash(tiny_model('xlmr', 4, LABELS))


@pytest.mark.parametrize('arch', list(ARCHITECTURES))
def test_a_new_head_depends_on_its_seed_alone(arch, tmp_path):
    tiny_model(arch, 4, LABELS).base_model.save_pretrained(tmp_path/'base')
    drawn = []
    for seed, other in [(0, 1), (0, 2), (1, 1)]:
        torch.manual_seed(other)
        before = torch.get_rng_state()
        drawn.append(weights_hash(load_encoder(str(tmp_path/'base'), labels=LABELS, seed=seed)))
        assert torch.equal(before, torch.get_rng_state())
    assert drawn[0] == drawn[1] != drawn[2]


# Files alone

FAULTS = {
    'pointer':   ('model.safetensors', b'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n', 'git-lfs pointer'),
    'cut':       ('model.safetensors', -100, r'is not whole \([\d,]+ of [\d,]+ bytes\)'),
    'cut short': ('model.safetensors', 200, 'header is longer than the file'),
    'few bytes': ('model.safetensors', b'\x01\x02', 'is not'),
    'empty':     ('model.safetensors', b'', 'is empty'),
    'page':      ('model.safetensors', b'<!DOCTYPE html><html>502</html>', 'is a web page'),
    'zeros':     ('model.safetensors', b'\0'*100, 'is not a safetensors file'),
    'list':      ('model.safetensors', b'\x02\0\0\0\0\0\0\0[]', 'is not a safetensors file'),
    'c pointer': ('config.json', b'version https://git-lfs.github.com/spec/v1\n', 'git-lfs pointer'),
    'c cut':     ('config.json', 40, 'not readable JSON'),
    'c empty':   ('config.json', b'', 'is empty'),
    'c list':    ('config.json', b'[]', 'holds list instead of a JSON object'),
    'c null':    ('config.json', b'null', 'holds NoneType'),
    'c latin':   ('config.json', '{"é": 1}'.encode('latin-1'), 'not readable JSON'),
    'c deep':    ('config.json', b'['*100_000, 'not readable JSON'),
    'c bare':    ('config.json', b'{}', 'names no model_type'),
    'c unknown': ('config.json', b'{"model_type": "mybert"}', "knows no architecture 'mybert'"),
    'c number':  ('config.json', b'{"model_type": 7}', 'knows no architecture 7'),
    'c code':    ('config.json', b'{"model_type": "own", "auto_map": {"AutoModel": "m.M"}}', 'trust_remote_code=True'),
    'c vision':  ('config.json', b'{"model_type": "vit"}', 'cannot be loaded'),
}


@pytest.mark.parametrize('fault', list(FAULTS))
@pytest.mark.parametrize('labels', [None, LABELS])
def test_damaged_files_end_in_one_sentence(fault, labels, tmp_path):
    name, content, match = FAULTS[fault]
    path = saved(tmp_path/'t')/name
    path.write_bytes(path.read_bytes()[:content] if isinstance(content, int) else content)
    refused(match, tmp_path/'t', labels=labels)


@pytest.mark.parametrize('values, match', [
    (dict(num_hidden_layers=10**9), 'num_hidden_layers=1000000000, but its weights have 4 layers'), (dict(num_hidden_layers=0), 'num_hidden_layers=0'),
    (dict(num_hidden_layers=-3), 'num_hidden_layers=-3'), (dict(num_hidden_layers='12'), 'config|cannot be loaded|id2label'), (dict(num_hidden_layers=1e9), 'config|cannot be loaded|id2label'), (dict(num_hidden_layers=[4]), 'config|cannot be loaded|id2label'),
    (dict(hidden_size=10**9), 'hidden_size=1000000000'), (dict(vocab_size=10**12), 'vocab_size'), (dict(hidden_size=10**30), 'hidden_size'),
    (dict(intermediate_size=10**9), 'intermediate_size'), (dict(max_position_embeddings=10**10), 'max_position'), (dict(num_attention_heads=5), 'config|cannot be loaded|id2label'),
    (dict(num_attention_heads=10**9), 'config|cannot be loaded|id2label'), (dict(hidden_act='best'), 'best'), (dict(pad_token_id=10**6), 'config|cannot be loaded|id2label'), (dict(id2label={'a': 'b'}, label2id=None), 'config|cannot be loaded|id2label')])
def test_implausible_settings_are_refused_from_the_files_in_no_time(values, match, tmp_path):
    import time
    folder, start = edited(saved(tmp_path/'t'), **values), time.process_time()
    refused(match, folder)
    assert time.process_time()-start < 5


def test_a_folder_of_pickles_says_how_to_convert(tmp_path):
    folder = saved(tmp_path/'t')
    (folder/'model.safetensors').rename(folder/'pytorch_model.bin')
    refused('pytorch_model.bin only.*safe_serialization=True', folder)
    (folder/'pytorch_model.bin').unlink()
    refused('has no weights', folder)
    (folder/'config.json').unlink()
    refused('is not a model folder', folder)


def test_every_part_of_split_weights_must_be_there(tmp_path):
    model = tiny_model('xlmr', 4, LABELS)
    model.save_pretrained(tmp_path, max_shard_size='20KB')
    assert weights_hash(load_encoder(str(tmp_path))) == weights_hash(model)
    parts = sorted(tmp_path.glob('model-*.safetensors'))
    assert len(parts) > 2
    parts[1].rename(tmp_path/'elsewhere')
    refused(f'lacks 1 of the {len(parts)} files of its weights .*{parts[1].name}', tmp_path)
    parts[1].write_bytes(b'')
    refused('is empty', tmp_path)
    (tmp_path/'model.safetensors.index.json').write_text('{"weight_map": []}')
    refused('lists no weights', tmp_path)


# Padding

@pytest.mark.parametrize('kind', ['fnet', 'nystromformer', 'convbert'])
def test_architectures_whose_outputs_depend_on_padding_are_refused(kind, tmp_path):
    from transformers import AutoConfig, AutoModelForSequenceClassification as Auto
    small = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, vocab_size=120, num_labels=3)
    model = Auto.from_config(AutoConfig.for_model(kind, **small, **(dict(embedding_size=32) if kind == 'convbert' else {})))
    with torch.no_grad():
        for p in model.parameters(): p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(0))*.1)
    model.save_pretrained(tmp_path)
    refused('gives a text other outputs when it is padded', tmp_path)
    refused('gives a text other outputs when it is padded', tmp_path, labels=['x', 'y'])


def test_weights_that_are_not_finite_are_refused(tmp_path):
    model = tiny_model('bert', 4, LABELS)
    with torch.no_grad(): model.bert.encoder.layer[2].output.dense.bias[3] = float('nan')
    model.save_pretrained(tmp_path)
    refused('not finite', tmp_path)


# Tokenizers

def words_of(*extra, **kw):
    "A tokenizer of whole words"
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    tok = Tokenizer(models.WordLevel({w: i for i, w in enumerate(['<s>', '<pad>', '</s>', '<unk>', *extra])}, unk_token='<unk>'))
    tok.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tok, **dict(unk_token='<unk>', pad_token='<pad>') | kw)


@pytest.mark.parametrize('arch', list(ARCHITECTURES))
def test_a_folder_without_a_tokenizer_is_refused(arch, tmp_path):
    with pytest.raises(InputError, match='has no tokenizer|cannot be loaded'): load_tokenizer(str(saved(tmp_path/'t', arch)))
    (tmp_path/'t'/'tokenizer_config.json').write_text('{}')
    with pytest.raises(InputError, match='has no tokenizer|cannot be loaded'): load_tokenizer(str(tmp_path/'t'))


@pytest.mark.parametrize('content', [b'', b'{', b'[]', b'null', b'{"model": 3}', b'version https://git-lfs.github.com/spec/v1\n'])
def test_a_damaged_tokenizer_ends_in_one_sentence(content, tmp_path):
    words_of('a').save_pretrained(saved(tmp_path/'t'))
    (tmp_path/'t'/'tokenizer.json').write_bytes(content)
    with pytest.raises(InputError) as e: load_tokenizer(str(tmp_path/'t'))
    assert '\n' not in str(e.value) and 't' in str(e.value)


def test_a_padding_token_is_taken_from_the_configuration_or_demanded(tmp_path):
    words_of('a', pad_token=None).save_pretrained(saved(tmp_path/'t'))
    assert load_tokenizer(str(tmp_path/'t')).pad_token == '<pad>'
    for bad in (500, -1):
        edited(tmp_path/'t', pad_token_id=bad)
        with pytest.raises(InputError, match='no padding token'): load_tokenizer(str(tmp_path/'t'))


@pytest.mark.parametrize('prefix', [False, True])
def test_words_of_a_byte_level_tokenizer_keep_their_spaces(prefix, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tok.train_from_iterator(['wake me up at five', 'wake me'], trainers.BpeTrainer(vocab_size=300, special_tokens=['<pad>'],
                            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    PreTrainedTokenizerFast(tokenizer_object=tok, pad_token='<pad>').save_pretrained(saved(tmp_path/'t'))
    read = load_tokenizer(str(tmp_path/'t'), words=True)
    words = ['wake', 'me', 'up']
    assert read(words, is_split_into_words=True)['input_ids'] == read(' wake me up' if not prefix else 'wake me up')['input_ids']
    save_tokenizer(read, tmp_path/'s')
    again = load_tokenizer_of(tmp_path/'s')
    assert again(words, is_split_into_words=True)['input_ids'] == read(words, is_split_into_words=True)['input_ids']


WORDS = ["don't", 'wake', 'me', 'up,', 'well-known', 'wake', '✈']
TEXTS = ["don't wake me up, well-known", 'wake me', "play jazz, don't play it", 'wake up well']*3


def stand_in(kind):
    "A small tokenizer that treats spaces as one of today's does: ModernBERT's, EuroBERT's (Llama 3's) or mmBERT's (Gemma 2's)"
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers as pre, processors, trainers
    from transformers import PreTrainedTokenizerFast
    specials = ['<pad>', '<eos>', '<bos>', '<unk>', '<mask>']
    tok, alphabet = Tokenizer(models.BPE(unk_token='<unk>' if kind == 'gemma' else None)), pre.ByteLevel.alphabet()
    split = pre.Split(Regex(r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"), 'isolated')
    if kind == 'gemma': specials, alphabet = specials+[f'<0x{b:02X}>' for b in range(256)], []
    tok.pre_tokenizer = {'modernbert': pre.ByteLevel(add_prefix_space=False), 'gemma': pre.Metaspace(prepend_scheme='never'),
                         'llama': pre.Sequence([split, pre.ByteLevel(add_prefix_space=False, use_regex=False)])}[kind]
    tok.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=420, special_tokens=specials, initial_alphabet=alphabet, show_progress=False))
    if kind == 'gemma':
        state = json.loads(tok.to_str())['model']
        tok = Tokenizer(models.BPE(state['vocab'], [tuple(m) for m in state['merges']], byte_fallback=True, fuse_unk=True, unk_token='<unk>'))
        tok.normalizer, tok.pre_tokenizer = normalizers.Replace(' ', '▁'), pre.Split(' ', 'merged_with_previous')
    tok.post_processor = processors.TemplateProcessing(single='<bos> $A <eos>', pair='<bos> $A <eos> $B <eos>', special_tokens=[('<bos>', 2), ('<eos>', 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tok, pad_token='<pad>', eos_token='<eos>', bos_token='<bos>', unk_token='<unk>' if kind == 'gemma' else None,
                                   mask_token='<mask>', padding_side='left')


@pytest.mark.parametrize('kind, arch', [('modernbert', 'modernbert'), ('llama', 'eurobert'), ('gemma', 'mmbert')])
def test_tokenizers_of_today_read_words_as_their_text(kind, arch, tmp_path):
    "Also inside of words: no space is put before the 't of don't"
    stand_in(kind).save_pretrained(saved(tmp_path/'t', arch, vocab_size=420))
    plain, read = (load_tokenizer(str(tmp_path/'t'), words=w) for w in (False, True))
    def inner(tok):
        enc = tok(WORDS, is_split_into_words=True)
        return [t for t, w in zip(enc.tokens(), enc.word_ids()) if w]
    text = plain(' '.join(WORDS), add_special_tokens=False).tokens()
    assert inner(plain) != text[-len(inner(plain)):], 'the stand-in glues nothing'
    assert inner(read) == text[-len(inner(read)):]
    enc = read(WORDS, is_split_into_words=True)
    assert sorted({w for w in enc.word_ids() if w is not None}) == list(range(len(WORDS)))
    assert enc.tokens()[0] == '<bos>' and enc.tokens()[-1] == '<eos>'                   # where a head reads the first token
    save_tokenizer(read, saved(tmp_path/'s', arch, vocab_size=420))
    assert load_tokenizer_of(tmp_path/'s')(WORDS, is_split_into_words=True)['input_ids'] == enc['input_ids']
    table = probe_tokenizer(read, dict(en=[WORDS], th=[['ปลุกฉัน']]))
    assert table.unknown.max() == 0 and table.tokens_per_word['th'] > 5                 # bytes, not unknown


def test_a_teacher_of_glued_words_is_not_taken_for_one_of_words_with_spaces(tmp_path, monkeypatch):
    from privkd_nb.jobs import fine_tune
    from privkd_nb.jobs.config import RunConfig
    stand_in('modernbert').save_pretrained(saved(tmp_path/'t', 'modernbert', vocab_size=420))
    def keys(): return [fine_tune.teacher_key(RunConfig(), SimpleNamespace(kind=k, fingerprint=lambda: 'x', train_languages=['en']), str(tmp_path/'t')) for k in ('token', 'sequence')]
    now = keys()
    monkeypatch.setattr(fine_tune, 'glues_words', lambda tok: False)
    before = keys()
    assert now[0] != before[0] and now[1] == before[1]


@pytest.mark.parametrize('kind, arch', [('gemma', 'mmbert')])
def test_a_student_is_padded_at_the_end_whatever_its_tokenizer_was_saved_with(kind, arch, tmp_path):
    "A head that reads the first token would read padding"
    stand_in(kind).save_pretrained(saved(tmp_path/'t', 'modernbert', vocab_size=420, pad_token_id=0, bos_token_id=2))
    tok, model = load_tokenizer(str(tmp_path/'t')), load_encoder(str(tmp_path/'t'))
    assert stand_in(kind).padding_side == 'left' and tok.padding_side == 'right'
    texts = ['wake me', "don't wake me up, well-known"]
    with torch.no_grad(): both, alone = model(**tok(texts, padding=True, return_tensors='pt')).logits, model(**tok(texts[:1], return_tensors='pt')).logits
    assert torch.allclose(both[0], alone[0], atol=1e-5)


def test_a_tokenizer_that_glues_words_whatever_is_done_is_refused(tmp_path):
    "One that deletes all spaces: words cannot be told apart in a text"
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers as pre
    from transformers import PreTrainedTokenizerFast
    tok = Tokenizer(models.BPE({l: i for i, l in enumerate(['<pad>', 'a', 'b', 's', "'", '-', 'aa', 'ab'])}, [('a', 'a'), ('a', 'b')]))
    tok.normalizer, tok.pre_tokenizer = normalizers.Replace(' ', ''), pre.Split('-', 'isolated')
    PreTrainedTokenizerFast(tokenizer_object=tok, pad_token='<pad>').save_pretrained(saved(tmp_path/'t'))
    with pytest.raises(InputError, match='reads a list of words otherwise than the text of these words'): load_tokenizer(str(tmp_path/'t'), words=True)
    load_tokenizer(str(tmp_path/'t'))


def load_tokenizer_of(folder):
    from transformers import AutoTokenizer
    return AutoTokenizer.from_pretrained(str(folder))


def test_a_saved_tokenizer_does_not_truncate(tmp_path):
    from tokenizers import Tokenizer
    tok = words_of('a')
    tok(['a '*50], truncation=True, max_length=8, padding='max_length')
    save_tokenizer(tok, tmp_path)
    assert len(Tokenizer.from_file(str(tmp_path/'tokenizer.json')).encode('a '*50).ids) == 50


def test_a_language_in_unknown_letters_is_refused_and_half_known_ones_are_said():
    tok = words_of('wake', 'me')
    table = probe_tokenizer(tok, dict(en=['wake me wake me'], mixed=['wake me wake me wake me now'], th=['ปลุกฉัน', 'wake']))
    assert table.unknown.round(2).to_dict() == dict(en=0, mixed=.14, th=.64)
    with pytest.raises(InputError, match='unknown: th 64%'): check_languages(table, 'm')
    with pytest.warns(UserWarning, match='mixed 14%'): check_languages(table.drop('th'), 'm')


# Labels

@pytest.mark.parametrize('names, labels, order', [
    (None, ['0', '1', '2'], [0, 1, 2]), (None, ['2', '0', '1'], [2, 0, 1]), ([0, 1, 2], ['1', '0', '2'], [1, 0, 2]), (['a', 'b', 'c'], ['c', 'a', 'b'], [2, 0, 1])])
def test_labels_that_are_numbers_are_aligned(names, labels, order, tmp_path):
    names = [f'LABEL_{i}' for i in range(3)] if names is None else names
    folder = edited(saved(tmp_path/'t'), id2label=dict(enumerate(names)), label2id={str(n): i for i, n in enumerate(names)})
    model, x = load_encoder(str(folder)), torch.arange(5, 12)[None]
    before = model(x).logits
    assert align_outputs(model, labels) == (order != [0, 1, 2])
    assert torch.allclose(model(x).logits, before[:, order], atol=1e-6) and model_labels(model) == labels


def test_the_label_that_differs_is_named():
    model = tiny_model(labels=[f'i{i}' for i in range(60)])
    with pytest.raises(InputError, match=r"\(59 of 60 labels agree; only in the teacher: 'i59'; only in the data: 'x'\)"): align_outputs(model, [f'i{i}' for i in range(59)]+['x'])
    nameless = tiny_model(labels=[f'LABEL_{i}' for i in range(3)])
    with pytest.raises(InputError, match="name the teacher's 3 outputs in the order that it was trained with: labels='NAME0,NAME1,NAME2'"): align_outputs(nameless, LABELS)
    with pytest.raises(InputError, match="twice in the teacher: 'a'"): align_outputs(tiny_model(labels=['a', 'a', 'b']), ['a', 'b', 'c'])


@pytest.mark.parametrize('source', ['copy_ft', 'scratch', 'pretrained'])
def test_a_student_says_that_a_text_has_one_label(source, tmp_path):
    folder = edited(saved(tmp_path/'t'), problem_type='multi_label_classification', function_to_apply='sigmoid')
    teacher = load_encoder(str(folder))
    student, _ = init_student(InitSpec(source, n_layers=None if source == 'pretrained' else 2), teacher, load_encoder(str(folder)) if source == 'pretrained' else None)
    student.save_pretrained(tmp_path/'s')
    words_of(*(f'w{i}' for i in range(100))).save_pretrained(tmp_path/'s')
    from transformers import pipeline
    scores = pipeline('text-classification', str(tmp_path/'s'), device='cpu', top_k=None)('w1 w2 w3')[0]
    assert abs(sum(s['score'] for s in scores)-1) < 1e-5
    assert load_encoder(str(folder), labels=['x', 'y']).config.problem_type == 'single_label_classification'


# Initialization: what one layer alone has, and every other architecture

SMALL = dict(hidden_size=32, d_model=32, d_kv=8, d_ff=64, num_heads=4, num_layers=4, num_hidden_layers=4, num_attention_heads=4, intermediate_size=64,
             vocab_size=120, max_position_embeddings=66, embedding_size=32, num_key_value_heads=4, head_dim=8, pad_token_id=1, bos_token_id=0, eos_token_id=2)
OTHERS = ['electra', 'roberta-prelayernorm', 'mpnet', 'nomic_bert', 'megatron-bert', 'roformer', 'camembert', 'mt5', 't5', 'umt5']
RULES = ['stride_odd', 'first', 'last', '0,2', '2,3']


def other(arch):
    "A tiny model of an architecture that `tiny_model` does not have"
    from transformers import CONFIG_MAPPING, AutoModelForTokenClassification as Auto
    default = CONFIG_MAPPING[arch]()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Auto.from_config(CONFIG_MAPPING[arch](**{k: v for k, v in SMALL.items() if k in default.to_dict()}, num_labels=3)).eval()
        with torch.no_grad():
            for p in model.parameters(): p.add_(torch.randn_like(p)*.15)
    return model


@pytest.mark.parametrize('arch', OTHERS)
def test_a_student_is_the_teacher_without_the_other_layers_and_stays_so_when_loaded(arch, tmp_path):
    teacher, x = other(arch), torch.arange(5, 21).view(2, 8)
    mask = torch.ones_like(x); mask[1, 5:] = 0
    for rule in RULES:
        student, card = init_student(InitSpec(depth=rule, n_layers=2), teacher)
        assert card.random == [] and card.share_copied == 1
        cut = copy.deepcopy(teacher)
        name, layers = layer_stack(cut)
        chosen = [layers[l] for l in card.layers]
        if arch in ('t5', 'mt5'):                                  # the bias of all blocks lies in block 0
            a, b = layers[0].layer[0].SelfAttention, chosen[0].layer[0].SelfAttention
            if a is not b: b.has_relative_attention_bias, b.relative_attention_bias = True, a.relative_attention_bias
        setattr(cut.get_submodule(name.rpartition('.')[0]), name.rpartition('.')[2], torch.nn.ModuleList(chosen))
        cut.config.num_hidden_layers = 2
        want = cut(input_ids=x, attention_mask=mask).logits
        assert torch.equal(student(input_ids=x, attention_mask=mask).logits, want), rule
        student.save_pretrained(tmp_path/rule)
        assert torch.equal(load_encoder(str(tmp_path/rule), 'token')(input_ids=x, attention_mask=mask).logits, want), rule


@pytest.mark.parametrize('rule', ['stride_odd', 'last', '2,3'])
def test_the_bias_of_all_blocks_follows_and_the_card_says_from_where(rule):
    teacher = other('mt5')
    student, card = init_student(InitSpec(depth=rule, n_layers=2), teacher)
    name = 'transformer.encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight'
    assert card.copied[name] == name and torch.equal(student.state_dict()[name], teacher.state_dict()[name])


def test_the_word_table_of_t5_is_embeddings():
    student, card = init_student(InitSpec(parts='embeddings'), other('mt5'))
    assert set(card.copied) == {'transformer.shared.weight', 'transformer.encoder.embed_tokens.weight'}
    assert torch.equal(student.get_input_embeddings().weight, other('mt5').get_input_embeddings().weight)


def test_a_base_of_another_architecture_is_not_a_source():
    with pytest.raises(InputError, match="base model of the teacher's architecture"):
        init_student(InitSpec('copy_base', depth='first'), tiny_model('xlmr', 4), tiny_model('bert', 4))


# Adapters

def adapter(folder, base, head=True):
    "A LoRA adapter of rank 2 on every query, as PEFT writes it, and what it adds to a weight"
    g, model = torch.Generator().manual_seed(5), tiny_model('bert', 4, LABELS, seed=7)
    tensors = {f'base_model.model.bert.encoder.layer.{i}.attention.self.query.lora_{ab}.weight': torch.randn(*s, generator=g)*.3
               for i in range(4) for ab, s in dict(A=(2, 32), B=(32, 2)).items()}
    if head: tensors |= {f'base_model.model.classifier.{k}': v for k, v in model.classifier.state_dict().items()}
    folder.mkdir()
    save_file(tensors, folder/'adapter_model.safetensors', {'format': 'pt'})
    (folder/'adapter_config.json').write_text(json.dumps(dict(peft_type='LORA', task_type='SEQ_CLS', base_model_name_or_path=str(base), r=2, lora_alpha=4,
        target_modules=['query'], modules_to_save=['classifier'], lora_dropout=0., bias='none', fan_in_fan_out=False, inference_mode=True)))
    return tensors


class PeftModel:
    "Stands in for PEFT's: merges LoRA weights and saved modules"
    @classmethod
    def from_pretrained(cls, model, folder): self = cls(); self.model, self.folder = model, folder; return self

    @torch.no_grad()
    def merge_and_unload(self):
        tensors = {k.removeprefix('base_model.model.'): v for k, v in load_file(f'{self.folder}/adapter_model.safetensors').items()}
        mine = self.model.state_dict()
        for k, v in tensors.items():
            if 'lora_' not in k: mine[k].copy_(v)
            elif 'lora_A' in k: mine[k.replace('.lora_A', '')].add_(tensors[k.replace('lora_A', 'lora_B')] @ v * 2)
        return self.model


def test_an_adapter_is_merged_or_says_how(tmp_path, monkeypatch):
    base = tiny_model('bert', 4, LABELS, seed=3)
    base.bert.save_pretrained(tmp_path/'base')
    tensors = adapter(tmp_path/'a', tmp_path/'base')
    monkeypatch.setitem(sys.modules, 'peft', None)
    refused('holds an adapter .*pip install peft.*merge_and_unload', tmp_path/'a')
    if importlib.util.find_spec('peft') is None: monkeypatch.setitem(sys.modules, 'peft', SimpleNamespace(PeftModel=PeftModel))
    else: monkeypatch.delitem(sys.modules, 'peft')
    words_of('a').save_pretrained(tmp_path/'base')
    assert load_tokenizer(str(tmp_path/'a')).pad_token == '<pad>'
    model = load_encoder(str(tmp_path/'a'))
    q = 'encoder.layer.2.attention.self.query'
    a, b = (tensors[f'base_model.model.bert.{q}.lora_{x}.weight'] for x in 'AB')
    assert torch.allclose(model.bert.get_submodule(q).weight, base.bert.get_submodule(q).weight+2*b@a, atol=1e-6)
    assert torch.equal(model.classifier.weight, tensors['base_model.model.classifier.weight'])
    assert model_labels(model) == ['LABEL_0', 'LABEL_1', 'LABEL_2'] and type(model).__name__ == 'BertForSequenceClassification'
    adapter(tmp_path/'headless', tmp_path/'base', head=False)
    refused('has no output layer', tmp_path/'headless')
    (tmp_path/'base'/'config.json').rename(tmp_path/'base'/'c.json')
    refused('is not a model folder', tmp_path/'a')
    (tmp_path/'a'/'model.safetensors').write_bytes(b'x')
    (tmp_path/'a'/'config.json').write_text('{"model_type": "bert"}')
    refused('both a model and an adapter', tmp_path/'a')
