"""The scored captions: fixed, balanced, and never shown in training."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict

import numpy as np

from eval.training.clips import ATTRIBUTES, HELD_OUT_PAIRS, sample_spec
from eval.training.scored import choose, is_scored, scored, training_spec
from videosys.tiny.words import WORDS


def test_sixty_different_captions_with_twelve_of_held_out_pairs():
    rows = scored()
    assert len({caption for caption, _ in rows}) == len({spec.attributes for _, spec in rows}) == 60
    assert [spec.is_held_out for _, spec in rows] == [i % 5 == 4 for i in range(60)]
    pairs = Counter((spec.colour, spec.shape) for _, spec in rows if spec.is_held_out)
    assert pairs == dict.fromkeys(HELD_OUT_PAIRS, 3)


def test_attributes_are_balanced():
    for held_out in (False, True):
        specs = [spec for _, spec in scored() if spec.is_held_out == held_out]
        for name in ATTRIBUTES:
            counts = Counter(getattr(spec, name) for spec in specs)
            assert max(counts.values()) - min(counts.values()) <= 1


def test_captions_say_what_their_specs_are():
    for caption, spec in scored():
        words = caption.rstrip(".").split()
        assert set(words) <= set(WORDS)
        assert {spec.shape, spec.colour, spec.background, spec.size} <= set(words)


def test_the_committed_file_is_what_the_code_chooses():
    committed = [
        {"caption": caption, "spec": {name: asdict(spec)[name] for name in ATTRIBUTES}}
        for caption, spec in scored()
    ]
    assert committed == list(choose())


def test_training_meets_neither_scored_captions_nor_held_out_pairs():
    rng = np.random.default_rng(0)
    drawn = [training_spec(rng) for _ in range(5000)]
    assert not {spec.attributes for spec in drawn} & {spec.attributes for _, spec in scored()}
    assert not any(spec.is_held_out for spec in drawn)
    assert any(is_scored(sample_spec(rng, held_out=None)) for _ in range(5000))
