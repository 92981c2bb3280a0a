"""Rows written anew: what comes out, what never does, and that it comes out again."""

import builtins
import math
from random import Random
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset, Features, List, Value

from hfdistill.data import (
    Augmentation,
    Chain,
    Delete,
    FreshCopies,
    Mask,
    NGramSample,
    Swap,
    Synonyms,
    augment,
    row_lengths,
)
from hfdistill.data.encode import encode
from tests.conftest import make_dataset, make_tokenizer

WAYS = {
    "mask": Mask("[MASK]", p=0.3),
    "n-gram": NGramSample(),
    "delete": Delete(p=0.3),
    "swap": Swap(share=0.3),
    "synonyms": Synonyms({"film": ["movie", "picture"], "good": ["fine"], "is": ["be"]}),
    "chain": Chain(Mask("[MASK]"), NGramSample(p=0.25)),
    "function": lambda text: [text.upper(), f"{text} again"],
}
each_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def make_pairs():
    """The words of one side are never the other's."""
    return Dataset.from_dict(
        {
            "text": [" ".join(f"a{i}{j}" for j in range(4)) for i in range(12)],
            "text_pair": [" ".join(f"b{i}{j}" for j in range(4)) for i in range(12)],
            "label": [i % 2 for i in range(12)],
        }
    )


@each_way
def test_new_rows_are_texts_of_their_own_without_labels(way):
    rows = make_dataset()
    grown = augment(rows, way, copies=3, seed=1)
    old, new = grown["text"][: len(rows)], grown["text"][len(rows) :]
    assert old == rows["text"][:]
    assert grown["label"][: len(rows)] == rows["label"][:]
    assert 0 < len(new) <= 3 * len(rows)
    assert all(text.strip() for text in new)
    assert len({*old, *new}) == len(set(old)) + len(new)
    assert set(grown["label"][len(rows) :]) == {-100}
    assert grown.features == rows.features


@each_way
def test_the_same_seed_gives_the_same_rows_in_any_batches_and_processes(way):
    rows = make_dataset(60)
    once = augment(rows, way, copies=2, seed=1)
    assert augment(rows, way, copies=2, seed=1)["text"][:] == once["text"][:]
    some = augment(rows.select(range(7)), way, copies=2, seed=1)["text"][7:]
    assert set(some) <= {*once["text"][60:], *rows["text"][7:]}
    drawn = isinstance(way, Augmentation)
    assert (augment(rows, way, copies=2, seed=2)["text"][60:] != once["text"][60:]) == drawn


def test_processes_share_the_work_and_change_nothing():
    rows = make_dataset(40)
    alone, shared = (augment(rows, Delete(), copies=2, num_proc=n) for n in (None, 2))
    assert alone.to_dict() == shared.to_dict()


def test_copies_of_a_few_are_the_first_of_many():
    rows = make_dataset()
    few, many = (set(augment(rows, Swap(), copies=n, seed=3)["text"][:]) for n in (2, 5))
    assert few < many


@pytest.mark.parametrize("way", [way for name, way in WAYS.items() if name not in ("function", "synonyms")])
def test_pairs_stay_pairs(way):
    rows = make_pairs()
    new = augment(rows, way, copies=6, seed=1).select(range(12, 60))
    changed = set()
    for a, b in zip(new["text"], new["text_pair"], strict=True):
        sources = {word[1:-1] for word in f"{a} {b}".split() if word != "[MASK]"}
        assert len(sources) == 1  # both sides come from one row
        assert {word[0] for word in a.split()} <= {"a", "["}
        assert {word[0] for word in b.split()} <= {"b", "["}
        (i,) = map(int, sources)
        changed.add((a != rows["text"][i], b != rows["text_pair"][i]))
    assert changed == {(True, False), (False, True), (True, True)}


