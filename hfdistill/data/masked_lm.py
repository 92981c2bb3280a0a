"""TinyBERT's augmentation replaces words by what a masked language model would put in their place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AutoModelForMaskedLM, PreTrainedModel

import hfdistill
from hfdistill.data.augmentations import STOP_WORDS, WORD, Augmentation, cased, check_share
from hfdistill.network.architectures import room_for
from hfdistill.network.divided import make_whole
from hfdistill.network.fingerprints import add_weights
from hfdistill.network.loading import loading_whole, read_tokenizer
from hfdistill.network.tokenizers import tokenizer_print

_BEGINS = ("Ġ", "▁")
"""How byte-level and SentencePiece vocabularies write a piece that begins a word."""


class Slot(NamedTuple):
    """A word of a text that may be replaced."""

    start: int
    end: int
    candidates: list[str]


class MaskedLM(Augmentation):
    """Each word is replaced with probability p by one of the `candidates` likeliest at its place.

    The words are looked for once a text: the model reads the text with the word masked, and the text itself
    as a second sentence. All copies are drawn from them. This is the algorithm of TinyBERT's code (Jiao et
    al. 2020, arXiv 1909.10351, data_augmentation.py), but that a word of several pieces is masked as well,
    where TinyBERT asks GloVe, and that the word itself, pieces of words and special tokens are not
    candidates.

    When to use it: for copies that read like text of the task. It costs a forward of the model for each word:
    make a fixed set with `augment`, on a GPU if there is one. Not on the fly, where each epoch pays again.

    Args:
        model: fill-mask model: a Hub id, a folder, or the model itself, which stays on its device.
        tokenizer: its fast tokenizer; None for the one beside it.
        p: probability of each word (paper: 0.4).
        candidates: for each word (code: 15).
        batch_size: texts in one forward.
        stop_words: words in small letters that stay.

    Raises:
        HubUnreachable: where the Hub gives no answer.
        ValueError: for p outside (0, 1], fewer than one candidate, a model without a trained head, and a
            tokenizer that is slow, has no mask token or no whole words, or is missing.

    Example:
        >>> new = augment(rows, MaskedLM("google-bert/bert-base-uncased"), copies=20)  # doctest: +SKIP
    """

    def __init__(
        self,
        model: str | Path | PreTrainedModel,
        tokenizer: Any = None,
        *,
        p: float = 0.4,
        candidates: int = 15,
        batch_size: int = 64,
        stop_words: Iterable[str] = STOP_WORDS,
    ) -> None:
        check_share(self, "p", p)
        if candidates < 1 or batch_size < 1:
            raise ValueError(f"MaskedLM needs 1 or more, found {candidates=} and {batch_size=}.")
        self.tokenizer = _tokenizer(model, tokenizer)
        self.model = _fill_mask_model(model).eval()
        self.p, self.candidates, self.batch_size = p, candidates, batch_size
        self.stop_words = frozenset(stop_words)
        self._words = _whole_words(self.tokenizer)

    def __repr__(self) -> str:
        """Return the settings."""
        return f"MaskedLM({type(self.model).__name__}, p={self.p}, candidates={self.candidates})"

    def fingerprint(self) -> str | None:
        """Return the sha256 over settings, weights, config and tokenizer."""
        digest = hashlib.sha256(f"{hfdistill.__version__} {self!r} {sorted(self.stop_words)}".encode())
        digest.update(tokenizer_print(self.tokenizer).encode())
        written = ("architectures", "dtype", "transformers_version")  # when it was saved
        config = {n: v for n, v in self.model.config.to_dict().items() if n[0] != "_" and n not in written}
        digest.update(json.dumps(config, sort_keys=True, default=str).encode())
        add_weights(digest, self.model)
        return digest.hexdigest()

    def prepare(self, texts: Sequence[str]) -> list[Any]:
        """Return each text with the candidates for each of its words."""
        queries = [
            (i, match.start(), match.end())
            for i, text in enumerate(texts)
            for match in WORD.finditer(text)
            if match.group().lower() not in self.stop_words
        ]
        queries.sort(key=lambda query: len(texts[query[0]]))  # stable, for little padding
        slots: dict[int, list[Slot]] = {}
        for start in range(0, len(queries), self.batch_size):
            batch = queries[start : start + self.batch_size]
            for (i, begin, end), words in zip(batch, self._fill(texts, batch), strict=True):
                if words:
                    slots.setdefault(i, []).append(Slot(begin, end, words))
        return [(text, sorted(slots.get(i, ()))) for i, text in enumerate(texts)]

    def draw(self, prepared: Any, *, random: Random, copy: int) -> str:
        """Return the text with words replaced."""
        text, slots = prepared
        for slot in reversed(slots):
            word = random.choice(slot.candidates)
            if random.random() < self.p:
                text = text[: slot.start] + cased(word, text[slot.start :]) + text[slot.end :]
        return str(text)

    @torch.inference_mode()
    def _fill(self, texts: Sequence[str], queries: Sequence[tuple[int, int, int]]) -> list[list[str]]:
        """Return the likeliest words at the place of each query: text number, begin and end of the word."""
        mask = self.tokenizer.mask_token
        masked = [texts[i][:begin] + mask + texts[i][end:] for i, begin, end in queries]
        encoding = self.tokenizer(
            masked,
            [texts[i] for i, _, _ in queries],
            truncation="longest_first" if self._limit else False,
            max_length=self._limit,
            padding=True,
            return_tensors="pt",
            verbose=False,
        )
        places = [encoding.char_to_token(row, begin, 0) for row, (_, begin, _) in enumerate(queries)]
        logits = self.model(**encoding.to(self.model.device)).logits
        rows = torch.arange(len(queries), device=logits.device)
        at = torch.tensor([place or 0 for place in places], device=logits.device)
        best = self._best(logits[rows, at].float().cpu())  # (queries, candidates + 1)
        own = [texts[i][begin:end].lower() for i, begin, end in queries]
        candidates = []
        for place, line, word in zip(places, best.tolist(), own, strict=True):
            others = [self._words[n] for n in line if self._words[n].lower() != word]
            candidates.append([] if place is None else others[: self.candidates])
        return candidates

    def _best(self, logits: Tensor) -> Tensor:
        allowed = torch.full_like(logits, -torch.inf)
        ids = torch.tensor(sorted(n for n in self._words if n < logits.shape[-1]))
        allowed[:, ids] = logits[:, ids]
        return allowed.topk(min(self.candidates + 1, len(ids))).indices

    @property
    def _limit(self) -> int | None:
        """Tokens that the model has positions for."""
        limit = room_for(self.model.config, self.tokenizer)
        return limit if limit < 10**9 else None


def _fill_mask_model(source: Any) -> Any:
    """Return the model itself, or load it from an id or a folder."""
    if not isinstance(source, (str, Path)):
        return make_whole(source)
    with loading_whole(source) as options:
        options |= {"dtype": torch.float32, "output_loading_info": True}
        model, loading = AutoModelForMaskedLM.from_pretrained(str(source), **options)
    if missing := sorted(loading["missing_keys"]):
        raise ValueError(
            f"{str(source)!r} holds no fill-mask model: {', '.join(missing[:4])} are missing from its "
            "weights and would be random. Name a model that was pre-trained by masking, such as "
            "google-bert/bert-base-uncased."
        )
    return model


def _tokenizer(model: Any, tokenizer: Any) -> Any:
    if tokenizer is None and isinstance(model, (str, Path)):
        tokenizer = read_tokenizer(model)
    if tokenizer is None:
        raise ValueError(
            "MaskedLM was given a model without its tokenizer. Type MaskedLM(model, tokenizer), or name both "
            "by an id or a folder."
        )
    if tokenizer.mask_token is None or not getattr(tokenizer, "is_fast", False):
        lack = "is slow" if tokenizer.mask_token else "has no mask token"
        raise ValueError(
            f"The tokenizer {type(tokenizer).__name__} {lack}: a word's place could not be found. Take a "
            "model that was pre-trained by masking, with AutoTokenizer.from_pretrained(...)."
        )
    return tokenizer


def _whole_words(tokenizer: Any) -> dict[int, str]:
    """Return id → word, for the tokens that are one by themselves."""
    vocabulary = tokenizer.get_vocab()
    special = set(tokenizer.all_special_tokens) | set(tokenizer.get_added_vocab())
    kind = type(tokenizer.backend_tokenizer.model).__name__
    marks = () if kind == "WordPiece" else _BEGINS  # whose vocabularies may hold them as letters
    begin = next((mark for mark in marks if any(token.startswith(mark) for token in vocabulary)), "")
    words = {
        number: tokenizer.convert_tokens_to_string([token]).strip().removeprefix(begin)
        for token, number in vocabulary.items()
        if token.startswith(begin) and token not in special
    }
    words = {number: word for number, word in words.items() if word.isalpha()}
    if not words:
        raise ValueError(
            f"No token of {type(tokenizer).__name__} is a whole word, so the model cannot name one. Take a "
            "model of words and pieces, such as google-bert/bert-base-uncased."
        )
    return words
