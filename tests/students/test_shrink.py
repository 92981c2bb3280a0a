"""A shrunk student equals its teacher with the dropped blocks passing their input on."""

import hashlib
import importlib
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from hfdistill.network.architectures import layout_of
from hfdistill.students.early_exit import with_exits
from hfdistill.students.shrink import shrink
from tests.conftest import make_bert
from tests.forked import in_child, needs_fork
from tests.network.test_architectures import LABELS, TINY, batch, tiny

REAL = Path(__file__).parents[2].parent / "shared/models/minilm-l6-sst2"
PEFT_ASKS = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)  # peft 0.21


@contextmanager
def only(teacher: Any, kept: list[int]) -> Iterator[None]:
    """While open, every block but the kept ones gives its input back."""
    modules = list(teacher.base_model.get_submodule(layout_of(teacher).blocks))
    if len(modules) == 1:
        modules *= teacher.config.num_hidden_layers
    calls = iter(range(1, len(modules) + 1))

    def pass_on(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        number = next(calls)
        assert module is modules[number - 1]
        if number in kept:
            return None
        hidden = args[0] if args else kwargs["hidden_states"]
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    hooks = [module.register_forward_hook(pass_on, with_kwargs=True) for module in dict.fromkeys(modules)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(**batch()).logits


def digest(model: Any) -> str:
    total = hashlib.sha256()
    for name, weight in model.state_dict().items():
        total.update(name.encode() + weight.contiguous().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


@pytest.mark.parametrize("layers", [3, [1, 3, 4], [1, 5], 1, 5], ids=str)
@pytest.mark.parametrize("model_type", sorted(TINY))
def test_equals_the_teacher_without_the_dropped_blocks(model_type, layers):
    teacher = tiny(model_type)
    before, config, whole = digest(teacher), teacher.config.to_dict(), logits(teacher)
    student = shrink(teacher, layers=layers)
    kept = student.config.shrunk_from["layers"]
    with only(teacher, kept):
        expected = logits(teacher)
    assert torch.equal(expected, logits(student))
    assert len(kept) == student.config.num_hidden_layers
    assert (len(kept) == 5) == torch.allclose(whole, expected, atol=1e-3)
    assert digest(teacher) == before
    assert teacher.config.to_dict() == config


@pytest.mark.parametrize("model_type", sorted(TINY))
def test_saved_it_is_a_plain_model(model_type, tmp_path):
    student = shrink(tiny(model_type), layers=2)
    student.save_pretrained(tmp_path)
    loaded, info = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(loaded) is type(student)
    assert torch.equal(logits(student), logits(loaded))
    assert loaded.config.id2label == LABELS
    assert loaded.config.shrunk_from["layers"] == student.config.shrunk_from["layers"]


@needs_fork
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_loads_where_hfdistill_is_not_installed(tmp_path):
    student, inputs = shrink(tiny("bert"), layers=2), batch()
    student.save_pretrained(tmp_path)
    expected = logits(student)

    def work():
        for name in [name for name in sys.modules if name.partition(".")[0] == "hfdistill"]:
            sys.modules[name] = None
        with pytest.raises(ImportError):
            importlib.import_module("hfdistill")
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path)
        assert torch.equal(model(**inputs).logits, expected)

    assert in_child(work) == 0


@pytest.mark.parametrize("model_type", sorted(TINY))
def test_every_parameter_trains_and_none_is_the_teachers(model_type):
    teacher = tiny(model_type).requires_grad_(False)
    student = shrink(teacher, layers=2)
    assert not student.training
    pointers = {weight.data_ptr() for weight in teacher.state_dict().values()}
    assert not any(weight.data_ptr() in pointers for weight in student.state_dict().values())
    student(**batch(), labels=torch.tensor([0, 1, 2])).loss.backward()
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert [name for name, parameter in student.named_parameters() if parameter.grad is None] == []
    assert all(parameter.grad is None for parameter in teacher.parameters())


@pytest.mark.parametrize(
    ("depth", "count", "kept"),
    [
        (6, 3, [2, 4, 6]),
        (6, 4, [2, 3, 5, 6]),
        (12, 5, [2, 5, 7, 10, 12]),
        (12, 1, [12]),
        (4, 4, [1, 2, 3, 4]),
    ],
)
def test_a_number_spreads_the_blocks(depth, count, kept):
    student = shrink(tiny("bert", num_hidden_layers=depth), layers=count)
    assert kept == student.config.shrunk_from["layers"]


def test_layer_indices_are_renumbered():
    student = shrink(tiny("bert"), layers=[2, 5])
    assert [block.attention.self.layer_idx for block in student.bert.encoder.layer] == [0, 1]


def test_the_config_is_a_changed_copy():
    teacher = tiny("bert", problem_type="single_label_classification")
    teacher.config._name_or_path = "org/teacher"
    student = shrink(teacher, layers=[1, 4])
    assert student.config.shrunk_from == {"model": "org/teacher", "layers": [1, 4]}
    assert student.config._name_or_path == ""
    assert student.config.problem_type == "single_label_classification"
    assert student.config.label2id == teacher.config.label2id
    assert student.config.label2id is not teacher.config.label2id
    assert (teacher.config.num_hidden_layers, student.config.num_hidden_layers) == (5, 2)
    assert student.config._attn_implementation == teacher.config._attn_implementation


def test_from_a_path(tmp_path):
    teacher = tiny("distilbert")
    teacher.to(torch.bfloat16).save_pretrained(tmp_path / "teacher")
    student = shrink(tmp_path / "teacher", layers=2)
    assert student.config.shrunk_from == {"model": "teacher", "layers": [3, 5]}
    assert student.dtype == student.config.dtype == torch.float32
    assert torch.equal(logits(shrink(teacher, layers=2)), logits(student))
    assert shrink(str(tmp_path / "teacher"), layers=2, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_nothing_is_drawn_at_random():
    teacher = tiny("bert")
    state = torch.get_rng_state()
    student = shrink(teacher, layers=2)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(99)
    assert digest(student) == digest(shrink(teacher, layers=2))


def test_a_student_can_be_shrunk_again():
    teacher = tiny("roberta")
    assert digest(shrink(shrink(teacher, layers=[1, 3, 5]), layers=[2, 3])) == digest(
        shrink(teacher, layers=[3, 5])
    )
    teacher.config._name_or_path = "org/teacher"
    twice = shrink(shrink(teacher, layers=[1, 3, 5]), layers=[2, 3])
    assert twice.config.shrunk_from == {"model": "org/teacher", "layers": [3, 5]}


def test_a_token_classifier_keeps_its_head():
    teacher = tiny("bert", auto=AutoModelForTokenClassification)
    student = shrink(teacher, layers=[1, 4])
    with only(teacher, [1, 4]):
        assert torch.equal(logits(teacher), logits(student))


def test_a_bare_encoder():
    teacher = tiny("bert").bert
    student = shrink(teacher, layers=[3])
    with only(teacher, [3]), torch.no_grad():
        assert torch.equal(teacher(**batch()).pooler_output, student(**batch()).pooler_output)


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "modernbert"])
def test_tied_weights_stay_tied(model_type):
    teacher = tiny(model_type, auto=AutoModelForMaskedLM)
    student = shrink(teacher, layers=[1, 4])
    assert student.get_output_embeddings().weight is student.get_input_embeddings().weight
    with only(teacher, [1, 4]):
        assert torch.equal(logits(teacher), logits(student))


def test_modernbert_keeps_each_blocks_own_kind(tmp_path):
    teacher = tiny("modernbert")
    kinds = teacher.config.layer_types
    assert kinds == [
        "full_attention",
        "sliding_attention",
        "sliding_attention",
        "full_attention",
        "sliding_attention",
    ]
    student = shrink(teacher, layers=[1, 4, 5])
    assert student.config.layer_types == [kinds[0], kinds[3], kinds[4]]
    assert not hasattr(student.config, "global_attn_every_n_layers")
    assert teacher.config.global_attn_every_n_layers == 3


@pytest.mark.parametrize("model_type", ["modernbert", "deberta-v2"])
def test_where_block_1_is_special_it_stays(model_type):
    teacher = tiny(model_type)
    assert shrink(teacher, layers=3).config.shrunk_from["layers"] == [1, 3, 5]
    with pytest.raises(ValueError, match=r"leaves out block 1.*Put 1 first.*\[1, 4\]"):
        shrink(teacher, layers=[2, 4])


def test_deberta_without_a_convolution_may_drop_block_1():
    teacher = tiny("deberta-v2", conv_kernel_size=0)
    student = shrink(teacher, layers=[2, 4])
    with only(teacher, [2, 4]):
        assert torch.equal(logits(teacher), logits(student))


def test_albert_repeats_less_with_the_same_weights():
    teacher = tiny("albert")
    student = shrink(teacher, layers=2)
    assert digest(teacher) == digest(student)
    assert torch.equal(logits(student), logits(shrink(teacher, layers=[1, 3])))


def test_albert_with_several_groups_is_refused():
    with pytest.raises(ValueError, match="2 groups of weights"):
        shrink(tiny("albert", num_hidden_groups=2, num_hidden_layers=4), layers=2)


@PEFT_ASKS
def test_an_adapter_is_merged_into_a_copy():
    config = LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"], init_lora_weights=False)
    teacher = get_peft_model(tiny("bert"), config).eval()
    before = digest(teacher)
    student = shrink(teacher, layers=[2, 5])
    with only(teacher.get_base_model(), [2, 5]):
        assert torch.allclose(logits(teacher), logits(student), atol=1e-5)
    assert digest(teacher) == before
    assert not any("lora" in name for name in student.state_dict())


@PEFT_ASKS
def test_an_adapter_that_cannot_be_merged_is_refused():
    teacher = get_peft_model(tiny("bert"), PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2))
    with pytest.raises(ValueError, match=r"cannot be merged.*get_base_model\(\)"):
        shrink(teacher, layers=2)


