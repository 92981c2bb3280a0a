"""Section A of the table of faults: what a user gets wrong, and what they read before anything is trained."""

import copy

import pytest
import torch
from datasets import Dataset
from torch.nn.functional import cross_entropy

from hfdistill import KD, CrossEntropy, HiddenMSE, Linear, TinyBERTAttention
from hfdistill.recipe import read_recipe
from hfdistill.trainer.launch import processes_asked_for
from tests.conftest import make_bert, make_dataset, make_tokenizer
from tests.faults.conftest import named, rows

MULTI_LABEL = {"problem_type": "multi_label_classification"}


@pytest.mark.parametrize("classes", [1, 2])
def test_a1_a_teacher_of_another_number_of_classes(build, refused, classes):
    with refused(r"label_map=|num_labels"):
        build(make_bert(labels=named(3)), make_bert(3, labels=named(classes)), rows([0, 1, 2]))


def test_a2_classes_without_names_on_one_side(build, refused):
    with refused(r"label_map=\{'LABEL_0': 'negative'"):
        build(teacher=make_bert(3, labels={0: "LABEL_0", 1: "LABEL_1"}))


@pytest.mark.parametrize(("label", "words"), [(3, "row 2: label 3 .*num_labels=4"), (-1, "validation split")])
def test_a3_labels_out_of_range(build, refused, label, words):
    with refused(words):
        build(train=rows([0, 1, label, 0]))


def test_a4_no_row_has_a_label(build, refused):
    with refused(r"no labelled row.*objective=KD"):
        build(train=rows([-100] * 8))
    trainer = build(train=rows([-100] * 8), objective=KD())
    assert trainer.train().training_loss > 0


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["good", "bad"], r"class_encode_column\('label'\)"),
        ([True, False], "label True is not a class id"),
        ([0.5, 1.5], "label 0.5 is not a class id"),
        ([[1.0, 0.0], [0.0, 1.0]], "problem_type='multi_label_classification'"),
    ],
)
def test_a5_labels_of_another_kind(build, refused, labels, words):
    with refused(words):
        build(train=rows(labels))


def test_a6_kd_for_one_output(build, refused):
    one, values = {"labels": named(1)}, rows([0.5, 1.5])
    with refused(r"Use LogitMSE\(\)"):
        build(make_bert(**one), make_bert(3, **one), values, objective=KD())
    default = build(make_bert(**one), make_bert(3, **one), values).objective
    assert str(default) == "0.5 * LabelMSE() + 0.5 * LogitMSE()"


def test_a7_a_teacher_of_several_labels_a_row_beside_a_student_of_one(build, refused):
    with refused("Set problem_type"):
        build(make_bert(labels=named(3)), make_bert(3, labels=named(3), **MULTI_LABEL), rows([0, 1, 2]))


