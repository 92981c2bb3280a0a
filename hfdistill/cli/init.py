"""`hfdistill init FILE`."""

from __future__ import annotations

import argparse
from pathlib import Path

from hfdistill.cli.data_flags import add_file_flags, add_label_flag, file_options, label_of
from hfdistill.files.plain_data import printable, write_atomically

HELP = "write a page from what a file of rows holds"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags for a file of rows and the page."""
    parser.add_argument(
        "file", help="csv, tsv, jsonl, json, xlsx or parquet with texts and labels, or a folder"
    )
    parser.add_argument("--page", default="hfdistill.yaml", help="to write; default hfdistill.yaml")
    add_label_flag(parser)
    parser.add_argument("--encoder", help="Hub id or folder of what becomes the teacher")
    parser.add_argument("--overwrite", action="store_true", help="replace a page of that name")
    add_file_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Write the page, and say what was found and what to type next."""
    page = Path(args.page)
    if page.suffix not in (".yaml", ".yml"):
        raise ValueError(f"--page is {args.page!r}, and a page ends in .yaml. Type --page {page.stem}.yaml.")
    if page.exists() and not args.overwrite:
        raise FileExistsError(f"{page.name} exists. Type --overwrite, or --page with another name.")
    from hfdistill.data.table_files import FileOptions
    from hfdistill.recipe.draft import draft_page
    from hfdistill.recipe.terminal import quiet_libraries

    with quiet_libraries():
        draft = draft_page(
            args.file,
            text=args.text,
            text_pair=args.text_pair,
            label=label_of(args),
            teacher=args.encoder,
            options=FileOptions(**file_options(args)),
        )
    write_atomically(page, draft.page)
    print("\n".join(draft.summary))
    shown = printable(args.page)
    print(f"{shown}: written. Read it, then type:")
    print(f"  hfdistill train {shown} --check   # looks for mistakes")
    print(f"  hfdistill train {shown} --smoke   # two steps, to see that everything runs")
    print(f"  hfdistill train {shown}")
    return 0
