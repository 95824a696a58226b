"""Where kernels in Triton can run."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from videosys.utils import triton

CUDA = torch.device("cuda")


@pytest.fixture
def here(monkeypatch):
    """All that launches a kernel."""
    monkeypatch.setattr(triton, "find_spec", lambda name: SimpleNamespace(origin=None))
    monkeypatch.setattr(triton.shutil, "which", lambda name: f"/usr/bin/{name}" if name == "gcc" else None)
    monkeypatch.setattr(triton.Path, "is_file", lambda path: path.name == "Python.h")
    monkeypatch.delenv("CC", raising=False)


def test_triton_a_compiler_and_headers_are_needed(here, monkeypatch):
    assert triton.can_launch()
    monkeypatch.setenv("CC", "icc")
    assert not triton.can_launch()
    monkeypatch.setenv("CC", "gcc")
    assert triton.can_launch()
    monkeypatch.setattr(triton, "find_spec", lambda name: None)
    assert not triton.can_launch()


@pytest.mark.parametrize(
    ("line", "is_new"),
    [
        ("__version__ = '3.2.0'", False),  # of torch 2.6: takes no tuples
        ("__version__ = '3.3.1'", False),
        ("__version__ = '3.4.0'", True),
        ('__version__ = "3.10.0+git1"', True),
        ("__version__ = '4.0.0'", True),
        ("from .version import __version__", True),
    ],
)
def test_triton_must_be_new_enough(line, is_new, tmp_path, monkeypatch):
    file = tmp_path / "__init__.py"
    file.write_text(f'"""isort:skip_file"""\n{line}\n\nfrom . import language\n')
    monkeypatch.setattr(triton, "find_spec", lambda name: SimpleNamespace(origin=str(file)))
    assert triton.has_triton() is is_new


def test_the_installed_triton_is_new_enough():
    module = pytest.importorskip("triton")
    version = tuple(map(int, module.__version__.split(".")[:2]))
    assert triton.has_triton() is (version >= triton.OLDEST_TRITON)


def test_headers_of_python_are_needed(here, monkeypatch):
    monkeypatch.setattr(triton.Path, "is_file", lambda path: False)
    assert not triton.can_launch()


@pytest.mark.parametrize(
    ("capability", "is_here", "runs"),
    [((9, 0), True, True), ((8, 0), True, True), ((7, 5), True, False), ((9, 0), False, False)],
)
def test_cards_of_ampere_and_newer_run_them(capability, is_here, runs, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(triton, "CAN_LAUNCH", is_here)
    assert triton.runs_triton(CUDA) is runs
    assert not triton.runs_triton(torch.device("cpu"))


def test_no_card_runs_none(monkeypatch):
    monkeypatch.setattr(triton, "CAN_LAUNCH", True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not triton.runs_triton(CUDA)
