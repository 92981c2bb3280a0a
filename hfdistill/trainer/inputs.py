"""The arguments and the data of a run, in the form in which the trainer uses them."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

from datasets import Dataset, IterableDataset
from torch import nn
from transformers import (
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)

from hfdistill.data import DistillationCollator, FreshCopies, encode
from hfdistill.data.align import RunLabels, makes_labels
from hfdistill.data.data_kinds import check_kind
from hfdistill.data.encode import check_ids, check_lengths, check_readable
from hfdistill.network import task as tasks
from hfdistill.network.architectures import longest_input, shortest
from hfdistill.network.inputs import ModelInputs, accepted_inputs, name_padding, on_side
from hfdistill.teachers import Teacher, assign_column_prefixes
from hfdistill.trainer.arguments import DistillationArguments, option

_ROUNDING = 128
"""Embeddings are rounded up to a multiple of this at most; larger differences are other vocabularies."""


REQUIRED: Any = inspect.Parameter.empty
"""The default of an argument that has to be given: signatures show it without one."""

_OTHER_NAMES = {
    "tokenizer": "processing_class=tokenizer",
    "student": "model=student",
    "student_model": "model=student",
    "teacher_model": "teacher=model",
    "alpha": "objective=0.5 * CrossEntropy() + 0.5 * KD(temperature=4), where the weights are alpha's",
    "temperature": "objective=0.5 * CrossEntropy() + 0.5 * KD(temperature=4)",
    "loss": "objective=KD(temperature=4), or compute_loss_func=function",
    "dataset": "train_dataset=dataset",
    "validation_dataset": "eval_dataset=dataset",
    "test_dataset": "eval_dataset=dataset, or predict(dataset) once it is trained",
    "metrics": "compute_metrics=function",
}
"""What other libraries call it: what to type here."""


def trainer_options(model: Any, args: Any, *positional: Any, teacher: Any, **options: Any) -> dict[str, Any]:
    """Return the further arguments of Trainer by name, those without a name in its order."""
    takes = inspect.signature(Trainer.__init__).parameters
    for name in options:
        if name not in takes:
            raise TypeError(f"DistillationTrainer takes no argument {name!r}. {_what_to_type(name, takes)}")
    if teacher is REQUIRED:
        raise TypeError(
            "DistillationTrainer needs a teacher: type teacher=model, an id or a path. teacher=None trains "
            "on the hard labels alone."
        )
    bound = inspect.signature(Trainer.__init__).bind_partial(None, model, args, *positional, **options)
    return {name: value for name, value in bound.arguments.items() if name not in ("self", "model", "args")}


def _what_to_type(name: str, takes: Collection[str]) -> str:
    settings = {field.name for field in fields(DistillationArguments)}
    if name in _OTHER_NAMES:
        return f"Type {_OTHER_NAMES[name]}."
    if name in settings:
        return f"It is one of the training arguments: args=DistillationArguments(output_dir, {name}=...)."
    own = [*takes, "teacher", "objective", "teacher_cache", "label_map"]
    near = difflib.get_close_matches(name, [*own, *settings], n=1)
    if not near:
        return f"It takes Trainer's arguments and {', '.join(own[-4:])}."
    return f"Is {near[0]!r} meant, {'one of the training arguments' if near[0] in settings else 'its own'}?"


class Side(NamedTuple):
    """The tokenizer and the configs of teachers that read other tokens; the teachers may be let go of."""

    tokenizer: Any
    configs: Sequence[Any]


@dataclass(frozen=True)
class Reader:
    """Turns raw text into ids that student and teacher can both read; any other data stays as it is.

    Args:
        args: the run's.
        configs: of the student and of the teachers that read its tokens; None where there is none.
        collator: the user's own, which then reads the text itself, unless it only pads.
        inputs: what the teacher reads.
        others: of teachers that read other tokens, by the prefix of their columns.
        labels: what label ids mean.
        tokenizer: the run's; None where there is none.
        raw: whether the training data is text, which this reader tokenises.
    """

    args: TrainingArguments
    configs: Sequence[Any]
    collator: Any
    inputs: frozenset[str]
    others: Mapping[str, Side] = field(default_factory=dict)
    labels: RunLabels = field(default_factory=RunLabels)
    tokenizer: Any = None
    raw: bool = False

    @classmethod
    def of(cls, args: Any, student: Any, teacher: Teacher | None, options: Any, label_map: Any) -> Reader:
        """Make a reader for this run; the teacher's parts learn which of them read the student's tokens."""
        tokenizer = options.get("processing_class")
        tokenizer = tokenizer if isinstance(tokenizer, PreTrainedTokenizerBase) else None
        name_padding(student, tokenizer)
        settled = {} if teacher is None else assign_column_prefixes(teacher, tokenizer)
        others = {
            prefix: Side(parts[0].tokenizer, [part.config for part in parts if part.config is not None])
            for prefix, parts in settled.items()
        }
        parts = [] if teacher is None else [part for part in teacher.parts() if not part.prefix]
        for part in parts:
            _check_vocabularies(student, part)
        configs = [student, *(part.config for part in parts)]
        inputs = frozenset() if teacher is None else teacher.inputs()
        labels = RunLabels.of(args, student, getattr(teacher, "config", None), options, label_map)
        raw = "input_ids" not in (getattr(options.get("train_dataset"), "column_names", None) or ())
        return cls(args, configs, options.get("data_collator"), inputs, others, labels, tokenizer, raw)

    @property
    def _config(self) -> Any:
        """The student's config, else that of a teacher that reads its tokens; None where there is none."""
        return next((config for config in self.configs if config is not None), None)

    def student_inputs(self, model: nn.Module) -> ModelInputs:
        """Return what the student reads: of rows that come tokenised, every column that its forward takes."""
        name_padding(model, self.tokenizer)
        inputs = ModelInputs.of(model, self.tokenizer)
        return inputs if self.raw else replace(inputs, names=accepted_inputs(model))

    def make_collator(self) -> Any:
        """Return the run's collator: the user's own, or one that pads each side with its own tokenizer."""
        if self.tokenizer is None:
            return self.collator
        words = self._config is not None and tasks.task_kind(self._config) == "token"
        padder = (DataCollatorForTokenClassification if words else DataCollatorWithPadding)(self.tokenizer)
        padder = _on_the_side_of(self.configs[0], self.collator or padder)
        if not self.others or not isinstance(padder, DataCollatorWithPadding):
            return padder
        tokenizers = {
            prefix: on_side(side.tokenizer, next(iter(side.configs), None))
            for prefix, side in self.others.items()
        }
        theirs = [config for side in self.others.values() for config in side.configs]
        return DistillationCollator(
            self.tokenizer,
            tokenizers,
            max_length=self._room(),
            teacher_max_length=_shortest(theirs),
            padder=padder,
        )

    def __call__(self, data: Any, split: str = "eval_dataset", *, sets: Any = None) -> Any:
        """Return the data with its labels in the student's order, tokenised where it holds raw text.

        Args:
            data: rows, several sets of rows by name, or the name of one of `sets`, which is returned.
            split: what messages call the data.
            sets: those that were read before, by name.

        Raises:
            TypeError: for what is not rows.
            ValueError: for text without a tokenizer, or one that knows more tokens than a model.
        """
        if isinstance(data, str) and isinstance(sets, dict) and data in sets:
            return data
        several = split != "train_dataset"
        check_kind(data, split=split, collated=self.collator is not None, several=several)
        if isinstance(data, dict):
            return {name: self(part, f"{split}[{name!r}]") for name, part in data.items()}
        data = self.labels(self._as_dataset(data), split)
        if not isinstance(data, (Dataset, IterableDataset, FreshCopies)):
            return data
        if reads_by_itself(self.args, self.collator, data):
            return data
        columns = data.column_names or list(next(iter(data), {}))  # a stream may not know them
        if not {"text", "tokens"} & set(columns):
            return data
        for prefix, side in self.others.items():
            if "text" in columns and f"{prefix}input_ids" not in columns:
                data = self._read_for(prefix, side, data)
        if "input_ids" in columns:
            return data
        if self.tokenizer is None:
            raise ValueError(
                "The data holds raw text, and there is no tokenizer to read it with. Type "
                "processing_class=AutoTokenizer.from_pretrained(...), or tokenise the data first."
            )
        for number, config in enumerate(self.configs):
            _check_room_for(self.tokenizer, config, role="teacher" if number else "student")
        if "text" not in columns:
            self._check_words()
        token_types = "text_pair" in columns and "token_type_ids" in self.inputs
        with self.args.main_process_first(desc="tokenisation"):
            data = encode(data, self.tokenizer, max_length=self._room(), token_types=token_types)
            return self._filled(data)

    def _as_dataset(self, data: Any) -> Any:
        """Return a list of rows of raw text as a dataset: Trainer would drop the text of a list."""
        rows = isinstance(data, (list, tuple)) and len(data) > 0
        if not rows or reads_by_itself(self.args, self.collator, data):
            return data
        if not {"text", "tokens"} & set(data[0]) or "input_ids" in data[0]:
            return data
        for name in ("text", "text_pair"):
            if any(name in row for row in data):
                check_readable(name, [row.get(name) for row in data], range(len(data)))
        return Dataset.from_list(list(data))

    def _room(self) -> int | None:
        """Return how many tokens a row has for the student and those who read its tokens."""
        return _shortest(self.configs, option(self.args, "max_length"))

    def check_columns(self, data: Any, *, split: str) -> None:
        """Refuse data that was tokenised for the student alone."""
        columns = getattr(data, "column_names", None) or []
        if "input_ids" not in columns or reads_by_itself(self.args, self.collator, data):
            return
        lacking = [f"{prefix}input_ids" for prefix in self.others if f"{prefix}input_ids" not in columns]
        if lacking:
            raise ValueError(
                f"{split} is already tokenised ({', '.join(columns)}), and the teacher has another tokenizer "
                f"than the student: it would read these ids as other words. Give {split} with its text "
                "(columns text[, text_pair]), which is then tokenised for both, or add the columns "
                f"{', '.join(lacking)}: encode(dataset, teacher_tokenizer, prefix='teacher_') before the "
                "student's encode(dataset, tokenizer)."
            )

    def check_tokens(self, data: Any, *, split: str) -> None:
        """Refuse rows that a model has no positions or no embeddings for; `check_lengths`, `check_ids`."""
        for prefix, side in {"": Side(None, self.configs), **self.others}.items():
            column, sizes = f"{prefix}input_ids", [getattr(c, "vocab_size", None) for c in side.configs]
            if isinstance(data, Dataset):
                check_lengths(data, _shortest(side.configs), split=split, column=column)
            size = min((size for size in sizes if isinstance(size, int)), default=None)
            check_ids(data, size, split=split, column=column)

    def _read_for(self, prefix: str, side: Side, data: Any) -> Any:
        """Return the data with the columns of teachers that read other tokens, cut to their own limits."""
        for config in side.configs:
            _check_room_for(side.tokenizer, config, role="teacher")
        with self.args.main_process_first(desc="tokenisation"):
            return encode(data, side.tokenizer, max_length=_shortest(side.configs), prefix=prefix)

    def _filled(self, data: Any) -> Any:
        """Fill in None, which `concatenate_datasets` leaves in rows without a label."""
        if isinstance(data, FreshCopies):
            return data.over(self._filled(data.rows))
        config = self._config
        if config is None or not isinstance(data, Dataset) or "label" not in data.column_names:
            return data
        labels = data.with_format(None)["label"][:]
        if None not in labels:
            return data
        blank = tasks.unlabelled(1, config.num_labels, tasks.task_kind(config))[0].tolist()
        if any(isinstance(label, list) != isinstance(blank, list) for label in labels if label is not None):
            return data  # labels of another task, of which their check tells
        return data.map(_fill, fn_kwargs={"blank": blank}, batched=True)

    def _check_words(self) -> None:
        """Refuse words with a label each for a model that does not label tokens."""
        if self._config is not None and tasks.task_kind(self._config) != "token":
            raise ValueError(
                "The data holds lists of words (column 'tokens'), and the student gives a text one label. "
                "Load it with load_classifier(..., task='token'), or join the words to a column 'text'."
            )


