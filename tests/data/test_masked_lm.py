"""Words replaced by what a masked language model would put there."""

from random import Random

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import BertForMaskedLM, PreTrainedTokenizerFast, RobertaForMaskedLM

from hfdistill.data import MaskedLM, augment
from tests.conftest import SPECIAL, make_bert, make_byte_tokenizer, make_dataset, make_roberta, make_tokenizer


def make_model(seed=0):
    config = make_bert(2).config
    torch.manual_seed(seed)
    return BertForMaskedLM(config).eval()


def make_way(**options):
    return MaskedLM(make_model(), make_tokenizer(), **{"candidates": 4, **options})


def test_candidates_are_those_of_one_forward_a_word_by_hand():
    """[CLS] masked [SEP] original [SEP], the likeliest words at the mask but for the word itself."""
    model, tokenizer = make_model(), make_tokenizer()
    ((text, slots),) = make_way(stop_words=["the"]).prepare(["the Film, warm"])
    assert [text[slot.start : slot.end] for slot in slots] == ["Film", "warm"]
    for slot, masked in zip(slots, ["the [MASK], warm", "the Film, [MASK]"], strict=True):
        ids = tokenizer(masked, text, return_tensors="pt")
        at = int((ids["input_ids"][0] == tokenizer.mask_token_id).nonzero())
        order = model(**ids).logits[0, at].argsort(descending=True).tolist()
        words = [tokenizer.convert_ids_to_tokens(n) for n in order]
        own = text[slot.start : slot.end].lower()
        assert slot.candidates == [word for word in words if word not in (*SPECIAL, own)][:4]


def test_candidates_do_not_depend_on_what_else_is_in_the_batch():
    texts = make_dataset(12)["text"][:]
    together = make_way(batch_size=64).prepare(texts)
    assert together == [make_way(batch_size=1).prepare([text])[0] for text in texts]


def test_a_word_is_replaced_with_probability_p_and_keeps_its_capital():
    way = make_way(p=0.3, stop_words=[])
    prepared = way.prepare(["Good film warm plot dull cast"])[0]
    drawn = [way.draw(prepared, random=Random(seed), copy=0).split() for seed in range(400)]
    assert all(len(words) == 6 and words[0][0].isupper() for words in drawn)
    changed = sum(a != b for words in drawn for a, b in zip(words, prepared[0].split(), strict=True))
    assert changed / 2400 == pytest.approx(0.3, abs=0.04)  # four standard errors
    assert make_way(p=1.0, stop_words=[]).draw(prepared, random=Random(0), copy=0).split()[0] != "Good"


def test_no_special_token_becomes_text():
    new = augment(make_dataset(), make_way(p=1.0, candidates=50, stop_words=[]), copies=5)["text"][32:]
    assert len(new) > 32
    assert not {word for text in new for word in text.split()} & set(SPECIAL)


def test_byte_level_pieces_that_begin_no_word_are_no_candidates():
    model = RobertaForMaskedLM(make_roberta(2).config)
    with pytest.raises(ValueError, match="is a whole word"):
        MaskedLM(model, make_byte_tokenizer())
    core = models.BPE({"<mask>": 0, "Ġ": 1, "Ġgood": 2, "ood": 3, "Ġ4": 4}, [])
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(core), mask_token="<mask>")
    assert MaskedLM(model, words)._words == {2: "good"}


def test_letters_by_which_other_tokenizers_mark_a_word_are_letters_of_wordpiece():
    """Ġ is a letter of Maltese, and multilingual vocabularies hold it."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, "film", "##s", "Ġ", "▁"])}
    core = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, mask_token="[MASK]", pad_token="[PAD]")
    assert set(MaskedLM(make_model(), tokenizer)._words.values()) >= {"film", "Ġ"}


def test_a_text_that_is_too_long_keeps_the_words_that_the_model_does_not_see():
    ((text, slots),) = make_way(stop_words=[]).prepare([" ".join(["film"] * 60)])
    assert slots
    assert max(slot.end for slot in slots) < len(text)


def test_other_weights_are_another_fingerprint_and_other_rows():
    one, same, other = (MaskedLM(make_model(seed), make_tokenizer()) for seed in (0, 0, 5))
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()
    assert make_way(p=0.5).fingerprint() != make_way().fingerprint() != make_way(stop_words=[]).fingerprint()
    rows = make_dataset(8)
    assert augment(rows, one)["text"][:] == augment(rows, same)["text"][:] != augment(rows, other)["text"][:]
    with torch.no_grad():
        one.model.bert.embeddings.word_embeddings.weight.zero_()
    assert one.fingerprint() != same.fingerprint()


def test_what_is_no_fill_mask_model_is_refused(tmp_path):
    make_bert(2).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds no fill-mask model"):
        MaskedLM(tmp_path)
    make_model().save_pretrained(tmp_path)
    assert MaskedLM(str(tmp_path)).fingerprint() == MaskedLM(make_model(), make_tokenizer()).fingerprint()
    with pytest.raises(ValueError, match="without its tokenizer"):
        MaskedLM(make_model())
    bare = make_tokenizer()
    bare.mask_token = None
    with pytest.raises(ValueError, match="no mask token"):
        MaskedLM(make_model(), bare)
    with pytest.raises(ValueError, match="1 or more"):
        make_way(candidates=0)
