"""Small changes of a module, and how a process takes one in."""

import ast
import copy
import gc
import importlib.machinery
import types
from pathlib import Path

ROOT = Path(__file__).parents[2]
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


def is_inside(mutant):
    """Whether the change is in the body of a function."""
    tree = ast.parse((ROOT / mutant["file"]).read_text(encoding="utf-8"))
    steps = range(len(mutant["path"]))
    return any(
        mutant["path"][step][0] == "body" and isinstance(at(tree, mutant["path"][:step]), ast.FunctionDef)
        for step in steps
    )


def codes(code):
    """Every code in a module's code, by name and first line."""
    for part in code.co_consts:
        if isinstance(part, types.CodeType):
            yield (part.co_qualname, part.co_firstlineno), part
            yield from codes(part)


def take_in(mutant):
    """Give the functions of this process the changed code."""
    new, file = dict(codes(mutated(mutant))), str(ROOT / mutant["file"])
    gc.unfreeze()
    for function in gc.get_objects():
        if isinstance(function, types.FunctionType) and function.__code__.co_filename == file:
            key = (function.__code__.co_qualname, function.__code__.co_firstlineno)
            if key in new:
                function.__code__ = new[key]


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
