"""A student for machines without PyTorch: ONNX in float32 and in int8."""

from hfdistill.export.gate import QualityGateError, export
from hfdistill.export.onnx import OnnxModel
from hfdistill.export.report import ExportReport, Format

__all__ = ["ExportReport", "Format", "OnnxModel", "QualityGateError", "export"]
