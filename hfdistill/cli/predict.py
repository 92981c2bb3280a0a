"""`hfdistill predict STUDENT FILE --out FILE`."""

from __future__ import annotations

import argparse
import time

from hfdistill.cli.data_flags import add_file_flags, file_options
from hfdistill.files.plain_data import printable

HELP = "write a file's rows with the student's predictions beside them"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags for a student, what it reads and where its predictions go."""
    parser.add_argument("student", help="Hub id, folder, or folder or .onnx file that `export` wrote")
    parser.add_argument("file", help="csv, tsv, jsonl, json, xlsx or parquet, of any size")
    parser.add_argument("--out", required=True, metavar="FILE", help="csv, tsv, jsonl or parquet")
    add_file_flags(parser)
    parser.add_argument("--label-names", nargs="+", metavar="NAME", help="of the classes 0, 1, …")
    parser.add_argument("--prefix", default="", help="of the new columns, where the file has such names")
    parser.add_argument("--max-length", type=int, help="tokens per row")
    parser.add_argument("--batch-size", type=int, default=32, help="rows at once; default 32")


def run(args: argparse.Namespace) -> int:
    """Write the file and say what is in it."""
    from hfdistill.prediction.label_file import predict as predict_file
    from hfdistill.recipe.terminal import quiet_libraries

    started = time.perf_counter()
    with quiet_libraries():
        done = predict_file(
            args.student,
            args.file,
            args.out,
            text=args.text,
            text_pair=args.text_pair,
            label_names=args.label_names,
            max_length=args.max_length,
            batch_size=args.batch_size,
            prefix=args.prefix,
            **file_options(args),
        )
    seconds = time.perf_counter() - started
    print(f"{printable(args.out)}: {done.rows:,} rows in {seconds:.1f} s")
    for name, number in done.classes.most_common(10):
        print(f"  {number:>9,}  {printable(name)}")
    if len(done.classes) > 10:
        print(f"  and {len(done.classes) - 10} more classes")
    if done.without_text:
        print(f"{done.without_text:,} rows hold no text and have no prediction")
    if done.dropped:
        print(f"{done.dropped:,} lines of {printable(args.file)} are not rows and were left out")
    if done.classes and all(name.startswith("LABEL_") for name in done.classes):
        print("The student's classes have no names. Type them: --label-names NAME NAME …")
    return 0
