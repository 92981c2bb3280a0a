"""The installed Transformers still has what the trainer overrides and relies on."""

import ast
import importlib
import inspect
import textwrap
from pathlib import Path

import pytest
from transformers import Trainer

import hfdistill
from hfdistill import DistillationTrainer
from hfdistill.trainer.private_hooks import ATTRIBUTES, CONSTANTS, OVERRIDDEN

SOURCES = sorted(Path(hfdistill.__file__).parent.glob("**/*.py"))
OWN = [kind for kind in DistillationTrainer.__mro__ if kind.__module__.startswith("hfdistill.")]


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def private_names_of_trainer():
    """Its private methods, and the private attributes that it sets on itself."""
    methods = {name for name in vars(Trainer) if is_private(name)}
    tree = ast.parse(textwrap.dedent(inspect.getsource(Trainer)))
    attributes = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    return methods | {
        node.attr
        for node in attributes
        if isinstance(node.value, ast.Name) and node.value.id == "self" and is_private(node.attr)
    }


def test_one_class_stands_between_ours_and_trainer():
    assert [kind.__name__ for kind in OWN] == ["DistillationTrainer", "CheckpointingTrainer"]
    assert DistillationTrainer.__mro__[2] is Trainer
    assert len(OVERRIDDEN) <= 6


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_a_private_method_that_is_overridden_is_there_and_called_as_ours_expects(name):
    hook = OVERRIDDEN[name]
    message = f"Trainer.{name} is another in this Transformers. {hook.if_changed}"
    assert hasattr(Trainer, name), message
    parameters = list(inspect.signature(getattr(Trainer, name)).parameters)[1:]
    assert parameters == list(hook.parameters), message
    called = inspect.getsource(Trainer).count(f"self.{name}")
    assert called >= 1, f"Trainer no longer calls {name}. {hook.if_changed}"
    assert any(name in vars(kind) for kind in OWN), f"{name} is listed and no longer overridden: drop it"


def test_no_other_private_part_of_trainer_is_overridden_read_or_called():
    private = private_names_of_trainer()
    assert set(ATTRIBUTES) <= private
    overridden = {name for kind in OWN for name in vars(kind) if name in private}
    assert overridden == set(OVERRIDDEN)
    for path in SOURCES:
        if path.parent.name != "trainer":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert (used & private) <= {*OVERRIDDEN, *ATTRIBUTES}, path.name


def test_a_public_method_that_is_overridden_takes_what_trainer_passes():
    for kind in OWN:
        for name, method in vars(kind).items():
            if name.startswith("_") or not inspect.isfunction(method) or not hasattr(Trainer, name):
                continue
            own = inspect.signature(method).parameters.values()
            if any(parameter.kind is parameter.VAR_KEYWORD for parameter in own):
                continue
            theirs = inspect.signature(getattr(Trainer, name)).parameters
            assert list(theirs) == [parameter.name for parameter in own], (
                f"Trainer.{name} takes other arguments in this Transformers: look at {kind.__name__}.{name}."
            )


@pytest.mark.parametrize("name", CONSTANTS)
def test_a_name_of_a_file_is_what_it_was(name):
    module, _, constant = name.rpartition(".")
    assert getattr(importlib.import_module(module), constant) == CONSTANTS[name], (
        f"{name} is another in this Transformers: look for {CONSTANTS[name]!r} in hfdistill/trainer."
    )


def test_no_part_of_another_library_is_swapped():
    """Nothing is assigned to an attribute of an imported module."""
    swaps = []
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
        modules = {(a.asname or a.name).split(".")[0] for node in imports for a in node.names}
        assignments = [node for node in ast.walk(tree) if isinstance(node, ast.Assign)]
        for target in (target for node in assignments for target in node.targets):
            base = target
            while isinstance(base, ast.Attribute):
                base = base.value
            if base is not target and isinstance(base, ast.Name) and base.id in modules:
                swaps.append(f"{path.name}, line {target.lineno}: {ast.unparse(target)}")
    assert not swaps
