"""A language model scores the names of the classes as a plain loop over rows and classes does."""

import functools

import pytest
import torch
from tokenizers import decoders
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from hfdistill.teachers.text.prompted import PromptedClassifier, prompted
from tests.conftest import make_byte_tokenizer, make_sentences
from tests.teachers.text.test_teacher import train

CLASSES = ["good", "very bad", "so so", "x"]
PROMPT = "Is the film any of {classes}?\nThe review: {text}\nIt is"
CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)
TEXTS = [text for text, _ in make_sentences(12)] + ["", "naïve 😀 {text}", "I"]


def read_bytes():
    tokenizer = make_byte_tokenizer()
    tokenizer.backend_tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def language_model(kind):
    torch.manual_seed(3)
    small = {"vocab_size": 263, "num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 4}
    wide = {**small, "intermediate_size": 32, "max_position_embeddings": 512, "initializer_range": 0.3}
    if kind == "gpt2":
        sizes = {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 512, "vocab_size": 263}
        return GPT2LMHeadModel(GPT2Config(**sizes, initializer_range=0.3)).eval()
    if kind == "mistral":  # of a sliding window, shorter than the prompt
        return MistralForCausalLM(MistralConfig(**wide, num_key_value_heads=2, sliding_window=16)).eval()
    return LlamaForCausalLM(LlamaConfig(**wide, num_key_value_heads=2)).eval()


@functools.cache
@torch.no_grad()
def scores_of_a_plain_loop(kind):
    """What such a model gives to TEXTS, less what it gives to no content."""
    model = language_model(kind)
    asked = PromptedClassifier(model, read_bytes(), PROMPT, CLASSES)
    return plain_loop(model, asked, TEXTS) - plain_loop(model, asked, asked.content_free).mean(0)


def plain_loop(model, classifier, texts):
    """One forward of prompt and name for each row and class, without padding, cache or prefix."""
    found = []
    for text in texts:
        prompt = classifier.prompt_ids(text)
        row = []
        for name in classifier.names:
            logs = model(torch.tensor([prompt + name])).logits[0].log_softmax(-1)
            places = range(len(prompt) - 1, len(prompt) + len(name) - 1)
            row.append(sum(float(logs[i, token]) for i, token in zip(places, name, strict=True)) / len(name))
        found.append(row)
    return torch.tensor(found)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "mistral"])
@pytest.mark.parametrize("pad", [True, False], ids=["padded", "of one length"])
@pytest.mark.parametrize("cache_prefix", [True, False], ids=["prefix cached", "no prefix"])
@torch.no_grad()
def test_scores_are_those_of_a_plain_loop(kind, pad, cache_prefix):
    model, tokenizer = language_model(kind), read_bytes()
    asked = PromptedClassifier(model, tokenizer, PROMPT, CLASSES, pad=pad, cache_prefix=cache_prefix)
    wanted = scores_of_a_plain_loop(kind)
    torch.testing.assert_close(asked(TEXTS), wanted, atol=1e-5, rtol=0)
    assert float(wanted.std(0).min()) > 1e-3
    assert bool(asked.prefix) == (cache_prefix and kind != "mistral")


