"""Trainer's own ways to the Hub, against a server on loopback: what goes there, and what if it fails."""

import json
import logging
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load
from transformers.trainer_utils import HubStrategy

import hfdistill
from hfdistill import DistillationTrainer, PublishError
from hfdistill.trainer.checkpointing import CheckpointingTrainer
from tests.conftest import make_bert, make_dataset, make_report, make_tokenizer
from tests.files.hub_server import HubServer, connected

# huggingface_hub 2.4 uploads by an argument that its HTTP library has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
SECRET = "hf_" + "sentinel" * 4


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # huggingface_hub waits before it tries again
    with HubServer(token=SECRET) as server:
        connected(monkeypatch, server)
        yield server


@pytest.fixture
def build(arguments):
    def make(**options):
        told = {"push_to_hub": True, "hub_model_id": "me/student", "hub_token": SECRET, **options}
        return DistillationTrainer(
            make_bert(2, seed=2),
            arguments(learning_rate=0.1, **told),
            teacher=make_bert(3, seed=1),
            train_dataset=make_dataset(16),
            processing_class=make_tokenizer(),
        )

    return make


def card(folder, name="me/student"):
    report = make_report({"objective": "KD()"})
    report.save(folder / "report.json")
    hfdistill.write_card(folder, report, base_model="me/teacher", dataset="me/films", model_name=name)


def test_every_save_is_pushed_without_pickles_optimizer_or_token(build, hub, tmp_path):
    trainer = build(save_strategy="steps", save_steps=1, hub_always_push=True)
    torch.save({}, tmp_path / "run" / "left_by_another.pt")
    (tmp_path / "run" / "runs").mkdir()
    (tmp_path / "run" / "runs" / "events.out.tfevents.0.machine").write_bytes(b"logged")
    trainer.train()
    trainer.save_model()
    files = hub.repositories["me/student"]
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= set(files)
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
    assert not [name for name in files if name.startswith(("checkpoint", "last-checkpoint", "_", "runs"))]
    assert not any(content[:1] == b"\x80" or content[:2] == b"PK" for content in files.values())
    messages = [message for _, message, _ in hub.commits]
    assert messages[0].startswith("Training in progress, step")
    assert messages[-1] == "Model save"
    there, here = load(files["model.safetensors"]), trainer.model.state_dict()
    assert all(torch.equal(there[name], here[name]) for name in here)
    kept = [*files.values(), *(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())]
    assert not any(SECRET.encode() in content for content in kept)


def test_the_card_that_was_measured_is_not_replaced_by_a_draft(build, hub, tmp_path):
    trainer = build(push_to_hub=False)
    trainer.train()
    trainer.save_model()
    card(tmp_path / "run")
    trainer.push_to_hub()
    files = hub.repositories["me/student"]
    shown = ModelCard(files["README.md"].decode())
    assert "## How this card was made" in shown.text
    assert shown.data.tags[:2] == ["hfdistill", "knowledge-distillation"]
    assert json.loads(files["report.json"])["student"]["name"] == "small"


def test_numbers_of_an_earlier_run_are_not_published_with_new_weights(build, hub, tmp_path):
    card(tmp_path / "run")
    trainer = build(push_to_hub=False)
    trainer.train()
    trainer.push_to_hub()
    files = hub.repositories["me/student"]
    assert "report.json" not in files
    assert "How this card was made" not in files["README.md"].decode()


def test_a_push_that_fails_on_the_way_is_told_and_the_run_goes_on(build, hub, caplog):
    trainer = build(save_strategy="steps", save_steps=1, hub_always_push=True)
    hub.failing = "POST /api/models/me/student/commit"
    with caplog.at_level(logging.WARNING):
        assert trainer.train().global_step == 2
    assert (
        "A checkpoint was not pushed, and the run went on: The Hub did not take 'me/student'" in caplog.text
    )
    with pytest.raises(PublishError, match="Push again"):
        trainer.push_to_hub()
    hub.failing = None
    trainer.push_to_hub()
    assert [message for _, message, _ in hub.commits] == ["End of training"]


def test_a_name_that_the_hub_does_not_have_is_refused_before_the_first_step(build, hub):
    with pytest.raises(ValueError, match="'me/a b' cannot be the name of a repository"):
        build(hub_model_id="me/a b")


def test_checkpoints_to_go_on_from_are_pushed_where_asked(build, hub):
    build(save_strategy="epoch", hub_strategy="checkpoint", hub_always_push=True).train()
    files = hub.repositories["me/student"]
    assert "last-checkpoint/optimizer.pt" in files
    assert not [name for name in files if "/" not in name and name.endswith((".bin", ".pt", ".pth"))]


class Pushes:
    """Stands for a trainer whose checkpoint is in place."""

    _push = CheckpointingTrainer._push_from_checkpoint

    def __init__(self, *, busy=False, first=True, staging=None, tokenizer=None, **options):
        self.pushed, self._staging, self._began, self.hub_model_id = [], staging, 0.0, "me/student"
        settings = {
            "hub_strategy": HubStrategy.EVERY_SAVE,
            "hub_always_push": False,
            "save_strategy": "epoch",
        }
        self.args = SimpleNamespace(output_dir="run", **{**settings, **options})
        self.state, self.control = SimpleNamespace(global_step=7, epoch=2.0), None
        self.processing_class, self.is_world_process_zero = tokenizer, lambda: first
        self.callback_handler = SimpleNamespace(on_push_begin=lambda *events: None)
        self._publisher = SimpleNamespace(
            is_busy=busy,
            report_failures=lambda: None,
            push_checkpoint=lambda folder, repository, message, began: self.pushed.append(message),
        )

    def messages(self):
        self._push("run/checkpoint-7")
        return self.pushed


def test_which_checkpoints_are_pushed_and_under_which_message():
    assert Pushes().messages() == ["Training in progress, epoch 2"]
    assert Pushes(save_strategy="steps").messages() == ["Training in progress, step 7"]
    assert Pushes(busy=True, hub_always_push=True).messages() == ["Training in progress, epoch 2"]
    for left_out in (
        {"busy": True},
        {"hub_strategy": HubStrategy.END},
        {"staging": "run/.staging"},
        {"first": False},
    ):
        assert Pushes(**left_out).messages() == []
