"A small exported student of any kind, with a tokenizer of any family, made in milliseconds."
import json, warnings
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from privkd_nb.core import write_checksums
from privkd_nb.exported import FORMATS, write_manifest
from privkd_nb.models.tiny import tiny_model
from privkd_nb.models.tokenizer import SPECIALS, train_tokenizer

TEXTS = ['Wake me up at seven', 'wecke mich  um sieben Uhr', 'niamshe saa moja asubuhi', 'ξύπνα με στις επτά', 'أيقظني في السابعة', '七点叫醒我', 'सात बजे मुझे जगाना',
         'Ｆｕｌｌ ｗｉｄｔｈ, ﬁne — “quotes”', ' leading and trailing ', 'tab\tand\nnew line', "it's a-b_c@d.e (f)", 'emoji 😀👍🏽 here', 'e\u0301 combined and é', 'İstanbul ISTANBUL straße', '1,234.50 €',
         'a <s> special </s> text', 'x', 'one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty']


def unigram():
    "As XLM-R has it: Metaspace and Unigram"
    tok = Tokenizer(models.Unigram())
    tok.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(' {2,}'), ' ')])
    tok.pre_tokenizer, tok.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tok.train_from_iterator(TEXTS[:6]*3, trainers.UnigramTrainer(vocab_size=110, special_tokens=list(SPECIALS.values()), unk_token='<unk>', show_progress=False))
    tok.post_processor = processors.TemplateProcessing(single='<s> $A </s>', pair='<s> $A </s> </s> $B </s>', special_tokens=[('<s>', 0), ('</s>', 2)])
    return PreTrainedTokenizerFast(tokenizer_object=tok, model_max_length=64, **SPECIALS)

def word_pieces():
    "As BERT has it: WordPiece, lower case, and token types"
    names = dict(pad_token='[PAD]', unk_token='[UNK]', cls_token='[CLS]', sep_token='[SEP]', mask_token='[MASK]')
    tok = Tokenizer(models.WordPiece(unk_token='[UNK]'))
    tok.normalizer, tok.pre_tokenizer, tok.decoder = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    tok.train_from_iterator(TEXTS[:6]*3, trainers.WordPieceTrainer(vocab_size=110, special_tokens=list(names.values()), show_progress=False))
    tok.post_processor = processors.TemplateProcessing(single='[CLS] $A [SEP]', pair='[CLS] $A [SEP] $B:1 [SEP]:1', special_tokens=[('[CLS]', 2), ('[SEP]', 3)])
    return PreTrainedTokenizerFast(tokenizer_object=tok, model_max_length=64, model_input_names=['input_ids', 'token_type_ids', 'attention_mask'], **names)

def byte_level():
    "As GPT and ModernBERT have it: BPE on bytes, which reads a list of words otherwise than their text"
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer, tok.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tok.train_from_iterator(TEXTS*3, trainers.BpeTrainer(vocab_size=400, special_tokens=list(SPECIALS.values()), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tok.post_processor = processors.TemplateProcessing(single='<s> $A </s>', pair='<s> $A </s> </s> $B </s>', special_tokens=[('<s>', 0), ('</s>', 2)])
    return PreTrainedTokenizerFast(tokenizer_object=tok, model_max_length=64, **SPECIALS)

TOKENIZERS = dict(unigram=unigram, bpe=lambda: train_tokenizer(TEXTS*3, 600), word_pieces=word_pieces, byte_level=byte_level)


class Logits(torch.nn.Module):
    "A model that takes its inputs by place and gives logits alone"
    def __init__(self, model, inputs): super().__init__(); self.model, self.inputs = model, inputs
    def forward(self, *given): return self.model(**dict(zip(self.inputs, given))).logits


def write_onnx(model, path, inputs):
    "torch's older exporter: twenty times as fast as the one that exports are made with"
    given = (torch.tensor([[0, 5, 6, 7, 2]]*2), torch.ones(2, 5, dtype=torch.long), torch.zeros(2, 5, dtype=torch.long))[:len(inputs)]
    axes = {k: {0: 'b', 1: 't'} for k in inputs} | dict(logits={0: 'b'} | ({1: 't'} if 'Token' in type(model).__name__ else {}))
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.onnx.export(Logits(model, inputs), given, str(path), dynamo=False, input_names=list(inputs), output_names=['logits'], dynamic_axes=axes)


def make_export(folder, kind='sequence', arch='xlmr', tokenizer='unigram', labels=('lights', 'alarm', 'weather'), pairs=False, max_length=16, thresholds=None, types=False, languages=None, **more):
    "An exported folder with a random model, that transformers loads too"
    folder, tok = Path(folder), TOKENIZERS[tokenizer]()
    model = tiny_model(arch, 2, list(labels), kind, vocab_size=len(tok), pad_token_id=tok.pad_token_id, spread=.5, seed=1)
    model.config.text_pairs, model.config.thresholds = pairs, thresholds
    head = [p for n, p in model.named_parameters() if n.startswith('classifier')][-1]
    with torch.no_grad(): head -= head.mean()                                                 # no label wins by its bias
    tok.model_max_length = max_length
    inputs = ['input_ids', 'attention_mask']+['token_type_ids']*types
    write_onnx(model, folder/FORMATS['onnx'].file, inputs)
    model.save_pretrained(folder)
    tok.save_pretrained(folder)
    fields = dict(kind=kind, labels=list(labels), pairs=pairs, max_length=max_length, inputs=inputs, thresholds=thresholds, formats={f: FORMATS[f].file for f in ('torch', 'onnx')},
                  languages=languages or dict(kept=['de', 'en'], left_out=['sw']), unknown=dict(de=.01, en=0.))
    write_manifest(folder, **fields | more)
    write_checksums(folder/'done.json')
    return folder


def change_manifest(folder, **fields):
    "Write other fields, with checksums that fit"
    found = json.loads((Path(folder)/'privkd.json').read_text())
    (Path(folder)/'privkd.json').write_text(json.dumps(found | fields))
    write_checksums(Path(folder)/'done.json')
