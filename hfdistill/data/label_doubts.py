"""`doubts` warns of label columns that are read as they are written, and are probably not meant so."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

_COMMA = re.compile(r"\s*[+-]?\d+,\d+\s*")
_MARKED = re.compile(r"[+\-\u2212]?(\d+([.,]\d+)?|\d{1,3}([., '\u2019\u00a0\u202f]\d{3})+([.,]\d+)?)")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}([ T]\d{2}:\d{2}(:\d{2})?)?")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_MISSING = {"nan", "<na>", "null", "n/a", "#n/a"}
_MANY = 50  # classes from which on it is asked whether the column holds classes at all


def doubts(
    column: str, values: Mapping[str, Sequence[Any]], names: Sequence[str] | None, *, named: bool
) -> Iterator[str]:
    """Yield a sentence for each probable mistake in a label column.

    `named` tells whether names were asked for; `names` are those of the classes 0, 1, …, None where they have
    none.
    """
    counts = Counter(
        value for labels in values.values() for value in labels if not (value is None or type(value) is list)
    )
    if not counts:
        return
    rows = sum(counts.values())
    if len(counts) == 1 and rows > 1:
        only = next(iter(counts))
        shown = repr(names[only]) if names else str(only)
        yield (
            f"all {rows:,} rows have the label {shown} in {column!r}: nothing tells one class from another, "
            "and no student can learn from them. Add rows of other classes, or name another column: "
            "label='...'"
        )
    if all(isinstance(value, float) for value in counts):
        yield from _whole_numbers(column, counts)
        return
    if len(counts) > max(_MANY, rows // 2):
        yield (
            f"the {rows:,} rows have {len(counts):,} classes in {column!r}: nearly every row has a class of "
            "its own. If it holds numbers or texts, name another column: label='...'"
        )
    if names is None:
        yield from _numbering(column, counts)
    elif not named:
        by_name = Counter({names[number]: count for number, count in counts.items()})
        yield from _alike(column, by_name)
        yield from _not_alike(column, by_name)
        yield from _several_in_one(column, by_name)


def _alike(column: str, counts: Counter[str]) -> Iterator[str]:
    """Yield names that are probably one class, and names of missing values."""
    groups: dict[Any, list[str]] = {}
    for name in counts:
        groups.setdefault(_folded(name), []).append(name)
    alike = [sorted(group, key=lambda name: (-counts[name], name)) for group in groups.values()]
    alike = [group for group in alike if len(group) > 1]
    if alike:
        shown = "; ".join(
            " and ".join(f"{name!r} ({_rows(counts[name])})" for name in group) for group in alike[:5]
        )
        yield (
            f"classes of {column!r} differ in case, spaces or the spelling of a number alone, and each "
            f"counts as a class of its own: {shown}. If they are one, write them alike, case and "
            f"spaces for instance by frame[{column!r}] = frame[{column!r}].str.strip().str.lower()"
        )
    missing = [name for name in counts if name.strip().casefold() in _MISSING]
    if missing and len(counts) > len(missing):
        shown = ", ".join(f"{name!r} ({_rows(counts[name])})" for name in missing)
        yield (
            f"{column!r} has classes that look like missing values: {shown}. If they are, leave the cells "
            'empty, and pass on_bad_row="drop"'
        )


def _folded(name: str) -> Any:
    """Return what names share that differ in case, spaces, the form of letters, or as "1", "01" and "1.0"."""
    letters = unicodedata.normalize("NFKC", name).casefold()
    folded = " ".join("".join(c for c in letters if unicodedata.category(c) != "Cf").split())  # Cf: unseen
    folded = {"true": "1", "false": "0"}.get(folded, folded)
    return Decimal(folded) if NUMBER.fullmatch(folded) else folded


def _not_alike(column: str, counts: Counter[str]) -> Iterator[str]:
    """Yield sentences for other values among numbers, which make names of all, and for dates."""
    others = [name for name in counts if not NUMBER.fullmatch(name.strip().casefold())]
    rows, total = sum(counts[name] for name in others), sum(counts.values())
    if 0 < 2 * rows < total:
        shown = ", ".join(f"{name!r} ({_rows(counts[name])})" for name in others[:5])
        yield (
            f"{column!r} holds numbers in {total - rows:,} of {total:,} rows, and also {shown}: all are read "
            "as names of classes. If those are missing labels, leave the cells empty, and pass "
            'on_bad_row="drop"'
        )
    dates = [name for name in counts if _DATE.fullmatch(name.strip())]
    if dates:
        yield (
            f"classes of {column!r} are dates, such as {dates[0]!r} ({_rows(counts[dates[0]])}). A sheet "
            "makes dates of names such as 1-2: write them as text there, or name another column: label='...'"
        )


def _several_in_one(column: str, counts: Counter[str]) -> Iterator[str]:
    """Yield sentences for names that look like lists of names, and for names with spaces around them."""
    parts = {name: [part.strip() for part in re.split(r"[;|,]", name)] for name in counts}
    single = {name.strip() for name, split in parts.items() if len(split) == 1}
    several = [name for name, split in parts.items() if len(split) > 1 and set(split) <= single]
    several += [name for name in counts if name.strip().startswith("[") and name.strip().endswith("]")]
    if several:
        yield (
            f"{len(several):,} of the classes of {column!r} look like lists of classes, such as "
            f"{several[0]!r} ({_rows(counts[several[0]])}). If a row has several classes, give lists, as "
            f'{{"text": …, "{column}": ["a", "b"]}} in a .jsonl file, or a column of 0 and 1 for each class'
        )
    spaced = [name for name in counts if name != name.strip()]
    if len(spaced) == len(counts) > 0:
        yield (
            f"every class of {column!r} begins or ends with a space: {spaced[:3]}. If the cells are "
            "separated by a comma and a space, take the spaces out of the file"
        )


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count:,} rows"


def _numbering(column: str, counts: Counter[int]) -> Iterator[str]:
    """Yield a sentence where class numbers leave some out, for each of these is a class of the student."""
    highest = max(counts)
    absent = [number for number in range(highest) if number not in counts] if highest < 10_000 else []
    if len(counts) > 1 and (absent or highest >= 10_000):
        present = ", ".join(f"'{number}'" for number in sorted(counts)[:10])
        yield (
            f"the class numbers of {column!r} go up to {highest:,}, and only {len(counts):,} of these "
            f"{highest + 1:,} classes have rows. For a student of these classes alone, pass "
            f"label_names=[{present}{', …' if len(counts) > 10 else ''}]; if they are values and no classes, "
            "write them with a point, as in 5.0"
        )


def _whole_numbers(column: str, counts: Counter[float]) -> Iterator[str]:
    """Yield a sentence for few whole numbers with a point, as pandas writes classes where one is missing."""
    if 1 < len(counts) <= 20 and all(value % 1 == 0 for value in counts):
        present = sorted(int(value) for value in counts)
        yield (
            f"{column!r} holds the whole numbers {present} written as real ones, and is learned as real "
            f"values (regression). If they are classes, pass label_names={[str(value) for value in present]}"
        )


def check_number_marks(column: str, values: Mapping[str, Sequence[Any]]) -> None:
    """Refuse labels that are all numbers, some with other marks than a point: they would become names."""
    present = {value for labels in values.values() for value in labels if isinstance(value, str)}
    marked = sorted(value for value in present if not NUMBER.fullmatch(value.strip().casefold()))
    if not marked or not all(_MARKED.fullmatch(value.strip()) for value in marked):
        return
    what, write = "a decimal comma", repr(marked[0].replace(",", "."))
    if not all(map(_COMMA.fullmatch, marked)) or all(len(v.partition(",")[2]) == 3 for v in marked):
        what, write = "a mark between thousands, a decimal comma or a long minus", "them as in '-1234.5'"
    raise ValueError(
        f"The labels in {column!r} are numbers with {what}, such as {marked[0]!r}, and would be read as "
        f"names of classes. Write {write}, or pass label_names= with every name if they are classes."
    )
