"""`compare_speeds` measures how fast models are, side by side on one machine; `size_mb` how large."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn
from transformers import PreTrainedModel

from hfdistill.evaluation.report import Environment, Speed
from hfdistill.files.progress import Progress
from hfdistill.network.inputs import accepted_inputs
from hfdistill.network.trace import Batch, run


@dataclass(frozen=True)
class SpeedPlan:
    """How much to time.

    Args:
        latency_rows: rows answered one by one, spread evenly over the data (repeated where the data has
            fewer).
        batch_size: rows per batch for throughput.
        throughput_rows: rows in one pass of batches, at most; fewer where `seconds` would not do.
        repeats: passes; the median counts.
        seconds: time that throughput may take per model, about.
    """

    latency_rows: int = 100
    batch_size: int = 32
    throughput_rows: int = 256
    repeats: int = 5
    seconds: float = 15.0

    def __post_init__(self) -> None:
        if (
            min(self.latency_rows, self.batch_size, self.throughput_rows, self.repeats) < 1
            or not self.seconds > 0
        ):
            raise ValueError(f"A SpeedPlan needs numbers above 0, found {self}.")


Collate = Callable[[str, Sequence[int]], Batch]


def compare_speeds(
    models: Mapping[str, PreTrainedModel], collate: Collate, *, rows: int, plan: SpeedPlan
) -> dict[str, Speed]:
    """Time several models on the same rows, interleaved (A B, B A, …) after a warm-up.

    Whatever slows the machine for a while then slows all of them. Latency is one row alone at its own length;
    throughput is batches in the data's order, padded to their longest row. Batches are made beforehand:
    tokenization is not timed.

    `collate` makes the batch of a role's model from row numbers.
    """
    if len({model.device for model in models.values()}) > 1:
        devices = ", ".join(f"{role} on {model.device}" for role, model in models.items())
        raise ValueError(
            f"Speeds can only be compared on one device, found {devices}. Move the models together."
        )
    with torch.inference_mode():
        cost = max(_warm_up(models[role], collate, role, rows=rows, plan=plan) for role in models)
        fitting = max(1, int(plan.seconds / plan.repeats / max(cost, 1e-9)))
        latencies = _latencies(models, collate, spread(rows, plan.latency_rows))
        chosen = spread(rows, min(plan.throughput_rows, fitting * plan.batch_size))
        rates = _throughputs(models, collate, chosen, plan)
    return {
        role: Speed(
            latency_ms_p50=round(float(np.percentile(latencies[role], 50)), 3),
            latency_ms_p95=round(float(np.percentile(latencies[role], 95)), 3),
            latency_rows=plan.latency_rows,
            rows_per_s=round(float(np.median(rates[role])), 1),
            batch_size=plan.batch_size,
            throughput_rows=len(chosen),
            repeats=plan.repeats,
        )
        for role in models
    }


def size_mb(model: nn.Module) -> float:
    """Return megabytes (1e6 bytes) of the safetensors file of `save_pretrained`, where tied weights count
    once."""
    seen: dict[tuple[int, torch.Size], tuple[str, torch.Tensor]] = {}
    for name, tensor in model.state_dict().items():
        seen.setdefault((tensor.data_ptr(), tensor.shape), (name, tensor))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in seen.values():
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = len(json.dumps(header, separators=(",", ":")))
    return (8 + -(-text // 8) * 8 + end) / 1e6


def embedding_parameters(model: PreTrainedModel) -> int:
    """Return how many weights the word embedding table has; 0 where a model has none."""
    try:
        return int(model.get_input_embeddings().weight.numel())
    except (NotImplementedError, AttributeError):
        return 0


def spread(rows: int, wanted: int) -> list[int]:
    """Return `wanted` row numbers spread evenly over `rows`; rows repeat where there are fewer."""
    return [i * rows // wanted for i in range(wanted)]


def environment(device: torch.device) -> Environment:
    """Return hardware and versions, without anything that names the machine, its user or a folder."""
    import hfdistill

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Environment(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        cpu=_cpu_name(),
        cores=cores,
        threads=torch.get_num_threads(),
        platform=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        torch=torch.__version__,
        transformers=transformers.__version__,
        hfdistill=hfdistill.__version__,
        commit=_commit(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _warm_up(model: PreTrainedModel, collate: Collate, role: str, *, rows: int, plan: SpeedPlan) -> float:
    """Run single rows and two batches; return the seconds that a batch takes once warm."""
    for row in spread(rows, min(plan.latency_rows, 5)):
        _seconds(model, [collate(role, [row])])
    batch = [collate(role, spread(rows, plan.batch_size))]
    _seconds(model, batch)
    return _seconds(model, batch)


def _latencies(
    models: Mapping[str, PreTrainedModel], collate: Collate, rows: list[int]
) -> dict[str, list[float]]:
    """Return milliseconds of each row alone."""
    milliseconds: dict[str, list[float]] = {role: [] for role in models}
    with Progress("latency", total=len(rows)) as progress:
        for i, row in enumerate(rows):
            for role in _turn(models, i):
                milliseconds[role].append(1000 * _seconds(models[role], [collate(role, [row])]))
            progress.update()
    return milliseconds


def _throughputs(
    models: Mapping[str, PreTrainedModel], collate: Collate, rows: list[int], plan: SpeedPlan
) -> dict[str, list[float]]:
    """Return rows per second of each pass."""
    starts = range(0, len(rows), plan.batch_size)
    batches = {role: [collate(role, rows[i : i + plan.batch_size]) for i in starts] for role in models}
    rates: dict[str, list[float]] = {role: [] for role in models}
    with Progress("throughput", total=plan.repeats, unit="passes") as progress:
        for i in range(plan.repeats):
            for role in _turn(models, i):
                rates[role].append(len(rows) / _seconds(models[role], batches[role]))
            progress.update()
    return rates


def _turn(models: Mapping[str, PreTrainedModel], i: int) -> list[str]:
    """Return the roles, forwards in even turns and backwards in odd ones."""
    return list(models) if i % 2 == 0 else list(models)[::-1]


def _seconds(model: PreTrainedModel, batches: Sequence[Batch]) -> float:
    """Return the wall time of the forward passes."""
    accepts, cuda = accepted_inputs(model), model.device.type == "cuda"
    if cuda:
        torch.cuda.synchronize(model.device)
    start = time.perf_counter()
    for batch in batches:
        run(model, batch, accepts=accepts)
    if cuda:
        torch.cuda.synchronize(model.device)
    return time.perf_counter() - start


def _cpu_name() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """Return the working folder's git commit, "-dirty" where files differ; None outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None
