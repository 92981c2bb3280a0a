"""These functions find out how the bytes of a text file are to be read: unpacked, and in which encoding."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

LONGEST = 16 << 20
"""Letters of the longest cell or line that is read."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def suffix_of(file: Path) -> str:
    """Return the suffix that tells what a file holds, such as ".csv"; that of `rows.csv.gz` is ".csv" too."""
    suffixes = [suffix.lower() for suffix in file.suffixes]
    inner = suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else ""
    return inner if inner in (".csv", ".tsv", ".jsonl", ".json", ".txt") else (suffixes or [""])[-1]


def _open_bytes(file: Path) -> IO[bytes]:
    """Open a file for reading, unpacked where its name ends in .gz."""
    stream = file.open("rb")
    if file.suffix.lower() != ".gz":
        return stream
    packed = stream.read(2) == b"\x1f\x8b"
    stream.close()
    if not packed:
        raise ValueError(f"{file.name} cannot be unpacked: gzip did not write it. Name it without .gz.")
    return gzip.open(file, "rb")  # type: ignore[return-value]


@contextmanager
def open_text(
    file: Path, encoding: str, *, newline: str, errors: str = "strict"
) -> Iterator[io.TextIOWrapper]:
    """Open the text of a file, packed or not; say where it breaks if what is read of it is broken."""
    try:
        with (
            _unpacking(file),
            _open_bytes(file) as raw,
            io.TextIOWrapper(raw, encoding, errors, newline) as stream,
        ):
            yield stream
    except UnicodeError:  # a UnicodeDecodeError, or UTF-16 without the mark that it begins with
        raise ValueError(undecodable(file, encoding)) from None


@contextmanager
def _unpacking(file: Path) -> Iterator[None]:
    try:
        yield
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{file.name} cannot be unpacked ({error}). Pack it again with gzip.") from None


def has_mark(file: Path) -> bool:
    """Whether a file, packed or not, begins with a byte order mark, as one that Excel saved does."""
    return first_bytes(file, 4).startswith(tuple(mark for mark, _ in _MARKS))


def first_bytes(file: Path, size: int) -> bytes:
    """Return the first bytes of a file, unpacked where its name ends in .gz."""
    with _unpacking(file), _open_bytes(file) as stream:
        return stream.read(size)


def text_encoding(file: Path, encoding: str | None) -> str:
    """Return the encoding to read a file by: the one that is asked for, else by its mark, else UTF-8."""
    if encoding is not None:
        try:
            "".encode(encoding)  # base64 and the like are known, and no encodings of text
            codec = codecs.lookup(encoding).name
        except (LookupError, UnicodeError):
            raise ValueError(
                f"encoding is {encoding!r}, which Python does not know for text. Type one such as 'utf-8', "
                "'cp1252', 'latin-1' or 'utf-16'."
            ) from None
        return "utf-8-sig" if codec == "utf-8" else codec
    start = first_bytes(file, 4)
    return next((name for mark, name in _MARKS if start.startswith(mark)), "utf-8-sig")


def check_utf8(file: Path) -> None:
    """Refuse a file whose bytes are not UTF-8, naming the line and the encoding to try."""
    with open_text(file, "utf-8-sig", newline="") as stream:
        while stream.read(1 << 20):
            pass


def undecodable(file: Path, encoding: str) -> str:
    """Return a sentence on the first line of a file that cannot be decoded, with the encoding to try."""
    place, line = 0, b""
    if not encoding.startswith(("utf-16", "utf-32")):
        with _open_bytes(file) as stream:
            for place, line in enumerate(iter(lambda: stream.readline(LONGEST), b""), 1):  # noqa: B007
                try:
                    line.decode(encoding)
                except UnicodeDecodeError as error:
                    line = line[max(0, error.start - 20) : error.start + 20]
                    break
    where = f"{file.name}, line {place}," if line else file.name
    if encoding != "utf-8-sig":
        return f"{where} cannot be read as {encoding}. Leave encoding= out, or name the file's own."
    try:
        other, shown = "cp1252", line.decode("cp1252")
    except UnicodeDecodeError:
        other, shown = "latin-1", line.decode("latin-1")  # which has a letter for every byte
    return (
        f"{where} is not UTF-8. If {shown.strip()!r} is what it should say, pass "
        f"encoding={other!r}; else name the file's own encoding, or save it as UTF-8."
    )
