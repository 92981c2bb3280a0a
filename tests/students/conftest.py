"""Tokenizers of every kind, trained in memory."""

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tests.conftest import make_sentences

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LIKED = [text for text, _ in make_sentences(32)]
OTHER = [
    "unhappily the storyteller mumbled quickly through fog",
    "graceful musicians wandered between mountains and rivers",
    "zebras jump over vexing boxes, quoting 1234567890 wizards!",
    "naïve cafés serve crème brûlée — ½ price",
]


def made(core: Tokenizer, **options: Any) -> PreTrainedTokenizerFast:
    """A tokenizer of Transformers around trained pieces, with `[CLS] a [SEP] b [SEP]`."""
    ids = {name: core.token_to_id(name) for name in ("[CLS]", "[SEP]")}
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=list(ids.items())
    )
    names = dict(
        zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True)
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=40, **names, **options)


def wordpiece() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=SPECIAL, show_progress=False)
    core.train_from_iterator(LIKED + OTHER, trainer)
    return made(core)


def byte_bpe() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    options = {"special_tokens": SPECIAL, "show_progress": False, "initial_alphabet": alphabet}
    core.train_from_iterator(LIKED + OTHER, trainers.BpeTrainer(vocab_size=600, **options))
    return made(core)


def suffix_bpe() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE(unk_token="[UNK]", end_of_word_suffix="</w>"))
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.BPEDecoder(suffix="</w>")
    options = {"special_tokens": SPECIAL, "show_progress": False, "end_of_word_suffix": "</w>"}
    core.train_from_iterator(LIKED + OTHER, trainers.BpeTrainer(vocab_size=400, **options))
    return made(core)


def unigram() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.Unigram())
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    options = {"special_tokens": SPECIAL, "show_progress": False, "unk_token": "[UNK]"}
    core.train_from_iterator(LIKED + OTHER, trainers.UnigramTrainer(vocab_size=200, **options))
    return made(core)


KINDS = {"wordpiece": wordpiece, "byte_bpe": byte_bpe, "suffix_bpe": suffix_bpe, "unigram": unigram}


@pytest.fixture(params=sorted(KINDS))
def any_tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return KINDS[request.param]()
