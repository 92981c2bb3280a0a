"""python -m tests.mutants [AREA ...] [--sample N] [--seed S]: do the tests notice a changed line?

Each mutant is one small change of one module: another comparison, sign, number or word, a call or a `raise`
left out. It runs in a forked child of a process that has imported torch and Transformers already; the child
imports the changed module, and runs those tests of its area that execute the changed line, until one fails.

mutmut puts every function behind another one, which hides the signatures that pages and registers read;
cosmic-ray starts a new Python for each mutant, which takes longer than the tests. Neither draws a sample.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import importlib
import importlib.machinery
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
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
        ["tests/teachers/cache", "tests/trainer/test_teacher_cache.py"],
    ),
    "checkpoints": (
        [f"hfdistill/files/{name}.py" for name in ("checkpoint", "settings", "run_lock", "plain_data")]
        + [f"hfdistill/trainer/{name}.py" for name in ("checkpointing", "failed_save")],
        [f"tests/files/test_{name}.py" for name in ("checkpoint", "checkpoint_crashes", "settings")]
        + ["tests/trainer/test_checkpointing.py"]
        + [f"tests/faults/test_{name}.py" for name in ("c_machine", "d_hostile")],
    ),
    "readers": (
        [f"hfdistill/data/{name}_files.py" for name in ("csv", "json", "row", "table", "text")]
        + [f"hfdistill/data/{name}.py" for name in ("sources", "load", "label_columns", "label_checks")],
        ["tests/data"],
    ),
}
# fmt: off
OTHER = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitOr,
    ast.Break: ast.Continue, ast.Continue: ast.Break,
}
# fmt: on
ANNOTATIONS = {"annotation", "returns", "type_params", "type_comment"}


def changes(node):
    """Every change of one node: what it is called, and what stands there instead."""
    if isinstance(node, ast.Compare | ast.BoolOp | ast.BinOp | ast.AugAssign):
        yield from changed_operator(node)
    if isinstance(node, ast.Constant):
        yield from changed_constant(node)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield node.operand
    if isinstance(node, ast.If | ast.While | ast.IfExp) and isinstance(
        node.test, ast.Name | ast.Attribute | ast.Call
    ):
        yield with_field(node, test=ast.UnaryOp(ast.Not(), node.test))
    if isinstance(node, ast.Return) and node.value is not None and not is_none(node.value):
        yield with_field(node, value=ast.Constant(None))
    if isinstance(node, ast.Raise) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        yield ast.Pass()
    if isinstance(node, ast.Break | ast.Continue):
        yield OTHER[type(node)]()
    if isinstance(node, ast.Call):
        for place, keyword in enumerate(node.keywords):
            if keyword.arg is not None:
                yield with_field(node, keywords=node.keywords[:place] + node.keywords[place + 1 :])


def changed_operator(node):
    if not isinstance(node, ast.Compare):
        if type(node.op) in OTHER:
            yield with_field(node, op=OTHER[type(node.op)]())
        return
    for place, operator in enumerate(node.ops):
        operators = [*node.ops[:place], OTHER[type(operator)](), *node.ops[place + 1 :]]
        yield with_field(node, ops=operators)


def changed_constant(node):
    value = node.value
    if isinstance(value, bool):
        yield ast.Constant(not value)
    elif isinstance(value, int | float):
        yield ast.Constant(value + 1)
    elif isinstance(value, str):
        yield ast.Constant(value + "XX")


def is_none(node):
    return isinstance(node, ast.Constant) and node.value is None


def with_field(node, **fields):
    return type(node)(**{**dict(ast.iter_fields(node)), **fields})


def places(node, path=()):
    """The path to every node that may be changed: not annotations, docstrings, messages, imports."""
    yield path
    if isinstance(node, ast.Raise | ast.Import | ast.ImportFrom | ast.JoinedStr):
        return
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    for name, value in ast.iter_fields(node):
        if name in ANNOTATIONS:
            continue
        if isinstance(value, ast.AST):
            yield from places(value, (*path, (name, None)))
        elif isinstance(value, list):
            for place, part in enumerate(value):
                docstring = isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant)
                if isinstance(part, ast.AST) and not docstring:
                    yield from places(part, (*path, (name, place)))


def at(tree, path):
    for name, place in path:
        tree = getattr(tree, name) if place is None else getattr(tree, name)[place]
    return tree


def mutants_of(file):
    """Path, number of the change, line, and words of every mutant of a file."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    for path in places(tree):
        node = at(tree, path)
        for number, other in enumerate(changes(node)):
            line = getattr(node, "lineno", 0)
            head = [
                ast.unparse(ast.fix_missing_locations(copy.deepcopy(one))).split("\n")[0]
                for one in (node, other)
            ]
            yield {
                "file": file,
                "path": path,
                "number": number,
                "line": line,
                "words": f"{head[0]}  ->  {head[1]}",
            }


def mutated(mutant):
    """The code of the module with the change."""
    tree = ast.parse((ROOT / mutant["file"]).read_text(encoding="utf-8"))
    if mutant["number"] is None:
        return compile(tree, str(ROOT / mutant["file"]), "exec")
    *above, (name, place) = mutant["path"]
    parent, node = at(tree, above), at(tree, mutant["path"])
    other = ast.copy_location(list(changes(node))[mutant["number"]], node)
    if place is None:
        setattr(parent, name, other)
    else:
        getattr(parent, name)[place] = other
    return compile(ast.fix_missing_locations(tree), str(ROOT / mutant["file"]), "exec")


class Mutating(importlib.machinery.SourceFileLoader):
    """Loads the changed module in the place of the one on disk."""

    code = None

    def get_code(self, fullname):
        return self.code


