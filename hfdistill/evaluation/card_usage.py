"""The part of a card that shows how to run the student."""

from __future__ import annotations

from hfdistill.evaluation.report import Report
from hfdistill.files.hub import HERE
from hfdistill.files.plain_data import is_hub_id

_CALL = {
    "single_label": "",
    "multi_label": ', top_k=None, function_to_apply="sigmoid"',
    "regression": ', function_to_apply="none"',
    "token": ', aggregation_strategy="simple"',
}
_TURN = {
    "single_label": "logits.softmax(-1)",
    "multi_label": "logits.sigmoid()",
    "regression": "logits",
    "token": "logits.softmax(-1)",
}


def hub_task(report: Report) -> str:
    """Return the task as the Hub and `pipeline` spell it."""
    return "token-classification" if report.task == "token" else "text-classification"


def usage_section(report: Report, model_name: str) -> str:
    """Return the section "Use": code that runs the student, with the Hub's name for it where it has one.

    It cuts texts where the measured ones were cut: `pipeline` does not by itself, and a text of more tokens
    than the model has positions is an error deep within it.
    """
    model = model_name if "/" in model_name and is_hub_id(model_name) else HERE
    pairs = report.data.pairs
    text = (
        '{"text": "The first text.", "text_pair": "The second text."}' if pairs else '"The text to classify."'
    )
    texts = '"The first text.", "The second text."' if pairs else '"The text to classify."'
    package, _, kind = report.student.architecture.partition(".")
    own = "" if package == "transformers" else "import hfdistill  # knows this architecture\n"
    if package not in ("transformers", "hfdistill"):
        own = f"# Import the code that registers {kind} with Transformers first.\n"
    cut = "truncation=True"
    if report.data.max_length is not None:
        cut += f", max_length={report.data.max_length}"
    call = _CALL[report.task] + ("" if report.task == "token" else f", {cut}")
    turn = _TURN[report.task]
    auto = f"AutoModelFor{'Token' if report.task == 'token' else 'Sequence'}Classification"
    return f"""## Use

```python
{own}from transformers import pipeline

classify = pipeline("{hub_task(report)}", model="{model}"{call})
print(classify({text}))
```

Without the pipeline:

```python
{own}import torch
from transformers import {auto}, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{model}")
model = {auto}.from_pretrained("{model}")
with torch.inference_mode():
    logits = model(**tokenizer({texts}, {cut}, return_tensors="pt")).logits
print({turn}, model.config.id2label)
```"""
