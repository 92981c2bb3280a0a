"""The command line: init, train, shrink, predict, compare, measure, cache, export, push and list."""

from __future__ import annotations

import argparse
import logging
import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hfdistill
from hfdistill.cli import compare, init, predict, shrink
from hfdistill.cli.data_flags import add_data_flags, rows
from hfdistill.cli.parser import Parser
from hfdistill.files.plain_data import printable
from hfdistill.recipe import RecipeError, read_recipe, schema
from hfdistill.recipe.signatures import first_line, summary_of

# What the library raises on purpose, and what comes up from below; HFDISTILL_TRACEBACK=1 shows where.
_REFUSALS = (ValueError, TypeError, OSError, LookupError, ImportError, ArithmeticError, RuntimeError)

# Modules that load torch or Transformers are imported where they are used: a page with mistakes is told them
# at once.


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: its words; default those of the shell.

    Returns:
        0; 2 where a page or the command has mistakes, 1 where a run could not go on, 3 where an export lost
        too much quality.
    """
    if not (sys.argv[1:] if argv is None else argv):
        _parser().print_help()
        return 0
    args = _arguments(argv)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    try:
        for plugin in args.plugin:
            _load(plugin)
        return int(args.command(args))
    except RecipeError as error:
        return _failed("\n".join(map(str, error.mistakes)), code=2)
    except KeyboardInterrupt as error:
        return _failed(str(error) or "Stopped.", code=130)
    except _REFUSALS as error:
        if os.environ.get("HFDISTILL_TRACEBACK"):
            raise
        lost = type(error).__name__ == "QualityGateError"
        return _failed(f"error: {error}", code=3 if lost else 1)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The parsed words; overrides of a page may stand behind flags, too, where argparse gives them up."""
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    if rest and (not hasattr(args, "overrides") or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.overrides = [*args.overrides, *rest]
    return args


def _failed(text: str, *, code: int) -> int:
    """Say why, on one process of several."""
    if os.environ.get("RANK", "0") == "0":
        print(text, file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="hfdistill",
        description="Make a BERT-style classifier small and fast, and prove what was kept.",
        epilog="On several processes: accelerate launch -m hfdistill train PAGE.yaml",
    )
    parser.add_argument("--version", action="version", version=f"hfdistill {hfdistill.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND")
    init.add_flags(_command(commands, "init", "write a page from what a file of rows holds", init.init))
    _train(commands)
    text = "cut a student from a teacher, and fit it to the whole of it without labels or training"
    shrink.add_flags(_command(commands, "shrink", text, shrink.shrink))
    text = "write a file's rows with the student's predictions beside them"
    predict.add_flags(_command(commands, "predict", text, predict.predict))
    text = "two students, or a student and its teacher, on the same rows: who is right, and where they differ"
    compare.add_flags(_command(commands, "compare", text, compare.compare))
    _measure(commands)
    _cache(commands)
    _export(commands)
    _push(commands)
    _list(commands)
    return parser


def _command(commands: Any, name: str, text: str, command: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(command=command)
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="FILE.py",
        help="run this Python file of yours first, for objectives that it registers; it can do anything "
        "that you can, so name none that you have not read",
    )  # fmt: skip
    return parser


def _train(commands: Any) -> None:
    parser = _command(commands, "train", "distil what a page of YAML says", _run_train)
    parser.add_argument("page", help="such as recipes/kd.yaml")
    parser.add_argument("overrides", nargs="*", metavar="path=value", help="such as training.seed=1")
    parser.add_argument("--smoke", action="store_true", help="two steps on 16 rows, under output_dir/smoke")
    parser.add_argument(
        "--check", action="store_true", help="look for mistakes in the page, and train nothing"
    )
    parser.add_argument(
        "--search", action="store_true",
        help="try values at the places that `search:` names, and write output_dir/best.yaml",
    )  # fmt: skip
    parser.add_argument("--trials", type=int, help="of --search, in all; default 20")
    parser.add_argument(
        "--timeout", type=float, metavar="SECONDS", help="after which --search begins no trial"
    )


def _run_train(args: argparse.Namespace) -> int:
    recipe = read_recipe(args.page, overrides=args.overrides)
    if args.check:
        from hfdistill.files.hub import HubUnreachable
        from hfdistill.recipe.run import check_recipe

        try:
            check_recipe(recipe)
        except HubUnreachable as error:
            print(f"models and data were not looked at: {error}", file=sys.stderr)
        print(f"{printable(Path(args.page).name)}: no mistakes found")
        return 0
    if args.search:
        if args.smoke:
            raise ValueError("--search and --smoke do not go together: two steps compare nothing. Drop one.")
        from hfdistill.recipe.search import search_recipe

        trials = 20 if args.trials is None else args.trials
        print(search_recipe(recipe, trials=trials, timeout=args.timeout))
        return 0
    if args.trials is not None or args.timeout is not None:
        raise ValueError("--trials and --timeout belong to --search. Add it.")
    from hfdistill.recipe.run import run_recipe
    from hfdistill.recipe.threads import use_idle_cores

    use_idle_cores()
    run_recipe(recipe, smoke=args.smoke)
    return 0


def _cache(commands: Any) -> None:
    text = "record a teacher's answers once, for pages with `teacher: {cached: {folder: …}}`"
    parser = _command(commands, "cache", text, _run_cache)
    parser.add_argument("teacher", help="Hub id or folder")
    parser.add_argument("folder", help="where to keep the answers; a second call adds to them")
    add_data_flags(parser)


def _run_cache(args: argparse.Namespace) -> int:
    from transformers import AutoTokenizer

    from hfdistill.teachers import record

    tokenizer = AutoTokenizer.from_pretrained(args.teacher, trust_remote_code=False)
    data = rows(args, usual="train")
    record(args.teacher, data, folder=args.folder, tokenizer=tokenizer, max_length=args.max_length)
    print(f"{printable(args.folder)}: the teacher's answers to {len(data):,} rows")
    return 0


def _measure(commands: Any) -> None:
    text = "what a student is worth: quality, agreement, size and speed"
    parser = _command(commands, "measure", text, _run_measure)
    parser.add_argument("student", help="Hub id or folder")
    add_data_flags(parser)
    parser.add_argument("--teacher", help="Hub id or folder")
    parser.add_argument("--baseline", help="the same student trained without a teacher")
    parser.add_argument("--no-speed", action="store_true", help="time nothing")
    parser.add_argument("--out", metavar="FILE.json", help="write the report there")


def _run_measure(args: argparse.Namespace) -> int:
    from hfdistill.evaluation.measure import STANDARD, measure

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
    return 0


def _export(commands: Any) -> None:
    text = "ONNX and int8, compared with the student on real rows; nothing is written where too much is lost"
    parser = _command(commands, "export", text, _run_export)
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
        choices=["dynamic", "blockwise", "none"],
        default="dynamic",
        help="dynamic is the faster, blockwise the closer; none writes float32 alone",
    )
    parser.add_argument("--no-speed", action="store_true", help="time nothing")


