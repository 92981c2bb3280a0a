"""Registers of a user's own teachers, students and augmentations, which pages then name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from hfdistill.recipe import schema
from hfdistill.recipe.schema import Component

Own = TypeVar("Own", bound=Callable[..., Any])


def register_teacher(name: str) -> Callable[[Own], Own]:
    """Class decorator: pages can name this subclass of `Teacher` as `teacher: {name: {argument: …}}`.

    The keyword arguments of its `__init__` are the keys of the page. A student that is cut from a model is
    cut from the one that the arguments `source`, `teacher` or `model` name, where there is one of them.

    Raises:
        ValueError: where the name is another's, or no identifier.
        TypeError: for a class that is no `Teacher`.

    Example:
        >>> import torch
        >>> from hfdistill import Teacher, Trace
        >>> @register_teacher("coin")
        ... class Coin(Teacher):
        ...     def __init__(self, *, classes: int = 2) -> None:
        ...         super().__init__()
        ...         self.classes = classes
        ...     def trace(self, batch):
        ...         return Trace(logits=torch.zeros(len(batch["input_ids"]), self.classes))
        >>> schema.TEACHERS.pop("coin").target is Coin
        True
    """

    def add(cls: Own) -> Own:
        from hfdistill.teachers import Teacher

        if not (inspect.isclass(cls) and issubclass(cls, Teacher)):
            raise TypeError(
                f"register_teacher({name!r}) names a subclass of hfdistill.Teacher, found {cls!r}."
            )
        moves = bool(cls.learns or cls.saved_as or cls.after_step is not Teacher.after_step)
        return _add(schema.TEACHERS, "teacher", name, Component(cls, moves=moves))

    return add


def register_student(name: str, *, has_attention: bool = False) -> Callable[[Own], Own]:
    """Decorator: pages can name this function that makes a model as `student: {name: {argument: …}}`.

    Its keyword arguments are the keys of the page, but for those that the run gives where it takes them:
    `teacher` (the teacher's model), `tokenizer` (the teacher's), `pairs` (whether rows are pairs of texts),
    `corpus` (a `Dataset` of the training texts) and `data` (batches of training rows). The key `source` is
    there too: the model to be made of in the teacher's place, whose tokenizer the student reads.

    Args:
        name: the key on a page.
        has_attention: whether `exits` and `prune_vocabulary` can be written beside it.

    Raises:
        ValueError: where the name is another's, or no identifier.

    Example:
        >>> from hfdistill import shrink
        >>> @register_student("first_blocks")
        ... def first_blocks(teacher, *, count: int = 2):
        ...     return shrink(teacher, layers=list(range(1, count + 1)))
        >>> sorted(schema.STUDENTS.pop("first_blocks").withheld & {"teacher"})
        ['teacher']
    """

    def add(function: Own) -> Own:
        takes = inspect.signature(function).parameters
        component = Component(
            function,
            withheld=schema.RUN_ARGUMENTS & takes.keys(),
            beside=None if "source" in takes else f"{schema.__name__}:Origin",
            has_attention=has_attention,
            made_of_model="teacher" in takes,
        )
        return _add(schema.STUDENTS, "student", name, component)

    return add


def register_augmentation(name: str) -> Callable[[Own], Own]:
    """Decorator: pages can name this subclass of `Augmentation`, or this function `str -> list[str]`, as a
    step of `data.augment`.

    Raises:
        ValueError: where the name is another's, or no identifier.

    Example:
        >>> @register_augmentation("shout")
        ... def shout(text: str) -> list[str]:
        ...     return [text.upper()]
        >>> schema.AUGMENTATIONS.pop("shout").target("warm")
        ['WARM']
    """

    def add(augmentation: Own) -> Own:
        component = Component(augmentation, is_value=not inspect.isclass(augmentation))
        return _add(schema.AUGMENTATIONS, "augmentation", name, component)

    return add


def _add(table: dict[str, Component], what: str, name: str, component: Component) -> Any:
    if not name.isidentifier():
        raise ValueError(f"The name of a {what} is a key of a page; {name!r} is not an identifier.")
    other = table.get(name)
    if other is not None and _origin(other.target) != _origin(component.target):
        raise ValueError(f"The {what} {name!r} is {_origin(other.target)} already. Choose another name.")
    table[name] = component
    return component.target


def _origin(target: Any) -> str:
    """Return where it was written: the same when its file or notebook cell is run again."""
    return target if isinstance(target, str) else f"{target.__module__}:{target.__qualname__}"
