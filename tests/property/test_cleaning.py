"""Whatever the characters, the cleaner returns a stripped string. (It is not idempotent: applied twice.)"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from videosys.text_encoders.cleaning import add_scores, clean_caption, prepare_prompt

PIECES = [
    "<b>",
    "</b>",
    "<!--",
    "<![",
    "<!",
    "&amp;",
    "&#65;",
    "&#x110000;",
    "%20",
    "%ff",
    "http://",
    "www:",
    ".com",
]
PIECES += [
    "\ud800",
    "\x00",
    "''",
    '"',
    "#12345",
    "1:23",
    "@",
    ".",
    "-",
    "_",
    "\\n",
    "png",
    "free ",
    "shipping",
    "—",
]
captions = st.text() | st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=20).map("".join)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(captions)
def test_any_text_is_cleaned(caption):
    cleaned = clean_caption(caption)
    assert cleaned == cleaned.strip()
    assert "  " not in cleaned


@settings(max_examples=100, deadline=None, derandomize=True)
@given(captions, st.floats(0, 10), st.none() | st.floats(0, 10))
def test_scores_are_named_once(caption, aes, flow):
    scored = add_scores(caption, aes, flow)
    assert scored.startswith(caption)
    assert add_scores(scored, aes, flow) == scored
    assert isinstance(prepare_prompt(caption, aes, flow), str)