def test_a8_tokenizers_of_the_same_words_in_another_order(build, refused, tmp_path):
    own = make_tokenizer()
    backend = copy.deepcopy(own.backend_tokenizer)
    words = [word for word in own.get_vocab() if not word.startswith("[")]
    ids = dict(zip(words, [own.get_vocab()[word] for word in reversed(words)], strict=True))
    backend.model = type(backend.model)({**own.get_vocab(), **ids}, unk_token="[UNK]")
    make_bert(3, seed=1).save_pretrained(tmp_path / "teacher")
    other = type(own)(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    other.save_pretrained(tmp_path / "teacher")
    data = build(teacher=tmp_path / "teacher").train_dataset
    text = make_dataset(16)[0]["text"]
    assert data["input_ids"][0] == own(text)["input_ids"]
    assert data["teacher_input_ids"][0] == other(text)["input_ids"] != own(text)["input_ids"]
    with refused(r"another tokenizer.*encode\(dataset, teacher_tokenizer"):
        build(teacher=tmp_path / "teacher", train=Dataset.from_list([{**own(text), "label": 1}]))


def test_a9_a_token_that_the_model_has_no_embedding_for(build, refused):
    with refused(r"student\.resize_token_embeddings\(36\)"):
        build(make_bert(vocab_size=20))
    with refused(r"teacher\.resize_token_embeddings\(36\)"):
        build(teacher=make_bert(3, vocab_size=20))
    good, bad = {"input_ids": [2, 5, 3], "label": 0}, {"input_ids": [2, 70, 3], "label": 0}
    for data in ([good, bad], Dataset.from_list([good, bad]), Dataset.from_list([bad, good]).select([1, 0])):
        with refused(r"train_dataset, row 1: 'input_ids' holds 70, .*the ids 0 to 35.*resize_token_embedd"):
            build(train=data)
    with refused("eval_dataset, row 0: 'input_ids' holds -1"):
        build(evaluation=Dataset.from_list([{"input_ids": [-1], "label": 0}]))
    assert len(build(train=Dataset.from_list([good, bad]).select([0])).train_dataset) == 1


def test_a10_more_tokens_than_the_model_has_positions_for(build, refused, caplog):
    assert max(map(len, build(train=rows([0, 1], "the film " * 40)).train_dataset["input_ids"])) == 32
    assert "2 of 2 rows are longer than 32 tokens and were cut" in caplog.text
    with refused(r"max_length=32"):
        build(train=Dataset.from_list([{"input_ids": [5] * 80, "label": 0}]))


@pytest.mark.parametrize("value", [0, -1, float("nan"), "4"])
def test_a11_a_temperature_or_weight_that_is_none(refused, value):
    with refused(r"temperature above 0, found .*Usual: 1 to 8"):
        KD(temperature=value)
    if value != 0:
        with refused(r"a number from 0 up, found .*Write 0\.5 \* KD\(\)"):
            value * KD()


def test_a12_no_term_has_weight(build, refused):
    with refused(r"no term with weight.*0\.5 \* CrossEntropy\(\)"):
        build(objective=0 * KD() + 0 * CrossEntropy())
    with pytest.warns(UserWarning, match="HiddenMSE.* has weight 0 throughout.*Drop it"):
        trainer = build(objective=KD() + 0 * HiddenMSE())
    assert trainer.objective.taps() == (frozenset(), frozenset())


@pytest.mark.parametrize("layers", [[(0, 0), (1, 6), (2, 13)], [(1, 1), (1, 2)]], ids=["range", "twice"])
def test_a13_a_layer_map_that_does_not_fit(build, refused, layers):
    with refused("uniform map of these two is '1:2, 2:3'.*layers='uniform'|use two terms with a map each"):
        build(objective=KD() + HiddenMSE(layers=layers))


def test_a14_other_widths_are_projected(build):
    trainer = build(make_bert(hidden_size=8), objective=HiddenMSE())
    learnt = [tuple(p.shape) for p in trainer.objective.parameters()]
    assert set(learnt) == {(16, 8)}
    trainer.train()
    assert not any("projection" in name for name, _ in trainer.model.named_parameters())


def test_a15_other_numbers_of_heads(build, refused):
    with refused(r"found 2 \(student\) and 4 \(teacher\).*MiniLMv2"):
        build(make_bert(num_attention_heads=2), objective=TinyBERTAttention())


def test_a16_attention_maps_of_sdpa_are_those_of_eager(build):
    losses = []
    for kind in ("sdpa", "eager"):
        pair = [make_bert(n, seed=n, attn_implementation=kind) for n in (2, 4)]
        losses.append(build(*pair, objective=TinyBERTAttention()).train().training_loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert losses[0] > 0


def test_a17_a_key_of_a_page_that_is_mistyped(refused, tmp_path):
    page = tmp_path / "page.yaml"
    page.write_text(
        "teacher: a/b\nstudent: {shrink: {layers: 3}}\ndata: a/c\ntraining: {output_dir: out}\n"
        "objective: [kd: {temprature: 4}]\n"
    )
    with refused("'?temprature'?.*temperature"):
        read_recipe(page)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with checkpoints of two steps of eight rows."""
    return tmp_path_factory.mktemp("finished")


@pytest.mark.parametrize(
    "change", [{"per_device_train_batch_size": 4}, {"seed": 8}, {"learning_rate": 0.1}], ids=str
)
def test_a22_a_run_is_not_gone_on_with_other_batches(build, refused, finished, change):
    settings = {"output_dir": str(finished), "save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    if not list(finished.iterdir()):
        build(args=settings).train()
    with refused(r"was trained with other settings .* → .*allow_changed=True"):
        build(args={**settings, **change}).train(resume_from_checkpoint=True)


ASKS = {
    "accelerate launch --cpu --num_processes 2 script.py --num_processes 3": 2,
    "/usr/bin/python3 /usr/bin/accelerate launch --num-processes=4 --cpu -m hfdistill train page.yaml": 4,
    "python -m accelerate.commands.launch --cpu script.py": 1,
    "accelerate-launch --num_processes 1 script.py": 1,
    "accelerate launch --no_such_flag": 1,
    "bash -c python script.py": 1,
    "": 1,
}


@pytest.mark.parametrize(("words", "number"), ASKS.items())
def test_a25_processes_that_a_launcher_does_not_start(build, refused, monkeypatch, words, number):
    words = words.split()
    assert processes_asked_for(words) == number
    monkeypatch.setattr("hfdistill.trainer.launch._words_of_the_parent", lambda: words)
    if number > 1:
        with refused(rf"--multi_gpu --num_processes {number}"):
            build()
        monkeypatch.setenv("WORLD_SIZE", "1")
    build()


def test_a25_a_config_file_of_a_cpu(tmp_path):
    (tmp_path / "cpu.yaml").write_text("distributed_type: MULTI_CPU\nnum_processes: 2\nuse_cpu: true\n")
    assert processes_asked_for(["accelerate", "launch", f"--config_file={tmp_path / 'cpu.yaml'}", "x"]) == 2


def test_a26_a_teacher_that_is_the_student(build, refused, tmp_path):
    model = make_bert()
    with refused(r"copy\.deepcopy\(model\)"):
        build(model, model)
    model.save_pretrained(tmp_path / "model")  # one folder named twice gives two models
    trainer = build(tmp_path / "model", tmp_path / "model", args={"learning_rate": 0.1})
    trainer.train()
    before, taught = model.state_dict(), trainer.teacher.model.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in taught.items())
    assert not torch.equal(trainer.model.classifier.weight, model.classifier.weight)


BEST = {"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps", "save_steps": 1}
BEST |= {"eval_steps": 1}


def test_a27_a_metric_that_no_evaluation_gives(build, refused):
    for sets, right in ((make_dataset(4), "loss"), ({"own": make_dataset(4)}, "own_loss")):
        with refused(f"metric_for_best_model='acc' is none .*metric_for_best_model='{right}'"):
            build(evaluation=sets, args={**BEST, "metric_for_best_model": "acc"}).train()
    run = build(evaluation=make_dataset(4), args={**BEST, "metric_for_best_model": "eval_loss"})
    run.train()
    assert run.state.best_global_step == 1


def test_a28_the_loss_that_chooses_the_best_model_has_no_schedule(build):
    data = make_dataset(5)
    trainer = build(evaluation=data, objective=Linear(1, 0.5) * CrossEntropy() + Linear(0, 9) * KD())
    trainer.train()
    batch = make_tokenizer()(data["text"][:], padding=True, return_tensors="pt")
    by_hand = cross_entropy(trainer.model.eval()(**batch).logits, torch.tensor(data["label"]))
    assert trainer.evaluate()["eval_loss"] == pytest.approx(float(by_hand.detach()), rel=1e-6)


@pytest.mark.parametrize("empty", [[], make_dataset(2).select([])], ids=["list", "dataset"])
def test_a29_no_row_to_evaluate_on(build, refused, empty):
    with refused("eval_dataset has no row.*"):
        build(evaluation=empty)


@pytest.mark.parametrize("empty", [[], make_dataset(2).select([])], ids=["list", "dataset"])
def test_a30_no_row_to_train_on(build, refused, empty):
    with refused("train_dataset has no row.*"):
        build(train=empty)
