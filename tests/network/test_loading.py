"""Loading classifiers: float32, a trained head, and no code but our own."""

import json

import numpy as np
import pytest
import torch
from transformers import BertModel

from hfdistill.network import foreign_code
from hfdistill.network.foreign_code import PickledWeights, allowing_pickles, reading_weights
from hfdistill.network.label_space import LabelSpaceError
from hfdistill.network.loading import (
    MissingHead,
    auto_class,
    load_classifier,
    load_student,
    load_tokenizer,
    own_device,
)
from hfdistill.network.model_folder import DamagedModel
from hfdistill.network.task import task_kind
from tests.conftest import make_bert, make_tokenizer

CANARY = """
from pathlib import Path
Path({canary!r}).write_text("code that came with a model was run")
from transformers import BertConfig as Config, BertForSequenceClassification as Model
"""


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "model"
    make_bert().save_pretrained(folder)
    return folder


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("kind", [str, type(None)], ids=["text", "path"])
def test_a_folder_gives_the_saved_model(folder, kind):
    loaded = load_classifier(str(folder) if kind is str else folder)
    saved = make_bert().state_dict()
    assert loaded.state_dict().keys() == saved.keys()
    assert all(torch.equal(value, saved[name]) for name, value in loaded.state_dict().items())
    assert not loaded.training


def test_a_model_is_returned_as_it_is():
    model = make_bert()
    assert load_classifier(model) is model


def test_half_precision_weights_are_loaded_in_float32(folder):
    make_bert().to(torch.bfloat16).save_pretrained(folder)
    loaded = load_classifier(folder)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_an_encoder_without_a_head_is_refused_and_the_missing_weights_named(tmp_path, role):
    BertModel(make_bert().config).save_pretrained(tmp_path / "encoder")
    with pytest.raises(ValueError, match="encoder without a trained classifier") as caught:
        load_classifier(tmp_path / "encoder", role=role)
    text = str(caught.value)
    assert text.startswith(f"The {role} '")
    assert "classifier.bias, classifier.weight are missing" in text
    assert "Fine-tune it on labelled data" in text


def test_weights_that_lack_a_layer_are_refused(folder):
    edit_config(folder, num_hidden_layers=3)
    with pytest.raises(ValueError, match=r"lacks weights of its encoder \(bert\.encoder\.layer\.2"):
        load_classifier(folder)


@pytest.mark.parametrize("source", ["no/such-model-anywhere", "does not exist"])
def test_a_source_that_cannot_be_loaded_is_an_os_error_that_names_it(source):
    with pytest.raises(OSError, match=source):
        load_classifier(source)


@pytest.mark.parametrize("model_type", ["bert", "a-model-of-its-own"])
def test_d3_code_that_comes_with_a_model_is_never_run(folder, tmp_path, model_type, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # whoever is asked says yes
    canary = tmp_path / "canary"
    (folder / "modeling.py").write_text(CANARY.format(canary=str(canary)))
    names = ["AutoConfig", "AutoModel", "AutoModelForSequenceClassification", "AutoTokenizer"]
    code = {name: "modeling.Config" if name == "AutoConfig" else "modeling.Model" for name in names}
    edit_config(folder, model_type=model_type, auto_map=code)
    if model_type == "bert":
        assert type(load_classifier(folder)) is type(make_bert())
    else:
        with pytest.raises(ValueError, match="trust_remote_code"):
            load_classifier(folder)
    assert not canary.exists()


def test_a_task_is_one_of_two(folder):
    assert auto_class(folder).__name__ == "AutoModelForSequenceClassification"
    assert auto_class(folder, task="token").__name__ == "AutoModelForTokenClassification"
    with pytest.raises(ValueError, match=r"task is 'sequence' .* or 'token' .*, found 'words'"):
        auto_class(folder, task="words")


def test_an_encoder_to_train_gets_the_classes_of_a_teacher_or_none(tmp_path):
    make_bert().bert.save_pretrained(tmp_path)
    with pytest.raises(MissingHead, match="is an encoder without a trained classifier"):
        load_student(tmp_path)
    student = load_student(tmp_path, like=make_bert(labels={0: "a", 1: "b", 2: "c"}).config)
    assert student.config.id2label == {0: "a", 1: "b", 2: "c"}

    several = make_bert(labels={0: "a", 1: "b", 2: "c"}, problem_type="multi_label_classification").config
    assert task_kind(load_student(tmp_path, like=several).config) == "multi_label"


@pytest.mark.parametrize(
    ("saved", "names", "task", "kind"),
    [
        ("single_label_classification", ["value"], None, "regression"),
        ("multi_label_classification", ["a", "b"], None, "single_label"),
        ("regression", ["a", "b"], "sequence", "single_label"),
        ("single_label_classification", ["a", "b"], "multi_label", "multi_label"),
        ("multi_label_classification", ["a", "b", "c"], None, "multi_label"),  # its head stays
        ("multi_label_classification", ["a", "b", "c"], "sequence", "single_label"),
        (None, ["a"], "multi_label", "multi_label"),
    ],
)
def test_a_new_head_has_the_task_that_is_asked_for_and_not_that_of_the_head_before(
    tmp_path, saved, names, task, kind
):
    make_bert(labels={0: "x", 1: "y", 2: "z"}, problem_type=saved).save_pretrained(tmp_path)
    model = load_classifier(tmp_path, new_head=names, task=task)
    assert task_kind(model.config) == kind
    assert list(model.config.id2label.values()) == names
    shape = (1, len(names)) if kind == "multi_label" else (1,)
    labels = torch.ones(shape) if kind != "single_label" else torch.ones(shape, dtype=torch.long)
    assert torch.isfinite(model(torch.tensor([[2, 5, 3]]), labels=labels).loss)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ("good", "'good'"),
        ([], r"\[\]"),
        (2, "2"),
        (["a", "b", "a"], r"\['a', 'b', 'a'\]"),
        ({"a", "b"}, r"\{'\w', '\w'\}"),
    ],
)
def test_class_names_that_are_no_list_of_distinct_ones_are_refused(folder, names, found):
    """A text was a class a letter, no name two classes, and a set another order in each process."""
    with pytest.raises(LabelSpaceError, match=rf"each once, found {found}\. Type new_head=\["):
        load_classifier(folder, new_head=names)


