"""A byte-level teacher and a WordPiece student: each reads its own ids of the same text."""

import pytest
import torch
from datasets import Dataset
from transformers import DataCollatorWithPadding

from hfdistill import (
    KD,
    PKD,
    RKD,
    CheckpointError,
    CrossEntropy,
    DistillationCollator,
    DistillationTrainer,
    Ensemble,
    HiddenCosine,
    HiddenMSE,
    InfoNCE,
    MiniLMv2,
    ModelTeacher,
    Objective,
    Tap,
    TinyBERTAttention,
    load_classifier,
    measure,
)
from hfdistill.data import encode
from hfdistill.evaluation.measure import Contender
from tests.conftest import make_bert, make_byte_tokenizer, make_dataset, make_roberta, make_tokenizer
from tests.trainer.conftest import SaveAt

PAIRS = Dataset.from_dict(
    {
        "text": ["good film", "the plot is dull", "a warm story", "cold"] * 2,
        "text_pair": ["it is moving", "flat", "and very funny", "the end was grim"] * 2,
        "label": [1, 0, 1, 0] * 2,
    }
)


def bytes_teacher(**options):
    return ModelTeacher(make_roberta(seed=1, **options), tokenizer=make_byte_tokenizer())


def build(arguments, teacher=None, objective=None, data=None, args=None, **options):
    settings = {"per_device_train_batch_size": 4, "learning_rate": 0.1, **(args or {})}
    data = make_dataset(16) if data is None else data
    return DistillationTrainer(
        make_bert(2, seed=2),
        arguments(**settings),
        teacher=teacher or bytes_teacher(),
        objective=objective or 0.5 * CrossEntropy() + 0.5 * KD(),
        **{"train_dataset": data, "eval_dataset": data, "processing_class": make_tokenizer(), **options},
    )


class Peek(Objective):
    """A term of one's own, that does not ask for sizes."""

    def taps(self):
        return frozenset(), frozenset({Tap("hidden", 1)})


def flat(trainer):
    return torch.cat([p.detach().reshape(-1) for p in trainer.model.parameters()])


def said(caplog, words):
    return [record.getMessage() for record in caplog.records if words in record.getMessage()]


def as_the_teacher_reads(columns):
    """Logits of the teacher run by hand on texts that its own tokenizer reads."""
    inputs = make_byte_tokenizer()(*columns, padding=True, return_tensors="pt")
    with torch.no_grad():
        return make_roberta(seed=1)(**inputs).logits


# Reading


@pytest.mark.parametrize("pairs", [False, True])
def test_the_teacher_answers_as_if_it_were_run_by_hand(arguments, pairs):
    data = PAIRS if pairs else make_dataset(16)
    trainer = build(arguments, data=data, args={"train_sampling_strategy": "sequential"})
    batch = next(iter(trainer.get_train_dataloader()))
    columns = [data[name][:4] for name in ("text", "text_pair") if name in data.column_names]
    torch.testing.assert_close(trainer._ask_teacher(batch).logits, as_the_teacher_reads(columns))
    own = make_tokenizer()(*columns, padding=True, return_tensors="pt")
    assert all(torch.equal(batch[name], own[name]) for name in own)
    assert "teacher_token_type_ids" not in batch


def test_a_folder_brings_its_tokenizer(arguments, tmp_path):
    make_roberta(seed=1).save_pretrained(tmp_path / "teacher")
    make_byte_tokenizer().save_pretrained(tmp_path / "teacher")
    said = ModelTeacher(load_classifier(tmp_path / "teacher"), tokenizer=make_byte_tokenizer())
    given, found = (build(arguments, teacher=teacher) for teacher in (said, str(tmp_path / "teacher")))
    assert found.teacher.prefix == "teacher_"
    assert found.run_facts() == given.run_facts()
    for trainer in (given, found):
        trainer.train()
    assert torch.equal(flat(given), flat(found))


def test_the_students_own_tokenizer_changes_nothing(arguments, tmp_path):
    make_bert(3, seed=1).save_pretrained(tmp_path / "teacher")
    make_tokenizer().save_pretrained(tmp_path / "teacher")
    teachers = [
        make_bert(3, seed=1),
        ModelTeacher(make_bert(3, seed=1), tokenizer=make_tokenizer()),
        str(tmp_path / "teacher"),
    ]
    trainers = [build(arguments, teacher=teacher, objective=HiddenMSE() + KD()) for teacher in teachers]
    for trainer in trainers:
        assert "teacher_input_ids" not in trainer.train_dataset.column_names
        assert type(trainer.data_collator) is DataCollatorWithPadding
        trainer.train()
    assert torch.equal(flat(trainers[0]), flat(trainers[1]))
    assert torch.equal(flat(trainers[0]), flat(trainers[2]))
    assert trainers[0].run_facts() == trainers[1].run_facts()


