"""Files that a user names: whatever they are, content or one ValueError that names them, without waiting."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from videosys import OpenSoraConfig, check_writable, load_config, read_video
from videosys.cache import read_calibration
from videosys.calibration import Journal, check_place
from videosys.models.opensora.references import load_reference
from videosys.utils.checkpoint import read_config
from videosys.utils.hub import resolve
from videosys.utils.reading import MAX_DEPTH, expanded, load_json, read_text
from videosys.utils.weights import load_state_dict

PATHS = ["~nosuchuser/x", "x" * 5000, "x" * 300, "a\0b"]
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"


@pytest.fixture
def folder(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "zero").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(tmp_path)  # a socket's name must be short
        server.bind("socket")
    return tmp_path


@pytest.fixture(autouse=True)
def same_place(monkeypatch):
    monkeypatch.chdir(os.getcwd())


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path[:12])
def test_a_path_that_cannot_be_is_one_error(path):
    readers = (
        expanded,
        read_text,
        resolve,
        read_video,
        check_place,
        read_calibration,
        lambda path: load_config(OpenSoraConfig, path),
        lambda path: load_reference(path, 8, 8),
        lambda path: check_writable(Path(path) / "a.mp4"),
    )
    for read in readers:
        with pytest.raises(ValueError) as caught:
            read(Path(path))
        assert len(str(caught.value)) < 400
        assert "\0" not in str(caught.value)


@pytest.mark.parametrize("name", ["pipe", "loop", "zero", "socket", ""])
def test_only_regular_files_are_read(folder, name):
    readers = (read_text, load_json, read_calibration, lambda path: load_config(OpenSoraConfig, path))
    for read in readers:
        with pytest.raises(ValueError, match="cannot be read"):
            read(folder / name)


def test_no_more_is_read_than_the_limit(tmp_path):
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 40)  # it has no blocks
    with pytest.raises(ValueError, match="larger than the limit of 16 MiB"):
        read_text(tmp_path / "large")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 5000 + "1" + "}" * 5000, "[" * 101 + "]" * 101])
def test_deep_json_is_one_error_everywhere(tmp_path, text):
    for name in ("config.json", "model.safetensors.index.json", "journal.jsonl"):
        (tmp_path / name).write_text(text + "\n")
    readers = (
        lambda: load_json(tmp_path / "config.json"),
        lambda: read_config(OpenSoraConfig, tmp_path),
        lambda: read_calibration(tmp_path / "config.json"),
        lambda: load_state_dict(tmp_path),
        lambda: Journal(tmp_path, 1),
    )
    for read in readers:
        with pytest.raises(ValueError, match=f"nested deeper than {MAX_DEPTH}"):
            read()


@pytest.mark.parametrize("text", ['{"a": 1, "b": 2, "a": 1}', '{"b": [{"a": 1, "a": 2}]}'])
def test_a_key_given_twice_is_one_error_everywhere(tmp_path, text):
    for name in ("config.json", "model.safetensors.index.json"):
        (tmp_path / name).write_text(text)
    readers = (
        lambda: read_config(OpenSoraConfig, tmp_path),
        lambda: read_calibration(tmp_path / "config.json"),
        lambda: load_state_dict(tmp_path),
    )
    for read in readers:
        with pytest.raises(ValueError, match=r"\.json: .*the key 'a' is given twice"):
            read()


def test_json_of_the_allowed_depth_is_read(tmp_path):
    (tmp_path / "a.json").write_text("\ufeff" + "[" * MAX_DEPTH + "]" * MAX_DEPTH)
    assert json.dumps(load_json(tmp_path / "a.json")) == "[" * MAX_DEPTH + "]" * MAX_DEPTH


@pytest.mark.parametrize("number", ["9" * 400, "-" + "9" * 400, "9" * 5000])
def test_a_number_that_no_float_holds_names_its_key(tmp_path, number):
    (tmp_path / "a.yaml").write_text(f"guidance_scale: {number}")
    with pytest.raises(ValueError, match=r"a\.yaml: .*guidance_scale"):
        load_config(OpenSoraConfig, tmp_path / "a.yaml")
    with pytest.raises(ValueError, match="guidance_scale"):
        load_config(OpenSoraConfig, None, [f"guidance_scale={number}"])
