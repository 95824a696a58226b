"""Every example says where the settings of its cache come from, and what it says holds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from videosys import TeaCacheConfig
from videosys.cache import Goal, NoCacheConfig, PABConfig, read_calibration
from videosys.models import load_family_config as read
from videosys.utils.checkpoint import resolve

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ORIGIN = re.compile(r"^cache:.*\n  name: \w+ +# (published|calibrated by us on [^:]+|not calibrated): ", re.M)
IDENTITY = (1.0, 0.0)


def is_found_here(path: Path) -> bool:
    """Whether a config's coefficients are those of the calibration beside its weights."""
    config = read(str(path), None, [])
    if not str(config.transformer).startswith("bundled:"):
        return False
    found = read_calibration(resolve(config.transformer) / "calibration.json").coefficients
    return isinstance(config.cache, TeaCacheConfig) and config.cache.coefficients == tuple(found)


@pytest.mark.parametrize(
    "path", sorted(EXAMPLES.rglob("*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_an_example_says_where_its_settings_come_from(path):
    cache = read(str(path), None, []).cache
    found = ORIGIN.search(path.read_text("utf-8"))
    if isinstance(cache, NoCacheConfig):
        assert found is None
        return
    origin = found[1].split()[0]
    is_naive = isinstance(cache, TeaCacheConfig) and cache.coefficients == IDENTITY
    assert (origin == "not") == is_naive
    assert (origin == "calibrated") == ((isinstance(cache, Goal) and cache.has_goal) or is_found_here(path))
    if origin == "published":
        assert isinstance(cache, PABConfig) or cache.threshold in (0.1, 0.2)
