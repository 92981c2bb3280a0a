"""Recording where disk or memory are short."""

import logging
from types import SimpleNamespace

import pytest
import torch

import hfdistill.teachers.cache.teacher as cache
from hfdistill import CacheError
from tests.teachers.cache.cached import INSIDE, batch_of, encoded, recorded, shards


def test_the_size_is_said_first_and_a_full_disk_is_refused(tmp_path, caplog, monkeypatch):
    with caplog.at_level(logging.INFO):
        recorded(tmp_path, contents=INSIDE)
    said = next(record for record in caplog.records if "will take" in record.message)
    size = sum(path.stat().st_size for path in shards(tmp_path))
    assert said.levelno == logging.INFO
    assert float(said.message.split(" MB")[0].split()[-1]) == pytest.approx(size / 1e6, abs=0.06)
    caplog.clear()
    recorded(tmp_path / "more", contents=INSIDE, budget_mb=0.01)
    assert [r.levelno for r in caplog.records if "will take" in r.message] == [logging.WARNING]
    usage = SimpleNamespace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(CacheError, match="are free"):
        recorded(tmp_path / "full", contents=INSIDE)
    assert not shards(tmp_path / "full")


def test_c13_a_folder_that_cannot_be_written_is_refused_before_the_first_forward(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="cannot be made"):
        recorded(tmp_path / "file" / "answers")
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(CacheError, match="cannot be written"):
        recorded(tmp_path / "answers")


def test_c17_memory_that_runs_out_halves_the_batch(tmp_path, monkeypatch):
    """C17."""
    data, whole, asked = encoded(), recorded(tmp_path / "whole"), []
    ask = cache.CachedTeacher._asked

    def small(self, batch):
        if len(batch["input_ids"]) > 3:
            raise torch.OutOfMemoryError
        asked.append(len(batch["input_ids"]))
        return ask(self, batch)

    monkeypatch.setattr(cache.CachedTeacher, "_asked", small)
    monkeypatch.setattr(torch.accelerator, "empty_cache", lambda: None)
    halved = recorded(tmp_path / "halved", data)
    assert max(asked) <= 3
    torch.testing.assert_close(
        halved.trace(batch_of(data)).logits, whole.trace(batch_of(data)).logits, atol=1e-5, rtol=0
    )
