"""`hfdistill fit DATA --teacher T`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from hfdistill.cli.data_flags import add_file_flags, add_label_flags, file_options, label_of
from hfdistill.recipe.goal.target import TRAINING

if TYPE_CHECKING:
    from hfdistill.recipe.check import Recipe

HELP = "find the fastest student that keeps a share of its teacher's quality within a budget"

_FLAGS = {"train_rows": "rows", "output_dir": "out", "num_train_epochs": "epochs"}
"""Flags that stand for a key of a page with another name."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Data, teacher, what to keep and what it may cost."""
    parser.add_argument("data", help="Hub id, file or folder of text, with labels or without")
    parser.add_argument("--teacher", required=True, help="Hub id or folder of a fine-tuned classifier")
    parser.add_argument("--keep", default="98%", help="share of the teacher's metric: 98%% or 0.98")
    parser.add_argument("--max-ms", type=float, metavar="MS", help="milliseconds for one row at most")
    parser.add_argument("--max-mb", type=float, metavar="MB", help="megabytes of the weights' file at most")
    parser.add_argument("--out", default="out/fit", help="folder to write; default out/fit")
    parser.add_argument("--metric", help="what is kept; default accuracy, or that of the task")
    parser.add_argument(
        "--choose", type=_share, metavar="SHARE_OR_SPLIT",
        help="rows to choose on: a share of the training rows (default 0.2), or another split",
    )  # fmt: skip
    parser.add_argument(
        "--candidates", nargs="+", metavar="KIND", help="layers, neurons, width, bilstm, cnn, static"
    )
    parser.add_argument("--no-int8", action="store_true", help="try no student in 8 bits")
    parser.add_argument(
        "--unlabelled", metavar="TEXTS", help="file of more texts to learn from; a .txt has one a line"
    )
    parser.add_argument("--evaluation", metavar="SPLIT", help="to report on; default validation, then test")
    parser.add_argument("--rows", type=int, help="this many training rows alone, drawn by the seed")
    parser.add_argument("--epochs", type=float, default=3.0, help="of a whole training; default 3")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--max-length", type=int, default=128, help="tokens per row; default 128")
    add_label_flags(parser)
    add_file_flags(parser)
    parser.set_defaults(renamed=_FLAGS)


def run(args: argparse.Namespace) -> int:
    """Search, and say what was found; 3 where no student keeps enough."""
    from hfdistill.recipe.check import check
    from hfdistill.recipe.page import Page

    return search(check(Page("fit", page_of(args))))


def search(recipe: Recipe) -> int:
    """Search for the student of a page with a goal, and say what was found; 3 where none keeps enough."""
    from hfdistill.recipe.goal.fit import fit_recipe
    from hfdistill.recipe.threads import use_idle_cores

    use_idle_cores()
    result = fit_recipe(recipe)
    print(f"{result.report.table()}\n\n{result}")
    return 3 if result.verdict == "missed" else 0


def page_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return the page that the flags stand for."""
    names = ("keep", "max_ms", "max_mb", "metric", "candidates", "choose")
    goal = {name: getattr(args, name) for name in names} | {"int8": False if args.no_int8 else None}
    data = {"source": args.data, "label": label_of(args), "train_rows": args.rows}
    names = ("text", "text_pair", "config", "label_names", "evaluation", "unlabelled")
    data |= {name: getattr(args, name) for name in names} | file_options(args)
    own = {"output_dir": args.out, "num_train_epochs": args.epochs, "seed": args.seed}
    training = {**TRAINING, **own, "max_length": args.max_length}
    return {
        "teacher": args.teacher,
        "data": {name: value for name, value in data.items() if value is not None},
        "training": training,
        "goal": {name: value for name, value in goal.items() if value is not None},
    }


def _share(text: str) -> float | str:
    """Return the value of --choose: a number, or the name of a split."""
    try:
        return float(text)
    except ValueError:
        return text
