"""The JSON file beside a video: prompt, seed, config and step records."""

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
    """Return the path of the JSON file written beside `video`, whole or not at all.

    `config` is plain (see `config_to_dict`), `steps` are the generation's step records, `more` is
    whatever else belongs to the video, such as its size and the seconds it took. Numbers that JSON
    does not have (not a number, infinity) are written as null.
    """
    content = {"prompt": prompt, "seed": seed, **more, "config": dict(config), "steps": list(steps)}
    path = sidecar_path(video)
    # Escaped where not ASCII: any prompt can be written then, lone surrogates included.
    write_text(path, json.dumps(to_plain(content, number=finite, key=str), indent=2, allow_nan=False) + "\n")
    return path
