"""The project's own files, parsed: what the house rules read."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = "videosys"
CODE_FOLDERS = (LIBRARY, "eval", "examples", "tests")
TEXT_FOLDERS = (*CODE_FOLDERS, "docs", ".ci")
TEXT_SUFFIXES = frozenset({"", ".py", ".md", ".yaml", ".yml", ".toml", ".txt", ".json", ".cfg", ".typed"})


def python_files(*folders: str) -> list[Path]:
    """Return the Python files below these folders of the project, setup.py with the last of them all."""
    files = [path for folder in folders or CODE_FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    return files if folders else [*files, ROOT / "setup.py"]


def text_files() -> list[Path]:
    """Return every text file of the project."""
    inside = (path for folder in TEXT_FOLDERS for path in (ROOT / folder).rglob("*"))
    files = [*ROOT.iterdir(), *inside]
    return sorted(
        path
        for path in files
        if path.is_file()
        and path.suffix in TEXT_SUFFIXES
        and not {"__pycache__", ".git"} & {*path.parts}
        and not path.name.startswith(".coverage")  # what a measurement of coverage leaves
    )


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield every function and method, nested ones included."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def dotted(node: ast.AST) -> str:
    """Return `a.b.c` of a name or attribute, or nothing for other expressions."""
    if isinstance(node, ast.Attribute):
        owner = dotted(node.value)
        return f"{owner}.{node.attr}" if owner else ""
    return node.id if isinstance(node, ast.Name) else ""
