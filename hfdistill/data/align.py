"""Gives the labels of a data set the numbers that a model has for classes of these names."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from datasets import ClassLabel, Dataset, Features, IterableDataset, LargeList, List, Value
from transformers import DataCollatorForTokenClassification, DataCollatorWithPadding

from hfdistill.data.collate import DistillationCollator
from hfdistill.data.fresh_copies import FreshCopies
from hfdistill.data.label_checks import check_one_output
from hfdistill.data.label_columns import multi_hot_names, with_class_names
from hfdistill.network.label_space import (
    LabelSpaceError,
    are_numbers,
    class_ids,
    class_names,
    has_names,
    match_labels,
    short,
    some,
)
from hfdistill.network.task import LABELS, task_kind

logger = logging.getLogger(__name__)

DatasetLike = TypeVar("DatasetLike")


def align_labels(
    data: DatasetLike,
    classes: Sequence[str],
    *,
    split: str,
    columns: Sequence[str] = LABELS,
    own: bool = False,
) -> DatasetLike:
    """Return the data with its class ids in a model's order, where data and model name their classes.

    A file with two of a model's four classes has the ids 0 and 1 after `load`; they become those of the
    model's classes of the same names. Rows of several labels, which `load` made, get their columns in the
    model's order, -100 where the data does not have a class. Rows without a label stay so. Data whose classes
    have no names, and data that is no `datasets.Dataset`, stays as it is.

    Args:
        data: a `Dataset`, `IterableDataset`, `FreshCopies`, or a dict of them.
        classes: the model's class names in the order of its outputs; empty where there are none.
        split: what messages call the data, such as "train_dataset".
        columns: names that the label column may have; the first that is there counts.
        own: whether the user's own code (a transform, a collator) makes labels of what the rows hold. Ids
            that would have to change are then refused.

    Returns:
        The data; the same object where nothing changes. A changed label column has the model's names.

    Raises:
        LabelSpaceError: for classes that the model does not have; see `class_ids`.

    Example:
        >>> from datasets import Dataset
        >>> rows = Dataset.from_dict({"label": ["rage", "joy"]}).class_encode_column("label")
        >>> rows["label"][:], align_labels(rows, ["calm", "joy", "rage"], split="dev")["label"][:]
        ([1, 0], [2, 1])
    """
    aligned: Any = data
    options: dict[str, Any] = {"columns": columns, "own": own}
    if isinstance(data, dict):
        parts = {
            name: align_labels(part, classes, split=f"{split}[{name!r}]", **options)
            for name, part in data.items()
        }
        same = all(parts[name] is part for name, part in data.items())
        aligned = data if same else type(data)(parts)
    elif isinstance(data, FreshCopies):
        aligned = data.relabelled(lambda rows: align_labels(rows, classes, split=split, **options))
    elif isinstance(data, (Dataset, IterableDataset)) and classes:
        aligned = _aligned(data, classes, split=split, **options)
    return cast(DatasetLike, aligned)


def names_of(data: Any, columns: Sequence[str] = LABELS) -> list[str]:
    """Return the class names that a label column carries, in the order of its ids; empty for none."""
    rows = data.rows if isinstance(data, FreshCopies) else data
    features = getattr(rows, "features", None) or {}
    feature = next((features[name] for name in columns if name in features), None)
    if _layout(feature) == "multi_label":
        names = multi_hot_names(rows) or []
        return names if getattr(feature, "length", -1) in (-1, len(names)) else []
    return list(getattr(getattr(feature, "feature", feature), "names", None) or [])


def _layout(feature: Any) -> str:
    """Return the task that a label column is of, by the shape of its rows."""
    if not isinstance(feature, (List, LargeList)):
        return "single_label"
    return "multi_label" if "float" in str(getattr(feature.feature, "dtype", "")) else "token"


def classes_of(config: Any) -> list[str]:
    """Return the class names in the order of label ids; none for a model of values or without a config."""
    return [] if config is None or task_kind(config) == "regression" else class_names(config)


def makes_labels(collator: Any, data: Any) -> bool:
    """Whether the user's own code, a transform or a collator, makes the labels of a batch."""
    pads = (DataCollatorWithPadding, DataCollatorForTokenClassification, DistillationCollator)
    own_collator = collator is not None and not isinstance(collator, pads)
    return own_collator or (isinstance(data, Dataset) and data.format["type"] == "custom")


