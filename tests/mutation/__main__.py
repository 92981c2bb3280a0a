"""python -m tests.mutation [AREA ...] [--sample N] [--seed S]: do the tests notice a changed line?

Each mutant is one small change of one module: another comparison, sign, number or word, a call or a `raise`
left out. The tests of its area are collected once; a forked child takes the changed function in, and runs
those that execute the changed line, until one fails. What stands outside of functions is changed before the
package is imported, in a child of a process that has imported other packages alone.

mutmut puts every function behind another one, which hides the signatures that pages and registers read;
cosmic-ray starts a new Python for each mutant, which takes longer than the tests. Neither draws a sample.
"""

import argparse
import contextlib
import importlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from tests.mutation.changes import ROOT, Finder, is_inside, mutants_of, take_in

AREAS = {
    "losses": (
        ["hfdistill/objectives"],
        ["tests/objectives"],
    ),
    "label-spaces": (
        ["hfdistill/network/label_space.py"],
        ["tests/network/test_label_space.py"]
        + [f"tests/{room}/test_class_names.py" for room in ("trainer", "recipe", "evaluation")],
    ),
    "cache": (
        ["hfdistill/teachers/cache"],
        ["tests/teachers/cache", "tests/teachers/test_between.py", "tests/teachers/text/test_teacher.py"]
        + [f"tests/trainer/test_{name}.py" for name in ("teacher_cache", "mixup")],
    ),
    "checkpoints": (
        [f"hfdistill/files/{name}.py" for name in ("checkpoint", "settings", "run_lock", "plain_data")]
        + ["hfdistill/trainer/checkpointing.py"],
        [
            f"tests/files/test_{name}.py"
            for name in ("checkpoint", "checkpoint_crashes", "plain_data", "settings")
        ]
        + [f"tests/trainer/test_{name}.py" for name in ("checkpointing", "failed_save", "publishing")]
        + ["tests/evaluation/test_report.py", "tests/evaluation/test_card.py", "tests/test_doctests.py"]
        + ["tests/distributed/test_two_disks.py"]
        + [f"tests/faults/test_{name}.py" for name in ("c_machine", "d_hostile")],
    ),
    "readers": (
        [f"hfdistill/data/{name}_files.py" for name in ("csv", "json", "row", "table", "text")]
        + [f"hfdistill/data/{name}.py" for name in ("sources", "load", "label_columns", "label_checks")],
        ["tests/data", "tests/prediction/test_label_file.py", "tests/trainer/test_class_names.py"],
    ),
}
WHY = "why.txt"
OPTIONS = ["-q", "-s", "--no-header", "-p", "no:cacheprovider", "-p", "no:xdist"]
# what was imported before cannot be rewritten, and need not be
OPTIONS += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]


def start(work, folder):
    """Call `work` in a forked child, which ends with the exit code that it returns: its process id."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setsid()
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, 1)
            os.dup2(silence, 2)
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + 8 * 2**30, -1))
            code = work()
        except BaseException:
            (folder / WHY).write_text(traceback.format_exc())
        finally:
            os._exit(code)
    return pid


def in_child(work, *, limit, folder):
    """The exit code of a child that calls `work`, or None where it took too long."""
    pid, end = start(work, folder), time.monotonic() + limit
    try:
        while time.monotonic() < end:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return None
    finally:
        shutil.rmtree(folder / "tests", ignore_errors=True)


class Tests:
    """A session of pytest whose tests have been collected, to be run in children."""

    def __init__(self, files, folder, study):
        self.files, self.folder, self.study = files, folder, study
        self.items, self.failed, self.seconds, self.tracer, self.context = [], False, Counter(), None, ""

    def pytest_runtest_logreport(self, report):
        self.failed |= report.failed
        if report.failed:
            (self.folder / WHY).write_text(f"{report.nodeid}\n{report.longreprtext}")
        self.seconds[report.nodeid] += report.duration

    def pytest_runtest_setup(self, item):
        self.switch(item.nodeid.partition("::")[0])  # a fixture may be of use to every test of the file

    def pytest_runtest_call(self, item):
        self.switch(item.nodeid)

    def switch(self, context):
        self.context = context
        if self.tracer:
            self.tracer.switch_context(context)

    def run(self, items):
        """Run some tests until one fails: 1 then, else 0."""
        for item, following in zip(items, [*items[1:], None], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if self.failed:
                return 1
        return 0

    def pytest_runtestloop(self, session):
        self.items = session.items
        self.lines, self.seconds = self.traced()
        self.study(self)
        return True

    def traced(self):
        """Which tests execute which lines of the modules, and the seconds that each takes."""
        import coverage

        times = self.folder / "times.json"

        def work():
            self.trace()
            os.register_at_fork(after_in_child=self.trace)
            leave, os._exit = os._exit, self.leave
            failed = self.run(self.items)
            os._exit = leave
            self.tracer.stop()
            self.tracer.save()
            times.write_text(json.dumps({"seconds": self.seconds, "modules": list(sys.modules)}))
            return failed

        if in_child(work, limit=3600, folder=self.folder) != 0:
            times.unlink(missing_ok=True)
            os._exit(1)
        lines = {file: defaultdict(set) for file in self.files}
        for path in self.folder.glob("coverage.*"):
            read = coverage.CoverageData(str(path))
            read.read()
            for file in self.files:
                for line, tests in read.contexts_by_lineno(str(ROOT / file)).items():
                    lines[file][line].update(tests)
        return lines, Counter(json.loads(times.read_text())["seconds"])

    def trace(self):
        """Begin to write down lines: in this process, and in the children of a test."""
        import coverage

        before, files = self.tracer, [str(ROOT / file) for file in self.files]
        if before:
            before.stop()
        data = str(self.folder / f"coverage.{os.getpid()}")
        self.tracer = coverage.Coverage(data, include=files, config_file=False)
        self.tracer.start()
        if before:
            self.tracer.switch_context(self.context)

    def leave(self, code, leave=os._exit):
        """End a child of a test as `os._exit` does, and keep the lines."""
        with contextlib.suppress(Exception):
            self.tracer.stop()
            self.tracer.save()
        leave(code)

    def that_reach(self, mutant):
        """The tests that execute a mutant's line, those of a file of its name first; or these alone."""
        reached = set(self.lines[mutant["file"]].get(mutant["line"], ()))
        own = Path(mutant["file"]).stem
        of_its_file = [one for one in self.items if own in one.nodeid.partition("::")[0]]
        items = [one for one in self.items if {one.nodeid, one.nodeid.partition("::")[0]} & reached]
        return sorted(items, key=lambda item: item not in of_its_file) or of_its_file

    def limit(self, items):
        return 30 + 10 * sum(self.seconds[item.nodeid] for item in items)

    def result_of(self, mutant):
        """What becomes of a mutant: killed, late (killed by the clock), survived, or reached by no test."""
        items = self.that_reach(mutant)
        if not items:
            return "no test"

        def work():
            take_in(mutant)
            return self.run(items)

        return named(in_child(work, limit=self.limit(items), folder=self.folder))


