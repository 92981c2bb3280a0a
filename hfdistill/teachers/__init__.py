"""Who teaches."""

from hfdistill.teachers.base import ModelTeacher, Teacher, as_teacher
from hfdistill.teachers.folds import FoldTeacher

__all__ = ["FoldTeacher", "ModelTeacher", "Teacher", "as_teacher"]
