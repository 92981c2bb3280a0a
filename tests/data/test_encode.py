import logging
from types import SimpleNamespace

import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict, Features, IterableDataset, List, Value, load_dataset
from datasets.fingerprint import Hasher
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import BertTokenizer, PreTrainedTokenizerFast

from hfdistill.data import encode
from hfdistill.data.encode import WordEncoder, _fits, check_ids
from tests.conftest import BAD, GOOD, PLAIN, SPECIAL, make_dataset, make_tokenizer

LONG = " ".join(["the film was very good"] * 20)


def make_pairs() -> Dataset:
    return Dataset.from_dict(
        {"text": ["the film", LONG, "good"], "text_pair": ["was good", "bad", LONG], "label": [0, 1, 0]}
    )


def make_bare_tokenizer(special: dict[str, str]) -> PreTrainedTokenizerFast:
    """One without a template, so that an empty text gives no token."""
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(SPECIAL + PLAIN)}, "[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=core, **special)


def test_ids_are_the_tokenizers_own(dataset, tokenizer):
    encoded = encode(dataset, tokenizer)
    assert encoded.column_names == ["label", "input_ids", "token_type_ids", "attention_mask"]
    assert encoded.features["label"] == dataset.features["label"]
    assert encoded["label"] == dataset["label"]
    expected = tokenizer(list(dataset["text"]), truncation=True, max_length=32)
    for key in ("input_ids", "token_type_ids", "attention_mask"):
        assert list(encoded[key]) == expected[key]
    assert dataset.column_names == ["text", "label"]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("max_length", [5, 12, 32, 100, None])
def test_pairs_are_cut_as_the_tokenizer_cuts_them(max_length, side):
    tokenizer = make_tokenizer()
    tokenizer.truncation_side = side
    encoded = encode(make_pairs(), tokenizer, max_length=max_length)
    pairs = make_pairs()
    limit = min(max_length or 32, 32)
    expected = tokenizer(list(pairs["text"]), list(pairs["text_pair"]), truncation=True, max_length=limit)
    assert list(encoded["input_ids"]) == expected["input_ids"]
    assert list(encoded["token_type_ids"]) == expected["token_type_ids"]
    assert [len(ids) for ids in encoded["input_ids"]] == [min(7, limit), limit, limit]


def test_a_slow_tokenizer_gives_the_same(tmp_path, tokenizer):
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(SPECIAL + GOOD + BAD + PLAIN))
    other = BertTokenizer.from_pretrained(tmp_path, model_max_length=32)
    assert list(encode(make_pairs(), other)["input_ids"]) == list(
        encode(make_pairs(), tokenizer)["input_ids"]
    )


def test_token_types_are_asked_for(tokenizer):
    silent = make_tokenizer()
    silent.model_input_names = ["input_ids", "attention_mask"]
    assert encode(make_pairs(), silent).column_names == ["label", "input_ids", "attention_mask"]
    asked = encode(make_pairs(), silent, token_types=True)
    assert list(asked["token_type_ids"]) == list(encode(make_pairs(), tokenizer)["token_type_ids"])
    assert asked[0]["token_type_ids"] == [0, 0, 0, 0, 1, 1, 1]


def test_cut_rows_are_counted_once_over_all_splits(caplog, tokenizer):
    splits = DatasetDict(train=make_pairs(), test=make_pairs().select([0, 1]))
    with caplog.at_level(logging.WARNING, logger="hfdistill"):
        encode(splits, tokenizer, max_length=20)
    assert [record.getMessage() for record in caplog.records] == [
        "3 of 5 rows are longer than 20 tokens and were cut"
    ]
    assert caplog.records[0].name == "hfdistill.data.encode"


def test_large_counts_are_readable_and_nothing_is_said_without_cuts(caplog, tokenizer):
    rows = Dataset.from_dict({"text": [LONG] * 3 + ["good"] * 1997})
    encode(rows, tokenizer)
    encode(rows.select([5, 6]), tokenizer)
    assert [r.getMessage() for r in caplog.records] == [
        "3 of 2,000 rows are longer than 32 tokens and were cut"
    ]


def test_a_tokenizer_without_a_limit_cuts_nothing(caplog):
    unlimited = make_bare_tokenizer({"unk_token": "[UNK]"})
    rows = encode(Dataset.from_dict({"text": [LONG]}), unlimited)
    assert len(rows[0]["input_ids"]) == 100
    assert not caplog.records


def test_splits_keep_their_kind_and_other_columns(tokenizer):
    splits = DatasetDict(train=make_dataset(4).add_column("weight", [1, 2, 3, 4]), extra=make_dataset(2))
    encoded = encode(splits, tokenizer)
    assert type(encoded) is DatasetDict
    assert encoded["train"]["weight"] == [1, 2, 3, 4]
    assert list(encoded["extra"]["input_ids"]) == list(encode(make_dataset(2), tokenizer)["input_ids"])


