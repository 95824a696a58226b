"""Contact sheets and GIFs: sizes, order of the frames, errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from eval.training.sheet import GAP, MARGIN, contact_sheet, save_gif


def video(num_frames: int = 9, height: int = 6, width: int = 8) -> torch.Tensor:
    """Frame t is grey of value 20 t."""
    greys = torch.arange(num_frames, dtype=torch.uint8) * 20
    return greys[:, None, None, None].expand(num_frames, height, width, 3).contiguous()


def test_sheet_shows_evenly_spaced_frames(tmp_path):
    path = tmp_path / "sheet.png"
    contact_sheet([video(), video(2)], ["first", "second"], path, columns=3, scale=2)
    picture = np.asarray(Image.open(path))
    assert picture.shape[1] == 2 * MARGIN + 3 * 16 + 2 * GAP
    row = next(line for line in picture if (line[MARGIN] == 0).all())  # the first frame is black
    assert [int(row[MARGIN + 8 + i * (16 + GAP), 0]) for i in range(3)] == [0, 80, 160]
    assert [item.name for item in tmp_path.iterdir()] == ["sheet.png"]


@pytest.mark.parametrize("captions", [[], ["one", "two"]])
def test_sheet_needs_one_caption_for_each_video(captions, tmp_path):
    with pytest.raises(ValueError, match="captions"):
        contact_sheet([video()], captions, tmp_path / "sheet.png")


def test_gif_has_all_frames_side_by_side(tmp_path):
    path = tmp_path / "clips.gif"
    save_gif([video(), video()], path, fps=10, scale=1)
    with Image.open(path) as gif:
        assert gif.n_frames == 9
        assert gif.size == (2 * 8 + GAP, 6)
        assert gif.info["duration"] == 100
        assert gif.info["loop"] == 0


def test_pages_of_a_gif_share_their_colours_and_have_no_dots(tmp_path):
    path, colours = tmp_path / "clips.gif", torch.tensor([[215, 15, 30], [20, 165, 40], [40, 80, 250]])
    save_gif([colours[:, None, None].expand(3, 6, 8, 3).to(torch.uint8)], path, scale=1)
    with Image.open(path) as gif:
        for page, colour in zip(ImageSequence.Iterator(gif), colours.tolist(), strict=True):
            ((count, found),) = page.convert("RGB").getcolors()
            assert count == 48
            assert max(abs(a - b) for a, b in zip(found, colour, strict=True)) <= 4


def test_gif_needs_equal_shapes(tmp_path):
    with pytest.raises(ValueError, match="shape"):
        save_gif([video(), video(3)], tmp_path / "clips.gif")
