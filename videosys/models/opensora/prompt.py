"""Open-Sora's prompt syntax: other words for each loop."""

from __future__ import annotations

from videosys.utils.typed import shown


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
            f"prompt {shown(prompt)} is not of the form |0|text|2|text with loop numbers between the bars"
        )
    starts = [int(number) for number in numbers]
    if starts != sorted(set(starts)):
        raise ValueError(f"the loop numbers of prompt {shown(prompt)} must rise, they are {shown(starts)}")
    return [text.strip() for text in texts], starts


def text_of_loop(prompt: str, loop: int) -> str:
    """Return the words of a prompt in the given loop: the last text that starts at it or before."""
    texts, starts = split_loops(prompt)
    return [text for text, start in zip(texts, starts or [0], strict=True) if start <= loop][-1]
