"""Two processes ask a function about each text once, all in all."""

from collections import Counter

import pytest

from tests.conftest import make_dataset


@pytest.mark.distributed
def test_each_text_is_asked_about_once_by_one_of_two_processes(folders):
    asked = Counter(
        line for log in (folders[2] / "asking").glob("asked-*.txt") for line in log.read_text().splitlines()
    )
    texts = set(make_dataset()["text"])
    assert set(asked) == texts
    assert sum(asked.values()) == len(texts) + 2  # the first call, to see whether answers repeat
