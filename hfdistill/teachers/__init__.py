"""Who teaches."""

from hfdistill.teachers.answering import Answering
from hfdistill.teachers.base import ModelTeacher, Teacher, as_teacher, settle_tokens
from hfdistill.teachers.cache import CachedTeacher
from hfdistill.teachers.contents import CacheError, Contents
from hfdistill.teachers.ensemble import Ensemble
from hfdistill.teachers.folds import FoldTeacher
from hfdistill.teachers.moving import EMATeacher, Peer
from hfdistill.teachers.recording import fill, record

__all__ = [
    "Answering",
    "CacheError",
    "CachedTeacher",
    "Contents",
    "EMATeacher",
    "Ensemble",
    "FoldTeacher",
    "ModelTeacher",
    "Peer",
    "Teacher",
    "as_teacher",
    "fill",
    "record",
    "settle_tokens",
]
