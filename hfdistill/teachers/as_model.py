"""`TeacherAsModel` wraps a teacher as a model: what measures models can then measure it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hfdistill.network.tokenizers import difference
from hfdistill.network.trace import Trace
from hfdistill.teachers.base import ModelTeacher, Teacher
from hfdistill.teachers.cache.teacher import CachedTeacher
from hfdistill.teachers.peer_and_ema import EMATeacher, Peer
from hfdistill.teachers.text.teacher import AskedFunction, TextAnswers

_ASKED = (AskedFunction, TextAnswers)


def as_model(teacher: Teacher) -> Any:
    """Return the model whose logits are a teacher's answers, else the teacher as a model; see there."""
    of_one_forward = (ModelTeacher.trace, Peer.trace, EMATeacher.trace)
    return teacher.model if type(teacher).trace in of_one_forward else TeacherAsModel(teacher)


class TeacherAsModel(nn.Module):
    """A teacher of several models with one tokenizer, one that is asked about texts, or one that answers by
    code of its own, as a single model.

    Raises:
        ValueError: for a teacher that does not name its classes, that answers from disk or has no
            parameters, or whose parts read different tokens.
    """

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.name_or_path = getattr(teacher, "label", None) or type(teacher).__name__
        parts = teacher.parts()
        self.is_timed = not any(isinstance(part, _ASKED) for part in parts)  # a look-up's speed says nothing
        recorded = [part for part in teacher.modules() if isinstance(part, CachedTeacher)]
        models = [part for part in parts if not isinstance(part, _ASKED)]
        if not all(isinstance(part, TextAnswers) for part in recorded) or not all(map(_has_weights, models)):
            raise ValueError(
                f"{self.name_or_path} answers from disk or has no parameters, so its size and speed say "
                "nothing. Measure the models that its answers come from."
            )
        if teacher.config is None:
            raise ValueError(
                f"{self.name_or_path} does not name its classes. Give it a config with id2label, or measure "
                "its models one by one."
            )
        one: Any = parts[0].tokenizer
        for other in (part.tokenizer for part in parts):
            if (one is None) != (other is None) or difference(one, other) is not None:
                raise ValueError(
                    f"The parts of this {self.name_or_path} read different tokens, and measure gives each "
                    "model one kind. Measure its parts one by one."
                )
        self.teacher, self.config, self.tokenizer = teacher, teacher.config, one

    @property
    def device(self) -> torch.device:
        """The device of its first model."""
        return next((weights.device for weights in self.parameters()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of its first model."""
        return next((weights.dtype for weights in self.parameters()), torch.float32)

    def bind_tokenizer(self, tokenizer: Any) -> None:
        """Tell each part which tokenizer makes its rows, where it has none of its own."""
        for part in self.teacher.parts():
            part.bind_tokenizer(part.tokenizer or tokenizer)

    def networks(self) -> list[nn.Module]:
        """Return the models that it is made of, those that a function about texts asks among them."""
        networks: list[nn.Module] = []
        for part in self.teacher.parts():
            asked = isinstance(part, _ASKED)
            own = [each for each in part.modules() if isinstance(each, PreTrainedModel)] if asked else []
            networks += own if asked else [getattr(part, "model", part)]
        return networks

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Trace:
        """Return the teacher's answer, its columns under the names that each part reads."""
        batch = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        known = {name: value for name, value in batch.items() if value is not None}
        prefixes = {"", *(part.prefix for part in self.teacher.parts())}
        return self.teacher.trace({prefix + name: v for prefix in prefixes for name, v in known.items()})


def _has_weights(part: Teacher) -> bool:
    return any(True for _ in part.parameters())
