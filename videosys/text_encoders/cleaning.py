"""Caption cleaning as in training: the caption cleaner, applied twice, and Open-Sora's score suffixes.

The cleaner was written for web captions. Most of its rules remove text that web pages add to a description:
addresses, markup, file names, item numbers, advertising. The models were trained on cleaned captions, so the
order of the rules and even their quirks are part of the model.
"""

from __future__ import annotations

import html
import re
import warnings
from typing import NamedTuple
from urllib.parse import unquote_plus

import ftfy
from bs4 import BeautifulSoup, MarkupResemblesLocatorWarning
from bs4.builder import ParserRejectedMarkup

from videosys.utils.ignored import ignored

FILE_TYPES = "png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4"
HOST = r"[a-zA-Z0-9.-]+\.(?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b/?(?!@)"
DASHES = (
    "\u002d\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40"
    "\u301c\u3030\u30a0\ufe31\ufe32\ufe58\ufe63\uff0d"
)
ODD_SYMBOLS = r"[#®•©™&@·º½¾¿¡§~)(\]\[}{|\\/*]+"
SEPARATORS = re.compile("[-_]")
MAX_SEPARATORS = 3  # with more, separators are treated as spaces: this-is-a-file_name
# Rules and parsers take quadratic time in the worst case (a word of dots, a row of open tags). The encoders
# read 300 to 512 tokens, about 2,000 characters.
MAX_CHARACTERS = 4096

CHINESE = "Chinese characters and their relatives"


class Rule(NamedTuple):
    """One substitution: every match of `pattern` becomes `replacement`."""

    name: str
    pattern: re.Pattern[str]
    replacement: str


def rule(name: str, pattern: str, replacement: str = "") -> Rule:
    """Return the rule that replaces (by default removes) every match of `pattern`."""
    return Rule(name, re.compile(pattern), replacement)


# Applied before the markup is parsed, because the parser would treat <person> as a tag.
WEB_RULES = (
    rule("person placeholder", "<person>", "person"),
    # Only the scheme is removed, and the scan continues after it. A host with another ending and a query
    # stay.
    rule("scheme or host", rf"\b(?:https?:(?:/{{1,3}}|[a-zA-Z0-9%])|{HOST})"),
    rule("www: or host", rf"\b(?:www:(?:/{{1,3}}|[a-zA-Z0-9%])|{HOST})"),
)

# Applied between the markup and the repair of broken encodings: symbols and numbers that are not part of a
# sentence.
SYMBOL_RULES = (
    rule("nickname", r"@\w+\b"),
    rule(CHINESE, "[\u31c0-\u9fff]+"),  # Hangul, Hiragana and Katakana stay
    rule("every dash is one dash", f"[{DASHES}]+", "-"),
    rule("double quotes", "[`´«»“”¨]", '"'),
    rule("single quotes", "[‘’]", "'"),
    rule("escaped quote", "&quot;?"),
    rule("escaped ampersand", "&amp"),  # its ";" stays
    rule("IPv4 address", r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}", " "),
    rule("time or verse at the end", r"\d:\d\d\s+$"),
    rule("line break written as backslash n", r"\\n", " "),
    rule("short item number", r"#\d{1,3}\b"),  # four digits stay: they may be a year
    rule("long item number", r"#\d{5,}\b"),
    rule("bare number of six digits or more", r"\b\d{6,}\b"),
    rule("file name", rf"\S+\.(?:{FILE_TYPES})"),
    rule("run of quotes", "[\"']{2,}", '"'),
    rule("run of dots", r"\.{2,}", " "),
    rule("odd symbols", ODD_SYMBOLS, " "),
    rule("lonely dot", r"\s+\.\s+", " "),
)

# For a text encoder that reads Chinese: common characters stay, strokes and rare characters are removed.
CHINESE_SYMBOL_RULES = tuple(
    rule(CHINESE, "[\u31c0-\u4dff]+") if each.name == CHINESE else each for each in SYMBOL_RULES
)

