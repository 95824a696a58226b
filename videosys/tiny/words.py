"""The vocabulary of the tiny checkpoints. `python -m videosys.tiny.words` lists it."""

from __future__ import annotations

import re

__all__ = ["BACKGROUNDS", "COLOURS", "PHRASES", "SHAPES", "SIZES", "TEMPLATES", "WORDS", "unknown_words"]

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "cyan", "pink")
BACKGROUNDS = ("white", "black", "grey", "navy", "cream", "olive")
SHAPES = ("circle", "square", "triangle", "ring", "cross")
SIZES = ("small", "large")
# Every motion has a separate word, because a small text encoder cannot distinguish word orders.
PHRASES: dict[str, str] = {
    "rightward": "moves rightward",
    "leftward": "moves leftward",
    "upward": "moves upward",
    "downward": "moves downward",
    "bounce": "bounces",
    "spin": "spins",
    "grow": "grows",
    "shrink": "shrinks",
    "still": "stays still",
}
TEMPLATES = (
    "a {size} {colour} {shape} {phrase} on {ground} background",
    "a {size} {colour} {shape} {phrase} on {ground} background.",
    "on {ground} background a {size} {colour} {shape} {phrase}",
    "a {size} {colour} {shape} on {ground} background {phrase}",
)
_PLAIN = ("a", "an", "on", "background")
WORDS: tuple[str, ...] = tuple(
    dict.fromkeys((*_PLAIN, *SHAPES, *COLOURS, *BACKGROUNDS, *SIZES, *" ".join(PHRASES.values()).split()))
)


def vocabulary() -> str:
    """The words by their position in a caption, one line each, and an example caption."""
    groups = {"size": SIZES, "colour": COLOURS, "shape": SHAPES, "phrase": PHRASES.values()}
    groups["background"] = BACKGROUNDS
    lines = [f"{name}: {', '.join(values)}" for name, values in groups.items()]
    return "\n".join([f"captions: {TEMPLATES[0]}", *lines])


def unknown_words(prompt: str) -> list[str]:
    """The words of a prompt that are not in the training captions, in order, without duplicates."""
    words = re.findall(r"[^\W_]+", prompt.lower())
    return list(dict.fromkeys(word for word in words if word not in WORDS))


if __name__ == "__main__":
    print(vocabulary())
