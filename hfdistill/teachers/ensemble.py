"""Several teachers that answer as one."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hfdistill.files.plain_data import as_python, sha256_of
from hfdistill.network import label_space as spaces
from hfdistill.network import task as tasks
from hfdistill.network.trace import Batch, Tap, Trace
from hfdistill.objectives.layers import at_least_float32
from hfdistill.teachers.base import Teacher, TeacherOfSeveral, as_teacher

Member = str | Path | nn.Module
Weighing = Literal["confidence", "entropy"]


class Ensemble(TeacherOfSeveral):
    """The weighted mean of what several teachers say: p = Σ_k w_k softmax(z_k/T), logits T·log p + c.

    Multi-label: the mean of sigmoid(z_k/T) per class; regression: of the values. c is the same for every
    class (Σ_k w_k T·logsumexp(z_k/T)), so that members who agree give back their own logits, and
    softmax(logits/T) is exactly p. Probabilities are averaged, not logits: then the gradient of KD is the
    mean of the members' own. For that to hold at KD's temperature, set `temperature` to it; at 1 the average
    is that of the members' plain answers, which KD softens afterwards. A high temperature comes near the mean
    of centred logits.

    Weights per row, K members, from their plain answers (temperature 1):

    - "entropy": w_k = (1 - H_k/Σ_j H_j)/(K-1), H_k the entropy of member k's answer (multi-label: the mean
      over classes). Who is sure counts more, right or wrong. EBKD in the code of Zhang et al. 2022, here made
      to sum to 1.
    - "confidence": w_k = (1 - exp(CE_k)/Σ_j exp(CE_j))/(K-1), CE_k the cross-entropy with the gold label
      (CA-MKD, Zhang, Chen, Wang 2022, arXiv 2201.00007; multi-label: the mean over known classes). Who is
      right counts more. Rows without a label take "entropy".

    Use it where several fine-tuned models of one task are at hand, of whatever architecture: members need
    neither the same tokenizer nor the same order of classes, which are matched by name to the first member's.
    Each member runs at every step and stays in memory; a member may be any `Teacher`, also one that replays
    recorded answers. Not for members who know different classes.

    Args:
        members: Hub ids, paths, models or Teachers; as a mapping, by name.
        weights: None for equal ones, one number per member, "confidence" or "entropy".
        temperature: T at which probabilities are averaged.
        features: the member that terms on layers look into, by name or number. None: such terms are refused.

    Raises:
        ValueError: at construction, without members, for unfit weights, or `features` that name no member.
        LabelSpaceError: at construction, for members of different tasks or classes, naming both.

    Example:
        >>> import torch
        >>> class Says(Teacher):
        ...     def __init__(self, *logits):
        ...         super().__init__()
        ...         self.logits = torch.tensor([logits])
        ...     def trace(self, batch):
        ...         return Trace(self.logits)
        >>> both = Ensemble([Says(0.0, 2.0), Says(1.0, 0.0)], weights=[3, 1])
        >>> both.trace({}).logits.softmax(-1)
        tensor([[0.2722, 0.7278]])
    """

    def __init__(
        self,
        members: Sequence[Member] | Mapping[str, Member],
        *,
        weights: Sequence[float] | Weighing | None = None,
        temperature: float = 1.0,
        features: str | int | None = None,
    ) -> None:
        super().__init__()
        if isinstance(members, (str, Path)):
            raise ValueError(
                f"An Ensemble has several members, found {members!r}. Type Ensemble([one, another])."
            )
        sources = list(members.values()) if isinstance(members, Mapping) else list(members)
        self.names = (
            list(members) if isinstance(members, Mapping) else [_name(m, i) for i, m in enumerate(sources)]
        )
        weights, temperature = as_python(weights), as_python(temperature)
        self.weights = _checked_weights(weights, len(sources))
        if not (isinstance(temperature, (int, float)) and 0 < temperature < math.inf):
            raise ValueError(
                f"Ensemble averages at a temperature above 0, found {temperature!r}. Usual: 1, or KD's."
            )
        self.temperature = float(temperature)
        self.members = nn.ModuleList([as_teacher(member) for member in sources])
        self.refuse_changing("an Ensemble's members do not")
        self.features = None if features is None else self._number(features)
        self._match_members()
        self.wants_labels = weights == "confidence" or any(m.wants_labels for m in self.made_of())

    def made_of(self) -> Sequence[Teacher]:
        """Return the members."""
        return list(self.members)  # type: ignore[arg-type]

    def trace(self, batch: Batch, *, taps: Collection[Tap] = frozenset()) -> Trace:
        """Return the mean of the members' answers; readings are those of the member named by `features`."""
        if taps and self.features is None:
            raise ValueError(_NOT_INSIDE)
        traces = [
            member.trace(own, taps=taps) if taps and k == self.features else member.trace(own)
            for k, (member, own) in enumerate(zip(self.made_of(), self._batches(batch), strict=True))
        ]
        logits = torch.stack(
            [
                at_least_float32(trace.logits if order is None else trace.logits[..., order])
                for trace, order in zip(traces, self._orders, strict=True)
            ]
        )  # (K, B, C)
        view = traces[self.features or 0]
        mean = self._mean(logits, self.weigh(logits, batch.get("labels")))
        return Trace(logits=mean, attention_mask=view.attention_mask, readings=view.readings)

    def weigh(self, logits: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return each member's weight on each row: (K, B), summing to 1 over members.

        Args:
            logits: (K, B, C), classes in the first member's order.
            labels: (B,) or (B, C), in that order; missing ones are -100.
        """
        if not isinstance(self.weights, str):
            numbers = logits.new_tensor(self.weights)
            return numbers.view(-1, *[1] * (logits.dim() - 2)).expand(logits.shape[:-1])
        task = self._task_of(logits)
        weights = _away_from(_entropies(logits, task))
        if self.weights == "confidence" and labels is not None:
            if task == "token":  # each token is a row
                logits, labels, task = logits.flatten(1, 2), labels.clamp(min=-100).flatten(), "single_label"
            losses = torch.stack([tasks.row_losses(z, labels, task) for z in logits])  # (K, B, 2)
            known = losses[0, :, 1] > 0
            errors = losses[..., 0] / losses[..., 1].clamp(min=1)
            right = _away_from(errors.softmax(0)).view_as(weights)
            weights = torch.where(known.view(weights.shape[1:]), right, weights)
        return weights

    def select_inputs(self, batch: Batch) -> Batch:
        """Return the batch as all its members take it.

        Raises:
            ValueError: where they have different tokenizers, so that no one reading stands for all.
        """
        if len({part.prefix for part in self.parts()}) > 1:
            raise ValueError(
                "The members of this Ensemble read different tokens, so one column of ids does not say what "
                "they read. Record each member on its own, and make an Ensemble of the recorded ones."
            )
        return self.made_of()[0].select_inputs(batch)

    def embedders(self) -> Sequence[nn.Module]:
        """Return those of its members; none where one of them has none."""
        each = [member.embedders() for member in self.made_of()]
        return [model for models in each for model in models] if all(each) else ()

    def inspectable(self) -> Teacher | None:
        """Return the member that `features` names."""
        return None if self.features is None else self.made_of()[self.features].inspectable()

    def fingerprint(self) -> str:
        """Return the sha256 over the members' fingerprints and how they are averaged."""
        members = [member.fingerprint() for member in self.made_of()]
        return sha256_of([members, self.weights, self.temperature, self.features])

    def _number(self, name: str | int) -> int:
        number = self.names.index(name) if name in self.names else name
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < len(self.names):
            raise ValueError(
                f"features={name!r} names no member. Choose one of {', '.join(map(repr, self.names))}, or a "
                f"number from 0 to {len(self.names) - 1}."
            )
        return number

    def _match_members(self) -> None:
        """Fix the task, and each member's columns in the order of the first member that names its classes."""
        self._orders: list[list[int] | None] = [None] * len(self.names)
        named = [(k, member.config) for k, member in enumerate(self.made_of()) if member.config is not None]
        self._task: tasks.TaskKind | None = None
        if named:
            first, self.config = named[0]
            self._task = tasks.task_kind(self.config)
        for k, config in named[1:]:
            try:
                spaces.check_same_task(self.config, config)
                self._orders[k] = spaces.match_labels(self.config, config)
            except spaces.LabelSpaceError as error:
                here, there = (
                    f"{self.names[i]} ({tasks.task_kind(c)}: {', '.join(spaces.class_names(c)[:6])})"
                    for i, c in ((first, self.config), (k, config))
                )
                raise spaces.LabelSpaceError(
                    f"The members {here} and {there} do not answer the same question, so there is no mean of "
                    "their answers. Leave one out; where only the names differ, give it the other's: "
                    "model.config.id2label = {0: ..., 1: ...}."
                ) from error
        if isinstance(self.weights, str) and self._task == "regression":
            raise ValueError(
                f"weights={self.weights!r} reads probabilities, and these members answer with one value "
                "(regression). Leave weights at None, or give numbers."
            )

    def _batches(self, batch: Batch) -> list[Batch]:
        """Return each member's batch: labels for those alone who want them, in the order of their classes."""
        plain = {name: value for name, value in batch.items() if name != "labels"}
        if "labels" not in batch:
            return [plain] * len(self.names)
        return [
            {**plain, "labels": spaces.in_order_of(batch["labels"], order)} if member.wants_labels else plain
            for member, order in zip(self.made_of(), self._orders, strict=True)
        ]

    def _task_of(self, logits: Tensor) -> tasks.TaskKind:
        return self._task or ("regression" if logits.shape[-1] == 1 else "single_label")

    def _mean(self, logits: Tensor, weights: Tensor) -> Tensor:
        """Return (B, C) out of (K, B, C) and (K, B)."""
        task, weights = self._task_of(logits), weights.unsqueeze(-1)
        if task == "regression":
            return (weights * logits).sum(0)
        logits, parts = logits / self.temperature, weights.log()
        if task == "multi_label":
            yes, no = ((parts + F.logsigmoid(side)).logsumexp(0) for side in (logits, -logits))
            return self.temperature * (yes - no)
        level = (weights * logits.logsumexp(-1, keepdim=True)).sum(0)  # (B, 1)
        return self.temperature * ((parts + logits.log_softmax(-1)).logsumexp(0) + level)


_NOT_INSIDE = (
    "Terms of the objective look inside the teacher, and an Ensemble has several insides. Name the member "
    "that they look into, as in Ensemble(members, features=0), or use terms on logits, such as KD()."
)


def _name(member: Any, number: int) -> str:
    return str(member) if isinstance(member, (str, Path)) else f"number {number} ({type(member).__name__})"


def _checked_weights(weights: Any, members: int) -> list[float] | Weighing:
    """Return numbers that sum to 1, or the name of a rule."""
    if members == 0:
        raise ValueError("An Ensemble needs members, found none. Type Ensemble([one, another]).")
    if weights is None:
        return [1 / members] * members
    if isinstance(weights, str):
        if weights not in ("confidence", "entropy") or members < 2:
            raise ValueError(
                f"weights={weights!r} of {members} member(s). Choose 'confidence' or 'entropy' for two or "
                "more, numbers, or None for equal weights."
            )
        return weights  # type: ignore[return-value]
    listed = list(weights) if isinstance(weights, Iterable) and not isinstance(weights, Mapping) else []
    try:
        numbers = [float(weight) for weight in listed]
    except (TypeError, ValueError):
        numbers = []
    if not (len(numbers) == members and all(0 <= w < math.inf for w in numbers) and any(numbers)):
        raise ValueError(
            f"weights={weights!r} for {members} members: give one number from 0 up for each, not all 0."
        )
    return [weight / sum(numbers) for weight in numbers]


def _entropies(logits: Tensor, task: tasks.TaskKind) -> Tensor:
    """Return (K, B): of each answer the entropy, or the mean of those of its classes."""
    if task == "multi_label":
        yes, no = F.logsigmoid(logits), F.logsigmoid(-logits)
        return -(yes.exp() * yes + no.exp() * no).mean(-1)
    logs = logits.log_softmax(-1)
    return -(logs.exp() * logs).sum(-1)


def _away_from(amounts: Tensor) -> Tensor:
    """Return weights (K, B), (1 - share)/(K-1): the larger a share, the less; equal where all are 0."""
    total = amounts.sum(0)
    shares = torch.where(
        total > 0, amounts / total.clamp(min=torch.finfo(amounts.dtype).tiny), 1 / len(amounts)
    )
    return (1 - shares) / (len(amounts) - 1)
