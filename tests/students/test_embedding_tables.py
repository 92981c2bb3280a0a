"""Tables from a teacher, against linear algebra done otherwise."""

import pytest
import torch

from hfdistill.students.embedding_tables import importance_of_tokens, principal_components, token_outputs
from tests.conftest import make_bert, make_tokenizer
from tests.students.conftest import byte_bpe


def table(rows=60, width=12):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, width, generator=generator) @ torch.diag(torch.linspace(3, 0.1, width)) + 5


def test_principal_components_are_those_of_the_singular_values():
    rows = table().double()
    left, sizes, _ = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    expected = left[:, :4] * sizes[:4]
    found = principal_components(table(), 4)
    expected = expected / expected.square().mean().sqrt()
    torch.testing.assert_close(found.double().abs(), expected.abs(), rtol=1e-4, atol=1e-4)
    assert torch.equal(found, principal_components(table(), 4))


def test_all_components_keep_all_distances():
    found = principal_components(table(), 12)
    ratio = torch.pdist(found) / torch.pdist(table())
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-4, atol=0)
    assert found.square().mean().item() == pytest.approx(1)


@pytest.mark.parametrize("width", [0, 13, True, 2.0])
def test_more_components_than_there_are(width):
    with pytest.raises(ValueError, match=r"has 12 principal components.*Choose one from 1 to 12"):
        principal_components(table(), width)


def test_a_tokens_output_is_the_mean_over_its_frame():
    teacher, tokenizer = make_bert(2, seed=3).train(), make_tokenizer()
    made = token_outputs(teacher, tokenizer)
    assert teacher.training
    with torch.no_grad():
        hidden = teacher.eval().bert(torch.tensor([[2, 9, 3]])).last_hidden_state[0]
    torch.testing.assert_close(made[9], hidden.mean(0))
    assert made.shape == (len(tokenizer), 16)
    assert not made.is_inference()


def test_rare_tokens_weigh_more_and_special_ones_nothing():
    tokenizer = make_tokenizer()
    size = len(tokenizer)
    film, dull, good = tokenizer.convert_tokens_to_ids(["film", "dull", "good"])
    weights = importance_of_tokens(tokenizer, ["film film film dull"], size=size)
    assert weights[film] < weights[dull] < weights[good]
    assert weights[film].item() == pytest.approx(1e-3 / (1e-3 + 4 / (4 + size)), rel=1e-5)
    assert weights[tokenizer.all_special_ids].max() < 1e-6
    zipf = importance_of_tokens(tokenizer, None, size=size)
    assert (zipf[len(tokenizer.all_special_ids) :].diff() > 0).all()


def test_a_tokenizer_of_bytes():
    tokenizer = byte_bpe()
    made = token_outputs(make_bert(1, vocab_size=len(tokenizer)), tokenizer)
    assert made.shape == (len(tokenizer), 16)
    assert torch.isfinite(made).all()