def named(code):
    return "late" if code is None else "killed" if code else "survived"


def result_outside(mutant, tests, limit, folder):
    """What becomes of a mutant outside of functions: the package is imported with it."""

    def work():
        sys.meta_path.insert(0, Finder(mutant))
        return int(pytest.main([*OPTIONS, "-x", f"--basetemp={folder / 'tests'}", *tests]))

    return named(in_child(work, limit=limit, folder=folder))


def files_of(modules):
    for module in modules:
        paths = sorted((ROOT / module).rglob("*.py")) if (ROOT / module).is_dir() else [ROOT / module]
        yield from (str(path.relative_to(ROOT)) for path in paths)


def import_all(modules):
    """What the tests need from others is imported once, here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in modules:
            if name.partition(".")[0] not in ("hfdistill", "tests", "__main__"):
                with contextlib.suppress(Exception):
                    importlib.import_module(name)


def study(area, drawn, folder):
    """Yield each mutant of an area with what becomes of it."""
    modules, tests = AREAS[area]
    inside = [mutant for mutant in drawn if is_inside(mutant)]
    reader, writer = os.pipe()
    results = os.fdopen(writer, "w", buffering=1)

    def each(session):
        for mutant in inside:
            results.write(json.dumps(session.result_of(mutant)) + "\n")

    def collect():
        os.close(reader)
        session = Tests(list(files_of(modules)), folder, each)
        pytest.main([*OPTIONS, f"--basetemp={folder / 'tests'}", *tests], plugins=[session])
        return 0

    child = folder / "session"
    child.mkdir()
    pid = start(collect, child)
    results.close()
    with os.fdopen(reader) as lines:
        yield from zip(inside, map(json.loads, lines), strict=False)
    os.waitpid(pid, 0)
    if not (folder / "times.json").exists():
        why = [(place / WHY).read_text() for place in (folder, child) if (place / WHY).exists()]
        raise SystemExit("\n".join([f"The tests of {area} fail unchanged:", *why]))
    written = json.loads((folder / "times.json").read_text())
    import_all(written["modules"])
    limit = 60 + 10 * sum(written["seconds"].values())
    for mutant in drawn:
        if not is_inside(mutant):
            yield mutant, result_outside(mutant, tests, limit, folder)


def study_area(area, sample, seed, only, unchanged):
    """Print the survivors of an area, then its score."""
    every = [mutant for file in files_of(AREAS[area][0]) for mutant in mutants_of(file)]
    drawn = random.Random(seed).sample(every, min(sample, len(every)))
    drawn = [mutant for mutant in drawn if only in f"{mutant['file']}:{mutant['line']}"]
    drawn = [{**mutant, "number": None} if unchanged else mutant for mutant in drawn]
    drawn.sort(key=lambda mutant: (mutant["file"], mutant["line"]))
    seen = Counter()
    with tempfile.TemporaryDirectory(prefix="mutants") as name:
        for mutant, result in study(area, drawn, Path(name)):
            seen[result] += 1
            if result in ("survived", "no test"):
                print(f"{result}: {mutant['file']}:{mutant['line']}: {mutant['words']}", flush=True)
    dead, all_ = seen["killed"] + seen["late"], max(1, sum(seen.values()))
    print(
        f"{area}: {dead} of {all_} killed ({dead / all_:.1%}), {seen['late']} of them by the clock; "
        f"drawn with seed {seed} from {len(every)}",
        flush=True,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("areas", nargs="*", default=list(AREAS), metavar="AREA", help=", ".join(AREAS))
    parser.add_argument("--sample", type=int, default=100, help="mutants of each area (default 100)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="of the sample only those of this file, or FILE:LINE")
    parser.add_argument("--unchanged", action="store_true", help="change nothing: each must survive")
    chosen = parser.parse_args()
    for area in chosen.areas:
        study_area(area, chosen.sample, chosen.seed, chosen.only, chosen.unchanged)
