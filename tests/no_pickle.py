"""In no test does anything of ours read a pickle: an audit hook sees every class that one names."""

import sys
from pathlib import Path

import pytest

ALLOWED = ("torch/_weights_only_unpickler.py", "/multiprocessing/", "/multiprocess/")
"""torch's reader of plain tensors, and what processes of one program tell each other (in `map`, by dill)."""
HERE = Path(__file__).parent
OURS = HERE.parent / "hfdistill"
READ: list[str] = []


def _hook(event, arguments):
    """Note a class that a pickle names, where the nearest of our two folders on the stack is the package."""
    if event != "pickle.find_class":
        return
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(str(HERE)) or any(part in name for part in ALLOWED):
            return
        if name.startswith(str(OURS)):
            READ.append(f"{'.'.join(map(str, arguments[:2]))} at {name}:{frame.f_lineno}")
            return
        frame = frame.f_back


sys.addaudithook(_hook)


@pytest.fixture(autouse=True)
def nothing_reads_a_pickle():
    """After each test: nothing of ours has read one in it, in this process."""
    READ.clear()
    yield
    assert READ == []
