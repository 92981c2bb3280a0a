"""Sentence embeddings from an encoder of Transformers, in the folder layout of sentence-transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel

from hfdistill.files.plain_data import read_json, sha256_of, write_json
from hfdistill.network.architectures import room_for
from hfdistill.network.divided import make_whole
from hfdistill.network.fingerprints import fingerprint_of
from hfdistill.network.inputs import batches_by_length, name_padding
from hfdistill.network.loading import Source, loading_whole, read_tokenizer
from hfdistill.network.tokenizers import tokenizer_print
from hfdistill.teachers.text.codec import columns_of

Dtype = str | torch.dtype | None
Pooling = Literal["mean", "cls", "last"]
_LIMIT = 1_000_000  # bytes of a file of settings
_UNLIMITED = 1_000_000  # tokens: a tokenizer without a limit says 10³⁰
_POOLINGS: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}


def as_dtype(dtype: Dtype) -> torch.dtype | None:
    """Return a dtype of torch by its name, such as "bfloat16"; refuse any other name."""
    if not isinstance(dtype, str):
        return dtype
    value = getattr(torch, dtype, None)
    if not isinstance(value, torch.dtype) or not value.is_floating_point:
        raise ValueError(f"dtype is {dtype!r}, which is none of torch. Type float32, bfloat16 or float16.")
    return value


class Embedder(nn.Module):
    """Texts to unit vectors: e(x) = pooled hidden states / their length.

    A folder written by sentence-transformers names its pooling (`modules.json`, `1_Pooling/config.json`) and
    its longest input; that package is not needed. Of any other encoder the mean over real tokens is taken.

    Args:
        source: Hub id, folder, or an encoder (`AutoModel`) as an object.
        tokenizer: its own; found beside the weights where `source` is an id or a folder.
        pooling: "mean", "cls" (first token) or "last"; None takes what the folder says, else "mean".
        max_length: tokens of a text; None for the model's limit, and what the folder says.
        dtype: of the weights, such as torch.bfloat16 or its name; None keeps float32.
        device: where the model goes; None leaves it.
        batch_tokens: padded tokens of a forward pass. Texts are sorted by length first.

    Raises:
        ValueError: for a folder whose modules are others than Transformer, Pooling and Normalize; for an
            object without a tokenizer.
    """

    def __init__(
        self,
        source: Source,
        *,
        tokenizer: Any = None,
        pooling: Pooling | None = None,
        max_length: int | None = None,
        dtype: str | torch.dtype | None = None,
        device: str | torch.device | None = None,
        batch_tokens: int = 4096,
    ) -> None:
        super().__init__()
        if pooling not in (None, *_POOLINGS.values()):
            raise ValueError(f"pooling is {pooling!r}, which is unknown. Type 'mean', 'cls' or 'last'.")
        facts: dict[str, Any] = {}
        dtype = as_dtype(dtype)
        if isinstance(source, (str, Path)):
            facts = _folder_facts(Path(source))
            with loading_whole(source) as options:
                model = AutoModel.from_pretrained(str(source), dtype=dtype or torch.float32, **options)
            tokenizer = tokenizer or read_tokenizer(source)
        else:
            model = make_whole(source) if dtype is None else make_whole(source).to(dtype)
        if tokenizer is None:
            raise ValueError(
                f"The encoder is an object ({type(source).__name__}) and came without what reads its text. "
                "Type tokenizer=AutoTokenizer.from_pretrained(...), or give the folder."
            )
        name_padding(model, tokenizer)
        self.model = model.requires_grad_(False).eval()
        if device is not None:
            self.model.to(device)
        self.tokenizer, self.batch_tokens = tokenizer, batch_tokens
        self.pooling: Pooling = pooling or facts.get("pooling") or "mean"
        self.max_length = room_for(self.model.config, tokenizer, max_length, facts.get("max_length"))

    @property
    def name(self) -> str:
        """The id or folder that the weights came from."""
        return str(getattr(self.model, "name_or_path", "") or type(self.model).__name__)

    def forward(self, texts: Sequence[Any]) -> Tensor:
        """Return unit vectors (N, D) in float32 on the CPU, in the order of the texts (strings or pairs)."""
        ids = self._ids(texts)
        vectors = torch.zeros(len(ids), self.model.config.hidden_size)
        self.model.eval()
        for rows in batches_by_length(list(map(len, ids)), tokens=self.batch_tokens):
            vectors[rows] = self._embedded([ids[row] for row in rows])
        return vectors

    @property
    def _cut(self) -> int | None:
        """The tokens that a text is cut to; None for a tokenizer and a model without a limit."""
        return self.max_length if self.max_length < _UNLIMITED else None

    def _ids(self, texts: Sequence[Any]) -> list[list[int]]:
        if not len(texts):
            return []
        options = {"truncation": self._cut is not None, "max_length": self._cut, "verbose": False}
        return list(self.tokenizer(*columns_of(texts), **options)["input_ids"])

    def _embedded(self, ids: list[list[int]]) -> Tensor:
        width, device = max(map(len, ids)), self.model.device
        pad = self.tokenizer.pad_token_id
        rows = torch.tensor([row + [pad] * (width - len(row)) for row in ids], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids], device=device)
        with torch.no_grad():
            hidden = self.model(input_ids=rows, attention_mask=mask).last_hidden_state.float()  # (B, T, D)
        if self.pooling == "mean":
            weights = mask[..., None].float()
            pooled = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)
        elif self.pooling == "cls":
            pooled = hidden[:, 0]
        else:
            pooled = hidden[torch.arange(len(ids)), mask.sum(1) - 1]
        return F.normalize(pooled, dim=-1).cpu()

    def save(self, folder: Path) -> None:
        """Write weights, tokenizer and pooling in the layout of sentence-transformers."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
        modules = [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(kinds)
        ]
        pooling = {name: own == self.pooling for name, own in _POOLINGS.items()}
        pooling["word_embedding_dimension"] = self.model.config.hidden_size
        written = {
            "modules.json": modules,
            "1_Pooling/config.json": pooling,
            "sentence_bert_config.json": {"max_seq_length": self._cut, "do_lower_case": False},
        }
        for name, content in written.items():
            write_json(folder / name, content)

    def fingerprint(self) -> str:
        """Return the sha256 over weights, tokenizer, pooling and length."""
        settings = [self.pooling, self.max_length]
        return sha256_of([fingerprint_of(self.model), tokenizer_print(self.tokenizer), settings])


