"""Fewer tokens: what is kept reads as before to the bit, and the rest stays readable."""

import json
import logging
import re

import pytest
import torch
from datasets import Dataset, DatasetDict
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AlbertTokenizer,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertTokenizer,
    CamembertTokenizer,
    DebertaTokenizer,
    DebertaV2Tokenizer,
    MPNetTokenizer,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
    XLMRobertaTokenizer,
    pipeline,
)

from hfdistill import KD, DistillationTrainer, ModelTeacher, measure
from hfdistill.evaluation.measure import Contender
from hfdistill.students.corpus import token_counts
from hfdistill.students.subword_models import BPE
from hfdistill.students.vocabulary import prune_vocabulary
from tests.conftest import make_bert, make_dataset, make_tokenizer
from tests.network.test_architectures import TINY, tiny
from tests.students.conftest import LIKED, OTHER, SPECIAL, byte_bpe, made, suffix_bpe, unigram, wordpiece
from tests.students.test_attention_free import arguments

STRANGE = ["unquotable", "xylophone zebra", "good storytellers", "quickly! quick? 42", "brûlée café"]


def model_for(tokenizer, **options):
    return make_bert(2, vocab_size=len(tokenizer), max_position_embeddings=64, **options)


def logits(model, tokenizer, texts, **options):
    rows = tokenizer(texts, padding=True, return_tensors="pt", **options)
    with torch.no_grad():
        return model(**rows).logits


def tokens(tokenizer, text):
    return tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])


def test_kept_text_has_the_same_tokens_and_the_same_logits(any_tokenizer):
    model = model_for(any_tokenizer)
    small, tokenizer = prune_vocabulary(model, any_tokenizer, LIKED)
    assert small.config.vocab_size == len(tokenizer) < len(any_tokenizer)
    assert [tokens(tokenizer, text) for text in LIKED] == [tokens(any_tokenizer, text) for text in LIKED]
    assert torch.equal(logits(model, any_tokenizer, LIKED), logits(small, tokenizer, LIKED))
    pairs = (LIKED[:4], LIKED[4:8])
    whole, cut = (t(*pairs, padding=True, return_tensors="pt") for t in (any_tokenizer, tokenizer))
    with torch.no_grad():
        assert torch.equal(model(**whole).logits, small(**cut).logits)


def test_whatever_is_read_as_kept_tokens_reads_as_before(any_tokenizer):
    """Also for texts that were not in the corpus, whenever each of their tokens happens to be kept."""
    _, tokenizer = prune_vocabulary(
        model_for(any_tokenizer), any_tokenizer, LIKED[:12] + STRANGE[:2], keep=0.9
    )
    kept, seen = tokenizer.get_vocab().keys(), {True: 0, False: 0}
    for word in {word for text in LIKED + OTHER + STRANGE for word in text.split()}:
        before = tokens(any_tokenizer, word)
        seen[kept >= set(before)] += 1
        if kept >= set(before):
            assert tokens(tokenizer, word) == before
    assert min(seen.values()) > 10


def test_other_text_falls_back_to_smaller_pieces(any_tokenizer):
    _, tokenizer = prune_vocabulary(model_for(any_tokenizer), any_tokenizer, LIKED)
    longer = 0
    for text in OTHER + STRANGE:
        before, after = (t(text, add_special_tokens=False)["input_ids"] for t in (any_tokenizer, tokenizer))
        unknown = [ids.count(t.unk_token_id) for ids, t in ((before, any_tokenizer), (after, tokenizer))]
        assert unknown[0] == unknown[1]
        assert any_tokenizer.decode(before) == tokenizer.decode(after)
        longer += len(after) > len(before)
    assert longer > 4


