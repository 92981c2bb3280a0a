import pytest

from tests.teachers.cache.cached import recorded


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """24 rows of logits, recorded once."""
    path = tmp_path_factory.mktemp("answers")
    recorded(path)
    return path
