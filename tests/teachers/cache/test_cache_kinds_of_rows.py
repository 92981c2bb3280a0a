"""A row has one key, at recording and in training, whatever kind of row it is and whoever tokenises it."""

import pytest
import torch
from datasets import Dataset, DatasetDict
from transformers import DataCollatorWithPadding

from hfdistill import (
    CachedTeacher,
    CacheError,
    DistillationArguments,
    DistillationTrainer,
    Ensemble,
    record,
)
from hfdistill.data import encode
from hfdistill.teachers import count_missing
from tests.conftest import make_bert, make_dataset, make_tokenizer
from tests.families import FAMILIES, PAIRS, TEXTS, alone
from tests.trainer.conftest import quiet_arguments

NAMES = ("Bert", "Roberta", "DistilBert", "GPT2", "XLNet")
each_family = pytest.mark.parametrize(
    "family", [family for family in FAMILIES if family.name in NAMES], ids=lambda family: family.name
)
BERT, ROBERTA, DISTILBERT = (FAMILIES[i] for i in (0, 1, 3))


def data(pairs=PAIRS):
    columns = {"text": TEXTS, "label": [0, 1, 2, 0]}
    return Dataset.from_dict(columns | ({"text_pair": pairs} if pairs else {}))


def trained(folder, student, teacher, rows, tokenizer, **options):
    """A run that reads recorded answers alone: a row that is not found is an error."""
    trainer = DistillationTrainer(
        student,
        quiet_arguments(folder, kind=DistillationArguments, max_steps=2, **options),
        teacher=teacher,
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=tokenizer,
    )
    trainer.train()
    return trainer


@each_family
def test_tokenised_rows(family, tmp_path):
    tokenizer = family.tokenizer()
    rows = encode(data(), tokenizer)
    cached = record(family.model(seed=1), rows, folder=tmp_path / "cache", tokenizer=tokenizer)
    trained(tmp_path / "run", family.model(), cached, rows, tokenizer)
    assert len(cached.store) == 4


@each_family
def test_rows_that_are_cut(family, tmp_path):
    tokenizer = family.tokenizer()
    options = {"folder": tmp_path / "cache", "tokenizer": tokenizer, "max_length": 9}
    cached = record(family.model(seed=1), data(), **options)
    trainer = trained(tmp_path / "run", family.model(), cached, data(), tokenizer, max_length=9)
    assert max(map(len, trainer.train_dataset["input_ids"])) == 9


def test_text_and_the_same_text_tokenised_are_one_row(tmp_path):
    tokenizer = ROBERTA.tokenizer()
    cached = record(ROBERTA.model(seed=1), data(), folder=tmp_path / "cache", tokenizer=tokenizer)
    typed = encode(data(), tokenizer, token_types=True)
    assert "token_type_ids" in typed.column_names
    for rows in (typed, encode(data(), tokenizer)):
        trained(tmp_path / "run", ROBERTA.model(), cached, rows, tokenizer)


@pytest.mark.parametrize("alive", [False, True])
def test_answers_that_were_recorded_with_token_types_of_zero_are_found(alive, tmp_path):
    """As versions before recorded pairs for a tokenizer without token types."""
    tokenizer, model = ROBERTA.tokenizer(), ROBERTA.model(seed=1)
    typed = encode(data(), tokenizer, token_types=True).remove_columns("label")
    before = record(model, typed, folder=tmp_path / "cache", tokenizer=DataCollatorWithPadding(tokenizer))
    assert "token_type_ids" in before.store.facts["accepts"]
    cached = CachedTeacher(tmp_path / "cache", teacher=model if alive else None)
    trainer = trained(tmp_path / "run", ROBERTA.model(), cached, data(), tokenizer)
    assert len(cached.store) == 4  # nothing was asked again
    batch = next(iter(trainer.get_eval_dataloader()))
    assert "token_type_ids" not in batch
    logits = alone(model, tokenizer, TEXTS, PAIRS)
    torch.testing.assert_close(trainer.teacher.trace(batch).logits, logits, atol=1e-5, rtol=1e-5)


def test_token_types_that_say_something_are_no_zeros(tmp_path):
    """Pairs of a BERT, recorded without token types, are other rows than with them."""
    tokenizer, model = BERT.tokenizer(), BERT.model(seed=1)
    bare = encode(data(), tokenizer).remove_columns(["label", "token_type_ids"])
    record(model, bare, folder=tmp_path / "cache", tokenizer=tokenizer)
    with pytest.raises(CacheError, match="4 of 4 rows are not recorded"):
        trained(tmp_path / "run", BERT.model(), CachedTeacher(tmp_path / "cache"), data(), tokenizer)
    texts = encode(data(None), tokenizer).remove_columns(["label", "token_type_ids"])
    cached = record(model, texts, folder=tmp_path / "texts", tokenizer=tokenizer)
    trained(tmp_path / "run", BERT.model(), cached, data(None), tokenizer)


def test_a_bert_is_recorded_beside_a_tokenizer_that_makes_no_token_types(tmp_path):
    tokenizer, model = DISTILBERT.tokenizer(), BERT.model(seed=1)
    cached = record(model, data(), folder=tmp_path / "cache", tokenizer=tokenizer)
    trainer = trained(tmp_path / "run", DISTILBERT.model(), cached, data(), tokenizer)
    batch = next(iter(trainer.get_eval_dataloader()))
    logits = alone(model, BERT.tokenizer(), TEXTS, PAIRS)
    torch.testing.assert_close(trainer.teacher.trace(batch).logits, logits, atol=1e-5, rtol=1e-5)


def test_an_ensemble_is_found_by_what_its_members_read(tmp_path):
    """The tokenizer makes token types, and neither members nor student take them."""
    tokenizer = BERT.tokenizer()
    members = Ensemble([DISTILBERT.model(seed=1), DISTILBERT.model(seed=2)])
    cached = record(members, data(), folder=tmp_path / "cache", tokenizer=tokenizer)
    trained(tmp_path / "run", DISTILBERT.model(), cached, data(), tokenizer)


def test_lists_of_words_are_refused(tmp_path):
    rows = Dataset.from_dict({"tokens": [["a", "film"]], "label": [[0, 1]]})
    with pytest.raises(CacheError, match="token classifiers teach live"):
        record(BERT.model(), rows, folder=tmp_path, tokenizer=BERT.tokenizer())


def test_rows_in_memory_are_recorded_and_nothing_else_is(tmp_path):
    """A frame, a table and a list of rows hold the texts of the data set: nothing is missing then."""
    rows, teacher, tokenizer = make_dataset(8), make_bert(2, seed=1), make_tokenizer()
    plain = Dataset.from_list(list(rows))
    for i, data in enumerate((rows.to_pandas(), rows.data.table, list(rows))):
        cached = record(teacher, data, folder=tmp_path / str(i), tokenizer=tokenizer)
        assert count_missing(cached, encode(plain, tokenizer), DataCollatorWithPadding(tokenizer)) == 0
    refused = {
        "is a DatasetDict of 'train', not one set of rows": DatasetDict(train=rows),
        "is a str\\. Load it first": "rows.csv",
        "is a list whose first element is a str": rows["text"][:],
        "is a Series of pandas": rows.to_pandas()["text"],
    }
    for words, data in refused.items():
        with pytest.raises(TypeError, match=f"^dataset {words}"):
            record(teacher, data, folder=tmp_path / "no", tokenizer=tokenizer)
    record(teacher, [], folder=tmp_path / "none", tokenizer=tokenizer)  # nothing is missing
