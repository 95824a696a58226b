"""Each rule of the caption cleaner does its own work, also where no published string shows it."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

from videosys.text_encoders import cleaning
from videosys.text_encoders.cleaning import (
    LISTING_RULES,
    SYMBOL_RULES,
    WEB_RULES,
    clean_caption,
    strip_markup,
)


@pytest.mark.parametrize(
    ("caption", "cleaned"),
    [
        ("see http://foo.io/x now", "see foo. io x now"),  # an unknown ending: only the scheme goes
        ("see https:a now", "see now"),
        ("bob@site.com", "bob"),
        ("a #1234 b", "a 1234 b"),
        ("pngs", "s"),
        ("free   download", "free"),  # one single space inside the offer
        ("worldwide   free   shipping x", "x"),
        ("click  for more", "click for more"),
        ("so : what", "so: what"),
        ("@foo -dash", "dash"),
        ("\"a'", "a"),  # the two quotes need not be the same
        ("a1b2", ""),
        ("ab12", "ab12"),
        ("ab123", ""),
        ("one-two-three-four_five", "one two three four five"),
        ("ひらがな カタカナ 한글 漢字", "ひらがな カタカナ 한글"),
        ("u.s.a", "u. s. a"),
        ("1,000.5", "1,000.5"),
        (". x", ". x"),
        ("www:x and y", "and y"),
        ("a ’’ b", 'a " b'),
        ("say &amp;quot;hi", "say hi"),
        ("1 < 2 ＆amp； 3", "1 < 2 & 3"),
        ("end 1:23 <b></b> ", "end"),
    ],
)
def test_one_rule(caption, cleaned):
    assert clean_caption(caption) == cleaned


def test_rule_names_are_unique():
    names = [rule.name for rules in (WEB_RULES, SYMBOL_RULES, LISTING_RULES) for rule in rules]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("caption", ["movie.mp4", "/etc/passwd", "a/b.html"])
def test_a_caption_that_looks_like_a_file_does_not_warn(caption):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clean_caption(caption)


@pytest.mark.parametrize(
    "caption",
    [
        "&#" + "9" * 5000 + ";",
        "<![not html",
        "＆＃" + "９" * 5000 + "；",
        "<" * 2000,
        "<a>" * 2000,
        "\ud800",
        "a." * 2000,
    ],
    ids=["entity", "no markup", "wide entity", "brackets", "tags", "surrogate", "dots"],
)
def test_hostile_captions_are_cleaned(caption):
    assert isinstance(clean_caption(caption), str)


PIECES = [
    "<a ",
    "<a b='",
    "&",
    "&#",
    "(",
    "@",
    " ",
    "\t",
    "\u0301",
    "<!--",
    "</",
    "a.",
    "1.1.",
    "-",
    "Ã©",
    "%25",
]


@pytest.mark.parametrize("piece", PIECES)
def test_the_work_does_not_grow_with_the_square_of_the_length(monkeypatch, piece):
    """Work: the square of what each step is given, the worst that a rule or a parser makes of it."""
    work = []

    def counted(step):
        return lambda *arguments: work.append(len(arguments[-1]) ** 2) or step(*arguments)

    for name in ("substitute", "strip_markup", "split_separators", "unescape"):
        monkeypatch.setattr(cleaning, name, counted(getattr(cleaning, name)))
    monkeypatch.setattr("ftfy.fix_text", counted(cleaning.ftfy.fix_text))
    totals = []
    for length in (8_000, 16_000, 32_000):
        work.clear()
        with pytest.warns(UserWarning, match=f"{length} characters; only the first 4096 are used"):
            cleaning.clean_prompt((piece * length)[:length])
        assert len(work) == 14
        totals.append(sum(work))
    assert totals[2] <= 2 * totals[1] <= 4 * totals[0]
    assert totals[2] <= 14 * (2 * cleaning.MAX_CHARACTERS) ** 2


def test_a_long_prompt_ends_with_a_word():
    with pytest.warns(UserWarning, match="characters"):
        assert cleaning.clean_prompt("abc " * 2000) == ("abc " * 1024).strip()
    with pytest.warns(UserWarning, match="characters"):
        assert set(cleaning.clean_prompt("x abcdefg " * 2000).split()) == {"x", "abcdefg"}


def test_threads_leave_no_filter_of_warnings():
    before = [*warnings.filters]
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(strip_markup, ["a.txt"] * 2000)) == {"a.txt"}
    assert [*warnings.filters] == before
