"""A student with fewer words: embeddings and tokenizer cut together."""

from __future__ import annotations

import copy
import json
import logging
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hfdistill.files.plain_data import as_python, public_name
from hfdistill.network.loading import read_tokenizer
from hfdistill.students.corpus import Corpus, token_counts
from hfdistill.students.subword_models import Pieces, pieces_of, renumbered
from hfdistill.students.weight_copy import empty_like, load_weights, network

logger = logging.getLogger(__name__)

_RESERVED = re.compile(r"[\[<]unused_?\d+[\]>]|madeupword\d+")
"""Places that BERT's, Gemma's and fairseq's vocabularies hold free; no text is read as one."""


def prune_vocabulary(
    model: PreTrainedModel | str | os.PathLike[str],
    tokenizer: PreTrainedTokenizerFast | str | os.PathLike[str],
    corpus: Corpus,
    *,
    keep: float = 1.0,
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Cut a model to the tokens that a corpus needs, and its tokenizer to one that gives these tokens alone.

    Tokens are kept from the most frequent on, each with the pieces that it comes about by (BPE's merges).
    Always kept are special and added tokens, all single bytes and characters, pieces with a character that
    has no piece of its own, and, for Unigram, the piece of the lowest score, which prices unknown characters.
    After Abdaoui et al. 2020, "Load What You Need" (arXiv 2010.05609), which has neither BPE nor fallbacks.

    A text whose tokens are all kept is read as the same tokens and gets the same logits, to the bit: BPE's
    merges, WordPiece's longest piece and Unigram's best path are the same among fewer. Any other text is read
    in smaller pieces: longer, and not worse than rare words are; fine-tuning or distilling afterwards mends
    it. Nothing that was readable becomes unknown, but for a word with a character that WordPiece knows only
    within longer pieces. Such a word may also become readable that was not.

    Ids follow the old order. The padding token keeps its id where it can, since RoBERTa and MPNet count
    positions from it. Also cut are output layers over the vocabulary (masked language models), which stay
    tied. A student cut this way reads other ids than its teacher: train it with its own tokenizer, and give
    the teacher its own.

    Args:
        model: a model of any architecture and head, a PEFT wrapper, an id or a path. It stays as it was.
        tokenizer: its fast tokenizer: WordPiece, BPE (with bytes, characters or `</w>`) or Unigram.
        corpus: text like that to be read: strings, pairs of strings, or a `datasets.Dataset` (or dict of
            splits) with a `text` (and `text_pair`) column.
        keep: a float in (0, 1] is the share of the corpus's token occurrences to be covered, 1.0 every token
            that occurs. A whole number is how many tokens the new vocabulary may have, all included: those of
            the corpus first, then the first of the old vocabulary, whose order is that of frequency in the
            text the tokenizer was made of. Words that the corpus lacks are read whole more often then.

    Returns:
        The model on its device, in evaluation mode and its dtype, and the tokenizer.
        `config.vocabulary_pruned_from` keeps the origin: `{"model": "org/teacher", "tokens": 30522}`.

    Raises:
        TypeError: `tokenizer` is not a fast one, or the corpus holds no texts.
        ValueError: a tokenizer of another kind, one that does not fit the model, an empty corpus, or a `keep`
            that is not a share or has no room for the tokens that must stay.

    Example:
        >>> model, tokenizer = prune_vocabulary(  # doctest: +SKIP
        ...     "org/teacher", "org/teacher", ["a warm film", "dull"], keep=0.99
        ... )

    When to use it: where embeddings are most of the weights: multilingual models read in one language, small
    students of one domain. It makes a model smaller and its optimizer step cheaper; a forward takes the time
    it took. When not: where new domains or languages are to be read later.
    """
    whole, keep = network(model), as_python(keep)
    old = _tokenizer(tokenizer)
    size = _vocabulary_size(whole)
    _check(old, size=size, keep=keep)
    written = json.loads(old.backend_tokenizer.to_str())
    pieces = pieces_of(written["model"])
    counts = token_counts(copy.deepcopy(old), corpus, size=size)
    must = _must(old, whole.config, written, pieces)
    chosen = _chosen(pieces, counts, must=must, keep=keep, special=len(_beyond(written, pieces)))
    ids = _order(chosen, written, pieces, pad=old.pad_token_id)
    new_tokenizer = _rebuilt(old, written, pieces, ids)
    new_model = _model(whole, ids, size=size)
    covered = float(counts[ids].sum() / counts.sum())
    _log(whole, new_model, covered=covered, before=size, after=len(ids))
    return new_model, new_tokenizer


def _tokenizer(source: Any) -> Any:
    if isinstance(source, (str, os.PathLike)):
        source = read_tokenizer(os.fspath(source))
    if not getattr(source, "is_fast", False):
        raise TypeError(
            f"prune_vocabulary edits the tokenizer.json of a fast tokenizer, found {type(source).__name__}. "
            f"Load it with AutoTokenizer.from_pretrained(...)."
        )
    return source


def _vocabulary_size(model: Any) -> int:
    table = model.get_input_embeddings().weight
    if len(table) != model.config.vocab_size:
        raise ValueError(
            f"The embedding table has {len(table)} rows and config.vocab_size says {model.config.vocab_size}."
            f" Type model.resize_token_embeddings({len(table)})."
        )
    return len(table)


def _check(tokenizer: Any, *, size: int, keep: float) -> None:
    largest = max(tokenizer.get_vocab().values())
    if largest >= size:
        raise ValueError(
            f"The tokenizer gives ids up to {largest} and the model has {size} embeddings, so they do not "
            f"belong together. Pass the model's own tokenizer."
        )
    if isinstance(keep, bool) or not isinstance(keep, (int, float)):
        raise TypeError(f"keep={keep!r} is neither a share nor a number of tokens. Write keep=0.99 or 5000.")
    if keep <= 0 or (isinstance(keep, float) and not keep <= 1):
        raise ValueError(
            f"keep={keep!r} keeps no part of a vocabulary: a float is the share of token occurrences, above "
            f"0 and up to 1.0; a whole number is a number of tokens. Write keep=0.99 or keep={size // 2}."
        )


def _beyond(written: Mapping[str, Any], pieces: Pieces) -> list[int]:
    """Return ids of added tokens that are not pieces of the model."""
    return sorted(token["id"] for token in written["added_tokens"] if token["content"] not in pieces.ids)


def _ids_named(written: Mapping[str, Any], tokenizer: Any) -> set[int]:
    """Return ids that post-processor and padding put in."""
    ids: set[int] = set()

    def note(token: int) -> int:
        ids.add(token)
        return token

    for part in ("post_processor", "padding"):
        renumbered(written.get(part), note, names=tokenizer.get_vocab())
    return ids


def _must(tokenizer: Any, config: Any, written: Mapping[str, Any], pieces: Pieces) -> set[str]:
    """Return pieces that stay whatever the corpus holds."""
    named = {pieces.ids[t["content"]] for t in written["added_tokens"] if t["content"] in pieces.ids}
    named |= _ids_named(written, tokenizer) | set(tokenizer.all_special_ids)
    named |= {token for ids in _special(config).values() for token in ids}
    must = pieces.required() | {piece for piece, token in pieces.ids.items() if token in named}
    return must.union(*map(pieces.parts, must))


def _special(config: Any) -> dict[str, list[int]]:
    """Return the config's fields that hold token ids."""
    fields = {name: value for name, value in config.to_dict().items() if name.endswith("_token_id")}
    return {
        name: value if isinstance(value, list) else [value]
        for name, value in fields.items()
        if value is not None
    }


def _chosen(pieces: Pieces, counts: Tensor, *, must: set[str], keep: float, special: int) -> set[str]:
    """Return the pieces to keep: those that must stay, then by frequency until `keep` is reached."""
    limit = keep - special if isinstance(keep, int) else len(pieces.ids)
    if len(must) > limit:
        least = len(must) + special
        usual = min(least + 1000, len(pieces.ids) + special)
        raise ValueError(
            f"keep={keep} has no room for the {least} tokens without which some text could not be read: "
            f"special tokens, bytes and characters. Write keep={usual} or more."
        )
    chosen, total = set(must), int(counts.sum())
    frequency = dict(zip(pieces.ids, counts[list(pieces.ids.values())].tolist(), strict=True))
    missing = total - sum(frequency[piece] for piece in chosen) - int(counts.sum() - sum(frequency.values()))
    by_frequency = sorted(frequency, key=lambda piece: (-frequency[piece], pieces.ids[piece]))
    for piece in by_frequency:
        if isinstance(keep, float) and missing <= (1 - keep) * total:
            break
        if not frequency[piece] and _RESERVED.fullmatch(piece):
            continue
        new = pieces.parts(piece) - chosen
        if len(chosen) + len(new) > limit:
            break
        chosen |= new
        missing -= sum(frequency[part] for part in new)
    return chosen


def _order(
    chosen: Iterable[str], written: Mapping[str, Any], pieces: Pieces, *, pad: int | None
) -> list[int]:
    """Return old ids in the order of the new ones: pieces, then added tokens, as tokenizers numbers them."""
    ids = sorted(pieces.ids[piece] for piece in chosen)
    if pad in ids and pad < len(ids):
        ids.remove(pad)
        ids.insert(pad, pad)
    return ids + _beyond(written, pieces)


def _rebuilt(tokenizer: Any, written: dict[str, Any], pieces: Pieces, order: list[int]) -> Any:
    """Return the tokenizer as it is loaded from files with the kept tokens alone."""
    new = {old: i for i, old in enumerate(order)}
    names = tokenizer.get_vocab()
    expected = {name: new[old] for name, old in names.items() if old in new}
    ids = {piece: new[old] for piece, old in pieces.ids.items() if old in new}
    edited = {**written, "model": pieces.cut(dict(sorted(ids.items(), key=lambda entry: entry[1])))}
    added = [{**token, "id": new[token["id"]]} for token in written["added_tokens"]]
    edited["added_tokens"] = sorted(added, key=lambda token: token["id"])
    for part in ("post_processor", "padding"):
        edited[part] = renumbered(written.get(part), new.__getitem__, names=names)
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        Path(folder, "tokenizer.json").write_text(json.dumps(edited, ensure_ascii=False), encoding="utf-8")
        rebuilt = type(tokenizer).from_pretrained(folder)
    if rebuilt.get_vocab() != expected:
        raise ValueError(
            f"A {type(tokenizer).__name__} is not made of its tokenizer.json alone, so it cannot be pruned. "
            f"Load it as PreTrainedTokenizerFast.from_pretrained(folder) and prune that."
        )
    rebuilt.name_or_path = rebuilt.init_kwargs["name_or_path"] = ""
    return rebuilt


def _model(whole: Any, order: list[int], *, size: int) -> Any:
    """Return the model with the kept rows of its table, and of all that is as long."""
    new = {old: i for i, old in enumerate(order)}
    config = copy.deepcopy(whole.config)
    for name, value in whole.config.to_dict().items():
        if name in _special(whole.config):
            ids = [new.get(token, token if token >= size else None) for token in _special(whole.config)[name]]
            setattr(config, name, ids if isinstance(value, list) else ids[0])
    config.vocab_size = len(order)
    if whole.name_or_path or not hasattr(config, "vocabulary_pruned_from"):  # else pruned before, in memory
        config.vocabulary_pruned_from = {"model": public_name(whole.name_or_path or ""), "tokens": size}
    config._name_or_path = ""
    student = empty_like(whole, config, dtype=whole.dtype)
    load_weights(student, _kept_entries(whole, student, torch.tensor(order), size=size))
    return student.to(whole.device).eval()


def _kept_entries(whole: Any, student: Any, order: Tensor, *, size: int) -> dict[str, Tensor]:
    """Return the weights, cut to the kept entries along every dimension of the vocabulary."""
    cut = {}
    shapes = {name: weight.shape for name, weight in student.state_dict().items()}
    for name, weight in whole.state_dict().items():
        for dimension, length in enumerate(shapes.get(name, weight.shape)):
            if weight.shape[dimension] == size != length:
                weight = weight.index_select(dimension, order.to(weight.device))
        cut[name] = weight
    return cut


def _log(before_model: Any, after_model: Any, *, covered: float, before: int, after: int) -> None:
    parameters = before_model.num_parameters(), after_model.num_parameters()
    logger.info(
        "Kept %s of %s tokens, %.2f %% of those in the corpus: %.1f M → %.1f M parameters (%.0f %%).",
        f"{after:,}",
        f"{before:,}",
        100 * covered,
        parameters[0] / 1e6,
        parameters[1] / 1e6,
        100 * parameters[1] / parameters[0],
    )
