"""What a page leaves to the recommended recipe: how the student starts, its learning rate, fresh copies."""

from __future__ import annotations

from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel

from hfdistill.data import Chain, FreshCopies, Mask, NGramSample
from hfdistill.files.plain_data import printable
from hfdistill.network.architectures import known_spec
from hfdistill.recipe.check import RECOMMENDED, Recipe, teacher_kind
from hfdistill.recipe.rows import Rows
from hfdistill.recipe.schema import STUDENTS, Student
from hfdistill.students.calibration import HELD_OUT
from hfdistill.students.refit import Refit, check_refit
from hfdistill.trainer.arguments import rows_a_step

RATE, WIDTH, BATCH = 3e-4, 384, 32
"""The learning rate of a student that was cut from its teacher, and the width and the rows of a step at which
it was measured."""
RATE_WITHOUT_ATTENTION = 1e-3
"""Of students that start from word vectors, as in recipes/static.yaml, cnn.yaml and bilstm.yaml."""
WARMUP = 0.1
FEW_ROWS = 5000
"""Rows up to which half of them are written anew in each epoch."""
MANY_CLASSES, RATE_OF_MANY = 20, 5e-4
"""Classes from which on no row is written anew, and the rate of a cut student then."""
FIT_ROWS = (128, 1500)
"""Texts that a student is fitted to, at least and at most."""
FIT_SHARE = 16
"""Training rows for each text of the fit. It does not depend on the epochs, so that a run may grow longer."""
_LIVE = ("pretrained", "finetune", "ensemble")


