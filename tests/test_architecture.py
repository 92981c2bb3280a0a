"""The shape of the house: small files and functions, imports that point down, no foreign code."""

import ast
import functools
from collections import defaultdict
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "hfdistill"
# Rooms on one level do not import each other, but for SIDEWAYS. A new file needs a level here.
LEVELS = [
    "files schedules",
    "network",
    "objectives data",
    "students",
    "teachers",
    "trainer evaluation",
    "exporters",
    "recipe prediction",
    "cli",
    "__main__",
    "__init__",
]
SIDEWAYS: set[tuple[str, str]] = set()
FOREIGN = {"pickle", "dill", "marshal", "shelve", "joblib", "yaml.load", "torch.load", "eval", "exec"}

FILES = sorted(PACKAGE.rglob("*.py"))


def each_file(check):
    """Make one test of what is checked of a file, which names all that fail."""

    def test():
        failed = []
        for path in FILES:
            try:
                check(path)
            except AssertionError as error:
                failed.append(f"{path.relative_to(PACKAGE)}: {error}")
        assert not failed, "\n".join(failed)

    return test


def room(path):
    """The file's place in the house: its folder, or its own name at the top."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


ROOMS = {room(path) for path in FILES}


def level(name):
    found = [number for number, rooms in enumerate(LEVELS) if name in rooms.split()]
    assert found, f"{name} has no level yet: give it one in LEVELS"
    return found[0]


@functools.cache
def tree(path):
    """The nodes of a file by their kind."""
    by_kind = defaultdict(list)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        by_kind[type(node)].append(node)
    return by_kind


def nodes(path, *kinds):
    return [node for kind in kinds for node in tree(path)[kind]]


def imported(path):
    """Every module that a file imports, `from a import b` as a.b."""
    for node in nodes(path, ast.Import, ast.ImportFrom):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        else:
            assert node.level == 0, f"{path.name}, line {node.lineno}: import by the full name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@each_file
def test_a_file_has_a_level_a_telling_name_and_at_most_600_lines(path):
    level(room(path))
    assert path.stem not in {"utils", "util", "common", "misc", "helpers", "helper"}
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 600


@each_file
def test_a_function_has_at_most_40_lines_without_its_docstring(path):
    for function in nodes(path, ast.FunctionDef, ast.AsyncFunctionDef):
        lines = function.end_lineno - function.lineno + 1
        if ast.get_docstring(function) is not None:
            lines -= function.body[0].end_lineno - function.body[0].lineno + 1
        assert lines <= 40, f"{function.name} has {lines} lines"


@each_file
def test_imports_point_down(path):
    own = room(path)
    for module in imported(path):
        parts = module.split(".")
        if parts[0] != "hfdistill" or len(parts) == 1:  # `import hfdistill` alone reads the version
            continue
        # `from hfdistill import labels` names a room, `from hfdistill import KD` takes it from the roof.
        other = parts[1] if parts[1] in ROOMS else "__init__"
        down = level(other) < level(own) or other == own or (own, other) in SIDEWAYS
        assert down, f"{own} (level {level(own)}) imports {other} (level {level(other)})"


def test_objectives_know_nothing_of_transformers():
    modules = {
        module.split(".")[0] for path in (PACKAGE / "objectives").glob("*.py") for module in imported(path)
    }
    assert "torch" in modules
    assert not modules & {"transformers", "datasets", "accelerate", "peft"}


@each_file
def test_nothing_that_a_file_holds_is_run(path):
    called = {ast.unparse(call.func) for call in nodes(path, ast.Call)}
    assert not called & FOREIGN
    assert not {part for module in imported(path) for part in (module, module.split(".")[0])} & FOREIGN
    for keyword in nodes(path, ast.keyword):
        passed_on = {"trust_remote_code": {"False"}, "allow_pickle": {"False", "allow_pickle"}}
        value = ast.unparse(keyword.value)
        assert value in passed_on.get(keyword.arg, {value}), f"line {keyword.value.lineno}"


@each_file
def test_what_is_widened_is_on_the_cpu_already(path):
    """Apple's GPUs have no float64, and others would send twice the bytes: `.cpu().double()`."""
    wide = (".double().cpu()", ".to(torch.float64).cpu()", '"cpu", dtype=')
    assert not [line for line in path.read_text().splitlines() if any(order in line for order in wide)]
