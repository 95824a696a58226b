"""Pixels of images of every mode, and what is refused before it is decoded."""

from __future__ import annotations

import io
import struct
import subprocess
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from videosys.utils import images
from videosys.utils.images import NoImageError, check_colour, open_image, pixels, upright_size
from videosys.utils.video import read_video

RAMP = np.linspace(0, 65535, 64).astype(np.uint16)[None].repeat(4, 0)
GREY = np.round(RAMP / 257).astype(np.uint8)
ALPHA = np.full_like(GREY, 255)
ALPHA[:, 16:48] = 0
MAGENTA = np.zeros((4, 64, 3), np.uint8) + np.array([255, 0, 255], np.uint8)
RGBA = Image.fromarray(np.dstack([MAGENTA, ALPHA]))


def read(image: Image.Image, path, background: str = "white", **options) -> np.ndarray:
    image.save(path, **options)
    with open_image(path) as opened:
        return pixels(opened, background)


def tiff(numbers: np.ndarray, path, **tags: int):
    """A TIFF of one channel with these tags, which Pillow does not write."""
    bits, kind = numbers.dtype.itemsize * 8, {"u": 1, "i": 2, "f": 3}[numbers.dtype.kind]
    fields = {
        256: 64,
        257: 4,
        258: bits,
        259: 1,
        262: 1,
        273: 8,
        277: 1,
        278: 4,
        279: numbers.nbytes,
        339: kind,
    }
    fields |= {int(name[1:]): value for name, value in tags.items()}
    content = b"II*\0" + struct.pack("<I", 8 + numbers.nbytes) + numbers.tobytes()
    content += struct.pack("<H", len(fields))
    content += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(fields.items()))
    path.write_bytes(content + b"\0\0\0\0")
    return path


