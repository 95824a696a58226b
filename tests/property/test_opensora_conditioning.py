"""Whatever the conditions: given frames come back unchanged, others stay, and text says the same."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from videosys.models.opensora.conditioning import FrameCondition, apply_mask_strategy, parse_mask_strategy
from videosys.models.opensora.prompt import split_loops, text_of_loop
from videosys.models.opensora.references import load_reference

FRAMES = 12
words = st.text(st.characters(exclude_characters="|", exclude_categories=["Cs"])).map(str.strip)


@st.composite
def conditions(draw):
    length = draw(st.integers(1, FRAMES))
    places = st.integers(0, FRAMES - length).flatmap(lambda place: st.sampled_from([place, place - FRAMES]))
    strength = draw(st.sampled_from([0.0, 0.25, 1.0]))
    return FrameCondition(draw(st.integers(0, 1)), 0, draw(places), draw(places), length, strength)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(conditions())
def test_one_condition(condition):
    reference = torch.randn(2, FRAMES, 2, 2, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(1, 2, FRAMES, 2, 2, generator=torch.Generator().manual_seed(1))
    latents, mask = apply_mask_strategy(noise, [reference], [condition], loop=0, align=None)
    places = range(condition.target % FRAMES, condition.target % FRAMES + condition.length)
    for frame in range(FRAMES):
        is_given = condition.loop == 0 and frame in places
        source = condition.start % FRAMES + frame - places.start
        assert mask[0, frame] == (condition.strength if is_given else 1)
        is_copied = is_given and condition.strength < 1
        assert torch.equal(latents[0, :, frame], reference[:, source] if is_copied else noise[0, :, frame])


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(conditions(), max_size=4))
def test_strategies_as_text(given_conditions):
    text = "; ".join(",".join(map(str, condition)) for condition in given_conditions)
    assert parse_mask_strategy(text) == given_conditions


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(words, min_size=1, max_size=4), st.integers(0, 9))
def test_loops_as_text(texts, gap):
    starts = [number * (gap + 1) for number in range(len(texts))]
    prompt = "".join(f"|{start}|{text}" for start, text in zip(starts, texts))
    assert split_loops(prompt) == (texts, starts)
    assert [text_of_loop(prompt, start) for start in starts] == texts
    assert text_of_loop(prompt, gap) == texts[0]


@settings(max_examples=50, deadline=None, derandomize=True)
@given(*[st.integers(1, 40)] * 4)
def test_every_size_is_covered(height, width, new_height, new_width):
    frame = torch.full((1, height, width, 3), 255, dtype=torch.uint8)
    reference = load_reference(frame, new_height, new_width)
    assert reference.shape == (3, 1, new_height, new_width)
    torch.testing.assert_close(reference, torch.ones_like(reference), rtol=0, atol=1e-5)