@dataclass(frozen=True)
class RunLabels:
    """Puts the labels of a run's data in the student's order; call it with data and its name for messages.

    `config` is the student's, None where it is not made yet; `collator` the user's own.
    """

    classes: Sequence[str] = ()
    config: Any = None
    columns: Sequence[str] = LABELS
    collator: Any = None

    @classmethod
    def of(
        cls,
        args: Any,
        student: Any,
        teacher: Any,
        options: Mapping[str, Any],
        label_map: Mapping[str | int, str | int] | None,
    ) -> RunLabels:
        """Find out what label ids mean in a run: the student's classes, where they have names.

        Else they are the teacher's, as `label_map` places them; else those of the training data, so that
        evaluation data that holds some of these classes is read alike.
        """
        columns = (*(args.label_names or ()), *LABELS)
        names = names_of(options.get("train_dataset"), columns)
        classes, theirs = classes_of(student), classes_of(teacher)
        if student is None and label_map is not None:
            theirs = []  # it pairs them with classes that are not known yet
        if not has_names(classes) and has_names(theirs):
            placed = label_map is not None and len(classes) == len(theirs)
            order = match_labels(student, teacher, label_map=label_map) if placed else None
            classes = theirs if order is None else [theirs[column] for column in order]
        elif (
            not has_names(classes)
            and has_names(names)
            and not are_numbers(names)
            and (teacher is None or len(names) >= len(theirs))
        ):
            _warn_that_order_is_taken(names, "train_dataset")
            classes = names
        return cls(classes or theirs, student, columns, options.get("data_collator"))

    def check_student(self, config: Any) -> None:
        """Refuse a student of `model_init`, made after the data was read, with another order of classes."""
        classes = classes_of(config)
        if self.config is None and classes and class_ids(self.classes, classes, data="the data") is not None:
            raise LabelSpaceError(
                f"model_init makes a student with the classes {some(classes)}, and data and teacher number "
                f"them {some(self.classes)}. Make it with these: load_classifier(encoder, new_head=[...])."
            )

    def column_of(self, data: Any) -> str | None:
        """Return the label column of a data set; None where it has none."""
        return next((n for n in self.columns if n in (getattr(data, "column_names", None) or [])), None)

    def __call__(self, data: Any, split: str) -> Any:
        """Return the data with its labels in the student's order of classes; see `align_labels`."""
        rows = data.rows if isinstance(data, FreshCopies) else data
        column = self.column_of(rows)
        if column is not None and self.config is not None:
            task = task_kind(self.config).replace("regression", "single_label")  # one label a row, both
            if _layout((getattr(rows, "features", None) or {}).get(column)) != task:
                return data  # which is refused where labels are checked row by row
        if isinstance(rows, Dataset) and column is not None and self.config is not None:
            labels = rows.with_format(None)[column][:]
            check_one_output(names_of(rows, self.columns), labels, self.config, split=split)
        own = makes_labels(self.collator, rows)
        return align_labels(data, self.classes, split=split, columns=self.columns, own=own)


def align_to(data: DatasetLike, config: Any) -> DatasetLike:
    """Return the data with its class ids in the order of a trained model; see `align_labels`."""
    return cast(
        DatasetLike, RunLabels(classes_of(config), config)(data, str(getattr(data, "split", None) or "data"))
    )


def _aligned(data: Any, classes: Sequence[str], *, split: str, columns: Sequence[str], own: bool) -> Any:
    column = next((name for name in columns if name in (data.features or {})), None)
    if column is None:
        return data
    names = names_of(data, columns)
    if not names:
        _refuse_numbers_that_are_names(data, column, classes, split)
        return data
    ids = class_ids(names, classes, data=split, used=_used(data, column))
    if ids is None:
        if has_names(names) and not has_names(classes):
            _warn_that_order_is_taken(names, split)
        return data
    if own:
        raise LabelSpaceError(
            f"{split} numbers its classes {some(names)}, the model {some(classes)}, and code of your own (a "
            "transform or a collator) makes the labels of a batch, so they are not changed for you. Type "
            f"dataset.align_labels_with_mapping(model.config.label2id, {column!r})."
        )
    return _renumbered(data, column, ids, classes)


