"""What is looked at before the first step."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from datasets import Dataset, IterableDataset
from torch import nn
from transformers import (
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
    TrainingArguments,
)
from transformers.integrations import is_deepspeed_zero3_enabled

from hfdistill.data import DistillationCollator, FreshCopies, encode
from hfdistill.data.align import RunLabels, makes_labels
from hfdistill.data.label_checks import check_labels
from hfdistill.network import label_space as spaces
from hfdistill.network.architectures import longest_input
from hfdistill.network.trace import check_taps
from hfdistill.objectives import Blend
from hfdistill.teachers import Teacher, settle_tokens
from hfdistill.trainer.arguments import option

logger = logging.getLogger(__name__)

_ROUNDING = 128
"""Embeddings are rounded up to a multiple of this at most; larger differences are other vocabularies."""


def refuse_data_parallel(args: TrainingArguments) -> None:
    """`nn.DataParallel` copies the student over threads, and the objective would see one copy's readings."""
    if args.n_gpu > 1:
        raise ValueError(
            f"This process sees {args.n_gpu} GPUs and would copy the student to each by nn.DataParallel, "
            "which mixes up student and teacher. Start one process per GPU: accelerate launch script.py. To "
            "use one GPU: CUDA_VISIBLE_DEVICES=0."
        )


def check_teacher(teacher: nn.Module | None, *, student: nn.Module) -> None:
    """Refuse a teacher that would move with the student, or that DeepSpeed would take apart.

    Raises:
        ValueError: for parameters shared with the student, and for ZeRO-3.
    """
    if teacher is None:
        return
    own = {id(parameter) for parameter in student.parameters()}
    if any(id(parameter) in own for parameter in teacher.parameters()):
        raise ValueError(
            "Teacher and student share parameters, so the teacher would move with the student. Give the "
            "teacher as copy.deepcopy(model), or cut the student with shrink(teacher, layers=...), which "
            "copies."
        )
    if is_deepspeed_zero3_enabled():
        raise ValueError(
            "DeepSpeed ZeRO-3 shards every model that is loaded under it, the teacher too. Use ZeRO-1 or "
            "ZeRO-2: a BERT-sized teacher fits on each GPU whole."
        )


def check_moving(teacher: Any, args: TrainingArguments, *, fresh: bool) -> None:
    """Refuse a teacher that changes during the run where it could not be kept in step.

    Args:
        teacher: the run's; None where there is none.
        args: the run's.
        fresh: whether each training starts with a new student from `model_init`.

    Raises:
        ValueError: for DeepSpeed and FSDP, and for a peer that would go on from the last trial's.
    """
    if teacher is None or not teacher.saved_as:
        return
    kind = type(teacher).__name__
    if args.deepspeed or args.fsdp:
        raise ValueError(
            f"{kind} changes with the student, whose weights DeepSpeed and FSDP take apart. Use "
            "`accelerate launch` with one process per GPU: the models are small."
        )
    if fresh and teacher.learns:
        raise ValueError(
            f"model_init makes a new student for every training, but the {kind} would go on from where the "
            "last one left it. Give the student as model=, and a new trainer with a new peer for each trial."
        )


