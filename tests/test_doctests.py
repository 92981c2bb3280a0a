"""The examples in docstrings give what they say."""

import ast
import doctest
import importlib
from pathlib import Path

import pytest

from hfdistill.network import architectures

PACKAGE = Path(__file__).parents[1] / "hfdistill"
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef


def examples():
    """Every docstring with something to run, by module and name; those that load from the Hub are marked."""
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if ">>>" not in text:
            continue
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.walk(ast.parse(text)):
            docstring = ast.get_docstring(node) if isinstance(node, DOCUMENTED) else None
            if docstring and ">>>" in docstring:
                test = doctest.DocTestParser().get_doctest(docstring, {}, module, str(path), 0)
                if not all(example.options.get(doctest.SKIP) for example in test.examples):
                    marks = [pytest.mark.hub] if "AutoTokenizer.from_pretrained(" in docstring else []
                    name = f"{module}.{getattr(node, 'name', '')}"
                    yield pytest.param(test, id=name, marks=marks)


@pytest.mark.parametrize("test", list(examples()))
def test_an_example_gives_what_it_says(test, tmp_path, monkeypatch):
    module = importlib.import_module(test.name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hfdistill.network.architectures._LAYOUTS", dict(architectures._LAYOUTS))
    test.globs = dict(vars(module))
    said = []
    outcome = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=said.append)
    assert outcome.attempted
    assert not outcome.failed, "".join(said)
