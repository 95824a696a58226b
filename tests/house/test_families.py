"""A model family is known to its own folder only; everybody else reads its record."""

from __future__ import annotations

import ast

import pytest

from tests.house.source import LIBRARY, ROOT, named, parsed, python_files
from tests.house.test_imports import imported, module_of
from videosys.models import FAMILIES, FOLDERS

MODELS = f"{LIBRARY}.models"
SHARED = ("pixart", "family")  # what several families may use
LOW = ("cache", "config", "layers", "metrics", "parallel", "schedulers", "text_encoders", "utils")
PUBLIC_NAMES = f"{LIBRARY}/__init__.py"
OUTSIDE = [path for path in python_files(LIBRARY) if not named(path).startswith(f"{LIBRARY}/models/")]
INSIDE = [path for path in python_files(LIBRARY) if named(path).startswith(f"{LIBRARY}/models/")]


def family_imports(tree: ast.Module, module: str) -> list[str]:
    """What a module imports of the families' folders."""
    folders = tuple(f"{MODELS}.{folder}." for folder in (*FOLDERS, "pixart"))
    return [name for _, name in imported(tree, module) if f"{name}.".startswith(folders)]


def sibling_imports(tree: ast.Module, module: str) -> list[str]:
    """What a file of one family imports of another's folder."""
    own = module.split(".")[2]
    return [name for name in family_imports(tree, module) if name.split(".")[2] not in (own, *SHARED)]


@pytest.mark.parametrize("path", OUTSIDE, ids=named)
def test_no_other_folder_imports_a_family(path):
    if named(path) != PUBLIC_NAMES:
        assert family_imports(parsed(path), module_of(path)) == []


@pytest.mark.parametrize("path", OUTSIDE, ids=named)
def test_no_other_folder_names_a_config_of_a_family(path):
    names = {family.config.__name__ for family in FAMILIES.values()}
    used = {node.id for node in ast.walk(parsed(path)) if isinstance(node, ast.Name)}
    assert named(path) == PUBLIC_NAMES or not used & names


@pytest.mark.parametrize("path", INSIDE, ids=named)
def test_families_are_siblings(path):
    parts = path.relative_to(ROOT / LIBRARY / "models").parts
    if len(parts) > 1:
        assert sibling_imports(parsed(path), module_of(path)) == []


@pytest.mark.parametrize("path", INSIDE, ids=named)
def test_modules_of_a_model_import_nothing_that_runs_them(path):
    """Transformers and autoencoders know layers, not the pipeline."""
    if path.stem.endswith(("transformer", "autoencoder", "autoencoder_layers", "latte_t2v")):
        ours = [name for _, name in imported(parsed(path), module_of(path)) if name.startswith(f"{LIBRARY}.")]
        assert [name for name in ours if not name.startswith(MODELS) and name.split(".")[1] not in LOW] == []


def test_imports_of_families_are_seen():
    source = "from videosys.models.latte.config import LatteConfig\nfrom videosys.models import FAMILIES"
    assert family_imports(ast.parse(source), "videosys.engine.engine") == [
        "videosys.models.latte.config.LatteConfig"
    ]
    assert sibling_imports(ast.parse(source), "videosys.models.opensora.pipeline")
    assert not sibling_imports(ast.parse(source), "videosys.models.latte.pipeline")