class Finder:
    """Finds the changed module first."""

    def __init__(self, mutant):
        parts = Path(mutant["file"]).with_suffix("").parts
        self.name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        self.mutant = mutant

    def find_spec(self, fullname, path=None, target=None):
        if fullname != self.name:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        spec.loader = Mutating(fullname, spec.origin)
        spec.loader.code = mutated(self.mutant)
        return spec


class Chosen:
    """Leaves only the tests of these names."""

    def __init__(self, names):
        self.names = names

    def pytest_collection_modifyitems(self, config, items):
        items[:] = [item for item in items if item.nodeid in self.names]


class Times:
    """Writes down how long each test took, and what was imported."""

    def __init__(self, path):
        self.path, self.seconds = path, Counter()

    def pytest_runtest_logreport(self, report):
        self.seconds[report.nodeid] += report.duration

    def pytest_sessionfinish(self):
        modules = [
            name for name in sys.modules if name.split(".")[0] not in ("hfdistill", "tests", "__main__")
        ]
        self.path.write_text(json.dumps({"seconds": self.seconds, "modules": modules}))


def in_child(arguments, *, limit, folder, mutant=None, plugins=()):
    """Run pytest in a forked child: its exit code, or None where it took too long."""
    pid = os.fork()
    if pid == 0:
        code = 1
        with contextlib.suppress(BaseException):
            code = tests_in_this_process(arguments, folder, mutant, plugins)
        os._exit(code)
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def tests_in_this_process(arguments, folder, mutant, plugins):
    import pytest

    os.setsid()
    output = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 8 * 2**30, -1))
    if mutant is not None:
        sys.meta_path.insert(0, Finder(mutant))
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", f"--basetemp={folder / 'tests'}"]
    return int(pytest.main([*options, *arguments], plugins=list(plugins)))


def executed(area, folder):
    """Which tests execute which lines of an area's modules, and the seconds that each test takes."""
    modules, tests = AREAS[area]
    times, data = folder / "times.json", folder / "coverage"
    (folder / "coveragerc").write_text(f"[run]\ndata_file = {data}\n")
    cover = [f"--cov-config={folder / 'coveragerc'}", "--cov-context=test", "--cov-report="]
    code = in_child([*tests, "--cov=hfdistill", *cover], limit=3600, folder=folder, plugins=[Times(times)])
    if code != 0:
        raise SystemExit(
            f"the tests of {area} fail unchanged:\n{(folder / 'output.txt').read_text()[-3000:]}"
        )
    from coverage import CoverageData

    read, written = CoverageData(str(data)), json.loads(times.read_text())
    read.read()
    lines = {
        file: {
            line: {context.partition("|")[0] for context in contexts}
            for line, contexts in read.contexts_by_lineno(str(ROOT / file)).items()
        }
        for file in files_of(modules)
    }
    return lines, written["seconds"], written["modules"]


def files_of(modules):
    for module in modules:
        paths = sorted((ROOT / module).rglob("*.py")) if (ROOT / module).is_dir() else [ROOT / module]
        yield from (str(path.relative_to(ROOT)) for path in paths)


def import_all(modules):
    """What the tests need from others is imported once, here."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in modules:
            with contextlib.suppress(Exception):
                importlib.import_module(name)


def result_of(mutant, lines, seconds, folder):
    """What became of a mutant: killed, late (killed by the clock), survived, or reached by no test."""
    reached = lines[mutant["file"]].get(mutant["line"], set())
    names = set(seconds) if "" in reached else reached & set(seconds)
    if not names:
        return "no test"
    limit = 20 + 5 * sum(seconds[name] for name in names)
    own = Path(mutant["file"]).stem
    files = sorted({name.partition("::")[0] for name in names}, key=lambda file: (own not in file, file))
    code = in_child(["-x", *files], limit=limit, folder=folder, mutant=mutant, plugins=[Chosen(names)])
    shutil.rmtree(folder / "tests", ignore_errors=True)
    return "survived" if code == 0 else "late" if code is None else "killed"


def study(area, sample, seed, only):
    """Print the survivors of an area, then its score."""
    with tempfile.TemporaryDirectory(prefix="mutants") as name:
        folder, seen = Path(name), Counter()
        lines, seconds, modules = executed(area, folder)
        import_all(modules)
        for file in lines:
            unchanged = {"file": file, "number": None, "line": 1}
            if result_of(unchanged, {file: {1: {""}}}, seconds, folder) != "survived":
                raise SystemExit(
                    f"the tests fail on {file} unchanged:\n{(folder / 'output.txt').read_text()[-3000:]}"
                )
        every = [mutant for file in lines for mutant in mutants_of(file)]
        drawn = random.Random(seed).sample(every, min(sample, len(every)))
        drawn = [mutant for mutant in drawn if only in f"{mutant['file']}:{mutant['line']}"]
        for mutant in sorted(drawn, key=lambda mutant: (mutant["file"], mutant["line"])):
            result = result_of(mutant, lines, seconds, folder)
            seen[result] += 1
            if result in ("survived", "no test"):
                print(f"{result}: {mutant['file']}:{mutant['line']}: {mutant['words']}", flush=True)
        dead = seen["killed"] + seen["late"]
        print(
            f"{area}: {dead} of {len(drawn)} killed ({dead / max(1, len(drawn)):.1%}), {seen['late']} "
            f"of them by the clock; drawn with seed {seed} from {len(every)}",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("areas", nargs="*", default=list(AREAS), metavar="AREA", help=", ".join(AREAS))
    parser.add_argument("--sample", type=int, default=100, help="mutants of each area (default 100)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="of the sample only those of this file, or FILE:LINE")
    chosen = parser.parse_args()
    for name in chosen.areas:
        study(name, chosen.sample, chosen.seed, chosen.only)
