"""Models, data and arguments that cannot be used: one clear error before the first step."""

import logging

import pandas as pd
import pyarrow as pa
import pytest
import torch
from datasets import Dataset, DatasetDict, Features, List, Value
from torch.utils.data import Dataset as TorchDataset
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForQuestionAnswering,
    GPT2Config,
    GPT2LMHeadModel,
)

from hfdistill import (
    KD,
    CrossEntropy,
    DistillationTrainer,
    EMATeacher,
    LabelSpaceError,
    ModelTeacher,
    Teacher,
    static_from_teacher,
)
from hfdistill.network.inputs import accepted_inputs
from hfdistill.network.trace import run
from hfdistill.objectives.base import as_blend
from hfdistill.trainer.checks import check_cache, check_mixup
from hfdistill.trainer.description import described
from hfdistill.trainer.row_doubts import say_doubts
from tests.conftest import make_bert, make_dataset, make_tokenizer


@pytest.fixture
def build(arguments):
    def make(**options):
        settings = {
            "model": make_bert(2, seed=2), "args": arguments(), "teacher": make_bert(3, seed=1),
            "train_dataset": make_dataset(16), "processing_class": make_tokenizer(),
        }  # fmt: skip
        return DistillationTrainer(**{**settings, **options})

    return make


SIZE = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4}
OTHERS = {
    "causal": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=4)),
    "masked": lambda: BertForMaskedLM(BertConfig(**SIZE)),
    "answers": lambda: BertForQuestionAnswering(BertConfig(**SIZE)),
    "choice": lambda: BertForMultipleChoice(BertConfig(**SIZE)),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_models_of_other_tasks_are_no_classifiers(build, kind):
    make = OTHERS[kind]
    with pytest.raises(ValueError, match=r"^The student is a \w+, which gives a text no class\. Start from"):
        build(model=make(), teacher=None)
    with pytest.raises(ValueError, match=r"^The student is a"):
        build(model=None, model_init=make, teacher=None)
    with pytest.raises(ValueError, match=r"^The teacher is a .*(Bert|GPT2)\w+.* no class"):
        build(teacher=make())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tokenizer", r"'tokenizer'\. Type processing_class=tokenizer"),
        ("alpha", r"'alpha'\. Type objective=0\.5 \* CrossEntropy\(\) \+ 0\.5 \* KD"),
        ("temperature", r"'temperature'\. Type objective=.*KD\(temperature=4\)"),
        ("teacher_model", r"'teacher_model'\. Type teacher=model"),
        ("learning_rate", r"args=DistillationArguments\(output_dir, learning_rate=\.\.\.\)"),
        ("objectiv", r"Is 'objective' meant, its own\?"),
        ("nonsense", r"It takes Trainer's arguments and teacher, objective, teacher_cache, label_map"),
    ],
)
def test_an_argument_of_another_name_is_told_ours(arguments, name, words):
    for teacher in ({}, {"teacher": None}):
        with pytest.raises(TypeError, match=f"takes no argument {words}" if words[0] == "'" else words):
            DistillationTrainer(make_bert(), arguments(), **teacher, **{name: 1})


def test_a_trainer_without_a_word_about_the_teacher_is_told_of_both_ways(arguments):
    with pytest.raises(
        TypeError, match=r"needs a teacher: type teacher=model.*teacher=None trains on the hard"
    ):
        DistillationTrainer(make_bert(), arguments())


TEXTS = ["a good film", "a dull film"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            lambda: pd.DataFrame({"text": TEXTS, "label": [1, 0]}),
            r"DataFrame of pandas.*Dataset\.from_pandas",
        ),
        (
            lambda: DatasetDict(train=make_dataset(4), test=make_dataset(4)),
            r"train_dataset is a DatasetDict of 'train', 'test'.*train_dataset=data\['train'\]",
        ),
        (lambda: TEXTS, r"a list whose first element is a str.*Dataset\.from_dict"),
        (lambda: "train.csv", r"train_dataset is a str\. Load it first: hfdistill\.load\('train\.csv'\)"),
        (lambda: make_dataset(4).select([]), r"train_dataset has no row"),
        (lambda: [], r"train_dataset has no row"),
        (
            lambda: Dataset.from_dict({"review": TEXTS, "sentiment": ["up", "down"], "Label": [1, 0]}),
            r"columns review, sentiment, Label, and neither.*load\(path, text='review', label='sentiment'\)",
        ),
        (
            lambda: Dataset.from_dict({"sentence": TEXTS, "label": [1, 0]}),
            r"load\(path, text='sentence', label='label'\), or dataset\.rename_columns\(\{'sentence': 'text'",
        ),
        (
            lambda: Dataset.from_dict({"text": TEXTS, "idx": [0, 1], "Label": [1, 0]}),
            r"Is 'Label' the label\? Type load\(path, label='Label'\).*To learn from the teacher alone",
        ),
    ],
    ids=["frame", "splits", "texts", "path", "empty", "empty list", "other names", "sentence", "Label"],
)
def test_data_of_another_kind_is_told_what_to_type(build, data, words):
    with pytest.raises((TypeError, ValueError), match=words):
        build(train_dataset=data())


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (pd.DataFrame({"text": TEXTS}), r"{} is a DataFrame of pandas.*Dataset\.from_pandas"),
        (pa.table({"text": TEXTS}), r"{} is a Table of pyarrow.*Dataset\(table\)"),
        (pd.Series(TEXTS), r"{} is a Series of pandas, not rows with columns.*from_dict"),
        (TEXTS, r"{} is a list whose first element is a str, not a row.*from_dict"),
        ("test.csv", r"{} is a str\. Load it first: hfdistill\.load\('test\.csv'\)"),
    ],
    ids=["frame", "arrow", "series", "texts", "path"],
)
def test_other_data_than_the_run_s_is_told_what_to_type_too(build, data, words):
    trainer = build()
    with pytest.raises(TypeError, match=words.format("eval_dataset")):
        trainer.evaluate(data)
    with pytest.raises(TypeError, match=words.format("test_dataset")):
        trainer.predict(data)


