"""Metrics of our own, for `compute_metrics` and `evaluate`: they need neither the Hub nor the disk."""

from hfdistill.metrics.agreement import Agreement, agreement
from hfdistill.metrics.calibration import CalibrationError, expected_calibration_error

__all__ = ["Agreement", "CalibrationError", "agreement", "expected_calibration_error"]
