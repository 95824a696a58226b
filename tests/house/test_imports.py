"""A folder imports only folders below it, and heavy libraries stay in the rooms that were given to them."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
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
    ("estimate",),  # the engine warns before it loads what will not fit
    ("engine",),
    ("__init__",),  # the public names
    ("tiny",),
    ("calibration",),  # nothing imports it
)
ROW_OF = {folder: number for number, row in enumerate(ROWS) for folder in row}

# External package -> the folders or files of the library that may import it.
RESERVED = {
    "torch.distributed": ("parallel", "engine"),
    "diffusers": ("schedulers", "models", "layers/autoencoder.py"),
    "transformers": ("text_encoders",),
    "omegaconf": ("config.py",),
}
TRAINING = "tiny"  # may use what it needs
TINY_CONFIG = f"{LIBRARY}.tiny.config"  # stands above the public names, and scripts may use it as one


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


def not_public(tree: ast.Module, module: str, public: set[str]) -> list[str]:
    """Return the imports of a script that reach behind the library's public names."""
    names = ((line, name) for line, name in imported(tree, module) if name.split(".")[0] == LIBRARY)
    allowed = {LIBRARY, TINY_CONFIG, *(f"{LIBRARY}.{name}" for name in public)}
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
    inside = path.relative_to(ROOT / LIBRARY)
    if inside.parts[0] != TRAINING:
        assert reserved(parsed(path), named(path), module_of(path)) == []


def test_every_folder_has_a_row():
    parts = {path.relative_to(ROOT / LIBRARY).parts[0].removesuffix(".py") for path in LIBRARY_FILES}
    assert parts <= ROW_OF.keys()


def test_scripts_use_the_public_names_only():
    import videosys

    assert SCRIPTS
    public = set(videosys.__all__)
    assert [line for path in SCRIPTS for line in not_public(parsed(path), module_of(path), public)] == []


START = """
import sys
import videosys
from videosys.config import load_config
for name in videosys.__all__:
    if name.endswith("Config"):
        getattr(videosys, name)
print(sorted({"diffusers", "transformers", "colossalai"} & sys.modules.keys()))
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
        ("videosys.tiny.train", "from videosys.calibration import fit"),
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
        ("videosys.calibration.fit", "from videosys.tiny import train\nfrom videosys import VideoSysEngine"),
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
        ("videosys/utils/video.py", "from omegaconf import OmegaConf"),
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
        ("videosys/config.py", "import omegaconf"),
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
    ],
)
def test_scripts_behind_the_public_names_are_caught(source):
    assert not_public(ast.parse(source), "examples.sample", {"load_config"})


def test_scripts_with_public_names_pass():
    tree = ast.parse("import videosys, os\nfrom videosys import load_config")
    assert not_public(tree, "examples.sample", {"load_config"}) == []