def test_one_side_of_a_pair_alone_may_change():
    new = augment(make_pairs(), Delete(p=0.5), copies=3, columns=["text_pair"])
    assert set(new["text"]) == set(make_pairs()["text"])
    with pytest.raises(ValueError, match="may name text, text_pair"):
        augment(make_pairs(), Delete(), columns=["label"])


@pytest.mark.parametrize(
    ("feature", "values", "blank"),
    [
        (Value("int64"), [1, 0], -100),
        (Value("float32"), [0.5, 2.0], math.nan),
        (List(Value("float32"), length=3), [None, [1.0, 0.0, 1.0]], [-100.0] * 3),
    ],
    ids=["class", "number", "several labels"],
)
def test_no_label_is_written_as_each_task_reads_it(feature, values, blank):
    features = Features({"text": Value("string"), "label": feature})
    rows = Dataset.from_dict({"text": ["a b c d", "e f g h"], "label": values}, features=features)
    grown = augment(rows, Delete(p=0.5), copies=1, seed=1)["label"][:]
    assert str(grown[2:]) == str([blank] * len(grown[2:]))
    assert len(grown) > 2
    kept = augment(rows, Delete(p=0.5), copies=1, seed=1, keep_labels=True)["label"][:]
    known = [blank if value is None else value for value in values]
    assert str(kept) == str(values + known[: len(kept) - 2])


def test_a_function_is_asked_anew_and_settings_are_not():
    """datasets would take rows from its cache: it knows a function of a module by its name alone."""
    rows, said = make_dataset(4), ["one"]
    first = augment(rows, lambda text: [f"{text} {said[0]}"])
    said[0] = "two"
    assert first["text"][-1].endswith("one")
    assert augment(rows, lambda text: [f"{text} {said[0]}"])["text"][-1].endswith("two")


def test_rows_on_disk_are_read_again_only_for_the_same_settings(tmp_path, monkeypatch):
    make_dataset(8).to_parquet(tmp_path / "rows.parquet")
    rows = Dataset.from_parquet(str(tmp_path / "rows.parquet"), cache_dir=str(tmp_path))
    drawn = []
    real = Swap.draw
    monkeypatch.setattr(Swap, "draw", lambda self, *a, **o: drawn.append(1) or real(self, *a, **o))
    first = augment(rows, Swap(), seed=1)
    count = len(drawn)
    assert augment(rows, Swap(), seed=1)["text"][:] == first["text"][:]
    assert len(drawn) == count > 0
    others = ({"seed": 2}, {"copies": 2}, {"keep_labels": True})
    for options in others:
        augment(rows, Swap(), **{"seed": 1, **options})
    augment(rows, Swap(share=0.5), seed=1)
    assert len(drawn) >= count * (len(others) + 1)


def test_an_augmentation_of_ones_own_needs_draw_alone():
    class Shout(Augmentation):
        def draw(self, prepared, *, random, copy):
            return f"{prepared} {random.randint(0, 9)} {copy}"

    rows = make_dataset(4)
    one, same = (augment(rows, Shout(), copies=2)["text"][4:] for _ in range(2))
    assert one == same
    assert [text[-1] for text in one] == ["0", "1"] * 4


def test_each_way_by_hand():
    """Draws that are known: 0.9 leaves a word, 0.1 takes it."""
    turns = iter([0.9, 0.1, 0.9] * 2)
    known = SimpleNamespace(random=lambda: next(turns))
    assert Mask("[MASK]", p=0.5).draw("a b c", random=known, copy=0) == "a [MASK] c"
    assert Delete(p=0.5).draw("a b c", random=known, copy=0) == "a c"
    run = SimpleNamespace(random=lambda: 0.0, randint=lambda low, high: high)
    assert NGramSample(longest=2).draw("a b c", random=run, copy=0) == "b c"
    places = SimpleNamespace(sample=lambda *_: [0, 2])
    assert Swap().draw("a b c", random=places, copy=0) == "c b a"
    words = Synonyms({"film": ["movie"], "the": ["that"]}, share=1.0)
    assert words.draw("The Film, film's 4film film.", random=Random(0), copy=0) == (
        "The Movie, film's 4film movie."
    )


