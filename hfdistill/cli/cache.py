"""`hfdistill cache TEACHER FOLDER --data FILE`."""

from __future__ import annotations

import argparse

from hfdistill.cli.data_flags import add_data_flags, rows
from hfdistill.files.plain_data import printable

HELP = "record a teacher's answers once, for pages with `teacher: {cached: {folder: …}}`"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags for a teacher, its rows and a folder."""
    parser.add_argument("teacher", help="Hub id or folder")
    parser.add_argument("folder", help="where to keep the answers; a second call adds to them")
    add_data_flags(parser)
    parser.add_argument(
        "--streaming",
        action="store_true",
        help="read rows as they are needed, in memory that does not grow with them; --rows: the first",
    )


def run(args: argparse.Namespace) -> int:
    """Record the teacher, and say for how many rows."""
    from hfdistill.network.loading import read_tokenizer
    from hfdistill.teachers import record

    tokenizer = read_tokenizer(args.teacher)
    data = rows(args, usual="train")
    options = {"folder": args.folder, "tokenizer": tokenizer, "max_length": args.max_length}
    cached = record(args.teacher, data, **options)
    rows_or_texts = (
        f"{len(data):,} rows" if hasattr(data, "__len__") else f"{len(cached.store or ()):,} texts"
    )
    print(f"{printable(args.folder)}: the teacher's answers to {rows_or_texts}")
    return 0
