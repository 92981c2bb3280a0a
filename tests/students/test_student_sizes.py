"""Sizes from a config alone, against the students themselves."""

import pytest

from hfdistill.students.early_exit import with_exits
from hfdistill.students.shrink import shrink
from hfdistill.students.student_sizes import sizes
from tests.conftest import make_bert
from tests.word_material import make_tagger


@pytest.mark.parametrize("make", [make_bert, make_tagger])
def test_sizes_are_those_of_the_students(make, tmp_path):
    teacher = make(3)
    teacher.save_pretrained(tmp_path)
    assert [size.parameters for size in sizes(str(tmp_path))] == [
        shrink(teacher, layers=layers).num_parameters() for layers in (1, 2, 3)
    ]


def test_a_model_with_exits_has_none(tmp_path):
    with_exits(make_bert(3)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"Pass model\.backbone"):
        sizes(str(tmp_path))
