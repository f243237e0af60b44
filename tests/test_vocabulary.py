"A trimmed vocabulary: every family of tokenizers and every architecture computes what it did, where a text is divided as before"
import json, random
from functools import cache
import numpy as np, pandas as pd, pytest, torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast

from privkd_nb.core import InputError
from privkd_nb.data.playground import playground_sentences
from privkd_nb.hub import quietly
from privkd_nb.models.architectures import ARCHITECTURES
from privkd_nb.models.loading import load_tokenizer
from privkd_nb.models.tiny import tiny_model
from privkd_nb.models.tokenizer import train_tokenizer
from privkd_nb.models.tokenizer_file import essential_ids, parts_of, state_of, tokens_of, trim_tokenizer, with_parts, write_tokenizer
from privkd_nb.models.token_counts import count_tokens, of_languages
from privkd_nb.models.trim import check_same, load_as_saved, save_trimmed, trim_folder, trim_model, trim_student, vocabulary_report
from privkd_nb.models.vocabulary import by_need, choose_vocabulary, held_tokens, may_change, rounded, rows_needed, share_changed, token_order

SPECIALS = dict(cls_token='[CLS]', pad_token='[PAD]', sep_token='[SEP]', unk_token='[UNK]', mask_token='[MASK]')
NAMES = list(SPECIALS.values())
ROWS = playground_sentences(['de', 'en', 'sw', 'zh'], 4)
TEXTS = [r['text'] for r in ROWS]


def with_frame(tok, ids=(0, 2), kind='template'):
    if kind == 'template':
        tok.post_processor = processors.TemplateProcessing(single='[CLS] $A [SEP]', pair='[CLS] $A [SEP] $B:1 [SEP]:1', special_tokens=[('[CLS]', ids[0]), ('[SEP]', ids[1])])
    if kind == 'bert': tok.post_processor = processors.BertProcessing(('[SEP]', ids[1]), ('[CLS]', ids[0]))
    return PreTrainedTokenizerFast(tokenizer_object=tok, model_max_length=64, **SPECIALS)


def unigram():
    "As XLM-R, e5 and mDeBERTa: <mask> lies behind the vocabulary"
    tok = Tokenizer(models.Unigram())
    tok.normalizer, tok.pre_tokenizer, tok.decoder = normalizers.NFKC(), pre_tokenizers.Metaspace(), decoders.Metaspace()
    tok.train_from_iterator(TEXTS, trainers.UnigramTrainer(vocab_size=700, special_tokens=NAMES[:4], unk_token='[UNK]', show_progress=False))
    tok.add_special_tokens(['[MASK]'])
    return with_frame(tok)


def wordpiece():
    "As BERT: special tokens are not the first ones"
    tok = Tokenizer(models.WordPiece(unk_token='[UNK]'))
    tok.normalizer, tok.pre_tokenizer, tok.decoder = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    tok.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=700, special_tokens=['[PAD]', *(f'[unused{i}]' for i in range(9)), '[UNK]', '[CLS]', '[SEP]', '[MASK]'], show_progress=False))
    state = json.loads(tok.to_str())
    state['added_tokens'] = [t for t in state['added_tokens'] if 'unused' not in t['content']]
    tok = Tokenizer.from_str(json.dumps(state))
    return with_frame(tok, (tok.token_to_id('[CLS]'), tok.token_to_id('[SEP]')), 'bert')


def byte_level():
    "As ModernBERT and EuroBERT: special tokens lie behind the vocabulary"
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer, tok.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tok.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=700, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tok.add_special_tokens(NAMES)
    tok.add_tokens(['\n\n'])
    return with_frame(tok, (tok.token_to_id('[CLS]'), tok.token_to_id('[SEP]')))


