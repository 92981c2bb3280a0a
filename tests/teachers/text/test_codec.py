"""Text goes through a batch's columns and comes back as it was."""

import pickle

import pytest
import torch

from hfdistill.teachers.text.codec import TextCodec, decode_rows
from hfdistill.teachers.text.teacher import keys_of

TEXTS = ["", "a", "warm film", "12345678", "naïve CAFÉ - 中文 😀\n\ttab", " two  spaces ", "x" * 1000, "\x00"]


@pytest.mark.parametrize("side", ["right", "left"])
def test_texts_come_back_as_they_were(side):
    codec = TextCodec()
    codec.padding_side = side
    batch = codec(TEXTS, padding=True, return_tensors="pt")
    assert decode_rows(batch["input_ids"], batch["attention_mask"]) == TEXTS


def test_pairs_come_back_as_pairs():
    other = TEXTS[::-1]
    batch = TextCodec()(TEXTS, other, padding=True, return_tensors="pt")
    assert decode_rows(batch["input_ids"], batch["attention_mask"]) == list(zip(TEXTS, other, strict=True))


def test_a_key_is_one_texts_alone():
    pairs = [("a", "b"), ("ab", ""), ("", "ab")]
    keys = {key.tobytes() for texts in (TEXTS, pairs) for key in keys_of(texts)}
    assert len(keys) == len(TEXTS) + len(pairs)
    assert keys_of(["warm film"]).tobytes() == keys_of(TEXTS)[2].tobytes()


def test_ids_of_another_tokenizer_are_told():
    with pytest.raises(ValueError, match="token ids of another tokenizer"):
        decode_rows(torch.tensor([[2, 190, 3]]) * 0xC0)


def test_eight_bytes_take_one_number():
    assert len(TextCodec()("x" * 79)["input_ids"]) == 10


def test_a_codec_is_one_more_like_it_when_it_was_pickled():
    assert pickle.loads(pickle.dumps(TextCodec()))("abc")["input_ids"] == TextCodec()("abc")["input_ids"]


def test_it_has_no_table_of_tokens():
    codec = TextCodec()
    assert codec.get_vocab() == {"[PAD]": 0}
    assert (codec.vocab_size, len(codec), codec.added_tokens_decoder) == (1, 1, {})
    assert codec.convert_tokens_to_ids(["a", "b"]) == [0, 0]
    assert codec.convert_tokens_to_ids("[PAD]") == codec.pad_token_id == 0
