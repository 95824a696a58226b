"""A folder imports only folders below it, and heavy libraries stay in the rooms that were given to them."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator, Set
from pathlib import Path

import pytest

from tests.house.source import LIBRARY, ROOT, dotted, named, parsed, python_files

# Row by row, the lowest first. Neighbours in a row do not import each other.
ROWS = (
    ("utils",),
    ("config", "metrics"),
    ("cache", "parallel"),
    ("layers",),
    ("text_encoders", "schedulers"),
    ("generation",),
    ("models",),
    ("estimate", "tiny"),  # the engine warns before it loads: of what will not fit, of unknown words
    ("engine",),
    ("pipelines",),
    ("__init__",),  # the public names
    ("calibration",),
    ("diffusers",),  # the adapter; nothing imports it
    ("serve",),
    ("cli",),
    ("__main__",),
)
ROW_OF = {folder: number for number, row in enumerate(ROWS) for folder in row}

# External package -> the folders or files of the library that may import it.
RESERVED = {
    "torch.distributed": ("parallel", "engine"),
    "diffusers": ("schedulers", "models", "layers/autoencoder.py", "diffusers"),
    "transformers": ("text_encoders",),
    "yaml": ("utils/yaml12.py", "config.py"),
    "omegaconf": ("config.py",),
    "fastapi": ("serve",),
    "sqlalchemy": ("serve",),
    "ray": ("serve",),
}
# Packages whose `__all__` is made for scripts: in eval/ and examples/ no other name of the library is used.
PACKAGES = ("", ".calibration", ".diffusers", ".estimate", ".metrics", ".serve", ".tiny", ".tiny.words")
# Training takes captions down the sampling path itself, and begins from parts of the published models.
TRAINING = "eval.training"
TRAINING_NAMES = frozenset(
    {
        "videosys.layers.embeddings.sinusoid",
        "videosys.models.open_sora_plan.autoencoder.V120",
        "videosys.text_encoders.cleaning.clean_prompt",
        "videosys.text_encoders.cleaning.prepare_prompt",
        "videosys.text_encoders.t5.load_tokenizer",
    }
)


def imported(tree: ast.Module, module: str) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of all that a module imports, also inside functions and by `a.b.c`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Attribute) and dotted(node).startswith(tuple(RESERVED)):
            yield node.lineno, dotted(node)
        elif isinstance(node, ast.Call) and dotted(node.func).endswith("import_module"):
            yield from ((node.lineno, argument.value) for argument in node.args[:1] if _is_text(argument))


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def folder_of(name: str) -> str:
    """Return the part of the library that a dotted name lies in, `__init__` for a public name."""
    part = name.split(".")[1] if "." in name else "__init__"
    return part if part in ROW_OF else "__init__"


def upward(tree: ast.Module, module: str) -> list[str]:
    """Return the imports of a library module that go up or sideways."""
    own = folder_of(module)
    wrong = []
    for line, name in imported(tree, module):
        other = folder_of(name)
        ours = name.split(".")[0] == LIBRARY
        if ours and other != own and ROW_OF[other] >= ROW_OF[own]:
            wrong.append(f"{module}:{line} imports {name}: {own} may not import {other}")
    return wrong


def reserved(tree: ast.Module, path: str, module: str) -> list[str]:
    """Return the imports of external packages outside the rooms given to them."""
    inside = path.removeprefix(f"{LIBRARY}/")
    banned = [name for name, rooms in RESERVED.items() if not {inside, inside.split("/")[0]} & {*rooms}]
    names = imported(tree, module)
    return [
        f"{path}:{n} imports {name}" for n, name in names for b in banned if f"{name}.".startswith(f"{b}.")
    ]


def public_names() -> set[str]:
    """Return the dotted names that scripts may import."""
    names = [f"{LIBRARY}{part}" for part in PACKAGES]
    every = [f"{name}.{public}" for name in names for public in importlib.import_module(name).__all__]
    return {*names, *every}


def not_public(tree: ast.Module, module: str, public: Set[str]) -> list[str]:
    """Return the imports of a script that reach behind the library's public names."""
    names = ((line, name) for line, name in imported(tree, module) if name.split(".")[0] == LIBRARY)
    allowed = public | (TRAINING_NAMES if module.startswith(f"{TRAINING}.") else set())
    return [f"{module}:{line} imports {name}" for line, name in names if name not in allowed]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


LIBRARY_FILES = python_files(LIBRARY)
SCRIPTS = python_files("eval", "examples")


@pytest.mark.parametrize("path", LIBRARY_FILES, ids=named)
def test_folders_import_only_lower_rows(path):
    assert upward(parsed(path), module_of(path)) == []


@pytest.mark.parametrize("path", LIBRARY_FILES, ids=named)
def test_packages_stay_in_their_rooms(path):
    assert reserved(parsed(path), named(path), module_of(path)) == []


def test_every_folder_has_a_row():
    parts = {path.relative_to(ROOT / LIBRARY).parts[0].removesuffix(".py") for path in LIBRARY_FILES}
    assert parts <= ROW_OF.keys()


