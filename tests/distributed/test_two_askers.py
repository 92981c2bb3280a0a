"""Two processes ask a function about each text once, all in all."""

from collections import Counter

from tests.conftest import make_dataset
from tests.distributed.test_two_processes import launch


def test_each_text_is_asked_about_once_by_one_of_two_processes(tmp_path):
    done = launch(2, "-m", "tests.distributed.asker", str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    asked = Counter(line for log in tmp_path.glob("asked-*.txt") for line in log.read_text().splitlines())
    texts = set(make_dataset()["text"])
    assert set(asked) == texts
    assert sum(asked.values()) == len(texts) + 2  # the first call, to see whether answers repeat
