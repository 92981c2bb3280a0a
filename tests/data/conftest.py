"""Small files to load, and a cache of their own."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    return folder


def write_rows(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def messages(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("hfdistill")]
