"""Metrics of our own, for `compute_metrics` and `evaluate`: they need neither the Hub nor the disk."""

from hfdistill.evaluation.metrics.agreement import Agreement, agreement
from hfdistill.evaluation.metrics.calibration import CalibrationError, expected_calibration_error
