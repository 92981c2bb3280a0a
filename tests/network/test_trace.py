"""What a forward pass leaves behind, and which inputs a model takes."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import DistilBertConfig, DistilBertForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutput

from hfdistill.network.inputs import accepted_inputs
from hfdistill.network.trace import Trace, logits_of, run
from tests.conftest import make_bert

LOGITS = torch.tensor([[1.0, 2.0]])


def batch():
    ids = torch.tensor([[2, 5, 3, 0], [2, 6, 7, 3]])
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "token_type_ids": torch.zeros_like(ids)}


def make_distilbert():
    settings = {"vocab_size": 40, "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32}
    return DistilBertForSequenceClassification(DistilBertConfig(**settings)).eval()


class Spy(nn.Module):
    """Remembers what it was called with."""

    def forward(self, input_ids, labels=None):
        self.seen = {"input_ids": input_ids, "labels": labels}
        return (LOGITS,)


@pytest.mark.parametrize(
    "outputs",
    [
        SequenceClassifierOutput(loss=torch.tensor(0.0), logits=LOGITS),
        {"loss": 0.0, "logits": LOGITS},
        (LOGITS, "hidden states"),
        [LOGITS],
        Trace(LOGITS),
    ],
    ids=lambda outputs: type(outputs).__name__,
)
def test_logits_are_found_in_every_kind_of_output(outputs):
    assert logits_of(outputs) is LOGITS


def test_a_models_inputs_are_the_arguments_of_its_forward():
    assert {"input_ids", "attention_mask", "token_type_ids"} <= accepted_inputs(make_bert())
    assert "token_type_ids" not in accepted_inputs(make_distilbert())
    assert accepted_inputs(Spy()) == {"input_ids", "labels"}


@pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)  # asked by peft 0.21
def test_a_models_inputs_are_seen_through_an_adapter():
    adapted = get_peft_model(make_bert(), LoraConfig(task_type="SEQ_CLS", target_modules=["query"]))
    assert accepted_inputs(adapted) == accepted_inputs(make_bert())


@pytest.mark.parametrize("model", [make_bert(), make_distilbert()], ids=["bert", "distilbert"])
def test_run_gives_a_model_what_it_takes_and_keeps_the_mask(model):
    trace = run(model, batch(), accepts=accepted_inputs(model))
    inputs = {name: value for name, value in batch().items() if name in accepted_inputs(model)}
    assert torch.equal(trace.logits, model(**inputs).logits)
    assert trace.logits.requires_grad
    assert torch.equal(trace.attention_mask, batch()["attention_mask"])


def test_labels_and_foreign_columns_do_not_reach_the_model():
    spy, ids = Spy(), torch.tensor([[1]])
    trace = run(spy, {"input_ids": ids, "labels": ids, "idx": ids}, accepts=accepted_inputs(spy))
    assert spy.seen == {"input_ids": ids, "labels": None}
    assert trace.attention_mask is None


def test_a_trace_cannot_be_changed():
    with pytest.raises(AttributeError):
        Trace(LOGITS).logits = torch.zeros(1, 2)
