"""What a killed process leaves looks like no video, and the next run removes it: only that, and only then."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from videosys import replacing, reserved_path
from videosys.calibration import Journal
from videosys.utils import owners, reservations
from videosys.utils.owners import current_owner, hidden_path, parse_owner
from videosys.utils.reservations import sweep
from videosys.utils.video import check_writable

HOLD = """
import sys, time
from pathlib import Path
from videosys.utils.files import replacing
from videosys.utils.names import reserved_path
with reserved_path(sys.argv[1], "a.mp4") as path, replacing(path) as temporary:
    temporary.write_bytes(b"half a video")
    with replacing(path.with_name("frames")) as folder:
        folder.mkdir()
        (folder / "frame_00000.png").touch()
        print("ready", flush=True)
        time.sleep(100)
"""


@pytest.fixture(scope="module")
def left(tmp_path_factory) -> Path:
    """A folder in which a process was killed while it wrote."""
    folder = tmp_path_factory.mktemp("left")
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        alive = sorted(folder.iterdir())
        sweep(folder)
        assert sorted(folder.iterdir()) == alive  # of a live process, nothing is touched
        with reserved_path(folder, "a.mp4") as path:
            assert path.name == "a_2.mp4"
        process.send_signal(signal.SIGKILL)
    return folder


@pytest.fixture
def folder(left, tmp_path) -> Path:
    """A copy of that folder, with the moments of its files."""
    subprocess.run(["cp", "-a", f"{left}/.", str(tmp_path)], check=True)
    return tmp_path


def test_it_looks_like_no_video(folder):
    names = [path.name for path in folder.iterdir()]
    assert len(names) == 3
    assert all(name.startswith(".videosys-") for name in names)


@pytest.mark.parametrize(
    "run",
    [
        lambda folder: check_writable(folder / "b.mp4"),
        lambda folder: replacing(folder / "b.json").__enter__(),
        lambda folder: Journal(folder, 1),
    ],
    ids=["check", "file", "journal"],
)
def test_the_next_run_removes_it(folder, run):
    run(folder)
    assert not [
        path for path in folder.iterdir() if str(current_owner()) not in path.name and path.name[0] == "."
    ]


def test_the_name_is_free_again(folder):
    with reserved_path(folder, "a.mp4") as path:
        assert path.name == "a.mp4"
        assert parse_owner(reservations.reservation_path(path).read_text()) == current_owner()


@pytest.mark.parametrize(
    "change",
    [
        {"machine": "00000000", "pid": 2**22 + 1},  # no such process here, but perhaps there
        {"namespace": 1, "pid": 2**22 + 1},
        {"boot": "00000000"},  # but written after this boot: somebody else's
        {},
    ],
    ids=lambda change: next(iter(change), "itself"),
)
def test_what_may_be_alive_is_kept(tmp_path, monkeypatch, change):
    owner = dataclasses.replace(current_owner(), **change)
    path = tmp_path / f".videosys-{owner}-0123456789ab.mp4"
    path.touch()
    reservations.reservation_path(tmp_path / "a.mp4").write_text(str(owner))
    sweep(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    with reserved_path(tmp_path, "a.mp4") as taken:
        assert taken.name == "a_2.mp4"


@pytest.mark.parametrize("change", [{"pid": 2**22 + 1}, {"start": 1}, {"boot": "00000000"}])
def test_what_is_dead_is_removed(tmp_path, change):
    owner = dataclasses.replace(current_owner(), **change)
    path = tmp_path / f".videosys-{owner}-0123456789ab.mp4"
    path.touch()
    before_boot = owners.boot_time() - 10
    os.utime(path, (before_boot, before_boot))
    sweep(tmp_path)
    assert not path.exists()


def test_of_others_nothing_is_touched(tmp_path, monkeypatch):
    dead = dataclasses.replace(current_owner(), pid=2**22 + 1)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "thesis.txt").touch()
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / f".videosys-{dead}-0123456789ab").symlink_to(outside)
    for name in (".videosys-notes.txt", f".videosys-{dead}-short.mp4", ".hidden.mp4", "a.mp4"):
        (folder / name).touch()
    sweep(folder)
    assert len(list(folder.iterdir())) == 5
    assert (outside / "thesis.txt").exists()
    theirs = folder / f".videosys-{dead}-ba9876543210.mp4"
    theirs.touch()
    monkeypatch.setattr("os.getuid", lambda: 12345)
    sweep(folder)
    assert theirs.exists()


def test_names_are_short_and_say_whose_they_are(tmp_path):
    name = hidden_path(tmp_path / ("x" * 250 + ".mp4")).name
    assert len(name) < 120
    assert parse_owner(name.removeprefix(owners.PREFIX)) == current_owner()
    assert owners.boot_time() < time.time()


def test_only_one_takes_over_a_dead_reservation(folder):
    with reserved_path(folder, "a.mp4") as first, reserved_path(folder, "a.mp4") as second:
        assert (first.name, second.name) == ("a.mp4", "a_2.mp4")


def test_an_empty_folder_that_was_a_name_goes_with_its_reservation(tmp_path):
    dead = dataclasses.replace(current_owner(), pid=2**22 + 1)
    for name in ("frames", "full"):
        (tmp_path / name).mkdir()
        reservations.reservation_path(tmp_path / name).write_text(f"{dead} {name}")
    (tmp_path / "full" / "frame_00000.png").touch()
    reservations.reservation_path(tmp_path / "x").write_text(f"{dead} ../{tmp_path.name}")
    with reserved_path(tmp_path, "frames") as path:
        assert path.name == "frames"
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_a_name_taken_meanwhile_is_not_used(tmp_path, monkeypatch):
    (tmp_path / "a.mp4").write_bytes(b"video")
    assert not reservations.reserve(tmp_path / "a.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("name", ["x" * 300, "x" * 300 + ".mp4"])
def test_a_name_that_no_folder_takes_ends_the_search_for_a_free_one(tmp_path, name):
    with reserved_path(tmp_path, name) as path:
        assert path.name == name  # saving raises the error
    assert list(tmp_path.iterdir()) == []
