"""The configs of recipes/accelerate are accelerate's own, and say what their names do."""

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import DistributedType

from tests.distributed.launched import ROOT

FOLDER = ROOT / "recipes" / "accelerate"
EXPECTED = {
    "one_gpu": (DistributedType.NO, 1, 1),
    "eight_gpus": (DistributedType.MULTI_GPU, 1, 8),
    "fsdp2": (DistributedType.FSDP, 1, 8),
    "zero3": (DistributedType.DEEPSPEED, 1, 8),
    "two_nodes": (DistributedType.MULTI_GPU, 2, 16),
}


def test_every_config_is_looked_at():
    assert sorted(EXPECTED) == sorted(path.stem for path in FOLDER.iterdir())


@pytest.mark.parametrize("name", EXPECTED)
def test_accelerate_loads_it_and_knows_every_setting(name):
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    assert (config.distributed_type, config.num_machines, config.num_processes) == EXPECTED[name]
    assert config.mixed_precision == "bf16"
    assert config.use_cpu is False
    known = vars(launch_command_parser().parse_args(["script.py"]))
    assert {*config.fsdp_config, *config.deepspeed_config} <= set(known)
    assert bool(config.fsdp_config) == (name == "fsdp2")
    assert bool(config.deepspeed_config) == (name == "zero3")


def test_fsdp_is_the_second_and_zero_the_third():
    fsdp = load_config_from_file(str(FOLDER / "fsdp2.yaml")).fsdp_config
    zero = load_config_from_file(str(FOLDER / "zero3.yaml")).deepspeed_config
    assert fsdp["fsdp_version"] == 2
    assert (zero["zero_stage"], zero["zero3_save_16bit_model"]) == (3, True)
    assert zero["gradient_accumulation_steps"] == zero["gradient_clipping"] == "auto"
