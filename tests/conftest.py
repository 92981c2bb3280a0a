"""Fixtures built in memory: a WordPiece tokenizer, tiny BERTs and 32 labelled sentences."""

from __future__ import annotations

import copy
import functools
import gc
import importlib.util
import logging
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DEACTIVATE_ASYNC_LOAD", "1")  # threads to load models of some kilobytes
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import threading
from typing import TYPE_CHECKING

import pytest
from tqdm import tqdm

from tests.fresh import fresh  # noqa: F401 - a fixture for all tests
from tests.no_pickle import nothing_reads_a_pickle  # noqa: F401 - likewise
from tests.what_to_type import row_of_the_table  # noqa: F401 - likewise

if TYPE_CHECKING:  # imported where they are used: the process that hands out the tests reads this file, too
    from datasets import Dataset
    from transformers import (
        BertForSequenceClassification,
        PreTrainedTokenizerFast,
        RobertaForSequenceClassification,
    )

# By default tqdm's lock is shared by forked processes: one that is killed while it holds the lock would leave
# all others, and the tests after it, waiting for ever.
tqdm.set_lock(threading.RLock())
tqdm.monitor_interval = 0

GOOD = ["good", "great", "warm", "funny", "bright", "moving", "sharp", "lovely"]
BAD = ["bad", "dull", "cold", "boring", "grim", "empty", "flat", "awful"]
PLAIN = [
    "the",
    "a",
    "film",
    "story",
    "plot",
    "cast",
    "is",
    "was",
    "and",
    "very",
    "quite",
    "with",
    "end",
    "start",
    "it",
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def make_sentences(rows: int = 32) -> list[tuple[str, int]]:
    """Sentences of 3 to 12 words whose label follows from one opinion word."""
    chosen = []
    for i in range(rows):
        label = i % 2
        opinion = (GOOD if label else BAD)[(i // 2) % 8]
        filler = [PLAIN[(i * 7 + j * 3) % len(PLAIN)] for j in range(2 + (i * 5) % 10)]
        filler.insert((i * 3) % len(filler), opinion)
        chosen.append((" ".join(filler), label))
    return chosen


def make_tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(SPECIAL + GOOD + BAD + PLAIN)}
    core = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=32,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def make_fnet(num_labels):
    """Make a teacher whose forward takes no attention_mask: it reads the padding of a batch."""
    import torch
    from transformers import FNetConfig, FNetForSequenceClassification

    torch.manual_seed(1)
    sizes = {"vocab_size": len(make_tokenizer()), "hidden_size": 16, "num_hidden_layers": 2}
    config = FNetConfig(**sizes, intermediate_size=32, max_position_embeddings=64, num_labels=num_labels)
    return FNetForSequenceClassification(config).eval()


def make_bert(
    layers: int = 2, *, seed: int = 0, labels: dict[int, str] | None = None, **options
) -> BertForSequenceClassification:
    """A width-16 BERT classifier; dropout is 0 unless asked for, so that runs can be compared."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    labels = labels or {0: "negative", 1: "positive"}
    settings = {
        "vocab_size": len(SPECIAL + GOOD + BAD + PLAIN),
        "hidden_size": 16,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "intermediate_size": 32,
        "max_position_embeddings": 32,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.2,
        "id2label": labels,
        "label2id": {name: i for i, name in labels.items()},
    }
    torch.manual_seed(seed)
    return BertForSequenceClassification(BertConfig(**{**settings, **options})).eval()


def make_byte_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE as RoBERTa has it, of all bytes and two merges: other ids and other lengths."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    bytes_, special = sorted(pre_tokenizers.ByteLevel.alphabet()), ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    vocabulary = {piece: i for i, piece in enumerate([*special, *bytes_, "oo", "th"])}
    core = Tokenizer(models.BPE(vocabulary, [("o", "o"), ("t", "h")], unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        mask_token="<mask>",
        model_input_names=["input_ids", "attention_mask"],
    )


def make_roberta(
    layers: int = 2, *, seed: int = 0, labels: dict[int, str] | None = None, **options
) -> RobertaForSequenceClassification:
    """A width-16 RoBERTa that reads the ids of `make_byte_tokenizer`, 96 of them at most."""
    import torch
    from transformers import RobertaConfig, RobertaForSequenceClassification

    labels = labels or {0: "negative", 1: "positive"}
    settings = {
        "vocab_size": 263,
        "hidden_size": 16,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "intermediate_size": 32,
        "max_position_embeddings": 98,
        "type_vocab_size": 1,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.2,
        "id2label": labels,
        "label2id": {name: i for i, name in labels.items()},
    }
    torch.manual_seed(seed)
    return RobertaForSequenceClassification(RobertaConfig(**{**settings, **options})).eval()


def make_dataset(rows: int = 32) -> Dataset:
    """Columns text and label, with class names: a copy of its own of rows that are made once."""
    return copy.deepcopy(_dataset(rows))


@functools.cache
def _dataset(rows: int) -> Dataset:
    from datasets import ClassLabel, Dataset, Features, Value

    pairs = make_sentences(rows)
    features = Features({"text": Value("string"), "label": ClassLabel(names=["negative", "positive"])})
    return Dataset.from_dict(
        {"text": [t for t, _ in pairs], "label": [y for _, y in pairs]}, features=features
    )


def pytest_collection() -> None:
    """Look for no garbage while all is imported, which leaves hardly any."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Leave what the imports made out of every later garbage collection, of which there are fewer."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    gc.enable()


DOT = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489"
    "0000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)
"""A picture of one pixel."""


@pytest.fixture(scope="module", autouse=True)
def _frozen():
    """Likewise what the tests of a module have imported and left."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture
def caplog(caplog):
    """Of the package's loggers alone: what others log depends on what ran before."""
    with caplog.filtering(logging.Filter("hfdistill")):
        yield caplog


@pytest.fixture(autouse=True)
def _levels():
    """No level that a command set for its process is left for the next test."""
    yield
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("hfdistill") and getattr(logger, "level", logging.NOTSET):
            logger.setLevel(logging.NOTSET)


@pytest.fixture(scope="session", autouse=True)
def _float32():
    """Pages compute in float32 also where the machine is fast in bfloat16, so that numbers are the same."""
    from hfdistill.recipe import run_defaults

    run_defaults.fast_bf16 = lambda **_: False


@pytest.fixture
def dots(monkeypatch):
    """Pictures of a report are not drawn, and a dot is written: they take half of the time of a page."""
    from hfdistill.evaluation import plots
    from hfdistill.files.plain_data import write_atomically

    monkeypatch.setattr(plots, "write_picture", lambda make, path: write_atomically(path, DOT))


@pytest.fixture(scope="session", autouse=True)
def _quick_times():
    """Models that are timed without a plan are timed in a moment."""
    from hfdistill.evaluation.measure import STANDARD
    from hfdistill.evaluation.speed import SpeedPlan

    SpeedPlan.__init__.__defaults__ = (1, 4, 4, 1, 1.0)
    vars(STANDARD).update(vars(SpeedPlan()))


@pytest.fixture(scope="session", autouse=True)
def _quick_runs():
    """What a run does for devices that are not here, and a garbage collection at its end, are left out.

    A seed is queued for each kind of device with the stack of its caller: a tenth of the time of a tiny run.
    """
    from types import SimpleNamespace

    import torch
    from accelerate.utils import memory

    for device in (torch.cuda, torch.xpu, torch.mtia):
        if not device.is_available():
            device.manual_seed_all = lambda seed: None
    memory.gc = SimpleNamespace(collect=lambda: 0)


@pytest.fixture(scope="session", autouse=True)
def _quick_copies():
    """Types of columns, to which nothing writes, are no longer copied at each look at a data set's features.

    `datasets` copies them at every change of a data set, too: a tenth of the time of a tiny run.
    """
    from datasets import ClassLabel, Value

    for kind in (ClassLabel, Value):
        kind.__deepcopy__ = lambda itself, _: itself


@pytest.fixture(scope="session", autouse=True)
def _one_registry():
    """The ONNX exporter reads its operators once for all exports: a third of a second for each."""
    if importlib.util.find_spec("onnxscript") is None:
        return
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    read = functools.cache(ONNXRegistry.from_torchlib)

    def from_torchlib(opset_version):
        registry, whole = ONNXRegistry(), read(opset_version)
        registry._opset_version = opset_version
        registry.functions = {operator: [*functions] for operator, functions in whole.functions.items()}
        return registry

    ONNXRegistry.from_torchlib = staticmethod(from_torchlib)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture
def teacher() -> BertForSequenceClassification:
    return make_bert(4, seed=1)


@pytest.fixture
def student() -> BertForSequenceClassification:
    return make_bert(2, seed=2)


@pytest.fixture
def dataset() -> Dataset:
    return make_dataset()


def make_report(notes):
    """Three tiny models, measured on 32 sentences."""
    from hfdistill.evaluation.measure import Contender, measure
    from hfdistill.evaluation.speed import SpeedPlan

    return measure(
        Contender(make_bert(2, seed=2), name="small"),
        make_dataset(),
        teacher=Contender(make_bert(4, seed=1), name="big"),
        baseline=Contender(make_bert(2, seed=3), name="plain"),
        tokenizer=make_tokenizer(),
        speed=SpeedPlan(latency_rows=3, batch_size=4, throughput_rows=8, repeats=2),
        notes=notes,
    )
