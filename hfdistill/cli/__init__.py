"""The command line: init, train, fit, shrink, predict, compare, measure, cache, export, push and list."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import difflib
import gc
import logging
import os
import re
import runpy
import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NoReturn

import hfdistill
from hfdistill.cli import cache, compare, export, fit, init, list_names, measure, predict, push, shrink, train
from hfdistill.cli.wording import Formatter, as_refused, as_typed
from hfdistill.files.endings import EXIT_CODES, Ended, ending_in_order, silence_unread
from hfdistill.files.plain_data import printable
from hfdistill.files.wording import worded, wording
from hfdistill.recipe import RecipeError

# What the library raises on purpose, and what comes up from below; HFDISTILL_TRACEBACK=1 shows where.
_REFUSALS = (ValueError, TypeError, OSError, LookupError, ImportError, ArithmeticError, RuntimeError)

_CHOICE = re.compile(r"invalid choice: '(?P<word>[^']*)'.*\(choose from (?P<choices>.*)\)", re.DOTALL)

# Commands import torch and Transformers in `run` alone: help, and the mistakes of a page, are there at once.

_COMMANDS: dict[str, Any] = {
    "init": init,
    "train": train,
    "fit": fit,
    "shrink": shrink,
    "predict": predict,
    "compare": compare,
    "measure": measure,
    "cache": cache,
    "export": export,
    "push": push,
    "list": list_names,
}
"""Modules by command, in the order of the help: each has a line of HELP, `add_flags` and `run`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0; 2 where a page or the command has mistakes, 1 where a run could not go on, 3 where an export lost
        too much quality or no student met a goal. Once what is done is saved, 130 after Ctrl-C, 143 after
        SIGTERM and 75 after SIGUSR1. 141, without a word, where nobody reads on, as behind `| head`.
    """
    if argv is None:  # the last thing of a process: no second goes by in looking for garbage in all modules
        atexit.register(gc.freeze)
    if not (sys.argv[1:] if argv is None else argv):
        _parser().print_help()
        return 0
    args = _arguments(argv)
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler])
    with wording(lambda message: as_typed(message, args)):
        try:
            return _ran(args)
        except BrokenPipeError as error:
            if not silence_unread():
                return _failed(f"error: {error}", code=1)
            return 128 + 13  # as a shell says of what SIGPIPE ended


def _ran(args: argparse.Namespace) -> int:
    """Run the command that was typed, and say in a sentence why it ends early; return its status."""
    try:
        for plugin in args.plugin:
            _load(plugin)
        with ending_in_order(), _allowing_pickles(args):
            status = int(args.command(args))
            print(end="", flush=True)  # nothing where standard output is closed
            return status
    except RecipeError as error:
        return _failed("\n".join(as_refused(mistake, args) for mistake in error.mistakes), code=2)
    except KeyboardInterrupt as error:
        return _failed(str(error) or "Stopped.", code=130)
    except Ended as error:
        text = f"Ended by {error.number.name}. What is done stays; the same command goes on from there."
        return _failed(text, code=EXIT_CODES[error.number])
    except _REFUSALS as error:
        if isinstance(error, BrokenPipeError) or os.environ.get("HFDISTILL_TRACEBACK"):
            raise
        lost = type(error).__name__ == "QualityGateError"
        return _failed(f"error: {worded(str(error))}", code=3 if lost else 1)


def _allowing_pickles(args: argparse.Namespace) -> AbstractContextManager[None]:
    """Return what --allow-pickle opens for a command; without it Transformers stays unloaded."""
    if not args.allow_pickle:
        return contextlib.nullcontext()
    from hfdistill.network.foreign_code import allowing_pickles

    return allowing_pickles()


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the words; overrides of a page may stand behind flags, too, where argparse gives them up."""
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
    for name, module in _COMMANDS.items():
        command = commands.add_parser(name, help=module.HELP, description=module.HELP)
        command.set_defaults(command=module.run)
        command.add_argument(
            "--plugin", action="append", default=[], metavar="FILE.py",
            help="run this Python file of yours first, for what it registers; it can do anything that you "
            "can, so name none that you have not read",
        )  # fmt: skip
        command.add_argument(
            "--allow-pickle", action="store_true",
            help="read models whose weights are a pickle alone (pytorch_model.bin), as plain tensors",
        )  # fmt: skip
        module.add_flags(command)
        flags = frozenset(action.dest for action in command._actions if action.option_strings)
        command.set_defaults(flags=flags)
    return parser


def _load(plugin: str) -> None:
    """Run a file of the user's own, so that what it registers has a name."""
    if not Path(plugin).is_file():
        raise ValueError(
            f"--plugin {printable(plugin)}: there is no such file. Type the path of a Python file."
        )
    runpy.run_path(plugin, run_name="hfdistill_plugin")


class Parser(argparse.ArgumentParser):
    """Says the nearest command, choice or flag where one is mistyped."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong, and end with status 2."""
        match = _CHOICE.search(message)
        if match is not None and "maybe you meant" not in message:  # Python 3.14 says it
            message += _suggestion(match["word"], re.findall(r"[\w-]+", match["choices"]))
        super().error(message)

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Refuse a mistyped flag of a command before argparse misses the flag that was meant."""
        flags = [name for action in self._actions for name in action.option_strings]
        for word in args or () if self._subparsers is None else ():
            flag = word.partition("=")[0]
            if flag.startswith("--") and not any(name.startswith(flag) for name in flags):
                bare = (name.removeprefix("--") for name in flags if name.startswith("--"))
                self.error(f"unrecognized argument: {flag}{_suggestion(flag[2:], bare, '--')}")
        return super().parse_known_args(args, namespace)


def _suggestion(word: str, choices: Iterable[str], dashes: str = "") -> str:
    """Return a sentence with the choice that a word nearly is; empty where there is none.

    The `dashes` before all choices say nothing, and would make short words alike.
    """
    choices = list(choices)
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.7)
    near = near or [choice for choice in choices if word.startswith(choice)]
    return f". Did you mean {dashes}{near[0]}?" if near else ""
