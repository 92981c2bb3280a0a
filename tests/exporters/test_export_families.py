"""Exports of networks that are padded in their own way answer each text as the network does alone."""

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer

from hfdistill import export
from hfdistill.exporters.onnx import OnnxModel, require_packages
from hfdistill.prediction.predictor import load_predictor
from tests.families import FAMILIES, PAIRS, TEXTS, alone

try:
    require_packages()
except ModuleNotFoundError as missing:
    pytest.skip(str(missing), allow_module_level=True)

ROWS = Dataset.from_dict({"text": TEXTS, "text_pair": PAIRS})
NAMED = {family.name: family for family in FAMILIES}


@pytest.mark.parametrize("name", ["GPT2", "XLNet"])
def test_the_exported_folder_answers_each_text_as_alone(name, tmp_path):
    model, tokenizer = NAMED[name].model(num_hidden_layers=1, n_layer=1), NAMED[name].tokenizer()
    right = alone(model, tokenizer, TEXTS, PAIRS)
    export(model, tmp_path / "onnx", data=ROWS, tokenizer=tokenizer, int8=None, speed=False, max_length=30)
    file = OnnxModel(tmp_path / "onnx" / "model.onnx")
    assert ("token_type_ids" in file.inputs) == (name == "XLNet")
    rows = Tokenizer.from_file(str(tmp_path / "onnx" / "tokenizer.json")).encode_batch(
        list(zip(TEXTS, PAIRS, strict=True))
    )
    assert rows[0].attention_mask[0] == (0 if name == "XLNet" else 1)
    columns = ("ids", "attention_mask", "type_ids")
    logits = file(*(torch.tensor([getattr(row, column) for row in rows]) for column in columns))["logits"]
    torch.testing.assert_close(logits, right, atol=1e-4, rtol=1e-4)
    predicted = load_predictor(tmp_path / "onnx").predict({"text": TEXTS, "text_pair": PAIRS})
    torch.testing.assert_close(torch.stack(predicted), right, atol=1e-4, rtol=1e-4)