@pytest.mark.parametrize("name", ["a.png", "a.tiff", "a.webp", "a.bmp", "a.gif"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_eight_bits_are_kept(tmp_path, name, mode):
    image = Image.fromarray(np.dstack([GREY] * 3)).convert(mode)
    options = {"lossless": True} if name == "a.webp" else {}
    np.testing.assert_array_equal(read(image, tmp_path / name, **options), np.array(image.convert("RGB")))


@pytest.mark.parametrize("name", ["a.png", "a.tiff"])
def test_sixteen_bits_are_a_range_not_clipped(tmp_path, name):
    found = read(Image.fromarray(RAMP), tmp_path / name)
    np.testing.assert_array_equal(found, np.dstack([GREY] * 3))


@pytest.mark.parametrize(
    "numbers",
    [
        RAMP,
        RAMP.astype(np.int32),
        RAMP.astype(np.uint32) * 65537,
        (RAMP.astype(np.int64) * 32768).astype(np.int32),
        (RAMP // 2).astype(np.int16),
        (RAMP / 65535).astype(np.float32),
        (RAMP / 257).astype(np.float32),
        RAMP.astype(np.float32),
        GREY.astype(np.int32),
    ],
    ids=["u16", "i32 as 16", "u32", "i32", "i16", "unit", "float 255", "float 65535", "i32 as 8"],
)
def test_numbers_of_every_type_are_a_range_not_clipped(tmp_path, numbers):
    frames, _ = read_video(tiff(numbers, tmp_path / "a.tiff"))
    assert (frames[0].numpy().astype(int) - GREY[..., None]).__abs__().max() <= 1
    assert frames[0, 0, [0, -1], 0].tolist() == [0, 255]


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ((RAMP / 65535).astype(np.float32), "has values from 0 to 1; 1 is used as white"),
        (GREY.astype(np.int32), "has values from 0 to 255; 255 is used as white"),
    ],
)
def test_a_white_that_was_chosen_is_told(tmp_path, caplog, numbers, words):
    read_video(tiff(numbers, tmp_path / "a.tiff"))
    assert words in caplog.text


def test_a_little_above_one_is_cut_not_taken_for_255(tmp_path):
    numbers = (RAMP / 65535 * 1.25).astype(np.float32)
    frames, _ = read_video(tiff(numbers, tmp_path / "a.tiff"))
    assert frames[0, 0, -1].tolist() == [255, 255, 255]
    assert abs(int(frames[0, 0, 25, 0]) - int(RAMP[0, 25] / 257 * 1.25)) <= 1


def test_white_may_be_zero(tmp_path):
    frames, _ = read_video(tiff(RAMP, tmp_path / "a.tiff", t262=0))
    np.testing.assert_array_equal(frames[0, ..., 0].numpy(), 255 - GREY)


@pytest.mark.parametrize(
    ("factor", "message"), [(10.0, "its values reach 655350, above 65535"), (np.nan, "not finite")]
)
def test_numbers_of_no_known_range_are_refused(tmp_path, factor, message):
    with pytest.raises(ValueError, match=rf"a\.tiff: cannot be read as an image: .*{message}"):
        read_video(tiff((RAMP * factor).astype(np.float32), tmp_path / "a.tiff"))


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_grey_maps_of_more_bits(tmp_path, bits):
    most = (1 << bits) - 1
    path = tmp_path / "a.pgm"
    path.write_bytes(f"P5\n64 4\n{most}\n".encode() + (RAMP >> 16 - bits).astype(">u2").tobytes())
    assert np.abs(read_video(path)[0][0, ..., 0].numpy().astype(int) - GREY).max() <= 1


@pytest.mark.parametrize(
    ("image", "name", "options"),
    [
        (RGBA, "a.png", {}),
        (RGBA, "a.webp", {"lossless": True}),
        (RGBA, "a.tiff", {}),
        (RGBA, "a.gif", {}),
        (RGBA.convert("LA"), "a.png", {}),
        (RGBA.convert("PA"), "a.tiff", {}),
        (RGBA.convert("RGB"), "a.png", {"transparency": (255, 0, 255)}),
        (
            RGBA.convert("RGB").convert("L"),
            "a.png",
            {"transparency": int(RGBA.convert("L").getpixel((0, 0)))},
        ),
        (RGBA.convert("RGB").quantize(4), "a.png", {"transparency": 0}),
        (RGBA.convert("RGB").quantize(4), "a.png", {"transparency": b"\0" * 4}),
        (Image.new("1", (64, 4)), "a.png", {"transparency": 0}),
        (Image.fromarray(np.zeros_like(RAMP) + 999), "a.png", {"transparency": 999}),
    ],
    ids=[
        "RGBA",
        "WebP",
        "TIFF",
        "GIF",
        "LA",
        "PA",
        "RGB key",
        "L key",
        "P key",
        "P table",
        "1 key",
        "I;16 key",
    ],
)
@pytest.mark.parametrize(("background", "expected"), [("white", (255, 255, 255)), ("#102030", (16, 32, 48))])
def test_what_is_transparent_shows_the_background(
    tmp_path, caplog, image, name, options, background, expected
):
    image.save(tmp_path / name, **options)
    frames, _ = read_video(tmp_path / name, background)
    assert tuple(frames[0, 0, 32].tolist()) == expected
    assert caplog.text.count(f"transparent parts, which show {background}") == 1


def test_half_transparent_is_a_mixture(tmp_path):
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    assert abs(int(read(half, tmp_path / "a.png", "white")[0, 0, 0]) - 127) <= 1
    assert read(half, tmp_path / "a.png", "black").max() == 0


def test_an_opaque_image_is_unchanged_and_nothing_is_said(tmp_path, caplog):
    image = Image.fromarray(np.dstack([MAGENTA, np.full_like(ALPHA, 255)]))
    np.testing.assert_array_equal(read(image, tmp_path / "a.png"), MAGENTA)
    assert not caplog.text


@pytest.mark.parametrize(
    ("mode", "name"), [("CMYK", "a.tiff"), ("CMYK", "a.jpg"), ("YCbCr", "a.jpg"), ("LAB", "a.tiff")]
)
def test_other_colours(tmp_path, mode, name):
    image = Image.fromarray(np.dstack([GREY] * 3))
    if mode == "LAB":
        profiles = (ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"))
        image = ImageCms.profileToProfile(image, *profiles, outputMode="LAB")
    found = read(image if mode == "LAB" else image.convert(mode), tmp_path / name)
    assert np.abs(found.astype(int) - GREY[..., None]).max() <= 4


@pytest.mark.parametrize("mode", ["HSV", "La", "RGBa", "RGBX", "F", "I"])
def test_modes_that_no_file_has(mode):
    image = (
        RGBA.convert("LA").convert("La") if mode == "La" else RGBA.convert(mode) if mode == "RGBa" else None
    )
    image = image or Image.fromarray(np.dstack([GREY] * 3)).convert("RGB").convert(
        "L" if mode in "FI" else "RGB"
    ).convert(mode)
    found = pixels(image)
    assert found.shape == (4, 64, 3)
    if mode in ("La", "RGBa"):
        assert found[0, 32].tolist() == [255, 255, 255]
    else:
        assert found[0, [0, -1], 0].tolist() == [0, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_stands_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.dstack([GREY] * 3)).save(tmp_path / "a.png", exif=exif)
    with open_image(tmp_path / "a.png") as image:
        assert pixels(image).shape[:2] == upright_size(image) == ((64, 4) if orientation > 4 else (4, 64))


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return head + struct.pack(">I", 99) + b"IDAT"


@pytest.mark.parametrize(
    "content",
    [
        png_header(65535, 65535),
        png_header(1 << 30, 1),
        b"GIF89a" + struct.pack("<HHBBBBHHHHBB", 65535, 65535, 0, 0, 0, 0x2C, 0, 0, 9, 9, 0, 8),
        b"BM"
        + struct.pack("<IHHI", 999, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, 65535, 65535, 1, 24, 0, 0, 0, 0, 0, 0),
        b"P6\n65535 65535\n255\n",
    ],
    ids=["png", "long png", "gif", "bmp", "ppm"],
)
def test_huge_images_are_refused_by_their_header(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.png: has .*pixels"):
        read_video(path)


def eps(path):
    Image.new("RGB", (8, 8)).save(path, format="EPS")
    return path


@pytest.mark.parametrize("name", ["a.png", "a.eps", "a.mp4"])
def test_no_program_is_started_for_an_image(tmp_path, monkeypatch, name):
    path = eps(tmp_path / name)
    started = []
    original = subprocess.Popen

    def start(command, **options):
        started.append(command)
        return original(command, **options)

    monkeypatch.setattr("subprocess.Popen", start)
    with pytest.raises(NoImageError, match="is not a readable image"):
        open_image(path)
    with pytest.raises(ValueError, match=rf"{name}: cannot be read as a video.* PostScript document"):
        read_video(path)
    assert [command for command in started if "ffmpeg" not in command[0]] == []


def test_formats_that_are_not_listed_are_no_images(tmp_path):
    for name in ("a.pdf", "a.tga", "a.pcx", "a.ico"):
        Image.new("RGB", (16, 16)).save(tmp_path / name)
        with pytest.raises(NoImageError):
            open_image(tmp_path / name)


def test_an_older_pillow_without_avif_still_reads_the_others(tmp_path, monkeypatch):
    Image.init()
    monkeypatch.delitem(Image.OPEN, "AVIF", raising=False)
    assert read(Image.new("RGB", (8, 8)), tmp_path / "a.png").shape == (8, 8, 3)
    assert images.FORMATS[0] == "PNG"


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_a_file_that_is_cut_off_is_one_error(tmp_path, kind, keep):
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, format=kind)
    path = tmp_path / "a.img"
    path.write_bytes(buffer.getvalue()[: int(buffer.tell() * keep)])
    with pytest.raises(ValueError, match=r"a\.img: "):
        read_video(path)


@pytest.mark.parametrize("colour", ["white", "Black", "#fff", "#7f7f7f", "rgb(1, 2, 3)"])
def test_colours(colour):
    assert check_colour(colour) == colour


@pytest.mark.parametrize("colour", ["", "nothing", "#12", "#ffffff80", "7", "white" * 99])
def test_what_is_no_colour(colour):
    with pytest.raises(ValueError, match=r"reference_background is .*; it must be a colour such as white"):
        check_colour(colour)