# Applied after the repair: text that shops and image hosts add to a caption, then spacing and the string's
# ends.
LISTING_RULES = (
    rule("id: jc6640", r"\b[a-zA-Z]{1,3}\d{3,15}\b"),
    rule("id: jc6640vc", r"\b[a-zA-Z]+\d+[a-zA-Z]+\b"),
    rule("id: 6640vc231", r"\b\d+[a-zA-Z]+\d+\b"),
    rule("shipping offer", r"(?:worldwide\s+)?(?:free\s+)?shipping"),
    rule("download offer", r"(?:free\s)?download(?:\sfree)?"),
    rule("click for more", r"\bclick\b\s(?:for|on)\s\w+"),
    rule("file type", rf"\b(?:{FILE_TYPES})(?:\simages?)?"),
    rule("page number", r"\bpage\s+\d+\b"),
    rule("id: j2d1a2a", r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),
    rule("size in pixels", r"\b\d+\.?\d*[xх×]\d+\.?\d*\b"),  # the letter x, Cyrillic kha, the times sign
    rule("space before a colon", r"\b\s+:\s+", ": "),
    rule("space after a comma, dot or slash", r"(\D[,./])\b", r"\1 "),
    rule("one space", r"\s+", " "),
    # A leading space is not stripped before the next four rules, so their ^ does not match after one.
    rule("quotes around everything", r"^[\"']([\w\W]+)[\"']$", r"\1"),
    rule("leading mark", r"^['_,\-:;]"),
    rule("trailing mark", r"['_,\-:+]$"),
    rule("hidden file", r"^\.\S+$"),
)


def substitute(rules: tuple[Rule, ...], text: str) -> str:
    """Return the text with the rules applied in their order."""
    for each in rules:
        text = each.pattern.sub(each.replacement, text)
    return text


def strip_markup(text: str) -> str:
    """Return the text content of HTML. Text that the parser rejects is returned unchanged."""
    with ignored(MarkupResemblesLocatorWarning):  # a caption may look like a file name
        try:
            return BeautifulSoup(text, "html.parser").text
        except (
            ParserRejectedMarkup,
            ValueError,
        ):  # ValueError: a character reference with thousands of digits
            return text


def split_separators(text: str) -> str:
    """Return the text with dashes and underscores replaced by spaces if there are more than
    MAX_SEPARATORS.
    """
    if len(SEPARATORS.findall(text)) > MAX_SEPARATORS:
        return SEPARATORS.sub(" ", text)
    return text


def unescape(text: str) -> str:
    """Return the text with HTML entities decoded, or unchanged if a character reference is too long."""
    try:
        return html.unescape(html.unescape(text))
    except ValueError:
        return text


def bounded(text: str) -> str:
    """Return the first MAX_CHARACTERS of a text, cut at the end of a word, with a warning if text is
    dropped.
    """
    if len(text) <= MAX_CHARACTERS:
        return text
    warnings.warn(
        f"the prompt has {len(text)} characters; only the first {MAX_CHARACTERS} are used ({text[:40]!r}...)",
        stacklevel=3,
    )
    cut = text[:MAX_CHARACTERS]
    return cut if text[MAX_CHARACTERS].isspace() else cut[: cut.rfind(" ") + 1] or cut


def clean_caption(text: str, keep_chinese: bool = False) -> str:
    """Return the caption after one pass of the cleaner. All models apply it twice, see `clean_prompt`.

    Text after MAX_CHARACTERS is dropped, because encoders do not use it.
    """
    text = bounded(text)
    text = unquote_plus(text).strip().lower()
    text = substitute(WEB_RULES, text)
    text = strip_markup(text)
    text = substitute(CHINESE_SYMBOL_RULES if keep_chinese else SYMBOL_RULES, text)
    text = split_separators(text)
    text = unescape(ftfy.fix_text(text)).strip()
    return substitute(LISTING_RULES, text).strip()


def clean_prompt(prompt: str, clean: bool = True, keep_chinese: bool = False) -> str:
    """Return the text for the tokenizer: the prompt cleaned twice, or only lower-cased and
    stripped.
    """
    if not clean:
        return prompt.lower().strip()
    cleaned = clean_caption(clean_caption(prompt, keep_chinese), keep_chinese)
    if prompt.strip() and not cleaned:
        warnings.warn(
            f"the prompt {prompt[:40]!r} is empty after cleaning; set clean_caption=false to keep it",
            stacklevel=2,
        )
    return cleaned


def add_scores(
    prompt: str, aes: float | None = None, flow: float | None = None, camera_motion: str | None = None
) -> str:
    """Return the prompt followed by the scores that the model was trained with.

    aes: aesthetic score. flow: motion score (length of the optical flow). camera_motion: in words ("pan
    left"). Each is added if it is set and the prompt does not contain it.
    """
    scores = (
        ("aesthetic score: ", None if aes is None else f"{aes:.1f}"),
        ("motion score: ", None if flow is None else f"{flow:.1f}"),
        ("camera motion: ", camera_motion),
    )
    for marker, value in scores:
        if value is not None and marker not in prompt:
            prompt = f"{prompt} {marker}{value}."
    return prompt


def prepare_prompt(
    prompt: str, aes: float | None = 6.5, flow: float | None = None, camera_motion: str | None = None
) -> str:
    """Return the text for the tokenizer of Open-Sora: the prompt with scores, cleaned twice."""
    return clean_prompt(add_scores(prompt, aes, flow, camera_motion))
