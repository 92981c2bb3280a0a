"""Rows that came without a label, as `concatenate_datasets` leaves them: None."""

import math

import pytest
from datasets import Dataset, concatenate_datasets

from hfdistill import DistillationTrainer, LabelSpaceError
from tests.conftest import make_bert, make_dataset, make_tokenizer
from tests.word_material import TAGS, make_tagger, make_words

CASES = {
    "single label": ({}, [1, 0, 1, 0, 1, 0], -100),
    "multi-label": (
        {"problem_type": "multi_label_classification"},
        [[1.0, 0.0]] * 6,
        [-100.0, -100.0],
    ),
    "regression": ({"num_labels": 1, "labels": {0: "score"}}, [0.5] * 6, math.nan),
}


@pytest.mark.parametrize("case", CASES)
def test_none_is_the_tasks_own_sign_of_a_missing_label(case, arguments):
    options, labels, blank = CASES[case]
    texts = make_dataset(12)["text"][:]
    labelled = Dataset.from_dict({"text": texts[:6], "label": labels})
    both = concatenate_datasets([labelled, Dataset.from_dict({"text": texts[6:]})])
    assert both["label"][-1] is None
    trainer = DistillationTrainer(
        make_bert(2, seed=2, **options),
        arguments(per_device_train_batch_size=4),
        teacher=make_bert(3, seed=1, **options),
        train_dataset=both,
        processing_class=make_tokenizer(),
    )
    filled = trainer.train_dataset["label"][:]
    assert filled[:6] == labels
    assert str(filled[6:]) == str([blank] * 6)
    trainer.train()
    parts = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(parts) == 3


def test_words_without_labels_join_words_with_labels(arguments):
    labelled = make_words(6, bare=0)
    both = concatenate_datasets([labelled, make_words(6, bare=0).remove_columns("label")])
    trainer = DistillationTrainer(
        make_tagger(2, seed=2),
        arguments(per_device_train_batch_size=4),
        teacher=make_tagger(3, seed=1),
        train_dataset=both,
        processing_class=make_tokenizer(),
    )
    words = [sum(label != -100 for label in row) for row in trainer.train_dataset["labels"]]
    assert words[:6] == words[6:]
    assert max(label for row in trainer.train_dataset["labels"][:6] for label in row) < len(TAGS)
    assert all(label < 0 for row in trainer.train_dataset["labels"][6:] for label in row)
    trainer.train()


@pytest.mark.parametrize(("case", "labels"), [("regression", [[1.0, 0.0]]), ("multi-label", [1])])
def test_labels_of_another_task_beside_rows_without_one_are_told_as_such(case, labels, arguments):
    labelled = Dataset.from_dict({"text": ["good"], "label": labels})
    with pytest.raises(
        LabelSpaceError, match=r"train_dataset has (a list of labels|one label) a row \(row 0"
    ):
        DistillationTrainer(
            make_bert(2, **CASES[case][0]),
            arguments(),
            teacher=None,
            train_dataset=concatenate_datasets([labelled, Dataset.from_dict({"text": ["film"]})]),
            processing_class=make_tokenizer(),
        )
