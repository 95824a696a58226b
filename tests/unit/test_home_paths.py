"""Paths that begin with ~: the shell leaves them in `output=~/videos` and `--out=~/x`."""

from __future__ import annotations

import argparse

import pytest
import torch

from videosys import check_writable, reserved_path, save_video
from videosys.utils.command import path_argument


def test_paths_with_a_tilde_are_those_of_the_home_folder(tmp_path, monkeypatch):
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    with reserved_path("~/videos", "a.mp4") as path:
        assert path == home / "videos" / "a.mp4"
    video = torch.zeros(2, 16, 16, 3, dtype=torch.uint8)
    check_writable("~/videos/a.mp4", (2, 16, 16))
    assert save_video(video, "~/videos/a.mp4", fps=8) == home / "videos" / "a.mp4"
    with pytest.raises(ValueError, match="already exists"):
        save_video(video, "~/videos/a.mp4", fps=8, overwrite=False)
    assert path_argument("~/x") == home / "x"
    with pytest.raises(argparse.ArgumentTypeError, match="this user has no home"):
        path_argument("~nosuchuser/x")
    assert list(here.iterdir()) == []
