"""A pipeline of diffusers for `python -m videosys.diffusers --pipeline`: by id, folder, or a known name."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

from videosys.diffusers.tiny import TINY_WAN_CALL, tiny_wan
from videosys.utils.typed import listing

PUBLISHED: Mapping[str, str] = MappingProxyType(
    {
        "wan": "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        "hunyuan_video": "hunyuanvideo-community/HunyuanVideo",
        "ltx": "Lightricks/LTX-Video",
        "cogvideox": "zai-org/CogVideoX-2b",
    }
)
GIVEN = ("prompt", "generator", "output_type")  # by the calibration itself
TINY: Mapping[str, tuple[Callable[[], Any], Mapping[str, Any]]] = MappingProxyType(
    {"wan": (tiny_wan, TINY_WAN_CALL)}
)


def pipeline(name: str, is_tiny: bool, arguments: Sequence[str]) -> tuple[Any, dict[str, Any]]:
    """(the pipeline, the arguments of its call). arguments: KEY=VALUE.

    ValueError for a name without a tiny model, or for what diffusers cannot load.
    """
    call = dict(map(argument, arguments))
    if is_tiny and name not in TINY:
        raise ValueError(
            f"--pipeline {name} has no trained tiny model; with --tiny it must be one of {listing(TINY)}"
        )
    make, usual = TINY[name] if is_tiny else (partial(loaded, PUBLISHED.get(name, name)), {})
    pipe = make()
    known = inspect.signature(pipe.__call__).parameters
    if unknown := sorted(name for name in call if name not in known or name in GIVEN):
        raise ValueError(f"{unknown[0]} is not an argument of {type(pipe).__name__} that can be given here")
    return pipe, {**usual, **call}


def argument(text: str) -> tuple[str, Any]:
    """The name and the value of KEY=VALUE; a value that is not a Python literal is a text."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError(f"{text!r} is not KEY=VALUE")
    try:
        return name, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return name, value


def loaded(name: str) -> Any:
    """A pipeline of a folder or the hub, in bfloat16, on the GPU where there is one."""
    import torch
    from diffusers import DiffusionPipeline

    try:
        pipe = DiffusionPipeline.from_pretrained(name, torch_dtype=torch.bfloat16)
    except (OSError, ValueError) as error:
        raise ValueError(f"--pipeline {name}: {' '.join(str(error).split())}") from error
    return pipe.to("cuda" if torch.cuda.is_available() else "cpu")
