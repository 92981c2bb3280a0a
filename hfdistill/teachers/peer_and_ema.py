"""Teachers that change while they teach: a peer that learns too, and the student's own average."""

from __future__ import annotations

import copy
import logging
from collections.abc import Collection
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import PreTrainedModel

from hfdistill.files.plain_data import as_python
from hfdistill.network.divided import whole_parameters
from hfdistill.network.inputs import ModelInputs
from hfdistill.network.loading import Source, load_classifier
from hfdistill.network.trace import Batch, Tap, Trace, run
from hfdistill.teachers.base import ModelTeacher, Teacher

logger = logging.getLogger(__name__)


class Peer(Teacher):
    """A second student that learns beside the first, each from the other's logits.

    L_student = CE(y, p_s) + KL(p_p ‖ p_s) and L_peer = CE(y, p_p) + KL(p_s ‖ p_p) at T = 1, the other's
    logits held fixed; both from one forward pass of each, and one backward serves both. This is what a run
    with a Peer and without `objective=` learns by.

    Zhang, Xiang, Hospedales, Lu 2018 (deep mutual learning), arXiv 1706.00384: two networks, updated
    together.

    The peer runs in train mode, its own dropout on. Its parameters have the student's weight decay rules,
    are clipped by `max_grad_norm` apart from it, and are averaged over processes. Each checkpoint holds it,
    and `save_model` leaves it in `output_dir/peer`, a plain Transformers model. Its parts of the loss are
    logged as `loss_peer_<name>`; `loss` is the sum of both. `eval_loss` is the student's alone.

    Use it where no larger teacher is to be had. Both must start from different weights: the same ones would
    have nothing to tell each other. Where there is a good teacher it teaches more, for half the memory.

    Args:
        model: a classifier, as a model, an id or a path; any architecture that reads the student's tokens.
            It is trained in place.
        objective: what the peer learns by, terms on logits; None is a copy of the run's objective.

    Raises:
        TypeError: where the model is none of Transformers.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> Peer(BertForSequenceClassification(BertConfig(num_hidden_layers=2, hidden_size=24))).learns
        True
    """

    learns: ClassVar[bool] = True
    saved_as: ClassVar[str] = "peer"

    def __init__(self, model: Source, *, objective: nn.Module | None = None) -> None:
        super().__init__()
        model = load_classifier(model, role="peer")
        if not isinstance(model, PreTrainedModel):
            raise TypeError(
                f"A Peer is saved as a Transformers model, found {type(model).__name__}. Give a classifier, "
                "its id or its path, as in Peer(shrink(other, layers=3))."
            )
        self.model = model
        self.config: Any = model.config
        self.objective = objective
        self.model_inputs = ModelInputs.of(model)

    def trace(self, batch: Batch, *, taps: Collection[Tap] = frozenset()) -> Trace:
        """Return one forward pass: with a graph in train mode, else in evaluation mode."""
        self.model.train(torch.is_grad_enabled())
        return run(self.model, batch, accepts=self.model_inputs, taps=taps)

    def bind_tokenizer(self, tokenizer: Any) -> None:
        """Fix which columns its model reads: those that the student's tokenizer makes."""
        self.model_inputs = ModelInputs.of(self.model, tokenizer)

    def inputs(self) -> frozenset[str]:
        """Return the arguments of the model's forward."""
        return self.model_inputs.names

    def fingerprint(self) -> str:
        """Return architecture and objective: the weights change at every step."""
        names = ("model_type", "num_hidden_layers", "hidden_size", "num_labels", "shrunk_from")
        shape = {name: getattr(self.config, name, None) for name in names}
        return f"Peer({shape}, objective={self.objective})"


