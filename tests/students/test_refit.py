"""What is kept of a teacher, fitted to the whole of it."""

import copy
import gc
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForTokenClassification

from hfdistill import Refit, register_anatomy
from hfdistill.network.architectures import Layout
from hfdistill.students import refit as refitting
from hfdistill.students.activations import Place, read
from hfdistill.students.least_squares import NormalEquations
from hfdistill.students.refit import answer_error
from hfdistill.students.refit_search import best_layers
from hfdistill.students.refit_steps import Cut, Group, block_steps, head_steps, reads_first_token
from hfdistill.students.shrink import shrink
from tests.conftest import make_bert, make_dataset, make_sentences
from tests.network.test_architectures import TINY, batch, tiny

FITTED = sorted(set(TINY) - {"albert"})
REAL = Path(__file__).parents[2].parent / "shared/models/minilm-l6-sst2"


def texts(count=10, rows=32, *, padding=0):
    """Batches of random ids, a quarter of the rows full, the others padded; and more padding where asked."""
    generator, batches = torch.Generator().manual_seed(3), []
    for number in range(count):
        tokens = 7 + number % 5
        ids = torch.randint(4, 40, (rows, tokens), generator=generator)
        mask = (torch.arange(tokens) < tokens - torch.arange(rows)[:, None] % 4).long()
        ids, mask = (torch.nn.functional.pad(value, (0, padding)) for value in (ids * mask, mask))
        batches.append({"input_ids": ids, "attention_mask": mask})
    return batches


TEXTS = texts()
FEW = TEXTS[:3]


@pytest.mark.parametrize("model_type", FITTED)
def test_no_step_leaves_more_and_the_answers_come_nearer(model_type, caplog):
    teacher = tiny(model_type)
    before = copy.deepcopy(teacher.state_dict())
    with caplog.at_level(logging.INFO, logger="hfdistill.students.refit"):
        fitted = shrink(teacher, layers=2, fit=TEXTS[:6])
    lines = [record.args for record in caplog.records if record.name == "hfdistill.students.refit"]
    assert len(lines) >= 8
    assert all(after <= error for _name, error, after, _ridge in lines)
    fresh = texts(3)[:2]
    assert answer_error(fitted, teacher, fresh) < 0.6 * answer_error(
        shrink(teacher, layers=2), teacher, fresh
    )
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert fitted.config.shrunk_from["fitted_on"] == 192


