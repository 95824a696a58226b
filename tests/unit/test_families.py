"""What a family from outside must be, and the config files that are of one."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from videosys import FAMILIES, LatteConfig, OpenSoraConfig, load_family_config, register_family
from videosys.generation.parts import PartFinder

ROOT = Path(__file__).resolve().parents[2]
LATTE = FAMILIES["latte"]


class Undecorated(LatteConfig):
    extra: int = 3


@dataclass(frozen=True)
class OwnConfig(LatteConfig):
    extra: int = 3


@pytest.mark.parametrize("config", [Undecorated, OwnConfig(), "LatteConfig", None, dict])
def test_a_config_that_would_ignore_its_fields_is_refused(config):
    with pytest.raises(ValueError, match=r"family 'mine': config is .*must be a class with @dataclass\(froz"):
        replace(LATTE, name="mine", config=config)


def test_a_config_class_belongs_to_one_family():
    with pytest.raises(ValueError, match="families 'mine' and 'latte' have the same config LatteConfig"):
        register_family(replace(LATTE, name="mine"))
    with pytest.raises(ValueError, match="family 'latte' already exists"):
        register_family(replace(LATTE))
    register_family(LATTE)
    assert "mine" not in FAMILIES
    assert replace(LATTE, name="mine", config=OwnConfig).config(extra=4).extra == 4


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder"])
def test_a_source_that_is_not_set_is_named(part):
    finder = PartFinder(OpenSoraConfig())
    with pytest.raises(ValueError, match=f"{part} is null; it must be a folder or a hub id"):
        finder.text_encoder(None, 10) if part == "text_encoder" else finder.folder(part, None)
    missing = PartFinder(OpenSoraConfig(), may_be_missing=True)
    assert missing.folder(part, None) is None
    assert missing.missing == [f"{part} (not set)"]


PACKAGE = """
from dataclasses import dataclass, replace
from videosys import FAMILIES, LatteConfig, register_family

@dataclass(frozen=True)
class TheirConfig(LatteConfig):
    extra: int = 3

register_family(replace(FAMILIES["latte"], name="theirs", config=TheirConfig))
"""
SETTINGS = """
import pathlib
from their_family import TheirConfig
runs = pathlib.Path(__file__).with_name("runs")
runs.write_text(runs.read_text() + "x" if runs.exists() else "x")
config = TheirConfig(extra=5, seed=1)
"""


def test_a_python_file_registers_its_family_and_is_run_once(tmp_path):
    """In a process of its own: what is registered stays."""
    (tmp_path / "their_family.py").write_text(PACKAGE)
    (tmp_path / "settings.py").write_text(SETTINGS)
    source = """
        from videosys import load_family_config
        config = load_family_config("settings.py", overrides=["extra=7"])
        print(type(config).__name__, config.extra, config.seed)
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stdout == "TheirConfig 7 1\n", done.stderr
    assert (tmp_path / "runs").read_text() == "x"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("config = 3", "must set `config` to a PipelineConfig, got int"),
        (
            "from tests.unit.test_families import OwnConfig\nconfig = OwnConfig()",
            "config is a OwnConfig; ",
        ),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_python_file_of_no_family_is_one_error(tmp_path, source, message):
    (tmp_path / "settings.py").write_text(source)
    with pytest.raises(ValueError, match=message):
        load_family_config(tmp_path / "settings.py")
