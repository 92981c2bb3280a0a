"""`hfdistill shrink TEACHER FOLDER`."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from hfdistill.cli.data_flags import add_data_flags, rows
from hfdistill.files.plain_data import printable

HELP = "cut a student from a teacher, and fit it to the whole of it without labels or training"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags for what to keep, the texts to fit to, and the rows to measure on."""
    parser.add_argument("teacher", help="Hub id or folder of a fine-tuned classifier")
    parser.add_argument("folder", help="where to write the student")
    parser.add_argument("--layers", metavar="N", help="how many blocks to keep, or which: 3, or 2,4,6")
    for name, what in (("width", "hidden dimensions"), ("heads", "heads"), ("ffn", "feed-forward neurons")):
        parser.add_argument(f"--{name}", type=int, metavar="N", help=f"{what} to keep in each block")
    parser.add_argument("--size", help="tiny, mini, small or medium, for all at once")
    parser.add_argument(
        "--fit",
        metavar="TEXTS",
        help="file or folder of texts like those that the student will read, no labels needed: what is kept "
        "is fitted to the whole teacher",
    )
    parser.add_argument("--fit-rows", type=int, default=2000, help="texts used of them; default 2000")
    parser.add_argument(
        "--choose-layers", action="store_true", help="try which blocks to keep, and take the best"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a student that is there")
    add_data_flags(parser, required=False)


def run(args: argparse.Namespace) -> int:
    """Cut, fit and save the student; with --data, measure it and write its card."""
    folder = Path(args.folder)
    if folder.exists() and Path(args.teacher).exists() and folder.samefile(args.teacher):
        raise ValueError(
            f"{printable(args.folder)} is the teacher, which the student would replace. Type another folder."
        )
    if (folder / "config.json").exists() and not args.overwrite:
        raise FileExistsError(f"{printable(args.folder)} holds a model. Type --overwrite, or another folder.")
    sizes = {name: getattr(args, name) for name in ("width", "heads", "ffn", "size")}
    _check_texts(args, sizes)
    from hfdistill.evaluation.card import write_card
    from hfdistill.evaluation.measure import measure
    from hfdistill.network.loading import load_classifier, load_tokenizer, own_device
    from hfdistill.students.refit import Refit
    from hfdistill.students.shrink import shrink as cut

    data = rows(args) if args.data else None
    teacher, tokenizer = load_classifier(args.teacher), load_tokenizer(args.teacher)
    teacher.to(own_device())
    plan = Refit(args.fit, rows=args.fit_rows, max_length=args.max_length, choose_layers=args.choose_layers)
    logging.getLogger("hfdistill.students").setLevel(logging.INFO)
    student = cut(
        teacher, layers=_layers(args.layers), **sizes, fit=plan if args.fit else None, tokenizer=tokenizer
    )
    student.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    print(f"{printable(args.folder)}: {student.num_parameters() / 1e6:.1f} M parameters, not trained")
    if data is None:
        print("Type --data with labelled rows for a report and a card.")
        return 0
    report = measure(args.folder, data, teacher=args.teacher, max_length=args.max_length)
    report.save(folder / "report.json")
    origin = "It was cut from {base}" + (" and fitted to it by least squares on texts" if args.fit else "")
    write_card(folder, report, base_model=args.teacher, dataset=args.data, origin=f"{origin}, not trained,")
    print(report.table())
    return 0


def _check_texts(args: argparse.Namespace, sizes: dict[str, Any]) -> None:
    """Refuse what is chosen by texts where there are none."""
    if args.fit:
        return
    if args.choose_layers:
        raise ValueError(
            "--choose-layers compares blocks by how well they can be fitted. Type --fit TEXTS, too."
        )
    measured = next((name for name, value in sizes.items() if value is not None), None)
    if measured is not None:
        raise ValueError(
            f"Which dimensions, heads and neurons --{measured} keeps is measured on texts. Type --fit TEXTS, "
            "too."
        )


def _layers(text: str | None) -> int | list[int] | None:
    """Return the number or the numbers in a flag's value."""
    if text is None:
        return None
    parts = text.replace(" ", "").split(",")
    if not all(part.isdecimal() for part in parts):
        raise ValueError(f"--layers is {text!r}, found no number of blocks. Type --layers 3, or 2,4,6.")
    return int(text) if len(parts) == 1 else [int(part) for part in parts]
