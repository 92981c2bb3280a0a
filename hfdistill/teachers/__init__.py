"""Who teaches."""

from hfdistill.teachers.base import ModelTeacher, Teacher, as_teacher
from hfdistill.teachers.cache import CachedTeacher
from hfdistill.teachers.contents import CacheError, Contents
from hfdistill.teachers.recording import fill, record

__all__ = [
    "CacheError",
    "CachedTeacher",
    "Contents",
    "ModelTeacher",
    "Teacher",
    "as_teacher",
    "fill",
    "record",
]
