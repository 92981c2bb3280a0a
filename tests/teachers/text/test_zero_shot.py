"""An NLI model answers as Transformers' zero-shot pipeline does."""

import pytest
import torch
from transformers import pipeline

from hfdistill.teachers.text.zero_shot import zero_shot
from tests.conftest import PLAIN, make_bert, make_dataset, make_sentences, make_tokenizer
from tests.teachers.text.test_teacher import train

CLASSES = ["good", "very bad", "boring"]
NLI = {0: "contradiction", 1: "neutral", 2: "entailment"}
OTHER = {0: "ENTAILMENT", 1: "not_entailment"}


def nli(labels=NLI, seed=5):
    return make_bert(2, seed=seed, labels=labels)


def long_texts(rows=60):
    """Of 3 words to 90, most of which are cut at 32 tokens."""
    return [
        f"{text} {' '.join(PLAIN[: i % 15])} " * (1 + i % 4)
        for i, (text, _) in enumerate(make_sentences(rows))
    ]


def of_pipeline(model, texts, template, *, multi_label):
    ask = pipeline("zero-shot-classification", model=model, tokenizer=make_tokenizer(), device="cpu")
    found = ask(texts, CLASSES, hypothesis_template=template, multi_label=multi_label)
    return torch.tensor([[row["scores"][row["labels"].index(name)] for name in CLASSES] for row in found])


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize(("labels", "rows"), [(NLI, 60), (OTHER, 20)], ids=["three classes", "two"])
def test_it_answers_as_the_pipeline_on_many_texts(tmp_path, labels, rows, multi_label):
    template = "this film is {} ."
    texts = long_texts(rows)
    wanted = of_pipeline(nli(labels), texts, template, multi_label=multi_label)
    teacher = zero_shot(
        nli(labels),
        CLASSES,
        template=template,
        multi_label=multi_label,
        tokenizer=make_tokenizer(),
        cache=tmp_path,
    )
    torch.testing.assert_close(teacher.probabilities(texts), wanted, atol=1e-5, rtol=0)
    assert float(wanted.std(0).min()) > 3e-4  # the pipeline tells the texts apart


@pytest.mark.parametrize("multi_label", [False, True])
def test_templates_are_averaged_as_probabilities(tmp_path, multi_label):
    options = {"multi_label": multi_label, "tokenizer": make_tokenizer(), "cache": tmp_path}
    texts, templates = long_texts(6), ["it is {}", "the plot was {} and cold"]
    each = [zero_shot(nli(), CLASSES, template=t, **options).probabilities(texts) for t in templates]
    both = zero_shot(nli(), CLASSES, template=templates, **options).probabilities(texts)
    torch.testing.assert_close(both, torch.stack(each).mean(0), atol=1e-6, rtol=0)


def test_descriptions_stand_in_the_place_of_names(tmp_path):
    options = {"template": "it is {}", "tokenizer": make_tokenizer(), "cache": tmp_path}
    named = zero_shot(nli(), CLASSES, **options)
    described = zero_shot(nli(), {"up": "good", "down": "very bad", "dull": "boring"}, **options)
    texts = long_texts(4)
    assert described.classes == ["up", "down", "dull"]
    torch.testing.assert_close(described.logits(texts), named.logits(texts), atol=1e-6, rtol=0)
    several = zero_shot(nli(), {"up": ["good", "boring"], "down": "very bad"}, **options).logits(texts)
    torch.testing.assert_close(several[:, 0], named.logits(texts)[:, [0, 2]].mean(1), atol=1e-5, rtol=0)


def test_pairs_of_like_length_share_a_batch(tmp_path):
    """Padding to the longest of all pairs would take more than twice the tokens."""
    teacher = zero_shot(nli(), CLASSES, tokenizer=make_tokenizer(), cache=tmp_path)
    asked = teacher.asked.answer
    asked.batch_tokens = 128
    pairs = [(text, name) for text in (*long_texts(8), *["a film"] * 56) for name in CLASSES]
    batches = [batch["input_ids"] for _, batch in asked._batches(pairs)]
    padded, real = sum(ids.numel() for ids in batches), sum(int((ids != 0).sum()) for ids in batches)
    assert padded < 1.1 * real
    assert 64 * 3 * max(ids.shape[1] for ids in batches) > 1.5 * padded


def test_it_teaches_and_what_it_is_has_a_part_in_its_fingerprint(tmp_path):
    options = {"tokenizer": make_tokenizer(), "cache": tmp_path}
    classes = ["negative", "positive"]
    teachers = [
        zero_shot(nli(), classes, **options),
        zero_shot(nli(seed=6), classes, **options),
        zero_shot(nli(), classes, template="it was {}", **options),
        zero_shot(nli(), {"negative": "bad", "positive": "good"}, **options),
    ]
    assert len({teacher.fingerprint() for teacher in teachers}) == 4
    assert train(teachers[0], tmp_path / "out", data=make_dataset(16)).state.global_step == 4


def test_a_model_without_entailment_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"classes are 'negative', 'positive'.*called entailment"):
        zero_shot(make_bert(2), CLASSES, tokenizer=make_tokenizer(), cache=tmp_path)
    with pytest.raises(ValueError, match="without a tokenizer"):
        zero_shot(nli(), CLASSES, cache=tmp_path)
    with pytest.raises(ValueError, match="these are pairs"):
        zero_shot(nli(), CLASSES, tokenizer=make_tokenizer(), cache=tmp_path).logits([("a", "b")])
