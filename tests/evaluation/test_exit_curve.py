"""The curve of accuracy over speed: its ends are the whole model and its first exit."""

import pytest
import torch

from hfdistill import exit_curve, with_exits
from hfdistill.evaluation.speed import SpeedPlan
from tests.conftest import make_bert, make_dataset, make_tokenizer


def test_the_curve_goes_from_all_layers_to_one():
    model = with_exits(make_bert(4, seed=1))
    plan = SpeedPlan(latency_rows=2, batch_size=4, throughput_rows=4, repeats=1)
    points = exit_curve(model, make_dataset(), [1e-9, 1.0], tokenizer=make_tokenizer(), speed=plan)
    assert [(p.threshold, p.mean_layers) for p in points] == [(None, 4), (1e-9, 4), (1.0, 1)]
    assert points[0].accuracy == points[1].accuracy
    assert all(point.latency_ms > 0 < point.rows_per_s for point in points)
    assert model.exit_threshold is None
    assert str(points[2]).split()[0] == "1"
    data = make_dataset()
    rows = make_tokenizer()(data["text"][:], padding=True, return_tensors="pt")
    answers = model(**rows).exit_logits[0].argmax(-1)
    assert points[2].accuracy == (answers == torch.tensor(data["label"][:])).float().mean().item()


@pytest.mark.parametrize(
    ("model", "options", "error", "words"),
    [
        (lambda: make_bert(3), {"tokenizer": 1}, TypeError, "has no exits. Build it with with_exits"),
        (lambda: with_exits(make_bert(3)), {}, ValueError, "came without a tokenizer"),
        (lambda: with_exits(make_bert(3)), {"thresholds": [2]}, ValueError, "above 0 and up to 1, found 2"),
        (lambda: with_exits(make_bert(3)), {"thresholds": 0.3}, TypeError, r"Write thresholds=\[0\.3\]"),
    ],
    ids=["plain", "tokenizer", "threshold", "no list"],
)
def test_a_curve_that_cannot_be_drawn(model, options, error, words):
    options = {"thresholds": [0.5], **options}
    if "thresholds" in options and options["thresholds"] == [2]:
        options["tokenizer"] = make_tokenizer()
    with pytest.raises(error, match=words):
        exit_curve(model(), make_dataset(), **options)


def test_a_model_of_several_labels_is_refused():
    model = with_exits(make_bert(2))
    model.config.problem_type = "multi_label_classification"
    with pytest.raises(ValueError, match="scores one label a row; this model answers several"):
        exit_curve(model, make_dataset(4), [0.5], tokenizer=make_tokenizer())
