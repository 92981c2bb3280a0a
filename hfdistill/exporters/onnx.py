"""The one place that knows an exporter turns a model to ONNX and ONNX to int8, and runs it as a model."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import logging
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
LARGEST = 2_000_000_000
"""Bytes of one file; protobuf ends there, and we write no files beside it."""
_DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"}
BLOCK = 128


def require_packages() -> None:
    """Raise ModuleNotFoundError, with what to type, where the extra is not installed."""
    require("Export", PACKAGES, extra="export")


def require(what: str, packages: Iterable[str], *, extra: str) -> None:
    """Raise ModuleNotFoundError, with what to type, where packages that something needs are not installed."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(
            f"{what} needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed. "
            f"Type pip install 'hfdistill[{extra}]'."
        )


def to_onnx(model: PreTrainedModel, path: Path, *, inputs: tuple[str, ...]) -> None:
    """Write a model as one ONNX file whose axes "batch" and "tokens" are free.

    `transformers.exporters` does the work; it is experimental, so nobody may use the file before its logits
    have been compared with the model's. The model stays as it is.

    Raises:
        ValueError: the file would be larger than 2 GB, or holds what ONNX Runtime alone does not run.
    """
    to_graph(plain(model), path, sample=sample_of(inputs), outputs=("logits",), name=type(model).__name__)


def sample_of(inputs: Iterable[str]) -> dict[str, Tensor]:
    """Return a batch to trace a network with: two rows of arbitrary tokens."""
    ids = torch.arange(16).reshape(2, 8) % 4 + 1
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    sample = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    return {name: sample[name] for name in inputs}


def to_graph(
    network: Any, path: Path, *, sample: Mapping[str, Tensor], outputs: tuple[str, ...], name: str
) -> None:
    """Write a float32 network on the CPU, which gives the named outputs, as one ONNX file; see `to_onnx`."""
    import onnx
    from onnx_ir import serde
    from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

    with quiet():
        try:
            graph = OnnxExporter().export(network, dict(sample), config=OnnxConfig(dynamic=True)).program
        except Exception as error:
            raise _not_exported(name, error) from error
        proto = serde.serialize_model(graph)
    given = tuple(value.name for value in proto.graph.output)
    if given != outputs:
        raise _not_exported(name, f"its graph gives {', '.join(given)}, where {', '.join(outputs)} are read")
    # what was inferred under other names of the axes; quantize_dynamic trips over it
    del proto.graph.value_info[:]
    for value in [*proto.graph.input, *proto.graph.output]:
        for axis, free in zip(value.type.tensor_type.shape.dim, ("batch", "tokens"), strict=False):
            if axis.dim_param:
                axis.dim_param = free
    _name_layers(proto.graph)
    for noted in [proto, proto.graph, *proto.graph.node, *proto.graph.input, *proto.graph.output]:
        noted.doc_string = ""
        del noted.metadata_props[:]  # stack traces, with the paths of this machine
    if proto.ByteSize() > LARGEST:
        raise ValueError(
            f"As ONNX the model has {proto.ByteSize() / 1e9:.1f} GB, more than one file can hold (2 GB). "
            "Export a smaller student."
        )
    onnx.save_model(proto, path)
    check_file(path)


def _name_layers(graph: Any) -> None:
    """Give each node with weights the name of its module, as far as the names of its constants say it."""
    readers = {name: node for node in graph.node for name in node.input}
    taken = {node.name for node in graph.node}
    for node in layers_of(graph):
        constants = list(node.input)
        if node.op_type == "MatMul" and readers[node.output[0]].op_type == "Add":
            constants = list(readers[node.output[0]].input)  # the weight itself was transposed, and renamed
        names = [name.rpartition(".")[0] for name in constants if name.endswith((".weight", ".bias"))]
        if names and names[0] not in taken:
            taken.add(names[0])
            node.name = names[0]


def layers_of(graph: Any) -> list[Any]:
    """Return the nodes with weights that 8 bits round: products with a matrix, and tables."""
    matrices = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 2}
    place = {"MatMul": 1, "Gemm": 1, "Gather": 0}
    return [n for n in graph.node if n.op_type in place and n.input[place[n.op_type]] in matrices]


def int8_layers(source: Path) -> list[str]:
    """Return the names of the layers that `to_int8` rounds."""
    import onnx

    return [node.name for node in layers_of(onnx.load(str(source)).graph)]


