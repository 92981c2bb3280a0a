"""Every architecture answers in a batch as it answers each text alone, wherever its inputs are made."""

import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer, DataCollatorWithPadding

from hfdistill import KD, Contender, DistillationTrainer, record
from hfdistill.evaluation.models import load_models
from hfdistill.evaluation.predictions import predict
from hfdistill.exporters.bench import Bench
from hfdistill.network.inputs import ModelInputs, name_padding
from hfdistill.teachers import ModelTeacher, as_teacher
from tests.conftest import make_bert
from tests.conftest import make_tokenizer as make_wordpiece
from tests.families import FAMILIES, PAIRS, PLAIN, TEXTS, alone, gpt_tokenizer, make_tokenizer
from tests.trainer.conftest import quiet_arguments

each_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
of_pairs = pytest.mark.parametrize("pairs", [None, PAIRS], ids=["texts", "pairs"])


def rows(pairs=None, **others):
    return Dataset.from_dict({"text": TEXTS, **({"text_pair": pairs} if pairs else {}), **others})


def close(one, other):
    torch.testing.assert_close(torch.as_tensor(one), other, atol=1e-5, rtol=1e-5)


@each_family
@of_pairs
def test_measure_and_export_read_a_text_as_it_is_read_alone(family, pairs):
    model, teacher, tokenizer = family.model(), family.model(seed=1), family.tokenizer()
    given = {"student": Contender(model, tokenizer), "teacher": teacher}
    models_by_role, _ = load_models(given, rows(pairs), None, None)
    for role, network in (("student", model), ("teacher", teacher)):
        close(predict(models_by_role[role]), alone(network, tokenizer, TEXTS, pairs))
    models = {"teacher": Contender(teacher, tokenizer), "pytorch": Contender(model, tokenizer)}
    bench = Bench(models, rows(pairs), max_length=40)
    close(bench.logits["pytorch"], alone(model, tokenizer, TEXTS, pairs))


@each_family
@of_pairs
def test_the_trainer_gives_student_and_teacher_what_they_read_alone(family, pairs, tmp_path):
    student, teacher, tokenizer = family.model(), family.model(seed=1), family.tokenizer()
    data = rows(pairs, label=[0, 1, 2, 0])
    trainer = DistillationTrainer(
        student,
        quiet_arguments(tmp_path),
        teacher=teacher,
        train_dataset=data,
        eval_dataset=data,
        processing_class=tokenizer,
    )
    close(trainer.predict(trainer.eval_dataset).predictions, alone(student, tokenizer, TEXTS, pairs))
    batch = next(iter(trainer.get_eval_dataloader()))
    close(trainer.teacher.trace(batch).logits, alone(teacher, tokenizer, TEXTS, pairs))


@each_family
def test_a_teacher_with_a_tokenizer_of_its_own_reads_what_that_makes(family, tmp_path):
    teacher, tokenizer = family.model(seed=1), family.tokenizer()
    data = rows(PAIRS, label=[0, 1, 2, 0])
    trainer = DistillationTrainer(
        make_bert(labels={0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}),
        quiet_arguments(tmp_path),
        teacher=ModelTeacher(teacher, tokenizer=tokenizer),
        train_dataset=data,
        eval_dataset=data,
        processing_class=make_wordpiece(),
    )
    batch = next(iter(trainer.get_eval_dataloader()))
    assert "teacher_input_ids" in batch
    close(trainer.teacher.trace(batch).logits, alone(teacher, tokenizer, TEXTS, PAIRS))


@each_family
def test_a_recording_is_found_in_training_and_is_what_was_said_alone(family, tmp_path):
    student, teacher, tokenizer = family.model(), family.model(seed=1), family.tokenizer()
    cached = record(teacher, rows(PAIRS), folder=tmp_path / "cache", tokenizer=tokenizer)
    data = rows(PAIRS, label=[0, 1, 2, 0])
    trainer = DistillationTrainer(
        student,
        quiet_arguments(tmp_path, max_steps=1),
        teacher=cached,
        train_dataset=data,
        eval_dataset=data,
        processing_class=tokenizer,
    )
    trainer.train()
    close(
        trainer.teacher.trace(next(iter(trainer.get_eval_dataloader()))).logits,
        alone(teacher, tokenizer, TEXTS, PAIRS),
    )


def test_the_student_is_given_no_token_types_that_were_made_for_its_teacher(tmp_path):
    bert, plain = FAMILIES[0], FAMILIES[3].tokenizer()
    student, teacher = bert.model(), bert.model(seed=1)
    data = rows(PAIRS, label=[0, 1, 2, 0])
    trainer = DistillationTrainer(
        student,
        quiet_arguments(tmp_path),
        teacher=teacher,
        train_dataset=data,
        eval_dataset=data,
        processing_class=plain,
    )
    batch = next(iter(trainer.get_eval_dataloader()))
    assert batch["token_type_ids"].any()
    close(trainer.teacher.trace(batch).logits, alone(teacher, bert.tokenizer(), TEXTS, PAIRS))
    close(trainer.predict(trainer.eval_dataset).predictions, alone(student, plain, TEXTS, PAIRS))


LEFT = [family for family in FAMILIES if family.name in ("Bert", "Roberta", "GPT2", "Llama")]


