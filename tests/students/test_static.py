"""A weighted mean of token vectors, by hand."""

import torch

from hfdistill.students.embedding_tables import principal_components, token_outputs
from hfdistill.students.static import static_from_teacher
from tests.conftest import make_bert, make_tokenizer


def test_logits_by_hand():
    student = static_from_teacher(make_bert(1), make_tokenizer(), width=8, classifier_size=5)
    student = student.double()
    ids = torch.tensor([[2, 9, 14, 3, 0]])
    vectors, scores = student.embeddings.weight[ids[0, :4]], student.scores.weight[ids[0, :4], 0]
    mean = (scores.exp()[:, None] * vectors).sum(0) / scores.exp().sum()
    _, first, _, _, last = student.classifier
    expected = (mean @ first.weight.T + first.bias).clamp(min=0) @ last.weight.T + last.bias
    found = student(ids, attention_mask=(ids != 0).long()).logits[0]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_the_table_is_the_teachers():
    teacher, tokenizer = make_bert(2, seed=4), make_tokenizer()
    student = static_from_teacher(teacher, tokenizer, width=8)
    expected = principal_components(token_outputs(teacher, tokenizer), 8)
    assert torch.equal(student.embeddings.weight, expected)
    words, special = tokenizer.convert_tokens_to_ids(["film", "good"]), tokenizer.all_special_ids
    assert student.scores.weight[words].min() > student.scores.weight[special].max() + 5


def test_nothing_but_special_tokens_is_still_an_answer():
    student = static_from_teacher(make_bert(1), make_tokenizer(), width=8)
    for mask in ([[1, 1]], [[0, 0]]):
        assert torch.isfinite(student(torch.tensor([[2, 3]]), attention_mask=torch.tensor(mask)).logits).all()


def test_the_order_of_the_corpus_decides_nothing_and_its_counts_do():
    teacher, tokenizer = make_bert(1), make_tokenizer()
    one, two, three = (
        static_from_teacher(teacher, tokenizer, width=8, corpus=corpus).scores.weight
        for corpus in (["film good", "film"], ["film", "good film"], ["good good", "film"])
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, three)
