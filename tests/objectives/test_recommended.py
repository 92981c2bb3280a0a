"""The recommended objective: what two networks allow, and why the rest is left out."""

import pytest
import torch
from transformers import (
    BertConfig,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    MPNetConfig,
    MPNetForSequenceClassification,
)

from hfdistill import (
    DistillationArguments,
    DistillationTrainer,
    ModelTeacher,
    Peer,
    bilstm_from_teacher,
    shrink,
)
from hfdistill.network.architectures import ModelSpec
from hfdistill.network.layer_map import layers_of_cut
from hfdistill.objectives import Setting
from hfdistill.objectives.defaults import recommended_objective
from hfdistill.teachers import EMATeacher
from tests.conftest import make_bert, make_byte_tokenizer, make_dataset, make_roberta, make_tokenizer

LOGITS = "0.5 * CrossEntropy() + 0.5 * KD(temperature=4)"
HIDDEN = "1 * HiddenMSE(layers='uniform', pooling='token')"
ATTENTION = "1 * TinyBERTAttention(layers='uniform')"
RELATIONS = "1 * MiniLMv2(layers='last:last')"
SMALL = {"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 32, "vocab_size": 40}


def chosen(tmp_path, student, teacher, **options):
    args = DistillationArguments(str(tmp_path), report_to="none", **options.pop("args", {}))
    trainer = DistillationTrainer(
        student,
        args,
        teacher=teacher,
        objective="recommended",
        train_dataset=options.pop("data", make_dataset(8)),
        processing_class=make_tokenizer(),
        **options,
    )
    return str(trainer.objective), trainer.left_out


def test_a_cut_student_learns_hidden_states_and_attention(tmp_path):
    teacher = make_bert(4)
    objective, left_out = chosen(tmp_path, shrink(teacher, layers=2), teacher)
    assert (objective, left_out) == (f"{LOGITS} + {HIDDEN} + {ATTENTION}", [])


def test_numbers_are_learned_as_numbers(tmp_path):
    teacher = make_bert(2, labels={0: "value"}, problem_type="regression")
    rows = make_dataset(8).remove_columns("label").add_column("label", [0.5] * 8)
    objective, _ = chosen(tmp_path, shrink(teacher, layers=1), teacher, data=rows)
    assert objective == f"0.5 * LabelMSE() + 0.5 * LogitMSE() + {HIDDEN} + {ATTENTION}"


@pytest.mark.parametrize("unknown", ["student", "teacher"])
def test_the_logits_are_left_where_the_layers_of_one_side_are_not_known(unknown):
    sizes = {side: ModelSpec.of(make_bert(2)) for side in ("student", "teacher") if side != unknown}
    objective, left_out = recommended_objective(Setting("single_label", classes=2, **sizes))
    assert (str(objective), left_out) == (LOGITS, [f"the {unknown} has no layers that are known"])


def test_other_heads_compare_relations(tmp_path):
    teacher, student = make_bert(2), make_bert(1, num_attention_heads=2)
    objective, (reason,) = chosen(tmp_path, student, teacher)
    assert objective == f"{LOGITS} + {HIDDEN} + {RELATIONS}"
    assert reason == "TinyBERTAttention needs as many heads on both sides, found 2 (student) and 4 (teacher)"


@pytest.mark.parametrize(
    ("config", "model"),
    [(MPNetConfig, MPNetForSequenceClassification), (DebertaV2Config, DebertaV2ForSequenceClassification)],
)
def test_relative_positions_compare_relations(tmp_path, config, model):
    torch.manual_seed(0)
    labels = {"id2label": {0: "negative", 1: "positive"}, "label2id": {"negative": 0, "positive": 1}}
    teacher = model(config(**SMALL, **labels, num_hidden_layers=2))
    objective, (reason,) = chosen(tmp_path, shrink(teacher, layers=1), teacher)
    assert objective == f"{LOGITS} + {HIDDEN} + {RELATIONS}"
    assert "cannot read the attention of the student" in reason


def test_a_student_without_attention_learns_the_logits(tmp_path):
    teacher = make_bert(2)
    student = bilstm_from_teacher(teacher, make_tokenizer(), embedding_size=4, hidden_size=4)
    objective, left_out = chosen(tmp_path, student, teacher)
    assert (objective, left_out) == (LOGITS, ["the student has no attention"])


def test_other_tokens_leave_the_logits(tmp_path):
    teacher = ModelTeacher(make_roberta(2), tokenizer=make_byte_tokenizer())
    objective, left_out = chosen(tmp_path, make_bert(1), teacher)
    assert (objective, left_out) == (LOGITS, ["student and teacher read different tokens"])


@pytest.mark.parametrize(
    ("teacher", "objective", "reason"),
    [
        (lambda: None, "1 * CrossEntropy()", "there is no teacher"),
        (
            lambda: Peer(make_bert(1, seed=1)),
            "1 * CrossEntropy() + 1 * KD(temperature=1)",
            "the teacher, Peer, changes with the student",
        ),
        (
            EMATeacher,
            "1 * CrossEntropy() + Linear(0, 1) * KD(temperature=1)",
            "the teacher, EMATeacher, changes with the student",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:EMATeacher")
def test_without_a_teacher_that_stays_it_is_the_default(tmp_path, teacher, objective, reason):
    assert chosen(tmp_path, make_bert(1), teacher()) == (objective, [reason])


def test_a_recorded_teacher_teaches_its_logits(tmp_path):
    teacher = make_bert(2)
    objective, (reason,) = chosen(
        tmp_path / "out", shrink(teacher, layers=1), teacher, teacher_cache=tmp_path / "answers"
    )
    assert objective == LOGITS
    assert reason.startswith("the teacher's answers are recorded")


def test_compiled_code_lets_nothing_be_seen(tmp_path):
    teacher = make_bert(2)
    objective, left_out = chosen(tmp_path, shrink(teacher, layers=1), teacher, args={"torch_compile": True})
    assert objective == LOGITS
    assert all("compiled code" in reason for reason in left_out)


def test_another_word_is_refused(tmp_path):
    with pytest.raises(ValueError, match="objective='best' is no objective"):
        DistillationTrainer(
            make_bert(1), DistillationArguments(str(tmp_path)), teacher=make_bert(2), objective="best"
        )


@pytest.mark.parametrize(
    ("layers", "depth", "expected"),
    [
        (3, 6, "uniform"),
        ([2, 4, 6], 6, "uniform"),
        ([1, 2, 3], 6, "1:1, 2:2, 3:3"),
        ([1, 6], 6, "1:1, 2:6"),
        (None, 6, "uniform"),
    ],
)
def test_each_block_learns_from_the_one_it_was_cut_from(layers, depth, expected):
    teacher = make_bert(depth)
    student = make_bert(2) if layers is None else shrink(teacher, layers=layers)
    assert layers_of_cut(student.config, teacher.config) == expected


def test_blocks_of_one_model_learn_from_the_nearest_of_another_cut():
    whole = make_bert(6)
    assistant, student = shrink(whole, layers=[1, 2, 4, 6]), shrink(whole, layers=[2, 6])
    assert layers_of_cut(student.config, assistant.config) == "uniform"  # 1:2, 2:4
    assert layers_of_cut(shrink(whole, layers=[1, 4]).config, assistant.config) == "1:1, 2:3"
    assert layers_of_cut(shrink(assistant, layers=[1, 3]).config, assistant.config) == "1:1, 2:3"


def test_a_model_that_says_nothing_of_its_layers_has_the_uniform_map():
    assert layers_of_cut(BertConfig(), object()) == "uniform"
