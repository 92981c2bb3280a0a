"""A student that FSDP2 or DeepSpeed divides among two processes ends as that of one process.

`python -m pytest -m slow tests/distributed/test_divided.py` runs every kind, in some three CPU minutes.
DeepSpeed is no dependency: install it for its part, which compiles an extension once (TORCH_EXTENSIONS_DIR
says where).
"""

import importlib.util
import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from tests.distributed import divided
from tests.distributed.launched import ROOT, launch

CONFIGS = ROOT / "recipes" / "accelerate"
ZERO = ["ZeRO-1", "ZeRO-2", "ZeRO-3"]
SIZES = [
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
]
BESIDE = {"ema": ["ema/model"], "peer": ["peer/model"], "inside": ["objective"]}


def assert_same(one, two, kind, steps):
    """All that was saved is that of one process, to 1e-6; and so are the logged parts of the loss."""
    for name in ["model", *BESIDE.get(kind, [])]:
        alone, together = (load_file(folder / kind / f"{name}.safetensors") for folder in (one, two))
        assert alone.keys() == together.keys()
        assert alone
        a, b = (torch.cat([x.double().view(-1) for _, x in sorted(t.items())]) for t in (alone, together))
        assert ((a - b).norm() / a.norm()).item() <= 1e-6, name
    alone, together = (json.loads((folder / kind / "logs.json").read_text()) for folder in (one, two))
    assert len(alone) == len(together) == steps
    for first, second in zip(alone, together, strict=True):
        assert second == pytest.approx(first, rel=1e-5, abs=1e-6)


def assert_resumed(folder, kind):
    """A resumed run is the straight one, bit for bit; its checkpoint has the files of both processes."""
    for name in ["model", *BESIDE.get(kind, [])]:
        if name == "objective":  # whose moments stand in the checkpoint: see the model, which depends on them
            continue
        straight, again = (
            load_file(folder / run / kind / f"{name}.safetensors") for run in ("straight", "again")
        )
        assert all(torch.equal(straight[key], again[key]) for key in straight)
    facts = json.loads((folder / "again" / kind / "facts.json").read_text())
    assert {"rng_state_0.pth", "rng_state_1.pth", "model.safetensors"} <= set(facts["files"])
    assert facts["damaged"] in facts["message"]
    return facts["files"]


def assert_plain(folder, kind):
    """What is saved loads as Transformers' own model, with no weight missing."""
    model, loading = AutoModelForSequenceClassification.from_pretrained(
        folder / kind, output_loading_info=True
    )
    assert model.config.architectures == [type(model).__name__] == ["BertForSequenceClassification"]
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]


@pytest.mark.distributed
def test_fsdp2_on_two_processes(folders):
    one, two = (folders[processes] / "divided" for processes in (1, 2))
    assert_same(one, two, "inside", divided.FEW)
    assert_plain(two, "inside")
    files = assert_resumed(two, "ema")
    assert {"optimizer_0/__0_0.distcp", "pytorch_model_fsdp_0/__1_0.distcp"} <= set(files)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    divided.run(folder, 1, divided.KINDS, [])
    return folder


def launch_as(name, folder, *words):
    """Launch two processes with a config of recipes/accelerate, or with DeepSpeed's own for ZeRO-1 and 2."""
    words = ["-m", "tests.distributed.divided", str(folder), name, *words]
    if name.startswith("FSDP2"):
        return launch(*words, kind=f"--config_file={CONFIGS / 'fsdp2.yaml'}")
    if name == "ZeRO-3":
        return launch(*words, kind=f"--config_file={CONFIGS / 'zero3.yaml'}", DS_ACCELERATOR="cpu")
    settings = dict.fromkeys(SIZES, "auto") | {
        "zero_optimization": {"stage": int(name[-1]), "reduce_bucket_size": 10**5},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    path = folder / "zero.json"
    path.write_text(json.dumps(settings))
    options = {"deepspeed_config_file": path}
    return launch(*words, kind="--use_deepspeed", options=options, DS_ACCELERATOR="cpu")


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("name", ["FSDP2", "FSDP2-full", *ZERO])
def test_every_kind_on_two_processes(one, name, tmp_path):
    if name in ZERO and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("DeepSpeed is not installed")
    kinds = [kind for kind in divided.KINDS if (kind, name) != ("theseus", "ZeRO-3")]
    done = launch_as(name, tmp_path, *kinds, "again-inside", "again-ema")
    assert done.returncode == 0, done.stderr[-3000:]
    for kind in kinds:
        assert_same(one, tmp_path, kind, divided.STEPS)
        if kind != "exits":
            assert_plain(tmp_path, kind)
    for kind in ("inside", "ema"):
        assert_resumed(tmp_path, kind)
