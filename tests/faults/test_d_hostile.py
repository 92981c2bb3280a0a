"""Section D of the table of faults: input that was made to do harm, and what is not run, read or written."""

import json
import os
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from transformers import DataCollatorWithPadding, Trainer

import hfdistill
from hfdistill import MaskedLM, load_classifier, prompted, shrink
from hfdistill.cli import main
from hfdistill.files import checkpoint
from hfdistill.files.checkpoint import CheckpointError
from hfdistill.network.foreign_code import PickledWeights
from hfdistill.recipe import read_recipe
from hfdistill.recipe.run import check_recipe
from hfdistill.teachers.text.embedding import Embedder
from tests.conftest import make_bert, make_dataset, make_tokenizer
from tests.trainer.conftest import quiet_arguments


class Canary:
    """A pickle that makes a folder where it is loaded."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def canary(tmp_path):
    yield Canary(tmp_path / "canary")
    assert not (tmp_path / "canary").exists(), "what a file brought was run"


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory):
    """Two checkpoints of a plain Trainer, which have no manifest."""
    folder, tokenizer = tmp_path_factory.mktemp("plain"), make_tokenizer()
    data = make_dataset(16).map(lambda row: dict(tokenizer(row["text"])), remove_columns=["text"])
    settings = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    Trainer(
        make_bert(2, seed=2),
        quiet_arguments(folder, **settings),
        train_dataset=data,
        data_collator=DataCollatorWithPadding(tokenizer),
    ).train()
    return folder / "checkpoint-2"


@pytest.fixture
def plain(plain_run, tmp_path):
    """The newer of them, in a folder of its own."""
    import shutil

    return Path(shutil.copytree(plain_run, tmp_path / "run" / "checkpoint-2"))


RESUMED = {"save_strategy": "steps", "save_steps": 1, "max_steps": 3}


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"])
def test_d1_a_pickle_in_a_checkpoint_is_not_run(build, plain, canary, name):
    torch.save(canary, plain / name)
    trainer = build(args=RESUMED)
    if name == "training_args.bin":  # which nobody reads
        assert trainer.train(resume_from_checkpoint=True).global_step == 3
        return
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        trainer.train(resume_from_checkpoint=True)


# Weights in pickles


def pickled(folder, content, model=None):
    """A model's folder whose weights are a pickle alone."""
    (model or make_bert(seed=3)).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(content, folder / "pytorch_model.bin")
    return folder


LOADERS = {
    "a classifier": lambda folder, build: load_classifier(folder),
    "a teacher": lambda folder, build: build(teacher=folder),
    "a student": lambda folder, build: build(student=folder),
    "what is cut": lambda folder, build: shrink(folder, layers=1),
    "an encoder": lambda folder, build: Embedder(folder),
    "a fill-mask model": lambda folder, build: MaskedLM(folder),
    "a prompted model": lambda folder, build: prompted(folder, "{text}", ["a", "b"]),
}


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
def test_d2_weights_in_a_pickle_alone_are_refused(build, refused, tmp_path, canary, load):
    folder = pickled(tmp_path / "model", canary)
    words = r"pytorch_model\.bin alone, a pickle.*allow_pickle=True.*--allow-pickle.*save_pretrained\("
    with refused(words, PickledWeights):
        load(folder, build)


def test_d2_they_are_read_as_tensors_where_that_is_allowed(refused, tmp_path, canary):
    model = make_bert(seed=3)
    folder = pickled(tmp_path / "model", model.state_dict())
    loaded = load_classifier(folder, allow_pickle=True)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())
    loaded.save_pretrained(tmp_path / "converted")
    assert load_classifier(tmp_path / "converted").config.num_labels == 2
    with pytest.raises(PickledWeights):  # what is allowed for one is not for the next
        load_classifier(folder)
    torch.save(model, folder / "pytorch_model.bin")
    with refused(r"holds more than tensors.*save_pretrained\(folder\)", PickledWeights):
        load_classifier(folder, allow_pickle=True)
    torch.save(canary, folder / "pytorch_model.bin")
    with refused("holds more than tensors", PickledWeights):
        load_classifier(folder, allow_pickle=True)


