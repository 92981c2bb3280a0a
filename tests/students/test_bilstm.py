"""A BiLSTM read step by step, and its hidden states."""

import pytest
import torch
from torch import nn

from hfdistill import KD, DistillationTrainer, HiddenMSE
from hfdistill.network.architectures import ModelSpec
from hfdistill.network.inputs import accepted_inputs
from hfdistill.network.trace import Tap, run
from hfdistill.students.bilstm import BiLSTMForSequenceClassification, bilstm_from_teacher
from hfdistill.students.configs import BiLSTMConfig
from hfdistill.students.early_exit import with_exits
from hfdistill.students.importance import block_importance
from tests.conftest import make_bert, make_dataset, make_tokenizer
from tests.students.test_attention_free import arguments


def small(**options):
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "embedding_size": 6, "hidden_size": 8, "classifier_size": 5, "sep_token_id": 3}
    return BiLSTMForSequenceClassification(BiLSTMConfig(**{**sizes, **options})).eval()


def states(model, ids):
    """Both directions token by token, with single cells."""
    network = model.bilstm
    hidden = network.embeddings(torch.tensor(ids))
    for layer in network.layers:
        both = []
        for suffix, steps in (("", range(len(ids))), ("_reverse", reversed(range(len(ids))))):
            cell = nn.LSTMCell(hidden.shape[1], network.config.hidden_size // 2)
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                setattr(cell, name, getattr(layer.lstm, f"{name}_l0{suffix}"))
            state, made = None, {}
            for step in steps:
                state = cell(hidden[step][None], state)
                made[step] = state[0][0]
            both.append(torch.stack([made[step] for step in range(len(ids))]))
        hidden = torch.cat(both, dim=1)
    half = hidden.shape[1] // 2
    return hidden, torch.cat([hidden[-1, :half], hidden[0, half:]])


@pytest.mark.parametrize("layers", [1, 2])
def test_token_by_token(layers):
    model = small(num_hidden_layers=layers)
    ids = torch.tensor([[2, 9, 14, 3, 0, 0], [2, 9, 14, 8, 7, 3]])
    output = model.bilstm(ids, attention_mask=(ids != 0).long())
    for row, text in enumerate(([2, 9, 14, 3], [2, 9, 14, 8, 7, 3])):
        hidden, last = states(model, text)
        torch.testing.assert_close(output.last_hidden_state[row, : len(text)], hidden)
        torch.testing.assert_close(output.pooler_output[row], last)
    assert not output.last_hidden_state[0, 4:].any()


def test_texts_of_a_pair_do_not_see_each_other():
    model = small(pairs=True, num_hidden_layers=2)
    ids = torch.tensor([[2, 9, 3, 14, 8, 3, 0]])
    output = model.bilstm(ids, attention_mask=(ids != 0).long())
    (first, one), (second, two) = states(model, [2, 9, 3]), states(model, [14, 8, 3])
    torch.testing.assert_close(output.last_hidden_state[0, :6], torch.cat([first, second]))
    expected = torch.cat([one, two, one * two, (one - two).abs()])
    torch.testing.assert_close(output.pooler_output[0], expected)


def test_hidden_states_can_be_read():
    model = small(num_hidden_layers=2)
    assert ModelSpec.of(model) == ModelSpec("hfdistill-bilstm", depth=2, width=8, heads=0, classes=2)
    batch = {"input_ids": torch.tensor([[2, 9, 3]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    taps = {Tap("hidden", 1), Tap("hidden", 2)}
    trace = run(model, batch, accepts=accepted_inputs(model), taps=taps)
    torch.testing.assert_close(trace.readings[Tap("hidden", 2)][0], states(model, [2, 9, 3])[0])
    assert trace.readings[Tap("hidden", 1)].shape == (1, 3, 8)
    with pytest.raises(ValueError, match="its layout names no such projection"):
        run(model, batch, accepts=accepted_inputs(model), taps={Tap("query", 1)})


def test_learns_from_a_layer_of_the_teacher(tmp_path):
    torch.manual_seed(0)
    teacher, tokenizer = make_bert(4, seed=1), make_tokenizer()
    student = bilstm_from_teacher(teacher, tokenizer, hidden_size=20)
    trainer = DistillationTrainer(
        student,
        arguments(tmp_path, num_train_epochs=12, logging_strategy="epoch"),
        teacher=teacher,
        train_dataset=make_dataset(32),
        objective=KD() + HiddenMSE(layers={1: 4}),
        processing_class=tokenizer,
    )
    trainer.train()
    losses = [log["loss_hidden_mse"] for log in trainer.state.log_history if "loss_hidden_mse" in log]
    assert losses[-1] < 0.7 * losses[0]


def test_sizes_from_the_teacher():
    teacher, tokenizer = make_bert(1), make_tokenizer()
    assert bilstm_from_teacher(teacher, tokenizer).config.embedding_size == 16
    narrow = bilstm_from_teacher(teacher, tokenizer, embedding_size=5, hidden_size=10, layers=2)
    assert narrow.get_input_embeddings().weight.shape == (len(tokenizer), 5)
    assert [layer.lstm.hidden_size for layer in narrow.bilstm.layers] == [5, 5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embedding_size": 17}, "has 16 principal components"),
        ({"hidden_size": 7}, "hidden_size=7 cannot be shared.*for example 8"),
        ({"layers": 0}, "layers=0 leaves nothing to learn. Write a whole number from 1"),
        ({"layers": 1.0}, "layers=1.0 leaves nothing to learn"),
    ],
)
def test_sizes_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        bilstm_from_teacher(make_bert(1), make_tokenizer(), **options)


def test_what_needs_blocks_that_pass_their_input_on_is_refused():
    model = small(num_hidden_layers=2)
    with pytest.raises(ValueError, match="cannot be told by leaving it out"):
        block_importance(model, {"input_ids": torch.tensor([[2, 9, 3]])})
    with pytest.raises(ValueError, match="cannot go on with some rows"):
        with_exits(model)
