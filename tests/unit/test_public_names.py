"""What a type checker sees of the package is what there is."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import videosys


def test_type_checkers_see_every_public_name_at_its_home():
    stub = Path(videosys.__file__).with_suffix(".pyi")
    lines = [
        node for node in ast.parse(stub.read_text(encoding="utf-8")).body if isinstance(node, ast.ImportFrom)
    ]
    # Only `name as name` is public in a stub.
    seen = {
        item.asname: getattr(importlib.import_module(f"videosys.{line.module}"), item.name)
        for line in lines
        for item in line.names
    }
    assert seen == {name: getattr(videosys, name) for name in videosys.__all__}
