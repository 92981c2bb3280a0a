"""Subword models with fewer pieces: finds what a piece is merged from, and writes the pieces that stay."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from itertools import pairwise
from typing import Any

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


class Pieces(ABC):
    """One kind of subword model, by the `model` part of a `tokenizer.json`."""

    ids: dict[str, int]
    """The pieces and their ids."""

    def __init__(self, model: Mapping[str, Any]) -> None:
        self.model = dict(model)

    @abstractmethod
    def required(self) -> set[str]:
        """Return pieces without which some text could no longer be read, or would be read otherwise."""

    def parts(self, piece: str) -> set[str]:
        """Return the piece, and all others that must be there for it to come about: none."""
        return {piece}

    @abstractmethod
    def cut(self, ids: Mapping[str, int]) -> dict[str, Any]:
        """Return the `model` part with these pieces under these ids alone."""


class WordPiece(Pieces):
    """The longest piece from the left wins, so a kept piece needs no other (arXiv 2012.15524)."""

    def __init__(self, model: Mapping[str, Any]) -> None:
        super().__init__(model)
        self.ids: dict[str, int] = self.model["vocab"]
        self._prefix: str = self.model["continuing_subword_prefix"]

    def required(self) -> set[str]:
        """Return characters, at a word's start and within, and pieces with a character that is no piece."""
        return {piece for piece in self.ids if self._stays(piece)} | (
            {self.model["unk_token"]} & self.ids.keys()
        )

    def _stays(self, piece: str) -> bool:
        bare = piece.removeprefix(self._prefix)
        if len(bare) <= 1:
            return True
        letters = [bare[0], *(self._prefix + letter for letter in bare[1:])]
        if bare != piece:
            letters[0] = self._prefix + letters[0]
        return not all(letter in self.ids for letter in letters)

    def cut(self, ids: Mapping[str, int]) -> dict[str, Any]:
        """Return the vocabulary of these pieces alone."""
        return {**self.model, "vocab": dict(ids)}


class BPE(Pieces):
    """Merges by rank: a piece comes about by one chain of merges and needs all of them (arXiv 1508.07909)."""

    def __init__(self, model: Mapping[str, Any]) -> None:
        super().__init__(model)
        if self.model.get("continuing_subword_prefix"):
            raise ValueError(
                f"Found a BPE tokenizer whose pieces within a word start with "
                f"{self.model['continuing_subword_prefix']!r}; how its merges join is not known here. Use a "
                "teacher with WordPiece, Unigram, or BPE without such a prefix."
            )
        self.ids: dict[str, int] = self.model["vocab"]
        self._suffix: str = self.model.get("end_of_word_suffix") or ""
        self._merges = [tuple(m.split(" ") if isinstance(m, str) else m) for m in self.model["merges"]]
        self._ranks = {merge: rank for rank, merge in enumerate(self._merges)}

    def required(self) -> set[str]:
        """Return what merging starts from: characters or bytes."""
        start = {p for p in self.ids if len(p.removesuffix(self._suffix)) <= 1 or _BYTE.fullmatch(p)}
        return start | (self.ids.keys() & {self.model.get("unk_token")})

    def parts(self, piece: str) -> set[str]:
        """Return the results of all merges on the way to the piece.

        Merges within a piece do not depend on the text around it, since none of them reaches out of it.
        """
        bare = piece.removesuffix(self._suffix)
        symbols = [*bare[:-1], bare[-1:] + piece[len(bare) :]]
        made = {piece}
        while len(symbols) > 1:
            pairs = pairwise(symbols)
            rank, at = min((self._ranks.get(pair, len(self._ranks)), i) for i, pair in enumerate(pairs))
            if rank == len(self._ranks):
                return {piece}  # read whole (`ignore_merges`), not merged
            symbols[at : at + 2] = ["".join(symbols[at : at + 2])]
            made.add(symbols[at])
        return made

    def cut(self, ids: Mapping[str, int]) -> dict[str, Any]:
        """Return the merges of which both parts and the result are kept, in their order."""
        merges = [[a, b] for a, b in self._merges if a in ids and b in ids and a + b in ids]
        return {**self.model, "vocab": dict(ids), "merges": merges}


class Unigram(Pieces):
    """The best sum of scores wins; what was best stays best among fewer (arXiv 1804.10959)."""

    def __init__(self, model: Mapping[str, Any]) -> None:
        super().__init__(model)
        self._scores: dict[str, float] = dict(self.model["vocab"])
        self.ids: dict[str, int] = {piece: i for i, (piece, _) in enumerate(self.model["vocab"])}

    def required(self) -> set[str]:
        """Return characters, bytes, pieces with a character that is no piece, and the least likely piece.

        That score sets the price of an unknown character for all texts.
        """
        stays = {p for p in self.ids if _BYTE.fullmatch(p) or len(p) <= 1 or not self.ids.keys() >= set(p)}
        unknown = self.model.get("unk_id")
        return (
            stays
            | {min(self._scores, key=self._scores.__getitem__)}
            | (set() if unknown is None else {self.model["vocab"][unknown][0]})
        )

    def cut(self, ids: Mapping[str, int]) -> dict[str, Any]:
        """Return the list of these pieces and their scores alone."""
        unknown = self.model.get("unk_id")
        name = None if unknown is None else self.model["vocab"][unknown][0]
        vocabulary = [[piece, self._scores[piece]] for piece in sorted(ids, key=ids.__getitem__)]
        return {**self.model, "vocab": vocabulary, "unk_id": None if name is None else ids[name]}


_KINDS: dict[str, type[Pieces]] = {kind.__name__: kind for kind in (WordPiece, BPE, Unigram)}


def pieces_of(model: Mapping[str, Any]) -> Pieces:
    """Read the pieces of a `tokenizer.json`'s model."""
    kind = str(model.get("type"))
    if kind not in _KINDS:
        raise ValueError(
            f"Found a tokenizer of kind {kind!r}, where a dropped token leaves its text unreadable. "
            f"{', '.join(_KINDS)} tokenizers can be pruned; use a model with one of these."
        )
    return _KINDS[kind](model)


def renumbered(part: Any, new: Callable[[int], int], *, names: Collection[str]) -> Any:
    """Return a post-processor's or padding's JSON with new token ids.

    Ids stand under `id`, `ids` and `pad_id`, and in `["[SEP]", 102]` after the token's name.
    """
    if isinstance(part, list):
        if len(part) == 2 and type(part[0]) is str and part[0] in names and type(part[1]) is int:
            return [part[0], new(part[1])]
        return [renumbered(entry, new, names=names) for entry in part]
    if not isinstance(part, dict):
        return part
    changed: dict[str, Any] = {}
    for key, value in part.items():
        if key in ("id", "pad_id") and type(value) is int:
            changed[key] = new(value)
        elif key == "ids":
            changed[key] = [new(i) for i in value]
        else:
            changed[key] = renumbered(value, new, names=names)
    return changed
