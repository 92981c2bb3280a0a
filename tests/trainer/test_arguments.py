"""The few settings of a run that are not part of its objective."""

import dataclasses

import numpy as np
import pytest
from transformers import HfArgumentParser, TrainingArguments

from hfdistill import DistillationArguments
from hfdistill.trainer.arguments import fast_bf16, option

DEFAULTS = {"length_grouping": True, "max_length": None, "teacher_check_rows": 512}
DEFAULTS |= {"mixup": None, "freeze_embeddings": False, "student_dropout": None, "allow_changed": False}


def test_the_defaults_are_those_of_plain_arguments(tmp_path):
    plain, own = TrainingArguments(tmp_path), DistillationArguments(tmp_path)
    own_fields = {f.name for f in dataclasses.fields(own)} - {f.name for f in dataclasses.fields(plain)}
    assert own_fields == DEFAULTS.keys()
    assert {name: option(plain, name) for name in own_fields} == DEFAULTS
    assert {name: option(own, name) for name in own_fields} == DEFAULTS


def test_a_setting_that_is_given_is_the_one_that_counts(tmp_path):
    given = {"length_grouping": False, "max_length": 64, "teacher_check_rows": 0, "allow_changed": True}
    args = DistillationArguments(tmp_path, **given)
    assert {name: option(args, name) for name in given} == given


def test_the_settings_are_read_from_a_command_line_and_explained(tmp_path):
    parser = HfArgumentParser(DistillationArguments)
    line = "--length_grouping false --max_length 64 --allow_changed --teacher_check_rows 8"
    (args,) = parser.parse_args_into_dataclasses(["--output_dir", str(tmp_path), *line.split()])
    assert (args.length_grouping, args.max_length, args.allow_changed, args.teacher_check_rows) == (
        False,
        64,
        True,
        8,
    )
    own = {f.name: f.metadata["help"] for f in dataclasses.fields(args) if f.name in DEFAULTS}
    assert all(text.endswith(".") for text in own.values())
    assert all(len(text) > 30 for text in own.values())


@pytest.mark.parametrize("supported", [True, False])
def test_bf16_is_fast_where_the_hardware_multiplies_it(monkeypatch, supported):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"amx_bf16": supported, "avx512_bf16": True})
    assert fast_bf16() is supported
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(
        "torch.cuda.is_bf16_supported", lambda including_emulation: supported or including_emulation
    )
    assert fast_bf16() is supported


@pytest.mark.parametrize("rows", [-1, 0.5, "all"])
def test_rows_that_are_no_number_are_refused(tmp_path, rows):
    with pytest.raises(
        ValueError, match=rf"rows from 0 up, found {rows!r}\. Type 0 for none, a number above"
    ):
        DistillationArguments(tmp_path, teacher_check_rows=rows)


def test_numbers_of_numpy_are_read_as_numbers(tmp_path):
    given = {"teacher_check_rows": np.int64(5), "max_length": np.int64(9)}
    given |= {"mixup": np.float32(0.5), "student_dropout": np.float32(0.25)}
    args = DistillationArguments(tmp_path, **given)
    assert [(getattr(args, name), type(getattr(args, name))) for name in given] == [
        (5, int),
        (9, int),
        (0.5, float),
        (0.25, float),
    ]
