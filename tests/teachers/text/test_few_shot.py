"""Embeddings and class names, or a few examples, make a teacher."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from datasets import ClassLabel, Dataset, DatasetDict
from sklearn.linear_model import LogisticRegression
from transformers import BertConfig, BertModel

from hfdistill.teachers.text.class_names import plain_words, read_classes, read_templates
from hfdistill.teachers.text.embedding import Embedder
from hfdistill.teachers.text.few_shot import few_shot
from hfdistill.teachers.text.labelled_rows import read_labelled
from hfdistill.teachers.text.teacher import TextTeacher
from tests.conftest import BAD, GOOD, make_dataset, make_tokenizer
from tests.teachers.text.test_teacher import train

CLASSES = ["negative", "positive"]
DESCRIBED = {"negative": "dull boring grim", "positive": ["great lovely warm", "good"]}


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
    return BertModel(BertConfig(vocab_size=36, max_position_embeddings=32, **sizes)).eval()


def words_of(texts):
    """A vector of the opinions in each text, and a constant."""
    return np.array([[*(f" {word} " in f" {text} " for word in GOOD + BAD), 0.1] for text in texts], float)


def read_examples(rows):
    return read_labelled(rows, "examples")


def examples(rows=32):
    return make_dataset(rows)


def test_an_embedding_is_the_mean_over_real_tokens_whatever_the_batch(encoder):
    tokenizer = make_tokenizer()
    texts = [row["text"] for row in make_dataset()]
    embedder = Embedder(encoder, tokenizer=tokenizer, batch_tokens=64)
    found = embedder(texts)
    for text, vector in zip(texts, found, strict=True):
        hidden = encoder(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        torch.testing.assert_close(vector, F.normalize(hidden.mean(0), dim=0), atol=1e-5, rtol=0)
    first = Embedder(encoder, tokenizer=tokenizer, pooling="cls")([texts[3]])[0]
    hidden = encoder(**tokenizer(texts[3], return_tensors="pt")).last_hidden_state[0]
    torch.testing.assert_close(first, F.normalize(hidden[0], dim=0), atol=1e-5, rtol=0)
    assert embedder.fingerprint() != Embedder(encoder, tokenizer=tokenizer, pooling="cls").fingerprint()


def test_a_folder_of_sentence_transformers_says_its_pooling(encoder, tmp_path):
    embedder = Embedder(encoder, tokenizer=make_tokenizer(), pooling="cls", max_length=8)
    embedder.save(tmp_path)
    again = Embedder(tmp_path)
    assert (again.pooling, again.max_length) == ("cls", 8)
    texts = ["a great film", "the plot was dull and the end was very very very cold"]
    torch.testing.assert_close(again(texts), embedder(texts))
    assert again.fingerprint() == embedder.fingerprint()
    modules = json.loads((tmp_path / "modules.json").read_text())
    (tmp_path / "modules.json").write_text(json.dumps([*modules, {"path": "3_Dense", "type": "x.Dense"}]))
    with pytest.raises(ValueError, match=r"Transformer, Pooling, Normalize, Dense, and only"):
        Embedder(tmp_path)


def test_without_examples_it_is_the_cosine_to_the_descriptions(tmp_path):
    teacher = few_shot(words_of, DESCRIBED, cache=tmp_path, template="{}", scale=10)
    vectors = F.normalize(torch.from_numpy(words_of(["great film", "grim"])).float(), dim=-1)
    negative = F.normalize(torch.from_numpy(words_of(["dull boring grim"])).float(), dim=-1)
    positive = F.normalize(torch.from_numpy(words_of(["great lovely warm", "good"])).float(), dim=-1).mean(0)
    anchors = torch.stack([negative[0], F.normalize(positive, dim=0)])
    torch.testing.assert_close(teacher.logits(["great film", "grim"]), 10 * vectors @ anchors.T)
    assert teacher.classes == CLASSES


def test_with_examples_it_is_the_logistic_regression_of_scikit_learn(tmp_path):
    """Of the two strengths of descriptions and three of C, one; scaled by a temperature."""
    data = examples()
    teacher = few_shot(words_of, None, data, cache=tmp_path, template="{}")
    new = ["bright film and a moving end", "a flat story", "sharp but cold and dull"]
    found = teacher.logits(new)
    vectors = (
        F.normalize(torch.from_numpy(words_of([*data["text"], *CLASSES])).float(), dim=-1).double().numpy()
    )
    labels = [*data["label"], 0, 1]
    wanted = [
        LogisticRegression(C=c, max_iter=1000).fit(vectors, labels, sample_weight=[1] * 32 + [m] * 2)
        for c in (1.0, 10.0, 100.0)
        for m in (1.0, 16.0)
    ]
    points = F.normalize(torch.from_numpy(words_of(new)).float(), dim=-1).double().numpy()
    ratios = [(found[:, 1] - found[:, 0]).double().numpy() / fit.decision_function(points) for fit in wanted]
    assert min(np.ptp(ratio) / abs(ratio.mean()) for ratio in ratios) < 1e-3
    assert teacher.probabilities(new).argmax(-1).tolist()[:2] == [1, 0]


def test_examples_are_answered_by_a_head_that_has_not_seen_them(tmp_path):
    """A mislabelled example whose words occur nowhere else cannot be known by heart."""
    texts = ["good", "great", "warm", "funny", "bad", "dull", "cold", "boring"]
    wrong = "sharp sharp"
    teacher = few_shot(words_of, CLASSES, ([*texts, wrong], [1] * 4 + [0] * 4 + [0]), cache=tmp_path)
    seen, alike = teacher.probabilities([wrong, "sharp  sharp"])
    assert float(alike[0]) > float(seen[0]) + 0.05


def test_one_example_a_class_and_classes_without_any(tmp_path, caplog):
    teacher = few_shot(words_of, CLASSES, {"positive": ["great"], "negative": ["dull"]}, cache=tmp_path)
    assert teacher.logits(["great film", "dull film"]).argmax(-1).tolist() == [1, 0]
    teacher = few_shot(
        words_of, {**DESCRIBED, "cold": "cold"}, {"positive": ["great", "good"]}, cache=tmp_path
    )
    assert "no example of the classes 'negative', 'cold'" in caplog.text
    assert teacher.logits(["cold", "warm"]).argmax(-1).tolist() == [2, 1]


def test_it_is_saved_and_read_again_and_answers_alike(encoder, tmp_path):
    teacher = few_shot(encoder, None, examples(), tokenizer=make_tokenizer(), cache=tmp_path / "a")
    teacher.save(tmp_path / "saved")
    again = few_shot(tmp_path / "saved", cache=tmp_path / "b")
    texts = [*make_dataset()["text"][:3], "a new film"]
    torch.testing.assert_close(again.logits(texts), teacher.logits(texts))
    assert again.fingerprint() == teacher.fingerprint()
    assert isinstance(again, TextTeacher)
    assert not list((tmp_path / "saved").rglob("*.bin")) + list((tmp_path / "saved").rglob("*.pkl"))
    with pytest.raises(ValueError, match="Leave classes and examples out"):
        few_shot(tmp_path / "saved", CLASSES)
    with pytest.raises(ValueError, match="a function cannot be saved"):
        few_shot(words_of, CLASSES, cache=tmp_path).save(tmp_path / "no")


def test_it_teaches(encoder, tmp_path):
    teacher = few_shot(encoder, CLASSES, tokenizer=make_tokenizer(), cache=tmp_path)
    assert train(teacher, tmp_path / "out").state.global_step == 4


def test_other_examples_are_another_teacher(tmp_path):
    one, other = (few_shot(words_of, None, examples(rows), cache=tmp_path) for rows in (16, 32))
    assert one.fingerprint() != other.fingerprint()


def test_mistakes_are_told(tmp_path):
    with pytest.raises(ValueError, match="names two classes or more"):
        few_shot(words_of, cache=tmp_path)
    with pytest.raises(ValueError, match="labelled 'fine', and the classes are"):
        few_shot(words_of, CLASSES, (["a"], ["fine"]), cache=tmp_path)
    with pytest.raises(ValueError, match="2 texts and 1 labels"):
        few_shot(words_of, CLASSES, (["a", "b"], ["negative"]), cache=tmp_path)
    with pytest.raises(ValueError, match=r"made \(2,\) of 2 texts"):
        few_shot(lambda texts: np.zeros(len(texts)), CLASSES, cache=tmp_path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("card_arrival", "card arrival"),
        ("topUpFailed", "top up failed"),
        ("Refund_not_shown", "Refund not shown"),
        ("USA", "USA"),
        ("joy", "joy"),
        ("pin-blocked", "pin blocked"),
        ("ATM_support", "ATM support"),
    ],
)
def test_names_become_words(name, words):
    assert plain_words(name) == words


def test_descriptions_and_templates_are_checked():
    assert read_classes({"a": "one", "b": ["two", "three"]}) == {"a": ["one"], "b": ["two", "three"]}
    with pytest.raises(ValueError, match="'b' has an empty description"):
        read_classes({"a": "one", "b": " "})
    for template in ("This is it.", ["It is {}.", "{} or {}"], []):
        with pytest.raises(ValueError, match="no single place"):
            read_templates(template)


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def saved_encoder(encoder, folder, **options):
    Embedder(encoder, tokenizer=make_tokenizer(), **options).save(folder)
    return folder


def test_a_dtype_is_a_floating_one_of_torch_or_its_name(encoder, tmp_path):
    folder = saved_encoder(encoder, tmp_path)
    assert Embedder(folder, dtype="bfloat16").model.dtype is torch.bfloat16
    assert Embedder(folder, dtype=torch.float16, device="cpu").model.dtype is torch.float16
    for name in ("int64", "float33", "nn"):
        with pytest.raises(ValueError, match=f"dtype is '{name}', which is none of torch. Type float32"):
            Embedder(folder, dtype=name)


def test_pooling_by_the_last_real_token_whatever_the_batch(encoder):
    tokenizer = make_tokenizer()
    embedder = Embedder(encoder, tokenizer=tokenizer, pooling="last")
    texts = ["a great film", "the plot was dull and cold"]
    for text, vector in zip(texts, embedder(texts), strict=True):
        hidden = encoder(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        torch.testing.assert_close(vector, F.normalize(hidden[-1], dim=0), atol=1e-5, rtol=0)
    assert embedder([]).shape == (0, 16)
    with pytest.raises(
        ValueError, match=r"pooling is 'max', which is unknown\. Type 'mean', 'cls' or 'last'"
    ):
        Embedder(encoder, tokenizer=tokenizer, pooling="max")
    with pytest.raises(ValueError, match=r"object \(BertModel\) and came without what reads its text"):
        Embedder(encoder)


@pytest.mark.parametrize("mode", ["mean", "cls", "lasttoken"])
def test_pooling_is_read_as_older_and_newer_versions_write_it(encoder, tmp_path, mode):
    folder = saved_encoder(encoder, tmp_path)
    wanted = {"mean": "mean", "cls": "cls", "lasttoken": "last"}[mode]
    (folder / "sentence_bert_config.json").unlink()
    own = f"pooling_mode_{mode}_tokens" if mode == "mean" else f"pooling_mode_{mode}"
    for config in ({own.replace("cls", "cls_token"): True}, {"pooling_mode": mode}):
        write_json(folder / "1_Pooling" / "config.json", config)
        assert Embedder(folder).pooling == wanted
    assert Embedder(folder).max_length == 32  # the model's own
    for config, name in (
        ({"pooling_mode_max_tokens": True}, "pooling_mode_max_tokens"),
        ({"pooling_mode": ["mean", "max"]}, "pooling_mode_.*mean.*max.*"),
        ({}, "nothing known"),
    ):
        write_json(folder / "1_Pooling" / "config.json", config)
        with pytest.raises(ValueError, match=f"pools by {name}; mean, cls and last are known"):
            Embedder(folder)


def test_a_folder_of_one_module_is_pooled_by_the_mean_and_of_others_refused(encoder, tmp_path):
    folder = saved_encoder(encoder, tmp_path, pooling="cls")
    modules = json.loads((folder / "modules.json").read_text())
    write_json(folder / "modules.json", modules[:1])
    assert Embedder(folder).pooling == "mean"
    write_json(
        folder / "modules.json", [modules[0], {**modules[1], "type": "sentence_transformers.models.Dense"}]
    )
    with pytest.raises(ValueError, match="of the modules Transformer, Dense, and only Transformer, Pooling"):
        Embedder(folder)


def test_a_head_that_has_seen_no_example_is_saved_and_read(encoder, tmp_path):
    embedder = Embedder(encoder, tokenizer=make_tokenizer())
    teacher = few_shot(embedder, CLASSES, cache=tmp_path / "cache")
    teacher.save(tmp_path / "saved")
    again = few_shot(tmp_path / "saved", cache=tmp_path / "other")
    assert again.classifier.seen == {}
    texts = ["a great film", "a dull plot"]
    torch.testing.assert_close(again.logits(texts), teacher.logits(texts))


def test_files_and_pairs_are_examples_and_rows_without_a_label_are_none(tmp_path):
    rows = [{"text": "great film", "label": "positive"}, {"text": "dull plot", "label": "negative"}]
    path = tmp_path / "examples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    wanted = ["great film", "dull plot"], [1, 0], ["negative", "positive"]
    assert read_examples(path) == read_examples(str(path)) == wanted
    pairs = Dataset.from_dict({"text": ["a", "b", "c"], "text_pair": ["d", "e", "f"], "label": [1, -100, 0]})
    assert read_examples(pairs) == ([("a", "d"), ("c", "f")], [1, 0], [])
    assert read_examples(None) == ([], [], [])
    with pytest.raises(ValueError, match="examples has 2 texts and 1 labels"):
        read_examples((["a", "b"], [0]))
    with pytest.raises(ValueError, match=r"examples is a tuple of 3\. Give a mapping"):
        read_examples((["a"], ["b"], ["c"]))
    with pytest.raises(ValueError, match="examples has the columns text, and none is called label"):
        read_examples(Dataset.from_dict({"text": ["a"]}))


def test_examples_of_every_form_are_the_same_rows():
    texts, labels = ["great film", "dull plot"], ["positive", "negative"]
    wanted = texts, labels, ["negative", "positive"]
    frame = pd.DataFrame({"text": texts, "label": labels})
    pairs = list(zip(texts, labels, strict=True))
    for rows in (
        (texts, labels),
        pairs,
        iter(pairs),
        iter([texts, labels]),
        frame,
        Dataset.from_pandas(frame),
    ):
        assert read_examples(rows) == wanted
    with pytest.raises(ValueError, match=r"^examples is a list of 0\. Give a mapping"):
        read_examples([])
    with pytest.raises(
        ValueError, match=r"DatasetDict of 'train', not one set of rows\. Type data\['train'\]"
    ):
        read_examples(DatasetDict(train=Dataset.from_pandas(frame)))
    both = ["dull plot"], ["negative"], ["negative"]
    assert read_examples({"negative": "dull plot"}) == read_examples({"negative": ["dull plot"]}) == both


PRAISE, BLAME = ["great", "warm film", "a funny end"], ["dull", "a cold film", "boring"]


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ({"examples": {0: BLAME, 1: PRAISE}}, "1"),
        ({"examples": {1: PRAISE, 0: BLAME}}, "1"),
        ({"examples": {2: PRAISE, 1: BLAME}}, "2"),
        ({"examples": {True: PRAISE, False: BLAME}}, "True"),
        ({"examples": [(t, True) for t in PRAISE] + [(t, False) for t in BLAME]}, "True"),
        ({"examples": (PRAISE + BLAME, np.array([1, 1, 1, 0, 0, 0])), "classes": ["bad", "good"]}, "good"),
        (
            {"examples": (PRAISE + BLAME, torch.tensor([1, 1, 1, 0, 0, 0])), "classes": ["bad", "good"]},
            "good",
        ),
        ({"examples": (PRAISE + BLAME, [1, 1, 1, 0, 0, 0]), "classes": ["1", "0"]}, "1"),
        ({"examples": (PRAISE + BLAME, [5, 5, 5, 1, 1, 1]), "classes": ["1", "5"]}, "5"),
        ({"examples": {"text": PRAISE + BLAME, "label": ["label"] * 3 + ["text"] * 3}}, "label"),
        (
            {"examples": [{"text": "great", "label": "a"}, {"text": "dull", "label": "b"}]},
            "a",
        ),
        ({"examples": [["great", "a"], ["dull", "b"], ["warm film", "a"]]}, "a"),
        ({"examples": {"None": PRAISE, "N/A": BLAME}}, "None"),
        ({"examples": {"gut & schön ": PRAISE, "für nichts": BLAME}}, "gut & schön "),
    ],
    ids=repr,
)
def test_a_class_is_what_its_examples_name_whatever_the_name(given, chosen, tmp_path):
    teacher = few_shot(words_of, cache=tmp_path, **given)
    assert teacher.classes[int(teacher.logits(["a great film"])[0].argmax())] == chosen


def test_numbers_of_a_dataset_are_those_of_its_names(tmp_path):
    names = ClassLabel(names=["5", "1"])
    rows = Dataset.from_dict({"text": PRAISE + BLAME, "label": [0, 0, 0, 1, 1, 1]})
    named = rows.cast_column("label", names)
    teacher = few_shot(words_of, ["1", "5"], named, cache=tmp_path, calibrate=named)
    assert teacher.classes[int(teacher.logits(["a great film"])[0].argmax())] == "5"
    assert teacher.calibration.shift == pytest.approx((0, 0), abs=0.1)  # not as if each were wrong


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"examples": [("good", text) for text in PRAISE] + [("bad", text) for text in BLAME]}, "text first"),
        ({"examples": [["great", "a"], ["dull", "b"]]}, "it may be texts and labels, or two pairs"),
        ({"examples": (["great", "dull"], [1, 0])}, "labelled by numbers, '0', '1', and nobody knows"),
        ({"examples": (["great", "dull"], ["good", 0])}, "names, such as 'good', and numbers, such as 0"),
        ({"examples": (["great", "dull"], [1.5, 0]), "classes": CLASSES}, "Row 0 is labelled 1.5"),
        ({"examples": (["great", "dull"], [True, False]), "classes": CLASSES}, "Row 0 is labelled 'True'"),
        ({"examples": (["great", "dull"], [None, -100]), "classes": CLASSES}, "no row with a label"),
        ({"examples": {"US": PRAISE, "us": BLAME}}, "'US', 'us' twice"),
        ({"examples": {"": PRAISE, "bad": BLAME}}, "one of which is empty"),
    ],
    ids=repr,
)
def test_examples_that_do_not_say_their_class_are_refused(wrong, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        few_shot(words_of, cache=tmp_path, **wrong)
    with pytest.raises(TypeError, match="None is neither a text nor a pair"):
        few_shot(words_of, cache=tmp_path, examples={"good": PRAISE, "bad": [None]})


def test_rows_without_a_label_are_no_examples(tmp_path):
    known = few_shot(words_of, CLASSES, (PRAISE + BLAME, [1, 1, 1, 0, 0, 0]), cache=tmp_path)
    labels = [1, 1, 1, 0, 0, 0, None, float("nan"), -100]
    more = few_shot(words_of, CLASSES, ([*PRAISE, *BLAME, "bad", "bad", "good"], labels), cache=tmp_path)
    assert more.fingerprint() == known.fingerprint()
    named = [label if label is None or label not in (0, 1) else CLASSES[label] for label in labels]
    more = few_shot(words_of, CLASSES, ([*PRAISE, *BLAME, "bad", "bad", "good"], named), cache=tmp_path)
    assert more.fingerprint() == known.fingerprint()


def test_a_text_given_twice_is_answered_by_a_head_that_has_seen_neither(tmp_path, caplog):
    """A mislabelled example whose words occur nowhere else cannot be known by its copy, either."""
    texts, labels = ["good", "great", "warm", "funny", "bad", "dull", "cold", "boring"], [1] * 4 + [0] * 4
    wrong = ["sharp sharp", "Sharp sharp.", "sharp sharp"]
    teacher = few_shot(words_of, CLASSES, ([*texts, *wrong], [*labels, 0, 0, 0]), cache=tmp_path)
    seen, alike = teacher.probabilities(["sharp sharp", "sharp  sharp"])
    assert float(alike[0]) > float(seen[0]) + 0.05
    assert "several classes" not in caplog.text


def test_a_text_under_two_classes_is_told(tmp_path, caplog):
    few_shot(words_of, None, {"good": ["great", "odd one"], "bad": ["dull", "Odd one!"]}, cache=tmp_path)
    assert "1 of 3 texts are examples of several classes, such as 'odd one' of 'bad', 'good'" in caplog.text
