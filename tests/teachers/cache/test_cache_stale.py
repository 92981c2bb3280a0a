"""What must miss misses, what must hit hits: part E of the list of faults."""

import pytest
import torch
from datasets import Dataset
from transformers import DataCollatorWithPadding

import hfdistill.teachers.cache.manifest as facts
from hfdistill import CachedTeacher, CacheError, Contents, Tap, Teacher, Trace
from hfdistill.data import encode
from tests.conftest import make_fnet, make_tokenizer
from tests.teachers.cache.cached import (
    batch_of,
    encoded,
    hits,
    live,
    recorded,
    shards,
    teacher,
)

# What must miss: faults E1 to E10, E14, E15


def one_bit(model):
    weight = model.bert.encoder.layer[1].output.dense.weight.data
    weight.view(torch.int32)[3, 3] ^= 1
    return model


def has_no_answer(folder, model):
    """Whether a teacher has a folder of its own, which is empty."""
    cached = CachedTeacher(folder, teacher=model)
    missing = cached.missing(cached.rows(batch_of(encoded())).keys).all()
    cached.folder.rmdir()
    return missing


def test_e2_one_bit_of_one_weight(folder):
    assert has_no_answer(folder, one_bit(teacher()))


def test_e3_another_config(folder):
    assert has_no_answer(folder, teacher(hidden_act="relu"))


def test_e14_other_weights_under_the_same_name(folder):
    """The name of a model, an id at whatever revision, has no part in it."""
    moved = teacher(seed=2)
    moved.config.name_or_path = moved.name_or_path = teacher().name_or_path
    assert has_no_answer(folder, moved)


def test_e1_a_teacher_replaced_at_its_path_is_another(tmp_path):
    data, answers = encoded(), []
    for seed in (1, 2):
        teacher(seed=seed).save_pretrained(tmp_path / "model")
        cached = recorded(tmp_path / "answers", data, model=str(tmp_path / "model"))
        answers.append(cached.trace(batch_of(data)).logits)
        torch.testing.assert_close(answers[-1], live(batch_of(data), teacher(seed=seed)).logits)
    assert (answers[0] - answers[1]).abs().max() > 0.01


def test_e4_e5_e7_another_token(folder):
    """A vocabulary, a normaliser or a text that is another is one where it gives another id."""
    data = encoded()
    first = data[0]["input_ids"]
    for i in range(1, len(first) - 1):
        row = {**data[0], "input_ids": [*first[:i], first[i] + 1, *first[i + 1 :]]}
        assert hits(folder, batch_of([row])) == [False]


def test_e6_another_truncation(folder):
    long = [len(row["input_ids"]) > 8 for row in encoded()]
    assert any(long)
    assert [not hit for hit in hits(folder, batch_of(encoded(max_length=8)))] == long


def test_e8_a_pair_in_the_other_order(tmp_path):
    columns = {"text": ["a good film", "the cast"], "text_pair": ["a dull plot", "the end"]}
    swapped = {"text": columns["text_pair"], "text_pair": columns["text"]}
    pairs, others = (
        encode(Dataset.from_dict(c), make_tokenizer(), token_types=True) for c in (columns, swapped)
    )
    recorded(tmp_path, pairs)
    assert hits(tmp_path, batch_of(pairs)) == [True, True]
    assert hits(tmp_path, batch_of(others)) == [False, False]


def test_e9_e10_other_contents_have_a_folder_of_their_own(folder):
    """Other layers and outputs, another storage type."""
    kinds = [Contents(dtype="float16"), Contents(taps={Tap("hidden", 1)}), Contents(precision="bf16")]
    names = {CachedTeacher(folder, teacher=teacher(), contents=contents).folder for contents in kinds}
    mean = Contents(taps={Tap("hidden", 1)}, pooled="mean")
    names.add(CachedTeacher(folder, teacher=teacher(), contents=mean).folder)
    assert len(names) == 4
    for name in names:
        assert not list(name.iterdir())
        name.rmdir()
    with pytest.raises(CacheError, match=r"is not recorded.*hfdistill\.record"):
        CachedTeacher(folder).trace(batch_of(encoded()), taps={Tap("hidden", 1)})


def test_e15_another_schema_is_another_folder(folder, monkeypatch):
    """What another version wrote is neither found nor read."""
    monkeypatch.setattr("hfdistill.teachers.cache.contents.SCHEMA", 2)
    cached = CachedTeacher(folder, teacher=teacher())
    assert cached.store is None
    cached.folder.rmdir()
    with pytest.raises(CacheError, match="schema 1 is not known"):
        CachedTeacher(folder)