def test_scripts_use_the_public_names_only():
    assert SCRIPTS
    public = public_names()
    assert [line for path in SCRIPTS for line in not_public(parsed(path), module_of(path), public)] == []


def test_what_training_may_use_it_uses():
    trees = ((parsed(path), module_of(path)) for path in SCRIPTS)
    names = {name for tree, module in trees for _, name in imported(tree, module)}
    assert names >= TRAINING_NAMES


START = """
import sys
import videosys
from videosys.config import load_config
for name in videosys.__all__:
    if name.endswith("Config"):
        getattr(videosys, name)
print(sorted({"diffusers", "transformers", "colossalai", "triton", "ray"} & sys.modules.keys()))
"""


def test_importing_the_library_imports_no_heavy_package():
    done = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("videosys.layers.rope", "from videosys.models.opensora.transformer import STDiT3"),
        ("videosys.layers.rope", "import videosys.models.opensora.transformer as m"),
        ("videosys.layers.rope", "from videosys import models"),
        ("videosys.layers.rope", "from videosys import VideoSysEngine"),
        ("videosys.layers.rope", "import videosys"),
        ("videosys.layers.rope", "def f():\n    from ..engine import engine"),
        ("videosys.layers.rope", "from .. import generation"),
        ("videosys.layers.rope", "importlib.import_module('videosys.models.opensora.transformer')"),
        ("videosys.generation.denoise", "from videosys.models import family"),
        ("videosys.cache.base", "from videosys.parallel import Parallel"),
        ("videosys.config", "from videosys.metrics import psnr"),
        ("videosys.utils.video", "from videosys.config import load_config"),
        ("videosys.tiny.words", "from videosys.calibration import fit"),
        ("videosys.__init__", "from videosys.calibration import fit"),
    ],
)
def test_upward_imports_are_caught(module, source):
    assert len(upward(ast.parse(source), module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "videosys.models.opensora.transformer",
            "from videosys.layers.rope import Rotary\nimport videosys.cache",
        ),
        (
            "videosys.models.opensora.transformer",
            "from .latte import LatteT2V\nfrom ..layers import rope\nimport torch",
        ),
        ("videosys.config", "from videosys.utils.typed import convert"),
        ("videosys.calibration.fit", "from videosys.tiny import config\nfrom videosys import VideoSysEngine"),
    ],
)
def test_downward_imports_pass(module, source):
    assert upward(ast.parse(source), module) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("videosys/models/opensora/transformer.py", "import torch.distributed as dist"),
        ("videosys/models/opensora/transformer.py", "from torch import distributed"),
        ("videosys/models/opensora/transformer.py", "from torch.distributed.device_mesh import DeviceMesh"),
        ("videosys/cache/base.py", "def f():\n    return torch.distributed.get_rank()"),
        ("videosys/generation/denoise.py", "from diffusers import DDIMScheduler"),
        ("videosys/generation/offload.py", "def f():\n    import diffusers"),
        ("videosys/engine/engine.py", "def f():\n    import transformers"),
        ("videosys/utils/video.py", "import yaml"),
        ("videosys/cli.py", "def f():\n    from fastapi import FastAPI"),
        ("videosys/engine/submit.py", "import sqlalchemy as sql"),
        ("videosys/engine/pool.py", "def f():\n    import ray"),
    ],
)
def test_packages_outside_their_rooms_are_caught(path, source):
    assert reserved(ast.parse(source), path, path.removesuffix(".py").replace("/", "."))


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("videosys/parallel/mesh.py", "import torch.distributed as dist\ndist.get_rank()"),
        ("videosys/models/opensora/autoencoder.py", "import diffusers"),
        ("videosys/layers/autoencoder.py", "import diffusers"),
        ("videosys/utils/yaml12.py", "import yaml"),
        ("videosys/models/opensora/transformer.py", "import torch\ntorch.distributions.Normal(0, 1)"),
    ],
)
def test_packages_in_their_rooms_pass(path, source):
    assert reserved(ast.parse(source), path, path.removesuffix(".py").replace("/", ".")) == []


@pytest.mark.parametrize(
    "source",
    [
        "from videosys.utils.video import save_video",
        "from videosys import hidden",
        "import videosys.engine.engine",
        "def f():\n    from videosys.models.opensora.transformer import transformer as opensora",
        "from videosys.calibration.study import Study",
        "from videosys.text_encoders.t5 import load_tokenizer",
    ],
)
def test_scripts_behind_the_public_names_are_caught(source):
    assert not_public(ast.parse(source), "examples.sample", public_names())


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("examples.sample", "import videosys, os\nfrom videosys import load_config"),
        ("eval.policies.contest", "from videosys.calibration import Study\nfrom videosys import tiny"),
        ("eval.training.train", "from videosys.text_encoders.t5 import load_tokenizer"),
    ],
)
def test_scripts_with_public_names_pass(module, source):
    assert not_public(ast.parse(source), module, public_names()) == []
