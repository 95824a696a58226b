"""Open-Sora's prompt syntax: separate prompts for each loop, and references in JSON."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from videosys.utils.plain import from_mapping
from videosys.utils.reading import parse_json
from videosys.utils.typed import shown

SHORT_NUMBER = 9  # digits of a loop
LOOP = re.compile(r"\|\s*-?\d+\s*\|")
INLINE_KEYS = ("reference_path", "mask_strategy")
INLINE = re.compile(rf"\{{[^{{}}]*?(?:{'|'.join(INLINE_KEYS)})")


@dataclass(frozen=True)
class InlineReferences:
    """The published JSON in a prompt. reference_path: images and videos, joined by ";".
    mask_strategy: their positions, as in a config; empty makes the first one the first frame.
    """

    reference_path: str = ""
    mask_strategy: str = ""

    @property
    def paths(self) -> list[str]:
        return [path.strip() for path in self.reference_path.split(";") if path.strip()]


def split_inline(prompt: str) -> tuple[str, str]:
    """The words of a prompt, and the JSON in it that names references, or "". Invalid JSON
    extends to the end of the prompt.
    """
    found = INLINE.search(prompt)
    if found is None:
        return prompt, ""
    begin = found.start()
    try:
        _, end = json.JSONDecoder().raw_decode(prompt, begin)
    except (ValueError, RecursionError):
        end = len(prompt)
    return prompt[:begin] + prompt[end:], prompt[begin:end]


def inline_references(prompt: str) -> InlineReferences:
    """The references in the JSON of a prompt. ValueError if it is not valid, or has other keys."""
    _, text = split_inline(prompt)
    if not text:
        return InlineReferences()
    where = f"the JSON in prompt {prompt[:60]!r}"
    try:
        content = parse_json(text.encode())
    except ValueError as error:
        raise ValueError(f"{where} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{where} must be an object with {' and '.join(INLINE_KEYS)}")
    given = from_mapping(InlineReferences, content, where)
    if not given.paths:
        raise ValueError(f"{where} names no reference_path")
    return given


def split_loops(prompt: str) -> tuple[list[str], list[int] | None]:
    """Return the texts of "|0|a day|2|a night" and the loops they start at; ([prompt], None) for a plain one.

    ValueError if a loop number is not a number, or the numbers do not increase.
    """
    if not prompt.startswith("|0|"):
        return [prompt], None
    fields = prompt.split("|")[1:]
    numbers, texts = fields[::2], fields[1::2]
    if len(numbers) != len(texts) or not all(map(is_loop, numbers)):
        raise ValueError(
            f"prompt {shown(prompt)} is not of the form |0|text|2|text with loop numbers between the bars"
        )
    starts = [int(number) for number in numbers]
    if starts != sorted(set(starts)):
        raise ValueError(f"loop numbers of prompt {shown(prompt)} must increase; they are {shown(starts)}")
    return [text.strip() for text in texts], starts


def is_loop(number: str) -> bool:
    return number.strip().isdecimal() and len(number.strip()) <= SHORT_NUMBER


def text_of_loop(prompt: str, loop: int) -> str:
    """Return the prompt for the given loop: the last text that starts at or before it."""
    texts, starts = split_loops(prompt)
    return [text for text, start in zip(texts, starts or [0], strict=True) if start <= loop][-1]


def notes(prompt: str, loops: int, reads_inline: bool) -> list[str]:
    """Warnings about a prompt with unused syntax."""
    words, inline = split_inline(prompt)
    _, starts = split_loops(words)
    name = repr(prompt[:60])
    said = []
    unused = [start for start in starts or () if start >= loops]
    if unused:
        said.append(
            f"prompt {name} has text for loop {unused[0]}, but loops is {loops}: it is not used "
            f"(loops={unused[-1] + 1} uses all)"
        )
    if starts is None and LOOP.search(words):
        said.append(
            f"prompt {name} has numbers between bars but does not begin with |0|: it is used as plain text"
        )
    if inline and not reads_inline:
        said.append(
            f"prompt {name} names references in JSON, which is removed: files named in a prompt are read "
            "only if prompt_references is true"
        )
    return said