@pytest.mark.parametrize("model_type", FITTED)
def test_where_nothing_was_cut_the_logits_stay(model_type):
    teacher = tiny(model_type)
    fitted = shrink(teacher, layers=5, fit=Refit(TEXTS[:2], ridge=1e-3, sweeps=2))
    with torch.no_grad():
        torch.testing.assert_close(fitted(**batch()).logits, teacher(**batch()).logits, rtol=0, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("cut", [{"layers": 2}, {"ffn": 8, "data": FEW}])
def test_a_fit_on_a_gpu_is_that_of_the_cpu(cut, monkeypatch):
    """Sums stay on the device, in float64; what differs is the rounding of the forward passes."""
    places, add = set(), NormalEquations.add

    def watched(self, *rows):
        places.add(self.gram.device.type)
        add(self, *rows)

    monkeypatch.setattr(NormalEquations, "add", watched)
    here = shrink(tiny("bert"), **cut, fit=Refit(TEXTS, ridge=1e-2))
    assert places == {"cpu"}
    there = shrink(tiny("bert").cuda(), **cut, fit=Refit(TEXTS, ridge=1e-2))
    assert places == {"cpu", "cuda"}
    assert there.device.type == "cuda"
    for (name, one), two in zip(here.state_dict().items(), there.state_dict().values(), strict=True):
        torch.testing.assert_close(
            one, two.cpu(), rtol=1e-3, atol=1e-3, msg=lambda m, name=name: f"{name}: {m}"
        )


def test_the_weights_are_those_of_a_dense_ridge_in_float64():
    """Attention output, feed-forward output and classifier of one block, on stacked activations."""
    teacher = tiny("bert").double()
    plain = shrink(teacher, layers=[2], dtype=torch.float64)
    expected = copy.deepcopy(plain)
    refitting.refit(plain, teacher, Cut([2]), Refit(TEXTS, ridge=1e-3), (TEXTS[:8], TEXTS[8:]))
    block, base = "bert.encoder.layer.0.", "bert.encoder.layer."
    inner = [f"attention.self.{name}" for name in ("query", "key", "value")]
    steps = [(f"{block}{name}", f"{base}1.{name}", "output", None) for name in inner]
    steps += [
        (
            f"{block}attention.output.dense",
            f"{base}4.attention.output.LayerNorm",
            "input",
            "attention.output.LayerNorm",
        ),
        (f"{block}intermediate.dense", f"{base}1.intermediate.dense", "output", None),
        (f"{block}output.dense", f"{base}4.output.LayerNorm", "input", "output.LayerNorm"),
        ("bert.pooler.dense", "bert.pooler.dense", "output", None),
        ("classifier", "classifier", "output", None),
    ]
    for module, target, side, norm in steps:
        own = Place(f"{block}{norm}", "input") if norm else Place(module, "output")
        features, present, wanted = [], [], []
        for inputs in TEXTS:
            values = [
                *read(expected, inputs, [Place(module, "input"), own]),
                *read(teacher, inputs, [Place(target, side)]),
            ]
            real = inputs["attention_mask"].bool() if values[0].dim() == 3 else slice(None)
            for stack, value in zip((features, present, wanted), values, strict=True):
                stack.append(value[real].numpy())
        left = np.concatenate(features)
        left = np.hstack([left, np.ones((len(left), 1))])
        right = np.concatenate(wanted) - np.concatenate(present)
        penalty = 1e-3 * np.square(left).sum(0).mean()
        stacked = np.vstack([left, np.sqrt(penalty) * np.eye(left.shape[1])])
        change = np.linalg.lstsq(
            stacked, np.vstack([right, np.zeros((left.shape[1], right.shape[1]))]), rcond=None
        )[0]
        layer = expected.get_submodule(module)
        layer.weight.data += torch.from_numpy(change[:-1].T.copy())
        layer.bias.data += torch.from_numpy(change[-1].copy())
        for name in ("weight", "bias"):
            torch.testing.assert_close(
                getattr(plain.get_submodule(module), name), getattr(layer, name), rtol=0, atol=1e-8
            )


def test_padding_counts_nothing():
    teacher = tiny("bert")
    short, long = (shrink(teacher, layers=2, fit=Refit(t, ridge=1e-2)) for t in (FEW, texts(3, padding=5)))
    for name, value in short.state_dict().items():
        torch.testing.assert_close(value, long.state_dict()[name], rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize(
    ("model_type", "cut"),
    [
        *(
            (name, {"width": 8, "ffn": 20, "layers": 3})
            for name in ("bert", "deberta-v2", "modernbert", "mpnet")
        ),
        ("distilbert", {"width": 8}),
        ("electra", {"ffn": 12}),
        ("modernbert", {"ffn": 12}),
        ("roberta", {"heads": 1}),
    ],
    ids=str,
)
def test_what_is_behind_a_cut_is_fitted(model_type, cut):
    teacher, data = tiny(model_type), FEW
    copied, fitted = shrink(teacher, **cut, data=data), shrink(teacher, **cut, data=data, fit=TEXTS[:6])
    assert copied.config.shrunk_from == {
        k: v for k, v in fitted.config.shrunk_from.items() if k != "fitted_on"
    }
    fresh = texts(3)[:2]
    assert answer_error(fitted, teacher, fresh) < 0.7 * answer_error(copied, teacher, fresh)


def test_the_texts_serve_for_importance_too():
    fitted = shrink(tiny("bert"), ffn=12, fit=FEW)
    assert fitted.config.intermediate_size == 12


def test_the_memory_does_not_grow_with_the_texts(monkeypatch):
    """Bytes of live tensors while sums are made, with nothing held to save time."""
    monkeypatch.setattr(refitting, "MEMORY", 0)
    add, peaks = NormalEquations.add, []
    for count in (1, 4):
        many, before, seen = [dict(inputs) for inputs in texts(5, rows=8) * count], live_bytes(), []

        def watched(self, *args, seen=seen, before=before):
            add(self, *args)
            if len(self.gram) == 33:  # 32 neurons and the bias
                seen.append(live_bytes() - before)

        monkeypatch.setattr(NormalEquations, "add", watched)
        shrink(tiny("bert"), layers=[2], fit=many)
        peaks.append(max(seen))
    assert 0 < peaks[1] <= 1.02 * peaks[0]


def live_bytes():
    gc.collect()  # what an earlier run left in cycles is no memory of this one
    tensors = [value for value in gc.get_objects() if issubclass(type(value), torch.Tensor)]
    return sum(value.numel() * value.element_size() for value in tensors)


def test_what_is_not_held_is_read_again(monkeypatch):
    teacher = tiny("bert")
    held = shrink(teacher, layers=2, fit=FEW)
    monkeypatch.setattr(refitting, "MEMORY", 0)
    again = shrink(teacher, layers=2, fit=FEW)
    assert all(torch.equal(v, again.state_dict()[n]) for n, v in held.state_dict().items())


def test_nothing_is_drawn_at_random(tokenizer):
    teacher, state = make_bert(4, seed=1), torch.get_rng_state()
    many = [text for text, _label in make_sentences(60)]
    one, two = (shrink(teacher, layers=2, fit=Refit(many, rows=40), tokenizer=tokenizer) for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())
    assert one.config.shrunk_from["fitted_on"] == 40


def test_the_last_block_reaches_the_last_depth():
    student, teacher = (tiny("bert") for _ in range(2))
    steps = block_steps(shrink(student, layers=[1, 3]), teacher, Cut([1, 3]), batch())
    sums = [
        step.parts[0].target.module
        for group in steps
        for step in group.steps
        if step.name.endswith("output.dense")
    ]
    assert sums == [
        "bert.encoder.layer.0.attention.output.LayerNorm",
        "bert.encoder.layer.0.output.LayerNorm",
        "bert.encoder.layer.4.attention.output.LayerNorm",
        "bert.encoder.layer.4.output.LayerNorm",
    ]


def test_mobileberts_value_is_fitted_apart_from_its_query():
    teacher = tiny("mobilebert")
    first = block_steps(shrink(teacher, layers=[2]), teacher, Cut([2]), batch())[0].steps
    assert [[part.module.rsplit(".", 1)[-1] for part in step.parts] for step in first[:2]] == [
        ["query", "key"],
        ["value"],
    ]


@pytest.mark.parametrize(
    ("model_type", "options", "first"),
    [
        ("bert", {}, True),
        ("roberta", {}, True),
        ("distilbert", {}, True),
        ("deberta", {}, True),
        ("modernbert", {"classifier_pooling": "cls"}, True),
        ("modernbert", {"classifier_pooling": "mean"}, False),
        ("bert", {"auto": AutoModelForTokenClassification}, False),
    ],
)
def test_whether_the_head_reads_the_first_token(model_type, options, first):
    teacher = tiny(model_type, **options)
    student = shrink(teacher, layers=2)
    steps = head_steps(student, teacher, Cut([3, 5]), batch())
    assert steps.steps[-1].name in ("classifier", "classifier.out_proj")
    assert reads_first_token(student, steps, batch()) == first
    heavy, light = (shrink(teacher, layers=2, fit=Refit(FEW, first_token=w)) for w in (50.0, 1.0))
    same = all(torch.equal(v, light.state_dict()[n]) for n, v in heavy.state_dict().items())
    assert same != first


def test_the_blocks_that_leave_least_are_chosen():
    """Two blocks of a pre-norm teacher do nothing: the others are kept."""
    teacher = tiny("modernbert")
    for number in (2, 3):
        for name in ("attn.Wo", "mlp.Wo"):
            teacher.model.layers[number].get_submodule(name).weight.data.zero_()
    chosen = shrink(teacher, layers=3, fit=Refit(FEW, choose_layers=True))
    assert chosen.config.shrunk_from["layers"] == [1, 2, 5]
    with torch.no_grad():
        torch.testing.assert_close(chosen(**batch()).logits, teacher(**batch()).logits, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match=r"found layers=\[1, 2\].*Write layers=3"):
        shrink(teacher, layers=[1, 2], fit=Refit(FEW, choose_layers=True))


def test_an_encoder_without_a_head():
    teacher = tiny("bert").bert
    fitted = shrink(teacher, layers=2, fit=TEXTS)
    copied = shrink(teacher, layers=2)
    errors = [answer_error(model, teacher, TEXTS[:2]) for model in (fitted, copied)]
    assert errors[0] < 0.5 * errors[1]


@pytest.mark.parametrize(
    "kind", ["list", "pairs", "dataset", "sentence", "file", "parquet", "splits", "words", "frame"]
)
def test_texts_of_every_kind(kind, tokenizer, tmp_path):
    rows = make_dataset(40)
    strings = list(rows["text"][:])
    (tmp_path / "texts.txt").write_text("\n".join(f"{text} {number}" for number, text in enumerate(strings)))
    rows.to_parquet(tmp_path / "rows.parquet")
    source = {
        "list": strings,
        "pairs": [(text, "a film") for text in strings],
        "dataset": rows,
        "sentence": rows.rename_column("text", "sentence"),
        "file": tmp_path / "texts.txt",
        "parquet": str(tmp_path / "rows.parquet"),
        "splits": {"train": rows},
        "frame": rows.to_pandas(),
        "words": rows.map(lambda row: {"tokens": row["text"].split()}).remove_columns("text"),
    }[kind]
    fitted = shrink(make_bert(4, seed=1), layers=2, fit=source, tokenizer=tokenizer)
    assert fitted.config.shrunk_from["fitted_on"] == 40


def test_pairs_that_lack_a_text_are_left_out(tokenizer):
    texts = [text for text, _label in make_sentences(40)]
    pairs = Dataset.from_dict({"text": texts, "text_pair": ["a film", None] * 20})
    fitted = shrink(make_bert(4, seed=1), layers=2, fit=pairs, tokenizer=tokenizer)
    assert fitted.config.shrunk_from["fitted_on"] == 20


def test_the_tokenizer_beside_the_teacher_is_used(tokenizer, tmp_path):
    make_bert(4, seed=1).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    many = [text for text, _label in make_sentences(40)]
    assert shrink(tmp_path, layers=2, fit=many).config.shrunk_from["fitted_on"] == 40


@pytest.mark.parametrize("count", [1, 2, 4])
def test_few_batches_are_split_too(count, caplog):
    with caplog.at_level(logging.INFO):
        fitted = shrink(tiny("bert"), layers=2, fit=TEXTS[:count])
    assert all(value.isfinite().all() for value in fitted.state_dict().values())
    errors = [record.args[1:3] for record in caplog.records if record.name == "hfdistill.students.refit"]
    assert len(errors) >= 8
    assert all(math.isfinite(error) and after <= error for error, after in errors)


def test_one_batch_of_few_rows_is_refused():
    rows = {name: value[:3] for name, value in TEXTS[0].items()}
    with pytest.raises(ValueError, match=r"one batch of 3 rows.*some hundred"):
        shrink(tiny("bert"), layers=2, fit=[rows])


def test_the_type_is_that_which_was_asked_for():
    assert shrink(tiny("bert"), layers=2, fit=FEW, dtype=torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (["a film"], ValueError, r"holds 1 texts.*some hundred texts"),
        (["a film"] * 20 + [3], TypeError, r"holds 3, which is neither a text nor a pair.*Pass strings"),
        (3, TypeError, r"holds 3, which is neither"),
    ],
)
def test_texts_that_are_none(source, error, message, tokenizer):
    with pytest.raises(error, match=message):
        shrink(make_bert(2), layers=1, fit=source, tokenizer=tokenizer)


def test_texts_without_a_tokenizer():
    with pytest.raises(ValueError, match=r"no tokenizer to read them with. Pass tokenizer="):
        shrink(make_bert(2), layers=1, fit=["a film"] * 20)


def test_shared_layers_are_refused():
    with pytest.raises(ValueError, match=r"albert: ALBERT repeats one group.*Leave fit= away"):
        shrink(tiny("albert"), layers=2, fit=TEXTS)


def test_a_layout_without_sums_is_refused(monkeypatch):
    monkeypatch.setattr("hfdistill.network.architectures._LAYOUTS", {})
    register_anatomy("bert", Layout(blocks="encoder.layer"))
    with pytest.raises(ValueError, match=r"does not say where its sums end.*Layout\(\.\.\., sums="):
        shrink(tiny("bert"), layers=2, fit=TEXTS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ridge": -1}, "Write 0 or more"),
        ({"ridge": "small"}, "ridge='held_out'"),
        ({"sweeps": 0}, "Write sweeps=1"),
        ({"first_token": 0}, "such as 10"),
        ({"rows": 0}, "rows=1500"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        Refit(["a"], **options)


def test_the_best_blocks_are_looked_for_one_by_one_where_choices_are_many():
    tried = []

    def error(layers):
        tried.append(list(layers))
        return abs(sum(layers) - 30) + 0.01 * len(layers)

    assert best_layers(error, depth=12, count=6, anchored=True)[0] == 1
    assert {len(layers) for layers in tried} == {11, 10, 9, 8, 7, 6}
    assert all(layers[0] == 1 for layers in tried)
    assert len(tried) == 11 + 10 + 9 + 8 + 7 + 6
    tried.clear()
    assert best_layers(error, depth=4, count=4) == [1, 2, 3, 4]
    assert tried == []  # there is one choice


@pytest.mark.parametrize("count", [0, 5, True, "2"])
def test_a_count_of_blocks_that_there_are_not_is_refused(count):
    with pytest.raises(ValueError, match=r"found layers=.* for a teacher of 4. Write layers=3"):
        best_layers(sum, depth=4, count=count)


def test_a_head_without_a_layer_reads_no_token():
    assert not reads_first_token(make_bert(1), Group((), student=1, teacher=2), batch())