def test_each_side_is_cut_to_its_own_limit_and_counted(arguments, caplog):
    data = Dataset.from_dict({"text": ["good film " * 20, "good film " * 12, "dull"], "label": [1, 1, 0]})
    trainer = build(arguments, data=data, eval_dataset=None)
    own, theirs = (trainer.train_dataset[name] for name in ("input_ids", "teacher_input_ids"))
    assert [len(ids) for ids in own] == [32, 26, 3]
    assert [len(ids) for ids in theirs] == [96, 96, 6]
    assert len(said(caplog, "were cut")) == 2
    assert said(caplog, "1 of 3 rows are longer than 32 tokens and were cut")
    assert said(caplog, "2 of 3 rows are longer than 96 tokens and were cut (columns teacher_…)")
    trainer.train()  # 96 tokens and the padding are all the positions that there are


def test_token_types_are_made_for_a_teacher_that_tells_the_texts_apart(arguments):
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["film-noir"])
    teacher = ModelTeacher(make_bert(seed=1, vocab_size=37), tokenizer=tokenizer)
    trainer = build(arguments, teacher=teacher, data=PAIRS)
    assert {len(set(types)) for types in trainer.train_dataset["teacher_token_type_ids"]} == {2}


def test_token_types_are_not_made_for_a_teacher_whose_tokenizer_makes_none(arguments):
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["film-noir"])
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    teacher = ModelTeacher(make_bert(seed=1, vocab_size=37), tokenizer=tokenizer)
    trainer = build(arguments, teacher=teacher, data=PAIRS)
    assert "teacher_token_type_ids" not in trainer.train_dataset.column_names


def test_a_stream_is_read_for_both(arguments):
    settings = {"max_steps": 4}
    stream = build(arguments, data=make_dataset(16).to_iterable_dataset(), args=settings)
    rows = build(arguments, args={**settings, "train_sampling_strategy": "sequential"})
    for trainer in (stream, rows):
        trainer.train()
    assert torch.equal(flat(stream), flat(rows))


def test_measuring_reads_each_side_with_its_own_tokenizer():
    report = measure(
        make_bert(2, seed=2),
        PAIRS,
        teacher=Contender(make_roberta(seed=1), tokenizer=make_byte_tokenizer()),
        tokenizer=make_tokenizer(),
        speed=None,
    )
    answers = as_the_teacher_reads([PAIRS["text"][:], PAIRS["text_pair"][:]]).argmax(-1).tolist()
    right = sum(a == y for a, y in zip(answers, PAIRS["label"][:], strict=True)) / len(PAIRS)
    assert report.teacher.metrics["accuracy"] == pytest.approx(right)


# Training


def test_the_loss_is_that_of_the_two_models_by_hand(arguments):
    trainer = build(arguments, objective=KD(temperature=2), args={"train_sampling_strategy": "sequential"})
    batch = next(iter(trainer.get_train_dataloader()))
    texts = make_dataset(16)["text"][:4]
    own = make_bert(2, seed=2)(**make_tokenizer()(texts, padding=True, return_tensors="pt")).logits.double()
    theirs = as_the_teacher_reads([texts]).double()
    p, q = (z.div(2).log_softmax(-1) for z in (theirs, own))
    expected = 4 * (p.exp() * (p - q)).sum(-1).mean()
    assert trainer.compute_loss(trainer.model, dict(batch)).item() == pytest.approx(expected.item(), rel=1e-5)


def test_evaluation_prediction_and_the_saved_student_know_nothing_of_the_teachers_columns(
    arguments, tmp_path
):
    trainer = build(arguments)
    trainer.train()
    history = [log for log in trainer.state.log_history if "teacher_accuracy" in log]
    expected = (
        as_the_teacher_reads([make_dataset(16)["text"][:]]).argmax(-1).tolist(),
        make_dataset(16)["label"],
    )
    assert history[0]["teacher_accuracy"] == sum(a == y for a, y in zip(*expected, strict=True)) / 16
    here = trainer.evaluate()["eval_loss"]
    tokenised = encode(make_dataset(16), make_tokenizer())
    assert trainer.evaluate(tokenised)["eval_loss"] == pytest.approx(here, rel=1e-6)
    assert trainer.evaluate(make_dataset(16))["eval_loss"] == pytest.approx(here, rel=1e-6)
    logits = trainer.predict(make_dataset(16)).predictions
    with torch.no_grad():
        inputs = make_tokenizer()(make_dataset(16)["text"][:], padding=True, return_tensors="pt")
        torch.testing.assert_close(torch.tensor(logits), trainer.model(**inputs).logits, rtol=1e-4, atol=1e-5)


