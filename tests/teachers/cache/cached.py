"""Small recordings, and what is asked of them."""

import hashlib

import torch
from datasets import Dataset
from transformers import DataCollatorWithPadding

from hfdistill import CachedTeacher, Contents, ModelTeacher, Tap, record
from hfdistill.data import encode
from tests.conftest import make_bert, make_dataset, make_tokenizer

INSIDE = Contents(taps={Tap("hidden", 0), Tap("hidden", 3), Tap("query", 2), Tap("value", 3)})


def teacher(seed=1, **options):
    return make_bert(3, seed=seed, **options)


def texts(rows=24):
    data = make_dataset(rows)
    longer = [f"{row['text']} {'and it was ' * (i // 8)}".strip() for i, row in enumerate(data)]
    return Dataset.from_dict({"text": longer, "label": data["label"]})


def encoded(rows=24, **options):
    return encode(texts(rows), make_tokenizer(), **options)


def batch_of(data, rows=None, *, side="right", to=None):
    """A padded batch of some rows, without labels."""
    tokenizer = make_tokenizer()
    tokenizer.padding_side = side
    rows = range(len(data)) if rows is None else rows
    plain = [{n: v for n, v in data[i].items() if n in tokenizer.model_input_names} for i in rows]
    pads = DataCollatorWithPadding(tokenizer, padding="max_length" if to else True, max_length=to)
    return dict(pads(plain))


def recorded(folder, data=None, *, model=None, **options):
    """Record into a folder, in small batches unless told otherwise."""
    settings = {"tokenizer": make_tokenizer(), "tokens_per_batch": 64, **options}
    return record(model or teacher(), encoded() if data is None else data, folder=folder, **settings)


def live(batch, model=None, taps=frozenset()):
    return ModelTeacher(model or teacher()).trace(batch, taps=taps)


def hits(folder, batch, **options):
    """Which rows of a batch a folder answers without a live teacher."""
    cached = CachedTeacher(folder, **options)
    return (~cached.missing(cached.rows(batch).keys)).tolist()


def shards(folder):
    return sorted(folder.glob("*/shard-*.safetensors"))


def digests(folder):
    """sha256 of every file but the claims, by its name."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "claims"]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def same_traces(one, other, *, atol=0.0, where=None):
    """Logits and, at real tokens, readings."""
    torch.testing.assert_close(one.logits, other.logits, atol=atol, rtol=0)
    assert one.readings.keys() == other.readings.keys()
    for tap, reading in one.readings.items():
        a, b = reading, other.readings[tap]
        assert a.shape == b.shape
        if tap.kind != "hidden":
            a, b = a.transpose(1, 2), b.transpose(1, 2)
        torch.testing.assert_close(a[where.bool()], b[where.bool()], atol=atol, rtol=0)
