"""Texts are found by what columns hold, and within objects, by every reader alike."""

import json
import logging

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from hfdistill.data.label_columns import multi_hot_names
from hfdistill.data.load import load
from hfdistill.data.row_files import RowFile, texts_of, values_of
from hfdistill.data.table_files import FileOptions, table_of
from hfdistill.data.text_columns import likely_texts, with_inner_columns
from hfdistill.data.unlabelled_texts import load_texts
from hfdistill.recipe.draft import draft_page

BODIES = [f"the {number}th film was warm" for number in range(20)]
ROWS = [
    {"id": number, "message": {"body": body, "lang": "en"}, "meta": {"of": {"verdict": "ny"[number % 2]}}}
    for number, body in enumerate(BODIES)
]


@pytest.fixture
def nested(tmp_path):
    (tmp_path / "mails.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "mails.parquet")
    return tmp_path


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("streaming", [False, True])
def test_values_within_objects_are_columns(nested, kind, streaming):
    named = {"text": "message.body", "label": "meta.of.verdict", "label_names": ["n", "y"]}
    rows = load(nested / f"mails.{kind}", **named, streaming=streaming)["train"]
    first = list(rows)
    assert [row["text"] for row in first] == BODIES
    assert [row["label"] for row in first] == [0, 1] * 10


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_the_only_column_of_sentences_is_the_text(nested, kind, caplog):
    assert load(nested / f"mails.{kind}")["train"]["text"][:] == BODIES
    said = "the text is column 'message.body', the only one of sentences (pass text= for another)"
    assert said in caplog.messages
    first = RowFile(nested / f"mails.{kind}", FileOptions()).first()
    assert texts_of(first, None, None) == ["message.body"]
    assert values_of(first, "message.body") == BODIES
    assert values_of(first, "message.head") == [None] * 20
    assert values_of(first, "id.head") == [None] * 20


def test_two_columns_of_sentences_are_refused_with_what_is_within(tmp_path):
    rows = [{"mail": {"body": body, "about": f"on {body}"}} for body in BODIES]
    with pytest.raises(
        ValueError, match=r"\['mail'\], within .*\['mail.body', 'mail.about'\], of which none has"
    ):
        load(rows)
    with pytest.raises(ValueError, match=r"no column 'body', found .* Did you mean text='mail.body'\?"):
        load(rows, text="body")


def test_a_column_of_objects_says_how_what_is_within_is_named():
    with pytest.raises(ValueError, match=r"the keys \['body', 'lang'\], one of .* text='message.body'"):
        load(ROWS, text="message")


def test_labels_within_objects_are_named_as_texts_are():
    with pytest.raises(ValueError, match=r"holds \['dict'\], .* Name a value .* such as label='meta.of'\."):
        load(ROWS, text="message.body", label="meta")


def test_a_usual_name_comes_before_what_columns_hold(caplog):
    caplog.set_level(logging.WARNING)
    rows = {"text": ["good", "bad"] * 10, "remark": BODIES, "label": [1, 0] * 10}
    assert load(rows)["train"]["text"][:] == ["good", "bad"] * 10
    assert "sentences" not in caplog.text


def test_a_draft_names_what_is_within_objects(nested):
    page = draft_page(str(nested / "mails.jsonl")).page
    assert "\n  text: message.body\n  label: meta.of.verdict\n" in page


def test_sentences_differ_and_hold_several_words():
    columns = {"a": BODIES, "b": ["one word"] * 20, "c": list(map(str, range(20))), "d": range(20)}
    assert likely_texts(columns | {"e": [f"{body}, too" for body in BODIES]}) == ["e", "a"]
    assert likely_texts(columns, without=["a"]) == []


def test_inner_columns_stand_behind_the_others():
    rows = Dataset.from_list([{"a": {"b": {"c": 1}, "d": 2}, "e": 3}, {"a": None, "e": 4}])
    whole = with_inner_columns(rows)
    assert whole.column_names == ["a", "e", "a.b.c", "a.d"]
    assert whole["a.b.c"][:] == [1, None]
    assert with_inner_columns(rows, ["e", "a"]) is rows


def test_columns_of_labels_come_in_any_ordered_form():
    """An array and an index ended in "The truth value … is ambiguous", and a generator was read up."""
    frame = pd.DataFrame({"text": BODIES, "joy": [0, 1] * 10, "fear": [1, 1] * 10})
    names = ["joy", "fear"]
    for label in (tuple(names), np.array(names), frame.columns[1:], iter(names), dict.fromkeys(names).keys()):
        rows = load(frame, label=label)["train"]
        assert rows["label"][:] == [[0.0, 1.0], [1.0, 1.0]] * 10
        assert multi_hot_names(rows) == names
    assert load(frame, text=np.str_("text"), label=np.str_("joy"))["train"]["label"][:] == [0, 1] * 10
    with pytest.raises(ValueError, match=r"label is a set.* Type label=\['fear', 'joy'\]\."):
        load(frame, label=set(names))


def test_a_label_within_objects_is_found_and_hinted_at(nested):
    rows = load(nested / "mails.jsonl", text="Message.body", label="Meta.of.Verdict")["train"]
    assert rows["label"][:] == [0, 1] * 10
    with pytest.raises(ValueError, match=r"no column 'verdict', .* Did you mean label='meta.of.verdict'\?"):
        load(nested / "mails.jsonl", text="message.body", label="verdict")


@pytest.mark.parametrize("form", ["jsonl", "json", "memory"])
def test_objects_with_different_keys_have_columns_within(tmp_path, form):
    """A key that some objects lack makes of the column one of JSON."""
    rows = [
        {"m": {"body": body, "as": "ny"[number % 2], **({"of": {"note": 1}} if number else {"of": "x"})}}
        for number, body in enumerate(BODIES)
    ]
    rows[3]["m"]["only"] = True
    source = rows
    if form != "memory":
        source = tmp_path / f"a.{form}"
        lines = [json.dumps(row) for row in rows]
        source.write_text("\n".join(lines) if form == "jsonl" else f"[{','.join(lines)}]")
        assert texts_of(RowFile(source, FileOptions()).first(), None, None) == ["m.body"]
    read = load(source, label="m.as")["train"]
    assert (read["text"][:], read["label"][:]) == (BODIES, [0, 1] * 10)
    whole = table_of({"m": [row["m"] for row in rows]})
    assert with_inner_columns(whole, ["m.of.note"])["m.of.note"][:3] == [None, 1, 1]


def test_columns_within_are_read_where_a_name_has_a_point_and_where_the_first_row_has_none(tmp_path):
    rows = [{"m.n": None}] + [{"m.n": {"b": body}} for body in BODIES]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for kind in ("parquet", "jsonl"):
        first = RowFile(tmp_path / f"a.{kind}", FileOptions()).first()
        assert texts_of(first, None, None) == ["m.n.b"]
        assert values_of(first, "m.n.b") == [None, *BODIES]


def test_a_text_that_stands_in_several_rows_may_be_the_first_of_a_pair():
    pairs = {"first": [BODIES[number // 3] for number in range(20)], "second": BODIES, "label": [0, 1] * 10}
    with pytest.raises(ValueError, match=r"none has a usual name for text\. Say which"):
        load(pairs)
    pairs["first"] = ["the same words"] * 20
    assert load(pairs)["train"]["text"][:] == BODIES


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_texts_alone_are_read_within_objects(nested, kind):
    assert load_texts(nested / f"mails.{kind}", text="message.body", min_words=1)["text"][:] == BODIES
    assert load_texts(nested / f"mails.{kind}", text="message.lang", min_words=1)["text"][:] == ["en"]
    with pytest.raises(
        ValueError, match=r"\['id', 'message', 'meta'\], within their objects \['message.body'"
    ):
        load_texts(nested / f"mails.{kind}", min_words=1)
