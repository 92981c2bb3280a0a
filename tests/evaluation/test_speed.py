import time
from types import SimpleNamespace

import pytest
import torch

from hfdistill.evaluation import speed
from hfdistill.evaluation.speed import SpeedPlan, compare_speeds, size_mb, spread
from tests.conftest import make_bert


def test_size_is_that_of_the_saved_file(tmp_path):
    model = make_bert(2)
    model.save_pretrained(tmp_path)
    saved = (tmp_path / "model.safetensors").stat().st_size / 1e6
    assert size_mb(model) == pytest.approx(saved, rel=0.01)
    model.classifier.twin = model.classifier.weight
    assert size_mb(model) == pytest.approx(saved, rel=0.01)


def test_rows_are_spread_over_the_data():
    assert spread(10, 5) == [0, 2, 4, 6, 8]
    assert spread(2, 5) == [0, 0, 0, 1, 1]


def test_speeds_are_interleaved_on_the_same_rows():
    models = {"a": make_bert(1), "b": make_bert(1)}
    calls = []

    def collate(role, rows):
        calls.append((role, tuple(rows)))
        return {"input_ids": torch.full((len(rows), 4), 5)}

    found = compare_speeds(
        models, collate, rows=9, plan=SpeedPlan(latency_rows=3, batch_size=2, throughput_rows=4, repeats=3)
    )
    timed = [call for call in calls if len(call[1]) == 1][-6:]
    assert timed == [("a", (0,)), ("b", (0,)), ("b", (3,)), ("a", (3,)), ("a", (6,)), ("b", (6,))]
    assert [c for c in calls if len(c[1]) == 2][-4:] == [
        ("a", (0, 2)),
        ("a", (4, 6)),
        ("b", (0, 2)),
        ("b", (4, 6)),
    ]
    assert found["a"].throughput_rows == 4


def test_throughput_keeps_to_its_seconds():
    class Slow(torch.nn.Module):
        device = torch.device("cpu")

        def forward(self, input_ids):
            time.sleep(0.01 if len(input_ids) > 1 else 0)
            return {"logits": input_ids}

    plan = SpeedPlan(latency_rows=1, batch_size=2, throughput_rows=1000, repeats=5, seconds=0.3)
    found = compare_speeds(
        {"a": Slow()}, lambda _, rows: {"input_ids": torch.zeros(len(rows), 1)}, rows=50, plan=plan
    )
    assert found["a"].throughput_rows <= 12
    assert 2 < found["a"].rows_per_s <= 200  # as slow as the machine is, never faster than it sleeps


def test_a_plan_without_work_is_refused():
    with pytest.raises(ValueError, match="numbers above 0"):
        SpeedPlan(repeats=0)


def test_models_on_several_devices_are_not_compared():
    models = {"student": SimpleNamespace(device="cpu"), "teacher": SimpleNamespace(device="cuda:0")}
    with pytest.raises(
        ValueError, match=r"found student on cpu, teacher on cuda:0. Move the models together"
    ):
        compare_speeds(models, None, rows=4, plan=SpeedPlan())


@pytest.mark.parametrize("listing", [None, "flags: x\n", "model name : A processor\n"])
def test_a_processor_has_a_name_on_every_machine(monkeypatch, tmp_path, listing):
    path = tmp_path / "cpuinfo"
    if listing is not None:
        path.write_text(listing, encoding="utf-8")
    monkeypatch.setattr(speed, "Path", lambda _: path)
    monkeypatch.setattr(speed.platform, "processor", lambda: "")
    monkeypatch.setattr(speed.platform, "machine", lambda: "riscv")
    assert speed._cpu_name() == ("A processor" if "name" in (listing or "") else "riscv")
