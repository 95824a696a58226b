"""The caption cleaner and the score suffixes against the published strings."""

from __future__ import annotations

import pytest

from tests.goldens.load import load_json
from videosys.text_encoders.cleaning import add_scores, clean_caption, clean_prompt, prepare_prompt

TEXT = load_json("opensora", "text")
CAPTIONS = pytest.mark.parametrize("case", TEXT["captions"], ids=lambda case: repr(case["caption"])[:40])


@CAPTIONS
def test_one_pass(case):
    assert clean_caption(case["caption"]) == case["cleaned_once"]


@CAPTIONS
def test_two_passes(case):
    assert clean_caption(clean_caption(case["caption"])) == case["cleaned"]
    assert prepare_prompt(case["caption"], aes=None) == case["cleaned"]


@CAPTIONS
def test_scored_by_default_and_cleaned_twice(case):
    assert add_scores(case["caption"], aes=6.5) == case["with_aes_6_5"]
    assert prepare_prompt(case["caption"]) == case["with_aes_6_5_cleaned"]


@pytest.mark.parametrize("case", TEXT["suffixes"], ids=lambda case: case["result"])
def test_suffixes(case):
    scores = {name: case[name] for name in ("aes", "flow", "camera_motion")}
    assert add_scores(case["prompt"], **scores) == case["result"]


@pytest.mark.parametrize(
    "case", load_json("latte", "latte_text_cleaning")["captions"], ids=lambda case: repr(case)[:60]
)
def test_prompts_of_latte(case):
    assert clean_caption(case["caption"]) == case["once"]
    assert clean_prompt(case["caption"]) == case["cleaned"]
    assert clean_prompt(case["caption"], clean=False) == case["plain"]


@pytest.mark.parametrize(
    "case", load_json("open_sora_plan", "prompt_cleaning")["cases"], ids=lambda case: repr(case)[:60]
)
def test_prompts_of_open_sora_plan(case):
    assert clean_prompt(case["prompt"]) == case["cleaned_twice"]
    kept = case.get("cleaned_twice_v120_original_keeps_cjk", case["cleaned_twice"])
    assert clean_prompt(case["prompt"], keep_chinese=True) == kept