class Side(NamedTuple):
    """What is to be known of teachers that read other tokens, without holding on to them."""

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
    """

    args: TrainingArguments
    configs: Sequence[Any]
    collator: Any
    inputs: frozenset[str]
    others: Mapping[str, Side] = field(default_factory=dict)
    labels: RunLabels = field(default_factory=RunLabels)

    @classmethod
    def of(cls, args: Any, student: Any, teacher: Teacher | None, options: Any, label_map: Any) -> Reader:
        """A reader for this run.

        Args:
            args: the run's.
            student: its config.
            teacher: its parts learn here which of them read the student's tokens.
            options: the run's `processing_class`, `data_collator` and `train_dataset`.
            label_map: the run's.

        Raises:
            ValueError: for a teacher whose vocabulary is another, and whose tokenizer is not known.
        """
        tokenizer = options.get("processing_class")
        tokenizer = tokenizer if isinstance(tokenizer, PreTrainedTokenizerBase) else None
        settled = {} if teacher is None else settle_tokens(teacher, tokenizer)
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
        return cls(args, configs, options.get("data_collator"), inputs, others, labels)

    def collate(self, tokenizer: Any) -> Any:
        """The collator of the run: the user's own, or one that pads each side with its own tokenizer."""
        padder = self.collator or _word_padder(self.configs, tokenizer)
        if not self.others or not isinstance(tokenizer, PreTrainedTokenizerBase):
            return padder
        if padder is not None and not isinstance(padder, DataCollatorWithPadding):
            return padder
        tokenizers = {prefix: side.tokenizer for prefix, side in self.others.items()}
        theirs = [config for side in self.others.values() for config in side.configs]
        return DistillationCollator(
            tokenizer,
            tokenizers,
            max_length=self._room(),
            teacher_max_length=_shortest(theirs),
            padder=padder,
        )

    def __call__(self, data: Any, tokenizer: Any, split: str = "eval_dataset") -> Any:
        """The data with its labels in the student's order, tokenised where it holds raw text.

        Raises:
            ValueError: for text without a tokenizer, or one that knows more tokens than a model.
        """
        if isinstance(data, dict):
            return {name: self(part, tokenizer, f"{split}[{name!r}]") for name, part in data.items()}
        data = self.labels(data, split)
        columns = getattr(data, "column_names", None) or []
        raw = {"text", "tokens"} & set(columns)
        if not isinstance(data, (Dataset, IterableDataset, FreshCopies)) or not raw:
            return data
        if reads_by_itself(self.args, self.collator, data):
            return data
        for prefix, side in self.others.items():
            if "text" in columns and f"{prefix}input_ids" not in columns:
                data = self._read_for(prefix, side, data)
        if "input_ids" in columns:
            return data
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            raise ValueError(
                "The data holds raw text, and there is no tokenizer to read it with. Type "
                "processing_class=AutoTokenizer.from_pretrained(...), or tokenise the data first."
            )
        self._check_vocabulary(tokenizer)
        if "text" not in columns:
            self._check_words(data)
        token_types = "text_pair" in columns and "token_type_ids" in self.inputs
        with self.args.main_process_first(desc="tokenisation"):
            return self._filled(encode(data, tokenizer, max_length=self._room(), token_types=token_types))

    def _room(self) -> int | None:
        """Tokens of a row for the student and those who read its tokens."""
        rooms = (option(self.args, "max_length"), _shortest(self.configs))
        return min((room for room in rooms if room), default=None)

    def check_columns(self, data: Any, *, split: str) -> None:
        """Refuse data that was tokenised for the student alone.

        Raises:
            ValueError: naming the columns that are missing, and how to make them.
        """
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

    def _read_for(self, prefix: str, side: Side, data: Any) -> Any:
        """The data with the columns of teachers that read other tokens, cut to their own limits."""
        for config in side.configs:
            _check_room_for(side.tokenizer, config, role="teacher")
        kinds = max((getattr(config, "type_vocab_size", 0) or 0 for config in side.configs), default=0)
        pairs = "text_pair" in (data.column_names or [])
        with self.args.main_process_first(desc="tokenisation"):
            return encode(
                data,
                side.tokenizer,
                max_length=_shortest(side.configs),
                token_types=pairs and kinds > 1 and f"{prefix}token_type_ids" in self.inputs,
                prefix=prefix,
            )

    def _filled(self, data: Any) -> Any:
        """The data with None, which `concatenate_datasets` leaves in rows without a label, filled in."""
        if isinstance(data, FreshCopies):
            return data.over(self._filled(data.rows))
        config = next((config for config in self.configs if config is not None), None)
        if config is None or not isinstance(data, Dataset) or "label" not in data.column_names:
            return data
        if None not in data.with_format(None)["label"][:]:
            return data
        blank = spaces.unlabelled(1, config.num_labels, spaces.task_kind(config))[0].tolist()
        return data.map(_fill, fn_kwargs={"blank": blank}, batched=True)

    def _check_words(self, data: Any) -> None:
        """Words with a label each are for models that label tokens."""
        config = next((config for config in self.configs if config is not None), None)
        if config is not None and spaces.task_kind(config) != "token":
            raise ValueError(
                "The data holds lists of words (column 'tokens'), and the student gives a text one label. "
                "Load it with load_classifier(..., task='token'), or join the words to a column 'text'."
            )

    def _check_vocabulary(self, tokenizer: PreTrainedTokenizerBase) -> None:
        for role, config in zip(("student", *["teacher"] * len(self.configs)), self.configs, strict=False):
            _check_room_for(tokenizer, config, role=role)


def _shortest(configs: Sequence[Any]) -> int | None:
    """Tokens that all models have positions for; None where none has a limit."""
    rooms = [longest_input(config) for config in configs if config is not None]
    return min((room for room in rooms if room), default=None)


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


