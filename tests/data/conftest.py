"""Small files to load, and a cache of their own."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pandas import DataFrame


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


def write_codes(path: Path, codes: list[str]) -> Path:
    """Write texts and labels that are strings, in a file of any kind."""
    texts = [f"film {i}" for i in range(len(codes))]
    if path.suffix == ".parquet":
        return write_rows(path, text=texts, label=codes)
    if path.suffix == ".xlsx":
        pytest.importorskip("openpyxl")
        DataFrame({"text": texts, "label": codes}).to_excel(path, index=False)
    elif path.suffix == ".jsonl":
        path.write_text("".join(map('{{"text": "{}", "label": "{}"}}\n'.format, texts, codes)))
    else:
        cells = "," if path.suffix == ".csv" else "\t"
        path.write_text(
            "".join(f"{a}{cells}{b}\n" for a, b in zip(["text", *texts], ["label", *codes], strict=True))
        )
    return path


def messages(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("hfdistill")]
