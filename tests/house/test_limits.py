"""Sizes: file 400 lines, function 40, a forward 25, 8 parameters, nesting 3, line 110."""

from __future__ import annotations

import ast

import pytest

from tests.house.source import LIBRARY, functions, named, parsed, python_files

FILE_LINES = 400
FUNCTION_LINES = 40
FORWARD_LINES = 25
PARAMETERS = 8
NESTING = 3
LINE_LENGTH = 110

LOOPS = (ast.For, ast.AsyncFor, ast.While)
COMPOUND = (*LOOPS, ast.If, ast.With, ast.AsyncWith, ast.Try, ast.Match)


def long_text(source: str) -> list[str]:
    lines = source.splitlines()
    wrong = [f"{len(lines)} lines"] if len(lines) > FILE_LINES else []
    return wrong + [
        f"line {n}: {len(line)} wide" for n, line in enumerate(lines, 1) if len(line) > LINE_LENGTH
    ]


def large_functions(tree: ast.Module, forward_lines: int = FUNCTION_LINES) -> list[str]:
    """Return the functions that are too long, nested too deep, or take too many parameters."""
    wrong = []
    for function in functions(tree):
        assert function.end_lineno is not None
        lines = function.end_lineno - function.lineno + 1
        limit = forward_lines if function.name == "forward" else FUNCTION_LINES
        counts = {
            "lines": (lines, limit),
            "parameters": (len(parameters(function)), PARAMETERS),
            "deep": (depth(function.body), NESTING),
        }
        wrong += [
            f"{function.name} has {count} {what}" for what, (count, most) in counts.items() if count > most
        ]
    return wrong


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    arguments = function.args
    names = [item.arg for item in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return [name for name in names if name not in ("self", "cls")]


def depth(body: list[ast.stmt]) -> int:
    """Return how deep compound statements are nested in a body; `elif` counts as the `if` it belongs to."""
    return max((_depth_of(statement) for statement in body), default=0)


def _depth_of(statement: ast.stmt) -> int:
    if not isinstance(statement, COMPOUND):
        return 0
    other = list(getattr(statement, "orelse", []))
    if isinstance(statement, ast.If) and len(other) == 1 and isinstance(other[0], ast.If):
        return max(1 + depth(statement.body), _depth_of(other[0]))
    parts = [*getattr(statement, "handlers", []), *getattr(statement, "cases", [])]
    bodies = [getattr(statement, "body", []), other, getattr(statement, "finalbody", [])]
    return 1 + max(depth(body) for body in [*bodies, *(part.body for part in parts)])


@pytest.mark.parametrize("path", python_files(), ids=named)
def test_files_keep_the_limits(path):
    assert long_text(path.read_text(encoding="utf-8")) == []
    forward = FORWARD_LINES if named(path).startswith(f"{LIBRARY}/") else FUNCTION_LINES
    assert large_functions(parsed(path), forward) == []


def test_every_folder_is_looked_at():
    folders = {named(path).split("/")[0] for path in python_files()}
    assert {LIBRARY, "tests", "setup.py"} <= folders


def indented(levels: int) -> str:
    """A function with this many compound statements inside each other."""
    heads = ["if x:", "for x in y:", "with x:", "try:"]
    lines = [f"{'    ' * (n + 1)}{heads[n % 4]}" for n in range(levels)] + ["    " * (levels + 1) + "pass"]
    if levels >= 4:
        lines.append("                finally:\n                    pass")
    return "\n".join(["def f():", *lines])


def body(name: str, lines: int) -> str:
    return f"def {name}(self):\n" + "    pass\n" * (lines - 1)


def test_too_much_is_caught():
    assert long_text("x\n" * 401) == ["401 lines"]
    assert long_text("x" * 111) == ["line 1: 111 wide"]
    assert large_functions(ast.parse(body("f", 41))) == ["f has 41 lines"]
    assert large_functions(ast.parse(body("forward", 26)), FORWARD_LINES) == ["forward has 26 lines"]
    assert large_functions(ast.parse("def f(a, b, c, d, /, e, f, *, g, h, i): pass")) == [
        "f has 9 parameters"
    ]
    assert large_functions(ast.parse(indented(4))) == ["f has 4 deep"]
    inner = "class A:\n    def g(self):\n        def f(a, b, c, d, e, f, g, h, i): pass"
    assert large_functions(ast.parse(inner)) == ["f has 9 parameters"]


def test_just_enough_passes():
    assert long_text("x\n" * 400 + "") == []
    assert long_text("x" * 110) == []
    assert large_functions(ast.parse(body("f", 40))) == []
    assert large_functions(ast.parse(body("forward", 25)), FORWARD_LINES) == []
    assert large_functions(ast.parse("def f(self, a, b, c, d, e, *args, f, g, h, **kwargs): pass")) == []
    assert large_functions(ast.parse(indented(3))) == []


def test_elif_is_not_nesting_but_else_if_with_more_is():
    chain = "def f():\n    if a: pass\n    elif b: pass\n    elif c: pass\n    elif d: pass\n    else: pass"
    assert depth(ast.parse(chain).body[0].body) == 1
    deep = "def f():\n match a:\n  case 1:\n   try: pass\n   except E:\n    if b: pass"
    assert depth(ast.parse(deep).body[0].body) == 3
