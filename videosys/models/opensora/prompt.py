"""What Open-Sora's prompt syntax says beside the words: other words per loop, and fields in JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence

JSON_FIELDS = ("reference_path", "mask_strategy")


def split_loops(prompt: str) -> tuple[list[str], list[int] | None]:
    """Return the texts of "|0|a day|2|a night" and the loops they start at; ([prompt], None) for a plain one.

    ValueError if a loop number is not a number, or the numbers do not rise.
    """
    if not prompt.startswith("|0|"):
        return [prompt], None
    fields = prompt.split("|")[1:]
    numbers, texts = fields[::2], fields[1::2]
    if len(numbers) != len(texts) or not all(number.strip().isdecimal() for number in numbers):
        raise ValueError(
            f"prompt {prompt!r} is not of the form |0|text|2|text with loop numbers between the bars"
        )
    starts = [int(number) for number in numbers]
    if starts != sorted(set(starts)):
        raise ValueError(f"the loop numbers of prompt {prompt!r} must rise, they are {starts}")
    return [text.strip() for text in texts], starts


def merge_loops(texts: Sequence[str], starts: Sequence[int] | None) -> str:
    """Return the prompt that `split_loops` takes apart into these texts and loops."""
    if starts is None:
        return texts[0]
    return "".join(f"|{start}|{text}" for start, text in zip(starts, texts, strict=True))


def text_of_loop(prompt: str, loop: int) -> str:
    """Return the words of a prompt in the given loop: the last text that starts at it or before."""
    texts, starts = split_loops(prompt)
    return [text for text, start in zip(texts, starts or [0], strict=True) if start <= loop][-1]


def split_json_prompt(prompt: str) -> dict[str, str]:
    """Return {"prompt", "reference_path", "mask_strategy"} of a prompt that may end in a JSON object.

    'a cat{"reference_path": "a.png"}' is the published way to name reference files. This only takes the text
    apart: nothing is opened, and no pipeline calls it, since a prompt is data that may come from a stranger.
    ValueError if the object is not JSON, or has other fields or values than texts.
    """
    text, brace, rest = prompt.partition("{")
    fields = parse_fields(brace + rest) if brace else {}
    return {"prompt": text} | dict.fromkeys(JSON_FIELDS, "") | fields


def parse_fields(text: str) -> dict[str, str]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"what follows the prompt is not one JSON object: {text!r} ({error})") from error
    for name, value in fields.items():
        if name not in JSON_FIELDS:
            raise ValueError(f"field {name!r} behind the prompt is not one of {', '.join(JSON_FIELDS)}")
        if not isinstance(value, str):
            raise ValueError(f"field {name!r} behind the prompt must be a text, not {value!r}")
    return fields