def plain(model: Any) -> Any:
    """Return a float32 copy that gives logits alone and has attention as two products and a softmax.

    Runtimes know how to fuse and to quantise these. The exporter writes `scaled_dot_product_attention` with
    further steps for rows that may look at nothing. A text has no such rows, and the steps cost int8 a tenth
    of its time.
    """
    copied = copy.deepcopy(model).to("cpu", torch.float32).eval()
    for setting in ("use_cache", "use_mems_eval"):  # of decoders and XLNet: outputs beside the logits
        if hasattr(copied.config, setting):
            setattr(copied.config, setting, False)
    with contextlib.suppress(ValueError, ImportError, NotImplementedError):  # some have one way alone
        copied.set_attn_implementation("eager")
    return copied


def _not_exported(name: str, reason: object) -> ValueError:
    """Return the error for a network that has no ONNX form here."""
    lines = str(reason).strip().splitlines() or [""]
    return ValueError(
        f"A {name} cannot be written as ONNX: the exporter of Transformers does not get "
        f"through it ({lines[0][:200]}). Run it in PyTorch, or export a student of another kind, such as "
        "one that shrink cuts from BERT, RoBERTa or DistilBERT."
    )


def to_int8(source: Path, path: Path, *, scheme: str, floating: Collection[str] = ()) -> None:
    """Quantise the matrices and the embedding tables of an ONNX file to 8 bits; no calibration.

    Args:
        source: float32.
        path: of the new file.
        scheme: "dynamic", int8 weights by channel and activations scaled by the whole batch on the fly; or
            "blockwise", weights and activations scaled by blocks of BLOCK numbers: closer, and slower.
        floating: names of layers, of `int8_layers`, that stay float32.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    kinds = ["Gather", "Gemm", "MatMul"]
    with quiet():
        if scheme == "blockwise":
            from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

            blocks = MatMulNBitsQuantizer(
                onnx.load(str(source)), bits=8, block_size=BLOCK, is_symmetric=True, accuracy_level=4,
                nodes_to_exclude=list(floating),
            )  # fmt: skip
            blocks.process()
            onnx.save_model(blocks.model.model, path)
            source, kinds = path, ["Gather"]
        quantize_dynamic(
            source, path, op_types_to_quantize=kinds, per_channel=True, weight_type=QuantType.QInt8,
            nodes_to_exclude=list(floating),
        )  # fmt: skip
    check_file(path)


def check_file(path: Path) -> None:
    """Refuse an ONNX file that is malformed, points outside itself, or asks for operators of others."""
    import onnx

    proto = onnx.load(str(path), load_external_data=False)
    foreign = sorted({opset.domain for opset in proto.opset_import} - _DOMAINS)
    outside = [tensor.name for tensor in proto.graph.initializer if tensor.data_location]
    if foreign or outside:
        raise ValueError(
            f"{path.name} needs operators of {foreign} or weights in other files ({outside[:3]}), which ONNX "
            "Runtime alone does not load. Type pip install 'hfdistill[export]', and `hfdistill export` again."
        )
    if not any(node.domain for node in proto.graph.node):  # the checker knows ONNX's own operators alone
        onnx.checker.check_model(proto)


class OnnxModel(nn.Module):
    """An ONNX file on one CPU as a model: token ids in, logits out.

    Args:
        path: of the file.
        threads: threads inside an operator; default as many as torch uses.

    Example:
        >>> model = OnnxModel("onnx/model.onnx")  # doctest: +SKIP
        >>> model(**tokenizer("a warm film", return_tensors="pt"))["logits"]  # doctest: +SKIP
    """

    device = torch.device("cpu")

    def __init__(self, path: str | Path, *, threads: int | None = None) -> None:
        super().__init__()
        self.session = session(path, threads)
        self.inputs = tuple(value.name for value in self.session.get_inputs())

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the logits (B, C) of ids and mask (B, T); token types are 0 where none are given."""
        batch = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        (logits,) = self.session.run(["logits"], token_arrays(batch, self.inputs))
        return {"logits": torch.from_numpy(logits)}


def token_arrays(batch: Mapping[str, Tensor | None], names: Iterable[str]) -> dict[str, Any]:
    """Return the columns that a network reads of a batch; token types are 0 where none are given."""
    read = {name: value for name, value in batch.items() if value is not None}
    read.setdefault("token_type_ids", torch.zeros_like(read["input_ids"]))
    return {name: read[name].to("cpu", torch.int64).numpy() for name in names}


def session(path: str | Path, threads: int | None) -> Any:
    """Return an ONNX file ready to run on the CPU; by default with as many threads as torch uses."""
    require_packages()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3  # errors alone
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@contextlib.contextmanager
def without_logs() -> Iterator[None]:
    """While open, log no warning and nothing below."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the progress and the remarks that exporters print about operators nobody uses here."""
    with without_logs(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
