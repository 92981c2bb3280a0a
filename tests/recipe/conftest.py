import pytest

from tests.recipe import material


@pytest.fixture(scope="session")
def things(tmp_path_factory):
    return material.make(tmp_path_factory.mktemp("things"))
