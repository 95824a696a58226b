"""The versions that setup.py declares are those that are tested: the lowest by .ci/oldest, others by CI."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def pinned(path: Path) -> dict[str, str]:
    """Versions by package."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if re.fullmatch(r"[\w-]+==[\w.]+", line))


def declared() -> dict[str, str]:
    """The lowest versions of the packages that are always needed."""
    source = (ROOT / "setup.py").read_text(encoding="utf-8")
    needed = source[source.index("DEPENDENCIES = [") : source.index("]\n")]
    return dict(re.findall(r'"([\w-]+)(?:\[\w+\])?>=([\w.]+)', needed))


def numbers(version: str) -> list[int]:
    made = [int(part) for part in version.split(".")]
    return made + [0] * (3 - len(made))


def test_the_oldest_versions_are_those_that_are_declared():
    oldest = pinned(ROOT / ".ci" / "constraints-oldest.txt")
    lowest = declared()
    assert len(lowest) > 15
    assert oldest.keys() == lowest.keys()
    assert {name: numbers(version) for name, version in oldest.items()} == {
        name: numbers(version) for name, version in lowest.items()
    }


def test_the_newest_versions_are_as_declared():
    newest = pinned(ROOT / "constraints.txt")
    for name, lowest in declared().items():
        if name in newest:
            assert numbers(re.sub(r"[^\d.].*", "", newest[name])) >= numbers(lowest), name


SCRIPT = """
import sys
import torch
from videosys import LatteVAE, LatteVAEConfig

seen = []


class Finder:
    def find_spec(self, name, *_):
        if name == "diffusers":
            seen.append(torch.empty(0).device.type)


assert "diffusers" not in sys.modules
sys.meta_path.insert(0, Finder())
with torch.device("meta"):
    LatteVAE(LatteVAEConfig(block_out_channels=(32,), layers_per_block=1))
print(seen)
"""


def test_diffusers_is_imported_on_the_cpu_where_a_model_is_built_on_meta():
    """Its modules compute with tensors: on meta, torch before 2.9 ends the import with an error."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "['cpu']", done.stderr[-500:]
