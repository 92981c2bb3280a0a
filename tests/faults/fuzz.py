"""python -m tests.faults.fuzz KIND -max_total_time=300: contents that atheris finds by the code they reach.

KIND is a function of `test_mutated_files`. Each content is read, or refused by an error of ours, in 5 seconds
and 2 x the file + 64 MB. `make fuzz` installs atheris beside the environment, and tries all kinds.
"""

import json
import logging
import resource
import sys
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import atheris

WATCHED = ["hfdistill", "yaml", "csv", "json"]
with atheris.instrument_imports(include=WATCHED):
    from tests.faults import test_mutated_files as files

SEALED = ("manifest", "facts")
"""Kinds of JSON that say their own sha256: what is behind it is looked at, too."""


class Fuzzed:
    """Reads contents as a file of one kind."""

    def __init__(self, name: str, folder: Path) -> None:
        folder.mkdir()
        self.name, self.kind = name, getattr(files, name)(files.good_files(folder))
        self.good = self.kind.path.read_bytes()
        self.read = self.refused = 0
        self(self.good)
        assert self.read > 0, "the good file is refused"

    def __call__(self, content: bytes) -> None:
        contents = [content]
        if self.name in SEALED:
            with suppress(ValueError, RecursionError):
                contents.append(files.sealed(json.loads(content)))
        for each in contents:
            self.check(each)

    def check(self, content: bytes) -> None:
        path = self.kind.put(content)
        began, peak = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            self.kind.read(path)
            self.read += 1
        except self.kind.refusal:
            self.refused += 1
        more = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak)
        assert time.process_time() - began < files.SECONDS
        assert more < 2 * len(content) + files.BYTES


def main() -> None:
    name, *options = sys.argv[1:]
    logging.disable()  # of files that are set aside
    with TemporaryDirectory() as folder:
        with atheris.instrument_imports(include=WATCHED):  # what is imported where it is first needed
            fuzzed, seeds = Fuzzed(name, Path(folder, "good")), Path(folder, "seeds")
        seeds.mkdir()
        (seeds / "good").write_bytes(fuzzed.good)
        words = ['"' + "".join(f"\\x{byte:02x}" for byte in piece) + '"' for piece in files.PIECES]
        Path(folder, "words").write_text("\n".join(words) + "\n")
        options += [f"-dict={folder}/words", "-timeout=10", "-rss_limit_mb=8000", str(seeds)]
        atheris.Setup([sys.argv[0], *options], fuzzed)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
