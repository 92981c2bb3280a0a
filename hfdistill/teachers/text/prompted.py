"""A language model that is asked by a prompt, and scored on the names of the classes, as a teacher."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.cache_utils import DynamicLayer

from hfdistill.files.plain_data import public_name, sha256_of
from hfdistill.network.architectures import room_for
from hfdistill.network.divided import make_whole
from hfdistill.network.fingerprints import fingerprint_of
from hfdistill.network.inputs import accepted_inputs
from hfdistill.network.label_space import short
from hfdistill.network.loading import Source, loading_whole, read_tokenizer
from hfdistill.network.tokenizers import tokenizer_print
from hfdistill.teachers.text.class_names import Classes, read_classes
from hfdistill.teachers.text.embedding import as_dtype
from hfdistill.teachers.text.teacher import TextTeacher

CONTENT_FREE = ("N/A", "", "[MASK]")


class PromptedClassifier(nn.Module):
    """Scores each class by the likelihood of its name after a prompt that holds the text; see `prompted`.

    `pad` batches rows of different lengths, padded on the left.
    """

    batch_size = 32
    batch_tokens = 4096
    """Padded tokens of a forward pass."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        prompt: str,
        classes: Classes | None,
        *,
        system: str | None = None,
        chat: bool | None = None,
        content_free: Sequence[str] = CONTENT_FREE,
        cache_prefix: bool = True,
        pad: bool = True,
    ) -> None:
        super().__init__()
        written = _written(classes)
        if prompt.count("{text}") != 1:
            raise ValueError(
                f"The prompt {short(prompt)} has no single place for the text. Write {{text}} once, as in "
                "'Message: {text}\\nTopic:'."
            )
        self.model, self.tokenizer = model.requires_grad_(False).eval(), tokenizer
        self.classes, self.prompt, self.system = list(written), prompt, system
        self.chat = bool(getattr(tokenizer, "chat_template", None)) if chat is None else chat
        self.content_free = tuple(content_free)
        self._accepts = accepted_inputs(model)
        self.label = f"prompted {public_name(model.name_or_path or type(model).__name__)}"
        layers = DynamicCache(config=model.config).layers
        self._whole = all(type(layer) is DynamicLayer for layer in layers)  # no token is let go
        self.pad = pad and self._whole and "position_ids" in self._accepts  # or padding would move words
        self._listed, self.names = ", ".join(written.values()), [self._name_ids(n) for n in written.values()]
        if len(set(map(tuple, self.names))) < len(self.names) or not all(self.names):
            raise ValueError(f"Two of {short(list(written.values()))} are the same tokens. Rename one.")
        self._room = room_for(model.config, tokenizer) - max(map(len, self.names))
        self.prefix = self._common_prefix() if cache_prefix and self._whole else []
        self._prior: Tensor | None = None
        self._held: tuple[Any, list[tuple[Tensor, Tensor]]] | None = None

    def forward(self, texts: list[Any]) -> Tensor:
        """Return logits (N, C): mean log-likelihoods of the names, less those after content-free texts."""
        if self._prior is None:
            pairs = bool(texts) and not isinstance(texts[0], str)
            blanks = [(text, text) if pairs else text for text in self.content_free]
            self._prior = self._scored(blanks).mean(0) if blanks else torch.zeros(len(self.classes))
        return self._scored(texts) - self._prior

    # ---- ids ----

    def _name_ids(self, name: str) -> list[int]:
        """Return the tokens of a name as it follows the prompt."""
        spaced = not self.chat and not self.prompt[-1:].isspace()
        return list(self.tokenizer(f" {name}" if spaced else name, add_special_tokens=False)["input_ids"])

    def prompt_ids(self, text: Any) -> list[int]:
        """Return the tokens of the prompt with a text in it; a text that is too long is cut at its end."""
        ids = self._ids(text)
        while len(ids) > self._room:
            parts = [text] if isinstance(text, str) else list(text)
            longest = max(range(len(parts)), key=lambda i: len(parts[i]))
            own = self.tokenizer(parts[longest], add_special_tokens=False)["input_ids"]
            tokens_of_text = max(0, len(own) - max(1, len(ids) - self._room))
            if not own:
                raise ValueError(
                    f"The prompt alone has {len(ids)} tokens, and the model reads {self._room} before the "
                    "names of the classes. Shorten it."
                )
            parts[longest] = self.tokenizer.decode(own[:tokens_of_text])
            text = parts[0] if isinstance(text, str) else tuple(parts)
            ids = self._ids(text)
        return ids

    def _ids(self, text: Any) -> list[int]:
        first, second = (text, "") if isinstance(text, str) else text
        parts = self.prompt.replace("{classes}", self._listed).split("{text}")
        before, after = (part.replace("{text_pair}", second) for part in parts)
        content = before + first + after  # a text that holds {text} itself stays as it is
        if not self.chat:
            ids = list(self.tokenizer(content)["input_ids"])
            return ids[:-1] if ids and ids[-1] == self.tokenizer.eos_token_id else ids  # it goes on
        messages = [{"role": "user", "content": content}]
        if self.system is not None:
            messages.insert(0, {"role": "system", "content": self.system})
        written = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return list(self.tokenizer(written, add_special_tokens=False)["input_ids"])

    def _common_prefix(self) -> list[int]:
        """Return the tokens before the text, which all texts share; one fewer than agree, to be safe."""
        pairs = "{text_pair}" in self.prompt
        one, other = (self._ids((probe, probe) if pairs else probe) for probe in ("Zebra", "7 apples"))
        same = list(takewhile(lambda both: both[0] == both[1], zip(one, other, strict=False)))
        return one[: max(0, len(same) - 1)]

    # ---- scores ----

    def _scored(self, texts: list[Any]) -> Tensor:
        """Return the mean log-likelihood of each name after each text's prompt: (N, C)."""
        scores = torch.zeros(len(texts), len(self.classes))
        self.model.eval()
        ids = [self.prompt_ids(text) for text in texts]
        with torch.no_grad():
            for rows in self._batches(ids):
                scores[rows] = self._scores([ids[row] for row in rows])
        return scores

    def _batches(self, ids: list[list[int]]) -> Iterator[list[int]]:
        """Yield rows of similar length together; those that begin with the prefix are kept apart."""
        shared = [self._has_prefix(row) for row in ids]
        order = sorted(range(len(ids)), key=lambda row: (shared[row], -len(ids[row])))
        start = 0
        while start < len(order):
            first = order[start]
            size = max(1, self.batch_tokens // max(1, len(ids[first])))
            rows = [
                row
                for row in order[start : start + size]
                if shared[row] == shared[first] and (self.pad or len(ids[row]) == len(ids[first]))
            ]
            start += len(rows)
            yield rows

    def _has_prefix(self, ids: list[int]) -> bool:
        return bool(self.prefix) and len(ids) > len(self.prefix) and ids[: len(self.prefix)] == self.prefix

    def _scores(self, ids: list[list[int]]) -> Tensor:
        """Return (B, C) of rows that all begin with the prefix, or all without it."""
        shared = len(self.prefix) if self._has_prefix(ids[0]) else 0
        rest = [row[shared:] for row in ids]
        width, device = max(map(len, rest)), self.model.device
        tokens = torch.tensor([[0] * (width - len(row)) + row for row in rest], device=device)
        mask = torch.tensor(
            [[1] * shared + [0] * (width - len(row)) + [1] * len(row) for row in rest], device=device
        )
        past = self._prefix_states(len(rest)) if shared else DynamicCache(config=self.model.config)
        last = self._run(tokens, mask, past)[:, -1]  # (B, V)
        scores = torch.zeros(len(rest), len(self.names))
        for column, name in enumerate(self.names):
            likely = last.log_softmax(-1)[:, name[0]]
            if len(name) > 1:
                more = torch.tensor([name[:-1]] * len(rest), device=device)
                longer = torch.cat([mask, torch.ones_like(more)], 1)
                own = past if self._whole else copy.deepcopy(past)
                logs = self._run(more, longer, own).log_softmax(-1)  # (B, L - 1, V)
                if self._whole:
                    past.crop(1 - len(name))
                wanted = torch.tensor(name[1:], device=device).expand(len(rest), -1)
                likely = likely + logs.gather(-1, wanted[..., None]).squeeze(-1).sum(-1)
            scores[:, column] = (likely / len(name)).cpu()
        return scores

    def _run(self, tokens: Tensor, mask: Tensor, past: Any) -> Tensor:
        """Return the logits (B, T, V) in float32 of the new tokens; `past` grows by them."""
        # Transformers before 5.24 calls it past_key_values.
        name = "cache" if "cache" in self._accepts else "past_key_values"
        inputs: dict[str, Any] = {"input_ids": tokens, "attention_mask": mask, name: past}
        if "position_ids" in self._accepts:
            places = (mask.cumsum(1) - 1).clamp(min=0)
            inputs["position_ids"] = places[:, -tokens.shape[1] :]
        logits: Tensor = self.model(**inputs, use_cache=True).logits
        return logits.float()

    def _prefix_states(self, rows: int) -> Any:
        """Return the keys and values of the prefix, which is run once, repeated for each row."""
        tokens = torch.tensor([self.prefix], device=self.model.device)
        if self._held is None or self._held[0] != self.model.device:
            past = DynamicCache(config=self.model.config)
            self._run(tokens, torch.ones_like(tokens), past)
            self._held = self.model.device, [(layer.keys, layer.values) for layer in past.layers]
        fresh = DynamicCache(config=self.model.config)
        for number, (keys, values) in enumerate(self._held[1]):
            fresh.update(keys.expand(rows, *keys.shape[1:]), values.expand(rows, *values.shape[1:]), number)
        return fresh

    def fingerprint(self) -> str:
        """Return the sha256 over the model, its tokenizer and the prompt."""
        asked = [self.prompt, self.system, self.chat, self.content_free, self.names, self.classes, self._room]
        return sha256_of([fingerprint_of(self.model), tokenizer_print(self.tokenizer), asked])


def _written(classes: Classes | None) -> dict[str, str]:
    """Return the text that the model is to write for each class: its name, or its description."""
    described = read_classes(classes)
    if not isinstance(classes, Mapping):
        return {name: name for name in described}
    several = [name for name, texts in described.items() if len(texts) > 1]
    if several:
        raise ValueError(
            f"The class {short(several[0])} has {len(described[several[0]])} descriptions, and prompted asks "
            "how likely one is. Keep one of them."
        )
    return {name: texts[0] for name, texts in described.items()}


def prompted(
    model: Source,
    prompt: str,
    classes: Classes | None = None,
    *,
    system: str | None = None,
    chat: bool | None = None,
    content_free: Sequence[str] = CONTENT_FREE,
    cache_prefix: bool = True,
    tokenizer: Any = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    batch_size: int | None = None,
    cache: str | Path | None = None,
    limit: int | None = None,
    temperature: float = 1.0,
    prior: Mapping[str, float] | Sequence[float] | None = None,
    calibrate: Any = None,
) -> TextTeacher:
    """A teacher made of a causal or instruct language model, a prompt and the names of the classes.

    Nothing is generated: each class is scored by how likely its name is after the prompt,

        z_c(x) = (1/L_c) Σ_i log p(name_c,i | prompt(x), name_c,<i)  -  mean over content-free x' of the same,

    L_c the number of tokens of the name. The second part takes away what the model would say of any text
    (Zhao et al. 2021, arXiv 2102.09690, here subtracted from logarithms as in Holtzman et al. 2021, arXiv
    2104.08315). What stands before the text is run once for all rows. Rows of different lengths are padded on
    the left, with the positions they have alone.

    Args:
        model: Hub id, folder or object of a causal language model of Transformers.
        prompt: with {text}, as in "Message: {text}\\nTopic:"; {text_pair} for pairs; {classes} is replaced by
            the names.
        classes: names; or a mapping from name to what the model is to write.
        system: the system's message, where there is a chat.
        chat: whether to write the prompt by the tokenizer's chat template; None where it has one.
        content_free: texts that say nothing; () subtracts nothing.
        cache_prefix: run what stands before the text once.
        tokenizer: of a model that is given as an object.
        dtype: of the weights; None for float32, on a GPU torch.bfloat16 is usual.
        device: of the model; None leaves it where it is, and the trainer moves it to its own.
        batch_size: texts of a call; default 32.
        cache: as in `TextTeacher`, as are the following.
        limit: texts that may be asked about at most.
        temperature: divides the logits; below 1 makes length-normalised scores surer.
        prior: share of each class.
        calibrate: a few labelled rows on which both are fitted; length-normalised scores need it most.

    Raises:
        ValueError: for a prompt without {text}, or one that leaves no room for a text.

    Example:
        >>> teacher = prompted("Qwen/Qwen2.5-1.5B-Instruct", "Which topic? {classes}\\nMessage: {text}",
        ...                    ["refund", "card lost"], dtype=torch.bfloat16)  # doctest: +SKIP
    """
    if isinstance(model, (str, Path)):
        with loading_whole(model) as options:
            options["dtype"] = as_dtype(dtype) or torch.float32
            loaded = AutoModelForCausalLM.from_pretrained(str(model), **options)
        tokenizer = tokenizer or read_tokenizer(model)
    else:
        loaded = make_whole(model)
    if tokenizer is None:
        raise ValueError(
            "The model came without a tokenizer. Type tokenizer=AutoTokenizer.from_pretrained(...)."
        )
    loaded.to(device=device, dtype=as_dtype(dtype))
    asked = PromptedClassifier(
        loaded, tokenizer, prompt, classes, system=system, chat=chat, content_free=content_free,
        cache_prefix=cache_prefix,
    )  # fmt: skip
    return TextTeacher(
        asked, kind="logits", batch_size=batch_size, cache=cache, limit=limit, temperature=temperature,
        prior=prior, calibrate=calibrate,
    )  # fmt: skip
