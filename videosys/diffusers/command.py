"""A pipeline of diffusers for `python -m videosys.diffusers --pipeline`: an id, a folder, or a known name."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from typing import Any

from videosys.diffusers.checks import check_call
from videosys.diffusers.known import KNOWN, loaded
from videosys.diffusers.study import Prompt
from videosys.utils.typed import listing

GIVEN = ("prompt", "generator", "output_type")  # set by the calibration itself
Prompts = Callable[[Sequence[str]], list[Prompt]]


def pipeline(name: str, is_tiny: bool, arguments: Sequence[str]) -> tuple[Any, dict[str, Any], Prompts]:
    """(the pipeline, the arguments of its call, a function from texts to prompts). arguments: KEY=VALUE.

    ValueError for a name without a tiny model, a pipeline that diffusers cannot load, or an argument that its
    call does not accept.
    """
    call: dict[str, Any] = {}
    for key, value in map(argument, arguments):
        if key in call:
            raise ValueError(f"{key} is set twice, to {call[key]!r} and {value!r}")
        call[key] = value
    if is_tiny and name not in KNOWN:
        raise ValueError(
            f"--pipeline {name} has no tiny model; with --tiny it must be one of {listing(KNOWN)}"
        )
    source: Any = KNOWN.get(name)
    if source is None:
        pipe = loaded(name)
        check_call(pipe, call, GIVEN)
        return pipe, call, list
    source = source.tiny if is_tiny else source
    pipe = source.built()
    check_call(pipe, call, GIVEN)
    return pipe, {**source.call, **call}, lambda texts: [source.arguments(text) for text in texts]


def argument(text: str) -> tuple[str, Any]:
    """The name and the value of KEY=VALUE. A value that is not a Python literal is text."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ValueError(f"{text!r} is not KEY=VALUE")
    try:
        return name, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return name, value