def _shortest(configs: Sequence[Any], limit: int | None = None) -> int | None:
    """Return how many tokens all models have positions for, at most `limit`; None where nothing limits."""
    return shortest(limit, *map(longest_input, configs))


def _check_room_for(tokenizer: PreTrainedTokenizerBase, config: Any, *, role: str) -> None:
    size = getattr(config, "vocab_size", None)
    if size is not None and size < len(tokenizer):
        raise ValueError(
            f"The tokenizer has {len(tokenizer)} tokens and the {role}'s embedding {size}. Use the "
            f"{role}'s own tokenizer, or type {role}.resize_token_embeddings({len(tokenizer)})."
        )


def _check_vocabularies(student: Any, teacher: Teacher) -> None:
    """Refuse a teacher that is given without a tokenizer, and whose vocabulary cannot be the student's."""
    own, theirs = (getattr(config, "vocab_size", None) for config in (student, teacher.config))
    if teacher.tokenizer is not None or not isinstance(own, int) or not isinstance(theirs, int):
        return
    if abs(own - theirs) >= _ROUNDING:
        raise ValueError(
            f"The student's vocabulary has {own:,} tokens and the teacher's {theirs:,}, so the teacher would "
            "read the student's ids as other words. Name its tokenizer: teacher="
            "ModelTeacher(model, tokenizer=AutoTokenizer.from_pretrained(...)); where both do read "
            "the same ids, that is the student's."
        )


def _on_the_side_of(config: Any, padder: Any) -> Any:
    """Return a collator of Transformers that pads on the student's side; one of the user's as it is."""
    if type(padder) not in (DataCollatorWithPadding, DataCollatorForTokenClassification):
        return padder
    tokenizer = on_side(padder.tokenizer, config)
    return padder if tokenizer is padder.tokenizer else replace(padder, tokenizer=tokenizer)


def _fill(batch: dict[str, list[Any]], blank: Any) -> dict[str, list[Any]]:
    return {"label": [blank if label is None else label for label in batch["label"]]}


def reads_by_itself(args: TrainingArguments, collator: Any, data: Any) -> bool:
    """Whether the user's own code makes the model's inputs: a transform, a collator, columns kept for one."""
    return makes_labels(collator, data) or not args.remove_unused_columns
