"""A student that answers texts: as a model of PyTorch, or as what `export` made of it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig

from hfdistill.data.encode import Encoder, WordEncoder, room_for_text
from hfdistill.network.architectures import readable_length
from hfdistill.network.inputs import ModelInputs, name_padding
from hfdistill.network.label_space import class_names, in_order, short, some
from hfdistill.network.loading import load_classifier, load_tokenizer, own_device
from hfdistill.network.task import TaskKind, task_kind

logger = logging.getLogger(__name__)

_WORDS = "words"
FLOAT32 = "openvino_model.xml"
STAGES = ("stage_", "int8_stage_")
"""How the files of a student with exits begin; each stands for all stages of its format."""
Texts = Mapping[str, Sequence[Any]]
"""Columns `text`[, `text_pair`], or `tokens`, of some rows."""


class Network(Protocol):
    """A model that reads token ids; the rows of a batch need not be sorted."""

    def encode(self, texts: Texts) -> list[dict[str, list[int]]]:
        """Return the token ids of each row, and what else is read with them."""

    def logits(self, rows: Sequence[dict[str, list[int]]], *, batch_size: int) -> list[Tensor]:
        """Return each row's logits (C,), or (words, C) where words are labelled, NaN for one not read.

        Rows are answered `batch_size` at a time, in their order.
        """


@dataclass(frozen=True)
class Predictor:
    """A loaded student."""

    network: Network
    task: TaskKind
    classes: list[str]
    batch_size: int = 32

    def predict(self, texts: Texts) -> list[Tensor]:
        """Return the logits of the rows, in their order: (C,), or (words, C), NaN of words that were cut off.

        Rows of similar length are answered together.

        Raises:
            ValueError: for logits that are not finite.
        """
        rows = self.network.encode(texts)
        order = sorted(range(len(rows)), key=lambda row: -len(rows[row]["input_ids"]))
        answers = self.network.logits([rows[row] for row in order], batch_size=self.batch_size)
        return [answers[place] for place in np.argsort(order)]


def load_predictor(
    student: str | Path,
    *,
    max_length: int | None = None,
    batch_size: int = 32,
    label_names: Sequence[str] | None = None,
) -> Predictor:
    """Return a student from a Hub id or a folder, of PyTorch, ONNX or OpenVINO.

    Args:
        student: Hub id, a folder that holds a model and its tokenizer, or one that `export` wrote, of which
            the float32 network is taken, or a file of it; int8_stage_01.onnx stands for all stages in 8 bits.
        max_length: tokens per row, at most.
        batch_size: rows that are answered at once.
        label_names: names of its classes 0, 1, …; default those of its config.

    Raises:
        HubUnreachable: where the Hub gives no answer.
        OSError: where there is no such model.
        ValueError: for a student without a tokenizer, other names than classes or two classes of one name,
            and fewer than one row at once.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, and 1 or more rows are answered at once. Usual: 32.")
    exported = _exported_file(Path(student))
    network: Network
    if exported is not None:
        config = AutoConfig.from_pretrained(str(exported.parent), trust_remote_code=False)
        network = _Exported(exported, max_length)
    else:
        model = load_classifier(student, role="student")
        tokenizer = load_tokenizer(student)
        if tokenizer is None:
            raise ValueError(
                f"{str(student)!r} holds no tokenizer. Save it there: tokenizer.save_pretrained."
            )
        config = model.config
        network = _Torch(model.to(own_device()).eval(), tokenizer, max_length)
    return Predictor(network, task_kind(config), _names(config, label_names), batch_size)


def _names(config: Any, label_names: Sequence[str] | None) -> list[str]:
    names = class_names(config)
    given = names if label_names is None else [str(name) for name in in_order(label_names)]
    twice = sorted(name for name, times in Counter(given).items() if times > 1)
    if twice:
        raise ValueError(
            f"Several of the student's classes are called {twice[0]!r}, so nothing would tell their "
            f"predictions apart. Name each of the {len(names)} in the order of its number: label_names="
        )
    if len(given) != len(names):
        raise ValueError(
            f"The student has {len(names)} classes ({', '.join(names[:8])}), and label_names names "
            f"{len(given)}: {some(given) or short(label_names)}. Name each one, in a list in the order of "
            "its numbers."
        )
    return given


def _exported_file(student: Path) -> Path | None:
    if student.suffix in (".onnx", ".xml") and student.is_file():
        return student
    names = ("model.onnx", FLOAT32, "stage_01.onnx")
    files = [student / name for name in names if (student / name).is_file()]
    return files[0] if files and not (student / "model.safetensors").is_file() else None


