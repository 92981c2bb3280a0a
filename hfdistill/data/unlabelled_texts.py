"""`load_texts` reads texts without labels, for the teacher to label: each once, and no evaluation text."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from datasets import Dataset, Features, Value

import hfdistill
from hfdistill.data.encodings import suffix_of
from hfdistill.data.in_memory import as_rows
from hfdistill.data.table_files import FileOptions, telling_causes
from hfdistill.data.text_files import read_texts, text_files
from hfdistill.files.plain_data import printable

logger = logging.getLogger(__name__)

Unit = Literal["line", "sentence", "paragraph"]

SHORTEST = 4
"""Words of an evaluation text from which on it is looked for inside longer ones."""

_SENTENCE = re.compile(r"(?<=[.!?])[\"')\]]*\s+|(?<=[\u3002\uff01\uff1f])")
_WORD = re.compile(r"\w+")
_CONTRACTED = re.compile(r"\s*(n)\s?['\u2019]\s?(t)\b|\s*['\u2019]\s?(s|m|d|re|ve|ll)\b")
"""The second half of don't, it's and we'll, also where a tokenizer has split them: do n't, it 's, we 'll."""
_LONGEST_PARAGRAPH = 1 << 20  # letters
_LONGEST_WORD = 1000  # letters; what is longer is not a word but data


def load_texts(
    source: str | os.PathLike[str],
    *,
    text: str | None = None,
    unit: Unit = "line",
    min_words: int = 1,
    max_words: int = 128,
    against: Any = (),
    overlap: int = 8,
    limit: int | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    quotes: bool | None = None,
) -> Dataset:
    """Return the column `text`: each text of a folder once, and none of those that the student is judged by.

    Files are read piece by piece and written to the cache of `datasets`, never held in memory; what is held
    is 16 bytes and their overhead (about 0.1 kB) for each text that was kept. Texts are compared in NFC,
    without case, spaces and punctuation. Left out, counted and said once: texts seen before; texts that are
    one of `against`, that contain one of 4 words or more, or that share `overlap` words in a row with a
    longer one, the words around a piece or sentence included; texts with bytes that are not UTF-8, or with a
    word of more than 1,000 letters; lines of csv and tsv files that are not rows, as `load` refuses them.

    When to use it: the rows have no label, so the teacher alone speaks there. Text of the task's own domain
    is worth more than much text (Turc et al. 2019, arXiv 1908.08962, section 6). Join it to labelled rows
    with `concatenate_datasets([labelled, texts])`. Not for pairs. An evaluation text that is broken over two
    lines is found by paragraph and by sentence, not by line; in languages without spaces between words, one
    that stands inside another is not found.

    Args:
        source: a .txt, .jsonl, .csv, .tsv or .parquet file (all but the last also packed, as .txt.gz), or a
            folder of them, also in folders below. Links that lead out of it are not read.
        text: the column of texts, where files have columns; found by its usual names where not given.
        unit: what one text is: a line (or a row) as it is, each sentence of it, or all lines up to an
            empty one.
        min_words: shorter texts are left out.
        max_words: longer texts are cut into pieces.
        against: the evaluation data: data sets, dicts of them, or texts.
        overlap: words in a row that two texts may not share.
        limit: texts at most; the rest is not read.
        encoding: of all files but .parquet, where it is neither UTF-8 nor UTF-16 with a byte order mark.
        delimiter: between the cells of a csv or tsv; found where not given, as `load` does.
        quotes: whether quotation marks enclose the cells of a csv or tsv, as for `load`.

    Raises:
        FileNotFoundError: where there is no such file or folder.
        ValueError: for files without texts, columns that are not found, and numbers that make no sense.

    Example:
        >>> from pathlib import Path
        >>> from hfdistill import load_texts
        >>> Path("talk.txt").write_text("A warm film.\\na  WARM film\\nThe plot was thin.\\n")
        45
        >>> load_texts("talk.txt", against=["The plot was thin"])["text"][:]
        ['A warm film.']
    """
    _check_arguments(unit, min_words, max_words, overlap, limit)
    files, options = text_files(source), FileOptions(encoding, delimiter, quotes)
    _check_files(files, text, options)
    _check_against(against)
    gate = Gate(_runs(_each(against), overlap), min_words=min_words)
    pieces = (
        piece
        for file in files
        for whole in _wholes(file, text, unit, options, gate.dropped)
        for piece in _pieces(whole, unit, max_words=max_words, margin=2 * overlap)
    )
    known = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    digest = _fingerprint(known, text, unit, min_words, max_words, gate.runs, overlap, limit, options)
    texts = _written(gate, pieces, limit, digest)
    if gate.dropped:
        reasons = ", ".join(f"{count:,} {why}" for why, count in gate.dropped.items())
        logger.warning("%s: %s texts kept, left out %s", source, f"{len(texts or ()):,}", reasons)
    if texts is None:
        raise ValueError(
            f"No text of {str(source)!r} is left. Is it all in the evaluation data (against=), shorter than "
            f"min_words={min_words}, or not UTF-8?"
        )
    return texts


def _check_arguments(unit: str, min_words: int, max_words: int, overlap: int, limit: int | None) -> None:
    if unit not in ("line", "sentence", "paragraph"):
        raise ValueError(f"unit is 'line', 'sentence' or 'paragraph', found {unit!r}.")
    if not 1 <= min_words <= max_words or overlap < SHORTEST or (limit is not None and limit < 1):
        raise ValueError(
            f"load_texts needs 1 <= min_words <= max_words, overlap of {SHORTEST} or more and limit of 1 or "
            f"more, found {min_words=}, {max_words=}, {overlap=}, {limit=}."
        )


def _check_against(against: Any) -> None:
    """Refuse the path of a file, which would be taken for an evaluation text."""
    if isinstance(against, os.PathLike) or (isinstance(against, str) and os.path.lexists(against)):
        raise TypeError(
            f"against= is a path, {printable(against)}, in the place of evaluation texts. Type "
            "against=load(path)."
        )


def _check_files(files: Sequence[Path], text: str | None, options: FileOptions) -> None:
    """Refuse files without the column of texts before any is read, and log what was guessed of them."""
    for file in files:
        next(read_texts(file, text, options), None)
        if suffix_of(file) in (".csv", ".tsv"):
            options.layout(file, errors="replace")


def _fingerprint(*settings: Any) -> str:
    """Return a digest of what is read and how, by this version."""
    described = f"{hfdistill.__version__} {settings}"
    return hashlib.sha256(described.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _written(gate: Gate, pieces: Iterable[Piece], limit: int | None, fingerprint: str) -> Dataset | None:
    """Write the texts that pass to the cache of `datasets`; None where none does."""
    try:
        with telling_causes():
            return Dataset.from_generator(
                lambda: gate.passed(pieces, limit),
                features=Features({"text": Value("string")}),
                fingerprint=fingerprint,
            )
    except ValueError as error:
        if "corresponds to no data" not in str(error):
            raise
        return None


class Piece(NamedTuple):
    """A piece of text with the words that stand before and after it."""

    before: str
    text: str
    after: str


@dataclass
class Gate:
    """Lets each text pass once, unless it overlaps with the evaluation texts.

    Args:
        runs: number of words n → digests of the runs of n words that may not occur.
        min_words: the fewest words of a text.
        dropped: how many texts were left out, by reason.
    """

    runs: Mapping[int, Collection[bytes]]
    min_words: int
    dropped: Counter[str] = field(default_factory=Counter)

    def passed(self, pieces: Iterable[Piece], limit: int | None) -> Iterator[dict[str, str]]:
        """Yield the rows that pass, `limit` of them at most; None for all."""
        seen: set[bytes] = set()
        for before, text, after in pieces:
            if limit is not None and len(seen) >= limit:
                return
            words = normalised(text)
            whole = _digest(words)
            why = self._refused(text, words) or ("seen before" if whole in seen else None)
            if why is None and self._overlaps(normalised(before), words, normalised(after)):
                why = "overlapping with evaluation texts"
            if why:
                self.dropped[why] += 1
                continue
            seen.add(whole)
            yield {"text": text}

    def _refused(self, text: str, words: Sequence[str]) -> str | None:
        if "\ufffd" in text or "\0" in text:
            return "not UTF-8"
        if len(words) < self.min_words:
            return "too short"
        if max(map(len, words)) > _LONGEST_WORD:
            return f"with a word of more than {_LONGEST_WORD} letters"
        return None

    def _overlaps(self, before: list[str], words: list[str], after: list[str]) -> bool:
        """Whether these words are a forbidden text, or overlap with a forbidden run of words."""
        around, first = before + words + after, len(before)
        for size, digests in self.runs.items():
            starts = range(max(0, first - size + 1), min(first + len(words), len(around) - size + 1))
            if size and any(_digest(around[i : i + size]) in digests for i in starts):
                return True
        return _digest(words) in self.runs.get(0, ())


def normalised(text: str) -> list[str]:
    """Return the words of a text, NFC, without case and punctuation; its signs where it has no word.

    Contractions are one word, whether they were split or not: "Don't", "do n't" and "dont" are `dont`.
    """
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    return _WORD.findall(_CONTRACTED.sub(r"\1\2\3", folded)) or folded.split()


def apart_from(rows: Dataset, evaluation: Dataset) -> Dataset:
    """Leave out the rows whose texts are those of a row of the evaluation, and log how many these are.

    Texts are compared as `load_texts` compares whole ones, those of a pair or the words of a row together.
    """
    names = [name for name in ("text", "text_pair", "tokens") if name in rows.column_names]

    def read(data: Dataset) -> Iterator[bytes]:
        for batch in data.select_columns(names).iter(1000):
            for values in zip(*(batch[name] for name in names), strict=True):
                texts = (" ".join(value) if isinstance(value, list) else str(value) for value in values)
                yield _digest([word for text in texts for word in ("\0", *normalised(text))])

    known = set(read(evaluation))
    indices = [row for row, digest in enumerate(read(rows)) if digest not in known]
    left = len(rows) - len(indices)
    if not left:
        return rows
    words = "rows are left out: they are evaluation texts"
    if left == 1:
        words = "row is left out: it is an evaluation text"
    logger.warning("%s %s", f"{left:,}", words)
    return rows.select(indices)


def _runs(texts: Iterable[str], overlap: int) -> dict[int, dict[bytes, None]]:
    """Return digests of what may not occur: key 0 for whole texts, key n for their runs of n words."""
    runs: dict[int, set[bytes]] = {}
    for text in texts:
        words = normalised(text)
        size = min(len(words), overlap)
        runs.setdefault(0, set()).add(_digest(words))
        if size >= SHORTEST:
            runs.setdefault(size, set()).update(
                _digest(words[i : i + size]) for i in range(len(words) - size + 1)
            )
    return {size: dict.fromkeys(sorted(digests)) for size, digests in sorted(runs.items())}


def _digest(words: Sequence[str]) -> bytes:
    return hashlib.blake2b(" ".join(words).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _each(data: Any) -> Iterator[str]:
    """Yield the texts of data sets and frames, of dicts of them, and of plain lists."""
    data = as_rows(data)
    if isinstance(data, str):
        yield data
    elif isinstance(data, Mapping):
        for part in data.values():
            yield from _each(part)
    elif hasattr(data, "column_names"):
        names = [name for name in ("text", "text_pair") if name in data.column_names]
        if not names:
            raise ValueError(
                f"The evaluation data has no column 'text', found {data.column_names}. Use load(...)."
            )
        for batch in data.select_columns(names).iter(1000):
            for name in names:
                yield from (value for value in batch[name] if isinstance(value, str))
    else:
        for part in data:
            yield from _each(part)


def _wholes(
    file: Path, text: str | None, unit: Unit, options: FileOptions, dropped: Counter[str]
) -> Iterator[str]:
    """Return the lines or rows of a file, or the paragraphs that its lines make up."""
    texts = read_texts(file, text, options, dropped)
    return _paragraphs(texts) if unit != "line" and suffix_of(file) == ".txt" else texts


def _paragraphs(lines: Iterable[str]) -> Iterator[str]:
    held: list[str] = []
    for line in lines:
        if line.strip() and sum(map(len, held)) < _LONGEST_PARAGRAPH:
            held.append(line)
            continue
        yield " ".join(held)
        held = [line] if line.strip() else []
    yield " ".join(held)


def _pieces(whole: str, unit: Unit, *, max_words: int, margin: int) -> Iterator[Piece]:
    """Yield the texts of a whole, cut where they are too long, with `margin` words on either side."""
    parts = [part.split() for part in (_SENTENCE.split(whole) if unit == "sentence" else [whole])]
    words, start = [word for part in parts for word in part], 0
    for part in parts:
        for cut in range(0, len(part), max_words):
            piece = part[cut : cut + max_words]
            end = start + len(piece)
            around = words[max(0, start - margin) : start], piece, words[end : end + margin]
            yield Piece(*(" ".join(some) for some in around))
            start = end