def test_a_resumed_run_is_the_straight_one(arguments):
    straight, resumed = (build(arguments, args={"num_train_epochs": 2}) for _ in range(2))
    straight.add_callback(SaveAt(3))
    straight.train()
    resumed.train(resume_from_checkpoint=f"{straight.args.output_dir}/checkpoint-3")
    assert torch.equal(flat(straight), flat(resumed))


def test_another_tokenizer_is_another_run_of_the_same_teacher(arguments):
    one, two = bytes_teacher(vocab_size=264), bytes_teacher(vocab_size=264)
    two.tokenizer.add_tokens(["film"])
    assert one.fingerprint() == two.fingerprint()
    one, two = (
        build(arguments, teacher=t, args={"save_strategy": "steps", "save_steps": 2}) for t in (one, two)
    )
    one.train()
    with pytest.raises(CheckpointError, match=r"other settings \(tokens: "):
        two.train(resume_from_checkpoint=f"{one.args.output_dir}/checkpoint-2")


@pytest.mark.parametrize(
    "objective", [PKD(), RKD(), InfoNCE(), HiddenCosine(pooling="cls"), HiddenMSE(pooling="mean")], ids=repr
)
def test_terms_that_pool_learn_under_each_sides_own_mask(arguments, objective):
    trainer = build(arguments, objective=objective, args={"train_sampling_strategy": "sequential"})
    batch = dict(next(iter(trainer.get_train_dataloader())))
    loss = trainer.compute_loss(trainer.model, dict(batch))
    loss.backward()
    assert torch.isfinite(loss)
    assert loss > 0
    fill = {"teacher_input_ids": 1, "teacher_attention_mask": 0}
    for name, value in fill.items():  # padding on the teacher's side alone
        batch[name] = torch.nn.functional.pad(batch[name], (0, 5), value=value)
    torch.testing.assert_close(trainer.compute_loss(trainer.model, batch), loss)


# Refusals


@pytest.mark.parametrize(
    "objective", [HiddenMSE(), HiddenCosine(), MiniLMv2(), TinyBERTAttention()], ids=repr
)
def test_terms_that_compare_tokens_are_refused(arguments, objective):
    with pytest.raises(ValueError, match="the two read different tokens"):
        build(arguments, objective=objective)


def test_data_tokenised_for_the_student_alone_is_refused(arguments):
    data = encode(make_dataset(16), make_tokenizer())
    words = r"train_dataset is already tokenised .* the teacher has another tokenizer .* teacher_input_ids"
    with pytest.raises(ValueError, match=words):
        build(arguments, data=data)
    build(arguments, data=data, teacher=make_bert(3, seed=1))
    build(arguments, data=data, objective=CrossEntropy())  # nobody asks the teacher


def test_a19_data_tokenised_for_both_is_taken_as_it_is(arguments):
    data = encode(encode(make_dataset(16), make_byte_tokenizer(), prefix="teacher_"), make_tokenizer())
    trainers = build(arguments, data=data), build(arguments)
    for trainer in trainers:
        trainer.train()
    assert torch.equal(flat(trainers[0]), flat(trainers[1]))


def test_a_vocabulary_that_cannot_be_the_students_is_refused_where_no_tokenizer_is_named(arguments):
    with pytest.raises(
        ValueError, match=r"vocabulary has 36 tokens and the teacher's 263.*ModelTeacher\(model, tok"
    ):
        build(arguments, teacher=make_roberta(seed=1))
    # said to read the student's ids, it is taken at its word
    told = ModelTeacher(make_roberta(seed=1, pad_token_id=0), tokenizer=make_tokenizer())
    build(arguments, teacher=told).train()


def test_a_tokenizer_too_large_for_its_teacher_is_refused(arguments):
    with pytest.raises(ValueError, match="has 263 tokens and the teacher's embedding 100"):
        build(arguments, teacher=bytes_teacher(vocab_size=100))


def test_a_batch_without_the_teachers_columns_says_what_is_missing(arguments):
    rows = list(encode(make_dataset(16), make_tokenizer()))
    trainer = build(
        arguments, data=rows, eval_dataset=None, data_collator=DataCollatorWithPadding(make_tokenizer())
    )
    with pytest.raises(
        ValueError, match=r"reads teacher_input_ids, but the batch has .*DistillationCollator\("
    ):
        trainer.train()


# Collators


def test_a_collator_of_ones_own_reads_the_text_itself(arguments):
    collator = DistillationCollator(make_tokenizer(), make_byte_tokenizer())
    text = build(arguments, data_collator=collator, args={"remove_unused_columns": False, "seed": 3})
    assert text.train_dataset.column_names == ["text", "label"]
    made = build(arguments, args={"seed": 3, "train_sampling_strategy": "sequential"})
    assert isinstance(made.data_collator, DistillationCollator)
    sequential = build(
        arguments,
        data_collator=collator,
        args={"remove_unused_columns": False, "seed": 3, "train_sampling_strategy": "sequential"},
    )
    for trainer in (made, sequential):
        trainer.train()
    assert torch.equal(flat(made), flat(sequential))