class EMATeacher(Teacher):
    """The student's own past: the exponential moving average of its weights teaches it.

    θ' ← d_t·θ' + (1 - d_t)·θ after each optimizer step t = 1, 2, …, with d_t = min(d, 1 - 1/(t + 1)). It
    starts as a copy of the student; buffers are copied. While t < 1/(1 - d), θ' is the plain mean of the
    weights so far, so that a short run forgets its start, too.

    Tarvainen and Valpola 2017 (mean teacher), arXiv 1703.01780, whose code has the same d_t. They weigh the
    consistency term from 0 upwards, since a young average knows nothing, and use it on unlabelled rows too:
    without `objective=` the run learns by `CrossEntropy() + Linear(0, 1) * KD(temperature=1)`. A run whose
    average still holds more than 5 % of the weights that it began with at its end is warned.

    It needs no second set of weights to download and answers in evaluation mode, without dropout. Each
    checkpoint holds it, and `save_model` leaves it in `output_dir/ema`, a plain Transformers model, which is
    often better than the student itself. Where a larger teacher exists, that one knows more.

    Args:
        decay: d in [0, 1): about 1 / (1 - d) steps are averaged. 0.999 for runs of many thousand steps, less
            for shorter ones.
        warmup: False for d_t = d from the first step on.

    Raises:
        ValueError: for a decay outside [0, 1).

    Example:
        >>> EMATeacher(decay=0.99).decay_at(3)
        0.75
    """

    saved_as: ClassVar[str] = "ema"
    ripens: ClassVar[bool] = True

    def __init__(self, *, decay: float = 0.999, warmup: bool = True) -> None:
        super().__init__()
        decay = as_python(decay)
        if isinstance(decay, bool) or not isinstance(decay, (int, float)) or not 0 <= decay < 1:
            raise ValueError(f"EMATeacher needs a decay from 0 to below 1, found {decay!r}. Usual: 0.999.")
        self.decay, self.warmup = decay, warmup
        self.frozen: ModelTeacher | None = None
        self._rows_of: Any = None

    @property
    def model(self) -> PreTrainedModel:
        """The average, once the run has a student.

        Raises:
            RuntimeError: before that.
        """
        return self._started().model

    def decay_at(self, step: int) -> float:
        """Return the decay after `step` optimizer steps, counted from 1."""
        return min(self.decay, 1 - 1 / (step + 1)) if self.warmup else self.decay

    def share_of_start(self, steps: int) -> float:
        """Return the share of the first weights in the average after `steps` steps: Π_t d_t."""
        if not self.warmup:
            return float(self.decay**steps)
        switch = min(steps, int(self.decay / (1 - self.decay) + 1e-9))  # up to here d_t = t / (t + 1)
        return float(self.decay ** (steps - switch) / (switch + 1))

    def before_training(self, *, steps: int) -> None:
        """Warn of a run that is too short for the decay, but not of a trial of fewer than 20 steps."""
        share = self.share_of_start(steps)
        if steps >= 20 and share > 0.05:
            logger.warning(
                "At the end of this run of %d steps %.0f %% of EMATeacher's average are still the weights "
                "that the student began with: it teaches less than the student knows. Train longer, "
                "or type EMATeacher(decay=%.3g).",
                *(steps, 100 * share, 1 - 5 / steps),
            )

    def bind_tokenizer(self, tokenizer: Any) -> None:
        """Take note of the tokenizer that makes the student's rows."""
        self._rows_of = tokenizer

    def bind_student(self, student: nn.Module) -> None:
        """Begin as a copy of the student, a plain Transformers model; one with a PEFT adapter is refused."""
        if not isinstance(student, PreTrainedModel):
            raise TypeError(
                f"EMATeacher averages and saves a Transformers model, found {type(student).__name__}. Train "
                "the model itself, or name another teacher."
            )
        self.frozen = ModelTeacher(copy.deepcopy(student))
        self.frozen.model_inputs = ModelInputs.of(student, self._rows_of)
        self.config = self.frozen.config

    def trace(self, batch: Batch, *, taps: Collection[Tap] = frozenset()) -> Trace:
        """Return one forward pass of the average, in evaluation mode and without a graph."""
        return self._started().trace(batch, taps=taps)

    @torch.no_grad()
    def after_step(self, student: nn.Module, *, step: int) -> None:
        """Move towards the student."""
        weight = 1 - self.decay_at(step)
        for own, theirs in zip(self.model.parameters(), whole_parameters(student), strict=True):
            own.lerp_(theirs.to(own.dtype), weight)
        for buffer, its in zip(self.model.buffers(), student.buffers(), strict=True):
            buffer.copy_(its)

    def fingerprint(self) -> str:
        """Return how it moves: the weights change at every step."""
        return f"EMATeacher(decay={self.decay}, warmup={self.warmup})"

    def _started(self) -> ModelTeacher:
        if self.frozen is None:
            raise RuntimeError(
                "This EMATeacher has no student yet: the trainer tells it by bind_student(student)."
            )
        return self.frozen