def test_weights_that_do_not_fit_the_config_are_refused():
    teacher = tiny("bert")
    try:
        teacher.add_adapter(LoraConfig(target_modules=["query"]))
    except ValueError as error:
        if "version >=" not in str(error):
            raise
        pytest.skip(f"Transformers' add_adapter: {error}")
    with pytest.raises(
        ValueError, match=r"(?s)do not fit a BertForSequenceClassification.*lora.*Merge the adapter"
    ):
        shrink(teacher, layers=2)


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        (0, ValueError, r"layers=0 does not fit a teacher of 5 layers.*between 1 and 5"),
        (6, ValueError, r"layers=6 does not fit"),
        (-1, ValueError, r"layers=-1 does not fit"),
        (
            True,
            TypeError,
            r"layers=True is neither a number of blocks nor a list.*layers=2 or layers=\[1, 3, 5\]",
        ),
        (2.0, TypeError, r"layers=2.0 is neither"),
        ("1,3", TypeError, r"layers='1,3' is neither"),
        ({1, 3}, TypeError, r"is neither"),
        ([1, 2.5], TypeError, r"holds 2.5, but blocks are named by whole numbers"),
        ([False, 2], TypeError, r"holds False"),
        ([], ValueError, r"layers=\[\] is empty.*layers=\[2, 4\]"),
        ([0, 2], ValueError, r"names block 0, but the teacher's blocks are 1 to 5"),
        ([2, 6], ValueError, r"names block 6"),
        ([1, 1, 3], ValueError, r"not strictly increasing.*Write layers=\[1, 3\]"),
        ([3, 1], ValueError, r"not strictly increasing.*Write layers=\[1, 3\]"),
    ],
)
def test_layers_that_make_no_sense(layers, error, message):
    with pytest.raises(error, match=message):
        shrink(tiny("bert"), layers=layers)


