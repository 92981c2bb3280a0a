"""Who teaches."""

from hfdistill.teachers.base import ModelTeacher, Teacher, as_teacher, settle_tokens
from hfdistill.teachers.ensemble import Ensemble
from hfdistill.teachers.folds import FoldTeacher

__all__ = ["Ensemble", "FoldTeacher", "ModelTeacher", "Teacher", "as_teacher", "settle_tokens"]
