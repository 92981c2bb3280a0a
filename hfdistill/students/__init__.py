"""Students: ways to build the small model. All give a `PreTrainedModel`."""

from hfdistill.students.exits import EarlyExitForSequenceClassification, with_exits
from hfdistill.students.shrink import shrink

__all__ = ["EarlyExitForSequenceClassification", "shrink", "with_exits"]
