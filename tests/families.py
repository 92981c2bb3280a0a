"""Tiny classifiers of many architectures, each with a tokenizer of its kind, made in memory."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WORDS = [
    "the",
    "a",
    "film",
    "story",
    "plot",
    "is",
    "was",
    "and",
    "very",
    "quite",
    "good",
    "great",
    "warm",
    "bad",
    "dull",
    "cold",
    "it",
    "end",
]
TEXTS = ["good", "the plot is very dull and cold", "a warm film", "it was quite bad the end"]
PAIRS = ["the end", "great", "was it a good story and a great film", "cold plot"]

TYPED = ["input_ids", "token_type_ids", "attention_mask"]
PLAIN = ["input_ids", "attention_mask"]
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.3,
}


def make_tokenizer(specials: str, single: str, pair: str, *, names: list[str], **named: Any) -> Any:
    """A tokenizer of whole words, whose special tokens have the first ids, in the order given."""
    vocabulary = {word: i for i, word in enumerate([*specials.split(), *WORDS])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=named.get("unk_token", specials.split()[0])))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    if single:
        tokens = [(token, vocabulary[token]) for token in specials.split()]
        core.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=tokens)
    return PreTrainedTokenizerFast(tokenizer_object=core, model_input_names=names, **named)


def bert_tokenizer(names: list[str] = TYPED) -> Any:
    return make_tokenizer(
        "[PAD] [UNK] [CLS] [SEP]",
        "[CLS] $A [SEP]",
        "[CLS] $A [SEP] $B:1 [SEP]:1",
        names=names,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )


def roberta_tokenizer() -> Any:
    return make_tokenizer(
        "<s> <pad> </s> <unk>",
        "<s> $A </s>",
        "<s> $A </s> </s> $B </s>",
        names=PLAIN,
        pad_token="<pad>",
        unk_token="<unk>",
        cls_token="<s>",
        bos_token="<s>",
        sep_token="</s>",
        eos_token="</s>",
    )


def gpt_tokenizer(*, pad: str | None = "<|endoftext|>", side: str = "right") -> Any:
    """No special token around a text, and no padding token unless one is named."""
    tokenizer = make_tokenizer(
        "<|endoftext|> <unk>",
        "",
        "",
        names=PLAIN,
        eos_token="<|endoftext|>",
        bos_token="<|endoftext|>",
        unk_token="<unk>",
        padding_side=side,
    )
    if pad:
        tokenizer.pad_token = pad
    return tokenizer


def xlnet_tokenizer() -> Any:
    return make_tokenizer(
        "<unk> <s> </s> <cls> <sep> <pad>",
        "$A <sep> <cls>:2",
        "$A <sep> $B:1 <sep>:1 <cls>:2",
        names=TYPED,
        pad_token="<pad>",
        unk_token="<unk>",
        cls_token="<cls>",
        sep_token="<sep>",
        padding_side="left",
        pad_token_type_id=3,
    )


@dataclass(frozen=True)
class Family:
    """An architecture: the class that classifies texts, its config, and what makes its rows."""

    name: str
    options: dict[str, Any]
    tokenizer: Callable[[], Any]

    def model(self, *, seed: int = 0, **options: Any) -> Any:
        kind = getattr(transformers, f"{self.name}ForSequenceClassification")
        tokenizer = self.tokenizer()
        pads = {"pad_token_id": tokenizer.pad_token_id}
        settings = {**SMALL, "vocab_size": 24, "num_labels": 3, **pads, **self.options, **options}
        torch.manual_seed(seed)
        return kind(kind.config_class(**{n: v for n, v in settings.items() if v is not None})).eval()


def distilbert_tokenizer() -> Any:
    return bert_tokenizer(PLAIN)


_GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40, "attn_pdrop": 0.0, "embd_pdrop": 0.0}
_DISTIL = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "dropout": 0.0, "attention_dropout": 0.0}
_XLNET = {
    "d_head": 8,
    "d_inner": 32,
    "dropout": 0.0,
    "max_position_embeddings": None,
    "summary_last_dropout": 0.0,
}
_ROBERTA = {"max_position_embeddings": 42, "type_vocab_size": 1}
FAMILIES = [
    Family("Bert", {}, bert_tokenizer),
    Family("Roberta", _ROBERTA, roberta_tokenizer),
    Family("XLMRoberta", _ROBERTA, roberta_tokenizer),
    Family("DistilBert", {**_DISTIL, "seq_classif_dropout": 0.0}, distilbert_tokenizer),
    Family("Electra", {"embedding_size": 16}, bert_tokenizer),
    Family("DebertaV2", {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}, bert_tokenizer),
    Family("MPNet", {"max_position_embeddings": 42}, roberta_tokenizer),
    Family("Albert", {"embedding_size": 8, "classifier_dropout_prob": 0.0}, bert_tokenizer),
    Family("GPT2", {**_GPT2, "resid_pdrop": 0.0, "summary_first_dropout": 0.0}, gpt_tokenizer),
    Family("Qwen2", {"num_key_value_heads": 2}, gpt_tokenizer),
    Family("Llama", {"num_key_value_heads": 2}, gpt_tokenizer),
    Family("XLNet", _XLNET, xlnet_tokenizer),
    Family("Longformer", {**_ROBERTA, "attention_window": 8}, roberta_tokenizer),
]


def alone(model: Any, tokenizer: Any, texts: list[str], pairs: list[str] | None = None) -> torch.Tensor:
    """The logits of each text by itself, as `model(**tokenizer(text))` gives them: (rows, C)."""
    both = [(text,) for text in texts] if pairs is None else list(zip(texts, pairs, strict=True))
    with torch.no_grad():
        return torch.cat([model(**tokenizer(*row, return_tensors="pt")).logits for row in both])