def test_a_stream_gives_the_same_rows(tokenizer):
    stream = make_pairs().to_iterable_dataset()
    assert list(encode(stream, tokenizer)) == list(encode(make_pairs(), tokenizer))
    nameless = IterableDataset.from_generator(lambda: iter([{"text": "good", "label": 1}]))
    assert next(iter(encode(nameless, tokenizer)))["input_ids"] == tokenizer("good")["input_ids"]


def test_empty_text_is_never_an_empty_row(tokenizer):
    blank = Dataset.from_dict({"text": ["", "  \t\n", "the film"]})
    assert list(encode(blank, tokenizer)["input_ids"])[:2] == [[2, 3], [2, 3]]
    bare = make_bare_tokenizer({"unk_token": "[UNK]", "cls_token": "[CLS]"})
    encoded = encode(blank, bare, token_types=True)
    assert encoded[0] == {"input_ids": [2], "token_type_ids": [0], "attention_mask": [1]}
    assert [len(ids) for ids in encoded["input_ids"]] == [1, 1, 2]
    with pytest.raises(ValueError, match=r"Rows \[0, 1\] give no token"):
        encode(blank, make_bare_tokenizer({"pad_token": "[PAD]"}))


def test_misuse_is_refused(tokenizer):
    with pytest.raises(ValueError, match=r"found \['sentence'\].*rename_column"):
        encode(Dataset.from_dict({"sentence": ["a"]}), tokenizer)
    with pytest.raises(ValueError, match="found list"):
        encode([{"text": "a"}], tokenizer)
    with pytest.raises(ValueError, match=r"may have 3 tokens, of which the tokenizer needs 3.*max_length=4"):
        encode(make_pairs(), tokenizer, max_length=3)
    with pytest.raises(ValueError, match=r"Rows \[1, 2\] of column 'text' hold None"):
        encode(Dataset.from_dict({"text": ["a", None, None]}), tokenizer)
    with pytest.raises(ValueError, match="The data of split 'test' has no rows"):
        encode(DatasetDict(train=make_pairs(), test=make_pairs().select([])), tokenizer)
    broken = IterableDataset.from_generator(lambda: iter([{"text": "a"}, {"text": "b\ud800"}]))
    with pytest.raises(ValueError, match=r"Rows \[1\].*surrogate"):
        list(encode(broken, tokenizer))


def test_the_cache_knows_the_whole_tokenizer_and_no_more(tmp_path, caplog):
    (tmp_path / "train.csv").write_text("text,label\n" + f"The film,1\n{LONG},0\n")
    rows = load_dataset(
        "csv", data_files=str(tmp_path / "train.csv"), split="train", cache_dir=str(tmp_path / "cache")
    )
    first = encode(rows, make_tokenizer())
    used = make_tokenizer()
    used(["the film"] * 2, padding="max_length", truncation=True, max_length=4)
    again = encode(rows, used)
    assert again._fingerprint == first._fingerprint
    assert first.cache_files == again.cache_files != []
    assert [r.getMessage() for r in caplog.records] == [
        "1 of 2 rows are longer than 32 tokens and were cut"
    ] * 2
    cased, added, left = make_tokenizer(), make_tokenizer(), make_tokenizer()
    cased.backend_tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    added.add_tokens(["The"])
    left.truncation_side = "left"
    others = [encode(rows, changed) for changed in (cased, added, left)]
    others += [encode(rows, make_tokenizer(), max_length=9), encode(rows, make_tokenizer(), token_types=True)]
    assert len({other._fingerprint for other in others} | {first._fingerprint}) == 6
    assert others[0][0]["input_ids"] != first[0]["input_ids"]
    assert Hasher.hash(make_tokenizer()) == Hasher.hash(used)


@pytest.mark.parametrize(
    ("column", "size", "fits"),
    [
        (["a", "b"], 4, True),
        ([[0, 3], [1]], 4, True),
        ([[0, 4], [1]], 4, False),
        ([[-1]], 4, False),
        ([[0], []], 4, False),
        ([[9]], None, True),
    ],
)
def test_ids_fit_a_table_of_embeddings(column, size, fits):
    assert _fits(pa.chunked_array([pa.array(column)]), size) is fits


def test_ids_in_rows_of_one_length_are_looked_at_too():
    lists = Features({"input_ids": List(Value("int64"), length=2)})
    rows = Dataset.from_dict({"input_ids": [[1, 2], [1, 99]]}, features=lists)
    check_ids(rows, 100, split="train_dataset")
    with pytest.raises(ValueError, match=r"train_dataset, row 1: 'input_ids' holds 99, and .* ids 0 to 98"):
        check_ids(rows, 99, split="train_dataset")


def test_a_tokenizer_that_cannot_tell_words_apart_is_refused():
    encoder = object.__new__(WordEncoder)
    object.__setattr__(encoder, "tokenizer", SimpleNamespace(is_fast=False))
    with pytest.raises(
        ValueError, match=r"SimpleNamespace cannot tell which word a token is of\. Load the fast"
    ):
        encoder._columns({"tokens": [["a"]]}, [0])
