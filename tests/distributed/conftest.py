"""What one process and two came to, launched once for all tests of this folder."""

import shutil

import pytest

from tests.distributed import __main__ as process
from tests.distributed.launched import launch
from tests.distributed.recipe import make_material


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """The folder that one process wrote, which is this one, and that of two which `accelerate` launched."""
    made = {processes: tmp_path_factory.mktemp(f"processes-{processes}") for processes in (1, 2)}
    for folder in made.values():
        (folder / "recipe").mkdir()
        make_material(folder / "recipe")
    process.main(made[1], 1)
    (made[2] / "training").mkdir()
    shutil.copytree(made[1] / "training" / "straight", made[2] / "training" / "of one process")
    done = launch("-m", "tests.distributed", str(made[2]), "2")
    assert done.returncode == 0, done.stderr[-3000:]
    return made