def _folder_facts(folder: Path) -> dict[str, Any]:
    """Return the pooling and the longest input that sentence-transformers wrote beside the weights."""
    listed = folder / "modules.json"
    if not listed.is_file():
        return {}
    modules = read_json(listed, limit=_LIMIT)
    kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
    odd = [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]
    if odd or kinds[:1] != ["Transformer"] or modules[0]["path"] not in ("", "0_Transformer"):
        raise ValueError(
            f"{folder.name} is a sentence-transformers model of the modules {', '.join(kinds)}, and only "
            "Transformer, Pooling and Normalize are read. Give a function of your own: "
            "few_shot(SentenceTransformer(...).encode, classes, ...)."
        )
    facts: dict[str, Any] = {}
    settings = folder / "sentence_bert_config.json"
    if settings.is_file():
        facts["max_length"] = read_json(settings, limit=_LIMIT).get("max_seq_length")
    place = next((m["path"] for m, kind in zip(modules, kinds, strict=True) if kind == "Pooling"), None)
    if place is not None:
        pooling = read_json(folder / place / "config.json", limit=_LIMIT)
        facts["pooling"] = _pooling_of(pooling, folder)
    return facts


def _pooling_of(config: dict[str, Any], folder: Path) -> Pooling:
    chosen = [name for name, value in config.items() if name.startswith("pooling_mode") and value is True]
    if "pooling_mode" in config:  # as newer versions write it
        mode, ends = str(config["pooling_mode"]), {"mean": "_tokens", "cls": "_token"}
        chosen = [f"pooling_mode_{mode}{ends.get(mode, '')}"]
    if len(chosen) != 1 or chosen[0] not in _POOLINGS:
        raise ValueError(
            f"{folder.name} pools by {', '.join(chosen) or 'nothing known'}; mean, cls and last are known. "
            "Type pooling='mean', or give a function of your own."
        )
    return _POOLINGS[chosen[0]]
