"""What the candidates weigh and take, measured before anything is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from datasets import Dataset

from hfdistill.data.align import LABELS
from hfdistill.evaluation.models import Contender, LoadedModel, load_models
from hfdistill.evaluation.predictions import evaluating, speeds
from hfdistill.evaluation.report import megabytes
from hfdistill.evaluation.speed import SpeedPlan, size_mb
from hfdistill.exporters.bench import FILES, as_onnx
from hfdistill.exporters.gate import check_architecture, write_networks
from hfdistill.exporters.onnx import require_packages
from hfdistill.files.plain_data import build, read_json, write_json
from hfdistill.recipe.goal.candidates import Candidate
from hfdistill.recipe.goal.target import Goal

PLAN = SpeedPlan(latency_rows=40, batch_size=8, throughput_rows=8, repeats=1, seconds=5)
PASSES = 3
"""How often a candidate that misses the limit is timed; the fastest pass counts."""
MAX_BYTES = 1_000_000
Make = Callable[[Candidate, bool], tuple[Any, Any]]
"""(candidate, whether tokens are left out) → model and tokenizer, not fitted."""
Way = tuple[str, bool]
WAYS: tuple[Way, ...] = (
    ("pytorch", False), ("onnx", False), ("int8", False), ("pytorch", True), ("onnx", True), ("int8", True)
)  # fmt: skip
"""Form, and whether tokens are left out: what loses least first."""


@dataclass(frozen=True)
class Size:
    """What one way to run a candidate costs.

    Args:
        form: "pytorch", "onnx" (float32) or "int8".
        pruned: whether its vocabulary was cut to half of the tokens.
        ms: milliseconds for one row, the median; None where it was not timed, being too large anyway.
        mb: megabytes of its file.
    """

    form: str
    pruned: bool
    ms: float | None
    mb: float

    def is_within(self, goal: Goal) -> bool:
        """Return whether it meets both limits."""
        return goal.is_fast(self.ms) and goal.is_small(self.mb)

    def __str__(self) -> str:
        how = {"pytorch": "", "onnx": ", ONNX", "int8": ", int8"}[self.form]
        ms = "" if self.ms is None else f"{self.ms:.1f} ms, "
        return f"{ms}{megabytes(self.mb)} MB{how}{', half the tokens' if self.pruned else ''}"


@dataclass(frozen=True)
class Sizes:
    """What was measured of one candidate.

    Args:
        measured: each way that was tried, the plain PyTorch model first.
        note: why some ways could not be tried; "" where all could.
    """

    measured: tuple[Size, ...]
    note: str = ""

    def best(self, goal: Goal) -> Size | None:
        """Return the first way within the limits; None where all miss them."""
        usable = (size for size in self.measured if goal.int8 or size.form != "int8")
        return next((size for size in usable if size.is_within(goal)), None)

    def __str__(self) -> str:
        return "; ".join(map(str, self.measured))

    def nearest(self) -> Size:
        """Return the smallest of the ways that were timed."""
        return min((size for size in self.measured if size.ms is not None), key=lambda size: size.mb)


class Scale:
    """Measures candidates one after the other, and keeps the results in their folders.

    What loses least comes first: the PyTorch model, the same in ONNX, in 8 bits, then with half of the
    tokens. The first that meets the limits ends it.
    """

    def __init__(self, goal: Goal, rows: Dataset, make: Make, *, max_length: int | None) -> None:
        self.goal, self.make, self.max_length = goal, make, max_length
        self.rows = rows.remove_columns([name for name in LABELS if name in rows.column_names])

    def sizes(self, candidate: Candidate, folder: Path) -> Sizes:
        """Return what a candidate costs, of which some may lie in its folder already."""
        path = folder / "sizes.json"
        known = Sizes(())
        if path.is_file():
            known = build(Sizes, read_json(path, limit=MAX_BYTES), "sizes")
        if known.best(self.goal) is not None:
            return known
        measured = self._measured(candidate, known)
        write_json(path, dataclasses.asdict(measured))
        return measured

    def _measured(self, candidate: Candidate, known: Sizes) -> Sizes:
        table = {(size.form, size.pruned): size for size in known.measured}
        notes = [known.note] if known.note else []
        with TemporaryDirectory() as scratch:
            bench = _Bench(self, candidate, Path(scratch))
            for form, pruned in (way for way in WAYS if self.goal.int8 or way[0] != "int8"):
                if (form, pruned) not in table and self._is_worth_it((form, pruned), table, candidate):
                    try:
                        table[form, pruned] = bench.size(form, pruned, table)
                    except (ValueError, TypeError, ModuleNotFoundError) as error:
                        notes.append(" ".join(str(error).split())[:200])
                        continue
                if (size := table.get((form, pruned))) and size.is_within(self.goal):
                    break
        if not table:
            raise ValueError(notes[0])
        return Sizes(tuple(table[way] for way in WAYS if way in table), "; ".join(dict.fromkeys(notes)))

    def _is_worth_it(self, way: Way, table: Mapping[Way, Size], candidate: Candidate) -> bool:
        """Return whether a way could meet what the ways before it missed.

        8 bits are a quarter of 32, and without half of the tokens half of a file is left at least.
        """
        plain, int8, goal = table.get(WAYS[0]), table.get(("int8", False)), self.goal
        if plain is None or (way[1] and not candidate.is_cut):
            return way == WAYS[0]
        small, fast, quarter = goal.is_small(plain.mb), goal.is_fast(plain.ms), goal.is_small(plain.mb / 4)
        pruned = table.get(("pytorch", True))
        least = plain.mb / 2 if pruned is None else pruned.mb
        too_large = not quarter if int8 is None else goal.is_fast(int8.ms) and not goal.is_small(int8.mb)
        return {
            ("onnx", False): small and not fast,
            ("pytorch", True): fast and not small and goal.is_small(least),
            ("onnx", True): not fast and not small and goal.is_small(least),
            ("int8", False): quarter,
            ("int8", True): too_large and goal.is_small(least / 4),
        }[way]


class _Bench:
    """One candidate, built once plain and once with half the tokens, in the forms that are asked for."""

    def __init__(self, scale: Scale, candidate: Candidate, scratch: Path) -> None:
        self.scale, self.candidate, self.scratch = scale, candidate, scratch
        self.networks: dict[bool, LoadedModel] = {}

    def size(self, form: str, pruned: bool, table: Mapping[Way, Size]) -> Size:
        """Measure one way; a model with half the tokens takes the time of the plain one."""
        network = self._network(pruned)
        loaded, mb = in_form(network, form, self.scratch)
        timed = table.get((form, False)) if pruned else None
        if timed is not None:
            return Size(form, pruned, timed.ms, round(mb, 3))
        ms = _milliseconds(loaded)
        for _ in range(PASSES - 1):  # a busy moment is no reason to refuse a candidate
            ms = ms if self.scale.goal.is_fast(ms) else min(ms, _milliseconds(loaded))
        return Size(form, pruned, ms, round(mb, 3))

    def _network(self, pruned: bool) -> LoadedModel:
        if pruned not in self.networks:
            model, tokenizer = self.scale.make(self.candidate, pruned)
            self.networks[pruned] = load(Contender(model, tokenizer), self.scale.rows, self.scale.max_length)
        return self.networks[pruned]


def load(contender: Contender, rows: Dataset, max_length: int | None) -> LoadedModel:
    """Return a model with rows in its own token ids."""
    return load_models({"student": contender}, rows, None, max_length)[0]["student"]


def in_form(network: LoadedModel, form: str, folder: Path) -> tuple[LoadedModel, float]:
    """Return a network as it is or as ONNX, and the megabytes of its file.

    Args:
        network: in PyTorch, with its rows.
        form: "pytorch", "onnx" or "int8".
        folder: where ONNX files may be written.
    """
    if form == "pytorch":
        return network, size_mb(network.model)
    require_packages()
    check_architecture(network.model)
    int8 = "dynamic" if form == "int8" else None
    files, _ = write_networks(network.model, folder, reads=network.inputs, engine="onnx", int8=int8, feed=[])
    return as_onnx(network, form, files[form]), (folder / FILES[form]).stat().st_size / 1e6


def _milliseconds(loaded: LoadedModel) -> float:
    """Return the median time of a row alone."""
    models = {loaded.role: loaded}
    with evaluating(models):
        return speeds(models, PLAN)[loaded.role].latency_ms_p50