def test_rows_of_text_that_are_no_dataset_are_read_in_the_collator(arguments):
    rows = [{"text": "good film " * 60, "label": 1}, *make_dataset(15)]
    settings = {"train_sampling_strategy": "sequential", "remove_unused_columns": False}
    trainer = build(arguments, data=rows, eval_dataset=None, args=settings)
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["input_ids"].shape == (4, 32)
    assert batch["teacher_input_ids"].shape == (4, 96)
    trainer.train()


def test_a_padder_of_ones_own_pads_the_students_side(arguments):
    padder = DataCollatorWithPadding(make_tokenizer(), pad_to_multiple_of=16)
    trainer = build(arguments, data_collator=padder)
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["input_ids"].shape[1] % 16 == 0
    assert "teacher_input_ids" in batch


# Ensembles


def members():
    return {
        "bytes": bytes_teacher(),
        "words": make_bert(3, seed=5),
        "bytes too": bytes_teacher(num_hidden_layers=1),
    }


def test_members_of_one_tokenizer_share_their_columns(arguments):
    trainer = build(arguments, teacher=Ensemble(members()), args={"train_sampling_strategy": "sequential"})
    assert [part.prefix for part in trainer.teacher.parts()] == ["teacher0_", "", "teacher0_"]
    assert "teacher1_input_ids" not in trainer.train_dataset.column_names
    batch = next(iter(trainer.get_train_dataloader()))
    texts = make_dataset(16)["text"][:4]
    by_hand = [
        model(**tokenizer(texts, padding=True, return_tensors="pt")).logits.softmax(-1)
        for model, tokenizer in (
            (make_roberta(seed=1), make_byte_tokenizer()),
            (make_bert(3, seed=5), make_tokenizer()),
            (make_roberta(1, seed=1), make_byte_tokenizer()),
        )
    ]
    torch.testing.assert_close(trainer._ask_teacher(batch).logits.softmax(-1), sum(by_hand) / 3)
    trainer.train()


def test_terms_on_layers_need_a_member_to_look_into(arguments):
    with pytest.raises(ValueError, match="Of an Ensemble, name the member to look into: features=0"):
        build(arguments, teacher=Ensemble(members()), objective=PKD())
    with pytest.raises(ValueError, match="the two read different tokens"):
        build(arguments, teacher=Ensemble(members(), features="bytes"), objective=HiddenMSE())
    with pytest.raises(
        ValueError, match=r"several insides\. Name the member to look into, Ensemble\(members, features=0"
    ):
        build(arguments, teacher=Ensemble(members()), objective=Peek())
    for features, objective in (("words", HiddenMSE()), ("bytes", PKD())):
        trainer = build(arguments, teacher=Ensemble(members(), features=features), objective=objective)
        trainer.train()
        assert all(torch.isfinite(p).all() for p in trainer.model.parameters())


def test_gold_labels_weigh_the_members_in_training_alone(arguments):
    """The teacher's classes stand in another order than the student's, and so must the labels."""
    turned = {0: "positive", 1: "negative"}
    pair = [make_bert(2, seed=5, labels=turned), make_bert(2, seed=6)]
    trainer = build(arguments, teacher=Ensemble(pair, weights="confidence"), args={"learning_rate": 0.0})
    batch = dict(next(iter(trainer.get_train_dataloader())))
    labels = batch.pop("labels")
    with torch.no_grad():
        logits = [
            model(**{n: x for n, x in batch.items() if n in trainer._student_inputs.names}).logits
            for model in pair
        ]
    logits[0] = logits[0][:, [1, 0]]  # in the student's order
    losses = torch.stack([torch.nn.functional.cross_entropy(z, labels, reduction="none") for z in logits])
    weights = (1 - losses.softmax(0)).unsqueeze(-1)
    expected = (weights * torch.stack([z.softmax(-1) for z in logits])).sum(0)
    found = trainer._ask_teacher(batch, labels=labels).logits.softmax(-1)
    torch.testing.assert_close(found, expected)
    trainer.train()
    accuracy = next(log["teacher_accuracy"] for log in trainer.state.log_history if "teacher_accuracy" in log)
    plain = build(arguments, teacher=Ensemble(pair, weights="entropy"), args={"learning_rate": 0.0})
    plain.train()
    assert accuracy == next(
        log["teacher_accuracy"] for log in plain.state.log_history if "teacher_accuracy" in log
    )
    kd = [[log["loss_kd"] for log in t.state.log_history if "loss_kd" in log] for t in (trainer, plain)]
    assert kd[0] != kd[1]
