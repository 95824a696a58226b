"""Checkpoint sources: a folder here or an id on the hub, which is never asked for real."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from huggingface_hub import errors

from videosys.utils.checkpoint import resolve


def test_resolve_local_folders(tmp_path, caplog):
    (tmp_path / "vae").mkdir()
    assert resolve(str(tmp_path)) == tmp_path
    assert resolve(tmp_path, subfolder="vae") == tmp_path / "vae"
    assert resolve(tmp_path, revision="main") == tmp_path
    assert "revision main has no effect" in caplog.text


@pytest.mark.parametrize(
    "source", ["no-such-folder", "/no/such/folder", "a/b/c", "~/nothing-here", "a b/c", "", " "]
)
def test_resolve_refuses_what_is_neither_folder_nor_id(source, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="neither a local folder nor a hub id"):
        resolve(source)


def test_resolve_refuses_files_and_foreign_subfolders(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        resolve(tmp_path / "file")
    with pytest.raises(ValueError, match="has no folder 'vae'"):
        resolve(tmp_path, subfolder="vae")
    for subfolder in ("..", "a/../../b", "/etc"):
        with pytest.raises(ValueError, match="must stay inside"):
            resolve(tmp_path, subfolder=subfolder)


def test_resolve_asks_the_hub(tmp_path, monkeypatch):
    asked = {}

    def fetch(name, **arguments):
        asked.update(arguments, name=name)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    (tmp_path / "vae").mkdir()
    folder = resolve("owner/name", revision="v1", subfolder="vae", offline=True, patterns=("*.json",))
    assert folder == tmp_path / "vae"
    assert asked == {
        "name": "owner/name",
        "revision": "v1",
        "local_files_only": True,
        "allow_patterns": ["vae/*.json"],
    }


def test_resolve_offline_without_a_copy(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="'owner/name' is not a local folder, and it was not downloaded"):
        resolve("owner/name", offline=True)


class Gone(errors.HfHubHTTPError):
    """What the hub says of an unknown name or revision, made without a web response."""

    def __init__(self) -> None:
        Exception.__init__(self, "404: not there\nsee the hub")


@pytest.mark.parametrize(
    "error",
    [
        OSError("no route\nto host"),
        errors.HFValidationError("odd name"),
        Gone(),
    ],
)
def test_resolve_tells_why_the_hub_failed(monkeypatch, error):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(ValueError, match=r"'owner/name' at revision 'v9' cannot be downloaded") as caught:
        resolve("owner/name", revision="v9")
    assert "\n" not in str(caught.value)


def test_bundled_checkpoints_come_with_the_package(tmp_path, monkeypatch):
    (tmp_path / "toy" / "tokenizer").mkdir(parents=True)
    (tmp_path / "toy" / "tokenizer" / "config.json").touch()
    monkeypatch.setattr("videosys.utils.hub.BUNDLED_FOLDER", tmp_path)
    assert resolve("bundled:toy") == tmp_path / "toy"
    assert resolve("bundled:toy/tokenizer") == resolve("bundled:toy", subfolder="tokenizer")
    for source in ("bundled:toys", "bundled:../outside", f"bundled:{tmp_path}"):
        with pytest.raises(ValueError, match=r"is not bundled; bundled are: toy$"):
            resolve(source)


class WebError(Exception):
    """What httpx raises is no OSError."""


@pytest.mark.parametrize("error", [WebError("read timeout"), WebError("")])
def test_a_transfer_that_breaks_off_is_the_same_error(monkeypatch, error):
    def fail(*arguments, **options):
        raise error

    fake = SimpleNamespace(HTTPError=WebError, InvalidURL=WebError, StreamError=WebError)
    monkeypatch.setitem(sys.modules, "httpx", fake)
    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(
        ValueError, match=r"'owner/name' cannot be downloaded from the hub: (read timeout|WebError)"
    ):
        resolve("owner/name")


def test_our_own_mistakes_stay_what_they_are_without_httpx_too(monkeypatch):
    def fail(*arguments, **options):
        raise KeyError("ours")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(KeyError, match="ours"):
        resolve("owner/name")