def _run_export(args: argparse.Namespace) -> int:
    from hfdistill.exporters import export

    report = export(
        args.student,
        args.folder,
        data=rows(args),
        teacher=args.teacher,
        max_drop=args.max_drop,
        int8=None if args.int8 == "none" else args.int8,
        speed=not args.no_speed,
        max_length=args.max_length,
        label_names=args.label_names,
    )
    print(report.table())
    return 0


def _push(commands: Any) -> None:
    text = "publish a student on the Hub with its card, report and recipe, and without any pickle"
    parser = _command(commands, "push", text, _run_push)
    parser.add_argument("student", help="its folder")
    parser.add_argument("repository", help="owner/name; made where there is none")
    parser.add_argument("--onnx", metavar="FOLDER", help="publish what `export` wrote there, too")
    parser.add_argument("--private", action="store_true", default=None, help="where it is made now")
    parser.add_argument("--revision", metavar="BRANCH", help="default main")


def _run_push(args: argparse.Namespace) -> int:
    from hfdistill.files.hub import push_to_hub

    options = {"onnx": args.onnx, "private": args.private, "revision": args.revision}
    print(push_to_hub(args.student, args.repository, **options))
    return 0


def _list(commands: Any) -> None:
    parser = _command(commands, "list", "what a page can name, with a line each", _run_list)
    parser.add_argument("what", nargs="?", choices=[*_TABLES, "sizes"], help="default all of them")
    parser.add_argument(
        "--model", help="Hub id or folder of a teacher: sizes of the students that shrink cuts from it"
    )


def _run_list(args: argparse.Namespace) -> int:
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


def _load(plugin: str) -> None:
    """Run a file of the user's own, so that what it registers has a name."""
    if not Path(plugin).is_file():
        raise ValueError(
            f"--plugin {printable(plugin)}: there is no such file. Type the path of a Python file."
        )
    runpy.run_path(plugin, run_name="hfdistill_plugin")