def test_a_list_may_hold_what_the_user_s_own_collator_reads(build):
    """Rows (text, label), as Trainer takes them; the losses are those of the data set."""
    tokenizer = make_tokenizer()
    rows = [(row["text"], row["label"]) for row in make_dataset(16)]

    def collate(rows):
        batch = tokenizer([text for text, _ in rows], padding=True, return_tensors="pt")
        return {**batch, "labels": torch.tensor([label for _, label in rows])}

    own = build(train_dataset=rows, data_collator=collate)
    assert own.evaluate(rows)["eval_loss"] == pytest.approx(build().evaluate(make_dataset(16))["eval_loss"])
    assert own.train().global_step == 2
    texts = [text for text, _ in rows]
    assert build(train_dataset=texts, data_collator=lambda part: collate([(text, 0) for text in part]))


def test_noise_on_word_embeddings_needs_a_student_that_has_them(build, arguments):
    teacher = make_bert(3, seed=1)
    student = static_from_teacher(teacher, make_tokenizer(), width=8)
    with pytest.raises(ValueError, match=r"neftune_noise_alpha.* StaticFor.*one vector.*Leave neftune_noise"):
        build(model=student, teacher=teacher, args=arguments(neftune_noise_alpha=5.0))


def test_several_sets_are_evaluated_each(build):
    trainer = build(eval_dataset=DatasetDict(one=make_dataset(4), two=make_dataset(6)))
    assert {"eval_one_loss", "eval_two_loss"} <= trainer.evaluate().keys()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_weights_are_warned_of(build, dtype, caplog):
    with caplog.at_level(logging.WARNING):
        build()
        assert "round to nothing" not in caplog.text
        build(model=make_bert(2).to(dtype))
    assert f"The student's weights are {dtype}" in caplog.text
    assert "dtype=torch.float32" in caplog.text


class Rows(TorchDataset):
    """Rows that no check reads beforehand."""

    def __init__(self, labels):
        data = make_dataset(len(labels))
        self.rows = [
            make_tokenizer()(text) | {"labels": label}
            for text, label in zip(data["text"], labels, strict=True)
        ]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return dict(self.rows[index])


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("label", "words"), [(3, "label 3 is out of range"), (-1, "label -1, which marks hidden")]
)
def test_labels_out_of_range_are_refused_before_a_loss_reads_them(build, arguments, label, words, workers):
    labels = [0, 1, 1, 0, 0, label, 1, 0]
    trainer = build(train_dataset=Rows(labels), args=arguments(dataloader_num_workers=workers))
    with pytest.raises(LabelSpaceError, match=rf"train_dataset, row 5: {words}"):
        trainer.train()
    with pytest.raises(LabelSpaceError, match=rf"eval_dataset, row 5: {words}"):
        build(eval_dataset=Rows(labels)).evaluate()
    with pytest.raises(LabelSpaceError, match=rf"test_dataset, row 5: {words}"):
        build().predict(Rows(labels))


def test_labels_of_a_list_of_rows_are_refused_at_once(build):
    with pytest.raises(LabelSpaceError, match="train_dataset, row 2: label 7 is out of range"):
        build(train_dataset=Rows([0, 1, 7]).rows)


def test_rows_without_a_label_pass(build):
    assert build(train_dataset=Rows([0, -100, 1, -100])).train().global_step == 1


# ---- what is there to look at ----


def test_the_objective_and_the_trainer_can_be_read(build):
    trainer = build(objective=0.3 * CrossEntropy() + 0.7 * KD(temperature=2))
    assert str(trainer.objective) == "0.3 * CrossEntropy() + 0.7 * KD(temperature=2)"
    size = sum(p.numel() for p in make_bert(2).parameters())
    assert f"student: BertForSequenceClassification, 2 layers, {size:,} parameters" in repr(trainer)
    assert "teacher: ModelTeacher (BertForSequenceClassification, 3 layers" in repr(trainer)
    assert "train_dataset: 16 rows" in repr(trainer)
    with pytest.raises(AttributeError, match="fixed when the trainer is made"):
        trainer.objective = KD()
    assert "teacher: None" in repr(build(teacher=None))


