"""The one place that knows OpenVINO: makes its files of an ONNX file, in 8 bits too, and runs them."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np
import torch
from torch import Tensor, nn

from hfdistill.exporters.onnx import quiet, require, token_arrays

PACKAGES = ("openvino", "nncf")
MAX_BYTES = 50_000_000
"""Bytes of the file that describes a network; the weights lie beside it."""
_OPERATORS = re.compile(r"opset[0-9]{1,2}")
Arrays = dict[str, np.ndarray[Any, Any]]


def require_openvino() -> None:
    """Raise ModuleNotFoundError, with what to type, where the extra is not installed."""
    require("engine='openvino'", PACKAGES, extra="openvino")


def to_openvino(source: Path, path: Path) -> None:
    """Write an ONNX file as OpenVINO's: `path` (.xml) says what is computed, .bin beside it holds weights."""
    import openvino

    openvino.save_model(_read(source), path, compress_to_fp16=False)
    check_openvino_file(path)


def to_openvino_int8(
    source: Path, path: Path, *, batches: Sequence[Arrays], floating: Collection[str] = ()
) -> None:
    """Quantise weights and activations to 8 bits, with fixed scales that NNCF finds on calibration rows.

    Products of two activations, which attention takes, are quantised as well; scales of weights are those of
    channels (post-training quantisation of NNCF for transformers, with smoothed activations,
    arXiv:2211.10438). NNCF would report each use to its makers; that is off here.

    Args:
        source: an ONNX file, float32.
        path: of the new file (.xml).
        batches: what the network is fed, without labels.
        floating: names of layers, of `quantisable`, that stay float32.
    """
    nncf = _nncf()
    import openvino

    network = _read(source)
    ignored = {node.get_friendly_name() for node in _layers(network)} & set(floating)
    with quiet():
        quantised = nncf.quantize(
            network,
            nncf.Dataset(list(batches)),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(batches),
            ignored_scope=nncf.IgnoredScope(names=sorted(ignored)) if ignored else None,
        )
        openvino.save_model(quantised, path, compress_to_fp16=False)
    check_openvino_file(path)


def quantisable(source: Path) -> list[str]:
    """Return the names of the layers with weights that `to_openvino_int8` rounds."""
    return [node.get_friendly_name() for node in _layers(_read(source))]


def _layers(network: Any) -> list[Any]:
    """Return the products with weights."""
    products = [node for node in network.get_ordered_ops() if node.get_type_name() == "MatMul"]
    return [node for node in products if _is_constant(node.input_value(1).get_node())]


def _is_constant(node: Any) -> bool:
    while node.get_type_name() in ("Convert", "Transpose", "Reshape"):
        node = node.input_value(0).get_node()
    return bool(node.get_type_name() == "Constant")


def _read(path: Path) -> Any:
    import openvino

    return openvino.Core().read_model(str(path))


def _nncf() -> Any:
    """Import NNCF so that it sends nothing to anyone, and says nothing but warnings."""
    before = os.environ.get("NNCF_CI")
    os.environ["NNCF_CI"] = "1"  # read while it is imported
    try:
        import nncf
        from nncf.telemetry import decorator, wrapper
    finally:
        if before is None:
            del os.environ["NNCF_CI"]
        else:
            os.environ["NNCF_CI"] = before
    if not isinstance(wrapper.telemetry, wrapper.NNCFTelemetryStub):  # imported before us
        wrapper.telemetry = decorator.telemetry = wrapper.NNCFTelemetryStub()
    nncf.set_log_level(logging.ERROR)
    return nncf


def check_openvino_file(path: Path) -> None:
    """Refuse a file that is malformed, declares entities, asks for operators of others, or reads outside."""
    weights = path.with_suffix(".bin")
    if not weights.is_file() or weights.is_symlink() or path.is_symlink():
        raise ValueError(f"{path.name} has no {weights.name} beside it. Copy both files, or export again.")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path.name} has more than {MAX_BYTES / 1e6:.0f} MB. Export the student again.")
    room, wrong = weights.stat().st_size, []

    def begin(tag: str, attributes: dict[str, str]) -> None:
        if tag == "layer" and not _OPERATORS.fullmatch(attributes.get("version", "")):
            wrong.append(f"operator {attributes.get('type')!r} of {attributes.get('version')!r}")
        if tag == "data" and ("offset" in attributes or "size" in attributes):
            start, size = (int(attributes.get(name, "-1")) for name in ("offset", "size"))
            if start < 0 or size < 0 or start + size > room:
                wrong.append(f"weights at {start} of {size} bytes, in a file of {room}")

    def refuse(*_: Any) -> None:
        raise ValueError("it declares a document type")

    parser = expat.ParserCreate()
    parser.StartElementHandler = begin
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(path.read_bytes(), True)
    except (expat.ExpatError, ValueError) as error:
        wrong.append(str(error))
    if wrong:
        raise ValueError(
            f"{path.name} is no network that `export` wrote: {wrong[0][:200]}. Export the student again."
        )


class OpenVinoModel(nn.Module):
    """A network of OpenVINO on one CPU as a model: token ids in, logits out.

    Args:
        path: of its .xml, which is checked; see `check_openvino_file`.
        threads: threads inside an operator; default as many as torch uses.
        precision: what is float is computed in "f32" or "bf16"; None for what OpenVINO takes on this CPU,
            bf16 where it has instructions for it.

    Example:
        >>> model = OpenVinoModel("out/openvino_model_int8.xml")  # doctest: +SKIP
        >>> model(**tokenizer("a warm film", return_tensors="pt"))["logits"]  # doctest: +SKIP
    """

    device = torch.device("cpu")

    def __init__(self, path: str | Path, *, threads: int | None = None, precision: str | None = None) -> None:
        super().__init__()
        require_openvino()
        import openvino

        check_openvino_file(Path(path))
        options: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads or torch.get_num_threads()}
        options |= {"NUM_STREAMS": 1} | ({"INFERENCE_PRECISION_HINT": precision} if precision else {})
        compiled = openvino.Core().compile_model(str(path), "CPU", options)
        self.request = compiled.create_infer_request()
        self.inputs = tuple(value.get_any_name() for value in compiled.inputs)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the logits (B, C) of ids and mask (B, T); token types are 0 where none are given."""
        batch = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        answers = self.request.infer(token_arrays(batch, self.inputs))
        return {"logits": torch.from_numpy(answers["logits"].copy())}
