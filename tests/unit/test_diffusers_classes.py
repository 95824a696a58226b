"""Each video pipeline class of the installed diffusers has a test case, or a reason to be refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.video_classes import ALL, CASES_OF, REFUSED, video_classes
from tests.video_pipelines_unet import ZERO
from videosys.diffusers import cached

PAGE = Path(__file__).parents[2] / "docs" / "diffusers.md"


def test_each_class_has_a_case_or_a_reason():
    assert video_classes() == sorted({*CASES_OF, *REFUSED})
    assert sorted(ALL) == sorted(name for names in CASES_OF.values() for name in names)


def test_the_page_names_each_class():
    text = PAGE.read_text()
    assert [name for name in (*CASES_OF, *REFUSED) if f"{name}" not in text] == []


@pytest.mark.parametrize("name", ZERO)
def test_video_pipelines_with_a_model_for_images_are_refused(name):
    torch.manual_seed(0)
    pipe, _ = ZERO[name]()
    assert type(pipe).__name__ in REFUSED
    with (
        pytest.raises(ValueError, match="does not have a video model: UNet2DConditionModel"),
        cached(pipe, cache="none"),
    ):
        pass