def test_bytes_spell_any_text():
    old = byte_bpe()
    _, tokenizer = prune_vocabulary(model_for(old), old, LIKED)
    text = "Ω 漢字 🙂 \t tabs"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_saved_and_loaded(any_tokenizer, tmp_path):
    small, tokenizer = prune_vocabulary(model_for(any_tokenizer), any_tokenizer, LIKED)
    small.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.special_tokens_map == any_tokenizer.special_tokens_map
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(logits(small, tokenizer, OTHER), logits(again, loaded, OTHER))
    answer = pipeline("text-classification", model=str(tmp_path), device="cpu")(LIKED[0])
    assert answer[0]["label"] in ("negative", "positive")
    assert str(tmp_path) not in (tmp_path / "tokenizer_config.json").read_text()


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (wordpiece, BertTokenizer),
        (wordpiece, MPNetTokenizer),
        (byte_bpe, RobertaTokenizer),
        (byte_bpe, DebertaTokenizer),
        (unigram, XLMRobertaTokenizer),
        (unigram, AlbertTokenizer),
        (unigram, CamembertTokenizer),
        (unigram, DebertaV2Tokenizer),
    ],
)
def test_tokenizers_with_a_class_of_their_own(make, kind, tmp_path):
    """They build their pipeline themselves and add tokens behind the pieces."""
    model = json.loads(make().backend_tokenizer.to_str())["model"]
    pieces = {"vocab": model["vocab"]}
    if model["type"] == "Unigram":
        pieces["vocab"] = [tuple(entry) for entry in model["vocab"]]
    if model["type"] == "BPE":
        pieces["merges"] = [tuple(merge) for merge in model["merges"]]
    old = kind(**pieces)
    _, new = prune_vocabulary(make_bert(1, vocab_size=len(old) + 3), old, LIKED)
    new.save_pretrained(tmp_path)
    for tokenizer in (new, kind.from_pretrained(tmp_path)):
        assert type(tokenizer) is kind
        assert len(tokenizer) < len(old)
        assert [tokens(tokenizer, text) for text in LIKED] == [tokens(old, text) for text in LIKED]
        assert [tokenizer.decode(tokenizer(text)["input_ids"]) for text in OTHER] == [
            old.decode(old(text)["input_ids"]) for text in OTHER
        ]


@pytest.mark.parametrize("model_type", sorted(TINY))
@pytest.mark.parametrize("auto", [AutoModelForSequenceClassification, AutoModelForMaskedLM])
def test_every_architecture_and_tied_output_layers(model_type, auto):
    tokenizer = wordpiece()
    model = tiny(model_type, auto=auto, vocab_size=len(tokenizer), tie_word_embeddings=True)
    small, new = prune_vocabulary(model, tokenizer, LIKED)
    before = logits(model, tokenizer, LIKED, return_token_type_ids=False)
    after = logits(small, new, LIKED, return_token_type_ids=False)
    if auto is AutoModelForMaskedLM:
        rows = [tokenizer.get_vocab()[name] for name in sorted(new.get_vocab(), key=new.get_vocab().get)]
        before = before[..., rows]
        shared = [m.get_output_embeddings().weight is m.get_input_embeddings().weight for m in (model, small)]
        assert shared[0] == shared[1]
    torch.testing.assert_close(after, before, rtol=0, atol=0 if auto is not AutoModelForMaskedLM else 1e-5)
    assert small.get_input_embeddings().num_embeddings == len(new)


def test_padding_keeps_the_id_from_which_roberta_counts_positions():
    written = json.loads(wordpiece().backend_tokenizer.to_str())
    order = sorted(written["model"]["vocab"], key=lambda piece: (piece in SPECIAL, -len(piece), piece))
    order.remove("[PAD]")
    order.insert(20, "[PAD]")  # behind twenty long words, most of which go
    written["model"]["vocab"] = {piece: i for i, piece in enumerate(order)}
    written["added_tokens"] = []
    tokenizer = made(Tokenizer.from_str(json.dumps(written)))
    assert tokenizer.pad_token_id == 20
    model = tiny("roberta", vocab_size=len(tokenizer), pad_token_id=20, max_position_embeddings=80)
    small, new = prune_vocabulary(model, tokenizer, LIKED)
    assert sum(piece in new.get_vocab() for piece in order[:20]) < 20
    assert new.pad_token_id == small.config.pad_token_id == 20
    assert torch.equal(logits(model, tokenizer, LIKED), logits(small, new, LIKED))


