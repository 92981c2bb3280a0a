"""A student for machines without PyTorch: ONNX or OpenVINO, in float32 and in int8."""

from hfdistill.exporters.gate import QualityGateError, export
from hfdistill.exporters.onnx import OnnxModel
from hfdistill.exporters.openvino import OpenVinoModel
from hfdistill.exporters.report import ExportReport, Format
from hfdistill.exporters.stages import StagedModel
