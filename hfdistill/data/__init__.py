"""From text on the Hub or on disk to token ids, in an order that can be repeated."""

from hfdistill.data.encode import encode
from hfdistill.data.load import HubUnreachable, load
from hfdistill.data.sampler import LengthGroupedSampler, row_lengths

__all__ = ["HubUnreachable", "LengthGroupedSampler", "encode", "load", "row_lengths"]
