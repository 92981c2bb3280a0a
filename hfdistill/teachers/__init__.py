"""Who teaches."""

from hfdistill.teachers.base import ModelTeacher, Teacher, as_teacher, settle_tokens
from hfdistill.teachers.ensemble import Ensemble
from hfdistill.teachers.folds import FoldTeacher
from hfdistill.teachers.moving import EMATeacher, Peer

__all__ = [
    "EMATeacher",
    "Ensemble",
    "FoldTeacher",
    "ModelTeacher",
    "Peer",
    "Teacher",
    "as_teacher",
    "settle_tokens",
]
