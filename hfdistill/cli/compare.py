"""`hfdistill compare A B --data FILE`."""

from __future__ import annotations

import argparse

from hfdistill.cli.data_flags import add_data_flags, rows

HELP = "two students, or a student and its teacher, on the same rows: who is right, and where they differ"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags for two models and the rows."""
    parser.add_argument("first", metavar="A", help="Hub id or folder, such as out/student")
    parser.add_argument(
        "second", metavar="B", help="Hub id or folder, such as another student or the teacher"
    )
    add_data_flags(parser)
    parser.add_argument("--speed", action="store_true", help="time both, by turns")
    parser.add_argument("--out", metavar="FILE.json", help="write the report there; A is its student")


def run(args: argparse.Namespace) -> int:
    """Print two models side by side."""
    from hfdistill.evaluation.measure import STANDARD, measure
    from hfdistill.evaluation.side_by_side import side_by_side
    from hfdistill.network.model_folder import check_model_folder
    from hfdistill.recipe.terminal import quiet_libraries

    for source in (args.first, args.second):
        check_model_folder(source)
    with quiet_libraries():
        speed = STANDARD if args.speed else None
        options = {"max_length": args.max_length, "label_names": args.label_names, "speed": speed}
        report = measure(args.first, rows(args), teacher=args.second, **options)
    if args.out:
        report.save(args.out)
    print(side_by_side(report, args.first, args.second))
    return 0
