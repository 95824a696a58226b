"""The JSON file next to a video: prompt, seed, config and step records."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from videosys.utils.files import write_text
from videosys.utils.plain import finite, to_plain


def sidecar_path(video: str | Path) -> Path:
    """Return the path of the JSON file that belongs to a video file or a folder of frames."""
    path = Path(video)
    return path.with_name(path.name + ".json")


def write_sidecar(
    video: str | Path, *, prompt: str, seed: int, config: Mapping[str, Any], steps: Iterable[Any], **more: Any
) -> Path:
    """Write the JSON file next to `video` atomically and return its path.

    `config` is plain data (see `config_to_dict`), `steps` are the step records, `more` is
    other data about the video, such as its size and the seconds it took. Numbers that JSON
    cannot represent (NaN, infinity) are written as null.
    """
    content = {"prompt": prompt, "seed": seed, **more, "config": dict(config), "steps": list(steps)}
    path = sidecar_path(video)
    # Escaped if not ASCII, so that any prompt can be written, including lone surrogates.
    write_text(path, json.dumps(to_plain(content, number=finite, key=str), indent=2, allow_nan=False) + "\n")
    return path
