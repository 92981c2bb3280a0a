"""A model of natural language inference and class names as a teacher."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hfdistill.files.plain_data import public_name, sha256_of
from hfdistill.network.architectures import room_for
from hfdistill.network.fingerprints import fingerprint_of
from hfdistill.network.inputs import accepted_inputs, batches_by_length, name_padding
from hfdistill.network.label_space import class_names, some
from hfdistill.network.loading import Source, load_classifier, load_tokenizer
from hfdistill.network.tokenizers import tokenizer_print
from hfdistill.teachers.text.class_names import Classes, read_classes, read_templates
from hfdistill.teachers.text.embedding import as_dtype
from hfdistill.teachers.text.teacher import TextTeacher

TEMPLATE = "This example is {}."


class ZeroShotClassifier(nn.Module):
    """Asks an NLI model whether a text entails "This example is about refunds."; see `zero_shot`."""

    batch_size = 16
    batch_tokens = 8192
    """Padded tokens of a forward pass."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        classes: Classes | None,
        *,
        templates: Sequence[str] = (TEMPLATE,),
        multi_label: bool = False,
    ) -> None:
        super().__init__()
        described = read_classes(classes, at_least=1 if multi_label else 2)
        self.model, self.tokenizer = model.requires_grad_(False).eval(), tokenizer
        self.classes, self.multi_label = list(described), multi_label
        self.templates, self._described = list(templates), described
        self.label = f"zero-shot {public_name(model.name_or_path or type(model).__name__)}"
        name_padding(model, tokenizer)
        self._accepts = accepted_inputs(model)
        self._room = room_for(model.config, tokenizer)
        names = [name.casefold() for name in class_names(model.config)]
        entailing = [i for i, name in enumerate(names) if name.startswith("entail")]
        if not entailing:
            raise ValueError(
                f"The model's classes are {some(class_names(model.config))}, and zero_shot needs one that is "
                "called entailment. Name a model of natural language inference (NLI), or give it its names: "
                "model.config.id2label = {0: 'contradiction', 1: 'neutral', 2: 'entailment'}."
            )
        against = [i for i, name in enumerate(names) if name.startswith("contra")]
        self._columns = [
            against[0] if against else (len(names) - 1 if entailing[0] == 0 else 0),
            entailing[0],
        ]

    def forward(self, texts: list[Any]) -> Tensor:
        """Return logits (N, C); see `zero_shot`."""
        if texts and not isinstance(texts[0], str):
            raise ValueError("zero_shot reads one text a row, and these are pairs. Join them to one text.")
        asked = [(template, own) for template in self.templates for own in self._described.values()]
        sentences = [template.replace("{}", name) for template, own in asked for name in own]
        scores = self._scored([(text, sentence) for text in texts for sentence in sentences])
        of_each = scores.view(len(texts), len(sentences), 2).split([len(own) for _, own in asked], dim=1)
        means = torch.stack([own.mean(1) for own in of_each])  # (templates * C, N, 2)
        means = means.view(len(self.templates), len(self.classes), len(texts), 2).transpose(1, 2)
        against, entailed = means.unbind(-1)
        if not self.multi_label:  # (templates, N, C) each
            return entailed[0] if len(entailed) == 1 else entailed.log_softmax(-1).logsumexp(0)
        sides = entailed - against
        if len(sides) == 1:
            return sides[0]
        yes = nn.functional.logsigmoid(sides).logsumexp(0)
        return yes - nn.functional.logsigmoid(-sides).logsumexp(0)

    def _scored(self, pairs: list[tuple[str, str]]) -> Tensor:
        """Return (pairs, 2): the logits against and for entailment."""
        scores = torch.zeros(len(pairs), 2)
        self.model.eval()
        for rows, batch in self._batches(pairs):
            with torch.no_grad():
                logits = self.model(**batch).logits.float().cpu()
            scores[rows] = logits[:, self._columns]
        return scores

    def _batches(self, pairs: list[tuple[str, str]]) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        """Yield pairs of similar length; of a pair that is too long the text is cut, never the class."""
        limit = self._room if self._room < 10**6 else None
        read = self.tokenizer(
            [text for text, _ in pairs],
            [sentence for _, sentence in pairs],
            truncation="only_first" if limit else False,
            max_length=limit,
            verbose=False,
        )
        columns = {name: read[name] for name in self.tokenizer.model_input_names if name in read}
        columns = {name: values for name, values in columns.items() if name in self._accepts}
        for rows in batches_by_length(list(map(len, columns["input_ids"])), tokens=self.batch_tokens):
            part = {name: [values[row] for row in rows] for name, values in columns.items()}
            batch = self.tokenizer.pad(part, return_tensors="pt")
            yield rows, {name: value.to(self.model.device) for name, value in batch.items()}

    def fingerprint(self) -> str:
        """Return the sha256 over the model, its tokenizer and the sentences."""
        asked = [list(self._described.items()), self.templates, self.multi_label]
        return sha256_of([fingerprint_of(self.model), tokenizer_print(self.tokenizer), asked])


def zero_shot(
    model: Source,
    classes: Classes | None = None,
    *,
    template: str | Sequence[str] = TEMPLATE,
    multi_label: bool = False,
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
    """A teacher made of an NLI model and the names of the classes, without any label.

    The model is asked whether the text entails the template with each class in it. One label: logits are
    those of entailment, whose softmax over the classes are the probabilities. Several labels: entailment
    against contradiction, class by class. Both as in Transformers' zero-shot pipeline (Yin, Hay, Roth 2019,
    arXiv 1909.00161). Scores of several descriptions of a class are averaged, and so are the probabilities
    under several templates.

    A text costs a forward pass for each class, description and template; pairs of similar length are batched.
    For more than about twenty classes `few_shot` is much faster, and often better.

    Args:
        model: Hub id, folder or object of an NLI model.
        classes: names, or a mapping from name to a description or several; a page takes those of its data.
        template: a sentence with {} for the class, or several.
        multi_label: whether classes are decided one by one.
        tokenizer: of a model that is given as an object.
        dtype: of the weights; None for float32.
        device: of the model; None leaves it where it is, and the trainer moves it to its own.
        batch_size: texts of a call; default 16.
        cache: as in `TextTeacher`, as are the following.
        limit: texts that may be asked about at most.
        temperature: divides the logits.
        prior: share of each class.
        calibrate: a few labelled rows on which both are fitted.

    Raises:
        ValueError: for a model without a class "entailment", or a template without {}.

    Example:
        >>> teacher = zero_shot("MoritzLaurer/deberta-v3-base-zeroshot-v2.0", ["refund", "card lost"],
        ...                     template="The customer writes about {}.")  # doctest: +SKIP
        >>> DistillationTrainer(student, args, teacher=teacher, objective=KD(), ...)  # doctest: +SKIP
    """
    loaded = load_classifier(model)
    tokenizer = tokenizer or load_tokenizer(model)
    if tokenizer is None:
        raise ValueError(
            "The model came without a tokenizer. Type tokenizer=AutoTokenizer.from_pretrained(...)."
        )
    loaded.to(device=device, dtype=as_dtype(dtype))
    asked = ZeroShotClassifier(
        loaded, tokenizer, classes, templates=read_templates(template), multi_label=multi_label
    )
    return TextTeacher(
        asked,
        kind="logits",
        multi_label=multi_label,
        batch_size=batch_size,
        cache=cache,
        limit=limit,
        temperature=temperature,
        prior=prior,
        calibrate=calibrate,
    )
