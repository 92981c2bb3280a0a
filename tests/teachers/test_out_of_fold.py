"""Out-of-fold teachers, from data to a run."""

import pytest
import torch
from datasets import DatasetDict, concatenate_datasets

from hfdistill import DistillationTrainer, HiddenMSE, load_classifier, out_of_fold
from hfdistill.data import encode
from tests.conftest import make_bert, make_dataset, make_tokenizer
from tests.trainer.conftest import quiet_arguments
from tests.word_material import make_words


def fitted(asked):
    def fit(rows, fold):
        asked.append(rows)
        return make_bert(2, seed=10 + fold)

    return fit


def test_no_teacher_answers_what_it_has_seen():
    data = concatenate_datasets([make_dataset(20), make_dataset(6)])  # six texts stand there twice
    asked = []
    teacher = out_of_fold(data, tokenizer=make_tokenizer(), fit=fitted(asked), folds=3, seed=1)
    assert sum(len(data) - len(rows) for rows in asked) == len(data)
    for text in data["text"]:
        batch = dict(make_tokenizer()([text], return_tensors="pt"))
        unseen = [fold for fold, rows in enumerate(asked) if text not in rows["text"]]
        assert len(unseen) == 1
        expected = make_bert(2, seed=10 + unseen[0])(**batch).logits
        torch.testing.assert_close(teacher.trace(batch).logits, expected, rtol=1e-5, atol=1e-6)
    for rows in asked:
        assert abs(sum(rows["label"]) / len(rows) - 0.5) < 0.1


def test_a_run_learns_from_it_and_resumes_per_fold(tmp_path):
    """`fit` trains in a folder per fold; what is there already is loaded."""
    data, trained = make_dataset(24), []

    def fit(rows, fold):
        folder = tmp_path / f"fold-{fold}"
        if not folder.is_dir():
            trained.append(fold)
            DistillationTrainer(
                make_bert(1, seed=fold),
                quiet_arguments(tmp_path / "run", max_steps=1, learning_rate=0.1),
                teacher=None,
                train_dataset=rows,
                processing_class=make_tokenizer(),
            ).save_model(str(folder))
            if fold == 1 and len(trained) == 2:
                raise KeyboardInterrupt
        return load_classifier(folder)

    with pytest.raises(KeyboardInterrupt):
        out_of_fold(data, tokenizer=make_tokenizer(), fit=fit, folds=3)
    teacher = out_of_fold(data, tokenizer=make_tokenizer(), fit=fit, folds=3)
    assert trained == [0, 1, 2]
    trainer = DistillationTrainer(
        make_bert(1, seed=7),
        quiet_arguments(tmp_path / "student", max_steps=2, learning_rate=0.1),
        teacher=teacher,
        train_dataset=data,
        eval_dataset=make_dataset(8),
        processing_class=make_tokenizer(),
    )
    trainer.train()
    assert trainer.state.global_step == 2
    with pytest.raises(ValueError, match="hidden states that do not mean the same"):
        DistillationTrainer(
            make_bert(1), quiet_arguments(tmp_path / "x"), teacher=teacher, objective=HiddenMSE()
        )


def test_rows_are_cut_as_the_run_cuts_them():
    data = make_dataset(12)
    teacher = out_of_fold(data, tokenizer=make_tokenizer(), fit=fitted([]), folds=2, max_length=6)
    assert teacher.max_length == 6
    with pytest.raises(ValueError, match=r"max_length=\d+ in out_of_fold, or 6 in the arguments"):
        teacher.trace(dict(make_tokenizer()(data["text"][:], padding=True, return_tensors="pt")))
    uncut = out_of_fold(data, tokenizer=make_tokenizer(), fit=fitted([]), folds=2)
    assert uncut.max_length is None


def test_encoded_rows_and_words_have_folds_too():
    encoded = encode(make_dataset(12), make_tokenizer())
    raw = out_of_fold(make_dataset(12), tokenizer=make_tokenizer(), fit=fitted([]), folds=2)
    assert out_of_fold(encoded, fit=fitted([]), folds=2).assignment == raw.assignment
    words = out_of_fold(make_words(12), tokenizer=make_tokenizer(), fit=fitted([]), folds=2)
    assert len(words.assignment) == 12


def test_text_without_a_tokenizer_is_refused():
    with pytest.raises(ValueError, match=r"found the columns \['text', 'label'\] without a tokenizer"):
        out_of_fold(make_dataset(8), fit=fitted([]))


def test_rows_in_memory_are_dealt_and_nothing_else_is():
    rows, tokenizer, asked = make_dataset(12), make_tokenizer(), []
    out_of_fold(rows.to_pandas(), tokenizer=tokenizer, fit=fitted(asked), folds=2)
    assert sorted(text for part in asked for text in part["text"]) == sorted(rows["text"][:])
    with pytest.raises(TypeError, match=r"^train is a DatasetDict of 'train', not one set of rows"):
        out_of_fold(DatasetDict(train=rows), tokenizer=tokenizer, fit=fitted([]), folds=2)
