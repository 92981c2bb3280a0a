"""Two processes give what one gives, for numbers of rows that divide and that do not."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import make_bert, make_tokenizer
from tests.distributed import worker


@pytest.fixture(scope="module")
def outcomes(folders):
    return {
        processes: (
            load_file(folder / "training" / "tensors.safetensors"),
            json.loads((folder / "training" / "facts.json").read_text()),
        )
        for processes, folder in folders.items()
    }


CASES = [f"{rows} {kind}" for rows, kind in worker.CASES]


@pytest.mark.distributed
@pytest.mark.parametrize("case", CASES)
def test_gradients_and_weights_are_those_of_one_process(outcomes, case):
    one, two = outcomes[1][0], outcomes[2][0]
    names = [name for name in one if name.startswith(case)]
    assert sorted(names) == sorted(name for name in two if name.startswith(case))
    assert len(names) == 3
    for name in names:
        error = ((one[name].double() - two[name].double()).norm() / one[name].double().norm()).item()
        assert error <= 1e-6, name


@pytest.mark.distributed
@pytest.mark.parametrize("case", CASES)
def test_evaluation_and_logged_parts_are_those_of_one_process(outcomes, case):
    one, two = outcomes[1][1][case], outcomes[2][1][case]
    assert two["eval_rows"] == one["eval_rows"] == int(case.split()[0])
    assert two["eval_loss"] == pytest.approx(one["eval_loss"], rel=1e-6)
    assert len(one["parts"]) == len(two["parts"]) == 2
    for alone, together in zip(one["parts"], two["parts"], strict=True):
        assert together == pytest.approx(alone, rel=1e-6, abs=1e-6)
        assert together["loss"] == pytest.approx(sum(v for k, v in together.items() if k != "loss"), rel=1e-6)


@pytest.mark.distributed
def test_1_to_40_rows_are_each_counted_once(outcomes):
    """Right answers and losses are those of the rows one by one, on one process and on two."""
    texts, labels = zip(*worker.EVALUATED, strict=True)
    model, tokenizer = make_bert(2, seed=2).eval(), make_tokenizer()
    with torch.no_grad():
        logits = torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in texts]).double()
    losses = torch.nn.functional.cross_entropy(logits, torch.tensor(labels), reduction="none")
    right = (logits.argmax(-1) == torch.tensor(labels)).cumsum(0).tolist()
    for processes in (1, 2):
        evaluations = outcomes[processes][1]["evaluations"]
        assert len(evaluations) == 40
        for count, metrics in enumerate(evaluations, start=1):
            assert metrics["eval_right"] == right[count - 1]
            assert metrics["eval_loss"] == pytest.approx(losses[:count].mean().item(), rel=1e-6)


@pytest.mark.distributed
def test_a_resumed_run_is_the_straight_one(outcomes):
    assert outcomes[1][1]["resumed exactly"]
    assert outcomes[2][1]["resumed exactly"]


@pytest.mark.distributed
def test_processes_mix_rows_of_their_own_and_end_with_the_same_weights(outcomes):
    one, two = outcomes[1][1]["mixtures"], outcomes[2][1]["mixtures"]
    assert len(two["weights"]) == 2
    assert two["weights"][0] == two["weights"][1]
    first, second = two["shares"]
    assert len(first) == len(second) == 3  # 24 rows, 4 on each of 2 processes
    assert all(a != b for a, b in zip(first, second, strict=True))
    alone, together = one["first"], two["first"]  # other mixtures, and the same rows, which alone have labels
    assert together["loss_cross_entropy"] == pytest.approx(alone["loss_cross_entropy"], rel=1e-6)
    assert together["loss_kd"] != alone["loss_kd"]


@pytest.mark.distributed
def test_a23_a_run_of_one_process_goes_on_with_two(outcomes):
    """As many rows a step: the weights are those of a run on two from its start, but for rounding."""
    assert outcomes[2][1]["resumed on another number"] <= 1e-6


@pytest.mark.distributed
def test_c15_what_one_process_meets_ends_all_in_the_same_step(outcomes):
    assert outcomes[1][1]["refusals"]["bad"] == ["trained 1 steps"]
    healthy, bad = outcomes[2][1]["refusals"]["bad"]
    assert "the teacher's logits on rows" in bad
    for text in (healthy, bad):
        assert text.startswith("Step 1 stopped before the optimizer moved")


@pytest.mark.distributed
def test_c16_processes_that_were_not_told_the_same_are_refused(outcomes):
    assert outcomes[1][1]["refusals"]["other"] == ["trained 1 steps"]
    words = "learning_rate: 0.1 or 1.1; seed: 7 or 8. Start all of them by one command"
    for text in outcomes[2][1]["refusals"]["other"]:
        assert text.startswith("The processes of this run were not told the same: ")
        assert words in text
