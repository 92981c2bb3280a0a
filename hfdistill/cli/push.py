"""`hfdistill push STUDENT OWNER/NAME`."""

from __future__ import annotations

import argparse

HELP = "publish a student on the Hub with its card, report and recipe, and without any pickle"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags for a student and where it goes."""
    parser.add_argument("student", help="its folder")
    parser.add_argument("repository", help="owner/name; made where there is none")
    parser.add_argument("--onnx", metavar="FOLDER", help="publish what `export` wrote there, too")
    parser.add_argument("--private", action="store_true", default=None, help="where it is made now")
    parser.add_argument("--revision", metavar="BRANCH", help="default main")


def run(args: argparse.Namespace) -> int:
    """Publish, and print where."""
    from hfdistill.files.hub import push_to_hub

    options = {"onnx": args.onnx, "private": args.private, "revision": args.revision}
    print(push_to_hub(args.student, args.repository, **options))
    return 0
