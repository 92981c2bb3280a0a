"""`hfdistill list`."""

from __future__ import annotations

import argparse

from hfdistill.files.plain_data import printable
from hfdistill.recipe import schema
from hfdistill.recipe.signatures import first_line, summary_of

HELP = "what a page can name, with a line each"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flag for what to list."""
    parser.add_argument("what", nargs="?", choices=[*_TABLES, "sizes"], help="default all of them")
    parser.add_argument(
        "--model", help="Hub id or folder of a teacher: sizes of the students that shrink cuts from it"
    )


def run(args: argparse.Namespace) -> int:
    """Print a line for each name that a page can say."""
    if args.what == "sizes" and not args.model:
        raise ValueError("Sizes are those of a teacher's students. Type --model HUB_ID_OR_FOLDER.")
    for name in [args.what] if args.what else _TABLES:
        if name != "sizes":
            _print_table(name, _TABLES[name]())
    if args.model and args.what in (None, "sizes"):
        from hfdistill.students.student_sizes import sizes

        lines = {f"layers: {size.layers}": size.line() for size in sizes(args.model)}
        _print_table("sizes", lines)
    return 0


def _print_table(name: str, lines: dict[str, str]) -> None:
    print(f"{name}:")
    width = max(map(len, lines))
    for key, text in lines.items():
        print(f"  {key.ljust(width)}  {printable(text, limit=200)}")


def _objectives() -> dict[str, str]:
    from hfdistill.objectives import registered

    return {name: first_line(cls.__doc__) for name, cls in registered().items()}


def _of(table: dict[str, schema.Component]) -> dict[str, str]:
    return {name: summary_of(kind.target) for name, kind in table.items()}


_TABLES = {
    "objectives": _objectives,
    "teachers": lambda: _of(schema.TEACHERS),
    "students": lambda: _of(schema.STUDENTS),
    "schedules": lambda: {name: first_line(cls.__doc__) for name, cls in schema.SCHEDULES.items()},
}