def test_d2_safetensors_are_preferred(tmp_path, canary):
    make_bert(seed=3).save_pretrained(tmp_path)
    torch.save(canary, tmp_path / "pytorch_model.bin")
    assert torch.equal(load_classifier(tmp_path).classifier.weight, make_bert(seed=3).classifier.weight)


def test_d2_a_repository_with_pickles_alone(monkeypatch, refused):
    monkeypatch.setattr("hfdistill.network.foreign_code.cached_file", lambda *names, **options: None)
    monkeypatch.setattr("hfdistill.network.loading.adapter_settings", lambda source: None)
    monkeypatch.setattr(
        "hfdistill.network.foreign_code.has_file", lambda source, name: name == "pytorch_model.bin"
    )
    with refused(r"'org/model' has its weights in pytorch_model\.bin alone", PickledWeights):
        load_classifier("org/model")


def test_d2_a_command_and_a_page_may_allow_it(tmp_path, capsys, monkeypatch):
    folder = pickled(tmp_path / "model", make_bert(seed=3).state_dict())
    make_dataset(8).to_json(tmp_path / "rows.jsonl")
    words = ["measure", str(folder), "--data", str(tmp_path / "rows.jsonl"), "--no-speed"]
    assert main(words) == 1
    assert "--allow-pickle" in capsys.readouterr().err
    assert main([*words, "--allow-pickle"]) == 0
    page = tmp_path / "page.yaml"
    page.write_text(
        f"teacher: {folder}\nstudent: {{shrink: {{layers: 1}}}}\ndata: {{source: {tmp_path}/rows.jsonl, "
        f"evaluation_rows: 4}}\ntraining: {{output_dir: {tmp_path}/out}}\nmeasure:\n"
    )
    with pytest.raises(PickledWeights):
        check_recipe(read_recipe(page))
    check_recipe(read_recipe(page, overrides=["allow_pickle=true"]))


# Configs that reach for code


@pytest.mark.parametrize(
    "changes",
    [
        {"_attn_implementation_internal": "evil/kernel"},
        {"attn_implementation": "evil/kernel@main:forward"},
        {"_attn_implementation": {"text_config": "evil/kernel"}},
        {"text_config": {"_experts_implementation": "evil/kernel"}},
    ],
    ids=str,
)
def test_d4_a_config_that_names_a_kernel_of_the_hub(refused, tmp_path, changes):
    make_bert().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with refused(r"names 'evil/kernel.*a kernel of the Hub.*from_pretrained\("):
        load_classifier(tmp_path)


def test_d9_archives_are_not_unpacked(refused, tmp_path):
    with zipfile.ZipFile(tmp_path / "rows.zip", "w") as archive:
        archive.writestr("../outside.csv", "text,label\na,b\n")
    with tarfile.open(tmp_path / "rows.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "rows.zip", arcname="../outside.csv")
    for name in ("rows.zip", "rows.tar.gz"):
        with pytest.raises(ValueError, match=r"neither a data file nor a folder .*Unpack it first"):
            hfdistill.load(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.tar.gz", "rows.zip"]


HOSTILE = {
    "another step": '{"global_step": 1000000}',
    "a step before the first": '{"global_step": -5}',
    "no number": '{"global_step": NaN}',
    "text": '{"global_step": "x"}',
    "no step": "{}",
    "a list": "[2]",
    "deep": "[" * 100_000,
    "cut short": '{"global_step"',
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_d14_a_state_that_is_not_its_checkpoints(plain, text):
    (plain / "trainer_state.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"trainer_state\.json is not that of this checkpoint"):
        checkpoint.verify(plain)
    assert checkpoint.newest_complete(plain.parent) is None


def test_d14_a_best_checkpoint_elsewhere_is_not_believed(build, plain):
    path = plain / "trainer_state.json"
    state = {**json.loads(path.read_text()), "best_model_checkpoint": "/etc", "best_global_step": 2}
    path.write_text(json.dumps(state))
    trainer = build(args={**RESUMED, "save_total_limit": 1})
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.best_model_checkpoint == str(plain)
