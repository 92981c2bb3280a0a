"""Who teaches."""

from hfdistill.teachers.base import ModelTeacher, Teacher, as_teacher

__all__ = ["ModelTeacher", "Teacher", "as_teacher"]
