"""References, conditions and loops: what a user may ask for, and what is refused."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from videosys.models.opensora.conditioning import (
    FrameCondition,
    Reference,
    apply_mask_strategy,
    chunks_needed,
    collect_sources,
    continuation,
    from_chunks,
    join_clips,
    joined_length,
    latent_to_pixel_frames,
    locate,
    nearest_point,
    parse_mask_strategy,
    references_from_strategy,
)
from videosys.models.opensora.prompt import split_loops, text_of_loop


def reference(frames, channels=2):
    """A reference latent whose frame k holds k + 1."""
    return torch.arange(1.0, frames + 1)[None, :, None, None].expand(channels, -1, 3, 4)


def filled(latents):
    return latents[0, 0, :, 0, 0].tolist()


LATENTS = torch.zeros(2, 2, 10, 3, 4)


def test_a_reference_is_the_first_frame_by_default():
    assert Reference("cat.png").as_condition(3) == (0, 3, 0, 0, 1, 0.0)


def test_references_and_strategies_say_the_same():
    text = "0,1,-5,0,5,0.3;1,0"
    references = references_from_strategy(text, ["a.png", "b.mp4"])
    assert [reference.source for reference in references] == ["b.mp4", "a.png"]
    sources, conditions = collect_sources(references)
    assert sources == ["b.mp4", "a.png"]
    renumbered = [condition._replace(reference=1 - condition.reference) for condition in conditions]
    assert renumbered == parse_mask_strategy(text)


def test_each_source_is_collected_once():
    frames = torch.zeros(1, 4, 4, 3, dtype=torch.uint8)
    references = [
        Reference("a"),
        Reference(frames),
        Reference(Path("a"), target=5),
        Reference(frames.clone()),
    ]
    sources, conditions = collect_sources([*references, Reference(frames, target=-5)])
    assert len(sources) == 3
    assert [condition.reference for condition in conditions] == [0, 1, 0, 2, 1]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"length": 0}, "length must be at least 1, not 0"),
        ({"loop": -1}, "loop must be at least 0, not -1"),
        ({"start": 0.5}, "start must be a whole number, not 0.5"),
        ({"target": True}, "target must be a whole number, not True"),
        ({"strength": 1.5}, r"strength must be between 0 \(keep\) and 1 \(free\), not 1.5"),
        ({"strength": float("nan")}, "strength must be between"),
        ({"strength": "0.5"}, "strength must be between"),
    ],
)
def test_impossible_references(values, message):
    with pytest.raises(ValueError, match=message):
        Reference("cat.png", **values)


@pytest.mark.parametrize(
    "text", ["a", "0,0,0,0,1,0,7", "0,,0", "0;", "0,0,0,0,0", "0,-1", "0,0,0,0,1,2", "0.5"]
)
def test_what_is_no_mask_strategy(text):
    with pytest.raises(ValueError, match=r"mask strategy|must be"):
        parse_mask_strategy(text)


def test_conditions_are_copied_into_a_copy():
    latents, mask = apply_mask_strategy(LATENTS, [reference(5)], [FrameCondition(length=5)])
    assert filled(latents) == [1, 2, 3, 4, 5, 0, 0, 0, 0, 0]
    assert mask.tolist() == [[0.0] * 5 + [1.0] * 5] * 2
    assert not LATENTS.any()


def test_without_a_batch():
    latents, mask = apply_mask_strategy(LATENTS[0], [reference(5)], "0,0,0,-5,5,0.25")
    assert latents.shape == (2, 10, 3, 4)
    assert mask.tolist() == [1.0] * 5 + [0.25] * 5


def test_a_batched_reference_and_another_dtype():
    given = torch.stack([reference(1), 2 * reference(1)]).double()
    latents, _ = apply_mask_strategy(LATENTS, [given], "0")
    assert latents.dtype == torch.float32
    assert latents[:, 0, 0, 0, 0].tolist() == [1, 2]


def test_later_conditions_overwrite_and_other_loops_are_left_out():
    conditions = [
        FrameCondition(length=5),
        FrameCondition(reference=1, strength=0.5),
        FrameCondition(loop=1, target=5),
    ]
    latents, mask = apply_mask_strategy(LATENTS, [reference(5), 10 * reference(1)], conditions)
    assert filled(latents) == [10, 2, 3, 4, 5, 0, 0, 0, 0, 0]
    assert mask[0].tolist() == [0.5, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    latents, mask = apply_mask_strategy(LATENTS, [reference(5)], conditions, loop=1)
    assert filled(latents) == [0, 0, 0, 0, 0, 1, 0, 0, 0, 0]


def test_the_last_frame_without_snapping(caplog):
    _, mask = apply_mask_strategy(LATENTS, [reference(1)], "0,0,0,-1", align=None)
    assert mask[0].tolist() == [1.0] * 9 + [0.0]
    assert not caplog.records


def test_snapping_is_told(caplog):
    with caplog.at_level(logging.WARNING, logger="videosys"):
        _, mask = apply_mask_strategy(LATENTS, [reference(1)], "0,0,0,-1")
    assert mask[0].tolist() == [1.0] * 5 + [0.0] + [1.0] * 4
    assert "target -1 does not start a chunk of 5 latent frames; using 5" in caplog.text


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ("0,1", "reference 1 does not exist: 1 are given"),
        ("0,0,0,0,6", "start 0 and length 6 exceed the 5 latent frames"),
        ("0,0,0,-5,6", "start 0 and length 6"),
        ("0,0,-6", "start -6 and length 1 exceed the 5"),
        ("0,0,0,10", "target 10 and length 1"),
        ("0,0,0,-11", "target -11 and length 1 exceed the 10"),
        ("0,0,0,8,5", "target 8 and length 5 exceed the 10"),
    ],
)
def test_frames_that_do_not_exist(strategy, message):
    with pytest.raises(ValueError, match=message):
        apply_mask_strategy(LATENTS, [reference(5)], strategy, align=None)


@pytest.mark.parametrize("align", [None, 5])
def test_a_target_behind_the_clip_is_refused(align):
    with pytest.raises(ValueError, match="target 10 and length 1 exceed"):
        apply_mask_strategy(LATENTS, [reference(5)], "0,0,0,10", align=align)


def test_a_reference_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"\(2, 3, 5\), the clip has \(2, 3, 4\)"):
        apply_mask_strategy(LATENTS, [torch.zeros(2, 1, 3, 5)], "0")


@pytest.mark.parametrize("point", [1, 2, 4, 5])
@pytest.mark.parametrize("end", [1, 4, 5, 12, 15])
def test_nearest_point_is_the_nearest(point, end):
    points = range(0, end, point)
    for value in range(end):
        best = min(points, key=lambda candidate: (abs(candidate - value), candidate))
        assert nearest_point(value, point, end) == best


def test_joined_length():
    assert joined_length(51, 1) == 51
    assert joined_length(17, 1) == 17
    assert joined_length(51, 3) == 51 * 3 - 17 * 2
    assert joined_length(51, 3, condition_length=10) == 51 * 3 - 34 * 2
    clips = [torch.full((51, 2), float(number)) for number in range(3)]
    video = join_clips(clips)
    assert len(video) == joined_length(51, 3)
    assert video[:, 0].tolist() == [0.0] * 51 + [1.0] * 34 + [2.0] * 34


@pytest.mark.parametrize("values", [(51, 0), (17, 2), (51, 2, 3), (51, 2, -5), (34, 2, 10)])
def test_impossible_loops(values):
    with pytest.raises(ValueError):
        joined_length(*values)
    assert latent_to_pixel_frames(0) == 0


def test_a_continuation_begins_with_the_end_of_the_last_clip():
    condition = continuation(loop=1, reference=0)
    latents, mask = apply_mask_strategy(LATENTS, [reference(15)], [condition], loop=1)
    assert filled(latents) == [11, 12, 13, 14, 15, 0, 0, 0, 0, 0]
    assert mask[0].tolist() == [0.0] * 5 + [1.0] * 5


@pytest.mark.parametrize("prompt", ["|0|a|1", "|0|a|b|c", "|0|a|0|b", "|0|a|2|b|1|c", "|0|a|-1|b", "|0|"])
def test_malformed_loops(prompt):
    if prompt == "|0|":
        assert split_loops(prompt) == ([""], [0])
        return
    with pytest.raises(ValueError, match="prompt"):
        split_loops(prompt)


def test_bars_elsewhere_are_words():
    assert split_loops("a |1| b") == (["a |1| b"], None)
    assert text_of_loop("a |1| b", 7) == "a |1| b"


@pytest.mark.parametrize("align", [None, 1, 2, 3, 5, 7, 10, 25])
@pytest.mark.parametrize("total", [1, 4, 5, 12, 46, 60])
def test_conditions_mean_the_same_frames_in_the_chunks_that_are_read(align, total):
    for start in range(-total, total):
        for length in (1, 2, 5):
            condition = FrameCondition(start=start, length=length)
            try:
                place = locate(condition, "start", total, align)
            except ValueError:
                continue  # refused before anything is read
            spans = chunks_needed([condition], [total], align, 4)
            ((first, end),) = spans
            (moved,) = from_chunks([condition], [total], spans, align)
            read = min(end * 5, total) - first * 5
            assert first % 4 == 0
            assert first * 5 <= place
            assert place + length <= first * 5 + read
            assert locate(moved, "start", read, align) + first * 5 == place
            assert moved.start == place - first * 5
