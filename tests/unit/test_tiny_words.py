"""The words that the tiny checkpoints know, and the warning about others."""

from __future__ import annotations

import logging

import pytest

from videosys import FAMILIES, NoCacheConfig, OpenSoraConfig, VideoSysEngine, tiny
from videosys.tiny import warn_of_unknown_words
from videosys.tiny.words import PHRASES, TEMPLATES, unknown_words


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("phrase", PHRASES.values())
def test_captions_of_the_training_have_no_unknown_word(template, phrase):
    caption = template.format(size="small", colour="Red", shape="ring", phrase=phrase, ground="a white")
    assert unknown_words(caption) == []


@pytest.mark.parametrize(
    ("prompt", "unknown"),
    [
        ("a cat playing piano", ["cat", "playing", "piano"]),
        ("a red cat, and a blue cat", ["cat", "and"]),
        ("ein roter Kreis", ["ein", "roter", "kreis"]),
        ("circles", ["circles"]),
        ("红色的圆", ["红色的圆"]),
    ],
)
def test_words_that_are_unknown(prompt, unknown):
    assert unknown_words(prompt) == unknown


@pytest.mark.parametrize("model", tiny.bundled())
def test_a_prompt_with_unknown_words_is_warned_of_before_anything_is_made(model, caplog, monkeypatch):
    engine = VideoSysEngine(tiny.config(model), quiet=True)
    monkeypatch.setattr(engine.runner, "stream", lambda *request: iter(()))
    with caplog.at_level(logging.WARNING, "videosys"):
        engine.stream("a cat plays piano")
        engine.stream("a cat plays")  # said before
    (record,) = caplog.records
    words = "was not trained on these words of the prompt: cat, plays, piano. Its vocabulary:"
    assert words in record.getMessage()
    assert "shape: circle, square, triangle, ring, cross" in record.getMessage()


def test_published_checkpoints_know_every_word(caplog):
    warn_of_unknown_words(OpenSoraConfig(), ["a cat plays piano"], set())
    assert not caplog.records


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_a_config_takes_caches_by_name_and_none(family):
    assert family.config(cache=None).cache == NoCacheConfig()
    assert family.config(cache="pab_slow").cache == family.presets["pab_slow"]
    with pytest.raises(ValueError, match=r"cache is 'pab_slo' \(did you mean 'pab_slow'\?\)"):
        family.config(cache="pab_slo")
