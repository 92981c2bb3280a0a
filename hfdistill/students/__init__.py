"""Students: ways to build the small model. All give a `PreTrainedModel`."""

from hfdistill.students.exits import EarlyExitForSequenceClassification, with_exits
from hfdistill.students.shrink import shrink
from hfdistill.students.vocabulary import prune_vocabulary

__all__ = ["EarlyExitForSequenceClassification", "prune_vocabulary", "shrink", "with_exits"]