def test_class_names_may_come_in_any_order_that_can_be_read(folder):
    heads = ({"x": 1, "y": 2, "z": 3}.keys(), ("x", "y", "z"), np.array(["x", "y", "z"]))
    for names in heads:
        assert load_classifier(folder, new_head=names).config.id2label == {0: "x", 1: "y", 2: "z"}


def test_only_a_name_with_a_slash_is_a_kernel_of_the_hub(folder):
    edit_config(folder, attn_implementation="sdpa")
    with reading_weights(folder) as options:
        assert options == {"use_safetensors": True}
    edit_config(folder, attn_implementation={"text": "org/kernel"})
    with (
        pytest.raises(ValueError, match="names 'org/kernel' as attn_implementation, a kernel of the Hub"),
        reading_weights(folder),
    ):
        pass


def test_an_error_while_a_pickle_is_read_that_is_not_about_pickles_stays(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    weights = reading_weights(folder)
    with allowing_pickles():
        assert weights.__enter__() == {"use_safetensors": False, "weights_only": True}
    error = RuntimeError("no room")
    assert not weights.__exit__(RuntimeError, error, None)  # it goes on as it was


@pytest.mark.parametrize("files", [{"model.safetensors", "pytorch_model.bin"}, {"pytorch_model.bin"}, set()])
def test_a_repository_is_read_as_safetensors_where_it_has_some(files, monkeypatch):
    monkeypatch.setattr(
        foreign_code, "cached_file", lambda source, name, **_: name if name in files else None
    )
    monkeypatch.setattr(foreign_code, "has_file", lambda source, name: name in files)
    pickled = files == {"pytorch_model.bin"}
    with allowing_pickles(), reading_weights("org/model") as options:
        assert options["use_safetensors"] is not pickled
    if pickled:
        with (
            pytest.raises(PickledWeights, match=r"'org/model' has its weights in pytorch_model\.bin alone"),
            reading_weights("org/model"),
        ):
            pass


@pytest.mark.parametrize(
    ("name", "change", "found"),
    [
        ("config.json", lambda content: content[:-9], "OSError: .*not a valid JSON file"),
        (
            "config.json",
            lambda content: b'{"model_type": "bert", "hidden_size": []}',
            "StrictDataclass.*hidden_size",
        ),
        (
            "config.json",
            lambda content: content.replace(b'"vocab_size": 36', b'"vocab_size": 35'),
            "mismatched",
        ),
        ("model.safetensors", lambda content: content[:-9], "SafetensorError: "),
        ("tokenizer.json", lambda content: content[:-9], "JSONDecodeError: "),
        ("tokenizer.json", lambda content: b'{"added_tokens": [1]}', "AttributeError: "),
    ],
)
def test_a_damaged_file_is_told_with_what_was_found(folder, name, change, found):
    make_tokenizer().save_pretrained(folder)
    read = load_tokenizer if name == "tokenizer.json" else load_classifier
    path = folder / name
    content = change(path.read_bytes())
    assert content != path.read_bytes()
    path.write_bytes(content)
    with pytest.raises(DamagedModel, match=f"cannot be read .*{found}.*Download or save it again") as caught:
        read(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    "name", ["a\0b", "x" * 5000, "\x1b[31mred", "a b/c d", "a/b\nc", "\ud800", "<script>/x", "C:\\models\\x"]
)
def test_d18_a_name_that_no_model_can_have_is_refused_before_the_hub_is_asked(name):
    with pytest.raises(FileNotFoundError, match="no model of the Hub can have this name") as caught:
        load_classifier(name)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("accelerator", "local_rank", "device"),
    [(None, "1", "cpu"), ("xpu", None, "xpu:0"), ("cuda", "1", "cuda:1"), ("mps", None, "mps:0")],
)
def test_a_process_has_the_accelerator_that_its_launcher_gave_it(
    monkeypatch, accelerator, local_rank, device
):
    there = accelerator and torch.device(accelerator)
    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda check_available: there)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local_rank:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    assert own_device() == torch.device(device)
