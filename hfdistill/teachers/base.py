"""Teachers: anything that turns a batch into a Trace."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from hfdistill.pretrained import load_classifier
from hfdistill.trace import Batch, Tap, Trace, accepted_inputs, run


class Teacher(nn.Module):
    """Anything that turns a batch into a Trace. A subclass needs `trace(batch)` alone.

    Where the objective looks inside the teacher, it is asked for `trace(batch, taps=…)`.

    Example:
        >>> import torch
        >>> class Coin(Teacher):
        ...     '''Knows nothing, and says so.'''
        ...     def trace(self, batch):
        ...         return Trace(logits=torch.zeros(len(batch["input_ids"]), 2))
    """

    config: Any = None
    """The config that names its classes (id2label); None where the order is the student's by construction."""

    same_tokens: bool = True
    """False where it reads other tokens than the student: terms that compare token by token then refuse."""

    def trace(self, batch: Batch, *, taps: Collection[Tap] = frozenset()) -> Trace:
        """The teacher's view of a batch: logits (B, C), and readings of the taps, without a graph.

        Args:
            batch: what the collator made, without labels, on the run's device.
            taps: what to read inside; none for objectives on logits.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a `trace(batch)` that returns a Trace.")

    def reads(self, batch: Batch) -> Batch:
        """The batch as this teacher's own model takes it: its token ids under the names of a forward.

        The student's columns, unless the teacher has a tokenizer of its own.
        """
        return batch

    def inputs(self) -> frozenset[str]:
        """Names of the batch columns it reads beside the student's, so that they are not dropped."""
        return frozenset()

    def fingerprint(self) -> str:
        """Tells one teacher from another when a run is resumed."""
        return type(self).__name__


class ModelTeacher(Teacher):
    """A frozen model: in `eval()` and without grad at every forward, whatever happened to it in between.

    Args:
        model: a classifier, or any module whose output has logits. It is frozen in place.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.requires_grad_(False).eval()
        self.config = getattr(model, "config", None)
        self._accepts = accepted_inputs(model)

    def trace(self, batch: Batch, *, taps: Collection[Tap] = frozenset()) -> Trace:
        """One forward pass; see `Teacher.trace`."""
        self.model.eval()
        with torch.no_grad():
            return run(self.model, batch, accepts=self._accepts, taps=taps)

    def inputs(self) -> frozenset[str]:
        """The arguments of the model's forward."""
        return self._accepts

    def fingerprint(self) -> str:
        """sha256 over config and weights."""
        digest = hashlib.sha256()
        if self.config is not None:
            plain = self.config.to_dict() if hasattr(self.config, "to_dict") else vars(self.config)
            settings = {name: value for name, value in plain.items() if name[0] != "_"}
            settings.pop("transformers_version", None)  # who wrote the file, not what the teacher says
            digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
        for name, value in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return digest.hexdigest()


def as_teacher(source: str | Path | PreTrainedModel | nn.Module | Teacher) -> Teacher:
    """A Teacher from an id, a path, a model, or itself.

    Raises:
        TypeError: for anything else.
    """
    if isinstance(source, Teacher):
        return source
    if isinstance(source, (str, Path)):
        return ModelTeacher(load_classifier(source))
    if isinstance(source, nn.Module):
        return ModelTeacher(source)
    raise TypeError(
        f"teacher is a Hub id, a path, a model or a hfdistill.Teacher; found {type(source).__name__}. "
        "Type teacher='textattack/bert-base-uncased-SST-2' or the folder of a fine-tuned model."
    )