# What must hit


def test_what_is_no_part_of_the_answer_hits(tmp_path):
    data = encoded()
    recorded(tmp_path / "here", data)
    (tmp_path / "here").rename(tmp_path / "there")
    folder = tmp_path / "there"
    relabelled = data.remove_columns("label").add_column("labels", [7] * 24)
    for changed in (data.shuffle(seed=1), data.select(range(5)), relabelled, data.select([1, 1, 1])):
        assert all(hits(folder, {**batch_of(changed), "labels": torch.zeros(len(changed))}))
    extra = {**batch_of(data), "weight": torch.rand(24)}  # a column that the teacher does not read
    assert all(hits(folder, extra))
    renamed = teacher(labels={0: "down", 1: "up"})  # names are part of the config: asked again
    assert CachedTeacher(folder, teacher=renamed).store is None


def test_nothing_is_asked_twice(tmp_path, caplog):
    model, calls = teacher(), []
    model.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append(kwargs["input_ids"]), with_kwargs=True
    )
    data = encoded()
    twice = Dataset.from_list([*data, *data])
    recorded(tmp_path, twice, model=model)
    distinct = len({tuple(ids) for ids in data["input_ids"]})
    assert (
        sum(map(len, calls)) == distinct + 2 * 8 + 1
    )  # eight rows twice, to see whether it is steady, and one without padding
    assert max(batch.numel() for batch in calls) <= 8 * 32
    asked = len(calls)
    recorded(tmp_path, twice.shuffle(seed=0), model=model)
    assert len(calls) == asked
    before = set(shards(tmp_path))
    recorded(tmp_path, encoded(32), model=model)
    assert set(shards(tmp_path)) > before


def test_batches_have_one_number_of_tokens_and_the_longest_come_first(tmp_path):
    model, shapes = teacher(), []
    model.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    recorded(tmp_path, model=model, tokens_per_batch=60)
    del shapes[:3]
    assert [width for _, width in shapes] == sorted((width for _, width in shapes), reverse=True)
    assert all(rows * width <= 60 for rows, width in shapes)
    assert all((rows + 1) * width > 60 for rows, width in shapes[:-1])


def test_e12_other_versions_are_told(folder, caplog, monkeypatch):
    """Recorded, warned of, and read all the same."""
    CachedTeacher(folder)
    assert not caplog.records
    model = teacher()
    model.config._attn_implementation = "eager"
    cached = CachedTeacher(folder, teacher=model)
    assert "'attention': 'eager'" in caplog.text
    assert not cached.missing(cached.rows(batch_of(encoded())).keys).any()
    caplog.clear()
    monkeypatch.setattr(facts.transformers, "__version__", "6.0.0")
    assert all(hits(folder, batch_of(encoded())))
    assert "6.0.0" in caplog.text


def test_a_teacher_that_is_not_told_what_is_padding_is_recorded_at_one_length_alone(tmp_path):
    """Its answer to a row changes with the padding beside it, and its key holds the padding."""
    with pytest.raises(CacheError, match=r"takes no attention_mask.*Pad all rows to one length, or leave"):
        recorded(tmp_path, model=make_fnet(2))
    widest = max(map(len, encoded()["input_ids"]))
    pads = DataCollatorWithPadding(make_tokenizer(), padding="max_length", max_length=widest)
    recorded(tmp_path, model=make_fnet(2), tokenizer=pads)
    assert all(hits(tmp_path, batch_of(encoded(), to=widest)))
    assert not any(hits(tmp_path, batch_of(encoded(), to=widest + 1)))


def test_a_teacher_that_reads_padding_beside_its_mask_is_told_of(tmp_path, caplog):
    class Mixing(Teacher):
        """The mean over all tokens, padding included, as a convolution would read some of it."""

        def fingerprint(self):
            return "the mean"

        def trace(self, batch):
            ids = batch["input_ids"].float()
            return Trace(logits=torch.stack([ids.mean(1), batch["attention_mask"].sum(1)], 1))

    recorded(tmp_path / "mixing", model=Mixing())
    assert len(caplog.records) == 1
    assert "reads the padding of a batch: an answer moved by" in caplog.text
    caplog.clear()
    recorded(tmp_path / "plain")
    assert not caplog.records
