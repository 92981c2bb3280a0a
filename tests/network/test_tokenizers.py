"""Whether two tokenizers make the same ids of a text, and what they differ in."""

import pytest
from tokenizers import normalizers, pre_tokenizers

from hfdistill.network.tokenizers import difference, tokenizer_print
from tests.conftest import make_byte_tokenizer, make_tokenizer


def changed(**parts):
    tokenizer = make_tokenizer()
    for name, part in parts.items():
        setattr(tokenizer.backend_tokenizer, name, part)
    return tokenizer


def shuffled():
    """The same words and as many, with two ids swapped."""
    from tokenizers import Tokenizer

    text = make_tokenizer().backend_tokenizer.to_str()
    text = text.replace('"good":5,', '"good":6,').replace('"great":6,', '"great":5,')
    tokenizer = make_tokenizer()
    tokenizer._tokenizer = Tokenizer.from_str(text)
    return tokenizer


def padded_elsewhere():
    tokenizer = make_tokenizer()
    tokenizer.pad_token = "[MASK]"  # noqa: S105 - no password
    return tokenizer


def test_a_tokenizer_is_like_itself_wherever_it_comes_from(tmp_path):
    from transformers import AutoTokenizer

    make_tokenizer().save_pretrained(tmp_path)
    for other in (make_tokenizer(), AutoTokenizer.from_pretrained(tmp_path)):
        assert difference(make_tokenizer(), other) is None
        assert tokenizer_print(make_tokenizer()) == tokenizer_print(other)


def test_limits_and_what_was_tokenised_before_make_no_difference():
    other = make_tokenizer()
    other.model_max_length, other.padding_side = 8, "left"
    other(["good film", "bad"], truncation=True, max_length=4, padding=True)
    assert difference(make_tokenizer(), other) is None
    assert tokenizer_print(make_tokenizer()) == tokenizer_print(other)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (make_byte_tokenizer(), r"'\[PAD\]' has id 0 in the student's and no id in the teacher's"),
        (shuffled(), "'good' has id 5 in the student's and id 6 in the teacher's"),
        (padded_elsewhere(), "padding has id 0 in the student's and 4 in the teacher's"),
        (changed(normalizer=normalizers.BertNormalizer(lowercase=False)), "another normalizer"),
        (changed(pre_tokenizer=pre_tokenizers.Whitespace()), "another pre_tokenizer"),
        (changed(post_processor=None), "is .* in the student's and .* in the teacher's"),
    ],
)
def test_the_first_difference_is_named(other, words):
    from re import search

    assert search(words, difference(make_tokenizer(), other))
    assert tokenizer_print(other) != tokenizer_print(make_tokenizer()) or "padding" in words


def test_words_that_one_alone_has_are_a_difference():
    more = make_tokenizer()
    more.add_tokens(["film-noir"])
    assert difference(make_tokenizer(), more) == "the student's has 36 tokens, the teacher's 37"
    assert "no id in the teacher's" in difference(more, make_tokenizer())