class _Torch:
    def __init__(self, model: Any, tokenizer: Any, max_length: int | None) -> None:
        name_padding(model, tokenizer)
        self.model, self.inputs = model, ModelInputs.of(model, tokenizer)
        self.words = task_kind(model.config) == "token"
        self.limit = readable_length(model.config, max_length)

    def encode(self, texts: Texts) -> list[dict[str, list[int]]]:
        encoder = (WordEncoder if self.words else Encoder)(
            self.inputs.tokenizer,
            limit=room_for_text(self.inputs.tokenizer, self.limit, pairs="text_pair" in texts),
            token_types=self.inputs.extra_token_types,
            counts=False,
        )
        columns = {name: list(values) for name, values in texts.items()}
        if self.words:  # a word's label is its number, so that its first token is known by it
            columns["label"] = [list(range(len(row))) for row in columns["tokens"]]
        encoded = encoder(columns, list(range(len(next(iter(columns.values()))))))
        names = self.inputs.names | {"attention_mask", "labels"}
        read = {name: values for name, values in encoded.items() if name in names}
        if self.words:
            read[_WORDS] = columns["label"]
        return [dict(zip(read, row, strict=True)) for row in zip(*read.values(), strict=True)]

    def logits(self, rows: Sequence[dict[str, list[int]]], *, batch_size: int) -> list[Tensor]:
        return [answer for some in _batches(rows, batch_size) for answer in self._answer(some)]

    @torch.inference_mode()
    def _answer(self, rows: Sequence[dict[str, list[int]]]) -> list[Tensor]:
        columns = {name: [row[name] for row in rows] for name in rows[0] if name != _WORDS}
        batch = self.inputs.pad(columns, range(len(rows)))
        numbers = batch.pop("labels", None)
        batch = {name: values.to(self.model.device) for name, values in batch.items()}
        logits = self.model(**self.inputs.select(batch)).logits.float().cpu()
        if numbers is None:
            return list(_finite(logits))
        answers = [torch.full((len(row[_WORDS]), logits.shape[-1]), torch.nan) for row in rows]
        for answer, tokens, labels in zip(answers, logits, numbers, strict=True):
            answer[labels[labels >= 0]] = _finite(tokens[labels >= 0])
        return answers


class _Exported:
    """A student run by ONNX Runtime or OpenVINO, with tokenizer.json, which cuts where `export` set it.

    Of a student with exits, rows that go on are put together with those of later batches.
    """

    def __init__(self, path: Path, max_length: int | None) -> None:
        from hfdistill.exporters.onnx import OnnxModel
        from hfdistill.exporters.openvino import OpenVinoModel
        from hfdistill.exporters.stages import StagedModel

        self.model: Any
        if path.suffix == ".xml":  # float32 as the gate compared it, 8 bits as OpenVINO chooses
            self.model = OpenVinoModel(path, precision="f32" if path.name == FLOAT32 else None)
        else:
            self.model = StagedModel(path) if path.name.startswith(STAGES) else OnnxModel(path)
        self.tokenizer = Tokenizer.from_file(str(path.parent / "tokenizer.json"))
        padding = self.tokenizer.padding or {}
        self.fill = {"input_ids": padding.get("pad_id", 0), "attention_mask": 0, "token_type_ids": 0}
        self.side = padding.get("direction", "right")
        self.tokenizer.no_padding()
        cut = (self.tokenizer.truncation or {}).get("max_length")
        if max_length is not None and (cut is None or max_length < cut):
            self.tokenizer.enable_truncation(max_length)

    def encode(self, texts: Texts) -> list[dict[str, list[int]]]:
        inputs: list[Any] = list(texts["text"])
        if "text_pair" in texts:
            inputs = list(zip(inputs, texts["text_pair"], strict=True))
        encodings = self.tokenizer.encode_batch(inputs)
        columns = ((e.ids, e.attention_mask, e.type_ids) for e in encodings)
        no_token = [[value] for value in self.fill.values()]  # read as one place of padding
        return [dict(zip(self.fill, own if own[0] else no_token, strict=True)) for own in columns]

    def logits(self, rows: Sequence[dict[str, list[int]]], *, batch_size: int) -> list[Tensor]:
        batches = map(self._padded, _batches(rows, batch_size))
        if hasattr(self.model, "predict"):
            return list(_finite(self.model.predict(batches, batch_size=batch_size)[0]))
        return [answer for batch in batches for answer in _finite(self.model(**batch)["logits"].float())]

    def _padded(self, rows: Sequence[dict[str, list[int]]]) -> dict[str, Tensor]:
        """Return rows as a batch."""
        return {
            name: pad_sequence(
                [torch.tensor(row[name]) for row in rows],
                batch_first=True,
                padding_value=value,
                padding_side=self.side,
            )
            for name, value in self.fill.items()
        }


def _batches(rows: Sequence[dict[str, list[int]]], size: int) -> Iterator[Sequence[dict[str, list[int]]]]:
    """Yield rows in batches of `size`."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _finite(logits: Tensor) -> Tensor:
    if not bool(logits.isfinite().all()):
        raise ValueError("The student's logits are not finite: its weights are damaged. Load it again.")
    return logits
