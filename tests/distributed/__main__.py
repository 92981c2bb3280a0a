"""python -m tests.distributed FOLDER PROCESSES: all that each process of a launch does, one after another."""

import gc
import sys
from pathlib import Path

from tests.distributed import asker, divided, recipe, recorder, worker


def main(folder: Path, processes: int) -> None:
    parts = {"training": worker, "recording": recorder, "asking": asker, "recipe": recipe, "divided": divided}
    for part, work in parts.items():
        (folder / part).mkdir(exist_ok=True)
        work.main(folder / part, processes)


if __name__ == "__main__":
    gc.freeze()  # what the imports made: every training ends with a garbage collection
    main(Path(sys.argv[1]), int(sys.argv[2]))