def _word_padder(configs: Sequence[Any], tokenizer: Any) -> Any:
    """What pads labels with the tokens, where tokens are labelled; else None, for Trainer's own choice."""
    config = next((config for config in configs if config is not None), None)
    if config is None or not isinstance(tokenizer, PreTrainedTokenizerBase):
        return None
    return DataCollatorForTokenClassification(tokenizer) if spaces.task_kind(config) == "token" else None


def _fill(batch: dict[str, list[Any]], blank: Any) -> dict[str, list[Any]]:
    return {"label": [blank if label is None else label for label in batch["label"]]}


def check_inside(blend: Blend, args: TrainingArguments, *, student: nn.Module, teacher: Any) -> None:
    """Refuse terms that cannot look inside these networks, and say what depends on how rows are split."""
    own, other = blend.taps(ever=True)
    if other and teacher is None:
        raise ValueError(
            f"{blend} looks inside the teacher, which has several insides. Name the member to look into, "
            "Ensemble(members, features=0), or use terms on logits, such as KD()."
        )
    if (own or other) and args.torch_compile:
        raise ValueError(
            f"{blend} looks inside the networks, which compiled code does not allow. Leave torch_compile "
            "off, or use terms on logits, such as KD()."
        )
    check_taps(student, own)
    if isinstance(getattr(teacher, "model", None), nn.Module):
        check_taps(teacher.model, other)
    if isinstance(teacher, Teacher):
        teacher.check_taps(other)
    whole = [repr(term) for term in blend.terms if not getattr(term, "additive", True)]
    if whole and (args.gradient_accumulation_steps > 1 or args.world_size > 1):
        logger.warning(
            "%s compares the rows of a micro-batch with each other, so its gradient is that of micro-batches "
            "of %d rows, not of the whole optimizer step.",
            ", ".join(whole),
            args.per_device_train_batch_size,
        )


def reads_by_itself(args: TrainingArguments, collator: Any, data: Any) -> bool:
    """Whether the user's own code makes the model's inputs: a transform, a collator, columns kept for one."""
    return makes_labels(collator, data) or not args.remove_unused_columns


def check_data(train: Any, evaluation: Any, *, config: Any, objective: Blend, reader: Reader) -> None:
    """Look through every label column that can be read at no cost.

    Args:
        train: training data.
        evaluation: evaluation data, or several sets by name.
        config: the student's.
        objective: bound.
        reader: knows whether labels may come from the user's own code.

    Raises:
        LabelSpaceError: for labels that are not the student's classes.
        ValueError: for training data without a label under an objective that reads them.
    """
    reader.labels.check_student(config)
    sets = {"train_dataset": train}
    if isinstance(evaluation, dict):
        sets |= {f"eval_dataset[{name!r}]": part for name, part in evaluation.items()}
    else:
        sets["eval_dataset"] = evaluation
    for split, data in sets.items():
        if objective.needs_teacher:
            reader.check_columns(data, split=split)
        blanks = data.blanks if isinstance(data, FreshCopies) else {}
        data = data.rows if isinstance(data, FreshCopies) else data
        if not isinstance(data, Dataset) or config is None:
            continue
        if len(data) == 0:
            raise ValueError(f"{split} has no row. Check the split's name and the filters before it.")
        column, known = reader.labels.column_of(data), 0
        if column is not None:
            known = check_labels(data.with_format(None)[column][:], config, split=split)
            check_labels([blanks[column]] if column in blanks else [], config, split=f"{split}, new copies")
        own = reads_by_itself(reader.args, reader.collator, data)
        if split == "train_dataset" and not known and objective.needs_labels and not own:
            raise ValueError(
                f"train_dataset has no labelled row (columns {data.column_names}), but {objective} reads "
                "hard labels. To learn from the teacher alone, type objective=KD(temperature=4)."
            )


def judge_teacher(answers: list[int], gold: list[int], *, unit: str = "rows") -> dict[str, float]:
    """The teacher's accuracy on the first evaluation rows, with a warning where it is no better than chance.

    Args:
        answers: its class per row.
        gold: the label per row; not empty.
        unit: "words" where tokens are labelled.
    """
    accuracy = sum(a == g for a, g in zip(answers, gold, strict=True)) / len(gold)
    chance = max(gold.count(label) for label in set(gold)) / len(gold)
    if accuracy <= chance:
        logger.warning(
            "The teacher is right on %.1f %% of %d evaluation %s; always answering the most frequent class "
            "is right on %.1f %%. It has nothing to teach. Is its head trained, is this its tokenizer, are "
            "its classes in the data's order (label_map=)?",
            100 * accuracy,
            len(gold),
            unit,
            100 * chance,
        )
    return {"teacher_accuracy": accuracy, f"teacher_{unit}": len(gold)}