@pytest.mark.parametrize("family", LEFT, ids=lambda family: family.name)
def test_a_tokenizer_that_pads_on_the_left_changes_nothing(family, tmp_path):
    model, tokenizer = family.model(), family.tokenizer()
    right = alone(model, tokenizer, TEXTS)
    tokenizer.padding_side = "left"
    models_by_role, _ = load_models({"student": Contender(model, tokenizer)}, rows(), None, None)
    close(predict(models_by_role["student"]), right)
    for collator in (None, DataCollatorWithPadding(tokenizer)):
        trainer = DistillationTrainer(
            model,
            quiet_arguments(tmp_path),
            teacher=ModelTeacher(family.model(), tokenizer=tokenizer),
            train_dataset=rows(),
            eval_dataset=rows(),
            processing_class=tokenizer,
            data_collator=collator,
            objective=KD(),
        )
        close(trainer.predict(trainer.eval_dataset).predictions, right)
        close(trainer.teacher.trace(next(iter(trainer.get_eval_dataloader()))).logits, right)
    assert tokenizer.padding_side == "left"
    if family.name in ("GPT2", "Llama"):  # whose head finds the last token wherever padding is
        batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
        assert batch["attention_mask"][0, 0] == 0
        close(ModelTeacher(model).trace(batch).logits, right)
        teacher = ModelTeacher(model, tokenizer=tokenizer)
        close(teacher.trace({f"teacher_{name}": value for name, value in batch.items()}).logits, right)


@each_family
def test_config_and_tokenizer_may_name_another_padding(family):
    """The network knows padding by its config's id, 25, which the tokenizer does not write."""
    tokenizer = family.tokenizer()
    options = {"pad_token_id": 25, "vocab_size": 26, "max_position_embeddings": 64}
    if family.name in ("XLNet", "Qwen2", "Llama", "GPT2"):
        options.pop("max_position_embeddings")
    model = family.model(**options)
    right = alone(model, tokenizer, TEXTS)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    assert not (batch["input_ids"] == 25).any()
    close(ModelTeacher(model).trace(batch).logits, right)
    models_by_role, _ = load_models({"student": Contender(model, tokenizer)}, rows(), None, None)
    close(predict(models_by_role["student"]), right)


def test_a_hole_in_the_mask_is_no_padding():
    model = FAMILIES[1].model(pad_token_id=5)
    inputs = ModelInputs.of(model)
    batch = {
        "input_ids": torch.tensor([[1, 0, 7, 8, 2, 1]]),
        "attention_mask": torch.tensor([[0, 1, 0, 1, 1, 0]]),
    }
    assert inputs.select(batch)["input_ids"].tolist() == [[5, 0, 7, 8, 2, 5]]


def test_token_types_go_to_those_who_read_them():
    """A BERT beside a tokenizer that makes none: as a student it reads none, as a teacher it does."""
    bert, plain = FAMILIES[0], FAMILIES[3].tokenizer()
    student, teacher = bert.model(), bert.model(seed=1)
    given = {"student": Contender(student, plain), "teacher": teacher}
    models_by_role, _ = load_models(given, rows(PAIRS), None, None)
    close(predict(models_by_role["student"]), alone(student, plain, TEXTS, PAIRS))
    close(predict(models_by_role["teacher"]), alone(teacher, bert.tokenizer(), TEXTS, PAIRS))


NAMED = ["GPT2", "Llama"]


@pytest.mark.parametrize("family", [f for f in FAMILIES if f.name in NAMED], ids=lambda family: family.name)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_decoder_without_padding_gets_one(family, side, tmp_path):
    model = family.model(pad_token_id=None)
    model.save_pretrained(tmp_path)
    gpt_tokenizer(pad=None, side=side).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert model.config.pad_token_id is None
    assert tokenizer.pad_token_id is None
    right = alone(model, tokenizer, TEXTS)  # its head reads the last token where no padding is known
    teacher = as_teacher(tmp_path)
    assert teacher.config.pad_token_id == teacher.tokenizer.pad_token_id == 0
    assert teacher.fingerprint() == ModelTeacher(model).fingerprint()
    batch = teacher.tokenizer(TEXTS, padding=True, return_tensors="pt")
    close(teacher.trace(batch).logits, right)
    models_by_role, _ = load_models({"student": str(tmp_path)}, rows(), None, None)
    close(predict(models_by_role["student"]), right)


def test_padding_is_a_token_that_ends_no_text():
    ending = make_tokenizer(
        "<s> </s> <unk>",
        "<s> $A </s>",
        "<s> $A </s> $B </s>",
        names=PLAIN,
        eos_token="</s>",
        unk_token="<unk>",
    )
    name_padding(None, ending)
    assert ending.pad_token_id == 2
    bare = make_tokenizer("<unk>", "", "", names=PLAIN)
    with pytest.raises(ValueError, match="add_special_tokens"):
        name_padding(None, bare)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f.name in NAMED], ids=lambda family: family.name)
def test_a_config_may_write_minus_one_for_no_padding(family):
    model = family.model(pad_token_id=None)
    right = alone(model, gpt_tokenizer(pad=None), TEXTS)
    model.config.pad_token_id = -1
    batch = {"input_ids": torch.tensor([[3, 4, 0]]), "attention_mask": torch.tensor([[1, 1, 0]])}
    assert ModelInputs.of(model).select(batch)["input_ids"].tolist() == [[3, 4, 0]]
    tokenizer = gpt_tokenizer(pad=None)
    name_padding(model, tokenizer)
    assert model.config.pad_token_id == tokenizer.pad_token_id == 0
    inputs = ModelInputs.of(model, tokenizer).select(tokenizer(TEXTS, padding=True, return_tensors="pt"))
    close(model(**inputs).logits.detach(), right)
