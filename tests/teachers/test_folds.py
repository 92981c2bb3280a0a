import pytest
import torch

from hfdistill import LabelSpaceError
from hfdistill.network.trace import Tap, Trace
from hfdistill.teachers import FoldTeacher, ModelTeacher, Teacher
from hfdistill.teachers.folds import assign_folds, text_key
from tests.conftest import make_bert, make_sentences, make_tokenizer
from tests.word_material import make_tagger

TEXTS = [text for text, _ in make_sentences(12)]


class Constant(Teacher):
    """Says its number, and keeps what it was asked."""

    def __init__(self, number):
        super().__init__()
        self.number, self.asked = number, []

    def trace(self, batch):
        self.asked.append(len(batch["input_ids"]))
        return Trace(logits=torch.full((len(batch["input_ids"]), 2), float(self.number)))


def batch_of(texts, **options):
    return dict(make_tokenizer()(texts, padding=True, return_tensors="pt", **options))


def key(text):
    return text_key(make_tokenizer()(text)["input_ids"])


def test_each_row_is_answered_by_the_teacher_of_its_fold():
    teachers = [ModelTeacher(make_bert(2, seed=i)) for i in range(3)]
    routed = FoldTeacher(teachers, {key(text): i % 3 for i, text in enumerate(TEXTS)})
    found = routed.trace(batch_of(TEXTS))
    for i, text in enumerate(TEXTS):
        alone = teachers[i % 3].trace(batch_of([text])).logits[0]
        torch.testing.assert_close(found.logits[i], alone, rtol=1e-5, atol=1e-6)


def test_order_and_padding_do_not_matter():
    routed = FoldTeacher([Constant(0), Constant(1)], {key(text): i % 2 for i, text in enumerate(TEXTS)})
    order = [7, 2, 11, 4]
    padded = make_tokenizer()
    for side in ("left", "right"):
        padded.padding_side = side
        chosen = padded([TEXTS[i] for i in order], padding="max_length", return_tensors="pt")
        assert routed.trace(dict(chosen)).logits[:, 0].tolist() == [1, 0, 1, 0]


def test_text_in_no_fold_is_answered_by_the_mean_and_a_teacher_is_asked_for_no_more():
    teachers = [Constant(1), Constant(2), Constant(6)]
    routed = FoldTeacher(teachers, {key(TEXTS[0]): 0, key(TEXTS[1]): 2})
    logits = routed.trace(batch_of([TEXTS[0], "a new film", TEXTS[1], "another"])).logits
    assert logits[:, 1].tolist() == pytest.approx([1, 3, 6, 3])
    assert [teacher.asked for teacher in teachers] == [[3], [2], [3]]
    routed.trace(batch_of([TEXTS[0]]))
    assert [len(teacher.asked) for teacher in teachers] == [2, 1, 1]


def test_words_are_answered_too():
    teachers = [ModelTeacher(make_tagger(2, seed=i)) for i in range(2)]
    routed = FoldTeacher(teachers, {key(text): i % 2 for i, text in enumerate(TEXTS)})
    batch = batch_of(TEXTS)
    expected = torch.stack([teachers[i % 2].trace(batch).logits[i] for i in range(len(TEXTS))])
    torch.testing.assert_close(routed.trace(batch).logits, expected, rtol=1e-5, atol=1e-6)


def test_the_fingerprint_knows_teachers_and_assignment():
    def made(seed, fold):
        models = [ModelTeacher(make_bert(2, seed=seed)), ModelTeacher(make_bert(2, seed=5))]
        return FoldTeacher(models, {key(TEXTS[0]): fold, key(TEXTS[1]): 1})

    prints = [made(0, 0).fingerprint(), made(1, 0).fingerprint(), made(0, 1).fingerprint()]
    assert len(set(prints)) == 3
    assert made(0, 0).fingerprint() == prints[0]


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_folds_are_balanced_and_copies_stay_together(folds):
    keys = [text_key([i // 2 if i < 20 else i]) for i in range(60)]  # rows 0 to 19 are ten texts, each twice
    labels = [0 if i < 40 else 1 if i < 57 else 2 for i in range(60)]
    found = assign_folds(keys, labels, folds=folds, seed=3)
    assert all(found[i] == found[i + 1] for i in range(0, 20, 2))
    texts = {k: (fold, label) for k, fold, label in zip(keys, found, labels, strict=True)}
    for label in (0, 1, 2, None):
        sizes = [
            sum(f == fold and (label is None or y == label) for f, y in texts.values())
            for fold in range(folds)
        ]
        assert max(sizes) - min(sizes) <= 1
    assert found == assign_folds(keys, labels, folds=folds, seed=3)
    assert found != assign_folds(keys, labels, folds=folds, seed=4)


def test_keys_that_end_in_zeros_are_told_apart():
    keys = [b"\1" + b"\0" * 15, b"\1" + b"\0" * 14 + b"\1"]
    assert sorted(assign_folds(keys, None, folds=2, seed=0)) == [0, 1]


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="needs two teachers or more, found 1"):
        FoldTeacher([Constant(0)], {})
    with pytest.raises(ValueError, match="names fold 2, and there are the folds 0 to 1"):
        FoldTeacher([Constant(0), Constant(1)], {b"x": 2})
    with pytest.raises(LabelSpaceError, match="outputs"):
        FoldTeacher([make_bert(2), make_bert(2, labels={0: "a", 1: "b", 2: "c"})], {})
    with pytest.raises(ValueError, match="teacher of fold 1 has the classes of fold 0 in another order"):
        FoldTeacher([make_bert(2), make_bert(2, labels={0: "positive", 1: "negative"})], {})
    with pytest.raises(ValueError, match=r"folds=3 does not fit 1 different texts"):
        assign_folds([b"a"] * 4, None, folds=3, seed=0)
    routed = FoldTeacher([Constant(0), Constant(1)], {}, max_length=4)
    with pytest.raises(ValueError, match=r"has \d+ tokens, and the folds were made of rows cut to 4"):
        routed.trace(batch_of(TEXTS))
    with pytest.raises(ValueError, match="hidden states that do not mean the same"):
        routed.trace(batch_of(["a"]), taps={Tap("hidden", 1)})
