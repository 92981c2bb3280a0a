"""A teacher that answers from disk."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hfdistill.files.plain_data import printable
from hfdistill.network.inputs import TOKEN_TYPES, reads_token_types, token_type_count
from hfdistill.network.task import LABELS
from hfdistill.network.trace import Batch, Tap, Trace
from hfdistill.teachers.base import PREFIX, ModelTeacher, Teacher, as_teacher
from hfdistill.teachers.cache.contents import (
    FACTS,
    SCHEMA,
    CacheError,
    Contents,
    column,
    identity_of,
    make_folder,
    write_facts,
)
from hfdistill.teachers.cache.keys import (
    Ints,
    Rows,
    chosen,
    other_reading,
    pushed,
    rows_of,
    shortest_alone,
)
from hfdistill.teachers.cache.manifest import (
    accepted,
    config_from,
    only_recording,
    plain_config,
    print_of,
    versions_of,
    warn_of_other_versions,
)
from hfdistill.teachers.cache.shard import joined, padded, unpadded
from hfdistill.teachers.cache.store import Store

logger = logging.getLogger(__name__)

CHECKED_ROWS = 8
MOVED = 0.01
"""Share of its logits by which padding may move an answer, and ten times that in half precision."""

_READS_PADDING = (
    "The teacher reads the padding of a batch: an answer moved by %.0f %% of its logits when the padding "
    "beside the row was left out. Rows are recorded with little padding or none; a live teacher would answer "
    "otherwise. Leave the recording out if that matters."
)
OWN_COLUMNS = ("input_ids", "attention_mask", "token_type_ids")


class CachedTeacher(Teacher):
    """A teacher whose answers were recorded: it answers from disk, without its weights in memory.

    A row is found by a hash of the ids that the teacher reads, without padding, so that shuffling, filtering,
    padding, batch size and column order are of no matter, and an edited text is a new row. Answers of another
    teacher, of changed weights or another config are in another folder and never found. Logits come back bit
    for bit as they were recorded; a forward on other batches differs in the last bits (1e-5).

    When to use it: several epochs, several students or several objectives of one teacher. Not for text that
    changes at every reading (random augmentation): each reading would be new.

    Args:
        folder: what `record` was given, or the folder of one teacher in it.
        teacher: a live teacher (model, Hub id, path or `Teacher`) that answers rows that are not recorded,
            and whose answers are then recorded too. None raises `CacheError` for such rows.
        contents: what is kept, where `folder` holds several recordings or is new.
        tokenizer: the recorded teacher's, where it reads other token ids than the student; a live teacher
            brings its own.

    Raises:
        CacheError: where there is no such recording, or more than one; where it is damaged; where a live
            teacher cannot be told from another one, or answers twice differently.

    Example:
        >>> teacher = CachedTeacher("cache")  # doctest: +SKIP
        >>> DistillationTrainer(student, args, teacher=teacher, train_dataset=data)  # doctest: +SKIP
    """

    batch_rows: int | None = None
    """Rows of a call when it is recorded; None for as many as `tokens_per_batch` allows."""

    def __init__(
        self,
        folder: str | Path,
        *,
        teacher: Any = None,
        contents: Contents | None = None,
        tokenizer: Any = None,
    ) -> None:
        super().__init__()
        self.teacher = None if teacher is None else as_teacher(teacher)
        self.tokenizer = tokenizer
        self.store: Store | None = None
        self._is_checked = False
        self._rows_of: Any = None
        if self.teacher is None:
            self.folder = only_recording(Path(folder), contents)
            self._open()
        else:
            self.contents, self._print = contents or Contents(), print_of(self.teacher)
            root = Path(folder)
            root = root.parent if (root / FACTS).exists() else root  # the folder of one teacher was named
            self.folder = make_folder(root, identity_of(self._print, self.contents))
            self.config = self.teacher.config
            if (self.folder / FACTS).exists():
                with suppress(CacheError):  # damaged facts are written anew with the first answer
                    self._open()
        if self.tokenizer is not None and self.teacher is None:
            self.prefix, self.same_tokens = PREFIX, False

    def _open(self) -> None:
        self.store = Store(self.folder)
        facts = self.store.facts
        self.contents, self._print = self.store.contents, facts["fingerprint"]
        if self.teacher is None:
            self.config, self.same_tokens = config_from(facts["config"]), facts["same_tokens"]
        warn_of_other_versions(facts["versions"], self.teacher)

    def bind_tokenizer(self, tokenizer: Any) -> None:
        """Take note of the tokenizer that makes the rows."""
        self._rows_of = tokenizer

    def bind_student(self, student: Any) -> None:
        """Tell the live teacher."""
        if self.teacher is not None:
            self.teacher.bind_student(student)

    @property
    def same_tokens(self) -> bool:
        """Whether the live teacher reads the student's tokens, settled late; False where they are pooled."""
        same = self._same_tokens if self.teacher is None else _same_tokens(self.teacher)
        return same and not self.contents.pooled

    @same_tokens.setter
    def same_tokens(self, same: bool) -> None:
        self._same_tokens = same

    def check_taps(self, taps: Collection[Tap]) -> None:
        """Refuse taps that are not recorded."""
        unknown = set(taps) - self.contents.taps
        if unknown:
            raise CacheError(
                f"{min(unknown)} is not recorded in {self.folder}. Record it: hfdistill.record(teacher, "
                f"dataset, folder=..., contents=Contents(taps={{{min(unknown)}, ...}}))."
            )

    def fingerprint(self) -> str:
        """Return the recorded teacher's fingerprint: a run may begin with one and go on with the other."""
        return str(self._print)

    def inputs(self) -> frozenset[str]:
        """Return the columns that the recorded teacher reads."""
        if self.teacher is not None:
            return self.teacher.inputs()
        facts = self._facts()
        own = {self.prefix + name for name in facts["accepts"] or OWN_COLUMNS}
        names = own if self.prefix else set(facts["inputs"])
        typed = reads_token_types(self.config, self.tokenizer, padded_by=self._rows_of)
        return frozenset(names if typed else names - {self.prefix + TOKEN_TYPES})

    def embedders(self) -> Sequence[nn.Module]:
        """Return no model: the answers are looked up."""
        return ()

    def parts(self) -> Sequence[Teacher]:
        """Return the teachers that read the batch: the live teacher's parts, else itself."""
        return (self,) if self.teacher is None else self.teacher.parts()

    def select_inputs(self, batch: Batch) -> Batch:
        """Return the batch as the recorded teacher takes it."""
        if self.teacher is not None:
            return self.teacher.select_inputs(batch)
        if self.prefix:
            return super().select_inputs(batch)
        renamed: dict[str, str] | None = self._facts()["renamed"]
        if renamed is None:
            raise CacheError(
                f"The teacher of {self.folder} makes its own inputs from a batch, so its answers cannot be "
                "found without it. Type CachedTeacher(folder, teacher=...)."
            )
        if renamed and all(name in batch for name in renamed.values()):
            return {name: batch[source] for name, source in renamed.items()}
        return batch

    def rows(self, batch: Batch) -> Rows:
        """Return the rows of a batch as the teacher reads them.

        A row that is not recorded as it is, and is under another key that means the same to the teacher, has
        that key: a text whose token types are all zero was recorded without them, or the other way round.

        Raises:
            CacheError: where the batch has nothing that the recorded teacher reads.
        """
        return self._find(batch)[0]

    def _find(self, batch: Batch) -> tuple[Rows, Ints]:
        """Return the rows of a batch, and the place of each in the recording, -1 without one."""
        inputs = self._inputs(batch)
        rows = self._rows(inputs, batch)
        places = self._places(rows.keys)
        if self.store is None or (places >= 0).all() or not self._takes_zeros():
            return rows, places
        other, alike = other_reading(inputs)
        keys = rows_of(other).keys
        others = self._places(keys)
        same = (places < 0) & alike & (others >= 0)
        rows.keys[same], places[same] = keys[same], others[same]
        return rows, places

    def _rows(self, inputs: Batch, batch: Batch) -> Rows:
        try:
            return rows_of(inputs)
        except ValueError as error:
            if self.teacher is not None:
                raise
            names = printable(self._facts()["accepts"], limit=200)
            raise CacheError(
                f"The batch has {sorted(batch)}, and the recording in {self.folder} is of a teacher that "
                f"reads {names}. Give batches with what was recorded, or record them with "
                "hfdistill.record(teacher, dataset, folder=...)."
            ) from error

    def _takes_zeros(self) -> bool:
        """Whether the recorded teacher answers the same with token types of zero and without any."""
        recorded = self._facts()["accepts"]
        return recorded is not None and TOKEN_TYPES in recorded and token_type_count(self.config) > 0

    def missing(self, keys: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return which rows are not recorded; (B, 16) → (B,)."""
        return self._places(keys) < 0

    def _places(self, keys: NDArray[np.uint8]) -> Ints:
        return np.full(len(keys), -1) if self.store is None else self.store.find(keys)

    def drop_live_teacher(self) -> None:
        """Forget the live teacher; rows that are not recorded are an error from here on."""
        if self.store is not None:
            self.store.flush()
        if self.teacher is not None:
            self.same_tokens = _same_tokens(self.teacher)
            if self.teacher.prefix or type(self.teacher).select_inputs is not Teacher.select_inputs:
                part = self.teacher.parts()[0]
                self.tokenizer, self.prefix = part.tokenizer, part.prefix
        self.teacher = None

    def trace(self, batch: Batch, *, taps: Collection[Tap] = frozenset()) -> Trace:
        """Return the recorded answers, or refuse what is not recorded; see `Teacher.trace`."""
        self.check_taps(taps)
        rows, places = self._find(batch)
        if (places < 0).any() and self.store is not None:
            self.store.refresh()  # somebody else may have recorded them since
            places = self._places(rows.keys)
        if (places < 0).any():
            self._answer_live(batch, np.flatnonzero(places < 0), of=len(rows.keys))
            places = self._places(rows.keys)
        mask, device = self.select_inputs(batch).get("attention_mask"), _device(batch)
        assert self.store is not None  # noqa: S101 - opened by the first answer at the latest
        pooled = self.contents.pooled is not None
        stored = {tap: self.store.readings(tap, places) for tap in taps}
        readings = {
            tap: padded(tap, parts, rows, pooled=pooled).to(device, non_blocking=True)
            for tap, parts in stored.items()
        }
        return Trace(self.store.logits(places).to(device, torch.float32, non_blocking=True), mask, readings)

    # ---- a live teacher ----

    def _answer_live(self, batch: Batch, missing: Any, *, of: int) -> None:
        if self.teacher is None:
            raise CacheError(self.missing_message(len(missing), of=of))
        part = chosen(batch, missing)
        self.check_deterministic(part)
        assert self.store is not None  # noqa: S101 - opened by check_deterministic
        again = np.flatnonzero(self.missing(self.rows(part).keys))  # a damaged folder may hold them after all
        if len(again):
            self.store.hold(self.answers(chosen(part, again)))

    def before_asking(self, rows: int, *, of: int) -> str:
        """Return what is said before the first row is asked about.

        Args:
            rows: that are not recorded, each text once.
            of: all rows, each text once.
        """
        return f"the teacher answers {rows:,} of {of:,} rows, once; its answers go to {self.folder.parent}"

    def missing_message(self, rows: int, *, of: int) -> str:
        """Return what to type where rows are missing."""
        contents = "" if self.contents == Contents() else f", contents={self.contents}"
        return (
            f"{rows:,} of {of:,} rows are not recorded in {self.folder}: another text, truncation or "
            "tokenizer, or a damaged file. Record them: hfdistill.record(teacher, dataset, "
            f"folder={str(self.folder.parent)!r}{contents}), or make a new trainer with the live "
            "teacher and teacher_cache=, or CachedTeacher(folder, teacher=...) with it."
        )

    def check_deterministic(self, batch: Batch) -> None:
        """Ask the live teacher for a few rows twice, once a process, and write down what it is.

        One that answers differently the second time is refused.
        """
        if self._is_checked:
            return
        first = chosen(batch, range(min(CHECKED_ROWS, len(self.rows(batch).keys))))
        one, two = self.answers(first), self.answers(first)
        if not all(torch.allclose(one[n].double(), two[n].double(), rtol=1e-3, atol=1e-4) for n in one):
            raise CacheError(
                "The teacher gave two answers to the same rows, so neither can be recorded: it is in train "
                "mode, or draws random numbers. Call self.eval() in its trace, or hand it over as a model."
            )
        self._is_checked = True
        self._check_padding(first, one["logits"])
        if self.store is None:
            write_facts(self.folder, self._new_facts(first, one))
            self._open()

    def _check_padding(self, batch: Batch, logits: Tensor) -> None:
        """Warn of a teacher whose answer to the shortest row changes with the padding beside it."""
        mask = self._inputs(batch).get("attention_mask")
        alone = None if mask is None or mask.dim() != 2 else shortest_alone(batch, mask)
        if alone is None:
            return
        number, row = alone
        beside, without = logits[number].double(), self.answers(row)["logits"][0].double()
        moved = float((without - beside).norm() / beside.norm().clamp(min=1e-12))
        if moved > (MOVED if self.contents.precision is None else 10 * MOVED):
            logger.warning(_READS_PADDING, 100 * moved)

    def answers(self, batch: Batch, *, names: Any = None) -> dict[str, Tensor]:
        """Return the live teacher's answers as a shard holds them.

        One that is not finite is refused, by the row's name of `names`.
        """
        assert self.teacher is not None  # noqa: S101 - callers have seen to it
        weights = next(self.teacher.parameters(), None)
        device = _device(batch) if weights is None else weights.device
        batch = {n: v.to(device) if isinstance(v, Tensor) else v for n, v in batch.items()}
        rows = self.rows(batch)
        try:
            asked = self._asked(pushed(batch, self._inputs(batch), rows, padding=self._side()))
            return self._entries(asked, rows, names)
        except torch.OutOfMemoryError:
            if len(rows.keys) == 1:
                raise
        torch.accelerator.empty_cache()
        every = np.arange(len(rows.keys))
        names = every if names is None else np.asarray(names)
        parts = [self.answers(chosen(batch, part), names=names[part]) for part in np.array_split(every, 2)]
        return joined(parts)

    def _side(self) -> str:
        """Return the live teacher's side of padding: "right", unless a model needs "left"."""
        parts = () if self.teacher is None else self.teacher.parts()
        sides = {part.model_inputs.side for part in parts if isinstance(part, ModelTeacher)}
        return "left" if "left" in sides else "right"

    def _asked(self, batch: Batch) -> tuple[Trace, Tensor | None]:
        """Return the teacher's trace, and the mask that it read."""
        assert self.teacher is not None  # noqa: S101 - callers have seen to it
        precision = {"bf16": torch.bfloat16, "fp16": torch.float16, None: None}[self.contents.precision]
        cast = torch.autocast(_device(batch).type, dtype=precision, enabled=precision is not None)
        with torch.no_grad(), cast:
            taps = self.contents.taps
            trace = self.teacher.trace(batch, taps=taps) if taps else self.teacher.trace(batch)
        return trace, self._inputs(batch).get("attention_mask")

    def _entries(self, asked: tuple[Trace, Tensor | None], rows: Rows, names: Any) -> dict[str, Tensor]:
        trace, mask = asked
        width = trace.readings[min(self.contents.taps)].shape[-2] if self.contents.taps else 0
        if trace.logits.dim() != 2:
            raise CacheError(
                f"The teacher answers with logits of shape {tuple(trace.logits.shape)}, and one answer a "
                "row, (B, C), is what can be recorded: token classifiers teach live. Leave the cache out."
            )
        lengths = (rows.ends - rows.starts).tolist()
        entries = {
            "keys": torch.from_numpy(rows.keys),
            "lengths": torch.tensor(lengths, dtype=torch.int32),
            "logits": trace.logits.cpu().to(self.contents.torch_dtype),
        }
        finite = torch.isfinite(entries["logits"]).reshape(len(lengths), -1).all(1)
        for tap in self.contents.taps:
            reading = trace.readings[tap]
            reading = reading if tap.kind == "hidden" else reading.transpose(1, 2)  # (B, T, …)
            starts = [width - n if self._side() == "left" else 0 for n in lengths]
            parts = unpadded(reading, starts, lengths, mask, pooled=self.contents.pooled)
            parts = [part.cpu().to(self.contents.torch_dtype) for part in parts]
            finite &= torch.tensor([bool(torch.isfinite(part).all()) for part in parts])
            entries[column(tap)] = torch.cat(parts)
        bad = (~finite).nonzero().view(-1).tolist()
        if bad:
            shown = [i if names is None else int(names[i]) for i in bad[:5]]
            half = " in float16: keep float32" if self.contents.dtype == "float16" else ""
            raise CacheError(
                f"The teacher's answers to rows {shown} ({len(bad)} of {len(lengths)}) are not finite{half}. "
                "Nothing of them is recorded: look at its weights and at these rows, or leave precision= at "
                "None."
            )
        return entries

    # ---- what it is ----

    @property
    def accepts(self) -> Collection[str] | None:
        """Names of the columns that have a part in the answer; None where any may have."""
        if self.store is not None and (self.teacher is None or self._facts()["accepts"] is None):
            return self._facts()["accepts"]
        return None if self.teacher is None else accepted(self.teacher)

    def _inputs(self, batch: Batch) -> Batch:
        """Return the columns that have a part in the answer."""
        reads, accepts = self.select_inputs(batch), self.accepts
        return {n: v for n, v in reads.items() if n not in LABELS and (accepts is None or n in accepts)}

    def _facts(self) -> dict[str, Any]:
        assert self.store is not None  # noqa: S101 - without a teacher it is open
        return self.store.facts

    def _new_facts(self, batch: Batch, entries: dict[str, Tensor]) -> dict[str, Any]:
        assert self.teacher is not None  # noqa: S101 - callers have seen to it
        sources = {id(value): name for name, value in reversed([*batch.items()])}
        reads = {name: sources.get(id(value)) for name, value in self._inputs(batch).items()}
        renamed = {name: source for name, source in reads.items() if name != source}
        return {
            "schema": SCHEMA,
            "fingerprint": self._print,
            "contents": self.contents.plain(),
            "shapes": {n: [*v.shape[1:]] for n, v in sorted(entries.items()) if n not in ("keys", "lengths")},
            "inputs": sorted(self.teacher.inputs()),
            "accepts": self.accepts,
            "renamed": None if None in renamed.values() else (renamed and reads),
            "same_tokens": _same_tokens(self.teacher),
            "config": plain_config(self.teacher.config),
            "versions": versions_of(self.teacher),
        }


def _same_tokens(teacher: Teacher) -> bool:
    return all(part.same_tokens for part in teacher.parts())


def _device(batch: Batch) -> torch.device:
    return next((v.device for v in batch.values() if isinstance(v, Tensor)), torch.device("cpu"))
