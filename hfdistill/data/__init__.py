"""From text on the Hub or on disk to token ids, in an order that can be repeated."""

from hfdistill.data.augment import augment
from hfdistill.data.augmentations import Augmentation, Chain, Delete, Mask, NGramSample, Swap, Synonyms
from hfdistill.data.collate import DistillationCollator
from hfdistill.data.encode import encode
from hfdistill.data.fresh_copies import FreshCopies
from hfdistill.data.load import load
from hfdistill.data.masked_lm import MaskedLM
from hfdistill.data.sampler import LengthGroupedSampler, row_lengths
from hfdistill.data.unlabelled_texts import load_texts
