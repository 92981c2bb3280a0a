"""Export a student, and publish it only where it answers as the PyTorch one does."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from datasets import Dataset
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedModel

from hfdistill.evaluation.measure import check_rows
from hfdistill.evaluation.models import Contender
from hfdistill.evaluation.report import PERCENT, TITLES
from hfdistill.exporters.bench import FILES, Bench
from hfdistill.exporters.onnx import OnnxModel, require_packages, to_int8, to_onnx
from hfdistill.exporters.report import ExportReport
from hfdistill.files.checkpoint import REPLACED, publish
from hfdistill.files.plain_data import public_name, write_atomically
from hfdistill.network.architectures import longest_input
from hfdistill.network.inputs import ModelInputs, name_padding
from hfdistill.network.label_space import class_names, has_names
from hfdistill.network.loading import Source, load_classifier
from hfdistill.network.task import task_kind

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
TOLERANCE = 1e-4
"""What a float32 logit may differ by, for logits of size 1 and below; larger ones in proportion."""


class QualityGateError(ValueError):
    """An exported student lost more than it may; nothing was published. `report` has the numbers."""

    def __init__(self, message: str, report: ExportReport) -> None:
        super().__init__(message)
        self.report = report


def export(
    student: Source,
    folder: str | Path,
    *,
    data: Dataset | None = None,
    teacher: Source | Contender | None = None,
    tokenizer: Any = None,
    max_drop: float = 0.5,
    int8: Literal["dynamic", "blockwise"] | None = "dynamic",
    speed: bool = True,
    max_length: int | None = None,
    label_names: Sequence[str] | None = None,
) -> ExportReport:
    """Write a student as ONNX, and prove on real rows that it still answers as it did.

    The folder holds model.onnx, model_int8.onnx, tokenizer.json, config.json, export.json, a card and the
    sha256 of each file; ONNX Runtime and `tokenizers` run it without PyTorch or this library. It appears as
    a whole, or not at all: an earlier export of that name stays until the new one has passed.

    The float32 file must give the PyTorch logits to 1e-4. The int8 one may lose `max_drop` points of
    accuracy (exact matches for several labels, a hundredth of Pearson's correlation for regression), or of
    agreement with the PyTorch student where the rows have no labels. Rows are compared in batches of 1 to 8,
    since int8 scales activations by the whole batch.

    Args:
        student: Hub id, folder or model.
        folder: where to write.
        data: rows that were not trained on: columns `text`[, `text_pair`] and `label`. Without them float32
            alone is written, compared on made-up token ids.
        teacher: Hub id, folder or model, to compare with; a `Contender` where it needs a tokenizer or label
            map of its own.
        tokenizer: the student's; else that of its folder.
        max_drop: points that may be lost.
        int8: also write a file with 8-bit weights, a quarter of the size: "dynamic" is the faster,
            "blockwise" the closer; None writes none.
        speed: time all formats.
        max_length: tokens per row, at most; tokenizer.json then cuts there.
        label_names: names of the classes 0, 1, … of models that have none (LABEL_0 …); config.json gets them.

    Returns:
        The report; `print(report.table())`.

    Raises:
        QualityGateError: too much is lost, with the numbers.
        ModuleNotFoundError: 'hfdistill[export]' is not installed.
        ValueError: no rows for int8, no fast tokenizer, or a folder that holds other things.

    Example:
        >>> export("out/student", "out/onnx", data=dev)  # doctest: +SKIP

    When to use it: on CPUs, int8 is usually several times as fast as PyTorch at batch 1 and a quarter of the
    size. When not: on GPUs, or where logits themselves matter, since int8 moves them by tenths.
    """
    require_packages()
    folder = Path(folder).resolve()  # "o/.." has no name to stage under
    check_request(folder, data=data, int8=int8, max_drop=max_drop)
    if data is not None:
        check_rows(data, "export")
    model = _on_cpu(student, "student", label_names)
    check_architecture(model)
    tokenizer = tokenizer or _tokenizer(student, "student")
    staged = _stage(folder)
    try:
        room = [n for n in (max_length, tokenizer.model_max_length, longest_input(model.config)) if n]
        models = _write(model, staged, tokenizer=tokenizer, max_length=min(room), int8=int8)
        if teacher is not None:
            models = {"teacher": _teacher(teacher, tokenizer, label_names), **models}
        bench = Bench(models, data, max_length=min(room))
        report = bench.report(staged, max_drop=max_drop, speed=speed)
        _gate(report, folder, logits=bench.largest)
        report.save(staged / "export.json")
        name = public_name(str(student if isinstance(student, (str, Path)) else folder))
        write_atomically(staged / "README.md", report.card(name))
        publish(staged, folder, run={"kind": "export", "student": name})
    finally:
        shutil.rmtree(staged.parent, ignore_errors=True)
    return report


def check_request(folder: Path, *, data: Dataset | None, int8: str | None, max_drop: float) -> None:
    """Refuse what can be refused before any work; arguments as of `export`."""
    if int8 and (data is None or len(data) == 0):
        raise ValueError(
            "int8 rounds every weight, and without rows nobody knows what that costs. Pass data= (rows that "
            "were not trained on), or int8=None."
        )
    if not max_drop >= 0:
        raise ValueError(f"max_drop is in points from 0 up, found {max_drop!r}. Usual: 0.5.")
    if Path.cwd().is_relative_to(folder.resolve()):
        raise ValueError(
            "The working folder cannot be replaced by an export. Name a new folder, such as out/onnx."
        )
    if (
        folder.exists()
        and not (folder / "export.json").is_file()
        and (not folder.is_dir() or any(folder.iterdir()))
    ):
        raise ValueError(
            f"{public_name(str(folder))} holds other things than an export. Name an empty folder."
        )


def check_architecture(model: PreTrainedModel) -> None:
    """Refuse a model that has no form as one ONNX graph of texts.

    A class of models without such a form says why in its attribute `no_onnx`.
    """
    if reason := getattr(type(model), "no_onnx", ""):
        raise ValueError(reason)
    if hasattr(model.config, "attention_window"):
        raise ValueError(
            f"A {type(model).__name__} attends in windows, into which it cuts each batch by its length; an "
            "ONNX graph has one form for all lengths. Run it in PyTorch, or export a student of BERT's kind."
        )
    if task_kind(model.config) == "token":
        raise ValueError(
            "This model labels words, and the gate compares answers to whole texts. Export it with "
            "transformers.exporters, and compare it yourself."
        )


def check_tokenizer(tokenizer: Any) -> None:
    """Refuse a tokenizer that Transformers alone can run."""
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"{type(tokenizer).__name__} has no tokenizer.json, which is what runs without Transformers. "
            "Load the fast tokenizer of this model and save it beside the weights."
        )


def _on_cpu(source: Source, role: str, label_names: Sequence[str] | None) -> PreTrainedModel:
    """Return a float32 model on the CPU; a copy of one that is given as an object."""
    model: Any = load_classifier(source, role=role)
    own: Any = copy.deepcopy(model) if model is source else model
    if not has_names(class_names(own.config)):
        load_classifier(own, label_names=label_names)
    return cast(PreTrainedModel, own.to("cpu", torch.float32).eval())


def _teacher(teacher: Source | Contender, tokenizer: Any, label_names: Sequence[str] | None) -> Contender:
    """Return the teacher on the CPU, with its own tokenizer or the student's."""
    contender = teacher if isinstance(teacher, Contender) else Contender(teacher)
    own = contender.tokenizer
    if own is None:
        own = (
            _tokenizer(contender.model, "teacher") if isinstance(contender.model, (str, Path)) else tokenizer
        )
    names = contender.label_names or label_names
    return replace(contender, model=_on_cpu(contender.model, "teacher", names), tokenizer=own)


def _tokenizer(source: Source, role: str) -> Any:
    if not isinstance(source, (str, Path)):
        raise ValueError(
            f"The {role} came without a tokenizer. Pass tokenizer=, or its folder instead of the model."
        )
    return AutoTokenizer.from_pretrained(str(source), trust_remote_code=False)


def _stage(folder: Path) -> Path:
    """Return an empty folder beside the final one; what an interrupted export left is put back or removed."""
    beside = folder.parent / f"_unfinished_{folder.name}"
    old = beside / f"{folder.name}{REPLACED}"
    if old.is_dir() and not folder.exists():
        old.rename(folder)
    shutil.rmtree(beside, ignore_errors=True)
    staged = beside / folder.name
    staged.mkdir(parents=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    return staged


def _write(
    model: PreTrainedModel, staged: Path, *, tokenizer: Any, max_length: int, int8: str | None
) -> dict[str, Contender | OnnxModel]:
    """Write the files, and give every format of the student as a model."""
    check_tokenizer(tokenizer)
    name_padding(model, tokenizer)
    reads = ModelInputs.of(model, tokenizer)
    files = onnx_files(model, staged, reads=reads, int8=int8)
    models: dict[str, Contender | OnnxModel] = {"pytorch": Contender(model, tokenizer), **files}
    model.config.save_pretrained(staged)
    alone = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    alone.enable_padding(
        pad_id=reads.pad_id,
        pad_token=tokenizer.convert_ids_to_tokens(reads.pad_id),
        pad_type_id=getattr(tokenizer, "pad_token_type_id", 0) or 0,
        direction=reads.side,
    )
    alone.enable_truncation(max_length)
    alone.save(str(staged / "tokenizer.json"))
    return models


def onnx_files(
    model: PreTrainedModel, folder: Path, *, reads: ModelInputs, int8: str | None
) -> dict[str, OnnxModel]:
    """Write model.onnx and, in 8 bits, model_int8.onnx into a folder, and give both as models.

    Args:
        model: a classifier of texts on the CPU.
        folder: which is there.
        reads: what the model reads.
        int8: the scheme, see `to_int8`; None for float32 alone.
    """
    to_onnx(model, folder / FILES["onnx"], inputs=tuple(name for name in INPUTS if name in reads.names))
    models = {"onnx": OnnxModel(folder / FILES["onnx"])}
    if int8:
        to_int8(folder / FILES["onnx"], folder / FILES["int8"], scheme=int8)
        models["int8"] = OnnxModel(folder / FILES["int8"])
    return models


def _gate(report: ExportReport, folder: Path, *, logits: float) -> None:
    """Refuse float32 that is not the model, and int8 that lost too much."""
    nothing = f"Nothing was written to {public_name(str(folder))}."
    plain, allowed = report.of("onnx"), TOLERANCE * max(1.0, logits)
    if not (plain.max_difference is not None and plain.max_difference <= allowed):
        raise QualityGateError(
            f"model.onnx differs from the PyTorch student by up to {plain.max_difference:.2g} in a logit, "
            f"where {allowed:.2g} is rounding: the exporter does not know this architecture. {nothing} "
            f"Report it with the versions {report.versions}.",
            report,
        )
    for file in report.formats:
        if file.drop is None or file.drop <= report.max_drop:
            continue
        what, before = TITLES[report.metric], report.of("pytorch").quality
        unit = "points" if report.metric in PERCENT else "hundredths"
        if before is None or file.quality is None:
            numbers = f"{file.drop:.2f} points of agreement with the PyTorch student"
        else:
            numbers = f"{file.drop:.2f} {unit} of {what} ({100 * before:.2f} → {100 * file.quality:.2f})"
        raise QualityGateError(
            f"{file.file} loses {numbers} on {report.rows:,} rows, more than max_drop={report.max_drop:g}. "
            f"It agrees with the PyTorch student on {100 * (file.agreement or 0):.1f} % of them, and a "
            f"logit moves by up to {file.max_difference:.2g}. {nothing} Allow more with max_drop, or export "
            "with int8=None (--int8 none).",
            report,
        )
