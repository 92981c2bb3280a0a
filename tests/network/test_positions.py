"""How long a row may be is read from the network itself: from its table of positions."""

import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset
from transformers import AutoConfig, AutoModelForSequenceClassification

from hfdistill import DistillationArguments, DistillationTrainer
from hfdistill.network.architectures import Positions, longest_input, readable_length, room_for
from tests.families import roberta_tokenizer
from tests.trainer.conftest import quiet_arguments

SMALL = {
    "vocab_size": 24,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 20,
    "pad_token_id": 1,
}
FROM_PADDING = {  # they number the first token one past the id of padding
    "camembert": {},
    "data2vec-text": {},
    "esm": {"position_embedding_type": "absolute", "mask_token_id": 3},
    "ibert": {},
    "longformer": {"attention_window": 4},
    "luke": {"entity_vocab_size": 5, "entity_emb_size": 16},
    "mpnet": {},
    "roberta": {},
    "roberta-prelayernorm": {},
    "xlm-roberta": {},
    "xlm-roberta-xl": {},
    "xmod": {"default_language": "en_XX"},
}
FROM_ZERO = {
    "bert": {},
    "electra": {"embedding_size": 16},
    "distilbert": {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32},
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 20},
    "nystromformer": {"num_landmarks": 2, "segment_means_seq_len": 2},
    "opt": {"ffn_dim": 32, "word_embed_proj_dim": 16},
}
each = pytest.mark.parametrize("kind", [*FROM_PADDING, *FROM_ZERO])


def config_of(kind, **options):
    own = {**FROM_PADDING, **FROM_ZERO}[kind]
    settings = {**SMALL, **own, **options}
    if "n_embd" in own or "dim" in own:
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"):
            settings.pop(name)
    return AutoConfig.for_model(kind, **settings)


def model_of(kind, **options):
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(config_of(kind, **options)).eval()


@each
def test_the_longest_row_is_read_and_one_token_more_is_not(kind):
    model = model_of(kind)
    room = longest_input(model.config)
    assert room == longest_input(model) == (18 if kind in FROM_PADDING else 20)
    ids = torch.full((1, room), 5)
    assert model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.shape == (1, 2)
    longer = torch.full((1, room + 1), 5)
    if kind != "longformer":  # which pads to whole windows by itself
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=longer, attention_mask=torch.ones_like(longer))


@pytest.mark.parametrize("pad", [0, 3])
def test_the_offset_follows_the_id_of_padding(pad):
    assert longest_input(config_of("roberta", pad_token_id=pad)) == 19 - pad
    assert (
        Positions.of(config_of("mpnet", pad_token_id=pad)).start == 2
    )  # MPNet counts from 2, whatever it is


def test_looking_draws_no_random_number_and_knows_no_limit_of_strangers():
    before = torch.random.get_rng_state()
    assert longest_input(config_of("xmod", max_position_embeddings=33)) == 31
    assert torch.equal(before, torch.random.get_rng_state())
    assert longest_input(transformers.XLNetConfig()) is None
    assert longest_input(transformers.PreTrainedConfig()) is None


@pytest.mark.parametrize("asked", [0, -5, 7.5, "8", True])
def test_a_length_that_is_none_is_refused_wherever_it_is_asked_for(asked, tmp_path):
    config, words = (
        config_of("roberta"),
        rf"max_length is a whole number of tokens from 1 up, found {asked!r}",
    )
    with pytest.raises(ValueError, match=words):
        readable_length(config, asked)
    with pytest.raises(ValueError, match=words):
        room_for(config, roberta_tokenizer(), None, asked)
    with pytest.raises(ValueError, match=words):
        DistillationTrainer(
            model_of("roberta"),
            DistillationArguments(tmp_path, max_length=asked, report_to="none"),
            teacher=None,
            train_dataset=Dataset.from_dict({"text": ["a dull plot"], "label": [1]}),
            processing_class=roberta_tokenizer(),
        )


def test_of_several_lengths_the_least_counts():
    config, tokenizer = config_of("roberta"), roberta_tokenizer()
    assert (readable_length(config, 7), readable_length(config, 99), readable_length(config, None)) == (
        7,
        18,
        18,
    )
    assert readable_length(None, None) is None
    assert (room_for(config, tokenizer, None, 9), room_for(config, tokenizer, 30)) == (9, 18)
    for nine in (np.int64(9), torch.tensor(9)):
        lengths = readable_length(config, nine), room_for(config, tokenizer, nine)
        assert (lengths, {*map(type, lengths)}) == ((9, 9), {int})  # exports write them as JSON


@pytest.mark.parametrize("kind", FROM_PADDING)
def test_long_rows_are_cut_before_the_first_step(kind, tmp_path, caplog):
    """The tokenizer has no limit of its own."""
    data = Dataset.from_dict({"text": ["the film is good " * 9, "a dull plot"] * 2, "label": [1, 0] * 2})
    student, teacher = model_of(kind), model_of(kind)
    trainer = DistillationTrainer(
        student,
        quiet_arguments(tmp_path, max_steps=1),
        teacher=teacher,
        train_dataset=data,
        processing_class=roberta_tokenizer(),
    )
    assert [len(ids) for ids in trainer.train_dataset["input_ids"]] == [18, 5, 18, 5]
    assert "2 of 4 rows are longer than 18 tokens" in caplog.text
    trainer.train()


def test_tokenised_rows_that_are_too_long_are_refused_before_the_first_step(tmp_path):
    rows = Dataset.from_dict({"input_ids": [[5] * 18, [5] * 19], "label": [0, 1]})
    with pytest.raises(
        ValueError, match=r"1 rows of train_dataset are longer than the 18 tokens .*row 1, 19"
    ):
        DistillationTrainer(
            model_of("longformer"),
            quiet_arguments(tmp_path),
            teacher=model_of("longformer"),
            train_dataset=rows,
            processing_class=roberta_tokenizer(),
        )