def test_ids_in_the_config_follow():
    old = wordpiece()
    old.add_tokens(["<mention>"])
    old.add_special_tokens({"additional_special_tokens": ["<end>"]})
    ids = old.convert_tokens_to_ids(["<end>", "[MASK]"])
    model = model_for(old, bos_token_id=ids[0], eos_token_id=ids)
    small, new = prune_vocabulary(model, old, LIKED)
    moved = new.convert_tokens_to_ids(["<end>", "[MASK]"])
    assert moved[0] != ids[0]
    assert (small.config.bos_token_id, small.config.eos_token_id) == (moved[0], moved)
    assert tokens(new, "good <mention> film") == tokens(old, "good <mention> film")
    assert model.config.bos_token_id == ids[0]


def test_a_share_and_a_number():
    old = wordpiece()
    counts = token_counts(old, LIKED, size=len(old))
    sizes = {}
    for keep in (0.3, 0.8, 1.0, 120):
        _, new = prune_vocabulary(model_for(old), old, LIKED, keep=keep)
        sizes[keep] = len(new)
        covered = counts[old.convert_tokens_to_ids(list(new.get_vocab()))].sum() / counts.sum()
        if isinstance(keep, float):
            assert covered >= keep
    assert sizes[0.3] < sizes[0.8] < sizes[1.0]
    assert sizes[120] == 120
    everything = set(old.convert_ids_to_tokens(counts.nonzero().flatten().tolist()))
    _, new = prune_vocabulary(model_for(old), old, LIKED)
    assert everything <= new.get_vocab().keys()


def test_room_that_the_corpus_leaves_is_for_the_first_of_the_old_vocabulary():
    old = wordpiece()
    model = model_for(old)
    _, needed = prune_vocabulary(model, old, LIKED[:1])
    _, more = prune_vocabulary(model, old, LIKED[:1], keep=len(needed) + 5)
    assert len(more) == len(needed) + 5
    left = [name for name in old.convert_ids_to_tokens(range(len(old))) if name not in needed.get_vocab()]
    assert set(left[:5]) == more.get_vocab().keys() - needed.get_vocab().keys()
    _, whole = prune_vocabulary(model, old, LIKED[:1], keep=10 * len(old))
    assert whole.get_vocab() == old.get_vocab()


