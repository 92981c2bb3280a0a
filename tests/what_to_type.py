"""An error of ours tells its reader what to type: looked at in each test of the table of faults."""

import re
from pathlib import Path

import pytest

FIX = re.compile(r"\w=|\w\(|--\w|\bhfdistill \w+|Did you mean \w+|Usual: \d|Type \w+")
"""An argument, a call, a flag or a command."""
ROW = re.compile(r"test_(?:[a-e]\d+_)+")
"""The names of these tests: test_a9_…, test_e4_e5_e7_…"""
OURS = Path(__file__).parents[1] / "hfdistill"


def says_what_to_type(error: BaseException) -> bool:
    """Whether an error of ours names the fix; one that somebody else has raised may say what it likes."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    ours = frame is not None and OURS in Path(frame.tb_frame.f_code.co_filename).parents
    return not ours or not isinstance(error, Exception) or bool(FIX.search(str(error)))


def raises(*arguments, **options):
    """`pytest.raises`, which looks at the message, too."""
    return _Raises(_raises(*arguments, **options))


_raises = pytest.raises


class _Raises:
    def __init__(self, block):
        self.block = block

    def __enter__(self):
        self.caught = self.block.__enter__()
        return self.caught

    def __exit__(self, *raised):
        is_expected = self.block.__exit__(*raised)
        if is_expected:
            error = self.caught.value
            assert says_what_to_type(error), f"{type(error).__name__} does not say what to type: {error}"
        return is_expected


@pytest.fixture(autouse=True)
def row_of_the_table(request):
    """In the test of a row of the table of faults, every refusal says what to type."""
    if ROW.match(request.node.name):
        request.getfixturevalue("monkeypatch").setattr(pytest, "raises", raises)
