"""Where kernels in Triton can run."""

from __future__ import annotations

import pytest
import torch

from videosys.utils import triton

CUDA = torch.device("cuda")


@pytest.fixture
def here(monkeypatch):
    """All that launches a kernel."""
    monkeypatch.setattr(triton, "find_spec", lambda name: object())
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
