"""Reference files of all kinds become frames of the clip's size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from videosys.models.opensora.references import load_reference
from videosys.utils.video import save_video


def frames(count=1, height=6, width=8):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=generator)


def to_pixels(reference):
    return ((reference + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0)


def save_image(path, array, **options):
    Image.fromarray(np.asarray(array)).save(path, **options)
    return path


def test_frames_of_the_right_size_are_kept_exactly():
    video = frames(3)
    reference = load_reference(video, 6, 8)
    assert reference.shape == (3, 3, 6, 8)
    assert reference.dtype == torch.float32
    assert reference.min() >= -1
    assert reference.max() <= 1
    assert torch.equal(to_pixels(reference), video)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ""])
def test_images(tmp_path, suffix):
    image = frames(1)
    path = save_image(tmp_path / f"image{suffix}", image[0], format=None if suffix else "PNG")
    assert torch.equal(to_pixels(load_reference(path, 6, 8)), image)


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "1", "I;16", "CMYK"])
def test_all_colour_modes_are_read(tmp_path, mode):
    Image.new("RGB", (8, 6), (200, 200, 200)).convert("L" if mode == "I;16" else mode).convert(mode).save(
        tmp_path / "image.tiff"
    )
    assert load_reference(str(tmp_path / "image.tiff"), 6, 8).shape == (3, 1, 6, 8)


def test_a_photo_stands_upright(tmp_path):
    wide = np.zeros((6, 8, 3), np.uint8)
    wide[:, :4] = 255  # the left half, which is the upper half when turned clockwise
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save_image(tmp_path / "photo.png", wide, exif=exif)
    upright = load_reference(path, 8, 6)[0, 0]
    assert upright[:4].min() == 1
    assert upright[4:].max() == -1


def test_videos(tmp_path):
    video = frames(5, 32, 48)
    save_video(video, tmp_path / "clip.mp4", fps=12, lossless=True)
    reference = load_reference(tmp_path / "clip.mp4", 32, 48)
    assert torch.equal(to_pixels(reference), video)


def test_an_animation_is_a_video(tmp_path):
    video = torch.zeros(4, 32, 48, 3, dtype=torch.uint8)
    video[2:] = 255
    save_video(video, tmp_path / "clip.gif", fps=10)
    means = load_reference(tmp_path / "clip.gif", 32, 48).mean(dim=(0, 2, 3))
    assert means[0] < -0.9
    assert means[-1] > 0.9


@pytest.mark.parametrize(("height", "width"), [(3, 6), (6, 2), (12, 16), (5, 7), (64, 65), (1, 1)])
def test_the_size_is_covered_and_cut_around_the_centre(height, width):
    image = torch.zeros(1, 6, 8, 3, dtype=torch.uint8)
    image[:, :, :4, 0] = 255  # red on the left
    image[:, :3, :, 1] = 255  # green above
    reference = load_reference(image, height, width)
    assert reference.shape == (3, 1, height, width)
    red, green = reference[0, 0], reference[1, 0]
    # The halves meet in the centre: the picture equals itself turned around, with its colours inverted.
    torch.testing.assert_close(red, -red.flip(1), rtol=0, atol=1e-5)
    torch.testing.assert_close(green, -green.flip(0), rtol=0, atol=1e-5)


def test_shrinking_is_antialiased():
    noise = frames(1, 64, 64)
    assert load_reference(noise, 64, 64).std() > 0.5
    assert load_reference(noise, 8, 8).std() < 0.15


def broken_png(path):
    save_image(path, frames(1, 64, 64)[0])
    path.write_bytes(path.read_bytes()[:300])


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("missing.png", lambda path: None, "is not a file"),
        ("folder", lambda path: path.mkdir(), "is not a file"),
        ("text.txt", lambda path: path.write_text("a cat"), "neither an image nor a video"),
        ("text.mp4", lambda path: path.write_text("a cat"), "neither an image nor a video"),
        ("empty.png", lambda path: path.write_bytes(b""), "neither an image nor a video"),
        ("broken.png", broken_png, "cannot be read as an image"),
    ],
)
def test_files_that_are_no_reference(tmp_path, name, make, message):
    make(tmp_path / name)
    with pytest.raises(ValueError, match=f"reference .*{name}.* {message}"):
        load_reference(tmp_path / name, 6, 8)


@pytest.mark.parametrize(
    "address", ["https://example.com/cat.png", "file:///etc/hostname", "concat:/etc/hostname"]
)
def test_addresses_are_not_followed(address):
    with pytest.raises(ValueError, match="is not a file"):
        load_reference(address, 6, 8)


@pytest.mark.parametrize(
    "tensor",
    [frames(1).float(), frames(1)[0], frames(1)[..., :1], frames(1)[:0]],
    ids=["float", "no time", "one colour", "no frame"],
)
def test_tensors_that_are_no_frames(tensor):
    with pytest.raises(ValueError, match=r"must be uint8 \[T, H, W, 3\]"):
        load_reference(tensor, 6, 8)


@pytest.mark.parametrize("values", [(0, 8), (6, -1)])
def test_impossible_sizes(values):
    with pytest.raises(ValueError, match="must be 1 or more"):
        load_reference(frames(1), *values)
