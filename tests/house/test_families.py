"""A model family is known to its own folder only; everybody else reads its record."""

from __future__ import annotations

import ast

import pytest

import videosys
from tests.house.source import LIBRARY, ROOT, named, parsed, python_files
from tests.house.test_imports import imported, module_of
from videosys import tiny
from videosys.models import FAMILIES, FOLDERS

MODELS = f"{LIBRARY}.models"
SHARED = ("pixart", "family")  # what several families may use
LOW = ("cache", "config", "layers", "metrics", "parallel", "schedulers", "text_encoders", "utils")
PUBLIC_NAMES = f"{LIBRARY}/__init__.py"
# The bundled Wan of diffusers' class was trained on the latents of a bundled autoencoder of ours.
TINY_WAN = f"{LIBRARY}/diffusers/tiny.py"
OUTSIDE = [path for path in python_files(LIBRARY) if not named(path).startswith(f"{LIBRARY}/models/")]
INSIDE = [path for path in python_files(LIBRARY) if named(path).startswith(f"{LIBRARY}/models/")]

NAMES = {family.name for family in FAMILIES.values()} | {*tiny.bundled()}
# What the package exports of the families' folders.
FAMILY_MODULES = tuple(f"{MODELS}.{folder}." for folder in (*FOLDERS, "pixart"))
PARTS = {
    name
    for name in videosys.__all__
    if str(getattr(getattr(videosys, name), "__module__", "")).startswith(FAMILY_MODULES)
}
# Scripts of one family: its videos for the paper's table, and how its own kind of autoencoder was trained.
OWN = (
    *(f"eval/teacache/experiments/{name}.py" for name in FAMILIES),
    "eval/training/latte_vae.py",
    "eval/training/train_causal_vae.py",
    "eval/training/train_transformer.py",
    "eval/training/train_vae.py",
    "eval/training/wan_start.py",
)
EVALUATION = [path for path in python_files("eval") if named(path) not in OWN]


def strings(tree: ast.Module) -> set[str]:
    """The strings that a module writes out."""
    found = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return {value for value in found if isinstance(value, str)}


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
    if named(path) not in (PUBLIC_NAMES, TINY_WAN):
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


@pytest.mark.parametrize("path", OUTSIDE, ids=named)
def test_no_other_folder_names_a_family(path):
    assert named(path) == PUBLIC_NAMES or not strings(parsed(path)) & NAMES


@pytest.mark.parametrize("path", EVALUATION, ids=named)
def test_the_evaluation_has_no_table_of_families(path):
    """What cannot be asked of a family is data, in a JSON file."""
    tree = parsed(path)
    assert not strings(tree) & (NAMES | PARTS)
    assert not {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} & PARTS


def test_tables_of_families_are_seen():
    for source in ('{"latte": 1}', 'if model == "opensora": pass', 'NAMES = ("LatteT2V", "STDiT3")'):
        assert strings(ast.parse(source)) & (NAMES | PARTS)
    assert {"STDiT3", "LatteT2VConfig", "OpenSoraVAE", "CausalVAE", "OpenSoraPlanConfig"} <= PARTS


def test_imports_of_families_are_seen():
    source = "from videosys.models.latte.config import LatteConfig\nfrom videosys.models import FAMILIES"
    assert family_imports(ast.parse(source), "videosys.engine.engine") == [
        "videosys.models.latte.config.LatteConfig"
    ]
    assert sibling_imports(ast.parse(source), "videosys.models.opensora.pipeline")
    assert not sibling_imports(ast.parse(source), "videosys.models.latte.pipeline")