@pytest.mark.parametrize("text", ["", "  ", "one", "...", "a\n\tb", "\ud83d\ude00", "中文句子", "x " * 2000])
@each_way
def test_no_text_becomes_empty(way, text):
    from hfdistill.data.augmentations import as_augmentation

    made = as_augmentation(way)
    for seed in range(20):
        written = made.draw(made.prepare([text])[0], random=Random(seed), copy=seed)
        assert written.strip() or not text.strip()


def test_wordnet_is_read_where_it_is_installed(monkeypatch):
    synset = SimpleNamespace(lemma_names=lambda: ["picture", "film", "motion_picture"])
    found = SimpleNamespace(ensure_loaded=lambda: None, synsets=lambda word: [synset] * (word == "film"))
    real = builtins.__import__
    monkeypatch.setattr(
        builtins, "__import__",
        lambda name, *a: SimpleNamespace(wordnet=found) if name == "nltk.corpus" else real(name, *a),
    )  # fmt: skip
    assert Synonyms().synonyms("film") == ["motion picture", "picture"]


def test_wordnet_that_is_missing_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("nltk"):
            raise ImportError
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(LookupError, match=r"python -m nltk\.downloader wordnet"):
        Synonyms()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: augment(make_dataset(4), Delete(), copies=0), "1 copy or more"),
        (lambda: FreshCopies(make_dataset(4), Delete(), copies=0), "1 copy or more"),
        (lambda: augment({"train": make_dataset(4)}, Delete()), "one split"),
        (lambda: augment(make_dataset(4), Delete), r"Delete\(\)"),
        (lambda: augment(make_dataset(4), "delete"), r"str -> list\[str\]"),
        (lambda: augment(make_dataset(4), lambda text: text), "gives a list of texts"),
        (lambda: augment(make_dataset(4), lambda text: [str(torch.rand(1))]), "in two ways"),
        (lambda: augment(make_dataset(4), Chain(Swap(), lambda text: [str(torch.rand(1))])), "in two ways"),
        (lambda: augment(make_dataset(4), lambda text: [" ", text]), "changed none of the 4 rows"),
        (lambda: augment(make_dataset(4).rename_column("text", "body"), Delete()), "with the column text"),
        (lambda: augment(encode(make_dataset(4), make_tokenizer()), Delete()), "before it is tokenised"),
        (lambda: augment(Dataset.from_dict({"text": ["a b", None]}), Delete()), "holds None"),
        (lambda: Mask(None), "take Delete"),
        (lambda: Delete(p=0), "above 0"),
        (lambda: NGramSample(longest=0), "1 word or more"),
        (lambda: Chain(), "one augmentation or more"),
    ],
)
def test_what_cannot_work_is_refused(call, said):
    with pytest.raises((ValueError, TypeError), match=said):
        call()


def test_a_fresh_copy_of_an_epoch_is_that_copy_of_the_fixed_set():
    rows = make_dataset(12)
    fresh, made = FreshCopies(rows, Swap(share=0.5), copies=2, seed=4), set()
    for epoch in range(3):
        fresh.set_epoch(epoch)
        made |= {fresh[i]["text"] for i in range(12, 36)}
    fixed = set(augment(rows, Swap(share=0.5), copies=6, seed=4)["text"])
    assert fixed - set(rows["text"]) == made - set(rows["text"])


def test_fresh_copies_differ_between_epochs_and_not_between_readings():
    fresh = FreshCopies(make_dataset(16), Delete(p=0.5), seed=1)
    epochs = []
    for epoch in (0, 1, 0):
        fresh.set_epoch(epoch)
        epochs.append([fresh[i] for i in range(32)])
    assert epochs[0] == epochs[2]
    assert epochs[0][:16] == epochs[1][:16] == list(make_dataset(16))
    assert epochs[0][16:] != epochs[1][16:]
    assert fresh.__getitems__([20, 3, 31, 3]) == [fresh[20], fresh[3], fresh[31], fresh[3]]
    assert fresh[-1] == fresh[31]
    with pytest.raises(IndexError):
        fresh[32]


