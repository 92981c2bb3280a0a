"""Filters over windows of tokens, computed window by window."""

import numpy as np
import pytest
import torch

from hfdistill.students.cnn import CNNForSequenceClassification, cnn_from_teacher
from hfdistill.students.configs import CNNConfig
from tests.conftest import make_bert, make_tokenizer


def small(**options):
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "embedding_size": 6, "windows": (2, 3), "filters": 4, "classifier_size": 5}
    return CNNForSequenceClassification(CNNConfig(**{**sizes, "sep_token_id": 3, **options})).eval().double()


def strongest(model, ids):
    """The feature of one text: every window a product of its own, zeros outside the text."""
    vectors = [model.embeddings.weight[token] for token in ids]
    features = []
    for filters in model.filters:
        width = filters.kernel_size[0]
        before = [torch.zeros(6, dtype=torch.float64)] * ((width - 1) // 2)
        padded = [*before, *vectors, *[torch.zeros(6, dtype=torch.float64)] * (width // 2)]
        answers = []
        for start in range(len(ids)):
            window = torch.stack(padded[start : start + width], dim=1)  # (E, width), as the weights
            answers.append((filters.weight * window).sum((1, 2)) + filters.bias)
        features.append(torch.stack(answers).relu().max(0).values)
    return torch.cat(features)


def test_window_by_window():
    model = small()
    ids = torch.tensor([[2, 9, 14, 3, 0, 0], [2, 9, 14, 8, 7, 3]])
    with torch.no_grad():
        logits = model(ids, attention_mask=(ids != 0).long()).logits
        expected = [model.classifier(strongest(model, text)) for text in ([2, 9, 14, 3], [2, 9, 14, 8, 7, 3])]
    torch.testing.assert_close(logits, torch.stack(expected), rtol=0, atol=1e-12)


def test_windows_end_at_the_texts_of_a_pair():
    model = small(pairs=True)
    ids = torch.tensor([[2, 9, 3, 14, 8, 3, 0]])
    with torch.no_grad():
        logits = model(ids, attention_mask=(ids != 0).long()).logits
        one, two = strongest(model, [2, 9, 3]), strongest(model, [14, 8, 3])
        expected = model.classifier(torch.cat([one, two, one * two, (one - two).abs()]))
    torch.testing.assert_close(logits[0], expected, rtol=0, atol=1e-12)


def test_a_text_shorter_than_a_window():
    model = small(windows=(5,))
    ids = torch.tensor([[9]])
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits[0], model.classifier(strongest(model, [9])))


def test_sizes_from_the_teacher():
    teacher, tokenizer = make_bert(1), make_tokenizer()
    student = cnn_from_teacher(teacher, tokenizer, embedding_size=5, windows=(1, 2), filters=7)
    assert student.get_input_embeddings().weight.shape == (len(tokenizer), 5)
    assert [filters.weight.shape for filters in student.filters] == [(7, 5, 1), (7, 5, 2)]
    assert student.classifier[1].in_features == 14


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embedding_size": 17}, "has 16 principal components"),
        ({"windows": ()}, "should name widths from 1"),
        ({"windows": (3, 0)}, "should name widths from 1"),
        ({"windows": 3}, "windows=3 should name widths from 1"),
        ({"windows": (2.5,)}, "should name widths from 1"),
        ({"filters": 0}, "filters=0 leaves nothing to learn"),
    ],
)
def test_sizes_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        cnn_from_teacher(make_bert(1), make_tokenizer(), **options)


def test_windows_and_widths_of_numpy_are_saved_as_numbers(tmp_path):
    options = {"windows": np.array([2, 3]), "embedding_size": np.int64(8)}
    student = cnn_from_teacher(make_bert(), make_tokenizer(), **options)
    student.save_pretrained(tmp_path)
    config = CNNConfig.from_pretrained(tmp_path)
    assert (list(config.windows), config.embedding_size) == ([2, 3], 8)
