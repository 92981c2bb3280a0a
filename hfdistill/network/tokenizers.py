"""Whether two tokenizers make the same token ids of a text."""

from __future__ import annotations

import hashlib
import json
from typing import Any

_PROBES = (
    ("A warm film, naïve CAFÉ - über-dull; don't\tyou think? 12,345 中文 😀",),
    ("Is it good?", "It's  GREAT."),
    ("",),
)
_PARTS = ("normalizer", "pre_tokenizer", "model")


def difference(own: Any, theirs: Any) -> str | None:
    """Return the first thing in which two tokenizers differ, as a clause; None where they are alike.

    Compared are the vocabularies, the padding, how text is normalised, cut into words and these into pieces,
    and the ids of a few texts (special tokens, pairs). Limits and the side of padding may differ.

    Example:
        >>> from transformers import AutoTokenizer
        >>> one = AutoTokenizer.from_pretrained("google-bert/bert-base-uncased")
        >>> difference(one, one) is None
        True
    """
    if own is theirs:
        return None
    words, others = own.get_vocab(), theirs.get_vocab()
    if words != others:
        return _other_word(words, others)
    if own.pad_token_id != theirs.pad_token_id:
        return (
            f"padding has id {own.pad_token_id} in the student's and {theirs.pad_token_id} in the teacher's"
        )
    ours, other = _pieces(own), _pieces(theirs)
    for name in _PARTS:
        if ours and other and ours[name] != other[name]:
            return f"they have one vocabulary, but another {name}"
    for texts in _PROBES:
        ids, other_ids = (side(*texts, verbose=False)["input_ids"] for side in (own, theirs))
        if list(ids) != list(other_ids):
            return f"{texts[0]!r} is {list(ids)} in the student's and {list(other_ids)} in the teacher's"
    return None


def tokenizer_print(tokenizer: Any) -> str:
    """Return the sha256 that tells one tokenizer from another, the same in every process."""
    facts: dict[str, Any] = {
        "vocabulary": tokenizer.get_vocab(),
        "pieces": _pieces(tokenizer),
        "ids": [list(tokenizer(*texts, verbose=False)["input_ids"]) for texts in _PROBES],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _other_word(words: dict[str, int], others: dict[str, int]) -> str:
    token = min(
        (word for word in words if others.get(word) != words[word]), key=words.__getitem__, default=""
    )
    if not token:
        return f"the student's has {len(words):,} tokens, the teacher's {len(others):,}"
    place = f"id {others[token]}" if token in others else "no id"
    return f"{token!r} has id {words[token]} in the student's and {place} in the teacher's"


def _pieces(tokenizer: Any) -> dict[str, Any]:
    """Return how a fast tokenizer normalises and cuts; nothing for a slow one."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return {}
    parts = json.loads(backend.to_str())
    return {name: parts[name] for name in _PARTS}
