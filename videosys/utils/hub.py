"""Checkpoint folders: on this computer, or fetched from the Hugging Face hub."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from videosys.utils.reading import expanded

# Configurations, tokenizers and safetensors; sharded .bin files only where a caller asks for them.
PATTERNS = ("*.json", "*.safetensors", "*.model", "*.txt")

# "bundled:opensora/vae" is a checkpoint bundled with the package.
BUNDLED = "bundled:"
BUNDLED_FOLDER = Path(__file__).resolve().parent.parent / "tiny"

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_LOG = logging.getLogger("videosys.hub")


class NotFetched(ValueError):
    """A checkpoint is only on the hub, and cannot be downloaded."""


def resolve(
    source: str | Path,
    *,
    revision: str | None = None,
    subfolder: str = "",
    offline: bool = False,
    patterns: Sequence[str] = PATTERNS,
) -> Path:
    """Return the folder of a checkpoint: `source` itself if it is a folder, else the downloaded copy.

    A source such as "bundled:opensora/vae" is one of the small checkpoints in the package itself.
    `revision` (branch, tag or commit), `offline` (use only downloaded files) and `patterns` (the
    files to download) apply to hub ids such as "hpcai-tech/OpenSora-STDiT-v3". A source that cannot be
    reached is a ValueError.
    """
    if PurePosixPath(subfolder).is_absolute() or ".." in PurePosixPath(subfolder).parts:
        raise ValueError(f"subfolder {subfolder!r} must stay inside the checkpoint")
    if str(source).startswith(BUNDLED):
        return _bundled(str(source).removeprefix(BUNDLED), subfolder)
    folder = expanded(source)
    if folder.is_dir() and str(source):
        if revision is not None:
            _LOG.warning("revision %s has no effect on the local folder %s", revision, folder)
    elif folder.is_file():
        raise ValueError(f"checkpoint {str(source)!r} is a file; pass the folder that contains config.json")
    elif not _HUB_ID.fullmatch(str(source)):
        raise ValueError(f"checkpoint {str(source)!r} is neither a local folder nor a hub id like owner/name")
    else:
        files = [str(PurePosixPath(subfolder) / pattern) for pattern in patterns]
        folder = Path(_fetch(str(source), revision, offline, files))
    folder = folder / subfolder
    if not folder.is_dir():
        raise ValueError(f"checkpoint {str(source)!r} has no folder {subfolder!r}")
    return folder.absolute()  # weights are read later, when the program may work elsewhere


def _bundled(name: str, subfolder: str) -> Path:
    folder = BUNDLED_FOLDER / name / subfolder
    if ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute() or not folder.is_dir():
        known = ", ".join(sorted({path.parts[-3] for path in BUNDLED_FOLDER.glob("*/*/config.json")}))
        raise ValueError(f"checkpoint {BUNDLED + name!r} is not bundled; bundled are: {known}")
    return folder


def _fetch(name: str, revision: str | None, offline: bool, patterns: list[str]) -> str:
    # Imported here, because it takes a tenth of a second and a local folder does not need it.
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return huggingface_hub.snapshot_download(
            name, revision=revision, local_files_only=offline, allow_patterns=patterns
        )
    except LocalEntryNotFoundError as error:
        reason = (
            "it was not downloaded before, and offline is set" if offline else "the hub cannot be reached"
        )
        raise NotFetched(f"checkpoint {name!r} is not a local folder, and {reason}") from error
    except Exception as error:
        if not isinstance(error, (HfHubHTTPError, HFValidationError, OSError, *_network_errors())):
            raise
        version = f" at revision {revision!r}" if revision else ""
        summary = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise NotFetched(
            f"checkpoint {name!r}{version} cannot be downloaded from the hub: {summary}"
        ) from error


def _network_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that the hub's client does not convert during a download, if it uses httpx."""
    try:
        import httpx
    except ImportError:
        return ()
    return (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError)
