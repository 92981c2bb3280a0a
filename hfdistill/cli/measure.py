"""`hfdistill measure STUDENT --data FILE`."""

from __future__ import annotations

import argparse

from hfdistill.cli.data_flags import add_data_flags, rows

HELP = "what a student is worth: quality, agreement, size and speed"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags for a student, the rows and what it is measured beside."""
    parser.add_argument("student", help="Hub id or folder")
    add_data_flags(parser)
    parser.add_argument("--teacher", help="Hub id or folder")
    parser.add_argument("--baseline", help="the same student trained without a teacher")
    parser.add_argument("--no-speed", action="store_true", help="time nothing")
    parser.add_argument("--out", metavar="FILE.json", help="write the report there")


def run(args: argparse.Namespace) -> int:
    """Print the report, and write it where that is asked."""
    from hfdistill.evaluation.measure import STANDARD, measure
    from hfdistill.evaluation.nothing_to_teach import doubt_of_teacher
    from hfdistill.evaluation.report import in_columns
    from hfdistill.network.model_folder import check_model_folder
    from hfdistill.recipe.terminal import quiet_libraries

    models = {"student": args.student, "teacher": args.teacher, "baseline": args.baseline}
    for role, source in models.items():
        if source is not None:
            check_model_folder(source, role=role)
    with quiet_libraries():
        report = measure(
            args.student,
            rows(args),
            teacher=args.teacher,
            baseline=args.baseline,
            max_length=args.max_length,
            label_names=args.label_names,
            speed=None if args.no_speed else STANDARD,
        )
    if args.out:
        report.save(args.out)
    print(report.table())
    if doubt := doubt_of_teacher(report):
        print("\n".join(in_columns([f"! {doubt}"])))
    return 0
