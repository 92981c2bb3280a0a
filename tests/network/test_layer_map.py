"""Layer maps: every rule, every ratio of depths, and what is refused with which proposal."""

import pytest
from transformers import BertConfig, BertForSequenceClassification

from hfdistill import LayerMap, shrink
from hfdistill.network.layer_map import uniform


@pytest.mark.parametrize(
    ("layers", "depths", "expected"),
    [
        ("uniform", (4, 12), ((1, 3), (2, 6), (3, 9), (4, 12))),
        ("uniform", (6, 12), ((1, 2), (2, 4), (3, 6), (4, 8), (5, 10), (6, 12))),
        ("uniform", (4, 6), ((1, 2), (2, 3), (3, 5), (4, 6))),
        ("uniform", (3, 2), ((1, 1), (2, 1), (3, 2))),
        ("first", (3, 12), ((1, 1), (2, 2), (3, 3))),
        ("last", (3, 12), ((1, 10), (2, 11), (3, 12))),
        ("skip", (6, 12), ((1, 2), (2, 4), (3, 6), (4, 8), (5, 10))),
        ("pkd-skip", (3, 12), ((1, 4), (2, 8))),
        ("PKD-last", (6, 12), ((1, 7), (2, 8), (3, 9), (4, 10), (5, 11))),
        ("pkd-last", (3, 12), ((1, 10), (2, 11))),
        ("2:6,1:3", (2, 6), ((1, 3), (2, 6))),
        (" 0 : 0 , last : last ", (3, 12), ((0, 0), (3, 12))),
        ({1: 3, 2: 3}, (2, 6), ((1, 3), (2, 3))),
        ({"1": "last"}, (2, 6), ((1, 6),)),
        ([(1, 3), [2, "last"]], (2, 6), ((1, 3), (2, 6))),
        (LayerMap("1:3"), (2, 6), ((1, 3),)),
    ],
)
def test_pairs(layers, depths, expected):
    assert LayerMap(layers).resolve(*depths) == expected


@pytest.mark.parametrize("teacher", range(1, 13))
def test_uniform_names_the_blocks_that_shrink_keeps(teacher):
    sizes = {"hidden_size": 4, "num_attention_heads": 1, "intermediate_size": 4, "vocab_size": 8}
    whole = BertForSequenceClassification(BertConfig(num_hidden_layers=teacher, **sizes))
    for student in range(1, teacher + 1):
        pairs = LayerMap("uniform").resolve(student, teacher, lowest=1)
        cut = shrink(whole, layers=student).config.shrunk_from["layers"]
        assert [n for _, n in pairs] == cut
        assert all(uniform(m, student_depth=student, teacher_depth=teacher) == n for m, n in pairs)


@pytest.mark.parametrize("layers", ["uniform", "first", "last", "pkd-skip", "pkd-last"])
def test_a_rule_fits_any_student_that_is_not_deeper(layers):
    for teacher in range(1, 25):
        for student in range(2, teacher + 1):
            pairs = LayerMap(layers).resolve(student, teacher, lowest=1)
            assert [m for m, _ in pairs] == list(range(1, len(pairs) + 1))
            assert len(pairs) == student - layers.startswith("pkd")
            assert sorted({n for _, n in pairs}) == [n for _, n in pairs]


@pytest.mark.parametrize(
    ("layers", "depths", "lowest", "message"),
    [
        (
            "1:3, 5:6",
            (3, 6),
            0,
            r"pair 5:6, but the student's layers are 0 to 3.*map of these two is '1:2, 2:4, 3:6'",
        ),
        ("1:7", (3, 6), 0, r"pair 1:7.*the teacher's 0 to 6"),
        ({1: -1}, (3, 6), 0, "pair 1:-1"),
        ("0:0", (3, 6), 1, r"pair 0:0.*student's layers are 1 to 3"),
        ("first", (4, 3), 0, r"pair 4:4.*'1:1, 2:2, 3:2, 4:3'"),
        ("last", (4, 2), 0, r"pair 1:-1"),
        ("pkd-skip", (1, 6), 0, r"pkd-skip pairs no layers .*nothing would be learnt.*'1:6'"),
        ("3:1, last:2", (3, 6), 0, "names student layer 3 twice"),
    ],
)
def test_a_map_that_does_not_fit_is_refused_with_the_range_and_the_uniform_map(
    layers, depths, lowest, message
):
    with pytest.raises(ValueError, match=message):
        LayerMap(layers).resolve(*depths, lowest=lowest)


@pytest.mark.parametrize(
    "layers", ["", "even", "1-3", "1:", "1:2:3", "1:2,", "a:b", "1:-2", 63, None, [], {}, [1], [(1,)]]
)
def test_a_map_that_cannot_be_read_is_refused_with_what_can(layers):
    with pytest.raises(ValueError, match=r"cannot be read. Write 'uniform'.*'1:3, 2:6'"):
        LayerMap(layers)


@pytest.mark.parametrize("layers", [{1: True}, {1: 2.0}, {1: "first"}, [(None, 2)]])
def test_a_layer_is_a_number_or_last(layers):
    with pytest.raises(ValueError, match="neither a layer number nor 'last'"):
        LayerMap(layers)


def test_a_student_layer_that_stands_twice_is_refused():
    with pytest.raises(ValueError, match=r"names student layer 1 twice.*two terms"):
        LayerMap("1:2, 1:3")


def test_a_map_reads_as_it_is_written():
    for text in ("uniform", "pkd-last", "1:3, 2:last"):
        assert (str(LayerMap(text)), eval(repr(LayerMap(text)))) == (text, LayerMap(text))  # noqa: S307
    assert LayerMap({1: 3}) == LayerMap("1:3")
    assert hash(LayerMap({1: 3})) == hash(LayerMap("1:3"))
    assert LayerMap("1:3") != LayerMap("first")
