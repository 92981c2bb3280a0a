"""Export a student, and publish it only where it answers as the PyTorch one does."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Collection, Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from datasets import Dataset
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from hfdistill.evaluation.measure import check_rows
from hfdistill.evaluation.models import Contender
from hfdistill.evaluation.report import PERCENT, TITLES
from hfdistill.exporters.bench import FILES, Bench, Runtime, files_mb
from hfdistill.exporters.mixed import SENSITIVITY_ROWS, by_loss, calibration_rows
from hfdistill.exporters.onnx import OnnxModel, int8_layers, require_packages, to_int8, to_onnx
from hfdistill.exporters.openvino import (
    Arrays,
    OpenVinoModel,
    quantisable,
    require_openvino,
    to_openvino,
    to_openvino_int8,
)
from hfdistill.exporters.report import ExportReport, Mixed
from hfdistill.exporters.stages import INT8_STAGE, StagedModel, checked_threshold, to_stages
from hfdistill.files.checkpoint import REPLACED, publish
from hfdistill.files.plain_data import public_name, write_atomically
from hfdistill.network.architectures import room_for
from hfdistill.network.inputs import ModelInputs, name_padding
from hfdistill.network.label_space import class_names, has_names
from hfdistill.network.loading import Source, load_classifier, read_tokenizer
from hfdistill.network.task import task_kind
from hfdistill.students.early_exit import EarlyExitForSequenceClassification

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
TOLERANCE = 1e-4
"""What a float32 logit may differ by, for logits of size 1 and below; larger ones in proportion."""


SCHEMES = {"onnx": ("dynamic", "blockwise"), "openvino": ("static",)}
"""Ways to 8 bits by engine; the first one where none is named."""
EIGHT_BITS = {"onnx": "int8", "openvino": "openvino_int8"}
STEPS = 8
"""In how many steps, at most, layers are left in float32."""


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
    engine: Literal["onnx", "openvino"] = "onnx",
    int8: Literal["auto", "dynamic", "blockwise", "static"] | None = "auto",
    calibration: Dataset | None = None,
    speed: bool = True,
    max_length: int | None = None,
    label_names: Sequence[str] | None = None,
    exit_threshold: float | None = None,
) -> ExportReport:
    """Write a student as ONNX or for OpenVINO, and prove on real rows that it still answers as it did.

    The folder holds model.onnx, model_int8.onnx, tokenizer.json, config.json, export.json, a card and the
    sha256 of each file; ONNX Runtime and `tokenizers` run it without PyTorch or this library. It appears as
    a whole, or not at all: an earlier export of that name stays until the new one has passed.

    With engine="openvino" it holds openvino_model.xml and openvino_model_int8.xml instead, with a .bin each.

    Of a student with exits it holds a graph for each stage: stage_01.onnx reads token ids and ends at the
    first exit, stage_02.onnx goes on from its hidden states to the next one, …; int8_stage_01.onnx, … are the
    same in 8 bits. `StagedModel`, `hfdistill predict` and the lines on the card send on the rows alone that
    are not sure at the threshold. The logits of all heads are compared with PyTorch's.

    The float32 file must give the PyTorch logits to 1e-4. The int8 one may lose `max_drop` points of
    accuracy (exact matches for several labels, a hundredth of Pearson's correlation for regression), or of
    agreement with the PyTorch student where the rows have no labels. Rows are compared in batches of 1 to 8,
    since int8 scales activations by the whole batch. Where 8 bits lose more, each layer is rounded alone on
    calibration rows, and those that move the logits most stay float32, an eighth of all layers at a time; the
    report says which. Only where that does not help either is the export refused.

    Args:
        student: Hub id, folder or model.
        folder: where to write.
        data: rows that were not trained on: columns `text`[, `text_pair`] and `label`. Without them float32
            alone is written, compared on made-up token ids.
        teacher: Hub id, folder or model, to compare with; a `Contender` where it needs a tokenizer or label
            map of its own.
        tokenizer: the student's; else that of its folder.
        max_drop: points that may be lost.
        engine: "onnx" for ONNX Runtime, or "openvino".
        int8: also write a file with 8-bit weights, a quarter of the size. For ONNX "dynamic" is the faster,
            "blockwise" the closer; for OpenVINO "static", with scales from calibration rows. "auto" is
            the first of the engine's, None writes none.
        calibration: rows whose texts say how large activations are and which layers suffer from rounding;
            best those trained on, their labels are not read. Default the texts of `data`.
        speed: time all formats.
        max_length: tokens per row, at most; tokenizer.json then cuts there.
        label_names: names of the classes 0, 1, … of models that have none (LABEL_0 …); config.json gets them.
        exit_threshold: of a student with exits: rows leave at an exit whose uncertainty is below it; default
            the student's own. config.json gets it.

    Returns:
        The report; `print(report.table())`.

    Raises:
        QualityGateError: too much is lost, with the numbers.
        ModuleNotFoundError: 'hfdistill[export]' is not installed, or 'hfdistill[openvino]'.
        ValueError: no rows for int8, another engine's scheme, no fast tokenizer, a folder that holds other
            things, exits without a threshold or for OpenVINO, or a threshold without exits.

    Example:
        >>> export("out/student", "out/onnx", data=dev)  # doctest: +SKIP

    When to use it: on CPUs, int8 is usually several times as fast as PyTorch at batch 1 and a quarter of the
    size. When not: on GPUs, or where logits themselves matter, since int8 moves them by tenths.
    """
    check_engine(engine, int8)
    folder = Path(folder).resolve()  # "o/.." has no name to stage under
    check_request(folder, data=data, calibration=calibration, int8=int8, max_drop=max_drop)
    model = _on_cpu(student, "student", label_names)
    check_architecture(model)
    set_threshold(model, exit_threshold, engine=engine)
    tokenizer = tokenizer or _tokenizer(student, "student")
    with _staged(folder) as staged:
        room = room_for(model.config, tokenizer, max_length)
        reads = _write_beside(model, staged, tokenizer=tokenizer, max_length=room)
        rows = data if calibration is None else calibration
        feed = calibration_rows(rows, reads, inputs=_fed(reads), max_length=room) if int8 and rows else []
        files, eight = write_networks(model, staged, reads=reads, engine=engine, int8=int8, feed=feed)
        models = {"pytorch": Contender(model, tokenizer), **files}
        if teacher is not None:
            models = {"teacher": _teacher(teacher, tokenizer, label_names), **models}
        bench = Bench(models, data, max_length=room)
        _leave_floating(bench, eight, max_drop)
        report = bench.report(staged, max_drop=max_drop, speed=speed)
        _gate(report, folder, logits=bench.largest)
        _publish(report, staged, folder, student, data)
    return report


def _publish(report: ExportReport, staged: Path, folder: Path, student: Source, data: Dataset | None) -> None:
    """Write report and card beside the files, and put all of it in place."""
    name = public_name(str(student if isinstance(student, (str, Path)) else folder))
    pairs = data is not None and "text_pair" in data.column_names
    report.save(staged / "export.json")
    write_atomically(staged / "README.md", report.card(name, pairs=pairs))
    publish(staged, folder, run={"kind": "export", "student": name})


def check_engine(engine: str, int8: str | None) -> None:
    """Refuse an engine that is not known or not installed, and a way to 8 bits that it has not."""
    if engine not in SCHEMES:
        raise ValueError(f"engine is {engine!r}, and a student is exported for {' or '.join(SCHEMES)}.")
    if int8 is not None and int8 not in ("auto", *SCHEMES[engine]):
        raise ValueError(
            f"int8 is {int8!r}, and engine={engine!r} has {' and '.join(SCHEMES[engine])}. Name one of "
            "these, auto, or none at all."
        )
    require_packages()
    if engine == "openvino":
        require_openvino()


def check_request(
    folder: Path, *, data: Any, calibration: Any = None, int8: str | None, max_drop: float
) -> None:
    """Refuse what can be refused before any work; the arguments are those of `export`."""
    if int8 and (data is None or (isinstance(data, Sized) and len(data) == 0)):
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
    for rows, caller in ((data, "export"), (calibration, "export(calibration=)")):
        if rows is not None:
            check_rows(rows, caller)


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


def set_threshold(model: PreTrainedModel, threshold: float | None, *, engine: str = "onnx") -> None:
    """Let rows of a model with exits leave at a threshold, or at its own where none is named.

    Raises:
        ValueError: for exits without a threshold or for another engine than ONNX Runtime, a threshold that is
            out of range, and one for a model without exits.
    """
    if not isinstance(model, EarlyExitForSequenceClassification):
        if threshold is not None:
            raise ValueError(
                f"exit_threshold is {threshold!r}, and a {type(model).__name__} has no exits. Build it with "
                "with_exits(model), or leave exit_threshold out."
            )
        return
    if engine != "onnx":
        raise ValueError(
            f"engine is {engine!r}, and the stages of a student with exits are run by ONNX Runtime alone. "
            "Export with engine='onnx', or export model.backbone, with its tokenizer."
        )
    model.exit_threshold = checked_threshold(model.exit_threshold if threshold is None else threshold)


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
    return read_tokenizer(source)


@contextmanager
def _staged(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside the final one, removed afterwards.

    What an interrupted export left is put back or removed.
    """
    beside = folder.parent / f"_unfinished_{folder.name}"
    old = beside / f"{folder.name}{REPLACED}"
    if old.is_dir() and not folder.exists():
        old.rename(folder)
    shutil.rmtree(beside, ignore_errors=True)
    staged = beside / folder.name
    staged.mkdir(parents=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    try:
        yield staged
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _write_beside(model: PreTrainedModel, staged: Path, *, tokenizer: Any, max_length: int) -> ModelInputs:
    """Write the config and the tokenizer, and return what the model reads."""
    check_tokenizer(tokenizer)
    name_padding(model, tokenizer)
    reads = ModelInputs.of(model, tokenizer)
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
    return reads


def _fed(reads: ModelInputs) -> tuple[str, ...]:
    """Return the names of what an exported network is fed."""
    return tuple(name for name in INPUTS if name in reads.names)


@dataclass(frozen=True)
class EightBits:
    """How the float32 files of an engine become files in 8 bits: one, or one for each stage."""

    engine: str
    scheme: str
    sources: list[Path]
    paths: list[Path]
    feed: list[Arrays]

    def layers(self) -> list[str]:
        """Return the names of what is rounded; of several files each with that of its file before it."""
        named = int8_layers if self.engine == "onnx" else quantisable
        return [f"{self._prefix(source)}{name}" for source in self.sources for name in named(source)]

    def _prefix(self, source: Path) -> str:
        return "" if len(self.sources) == 1 else f"{source.stem}/"

    def write(self, folder: Path, floating: Collection[str] = ()) -> Runtime:
        """Write files with some layers in float32 into a folder, and return them as a model."""
        paths = [folder / path.name for path in self.paths]
        for source, path in zip(self.sources, paths, strict=True):
            path.unlink(missing_ok=True)  # the file before it may still be read
            path.with_suffix(".bin").unlink(missing_ok=True)
            start = self._prefix(source)
            kept = [name.removeprefix(start) for name in floating if name.startswith(start)]
            if self.engine == "onnx":
                to_int8(source, path, scheme=self.scheme, floating=kept)
            else:
                to_openvino_int8(source, path, batches=self.feed, floating=kept)
        if len(paths) > 1:
            return StagedModel(paths[0], config=self.sources[0].parent)
        return OnnxModel(paths[0]) if self.engine == "onnx" else OpenVinoModel(paths[0])


def write_networks(
    model: PreTrainedModel, staged: Path, *, reads: ModelInputs, engine: str, int8: str | None,
    feed: list[Arrays],
) -> tuple[dict[str, Runtime], EightBits | None]:  # fmt: skip
    """Write an engine's files into a folder, and give them as models by format, with how 8 bits are made.

    Args:
        model: on the CPU, in float32.
        staged: the folder.
        reads: what the model reads.
        engine: "onnx" or "openvino".
        int8: the way to 8 bits, "auto" for the engine's first; None for float32 alone.
        feed: rows for `EightBits`.
    """
    scheme = SCHEMES[engine][0] if int8 == "auto" else int8
    if isinstance(model, EarlyExitForSequenceClassification):
        sources = to_stages(model, staged, inputs=_fed(reads))
        plain: Runtime = StagedModel(staged)
        paths = [staged / INT8_STAGE.format(number) for number in range(1, len(sources) + 1)]
    else:
        source, file = (staged if engine == "onnx" else staged.parent) / FILES["onnx"], staged / FILES[engine]
        to_onnx(model, source, inputs=_fed(reads))
        sources, paths = [source], [staged / FILES[EIGHT_BITS[engine]]]
        if engine == "openvino":
            to_openvino(source, file)
        plain = OnnxModel(file) if engine == "onnx" else OpenVinoModel(file, precision="f32")
    if scheme is None:
        return {engine: plain}, None
    eight = EightBits(engine, scheme, sources, paths, feed)
    return {engine: plain, EIGHT_BITS[engine]: eight.write(staged)}, eight


def _leave_floating(bench: Bench, eight: EightBits | None, max_drop: float) -> None:
    """Leave more and more layers in float32, those that lose most first, until 8 bits lose little enough."""
    if eight is None:
        return
    name, plain = EIGHT_BITS[eight.engine], bench.models[eight.engine].model
    drop, mb, folder = bench.drop(name), files_mb(eight.paths), eight.paths[0].parent
    if drop is None or drop <= max_drop:
        return
    order = by_loss(eight.write, eight.layers(), plain, eight.feed)
    step = -(-len(order) // STEPS)
    for count in range(step, len(order), step):
        bench.replace(name, eight.write(folder, order[:count]))
        rows = min(SENSITIVITY_ROWS, len(eight.feed))
        bench.mixed[name] = Mixed(tuple(order[:count]), len(order), drop, round(mb, 4), rows)
        left = bench.drop(name)
        if left is None or left <= max_drop:
            return


def _gate(report: ExportReport, folder: Path, *, logits: float) -> None:
    """Refuse float32 that is not the model, and int8 that lost too much."""
    nothing = f"Nothing was written to {public_name(str(folder))}."
    plain = next(each for each in report.formats if each.name in SCHEMES)
    allowed = TOLERANCE * max(1.0, logits)
    if not (plain.max_difference is not None and plain.max_difference <= allowed):
        raise QualityGateError(
            f"{plain.file} differs from the PyTorch student by up to {plain.max_difference:.2g} in a logit, "
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
        mixed = file.mixed
        tried = f" with {len(mixed.floating)} of {mixed.layers} layers in float32" if mixed else ""
        raise QualityGateError(
            f"{file.file} loses {numbers} on {report.rows:,} rows, more than "
            f"max_drop={report.max_drop:g}{tried}. "
            f"It agrees with the PyTorch student on {100 * (file.agreement or 0):.1f} % of them, and a "
            f"logit moves by up to {file.max_difference:.2g}. {nothing} Allow more with max_drop, or export "
            "with int8=None (--int8 none).",
            report,
        )
