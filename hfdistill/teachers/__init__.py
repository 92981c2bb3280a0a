"""Who teaches."""

from hfdistill.teachers.as_model import Answering
from hfdistill.teachers.base import ModelTeacher, Teacher, as_teacher, settle_tokens
from hfdistill.teachers.cache.contents import CacheError, Contents
from hfdistill.teachers.cache.recording import fill, record
from hfdistill.teachers.cache.teacher import CachedTeacher
from hfdistill.teachers.ensemble import Ensemble
from hfdistill.teachers.folds import FoldTeacher
from hfdistill.teachers.peer_and_ema import EMATeacher, Peer

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