def byte_fallback():
    "As Gemma and mmBERT: several merges lead to a token, and one of them happens"
    tok = Tokenizer(models.BPE(unk_token='[UNK]', fuse_unk=True, byte_fallback=True))
    tok.normalizer = normalizers.Replace(' ', '▁')
    trainer = trainers.BpeTrainer(vocab_size=500, limit_alphabet=150, special_tokens=['[PAD]', '[SEP]', '[CLS]', '[UNK]', '[MASK]'], show_progress=False)
    tok.train_from_iterator([w for t in TEXTS for w in t.replace(' ', ' ▁').split(' ')], trainer)
    state = json.loads(tok.to_str())
    vocab = state['model']['vocab']
    for b in range(256): vocab.setdefault(f'<0x{b:02X}>', len(vocab))
    rank = {tuple(m): i for i,m in enumerate(state['model']['merges'])}
    more = [(c[:i], c[i:]) for c in vocab for i in range(1, len(c)) if c[:i] in vocab and c[i:] in vocab and c not in NAMES and not c.startswith('<0x')]
    random.Random(0).shuffle(more)
    state['model']['merges'] = [list(p) for p in sorted(set(more), key=lambda p: (vocab[p[0]+p[1]], rank.get(p, len(rank)+more.index(p))))]
    state['padding'] = dict(strategy='BatchLongest', direction='Right', pad_to_multiple_of=None, pad_id=0, pad_type_id=0, pad_token='[PAD]')
    tok = Tokenizer.from_str(json.dumps(state))
    tok.decoder = decoders.Sequence([decoders.Replace('▁', ' '), decoders.ByteFallback(), decoders.Fuse()])
    return with_frame(tok, (2, 1))


def suffix():
    "BPE with a mark at the end of a word, and a prefix of continuations"
    tok = Tokenizer(models.BPE(unk_token='[UNK]', continuing_subword_prefix='@', end_of_word_suffix='</w>'))
    tok.pre_tokenizer = pre_tokenizers.Whitespace()
    tok.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=900, limit_alphabet=150, special_tokens=NAMES, continuing_subword_prefix='@', end_of_word_suffix='</w>', show_progress=False))
    return with_frame(tok)


MAKERS = dict(unigram=unigram, wordpiece=wordpiece, byte_level=byte_level, byte_fallback=byte_fallback, suffix=suffix)


@cache
def made(maker): return MAKERS[maker]()


@cache
def large(): return train_tokenizer(TEXTS, 4000)


@pytest.fixture(params=MAKERS)
def tok(request): return made(request.param)


def drawn(seed):
    "A text of known and unknown characters, pieces of words and spaces"
    rng = random.Random(seed)
    words = [w for t in rng.sample(TEXTS, 3) for w in t.split()]
    cut = [w[:rng.randint(1, len(w))] for w in words]
    return ' '.join(rng.choice([w, c, c+w, w+'ø', '語', w.upper(), '  ']) for w,c in zip(words, cut))


def test_texts_whose_tokens_are_kept_are_divided_as_before(tok):
    "Property: whatever is kept, a text changes only if one of its tokens is gone"
    rng, unknown, changed = random.Random(1), tok.unk_token_id, 0
    for seed in range(8):
        counted = rng.sample(TEXTS, 40)
        new, old = trim_tokenizer(tok, [i for t in counted for i in tok(t)['input_ids']])
        kept = set(old.tolist())
        for text in [*counted, *TEXTS[:40], *map(drawn, range(seed*40, seed*40+40))]:
            ids = tok(text)['input_ids']
            same = old[new(text)['input_ids']].tolist() == ids
            wordpiece = tok.backend_tokenizer.model.__class__.__name__ == 'WordPiece' and unknown in ids     # a shorter match may know the word then
            assert same == kept.issuperset(ids) or wordpiece, (text, tok.tokenize(text), new.tokenize(text))
            changed += not same
    assert changed > 100 and len(new) < len(tok)


def test_parts_are_those_that_merges_really_use(tok):
    "Without the parts of a token, the token is not reached"
    state = state_of(tok)
    parts, named = parts_of(state), tokens_of(state)
    if state['model']['type'] != 'BPE': assert parts == {}; return
    several = [c for c in parts if sum(a+b == named[c] for a,b in map(tuple, state['model']['merges'])) > 1]
    assert len(parts) > 100 and (len(several) > 50) == ('<0x0A>' in named.values()), (len(parts), len(several))
    order = with_parts(range(len(named)), parts)
    assert sorted(order) == sorted(named) and all(max(map(order.index, p)) < order.index(c) for c,p in list(parts.items())[:50])