class Recommended:
    """Decides, for one run, what a page with the recommended objective leaves open.

    A key of the page switches each part off: `student.shrink.fit: false`, `training.learning_rate`,
    `training.warmup_steps`, `training.freeze_embeddings: false`, `training.student_dropout: null`,
    `data.fresh_copies: false`, and an objective of terms all of them.
    """

    def __init__(self, recipe: Recipe, rows: Rows, args: Any) -> None:
        self.recipe, self.rows, self.args = recipe, rows, args
        self.is_on = recipe.objective == RECOMMENDED
        self.choices: dict[str, str] = {}
        self._starts: dict[int, str] = {}  # of student and assistants, by their plans

    def refit(self, plan: Student, teacher: Any) -> Refit | None:
        """Return how a student is fitted to its teacher before it is trained; None for not at all.

        Args:
            plan: of the student; its own `fit` goes before.
            teacher: of the run; a student is fitted to the model that it is cut from.
        """
        if not self.is_on or plan.kind != "shrink" or plan.arguments.get("fit") is not None:
            return None
        reason = self._unfit(plan, teacher)
        rows = len(self.rows.train)
        count = min(rows, max(FIT_ROWS[0], min(FIT_ROWS[1], rows // FIT_SHARE)))
        words = f"what is kept is fitted to the teacher on {count:,} training texts"
        if reason:
            words = f"the teacher's weights are copied and not fitted: {reason}"
        self.choices["start"] = self._starts[id(plan)] = words
        return None if reason else Refit(self.rows.train, rows=count, max_length=self.args.max_length)

    def _unfit(self, plan: Student, teacher: Any) -> str | None:
        """Return why a student is not fitted; None where it can be."""
        if plan.arguments.get("source") is not None or not isinstance(teacher, PreTrainedModel):
            return "it is not cut from the model that teaches"
        if self.recipe.theseus is not None:
            return "its blocks take the teacher's places"
        columns = [name for name in ("tokens", "text") if name in self.rows.train.column_names]
        if not columns or sum(map(bool, self.rows.train[columns[0]][: 4 * HELD_OUT])) < 2 * HELD_OUT:
            return "there are too few texts"
        try:
            check_refit(teacher)
        except ValueError as error:
            return str(error).split(". ")[0]
        return None

    def settings(self, plan: Student, student: PreTrainedModel, *, is_taught: bool) -> dict[str, Any]:
        """Return the training arguments that the page leaves open.

        A student of its teacher's width keeps the teacher's word embeddings and learns without dropout, so
        that its hidden states and attention are compared as they are; without a teacher all weights learn,
        with the dropout of the model's config. The rate is 3e-4 for a student of width 384 and 32 rows a
        step, 5e-4 from 20 classes on; it falls with the width (Yang et al. 2022, arXiv 2203.03466), and with
        the root of the rows (Malladi et al. 2022, arXiv 2205.10287).

        Args:
            plan: of the student, or of the assistant.
            student: which was made by it.
            is_taught: whether it has a teacher.
        """
        if not self.is_on:
            return {}
        settings: dict[str, Any] = {}
        for name in ("rate", "embeddings", "dropout"):  # an assistant's
            self.choices.pop(name, None)
        if (start := self._starts.get(id(plan))) is not None:
            self.choices["start"] = start
        else:
            self.choices.pop("start", None)
        if not {"warmup_steps", "warmup_ratio"} & self.recipe.training.keys():
            settings["warmup_steps"] = WARMUP
        is_cut = any(plan.arguments.get(name) is not None for name in ("source", "width", "heads", "size"))
        is_own = plan.kind == "shrink" and not is_cut
        if is_taught and is_own and "freeze_embeddings" not in self.recipe.training:
            settings["freeze_embeddings"] = True
            self.choices["embeddings"] = "word embeddings stay as they are"
        if is_taught and is_own and "student_dropout" not in self.recipe.training:
            settings["student_dropout"] = 0.0
            self.choices["dropout"] = "no dropout"
        if "learning_rate" in self.recipe.training:
            return settings
        spec = known_spec(student)
        if not STUDENTS[plan.kind].has_attention:
            settings["learning_rate"], why = RATE_WITHOUT_ATTENTION, f"a {plan.kind} student"
        elif plan.kind == "shrink" and spec is not None:
            batch = rows_a_step(self.args)
            classes = many_classes(self.rows)
            rate = RATE_OF_MANY if classes else RATE
            rate *= min(1.0, WIDTH / spec.width) * min(1.0, (batch / BATCH) ** 0.5)
            settings["learning_rate"] = float(f"{rate:.2g}")
            why = f"width {spec.width}, {batch} rows a step" + (f", {classes} classes" if classes else "")
        else:
            return settings
        self.choices["rate"] = f"learning rate {settings['learning_rate']:g} ({why})"
        return settings

    def with_copies(self, rows: Dataset, teacher: Any, tokenizer: Any) -> Dataset | FreshCopies:
        """Return the rows, half of them rewritten in each epoch where that helps or the page says so."""
        asked = self.recipe.splits.fresh_copies
        if asked is False or (asked is None and not self.is_on):
            return rows
        reason = self._no_copies(rows, teacher, tokenizer, asked=bool(asked))
        if reason and asked:
            raise ValueError(f"data.fresh_copies: true cannot be followed: {reason}. Leave it out.")
        if reason:
            self.choices["copies"] = f"no row is written anew: {reason}"
            return rows
        why = f"{len(rows):,} rows are few; up to {FEW_ROWS:,}" if asked is None else "the page says so"
        self.choices["copies"] = f"half of the rows are written anew in each epoch ({why})"
        method = Chain(Mask(tokenizer.mask_token), NGramSample(p=0.25))
        return FreshCopies(rows, method, seed=self.args.seed, in_place=True)

    def _no_copies(self, rows: Dataset, teacher: Any, tokenizer: Any, *, asked: bool) -> str | None:
        """Return why no row is rewritten; None where half of them are."""
        kind = teacher_kind(self.recipe) or "pretrained"
        masks = {getattr(part, "mask_token", None) for part in [tokenizer, *_tokenizers(teacher)]}
        if "text" not in rows.column_names:
            return "the data holds words with a label each"
        if kind not in _LIVE:
            return f"a teacher of the kind {kind!r} is not asked about new text"
        if self.recipe.options.get("teacher_cache"):
            return "the teacher's answers are recorded"
        if len(masks) > 1 or None in masks or "prune_vocabulary" in self.recipe.student.changes:
            return "student and teacher have no mask token in common"
        if asked:
            return None
        if self.recipe.splits.augment or self.args.mixup:
            return "the page has augmentations of its own"
        return enough_rows(self.rows)

    def summary(self, objective: Any, left_out: list[str]) -> str:
        """Return one line of what was chosen and why."""
        if left_out:
            reasons = "; ".join(printable(reason, limit=200) for reason in left_out)
            self.choices["left out"] = f"nothing more of the teacher is compared: {reasons}"
        return "; ".join([f"recommended: {objective}", *self.choices.values()])


def enough_rows(rows: Rows) -> str | None:
    """Return why rows are not rewritten, unless a page asks for it; None where half of them are."""
    if classes := many_classes(rows):
        return f"{classes} classes are many; up to {MANY_CLASSES - 1}"
    count = len(rows.train)
    return None if count <= FEW_ROWS else f"{count:,} rows are more than {FEW_ROWS:,}"


def many_classes(rows: Rows) -> int:
    """Return the number of classes where it is large, else 0; 0 of rows that have no labels."""
    is_classified = rows.task == "single_label" and "label" in rows.labelled.column_names
    classes = len(rows.class_names()) if is_classified else 0
    return classes if classes >= MANY_CLASSES else 0


def _tokenizers(teacher: Any) -> list[Any]:
    """Return the tokenizers of a teacher, of each member; none where it reads the student's tokens."""
    parts = teacher.parts() if hasattr(teacher, "parts") else [teacher]
    return [part.tokenizer for part in parts if getattr(part, "tokenizer", None) is not None]