@torch.no_grad()
def test_the_prefix_is_run_once_and_padding_is_there():
    model, tokenizer = language_model("llama"), read_bytes()
    asked, shapes = PromptedClassifier(model, tokenizer, PROMPT, CLASSES), []
    model.model.register_forward_pre_hook(
        lambda _module, _args, given: shapes.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    asked(TEXTS)
    asked(TEXTS)
    assert shapes.count((1, len(asked.prefix))) == 1
    longest = max(len(asked.prompt_ids(text)) for text in TEXTS)
    assert max(width for _, width in shapes if _ > 1) == longest - len(asked.prefix)


@torch.no_grad()
def test_a_chat_template_is_used_where_there_is_one():
    model, tokenizer = language_model("llama"), read_bytes()
    tokenizer.chat_template = CHAT
    asked = PromptedClassifier(model, tokenizer, "Film: {text}", CLASSES, system="Be short.", content_free=())
    written = tokenizer.decode(asked.prompt_ids("fine"))
    assert written == "<system>Be short.</s><user>Film: fine</s><a>"
    torch.testing.assert_close(asked(TEXTS), plain_loop(model, asked, TEXTS), atol=1e-5, rtol=0)
    assert tokenizer.decode(asked.names[0]) == "good"
    plain = PromptedClassifier(model, tokenizer, "Film: {text}\nIt is", CLASSES, chat=False)
    assert tokenizer.decode(plain.names[0]) == " good"
    assert tokenizer.decode(plain.prompt_ids("fine")) == "<s>Film: fine\nIt is"


def test_a_text_that_is_too_long_is_cut_and_the_prompt_stays():
    asked = PromptedClassifier(language_model("gpt2"), read_bytes(), PROMPT, CLASSES)
    ids = asked.prompt_ids("film " * 400)
    assert len(ids) <= 512 - max(map(len, asked.names))
    assert asked.tokenizer.decode(ids).endswith("film \nIt is") or asked.tokenizer.decode(ids).endswith(
        "\nIt is"
    )
    assert len(ids) > 480


def test_pairs_have_two_places():
    prompt = "One: {text} Two: {text_pair} They are"
    asked = PromptedClassifier(language_model("gpt2"), read_bytes(), prompt, ["alike", "unlike"])
    assert asked.tokenizer.decode(asked.prompt_ids(("a", "b"))) == "<s>One: a Two: b They are"
    assert asked([("a", "b"), ("c", "d")]).shape == (2, 2)


def test_it_teaches_and_what_it_is_has_a_part_in_its_fingerprint(tmp_path):
    options = {"tokenizer": read_bytes(), "cache": tmp_path}
    classes, model = {"negative": "bad", "positive": "good"}, language_model("llama")
    one = prompted(model, PROMPT, classes, **options)
    others = [
        prompted(model, PROMPT + " all in all", classes, **options),
        prompted(model, PROMPT, {"negative": "dull", "positive": "good"}, **options),
        prompted(model, PROMPT, classes, content_free=(), **options),
        prompted(language_model("gpt2"), PROMPT, classes, **options),
    ]
    assert len({teacher.fingerprint() for teacher in (one, *others)}) == 5
    assert one.classes == ["negative", "positive"]
    assert train(one, tmp_path / "out").state.global_step == 4


def test_mistakes_are_told():
    model, tokenizer = language_model("gpt2"), read_bytes()
    with pytest.raises(ValueError, match=r"class 'a' has 2 descriptions, .* Keep one of them"):
        PromptedClassifier(model, tokenizer, PROMPT, {"a": ["one", "two"], "b": "three"})
    with pytest.raises(ValueError, match="no single place for the text"):
        PromptedClassifier(model, tokenizer, "Is it good?", CLASSES)
    with pytest.raises(ValueError, match="the same tokens"):
        PromptedClassifier(model, tokenizer, PROMPT, {"a": "good", "b": "good"})
    with pytest.raises(ValueError, match=r"The prompt alone has .* Shorten it"):
        PromptedClassifier(model, tokenizer, "so " * 300 + "{text}", CLASSES).prompt_ids("a")


def test_a_model_in_a_folder_brings_its_tokenizer_and_an_object_has_to_be_given_one(tmp_path):
    config = GPT2Config(vocab_size=300, n_embd=16, n_layer=1, n_head=2, n_positions=256)
    torch.manual_seed(0)
    model, tokenizer = GPT2LMHeadModel(config).eval(), read_bytes()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    settings = {"prompt": PROMPT, "classes": CLASSES}
    of_folder = prompted(tmp_path / "model", **settings, cache=tmp_path / "a", dtype="float32")
    of_object = prompted(model, **settings, tokenizer=tokenizer, cache=tmp_path / "b")
    torch.testing.assert_close(of_folder.logits(TEXTS[:3]), of_object.logits(TEXTS[:3]))
    with pytest.raises(ValueError, match=r"came without a tokenizer\. Type tokenizer=AutoTokenizer"):
        prompted(model, **settings)