def test_frames_pairs_padding_and_files_follow(tok, tmp_path):
    "Special tokens, pairs, padding and truncation are as before, also when the two files are loaded again"
    new, old = trim_tokenizer(tok, [i for t in TEXTS[:12] for i in tok(t)['input_ids']])
    assert len(new) < len(tok)
    assert {k: getattr(new, k) for k in SPECIALS} == SPECIALS and len(new) == len(old) == max(new.get_vocab().values())+1
    assert (new.backend_tokenizer.padding or {}).get('pad_id', new.pad_token_id) == new.pad_token_id
    write_tokenizer(new, tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert ': ' not in (tmp_path/'tokenizer.json').read_text(encoding='utf-8')[:40] and sorted(p.name for p in tmp_path.iterdir()) == ['tokenizer.json', 'tokenizer_config.json']
    for one in (new, again):
        for kw in (dict(), dict(truncation=True, max_length=7), dict(padding='max_length', max_length=30)):
            a, b = (t(TEXTS[:6], TEXTS[6:12], **kw) for t in (tok, one))
            assert a.keys() == b.keys() and [old[i].tolist() for i in b['input_ids']] == a['input_ids']
            for k in set(a)-{'input_ids'}: assert a[k] == b[k]
        assert one.decode(one(TEXTS[0])['input_ids'], skip_special_tokens=True) == tok.decode(tok(TEXTS[0])['input_ids'], skip_special_tokens=True)
    assert all(json.loads(json.dumps(x)) for x in [state_of(again)])


def test_all_tokens_kept_is_the_same_tokenizer(tok):
    new, old = trim_tokenizer(tok, list(tokens_of(state_of(tok))))
    assert old.tolist() == list(tokens_of(state_of(tok))) and new(TEXTS)['input_ids'] == tok(TEXTS)['input_ids']
    small, kept = trim_tokenizer(tok, [])
    assert kept.tolist() == with_and_sorted(tok) and small.unk_token_id is not None and small('x')['input_ids']


def with_and_sorted(tok): return sorted(with_parts(essential_ids(tok), parts_of(state_of(tok))))


@pytest.mark.parametrize('arch,maker', [*((a, 'wordpiece') for a in ARCHITECTURES), *((a, m) for a in ('xlmr', 'xlmr-xl', 'mmbert') for m in ('unigram', 'byte_level'))])
def test_every_architecture_computes_the_same(arch, maker, tmp_path):
    "Bit by bit, before and after it was saved, with padding; each family of tokenizers places its special tokens elsewhere"
    tok = made(maker)
    ids = dict(pad_token_id=tok.pad_token_id, bos_token_id=tok.cls_token_id, eos_token_id=tok.sep_token_id, cls_token_id=tok.cls_token_id, sep_token_id=tok.sep_token_id)
    position = dict(max_position_embeddings=66+tok.pad_token_id)
    model = tiny_model(arch, 2, vocab_size=len(tok)+5, **ids, **position)
    new, small, old = trim_student(model, tok, [i for t in TEXTS[:9] for i in tok(t)['input_ids']])
    assert new.config.vocab_size == len(small) == new.get_input_embeddings().num_embeddings < len(tok)
    assert new.config.pad_token_id == small.pad_token_id == new.get_input_embeddings().padding_idx
    assert (new.config.bos_token_id, new.config.eos_token_id) == (small.cls_token_id, small.sep_token_id)
    save_trimmed(new, small, tmp_path)
    with quietly(): loaded, reads = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval(), AutoTokenizer.from_pretrained(tmp_path)
    def logits(m, t):
        enc = {k: v for k,v in t(TEXTS[:9], padding=True, truncation=True, max_length=30, return_tensors='pt').items() if k != 'token_type_ids'}
        with torch.no_grad(): return m(**enc).logits
    assert torch.equal(logits(new, small), logits(model, tok)) and torch.equal(logits(loaded, reads), logits(model, tok))


@pytest.mark.parametrize('arch', [a for a in ARCHITECTURES if a != 'rembert'])
def test_output_tables_and_biases_follow(arch):
    "A masked language model, tied or not, scores the tokens that are kept as before"
    config = tiny_model(arch, 1).config
    for tied in (True, False):
        config.tie_word_embeddings = tied
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = AutoModelForMaskedLM.from_config(config).eval()
            for p in model.parameters(): torch.nn.init.normal_(p, 0, .2)
        old = np.array([0, 1, 2, *range(4, 120, 3)])
        new = trim_model(model, old)
        ids = torch.arange(5, 12)[None]
        with torch.no_grad(): whole, small = model(torch.as_tensor(old)[ids]).logits, new(ids).logits
        assert small.shape[-1] == len(old) and torch.allclose(whole[..., old], small, atol=1e-5)
        assert (new.get_input_embeddings().weight is new.get_output_embeddings().weight) == (model.get_input_embeddings().weight is model.get_output_embeddings().weight)


def test_types_mode_and_whole_model_stay():
    model = tiny_model('xlmr', 1).to(torch.bfloat16).train()
    before = {k: v.clone() for k,v in model.state_dict().items()}
    new = trim_model(model, [0, 1, 2, 9])
    assert new.dtype == torch.bfloat16 and new.training and len(new.get_input_embeddings().weight) == 4
    assert all(torch.equal(v, before[k]) for k,v in model.state_dict().items()) and model.config.vocab_size == 120


def test_report_counts_what_changes(tok):
    "By hand: the texts that differ, the tokens a word, and the share of tokens without meaning"
    new, old = trim_tokenizer(tok, [i for t in TEXTS[:60] for i in tok(t)['input_ids']])
    df = pd.DataFrame([dict(text=r['text'], language=r['language']) for r in ROWS[:120]])
    report = vocabulary_report(tok, new, old, df)
    for lang,rows in df.groupby('language'):
        ids, after = ([t(x, add_special_tokens=False)['input_ids'] for x in rows.text] for t in (tok, new))
        assert report.changed[lang] == sum(a != old[b].tolist() for a,b in zip(ids, after)) and report.texts[lang] == len(rows)
        words = sum(len(t.split()) for t in rows.text)
        assert report.tokens_per_word_after[lang] == pytest.approx(sum(map(len, after))/words)
    assert report.unknown_after.sum() > report.unknown_before.sum() and report.changed.sum() > 0


def test_a_folder_of_another_model_is_refused(tmp_path):
    tok = made('unigram')
    model = tiny_model('xlmr', 1, vocab_size=len(tok)-9)
    with pytest.raises(InputError, match=f'ids up to {len(tok)-1}, but the model.s table has {len(tok)-9} rows'): trim_student(model, tok, [5])
    with pytest.raises(InputError, match='has no tokenizer'):
        with quietly(): model.save_pretrained(tmp_path/'bare')
        trim_folder(tmp_path/'bare', tmp_path/'out', [5])
    assert not (tmp_path/'out').exists()


def test_a_model_without_a_head_keeps_its_class(tmp_path):
    tok = made('unigram')
    with quietly(): AutoModel.from_config(tiny_model('bert', 1, vocab_size=len(tok)).config).save_pretrained(tmp_path/'base')
    write_tokenizer(tok, tmp_path/'base')
    trim_folder(tmp_path/'base', tmp_path/'small', tok(TEXTS[0])['input_ids'])
    assert type(load_as_saved(tmp_path/'small')).__name__ == 'BertModel'


FRAME = pd.DataFrame([dict(text=r['text'], language=r['language']) for r in ROWS])
OWN, HELD, MORE = (FRAME[(FRAME.groupby('language').cumcount() % 40).isin(part)] for part in ((0, 20), (7, 13, 33), range(1, 6)))


def test_the_curve_is_what_tokenizing_again_gives(tok):
    "For every size, the share of changed texts is the one that the trimmed tokenizer shows"
    v = choose_vocabulary(tok, OWN, HELD, MORE, size='off')
    assert sorted(v.order) == sorted(tokens_of(state_of(tok)))
    unknown = tok.backend_tokenizer.model.__class__.__name__ == 'WordPiece' and any(tok.unk_token_id in t for t in tok(list(HELD.text))['input_ids'])
    assert not unknown                                  # a WordPiece tokenizer may read an unknown word otherwise
    seen = set()
    for size in (v.fixed-150, v.fixed-70, v.fixed, v.of):
        new, old = trim_tokenizer(tok, v.order[:size])
        assert sorted(old) == sorted(v.order[:size])     # closed: nothing had to be added
        share = vocabulary_report(tok, new, old, HELD).share_changed
        assert share.to_dict() == pytest.approx(share_changed(v.needed, size).to_dict())
        if size >= v.fixed: assert vocabulary_report(tok, new, old, OWN).changed.sum() == 0
        seen.add(round(share.mean(), 3))
    assert len(seen) > 2 and 0 in seen


def test_the_language_in_need_is_next_step_by_step():
    "The same order as by counting all texts again before every token"
    rng = np.random.default_rng(0)
    held = {l: [np.unique(rng.zipf(1.3, 6) % 60) for _ in range(30)] for l in 'abc'}
    ranks = {l: rng.permutation(60)[:n] for l,n in dict(a=50, b=40, c=20).items()}
    have, parts = np.arange(60) < 5, {40: (41, 42), 42: (43, 44)}
    now, expected, at = have.copy(), [], dict.fromkeys('abc', 0)
    while any(at[l] < len(ranks[l]) for l in 'abc'):
        share = {l: np.mean([not now[t].all() for t in held[l]]) if at[l] < len(ranks[l]) else -1 for l in 'abc'}
        l = max('abc', key=share.get)
        if not now[i := ranks[l][at[l]]]:
            new = [j for j in with_parts([i], parts) if not now[j]]
            now[new] = True; expected += new
        else: at[l] += 1; continue
        at[l] += 1
    assert by_need(ranks, held, have, parts) == expected and have.sum() == 5


def test_each_language_has_its_own_rank():
    "A language with few texts is not pushed out by one with many"
    tok = made('unigram')
    few = pd.concat([FRAME[FRAME.language != 'sw'][:400], OWN[OWN.language == 'sw'][:4]])
    order = token_order(tok, count_tokens(few, tok), {}, {})[0]
    counts = count_tokens(few, tok)
    pooled = [*dict.fromkeys([*essential_ids(tok), *np.argsort(-sum(counts.values()), kind='stable')])]
    held = held_tokens(few, tok)
    own, all_together = (share_changed(rows_needed(np.array(o), held), 300)['sw'] for o in (order, pooled))
    assert own == 0 < all_together, (own, all_together)          # how many of the four differs from one trained tokenizer to the next


def test_auto_keeps_its_promise_and_says_when_it_cannot():
    tok = large()
    v = choose_vocabulary(tok, OWN, HELD, MORE, languages=['de', 'sw'])
    allowed = {l: may_change(len(n)) for l,n in v.needed.items()}
    changed = (v.table().share_changed*v.table().texts).round()
    assert v.fixed <= v.size < v.of and (v.size % 64 == 0) and all(changed[l] <= allowed[l] for l in allowed)
    smaller = share_changed(v.needed, v.size-64)*v.table().texts
    assert v.size-64 < v.fixed or any(smaller[l] > allowed[l] for l in allowed)
    none = choose_vocabulary(tok, OWN, HELD, MORE, languages=['de', 'xx'])
    assert none.size == none.of and 'no text of xx' in none.rule
    assert choose_vocabulary(tok, OWN, HELD, size=300).size == 320 == rounded(300, 4000)
    assert 'tokens of its own texts are left out' in choose_vocabulary(tok, OWN, HELD, size='300').record()['rule']
    for bad in ('3', 'many', -5):
        with pytest.raises(InputError, match='is no size'): choose_vocabulary(tok, OWN, HELD, size=bad)


def test_more_text_is_read_in_the_case_of_the_runs_texts():
    tok = made('unigram')
    low, loud = OWN.assign(text=OWN.text.str.lower()), MORE.assign(text=MORE.text.str.upper())
    def words(own): return choose_vocabulary(tok, own, low, loud, size='off').order.tolist()
    assert words(low) == choose_vocabulary(tok, low, low, MORE.assign(text=MORE.text.str.lower()), size='off').order.tolist() != words(OWN)


def test_held_out_texts_are_not_counted():
    "Of a language without any, a tenth is held out, and its words are not in the counts"
    tok = large()
    v = choose_vocabulary(tok, OWN, HELD[HELD.language != 'de'], size='off')
    own = OWN[OWN.language == 'de']
    assert len(v.needed['de']) == len(own)//10 and len(v.needed['sw']) == (HELD.language == 'sw').sum()
    assert v.fixed < choose_vocabulary(tok, OWN, HELD, size='off').fixed


def test_pairs_and_words_are_counted_beside_plain_text():
    "A run of pairs, or of labelled words, with more text of another form, also for a language without held-out texts"
    tok = large()
    pairs = OWN.assign(text_pair=OWN.text.iloc[::-1].tolist())
    words = OWN.drop(columns='text').assign(tokens=OWN.text.str.split())
    for own in (pairs, words):
        v = choose_vocabulary(tok, own, own[own.language == 'sw'], MORE, languages=['sw', 'de', 'en'], size='off')
        assert sorted(v.needed) == ['de', 'en', 'sw'] and len(v.needed['sw']) == (own.language == 'sw').sum()
        new, old = trim_tokenizer(tok, v.keep_ids)
        assert vocabulary_report(tok, new, old, own).changed.sum() == 0


def test_a_real_encoder_for_two_languages(shared_data, shared_base, tmp_path):
    "Real texts: the folder is smaller, reads two languages as before, and reports the third"
    tok = load_tokenizer(str(shared_base))
    df = pd.read_parquet(shared_data/'text'/'sentences.parquet', filters=[('language', 'in', ['de', 'sw', 'th']), ('source', '==', 'tatoeba')])[['text', 'language']]
    part = df.groupby('language').cumcount() % 4
    v = choose_vocabulary(tok, df[part == 0], df[part == 1], df[part == 2], ['de', 'sw'])
    assert v.fixed < v.size < .8*v.of and (v.table().share_changed <= .05).all()
    report = trim_folder(shared_base, tmp_path/'small', v.keep_ids, df[part == 3])
    assert (report.share_changed[['de', 'sw']] < .1).all() and report.share_changed['th'] > .5 and report.unknown_after['th'] > report.unknown_before['th']+.1
    assert (tmp_path/'small'/'tokenizer.json').stat().st_size < .6*(shared_base/'tokenizer.json').stat().st_size
    with quietly(): models = [AutoModel.from_pretrained(p).eval() for p in (shared_base, tmp_path/'small')]
    texts = df[(part == 0) & (df.language == 'sw')].text.head(8).tolist()
    with torch.no_grad(): a, b = (m(**t(texts, padding=True, return_tensors='pt')).last_hidden_state for m,t in zip(models, (tok, load_tokenizer(str(tmp_path/'small')))))
    assert torch.equal(a, b) and pd.read_parquet(tmp_path/'small'/'vocabulary.parquet').language.tolist() == ['de', 'sw', 'th']


def test_a_model_that_computes_something_else_is_refused():
    "Also where the outputs have the same form"
    model = tiny_model('xlmr', 1)
    old = np.arange(0, 120, 2).tolist()+[1]
    new = trim_model(model, sorted(old))
    check_same(model, new, sorted(old), 1)
    with torch.no_grad(): new.get_input_embeddings().weight[5] += 1
    with pytest.raises(InputError, match='computes something else with fewer rows; keep its vocabulary'): check_same(model, new, sorted(old), 1)


def test_languages_under_other_names_are_found():
    df = pd.DataFrame(dict(text=list('abcd'), language=['de', 'German', 'zh', 'pt-BR']))
    def found(languages): return sorted(zip(*[of_languages(df, languages)[c] for c in ('language', 'text')]))
    assert found(['de-DE']) == [('de-DE', 'a'), ('de-DE', 'b')] and found(['de']) == [('de', 'a')]
    assert found(['zh-CN', 'zh-TW']) == [('zh-CN', 'c'), ('zh-TW', 'c')] and found(['pt-PT', 'xx']) == [] and len(of_languages(df, None)) == 4


def test_the_penalty_of_unknown_characters_stays():
    "It is counted from the lowest score, so a text may depend on a token that it does not use"
    vocab = [('[UNK]', 0), ('[PAD]', 0), ('a', -1), ('b', -20), ('ab', -1), ('qa', -20), ('rare', -40)]
    tok = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.Unigram(vocab, unk_id=0)), unk_token='[UNK]', pad_token='[PAD]')
    assert tok.tokenize('qab') == ['qa', 'b']
    new, old = trim_tokenizer(tok, [3, 4, 5])
    assert new.tokenize('qab') == ['qa', 'b'] and old.tolist() == [0, 1, 3, 4, 5, 6]