def test_places_held_free_are_not_what_room_is_for():
    words = ["[unused0]", "[unused1]", "good", "film", "plot"]
    letters = sorted({letter for word in words for letter in word})
    names = [*SPECIAL, *letters, *(f"##{letter}" for letter in letters), *words]
    core = Tokenizer(models.WordPiece({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    old = made(core)
    _, new = prune_vocabulary(model_for(old), old, ["good"], keep=len(old) - 3)
    assert new.get_vocab().keys() & {"[unused0]", "[unused1]", "film", "plot"} == {"film"}


def test_frequent_tokens_come_first():
    old = wordpiece()
    texts = ["film"] * 5 + ["story"] * 3 + ["plot"]
    _, few = prune_vocabulary(model_for(old), old, texts, keep=0.6)
    assert [word in few.get_vocab() for word in ("film", "story", "plot")] == [True, True, False]


def test_a_merge_brings_the_merges_before_it():
    model = {
        "vocab": {piece: i for i, piece in enumerate(["a", "b", "c", "ab", "bc", "abc", "ca"])},
        "merges": [["b", "c"], ["a", "b"], ["a", "bc"], ["ab", "c"], "c a"],
    }
    pieces = BPE(model)
    assert pieces.parts("abc") == {"bc", "abc"}  # b c has the lower rank, so "ab" is never made
    assert pieces.parts("ab") == {"ab"}
    cut = pieces.cut({"a": 0, "b": 1, "c": 2, "bc": 3, "abc": 4})
    assert cut["merges"] == [["b", "c"], ["a", "bc"]]


def test_words_of_characters_without_a_piece_stay_readable():
    vocabulary = [*SPECIAL, "a", "##a", "b", "##b", "##aé", "ab", "aé", "##ab"]
    core = Tokenizer(models.WordPiece({p: i for i, p in enumerate(vocabulary)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    old = made(core)
    _, new = prune_vocabulary(model_for(old), old, ["a b"])
    assert new.get_vocab().keys() == set(vocabulary) - {"ab", "##ab"}
    assert tokens(new, "baé aé") == tokens(old, "baé aé")


def test_unigram_keeps_the_price_of_the_unknown():
    old = unigram()
    pieces = json.loads(old.backend_tokenizer.to_str())["model"]["vocab"]
    _, new = prune_vocabulary(model_for(old), old, LIKED[:2])
    left = json.loads(new.backend_tokenizer.to_str())["model"]
    assert min(score for _, score in left["vocab"]) == min(score for _, score in pieces)
    assert left["vocab"][left["unk_id"]][0] == "[UNK]"


def test_corpora():
    old, pairs = suffix_bpe(), [(LIKED[0], LIKED[1]), (LIKED[2], LIKED[3])]
    rows = Dataset.from_dict(
        {"text": [a for a, _ in pairs], "text_pair": [b for _, b in pairs], "label": [0, 1]}
    )
    expected = token_counts(old, LIKED[:4], size=len(old))
    streamed, frame = rows.to_iterable_dataset(), rows.to_pandas()
    for corpus in (pairs, rows, streamed, DatasetDict(train=rows), iter(LIKED[:4]), frame, rows.data.table):
        assert torch.equal(expected, token_counts(old, corpus, size=len(old)))


def test_nothing_given_is_changed(any_tokenizer):
    model = model_for(any_tokenizer)
    config, weights = model.config.to_dict(), {n: w.clone() for n, w in model.state_dict().items()}
    written = any_tokenizer.backend_tokenizer.to_str()
    small, _ = prune_vocabulary(model.train(), any_tokenizer, LIKED)
    assert not small.training
    assert model.training
    assert model.config.to_dict() == config
    assert any_tokenizer.backend_tokenizer.to_str() == written
    assert all(torch.equal(weights[n], w) for n, w in model.state_dict().items())
    small.get_input_embeddings().weight.data.zero_()
    assert torch.equal(model.get_input_embeddings().weight, weights["bert.embeddings.word_embeddings.weight"])


def test_pruned_twice_it_keeps_its_origin():
    old = wordpiece()
    model = model_for(old)
    model.config._name_or_path = model.name_or_path = "org/teacher"
    small, new = prune_vocabulary(*prune_vocabulary(model, old, LIKED), LIKED[:1])
    assert small.config.vocabulary_pruned_from == {"model": "org/teacher", "tokens": len(old)}
    assert small.config.vocab_size == len(new)


def test_by_path_and_told(tmp_path, caplog):
    old = wordpiece()
    folder = tmp_path / "teacher"
    model_for(old).save_pretrained(folder)
    old.save_pretrained(folder)
    with caplog.at_level(logging.INFO, logger="hfdistill.students.vocabulary"):
        small, new = prune_vocabulary(folder, folder, LIKED)
    assert small.config.vocabulary_pruned_from == {"model": "teacher", "tokens": len(old)}
    assert caplog.messages[-1].startswith(
        f"Kept {len(new)} of {len(old)} tokens, 100.00 % of those in the corpus"
    )


@pytest.mark.parametrize(
    ("keep", "error", "message"),
    [
        (0, ValueError, r"keep=0 keeps no part"),
        (1.5, ValueError, r"keep=1.5 keeps no part.*Write keep=0.99"),
        (float("nan"), ValueError, r"keep=nan"),
        (True, TypeError, r"keep=True is neither"),
        ("all", TypeError, r"keep='all' is neither"),
        (20, ValueError, r"keep=20 has no room for the \d+ tokens.*Write keep=\d+ or more"),
    ],
)
def test_keeps_that_make_no_sense(keep, error, message):
    old = wordpiece()
    with pytest.raises(error, match=message):
        prune_vocabulary(model_for(old), old, LIKED, keep=keep)


def test_the_number_of_tokens_that_is_told_has_room():
    old = wordpiece()
    with pytest.raises(ValueError, match="no room") as raised:
        prune_vocabulary(model_for(old), old, LIKED, keep=20)
    told = int(re.findall(r"Write keep=(\d+)", str(raised.value))[0])
    assert told <= len(old)
    assert len(prune_vocabulary(model_for(old), old, LIKED, keep=told)[1]) <= told


@pytest.mark.parametrize(
    ("corpus", "error", "message"),
    [
        ("one text", TypeError, r"is one string.*corpus=\[text\]"),
        ([1, 2], TypeError, r"holds 1, which is neither a text nor a pair"),
        ([], ValueError, r"holds no token"),
        (Dataset.from_dict({"text": ["a", None]}), TypeError, r"holds None, which is neither"),
        (
            Dataset.from_dict({"sentence": ["a"]}),
            ValueError,
            r"columns \['sentence'\] and no 'text'.*rename_column",
        ),
    ],
)
def test_corpora_that_are_none(corpus, error, message):
    old = wordpiece()
    with pytest.raises(error, match=message):
        prune_vocabulary(model_for(old), old, corpus)


def test_tokenizers_that_cannot_be_pruned():
    old = wordpiece()
    with pytest.raises(ValueError, match=r"ids up to \d+ and the model has 10 embeddings"):
        prune_vocabulary(make_bert(1, vocab_size=10), old, LIKED)
    with pytest.raises(TypeError, match="found object"):
        prune_vocabulary(model_for(old), object(), LIKED)
    words = Tokenizer(models.WordLevel({"[CLS]": 0, "[SEP]": 1, "[UNK]": 2}, unk_token="[UNK]"))
    words = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")
    with pytest.raises(ValueError, match="of kind 'WordLevel'"):
        prune_vocabulary(model_for(old), words, LIKED)
    odd = {"vocab": {"a": 0}, "merges": [], "continuing_subword_prefix": "##"}
    with pytest.raises(ValueError, match="start with '##'"):
        BPE(odd)


def test_a_student_with_fewer_words_learns_from_a_teacher_with_all(tmp_path):
    old, data = wordpiece(), make_dataset(32)
    teacher = make_bert(3, seed=1, vocab_size=len(old))
    teacher.classifier.weight.data.mul_(8)
    student, new = prune_vocabulary(make_bert(1, seed=2, vocab_size=len(old)), old, LIKED, keep=0.8)
    before = {name: weight.clone() for name, weight in teacher.state_dict().items()}
    trainer = DistillationTrainer(
        student,
        arguments(tmp_path, num_train_epochs=10),
        teacher=ModelTeacher(teacher, tokenizer=old),
        train_dataset=data,
        objective=KD(temperature=2),
        processing_class=new,
    )
    both = {"teacher": Contender(teacher, tokenizer=old), "speed": None}
    untrained = measure(Contender(student, tokenizer=new), data, **both).student.fidelity["agreement"]
    trainer.train()
    assert all(torch.equal(before[name], weight) for name, weight in teacher.state_dict().items())
    trained = measure(Contender(student, tokenizer=new), data, **both).student.fidelity["agreement"]
    assert trained > max(0.8, untrained)


def test_a_corpus_of_rows_counts_the_text_columns_of_each():
    tokenizer = make_tokenizer()
    rows = [{"text": "good film", "text_pair": "film", "label": 1}, ("good", "plot"), "plot"]
    counts = token_counts(tokenizer, rows, size=len(tokenizer))
    ids = tokenizer.convert_tokens_to_ids(["good", "film", "plot"])
    assert counts[ids].tolist() == [2, 2, 2]
    assert counts.sum() == 6
    assert torch.equal(token_counts(tokenizer, {"a": rows[:1], "b": rows[1:]}, size=len(tokenizer)), counts)
    with pytest.raises(TypeError, match=r"holds \[\], which is neither a text nor a pair of texts"):
        token_counts(tokenizer, [{"label": 1}], size=len(tokenizer))


def test_a_table_that_its_config_does_not_count_is_refused():
    model = make_bert(1)
    rows = model.config.vocab_size
    model.config.vocab_size = rows + 2
    with pytest.raises(
        ValueError, match=rf"has {rows} rows .* says {rows + 2}.*resize_token_embeddings\({rows}\)"
    ):
        prune_vocabulary(model, make_tokenizer(), ["good film"])
