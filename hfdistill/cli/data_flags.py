"""Flags that say which rows a command works on, and these rows."""

from __future__ import annotations

import argparse
from typing import Any


def add_file_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags for columns of text and for how text files are read."""
    for column in ("text", "text-pair"):
        parser.add_argument(f"--{column}", metavar="COLUMN", help="where it is not found by its usual name")
    parser.add_argument("--encoding", help="of a file that is neither UTF-8 nor UTF-16, such as cp1252")
    parser.add_argument("--delimiter", help="between the cells of a csv; else found from its first lines")
    parser.add_argument(
        "--quotes",
        action=argparse.BooleanOptionalAction,
        help="whether quotation marks enclose the cells of a csv, or are letters",
    )
    parser.add_argument(
        "--on-bad-row", choices=["raise", "drop"], default="raise",
        help="drop leaves out rows that cannot be read; default raise",
    )  # fmt: skip


def add_label_flag(parser: argparse.ArgumentParser) -> None:
    """Add the flag for columns of labels."""
    usual = "where it is not found by its usual name"
    several = "several times for columns of 0 and 1 of a multi-label task"
    parser.add_argument("--label", metavar="COLUMN", action="append", help=f"{usual}; {several}")


def add_label_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags for columns of labels, their classes, and the configuration that has them."""
    add_label_flag(parser)
    parser.add_argument(
        "--label-names", nargs="+", metavar="NAME", help="of the classes 0, 1, … where they have none"
    )
    parser.add_argument("--config", help="the Hub data set's configuration, such as mrpc")


def add_data_flags(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add the flags for rows with labels."""
    parser.add_argument("--data", required=required, help="Hub id, file or folder of text")
    parser.add_argument("--split", help="else train to cache, validation or test to measure, or the only one")
    add_label_flags(parser)
    add_file_flags(parser)
    parser.add_argument("--rows", type=int, help="this many rows alone, drawn at random (seed 0)")
    parser.add_argument("--max-length", type=int, help="tokens per row")


def file_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return how text files are read, as arguments of `load`."""
    names = ("encoding", "delimiter", "quotes", "on_bad_row")
    return {name: getattr(args, name) for name in names}


def label_of(args: argparse.Namespace) -> Any:
    """Return the label column, as an argument of `load`: None, a name, or several names."""
    return args.label[0] if args.label and len(args.label) == 1 else args.label


def rows(args: argparse.Namespace, *, usual: str = "validation") -> Any:
    """Return the rows that a command works on: the named split, else `usual`, test or the first."""
    from hfdistill.data import load
    from hfdistill.recipe.rows import drawn

    data = load(
        args.data,
        text=args.text,
        text_pair=args.text_pair,
        label=label_of(args),
        config=args.config,
        label_names=args.label_names,
        streaming=getattr(args, "streaming", False),
        **file_options(args),
    )
    split = args.split or next((name for name in (usual, "test") if name in data), next(iter(data)))
    if split not in data:
        raise ValueError(f"The data has no split {split!r}, found {list(data)}. Name one with --split.")
    chosen = data[split]
    if getattr(args, "streaming", False):
        return chosen if args.rows is None else chosen.take(args.rows)
    return drawn(chosen, args.rows, 0)
