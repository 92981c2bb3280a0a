"""Teachers: a model, recorded answers, an ensemble, a peer, an average, or any function of texts."""

from hfdistill.teachers.as_model import TeacherAsModel, as_model
from hfdistill.teachers.base import ModelTeacher, Teacher, as_teacher, assign_column_prefixes
from hfdistill.teachers.cache.contents import CacheError, Contents
from hfdistill.teachers.cache.recording import count_missing, record, record_missing
from hfdistill.teachers.cache.teacher import CachedTeacher
from hfdistill.teachers.ensemble import Ensemble
from hfdistill.teachers.folds import FoldTeacher
from hfdistill.teachers.peer_and_ema import EMATeacher, Peer
