"""What is read from source is what Python itself says of the loaded object."""

import ast
import dataclasses
import importlib
import inspect

import pytest

from hfdistill import DistillationArguments
from hfdistill.objectives import registered
from hfdistill.recipe import schema
from hfdistill.recipe.signatures import (
    _of_fields,
    parameters_by_inspection,
    parameters_of,
    summary_of,
    type_error,
)

ALL = {
    kind.target
    for table in (schema.TEACHERS, schema.STUDENTS, schema.CHANGES, schema.AUGMENTATIONS)
    for kind in table.values()
} | {kind.target for kind in (*schema.DATA, *schema.AFTERWARDS.values(), *schema.THESEUS)}  # fmt: skip


@pytest.mark.parametrize("target", sorted(ALL))
def test_every_kind_is_read_as_it_is(target):
    module, _, name = target.partition(":")
    loaded = getattr(importlib.import_module(module), name)
    told = parameters_of(target)
    real = inspect.signature(loaded).parameters
    assert list(told) == list(real)
    for argument, parameter in real.items():
        required = parameter.default is parameter.empty
        assert (told[argument].default is inspect.Parameter.empty) == required
        assert told[argument].annotation == parameter.annotation
    assert summary_of(target)


def test_what_is_withheld_exists():
    for kind in [
        *schema.TEACHERS.values(),
        *schema.STUDENTS.values(),
        *schema.DATA,
        schema.AFTERWARDS["export"],
    ]:
        assert kind.withheld <= parameters_of(kind.target).keys()


def test_training_takes_every_field_of_the_arguments():
    fields = {field.name for field in dataclasses.fields(DistillationArguments) if field.init}
    told = {name for kind in schema.TRAINING for name in parameters_of(kind.target)}
    assert told == {name for name in fields if not name.startswith("_")}


def test_enums_and_choices_become_literals():
    told = parameters_of("transformers.training_args:TrainingArguments")
    assert type_error("epoch", told["eval_strategy"].annotation) is None
    assert type_error("epochs", told["eval_strategy"].annotation) == "one of no, steps, epoch"
    assert "cosine" in type_error("cosinus", told["lr_scheduler_type"].annotation)
    assert type_error("group_by_length", told["train_sampling_strategy"].annotation) is None
    assert "sequential" in type_error("grouped", told["train_sampling_strategy"].annotation)
    assert type_error("adamw_torch", told["optim"].annotation) is None


@pytest.mark.parametrize(
    ("value", "annotation", "wanted"),
    [
        (3, "int", None),
        (True, "int", "a whole number"),
        (3.0, "int", "a whole number"),
        (3, "float", None),
        (float("inf"), "float", "a number"),
        ("3", "float | None", "a number or null"),
        (None, "float | None", None),
        ([1, 2], "int | Sequence[int]", None),
        ("1", "int | Sequence[int]", "a whole number or a list"),
        ("x", "str | os.PathLike[str]", None),
        (1, "str | os.PathLike[str]", "text"),
        ("raise", "Literal['raise', 'drop']", None),
        ("fail", "Literal['raise', 'drop']", "one of raise, drop"),
        ("last:last", "Layers", None),
        ({"a": 1}, "dict[str, Any] | str | None", None),
        (2, "float | Schedule", None),
        ("2", "float | Schedule", "a number or a schedule such as {linear: [1, 0]}"),
        (2, "", None),
    ],
)
def test_values_fit_types(value, annotation, wanted):
    assert type_error(value, annotation) == wanted


def test_classes_of_a_plugin_are_asked_themselves():
    class Own:
        def __init__(self, *, sharpness: float = 1.0, layers: "int | None" = None):
            pass

    told = parameters_by_inspection(Own)
    assert told["sharpness"].annotation == "float"
    assert told["layers"].annotation == "int | None"


@pytest.mark.parametrize("name", sorted(registered()))
def test_types_of_objectives_can_be_checked(name):
    for parameter in parameters_by_inspection(registered()[name]).values():
        assert parameter.annotation


def test_what_is_not_there_is_no_signature():
    with pytest.raises(LookupError, match="has no missing"):
        parameters_of("hfdistill.files.plain_data:missing")
    with pytest.raises(LookupError, match="no package"):
        parameters_of("nowhere_at_all.module:name")


def test_fields_that_no_argument_sets_are_none():
    lines = ["x: int", "_y: int = 1", "z: ClassVar[int] = 2", "w: int = field(init=False)", "v: float = 3.0"]
    fields = _of_fields(ast.parse("\n    ".join(["class A:", *lines])).body[0], "a")
    assert [one.name for one in fields] == ["x", "v"]