def test_something_that_is_no_model():
    with pytest.raises(TypeError, match="found Linear"):
        shrink(torch.nn.Linear(2, 2), layers=1)


def test_tells_what_is_kept_and_what_it_costs(caplog):
    with caplog.at_level(logging.INFO, logger="hfdistill.students.shrink"):
        shrink(tiny("bert", vocab_size=60_000), layers=3)
    assert caplog.messages == [
        "Kept blocks 2, 3, 5 of 5: 1.0 M → 1.0 M parameters (100 %), 99 % of them embeddings."
    ]


@pytest.mark.skipif(not REAL.exists(), reason="no ../shared/models/minilm-l6-sst2 beside the checkout")
def test_a_real_teacher():
    teacher = AutoModelForSequenceClassification.from_pretrained(REAL, dtype=torch.float32)
    student = shrink(REAL, layers=3)
    with only(teacher, [2, 4, 6]):
        assert torch.equal(logits(teacher), logits(student))
    assert student.config.id2label == {0: "negative", 1: "positive"}


def test_a_student_does_not_tell_of_folders_that_are_gone():
    teacher = tiny("bert")
    teacher.config._name_or_path = "/gone/of/ada/teacher"
    assert shrink(teacher, layers=2).config.shrunk_from["model"] == "teacher"


def test_numbers_of_numpy_and_torch_are_numbers(tmp_path):
    """What came out of an array is checked, kept and saved as what was typed."""
    teacher = make_bert(4, seed=1)
    cut = shrink(teacher, layers=[1, 3])
    for layers in (np.array([1, 3]), torch.tensor([1, 3])):
        student = shrink(teacher, layers=layers)
        assert student.config.shrunk_from == cut.config.shrunk_from
        student.save_pretrained(tmp_path)
    assert shrink(teacher, layers=np.int64(2)).config.shrunk_from["layers"] == [2, 4]
    batch = {"input_ids": torch.tensor([[2, 5, 3]])}
    assert shrink(teacher, ffn=np.int64(16), data=[batch]).config.shrunk_from["ffn"] == 16
    assert with_exits(teacher, layers=np.array([1, 2])).config.exits == [1, 2]