def test_copies_in_place_take_half_of_the_rows_and_then_the_other_half():
    rows = make_dataset(15)
    fresh, copies = (FreshCopies(rows, Delete(p=0.5), seed=1, in_place=place) for place in (True, False))
    assert len(fresh) == 15
    changed = []
    for epoch in range(3):
        fresh.set_epoch(epoch)
        copies.set_epoch(epoch)
        shown = fresh.__getitems__(list(range(15)))
        changed.append({i for i in range(15) if shown[i]["label"] == -100})
        for i in range(15):
            assert shown[i] == copies[15 + i if i in changed[epoch] else i]
            assert fresh[i] == shown[i]
    assert changed[0] == changed[2]
    assert changed[0] | changed[1] == set(range(15))
    assert not changed[0] & changed[1]
    assert sorted(map(len, changed[:2])) == [7, 8]


def test_lengths_and_fingerprints_of_copies_in_place():
    def made(**options):
        return encode(FreshCopies(make_dataset(6), Swap(), **options), make_tokenizer())

    plain, placed = made(), made(in_place=True)
    assert row_lengths(placed) * 2 == row_lengths(plain)
    assert placed.fingerprint() == f"{plain.fingerprint()} in place"
    with pytest.raises(ValueError, match="one new row in the place of a row, found copies=2"):
        made(in_place=True, copies=2)


def test_fresh_copies_are_tokenised_as_their_text_would_be():
    fresh, tokenizer = FreshCopies(make_pairs(), Delete(p=0.5), seed=1), make_tokenizer()
    read = encode(fresh, tokenizer, max_length=8)
    assert read.column_names == ["label", "input_ids", "token_type_ids", "attention_mask"]
    for row, text in zip(map(read.__getitem__, range(24)), map(fresh.__getitem__, range(24)), strict=True):
        ids = tokenizer(text["text"], text["text_pair"], max_length=8, truncation=True)
        assert row == {"label": text["label"], **ids}


@pytest.mark.parametrize("labels", [[True, False], ["good", "bad"], [[True], [False]]])
def test_labels_that_cannot_be_missing_are_refused_unless_they_are_kept(labels):
    rows = Dataset.from_dict({"text": ["a good film", "a bad film"], "label": labels})
    for make in (augment, FreshCopies):
        with pytest.raises(ValueError, match=r"Column 'label' holds (bool|string), in which nothing can"):
            make(rows, Swap())
    assert augment(rows, Swap(), keep_labels=True)["label"][2:] == labels


def test_ids_that_a_teacher_has_read_already_would_be_those_of_the_old_text():
    rows = encode(make_dataset(4), make_tokenizer(), prefix="teacher_")
    assert "text" in rows.column_names
    with pytest.raises(ValueError, match=r"before it is tokenised, found the columns .*teacher_input_ids"):
        augment(rows, Swap())


def test_rows_of_a_subclass_are_never_read_from_a_cache(tmp_path):
    class Loud(Delete):
        mark = "!"

        def draw(self, prepared, *, random, copy):
            return prepared + self.mark

    class Cool(Synonyms):
        pass

    assert Delete(p=0.3).fingerprint() is not None
    assert Cool({"film": ["movie"]}).fingerprint() is None
    make_dataset(4).save_to_disk(tmp_path / "rows")
    rows = Dataset.load_from_disk(tmp_path / "rows")  # datasets caches what is made of files
    assert all(text.endswith("!") for text in augment(rows, Loud())["text"][4:])
    Loud.mark = "?"  # as if its code was edited
    assert all(text.endswith("?") for text in augment(rows, Loud())["text"][4:])
