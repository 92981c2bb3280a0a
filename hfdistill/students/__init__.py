"""Students: ways to build the small model. All give a `PreTrainedModel`."""

from hfdistill.students.shrink import shrink

__all__ = ["shrink"]
