"""Each rule of the caption cleaner does its own work, also where no published string shows it."""

from __future__ import annotations

import warnings

import pytest

from videosys.text_encoders.cleaning import LISTING_RULES, SYMBOL_RULES, WEB_RULES, clean_caption


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
