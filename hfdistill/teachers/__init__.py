"""Who teaches."""

from hfdistill.teachers.base import ModelTeacher, Teacher, as_teacher, settle_tokens
from hfdistill.teachers.ensemble import Ensemble

__all__ = ["Ensemble", "ModelTeacher", "Teacher", "as_teacher", "settle_tokens"]
