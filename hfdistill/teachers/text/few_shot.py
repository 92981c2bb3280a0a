"""An embedding model and class names, or a few labelled examples, as a teacher."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hfdistill.data.data_kinds import refuse_stream
from hfdistill.data.unlabelled_texts import normalised
from hfdistill.files.plain_data import public_name, read_json, write_json
from hfdistill.network.label_space import short, some
from hfdistill.network.loading import Source
from hfdistill.teachers.folds import assign_folds
from hfdistill.teachers.text.calibration import fit_calibration, label_ids
from hfdistill.teachers.text.class_names import Classes, read_classes, read_templates
from hfdistill.teachers.text.embedding import Embedder, Pooling
from hfdistill.teachers.text.identity import identity_of_function
from hfdistill.teachers.text.labelled_rows import as_names, read_labelled
from hfdistill.teachers.text.teacher import TextTeacher, keys_of

logger = logging.getLogger(__name__)

FACTS, WEIGHTS = "few_shot.json", "few_shot.safetensors"
TEMPLATES = ("{}", "This text is about {}.")
_STRENGTHS = (1.0, 10.0, 100.0)
_NAME_WEIGHTS = (1.0, 16.0)
_FOLDS = 4
_LIMIT = 10_000_000
Encoder = Callable[[list[Any]], Any]


class FewShotClassifier(nn.Module):
    """A linear head on sentence embeddings: z(x) = W e(x) + b.

    Args:
        encoder: texts → unit vectors (N, D).
        classes: names, in the order of the rows of `weight`.
        weight: (C, D).
        bias: (C,).
        seen: for the key of each example text, the logits of a head that has not seen it, (C,).
        name: of the encoder, where it is a function that cannot be told from another one.
    """

    batch_size = 256

    def __init__(
        self,
        encoder: Encoder,
        classes: Sequence[str],
        weight: Tensor,
        bias: Tensor,
        *,
        seen: Mapping[bytes, Tensor] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.classes, self.name = encoder, list(classes), name
        self.label = f"few-shot {public_name(str(getattr(encoder, 'name', None) or name or 'function'))}"
        self.register_buffer("weight", weight.float())
        self.register_buffer("bias", bias.float())
        self.weight: Tensor
        self.bias: Tensor
        self.seen = dict(seen or {})

    def forward(self, texts: list[Any]) -> Tensor:
        """Return logits (N, C); an example is answered by a head that was fitted without it."""
        logits = _vectors(self.encoder, texts) @ self.weight.cpu().T + self.bias.cpu()
        for row, key in enumerate(keys_of(texts)) if self.seen else ():
            own = self.seen.get(key.tobytes())
            if own is not None:
                logits[row] = own
        return logits

    def fingerprint(self) -> str:
        """Return the sha256 over encoder, classes, head and the answers to the examples."""
        digest = hashlib.sha256((self.name or identity_of_function(self.encoder)).encode())
        digest.update(json.dumps(self.classes).encode())
        for tensor in (self.weight, self.bias, *(self.seen[key] for key in sorted(self.seen))):
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def save(self, folder: str | Path) -> None:
        """Write encoder and head as safetensors and JSON; `few_shot(folder)` reads them again.

        Raises:
            ValueError: where the encoder is a function, which cannot be written.
        """
        if not isinstance(self.encoder, Embedder):
            raise ValueError(
                "The encoder is a function, and a function cannot be saved. Give few_shot the folder or id "
                "of the embedding model, or keep the code that makes the teacher."
            )
        folder, keys = Path(folder), sorted(self.seen)
        self.encoder.save(folder / "encoder")
        tensors = {"weight": self.weight.cpu().contiguous(), "bias": self.bias.cpu().contiguous()}
        if keys:
            joined = bytearray(b"".join(keys))
            tensors["keys"] = torch.frombuffer(joined, dtype=torch.uint8).view(len(keys), -1)
            tensors["seen"] = torch.stack([self.seen[key] for key in keys])
        save_file(tensors, folder / WEIGHTS)
        write_json(folder / FACTS, {"classes": self.classes})


def load_few_shot(folder: str | Path, **options: Any) -> FewShotClassifier:
    """Return the classifier that `FewShotClassifier.save` wrote; `options` are those of the `Embedder`."""
    folder = Path(folder)
    facts, tensors = read_json(folder / FACTS, limit=_LIMIT), load_file(folder / WEIGHTS)
    seen = {}
    if "keys" in tensors:
        keys = [row.numpy().tobytes() for row in tensors["keys"]]
        seen = dict(zip(keys, tensors["seen"], strict=True))
    encoder = Embedder(folder / "encoder", **options)
    return FewShotClassifier(encoder, facts["classes"], tensors["weight"], tensors["bias"], seen=seen)


def few_shot(
    encoder: Source | Encoder,
    classes: Classes | None = None,
    examples: Any = None,
    *,
    template: str | Sequence[str] = TEMPLATES,
    scale: float = 20.0,
    seed: int = 0,
    tokenizer: Any = None,
    pooling: Pooling | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    batch_size: int | None = None,
    cache: str | Path | None = None,
    name: str | None = None,
    limit: int | None = None,
    prior: Mapping[str, float] | Sequence[float] | None = None,
    calibrate: Any = None,
) -> TextTeacher:
    """A teacher made of an embedding model and the names of the classes, better with a few labelled examples.

    Without examples a text belongs to the class whose description it is most like: logits scale · cos(e(x),
    e(class)), e(class) the mean over its descriptions and templates. With examples a logistic regression
    (scikit-learn) is fitted on their embeddings and those of the class descriptions. Its strength C and the
    weight of the descriptions are chosen by cross-validation, by the likelihood of rows left out, and so is a
    temperature. Examples are answered by the head of the fold that did not see them, so that the student does
    not learn how sure a teacher is of what it knows by heart.

    Args:
        encoder: Hub id or folder of an embedding model, a model of Transformers, or a function from texts to
            vectors, such as `SentenceTransformer(...).encode`; or a folder that `FewShotTeacher.save` wrote.
        classes: names, or a mapping from name to description. None takes those of the examples.
        examples: labelled rows: a mapping from class to texts, (texts, labels), a list of (text, label), a
            dataset or DataFrame with `text` and `label`, or a file of them. None uses the class names alone
            (on a page: the labelled rows to train on, where there are any).
        template: what a description is put into; embeddings are averaged over several.
        scale: of the cosine, without examples: 1/temperature of its softmax.
        seed: of the folds.
        tokenizer: of a model that is given as an object.
        pooling: "mean", "cls" or "last"; None takes what the folder says, else "mean".
        dtype: of the encoder's weights.
        device: of the encoder.
        batch_size: texts of a call; default 256.
        cache: as in `TextTeacher`; so are `limit`, `prior` and `calibrate`.
        name: tells an encoder that is a function from others.
        limit: texts that may be asked about at most.
        prior: share of each class.
        calibrate: a few labelled rows that are not among the examples.

    Returns:
        The teacher; `teacher.save(folder)` keeps it.

    Raises:
        ValueError: for no classes, classes without an example, or labels that are not classes.

    Example:
        >>> teacher = few_shot("sentence-transformers/all-mpnet-base-v2", ["refund", "card lost"],
        ...                    {"refund": ["my money"], "card lost": ["I lost it"]})  # doctest: +SKIP
        >>> DistillationTrainer(student, args, teacher=teacher, objective=KD(), ...)  # doctest: +SKIP
    """
    refuse_stream(examples, "few_shot", why="fits its classifier to all examples")
    options: dict[str, Any] = {"batch_size": batch_size, "cache": cache, "limit": limit, "prior": prior}
    options["calibrate"] = calibrate
    if isinstance(encoder, (str, Path)) and Path(encoder, FACTS).is_file():
        if classes is not None or examples is not None:
            raise ValueError(f"{encoder} holds a fitted few-shot teacher. Leave classes and examples out.")
        return FewShotTeacher(load_few_shot(encoder, dtype=dtype, device=device), **options)
    embed: Encoder = (
        encoder
        if callable(encoder) and not hasattr(encoder, "config")
        else Embedder(encoder, tokenizer=tokenizer, pooling=pooling, dtype=dtype, device=device)
    )
    classifier = _fitted_to(
        embed, classes, examples, templates=read_templates(template), scale=scale, seed=seed, name=name
    )
    return FewShotTeacher(classifier, **options)


def _fitted_to(
    embed: Encoder,
    classes: Classes | None,
    examples: Any,
    *,
    templates: Sequence[str],
    scale: float,
    seed: int,
    name: str | None,
) -> FewShotClassifier:
    """Return the classifier of class names and examples; see `few_shot`."""
    texts, labels, named = read_labelled(examples, "examples")
    if classes is None and labels and not named:
        raise ValueError(
            f"examples are labelled by numbers, {some(sorted(map(str, set(labels))))}, and nobody knows what "
            "they mean. Name the classes 0, 1, … in this order: classes=['no', 'yes']."
        )
    described = read_classes(classes if classes is not None else named)
    own, anchors = list(described), _anchors(embed, described, templates)
    if not texts:
        return FewShotClassifier(embed, own, scale * anchors, torch.zeros(len(anchors)), name=name)
    texts, columns = _with_label(texts, as_names(labels, named), own)
    copies = _copies(texts, columns, own)
    weight, bias, answers = _fitted(_vectors(embed, texts), columns, anchors, seed=seed, copies=copies)
    keys = [key.tobytes() for key in keys_of(texts)]
    seen = {keys[row]: z for row, z in answers.items()}
    return FewShotClassifier(embed, own, weight, bias, seen=seen, name=name)


def _with_label(
    texts: Sequence[Any], labels: Sequence[Any], classes: Sequence[str]
) -> tuple[list[Any], Tensor]:
    """Return the texts that have a label, and the column of each."""
    columns = label_ids(labels, classes)
    known = columns != -100
    if not known.any():
        raise ValueError("examples has no row with a label. Give texts and their labels, or leave it out.")
    lacking = [name for i, name in enumerate(classes) if not bool((columns == i).any())]
    if lacking:
        logger.warning("no example of the classes %s: they are known by their names alone", some(lacking))
    return [text for text, own in zip(texts, known.tolist(), strict=True) if own], columns[known]


def _copies(texts: Sequence[Any], columns: Tensor, classes: Sequence[str]) -> list[int]:
    """Return for each text the place of the first one like it; warn of texts under several classes."""
    sides = [[text] if isinstance(text, str) else text for text in texts]
    first: dict[Any, int] = {}
    words = [tuple(tuple(normalised(side)) for side in both) for both in sides]
    copies = [first.setdefault(own, row) for row, own in enumerate(words)]
    given: dict[int, list[str]] = {}
    for row, column in zip(copies, columns.tolist(), strict=True):
        given.setdefault(row, []).append(classes[column])
    torn = {row: sorted(set(names)) for row, names in given.items() if len(set(names)) > 1}
    if torn:
        row, names = next(iter(torn.items()))
        logger.warning(
            "%d of %d texts are examples of several classes, such as %s of %s: the teacher will be unsure of "
            "them. Leave each under one",
            *(len(torn), len(given), short(texts[row]), some(names)),
        )
    return copies


class FewShotTeacher(TextTeacher):
    """What `few_shot` returns: a `TextTeacher` that can be saved."""

    def __init__(self, answer: FewShotClassifier, **options: Any) -> None:
        super().__init__(answer, kind="logits", **options)
        self.classifier = answer

    def save(self, folder: str | Path) -> None:
        """Write it as safetensors and JSON; see `FewShotClassifier.save`."""
        self.classifier.save(folder)


def _vectors(encoder: Encoder, texts: Sequence[Any]) -> Tensor:
    """Return unit vectors (N, D) in float32 on the CPU."""
    vectors = encoder(list(texts))
    vectors = vectors if isinstance(vectors, Tensor) else torch.from_numpy(np.asarray(vectors))
    if vectors.dim() != 2 or len(vectors) != len(texts):
        raise ValueError(
            f"The encoder made {tuple(vectors.shape)} of {len(texts)} texts, and one vector for each was "
            "expected, (N, D)."
        )
    return F.normalize(vectors.detach().float().cpu(), dim=-1)


def _anchors(encoder: Encoder, described: Mapping[str, Sequence[str]], templates: Sequence[str]) -> Tensor:
    """Return one unit vector for each class: the mean over its descriptions in all templates."""
    means = [
        _vectors(encoder, [template.replace("{}", text) for text in texts for template in templates]).mean(0)
        for texts in described.values()
    ]
    return F.normalize(torch.stack(means), dim=-1)


def _fitted(
    vectors: Tensor, labels: Tensor, anchors: Tensor, *, seed: int, copies: Sequence[int]
) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
    """Return the weight (C, D), bias (C,), and the logits of each example by a head that has not seen it."""
    folds = _folds(labels, seed=seed, copies=copies)
    if folds is None:  # one text of a class: nothing is left out to choose by
        weight, bias = _head(vectors, labels, anchors, strength=10.0, name_weight=1.0)
        return weight, bias, {}
    tried = []
    for strength in _STRENGTHS:
        for name_weight in _NAME_WEIGHTS:
            out = torch.empty(len(labels), len(anchors))
            for fold in range(int(folds.max()) + 1):
                own = folds != fold
                weight, bias = _head(
                    vectors[own], labels[own], anchors, strength=strength, name_weight=name_weight
                )
                out[~own] = vectors[~own] @ weight.T + bias
            temperature = fit_calibration(out, labels, prior=False).temperature
            out = out / temperature
            tried.append((float(F.cross_entropy(out, labels)), strength, name_weight, temperature, out))
    loss, strength, name_weight, temperature, out = min(tried, key=lambda one: one[0])
    accuracy = float((out.argmax(-1) == labels).float().mean())
    logger.info(
        "few_shot takes C=%g, descriptions weigh %g; on examples left out: accuracy %.3f, loss %.3f",
        *(strength, name_weight, accuracy, loss),
    )
    weight, bias = _head(vectors, labels, anchors, strength=strength, name_weight=name_weight)
    return weight / temperature, bias / temperature, dict(enumerate(out))


def _folds(labels: Tensor, *, seed: int, copies: Sequence[int]) -> Tensor | None:
    """Return the fold of each example, classes spread over the folds; None where no class has two texts.

    Copies of a text share a fold: a head that has seen one of them has seen the text.
    """
    first = sorted(set(copies))
    if int(torch.bincount(labels[first]).max()) < 2:
        return None
    keys = [row.to_bytes(8, "big") for row in copies]
    return torch.tensor(assign_folds(keys, labels.tolist(), folds=min(_FOLDS, len(first)), seed=seed))


def _head(
    vectors: Tensor, labels: Tensor, anchors: Tensor, *, strength: float, name_weight: float
) -> tuple[Tensor, Tensor]:
    """Return logistic regression on the examples and, weighted, the descriptions of the classes."""
    from sklearn.linear_model import LogisticRegression

    count = len(anchors)
    rows = torch.cat([vectors, anchors]).double().numpy()
    targets = torch.cat([labels, torch.arange(count)]).numpy()
    weights = np.concatenate([np.ones(len(labels)), np.full(count, name_weight)])
    fitted = LogisticRegression(C=strength, max_iter=1000).fit(rows, targets, sample_weight=weights)
    weight, bias = torch.from_numpy(fitted.coef_).float(), torch.from_numpy(fitted.intercept_).float()
    if count == 2:  # scikit-learn keeps the second class alone
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    return weight, bias
