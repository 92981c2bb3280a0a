"""How many processes a launcher was asked for, and how many it started."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

_LAUNCHERS = (("accelerate", "launch"), ("accelerate.commands.launch",), ("accelerate-launch",))


def refuse_lost_processes(args: Any) -> None:
    """Refuse to run on one process where `accelerate launch` was asked for several.

    For CPUs (`--cpu`, or a config file of a CPU) it starts one, and says nothing.
    """
    if args.world_size > 1 or "WORLD_SIZE" in os.environ:
        return
    asked = processes_asked_for(_words_of_the_parent())
    if asked > 1:
        raise ValueError(
            f"accelerate launch was asked for {asked} processes and has started one, as it does for CPUs. "
            f"Type ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes {asked} …, or "
            "--num_processes 1."
        )


def processes_asked_for(words: Sequence[str]) -> int:
    """Return the number of processes that a command line of `accelerate launch` asks for; else 1.

    Example:
        >>> processes_asked_for(["python", "accelerate", "launch", "--cpu", "--num_processes", "2", "x.py"])
        2
    """
    for launcher in _LAUNCHERS:
        names = [Path(word).name for word in words[: 3 + len(launcher)]]
        for start in range(len(names) - len(launcher) + 1):
            if tuple(names[start : start + len(launcher)]) == launcher:
                return _number(words[start + len(launcher) :])
    return 1


def _number(words: Sequence[str]) -> int:
    from accelerate.commands.config.config_args import default_config_file, load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    with suppress(SystemExit, Exception):  # a launcher that we cannot read has nothing to say
        asked, _ = launch_command_parser().parse_known_args(list(words))
        if asked.num_processes is not None:
            return int(asked.num_processes)
        if asked.config_file is not None or (Path(default_config_file).is_file() and not asked.cpu):
            return int(load_config_from_file(asked.config_file).num_processes)
    return 1


def _words_of_the_parent() -> list[str]:
    """Return the command line of the process that started this one, where the system tells (Linux)."""
    with suppress(OSError):
        line = Path(f"/proc/{os.getppid()}/cmdline").read_bytes()
        return [word.decode(errors="replace") for word in line.split(b"\0")[:-1]]
    return []
