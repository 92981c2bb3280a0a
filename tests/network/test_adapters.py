"""A folder that holds a PEFT adapter is the classifier that it was trained into."""

import json

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, TaskType, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

from hfdistill import DistillationTrainer, measure
from hfdistill.network import adapters
from hfdistill.network.loading import MissingHead, load_classifier, load_tokenizer
from hfdistill.teachers import ModelTeacher, as_teacher
from tests.conftest import make_bert, make_dataset, make_roberta, make_tokenizer
from tests.trainer.conftest import quiet_arguments

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning",  # peft 0.21 reads the old name
)
IDS = torch.tensor([[2, 5, 3], [2, 13, 3]])


def adapted(folder, base, *, names, base_has_head=False, task="SEQ_CLS"):
    """A base model in a folder, and beside it an adapter whose weights say something."""
    where = folder / "base"
    base.save_pretrained(where) if base_has_head else base.base_model.save_pretrained(where)
    config = LoraConfig(task_type=task, target_modules=["query", "value"], modules_to_save=names)
    model = get_peft_model(base, config)
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(std=0.3)
    model.save_pretrained(folder / "adapter")
    edit(folder / "adapter", base_model_name_or_path=str(where))
    return model.eval()


def edit(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("classes", [2, 3])
def test_a_head_that_was_trained_with_the_adapter_comes_with_it(tmp_path, classes):
    labels = {i: f"class {i}" for i in range(classes)}
    model = adapted(tmp_path, make_bert(seed=1, labels=labels), names=["classifier"])
    loaded = load_classifier(tmp_path / "adapter")
    torch.testing.assert_close(loaded(IDS).logits, model(IDS).logits, atol=1e-5, rtol=1e-5)
    assert type(loaded).__name__ == "BertForSequenceClassification"
    assert loaded.config.num_labels == classes
    assert loaded.config.id2label == labels
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert not loaded.training
    first, again = (ModelTeacher(load_classifier(tmp_path / "adapter")).fingerprint() for _ in range(2))
    assert first == again


def test_names_of_classes_come_from_a_config_beside_the_adapter(tmp_path):
    kind = "multi_label_classification"
    base = make_roberta(seed=1, labels={0: "bad", 1: "good", 2: "so so"}, problem_type=kind)
    model = adapted(tmp_path, base, names=["classifier"])
    base.config.save_pretrained(tmp_path / "adapter")
    bare = json.loads((tmp_path / "base" / "config.json").read_text())
    bare |= {"id2label": None, "label2id": None, "problem_type": None}
    (tmp_path / "base" / "config.json").write_text(json.dumps(bare))
    loaded = load_classifier(str(tmp_path / "adapter"))
    assert loaded.config.id2label == {0: "bad", 1: "good", 2: "so so"}
    assert loaded.config.problem_type == kind
    torch.testing.assert_close(loaded(IDS).logits, model(IDS).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("task", ["SEQ_CLS", None], ids=["head", "no head"])  # PEFT saves it for SEQ_CLS
def test_an_adapter_on_a_classifier_has_its_classes_and_its_head_where_it_has_none(tmp_path, task):
    labels = {0: "bad", 1: "good"}
    model = adapted(tmp_path, make_bert(seed=1, labels=labels), names=None, base_has_head=True, task=task)
    loaded = load_classifier(tmp_path / "adapter")
    assert loaded.config.id2label == labels
    torch.testing.assert_close(loaded(IDS).logits, model(IDS).logits, atol=1e-5, rtol=1e-5)


def test_it_teaches_and_is_measured_with_the_tokenizer_of_its_base(tmp_path):
    adapted(tmp_path, make_bert(seed=1), names=["classifier"])
    make_tokenizer().save_pretrained(tmp_path / "base")
    data = make_dataset(8)
    assert load_tokenizer(tmp_path / "adapter").get_vocab() == make_tokenizer().get_vocab()
    trainer = DistillationTrainer(
        make_bert(),
        quiet_arguments(tmp_path / "run", max_steps=1),
        teacher=tmp_path / "adapter",
        train_dataset=data,
        processing_class=make_tokenizer(),
    )
    trainer.train()
    assert trainer.teacher.tokenizer is not None
    report = measure(tmp_path / "adapter", data.remove_columns("label"), speed=None)
    assert report.student.architecture == "transformers.BertForSequenceClassification"


def test_what_cannot_be_loaded_is_told(tmp_path, monkeypatch):
    adapted(tmp_path, make_bert(seed=1), names=["classifier"])
    folder = tmp_path / "adapter"
    settings = json.loads((folder / "adapter_config.json").read_text())
    for changes, words in (
        ({"task_type": "CAUSAL_LM"}, "hfdistill.prompted"),
        ({"base_model_name_or_path": None}, "names no base model"),
        ({"base_model_name_or_path": str(tmp_path / "gone")}, "adapter of '.*gone', which cannot be loaded"),
    ):
        edit(folder, **{**settings, **changes})
        with pytest.raises(ValueError, match=words):
            load_classifier(folder)
    edit(folder, **settings)
    (folder / adapters.WEIGHTS).rename(folder / "adapter_model.bin")
    with pytest.raises(ValueError, match="pickled weights are not loaded"):
        load_classifier(folder)
    monkeypatch.setattr(adapters.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install peft"):
        load_classifier(folder)


def test_an_adapter_that_is_no_change_of_weights_is_refused(tmp_path):
    make_bert(seed=1).save_pretrained(tmp_path / "base")
    config = PromptTuningConfig(task_type=TaskType.SEQ_CLS, num_virtual_tokens=2)
    get_peft_model(load_classifier(tmp_path / "base"), config).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match="PROMPT_TUNING, which cannot be merged"):
        load_classifier(tmp_path / "adapter")


def test_a_language_model_as_teacher_is_refused_and_the_way_out_named(tmp_path):
    model = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=30))
    model.save_pretrained(tmp_path)
    for teacher in (model, ModelTeacher(model), tmp_path):
        with pytest.raises(MissingHead, match=r"language model \(GPT2LMHeadModel\).*hfdistill\.prompted"):
            as_teacher(teacher)


def test_a_whole_model_beside_an_adapter_is_the_model(tmp_path):
    adapted(tmp_path, make_bert(seed=1), names=["classifier"])
    assert adapters.adapter_settings(tmp_path / "adapter")["peft_type"] == "LORA"
    assert adapters.adapter_settings(tmp_path) is None
    make_bert(seed=4).save_pretrained(tmp_path / "adapter")
    assert adapters.adapter_settings(tmp_path / "adapter") is None


def test_classes_that_no_config_names_are_numbered_and_may_be_named(tmp_path):
    labels = {i: f"class {i}" for i in range(3)}
    adapted(tmp_path, make_bert(seed=1, labels=labels), names=["classifier"])
    make_bert(seed=1).config.save_pretrained(tmp_path / "base")  # which has two classes
    folder = tmp_path / "adapter"
    assert load_classifier(folder).config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    named = load_classifier(folder, new_head=["a", "b", "c"]).config
    assert (named.id2label, named.label2id) == ({0: "a", 1: "b", 2: "c"}, {"a": 0, "b": 1, "c": 2})
    with pytest.raises(ValueError, match="an adapter with a head of 3 classes, and 2 are asked for"):
        load_classifier(folder, new_head=["a", "b"])
