"""Whatever `report_to` names gets the parts of the loss by name."""

import pytest
from transformers import TrainerCallback

from hfdistill import KD, CrossEntropy, DistillationTrainer, HiddenMSE
from tests.conftest import make_bert, make_dataset, make_tokenizer

NAMES = {"loss_cross_entropy", "loss_kd", "loss_hidden_mse"}


@pytest.fixture
def build(arguments):
    def make(**options):
        callbacks = options.pop("callbacks", None)
        return DistillationTrainer(
            make_bert(2, seed=2),
            arguments(learning_rate=0.1, **options),
            teacher=make_bert(4, seed=1),
            objective=0.5 * CrossEntropy() + 0.5 * KD() + HiddenMSE(),
            train_dataset=make_dataset(24),
            processing_class=make_tokenizer(),
            callbacks=callbacks,
        )

    return make


def test_tensorboard_files_hold_each_part_by_name(build, tmp_path):
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="TensorBoard is not installed: pip install tensorboard",
    )
    secret = "hf_" + "sentinel" * 4
    trainer = build(report_to="tensorboard", hub_token=secret)
    trainer.train()
    (path,) = tmp_path.rglob("events.out.tfevents.*")
    events = reader.EventAccumulator(str(path))
    events.Reload()
    written = {tag: [point.value for point in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logged) == 3
    for name in ("loss", *NAMES):
        assert written[f"train/{name}"] == pytest.approx([entry[name] for entry in logged], rel=1e-6)
    total = zip(*(written[f"train/{name}"] for name in NAMES), strict=True)
    assert [sum(parts) for parts in total] == pytest.approx(written["train/loss"], rel=1e-5)
    assert secret.encode() not in path.read_bytes()


def test_a_tracker_of_ones_own_gets_them_too(build):
    class Tracker(TrainerCallback):
        def __init__(self):
            self.seen = []

        def on_log(self, args, state, control, logs=None, **others):
            self.seen.append((state.global_step, dict(logs)))

    tracker = Tracker()
    build(callbacks=[tracker]).train()
    steps = {step: logs for step, logs in tracker.seen if "loss" in logs}
    assert list(steps) == [1, 2, 3]
    for logs in steps.values():
        assert {name for name in logs if name.startswith("loss_")} == NAMES
        assert sum(logs[name] for name in NAMES) == pytest.approx(logs["loss"], rel=1e-5)
