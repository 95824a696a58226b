"""Decodes the bytes of a file: detects byte order marks and encodings, and identifies other content."""

from __future__ import annotations

import codecs
import re
import unicodedata

from videosys.utils.kinds import WIDE, kind_of

_MARKS = (  # the longer first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def decode(content: bytes) -> str:
    """Return text in UTF-8, or in UTF-16 or UTF-32 with or without a byte order mark, which is dropped.

    Other content and text with NULs are a ValueError that identifies the content if possible.
    """
    kind = kind_of(content) if content else ""
    if kind not in ("", WIDE):
        raise ValueError(f"it is {kind}")
    mark, encoding = next((item for item in _MARKS if content.startswith(item[0])), (b"", "utf-8"))
    if not mark and b"\0" in content:
        return _decode_by_guess(content)
    try:
        text = content[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"line {line} is not {encoding.upper()} ({error.reason}); save it as UTF-8"
        ) from None
    if "\0" in text:
        raise ValueError(f"line {text.count(chr(10), 0, text.index(chr(0))) + 1} has a NUL: it is not text")
    return text


def lines_of(text: str) -> list[str]:
    """Return the lines of a text, which end only in \\n, \\r\\n or \\r."""
    return re.split("\r\n|\r|\n", text)


def _decode_by_guess(content: bytes) -> str:
    """Decode text with NULs and without a byte order mark, if exactly one encoding gives plain characters.

    The wrong byte order turns ASCII into other characters, such as a newline into U+0A00.
    """
    found = []
    for encoding in ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be"):
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if _is_plain(text):
            found.append((sum(letter.isascii() for letter in text), text))
    found.sort()
    if not found or (len(found) > 1 and found[-1][0] <= 4 * found[-2][0]):
        line = content.count(b"\n", 0, content.index(0)) + 1
        raise ValueError(
            f"line {line} has a NUL: it is not text, or UTF-16 without a byte order mark; save it as UTF-8"
        )
    return found[-1][1]


def _is_plain(text: str) -> bool:
    """Whether a text has only ordinary characters."""
    categories = {unicodedata.category(letter) for letter in {*text} - {*"\t\n\v\f\r\x85"}}
    return not {"Cc", "Cn", "Co", "Cs"} & categories
