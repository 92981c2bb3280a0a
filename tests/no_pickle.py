"""In no test does anything of ours read a pickle: an audit hook sees every class that one names."""

import sys
from pathlib import Path

import pytest

ALLOWED = ("torch/_weights_only_unpickler.py", "/multiprocessing/", "/multiprocess/")
"""torch's reader of plain tensors, and what processes of one program tell each other (in `map`, by dill)."""
HERE = Path(__file__).parent
OURS = HERE.parent / "hfdistill"
READ: list[str] = []


class _Event(str):
    """An audit event that is looked at where one of its name occurs."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other):
        """Note where a pickle is read, if the nearest of our two folders on the stack is the package."""
        frame = sys._getframe(1)
        while frame is not None:
            name = frame.f_code.co_filename
            if name.startswith(str(HERE)) or any(part in name for part in ALLOWED):
                break
            if name.startswith(str(OURS)):
                READ.append(f"{name}:{frame.f_lineno}")
                break
            frame = frame.f_back
        return str.__eq__(self, other)


# Python raises an event for each id(), and so for each object that is copied. To look it up in a dictionary,
# which compares strings of one hash alone, costs less than a hook that is written in Python.
sys.addaudithook({_Event("pickle.find_class"): None}.get)


@pytest.fixture(autouse=True)
def nothing_reads_a_pickle():
    """After each test: nothing of ours has read one in it, in this process."""
    READ.clear()
    yield
    assert READ == []
