import sys
from pathlib import Path

import datasets
import evaluate
import numpy as np
import pytest

from hfdistill.evaluation.metrics import Agreement, agreement

SOURCE = Path(__file__).parents[3] / "hfdistill" / "evaluation" / "metrics"


class Accuracy(evaluate.Metric):
    def _info(self):
        features = {"predictions": datasets.Value("int32"), "references": datasets.Value("int32")}
        return evaluate.MetricInfo(description="", citation="", features=datasets.Features(features))

    def _compute(self, predictions, references):
        return {"accuracy": float(np.mean(np.array(predictions) == np.array(references)))}


@pytest.fixture
def metrics_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def test_agreement_by_hand():
    assert agreement([0, 1, 1, 0], [0, 1, 0, 0]) == 0.75
    assert agreement([[1, 0], [1, 1]], [[1, 0], [1, 0]]) == 0.5


@pytest.mark.parametrize(("student", "teacher"), [([0, 1], [0, 1, 1]), ([0, 1], [[0], [1]])])
def test_agreement_never_broadcasts(student, teacher):
    with pytest.raises(ValueError, match="one prediction of each model a row"):
        agreement(student, teacher)


def test_agreement_of_no_rows_is_refused():
    with pytest.raises(ValueError, match="needs rows"):
        agreement([], [])


def test_metric_computes_whole_and_in_batches(metrics_cache):
    metric = Agreement()
    assert metric.compute(predictions=[0, 1, 1, 0], references=[0, 1, 0, 0]) == {"agreement": 0.75}
    metric.add_batch(predictions=[0, 1], references=[0, 1])
    metric.add_batch(predictions=np.array([1]), references=np.array([0]))
    metric.add(prediction=0, reference=0)
    assert metric.compute() == {"agreement": 0.75}


def test_metric_writes_nothing_and_waits_for_nobody(metrics_cache, monkeypatch):
    open_one = Agreement()
    open_one.add_batch(predictions=[0], references=[0])  # would hold the lock
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("it waits for the lock"))
    assert Agreement().compute(predictions=[1], references=[0]) == {"agreement": 0.0}
    assert not metrics_cache.exists()
    assert open_one.compute() == {"agreement": 1.0}


def test_metric_survives_a_failed_compute(metrics_cache):
    metric = Agreement()
    with pytest.raises(ValueError, match="Mismatch in the number of predictions"):
        metric.compute(predictions=[0, 1, 1], references=[0, 1])
    assert metric.compute(predictions=[0], references=[0]) == {"agreement": 1.0}


def test_metric_combines_with_accuracy(metrics_cache):
    both = evaluate.combine([Agreement(), Accuracy(keep_in_memory=True)])
    assert both.compute(predictions=[0, 1], references=[0, 0]) == {"agreement": 0.5, "accuracy": 0.5}


def test_evaluate_loads_the_files_offline(metrics_cache, tmp_path, monkeypatch):
    monkeypatch.setattr("evaluate.config.HF_MODULES_CACHE", tmp_path / "modules")
    monkeypatch.setattr("evaluate.loading.HF_MODULES_CACHE", tmp_path / "modules", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in sys.modules if name.startswith("evaluate_modules")]:
        monkeypatch.delitem(sys.modules, name)
    metric = evaluate.load(str(SOURCE / "agreement.py"))
    assert metric.compute(predictions=[0, 1], references=[0, 0]) == {"agreement": 0.5}
    metric = evaluate.load(str(SOURCE / "calibration.py"))
    assert metric.compute(predictions=[[0.75, 0.25]], references=[0]) == {"ece": 0.25}
    assert not metrics_cache.exists()


def test_several_processes_keep_to_the_disk(tmp_path):
    metric = Agreement(num_process=2, process_id=1, cache_dir=str(tmp_path))
    assert not metric.keep_in_memory
