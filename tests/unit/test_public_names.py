"""What a type checker sees of the package is what there is."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import videosys


def test_type_checkers_see_every_public_name_at_its_home():
    tree = ast.parse(Path(videosys.__file__).read_text(encoding="utf-8"))
    (block,) = [
        node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    seen = {
        item.asname: getattr(importlib.import_module(line.module), item.name)
        for line in block.body
        for item in line.names
    }
    assert seen == {name: getattr(videosys, name) for name in videosys.__all__}
