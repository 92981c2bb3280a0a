"""What one process and two came to, started once for all tests of this folder."""

import os
import shutil

import pytest

from tests.distributed import __main__ as process
from tests.distributed.recipe import make_material
from tests.forked import on_two_processes


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """The folder that one process wrote, which is this one, and that of two.

    The two are forked from this one, which spares three imports of all libraries: `accelerate launch` is what
    `test_train_on_two_processes` and the slow tests start.
    """
    if not hasattr(os, "fork"):
        pytest.skip("needs os.fork")
    made = {processes: tmp_path_factory.mktemp(f"processes-{processes}") for processes in (1, 2)}
    for folder in made.values():
        (folder / "recipe").mkdir()
        make_material(folder / "recipe")
    process.main(made[1], 1)
    (made[2] / "training").mkdir()
    shutil.copytree(made[1] / "training" / "straight", made[2] / "training" / "of one process")
    on_two_processes(lambda: process.main(made[2], 2), made[2])
    return made