def test_a_live_teacher_of_ones_own_takes_mixtures(build, arguments):
    from hfdistill import DistillationArguments

    class Own(Teacher):
        def __init__(self):
            super().__init__()
            self.model = make_bert(3, seed=1)

        def trace(self, batch):
            with torch.no_grad():
                return run(self.model, batch, accepts=accepted_inputs(self.model))

    def trained(teacher):
        trainer = build(
            teacher=teacher, args=arguments(kind=DistillationArguments, mixup=0.4, learning_rate=0.1)
        )
        trainer.train()
        return torch.cat([p.detach().reshape(-1) for p in trainer.model.parameters()])

    assert torch.equal(trained(Own()), trained(make_bert(3, seed=1)))


@pytest.mark.parametrize("names", [["labels"], ["labels", "source"]], ids=len)
def test_metrics_see_all_label_names(build, arguments, names):
    data = make_dataset(8).map(lambda row, i: {"source": i}, with_indices=True)
    data = data.rename_column("label", "labels").cast_column("source", Value("int64"))
    seen = []
    trainer = build(
        args=arguments(label_names=names),
        train_dataset=data,
        eval_dataset=data,
        compute_metrics=lambda prediction: seen.append(prediction.label_ids) or {},
    )
    trainer.train()
    assert trainer.evaluate()["eval_loss"] > 0
    both = seen[-1] if len(names) == 2 else (seen[-1],)
    assert both[0].tolist() == data["labels"][:]
    assert len(names) == 1 or both[1].tolist() == list(range(8))


def test_a_run_whose_batch_was_lowered_goes_on_with_the_same_script(build, arguments, tmp_path):
    def script(limit):
        trainer = build(
            args=arguments(
                auto_find_batch_size=True, per_device_train_batch_size=8, save_strategy="steps", save_steps=2,
                max_steps=4, learning_rate=0.01,
            )
        )  # fmt: skip
        step = trainer.training_step

        def training_step(model, inputs, *others):
            if len(inputs["input_ids"]) > limit:
                raise RuntimeError("CUDA out of memory.")
            return step(model, inputs, *others)

        trainer.training_step = training_step
        return trainer

    straight = script(limit=7)
    straight.train()
    lowered = straight.state.train_batch_size
    assert lowered < 8
    resumed = script(limit=7)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert resumed.state.global_step == 4
    for one, other in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_answers_are_kept_of_a_teacher_that_is_there_and_stays():
    with pytest.raises(ValueError, match="keeps a teacher's answers, and teacher=None"):
        check_cache(None, "single_label")
    with pytest.raises(ValueError, match="EMATeacher changes with every step: its answers cannot be kept"):
        check_cache(EMATeacher(), "single_label")
    with pytest.raises(ValueError, match="one answer a text, and this teacher answers each token"):
        check_cache(ModelTeacher(make_bert(1)), "token")


def test_mixtures_need_a_table_of_word_embeddings_and_a_share_above_0():
    teacher, student = ModelTeacher(make_bert(1)), make_bert(1)
    settings = {"student": student, "task": "single_label", "cached": False}
    check_mixup(0.4, teacher, **settings)
    with pytest.raises(ValueError, match=r"above 0, found 0. Type mixup=0\.4"):
        check_mixup(0, teacher, **settings)

    class Table(torch.nn.Embedding):
        """Reads otherwise."""

    student.set_input_embeddings(Table(40, 16))
    with pytest.raises(ValueError, match="BertForSequenceClassification has no table of them to read one by"):
        check_mixup(0.4, teacher, **settings)


def test_an_objective_and_a_loss_function_are_each_the_whole_loss(build):
    with pytest.raises(ValueError, match="Both objective and compute_loss_func are given"):
        build(objective=KD(), compute_loss_func=lambda outputs, labels, **others: outputs.logits.sum())


def test_a_trainer_is_described_by_each_set_of_rows_whatever_it_is():
    text = described(
        make_bert(1), None, as_blend(KD()), iter([]), {"near": [1, 2], "far": [3] * 1500, "no": None}
    )
    assert "teacher: None\n" in text
    assert "train_dataset: list_iterator, length not known" in text
    assert text.endswith("eval_dataset: near: 2 rows, far: 1,500 rows, no: None")


def test_rows_of_one_length_are_looked_through_like_others(caplog):
    rows = {"input_ids": [[2, 5, 3], [2, 5, 3]], "label": [0, 1]}
    for length in (-1, 3):
        caplog.clear()
        features = Features({"input_ids": List(Value("int64"), length=length), "label": Value("int64")})
        data = Dataset.from_dict(rows, features=features)
        say_doubts(data, None, config=make_bert(1).config, label="label")
        assert "1 rows of train_dataset repeat the text of an earlier row" in caplog.text