def _renumbered(data: Any, column: str, ids: Sequence[int | None], classes: Sequence[str]) -> Any:
    """Return the data with other numbers and names in its label column, in the format that it had."""
    one = ClassLabel(names=list(classes)) if len(set(classes)) == len(classes) else Value("int64")
    layout = _layout(data.features[column])
    feature = {
        "single_label": one,
        "token": List(one),
        "multi_label": List(Value("float32"), length=len(classes)),
    }[layout]
    options = {
        "fn_kwargs": {"column": column, "ids": ids, "size": len(classes)},
        "batched": True,
        "features": Features({**data.features, column: feature}),
    }
    change = _reorder if layout == "multi_label" else _renumber
    if isinstance(data, IterableDataset):
        return data.map(change, **options)
    aligned, form = data.with_format(None).map(change, **options), data.format
    if layout == "multi_label":
        aligned = with_class_names(aligned, classes)
    return aligned.with_format(
        form["type"], form["columns"], form["output_all_columns"], **form["format_kwargs"]
    )


def _reorder(
    batch: dict[str, list[Any]], column: str, ids: Sequence[int | None], size: int
) -> dict[str, list[Any]]:
    """Put rows of several labels into the model's columns; -100 in those that the data does not have."""
    rows: list[Any] = []
    for labels in batch[column]:
        row = None if labels is None else [-100.0] * size
        for number, label in zip(ids, labels or (), strict=False):
            if row is not None and number is not None:
                row[number] = label
        rows.append(row)
    return {column: rows}


def _renumber(
    batch: dict[str, list[Any]], column: str, ids: Sequence[int | None], size: int
) -> dict[str, list[Any]]:
    """Return the label column of a batch in the model's numbers; what is not a class id stays."""

    def renumber(value: Any) -> Any:
        if isinstance(value, list):
            return [renumber(each) for each in value]
        return ids[value] if value is not None and 0 <= value < len(ids) else value

    return {column: [renumber(value) for value in batch[column]]}


def _used(data: Any, column: str) -> set[Any] | None:
    """Return the class ids that occur, those that apply in rows of several labels; None for a stream."""
    if not isinstance(data, Dataset):
        return None
    values = data.with_format(None)[column][:]
    layout = _layout(data.features[column])
    if layout == "multi_label":
        return {number for row in values for number, label in enumerate(row or ()) if label > 0}
    if layout == "token":
        values = [value for row in values for value in row or ()]
    return set(values) - {None}


def _warn_that_order_is_taken(names: Sequence[str], split: str) -> None:
    logger.warning(
        "The model's classes have no names (LABEL_0 …): %s has %s, which are taken in this order. Name the "
        "model's with label_names= (load_classifier, measure, export, --label-names).",
        split,
        some(names),
    )


def _refuse_numbers_that_are_names(data: Any, column: str, classes: Sequence[str], split: str) -> None:
    """Refuse numbers that are all names of the model's classes, but of others than those they number.

    Stars from 1 to 4 are such numbers beside a model of the classes "1" to "5".
    """
    numbers = {int(name): i for i, name in enumerate(classes) if name.strip().isdecimal()}
    several = isinstance(data.features[column], (List, LargeList))
    if len(numbers) < len(classes) or not has_names(classes) or not isinstance(data, Dataset) or several:
        return
    used = sorted(value for value in _used(data, column) or () if isinstance(value, int) and value >= 0)
    other = next((value for value in used if numbers.get(value) != value), None)
    if other is not None and all(value in numbers for value in used):
        raise LabelSpaceError(
            f"{split} has labels without names, and {other} is the name of the model's class "
            f"{numbers[other]}: its classes 0, 1, … are {some(classes)}. Say that the labels are names: "
            f"load(..., label_names=[{short(classes[0])}, …]), or count them from 0."
        )
