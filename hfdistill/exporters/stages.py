"""A student with exits as ONNX: a graph for each stage, and a runner that sends on the unsure rows."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoConfig

from hfdistill.exporters.onnx import plain, quiet, sample_of, session, to_graph, token_arrays
from hfdistill.network.architectures import ModelSpec, blocks
from hfdistill.network.block_calls import computing_by, first_argument, with_hidden_states
from hfdistill.network.inputs import accepted_inputs
from hfdistill.students.early_exit import (
    EarlyExitForSequenceClassification,
    check_threshold,
    with_threshold,
)
from hfdistill.students.early_exit_forward import uncertainty

FLOAT32_STAGE, INT8_STAGE = "stage_{:02}.onnx", "int8_stage_{:02}.onnx"
"""Names of the files, numbered from 1."""
PATTERNS = {"onnx": "stage_*.onnx", "int8": "int8_stage_*.onnx"}
"""The files of a format."""
ON = "next_hidden_states"
"""What a graph calls the hidden states that the next one reads."""
Array = np.ndarray[Any, Any]


def to_stages(
    model: EarlyExitForSequenceClassification, folder: Path, *, inputs: tuple[str, ...]
) -> list[Path]:
    """Write a model with exits as one ONNX file a stage, and return the files.

    The first graph reads token ids and ends at the first exit; each graph after it reads `hidden_states` and
    `attention_mask` and ends at the next exit, the last one at the model's own head. All give `logits`; all
    but the last also `uncertainty` (B,), which is compared with the threshold, and `next_hidden_states`.
    """
    copied = copy.deepcopy(model).to("cpu", torch.float32).eval()
    copied.backbone = plain(copied.backbone)
    stages, paths = _stages(copied), []
    sample = sample_of([name for name in inputs if name in accepted_inputs(copied.backbone)])
    width = ModelSpec.of(copied).width
    for number, stage in enumerate(stages, start=1):
        read = sample if number == 1 else {
            "hidden_states": torch.rand(*sample["input_ids"].shape, width),
            "attention_mask": sample["attention_mask"],
        }  # fmt: skip
        given = ("logits",) if stage.is_last else ("logits", "uncertainty", ON)
        paths.append(folder / FLOAT32_STAGE.format(number))
        with stage.alone():
            to_graph(stage, paths[-1], sample=read, outputs=given, name=type(model).__name__)
    return paths


class Stage(nn.Module):
    """The blocks of a model with exits between two of its heads, and the second of the heads.

    Args:
        model: with exits, attention as two products; blocks are switched off in it while a stage is alone.
        first: blocks before the stage.
        last: the block whose head ends the stage.
        gives_tuple: of each block, whether it returns a tuple that begins with the hidden states.
    """

    def __init__(self, model: Any, *, first: int, last: int, gives_tuple: Sequence[bool]) -> None:
        super().__init__()
        self.backbone, self.exits, self.config = model.backbone, model.exits, model.config
        self.first, self.last, self.gives_tuple = first, last, gives_tuple
        self.is_last = last == len(gives_tuple)
        self._multi_label = model.config.problem_type == "multi_label_classification"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While open, the blocks of other stages pass the hidden states on as they are."""
        numbered = list(enumerate(blocks(self.backbone)))
        others = numbered[: self.first] + numbered[self.last :]
        with computing_by({part: _passing(self.gives_tuple[i]) for i, part in others}):
            yield

    def forward(
        self, attention_mask: Tensor, hidden_states: Tensor | None = None, **inputs: Tensor
    ) -> dict[str, Tensor]:
        """Return the logits of the stage's head; of an exit also how unsure they are, and the hidden states.

        What comes before `hidden_states` is computed of no ids in particular, is read by nothing, and the
        exporter leaves it out.
        """
        parts, passed = blocks(self.backbone), []

        def keep(_block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            passed.append(first_argument(args, kwargs))

        with ExitStack() as hooks:
            if hidden_states is not None:
                inputs = {"input_ids": attention_mask}

                def feed(_block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
                    return with_hidden_states(args, kwargs, hidden_states)

                hooks.enter_context(parts[self.first].register_forward_pre_hook(feed, with_kwargs=True))
            if not self.is_last:
                hooks.enter_context(parts[self.last].register_forward_pre_hook(keep, with_kwargs=True))
            logits = self.backbone(attention_mask=attention_mask, **inputs).logits
        if self.is_last:
            return {"logits": logits}
        logits = self.exits[str(self.last)](passed[0], attention_mask)
        unsure = uncertainty(logits, multi_label=self._multi_label)
        return {"logits": logits, "uncertainty": unsure, ON: passed[0]}


def _stages(model: Any) -> list[Stage]:
    """Return the stages of a model with exits, in order."""
    gives_tuple: list[bool] = []
    with torch.no_grad(), quiet(), ExitStack() as hooks:
        for block in blocks(model):
            note = lambda _block, _args, output: gives_tuple.append(isinstance(output, tuple))  # noqa: E731
            hooks.enter_context(block.register_forward_hook(note))
        model.backbone(**sample_of(["input_ids", "attention_mask"]))
    ends = [0, *model.config.exits, len(gives_tuple)]
    return [
        Stage(model, first=first, last=last, gives_tuple=gives_tuple)
        for first, last in itertools.pairwise(ends)
    ]


def _passing(gives_tuple: bool) -> Any:
    """Return a forward that gives back the hidden states, as the block in its place would."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        hidden = first_argument(args, kwargs)
        return (hidden,) if gives_tuple else hidden

    return forward


@dataclass
class _Rows:
    """Rows on their way: their numbers, and what the next stage reads of them."""

    numbers: Array
    feed: dict[str, Array]

    def part(self, rows: Any) -> _Rows:
        """Return some of the rows, cut behind the last token of the longest."""
        mask = self.feed["attention_mask"][rows]
        used = np.flatnonzero(mask.any(0))
        length = used[-1] + 1 if len(used) else 1
        return _Rows(self.numbers[rows], {name: each[rows][:, :length] for name, each in self.feed.items()})


class StagedModel(nn.Module):
    """The ONNX files of a student with exits, as a model on one CPU: token ids in, logits out.

    A row leaves at the first exit whose uncertainty is below the threshold; the graphs after it compute the
    other rows alone.

    Args:
        source: the folder that `export` wrote, of which the float32 files are taken; or one of its files:
            int8_stage_01.onnx stands for those in 8 bits.
        threshold: above 0 and up to 1; default that of the folder's config.json.
        threads: threads inside an operator; default as many as torch uses.
        config: the folder of config.json; default that of the files.

    Raises:
        ValueError: for a threshold out of range or none at all, and files that do not fit the config.

    Example:
        >>> model = StagedModel("onnx", threshold=0.3)  # doctest: +SKIP
        >>> answer = model(**tokenizer(["a warm film"], return_tensors="pt"))  # doctest: +SKIP
        >>> answer["logits"], answer["exit_layers"]  # doctest: +SKIP
    """

    device = torch.device("cpu")

    def __init__(
        self,
        source: str | Path,
        *,
        threshold: float | None = None,
        threads: int | None = None,
        config: str | Path | None = None,
    ) -> None:
        super().__init__()
        source = Path(source)
        folder = source if source.is_dir() else source.parent
        eight = source.is_file() and source.name.startswith("int8_")
        paths = sorted(folder.glob(PATTERNS["int8" if eight else "onnx"]))
        described: Any = AutoConfig.from_pretrained(str(config or folder), trust_remote_code=False)
        self.layers = [*getattr(described, "exits", ()), ModelSpec.of(described).depth]
        if len(paths) != len(self.layers) or len(paths) < 2:
            raise ValueError(
                f"{folder.name} holds {len(paths)} files of stages, and its config.json has exits at "
                f"{self.layers[:-1]}: one file each and one for the rest are needed. Export the student "
                "again."
            )
        self.threshold = checked_threshold(described.exit_threshold if threshold is None else threshold)
        self.classes = described.num_labels
        self.sessions = [session(path, threads) for path in paths]
        self.inputs = tuple(value.name for value in self.sessions[0].get_inputs())

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return logits (B, C) and exit_layers (B,) of ids and mask (B, T); token types are 0 by default."""
        batch = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        logits, layers = self.predict([batch])
        return {"logits": logits, "exit_layers": layers}

    def predict(
        self, batches: Iterable[Mapping[str, Tensor | None]], *, batch_size: int = 32
    ) -> tuple[Tensor, Tensor]:
        """Return the logits (rows, C) of all rows of some batches, and the layer at which each left (rows,).

        The rows that go on are put together with those of later batches, so that later stages compute full
        batches too. Of each stage at most `batch_size` rows and those of a batch wait.

        Args:
            batches: padded; it is fastest where a batch holds rows of similar length, as in `hfdistill
                predict`.
            batch_size: rows that a stage after the first computes at once.
        """
        waiting: list[list[_Rows]] = [[] for _ in self.sessions]
        answers: list[tuple[Array, Array, int]] = []
        count = 0

        def compute(stage: int, rows: _Rows) -> None:
            """Compute a stage: sure rows have their answer, the others wait for the next one."""
            sure, logits, unsure = self._stage(stage, rows)
            answers.append((rows.numbers[sure], logits[sure], stage))
            if unsure is not None:
                waiting[stage + 1].append(unsure)

        def work(*, least: int) -> None:
            """Compute each stage on the rows that wait for it, while there are at least so many."""
            for stage in range(1, len(waiting)):
                while sum(len(some.numbers) for some in waiting[stage]) >= least:
                    rows = _joined(waiting[stage])
                    more = len(rows.numbers) > batch_size
                    waiting[stage] = [rows.part(slice(batch_size, None))] if more else []
                    compute(stage, rows.part(slice(batch_size)))

        for batch in batches:
            feed = token_arrays(batch, self.inputs)
            numbers = np.arange(count, count := count + len(feed["attention_mask"]))
            compute(0, _Rows(numbers, feed))
            work(least=batch_size)
        work(least=1)
        logits = np.zeros((count, self.classes), np.float32)
        layers = np.zeros(count, np.int64)
        for numbers, some, stage in answers:
            logits[numbers], layers[numbers] = some, self.layers[stage]
        return torch.from_numpy(logits), torch.from_numpy(layers)

    def heads(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the logits of all heads side by side, the exits' first: (B, heads * C). No row leaves."""
        batch = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        feed, parts = token_arrays(batch, self.inputs), []
        for one in self.sessions:
            given = _run(one, feed)
            parts.append(torch.from_numpy(given["logits"]))
            if ON in given:
                feed = {"hidden_states": given[ON], "attention_mask": feed["attention_mask"]}
        return {"logits": torch.cat(parts, -1)}

    def _stage(self, stage: int, rows: _Rows) -> tuple[Array, Array, _Rows | None]:
        """Return which rows are sure, the logits of all rows, and the unsure rows for the next stage."""
        given = _run(self.sessions[stage], rows.feed)
        if ON not in given:
            return np.ones(len(rows.numbers), bool), given["logits"], None
        sure = given["uncertainty"] < self.threshold
        feed = {"hidden_states": given[ON], "attention_mask": rows.feed["attention_mask"]}
        return sure, given["logits"], None if sure.all() else _Rows(rows.numbers, feed).part(~sure)


def checked_threshold(threshold: float | None) -> float:
    """Return a threshold, or raise an error where there is none or it is out of range."""
    if threshold is None:
        raise ValueError(
            "This student has exits and no threshold, so no row would leave early. Choose one by exit_curve "
            "and type exit_threshold=0.3 (--exit-threshold 0.3; on a page export: {exit_threshold: 0.3})."
        )
    check_threshold(threshold)
    return float(threshold)


def heads_of(model: Any) -> Any:
    """Return a function that gives the logits of all heads of a model with exits; another model as it is."""
    if isinstance(model, StagedModel):
        return model.heads
    if not isinstance(model, EarlyExitForSequenceClassification):
        return model
    view = with_threshold(model, None)

    def heads(**inputs: Tensor) -> dict[str, Tensor]:
        output = view(**inputs)
        return {"logits": torch.cat([*output.exit_logits, output.logits], -1)}

    return heads


def _run(one: Any, feed: Mapping[str, Array]) -> dict[str, Array]:
    """Return the outputs of a graph by their names."""
    names = [value.name for value in one.get_outputs()]
    read = {value.name: feed[value.name] for value in one.get_inputs()}
    return dict(zip(names, one.run(names, read), strict=True))


def _joined(parts: Sequence[_Rows]) -> _Rows:
    """Return rows of several batches as one, padded behind to the longest."""
    if len(parts) == 1:
        return parts[0]
    longest = max(part.feed["attention_mask"].shape[1] for part in parts)
    feed = {
        name: np.concatenate([_padded(part.feed[name], longest) for part in parts]) for name in parts[0].feed
    }
    return _Rows(np.concatenate([part.numbers for part in parts]), feed)


def _padded(values: Array, length: int) -> Array:
    room = [(0, 0), (0, length - values.shape[1]), *[(0, 0)] * (values.ndim - 2)]
    return np.pad(values, room)
