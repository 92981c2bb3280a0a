"""`hfdistill export STUDENT FOLDER --data FILE`."""

from __future__ import annotations

import argparse

from hfdistill.cli.data_flags import add_data_flags, rows

HELP = "ONNX or OpenVINO, and int8, compared with the student on real rows; refused where it loses too much"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags for a student, the rows and what an export may lose."""
    parser.add_argument("student", help="Hub id or folder")
    parser.add_argument("folder", help="where to write")
    add_data_flags(parser)
    parser.add_argument("--teacher", help="Hub id or folder, to compare with")
    parser.add_argument(
        "--max-drop",
        type=float,
        default=0.5,
        metavar="POINTS",
        help="refuse a larger loss of accuracy; default 0.5",
    )
    parser.add_argument(
        "--int8",
        choices=["auto", "dynamic", "blockwise", "static", "none"],
        default="auto",
        help="ONNX: dynamic (faster), blockwise (closer); OpenVINO: static; none writes float32 alone",
    )
    parser.add_argument("--engine", choices=["onnx", "openvino"], default="onnx", help="what will run it")
    parser.add_argument(
        "--calibration", metavar="FILE",
        help="texts that 8 bits are fitted to, best the training rows; default those of --data",
    )  # fmt: skip
    parser.add_argument(
        "--exit-threshold", type=float, metavar="T",
        help="of a student with exits: rows leave where the uncertainty is below it; default the student's",
    )  # fmt: skip
    parser.add_argument("--no-speed", action="store_true", help="time nothing")


def run(args: argparse.Namespace) -> int:
    """Export, and print the report."""
    from hfdistill.exporters import export
    from hfdistill.recipe.terminal import quiet_libraries

    with quiet_libraries():
        calibration = None
        if args.calibration is not None:
            asked = {"data": args.calibration, "split": None, "rows": None, "config": None}
            calibration = rows(argparse.Namespace(**{**vars(args), **asked}), usual="train")
        report = export(
            args.student,
            args.folder,
            data=rows(args),
            teacher=args.teacher,
            max_drop=args.max_drop,
            engine=args.engine,
            calibration=calibration,
            int8=None if args.int8 == "none" else args.int8,
            speed=not args.no_speed,
            max_length=args.max_length,
            label_names=args.label_names,
            exit_threshold=args.exit_threshold,
        )
    print(report.table())
    return 0
