"""A pipeline of diffusers for `python -m videosys.diffusers --pipeline`: an id, a folder, or a known name."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from videosys.diffusers.known import KNOWN, loaded
from videosys.diffusers.study import Prompt
from videosys.utils.typed import listing

GIVEN = ("prompt", "generator", "output_type")  # set by the calibration itself
Prompts = Callable[[Sequence[str]], list[Prompt]]


def pipeline(name: str, is_tiny: bool, arguments: Sequence[str]) -> tuple[Any, dict[str, Any], Prompts]:
    """(the pipeline, the arguments of its call, a function from texts to prompts). arguments: KEY=VALUE.

    ValueError for a name without a tiny model, or a pipeline that diffusers cannot load.
    """
    call = dict(map(argument, arguments))
    if is_tiny and name not in KNOWN:
        raise ValueError(
            f"--pipeline {name} has no tiny model; with --tiny it must be one of {listing(KNOWN)}"
        )
    source: Any = KNOWN.get(name)
    if source is None:
        return checked(loaded(name), call), call, list
    source = source.tiny if is_tiny else source
    pipe = checked(source.built(), call)
    return pipe, {**source.call, **call}, lambda texts: [source.arguments(text) for text in texts]


def checked(pipe: Any, call: dict[str, Any]) -> Any:
    """The pipeline. ValueError for an argument that its call does not accept."""
    known = inspect.signature(pipe.__call__).parameters
    if unknown := sorted(name for name in call if name not in known or name in GIVEN):
        raise ValueError(f"{unknown[0]} is not an argument of {type(pipe).__name__} that can be set here")
    return pipe


def argument(text: str) -> tuple[str, Any]:
    """The name and the value of KEY=VALUE. A value that is not a Python literal is text."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError(f"{text!r} is not KEY=VALUE")
    try:
        return name, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return name, value
