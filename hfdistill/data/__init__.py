"""From text on the Hub or on disk to token ids, in an order that can be repeated."""

from hfdistill.data.collate import DistillationCollator
from hfdistill.data.encode import encode
from hfdistill.data.load import load
from hfdistill.data.sampler import LengthGroupedSampler, row_lengths

__all__ = ["DistillationCollator", "LengthGroupedSampler", "encode", "load", "row_lengths"]
