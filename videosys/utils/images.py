"""Image files as RGB pixels: every mode in its range, transparency composited over a colour."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError

# None of these starts another program, as EPS does, or reads other files.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF", "JPEG2000")
MOST_PIXELS = 178_956_970  # of one image: Pillow's own limit
BACKGROUND = "white"

Say = Callable[[str], None]

_TRANSPARENT = ("LA", "La", "PA", "RGBA", "RGBa")
_ROTATED = (5, 6, 7, 8)  # EXIF orientations that swap width and height
_ORIENTATION, _BITS, _PHOTOMETRIC, _SAMPLES = 0x0112, 258, 262, 339  # tags of EXIF and of TIFF
_SIGNED = 2


class NoImageError(ValueError):
    """A file of an unknown image format, possibly a video."""


def open_image(path: str | Path) -> Image.Image:
    """Return an image after reading only its header.

    NoImageError if its format is not in `FORMATS`; ValueError if it is too large or cannot be read.
    """
    Image.init()
    known = [name for name in FORMATS if name in Image.OPEN]  # older versions of Pillow lack AVIF
    try:
        image = Image.open(path, formats=known)
    except UnidentifiedImageError:
        raise NoImageError(f"is not a readable image ({', '.join(known)})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(f"has more than {MOST_PIXELS} pixels, the limit") from None
    except Exception as error:
        raise _unreadable(error) from error
    if image.width * image.height > MOST_PIXELS:
        image.close()
        raise ValueError(f"has {image.width} x {image.height} pixels; the limit is {MOST_PIXELS}")
    return image


def _unreadable(error: Exception, where: str = "") -> ValueError:
    """The error that replaces one of Pillow, which can have any class and no message."""
    return ValueError(f"cannot be read as an image: {where}{error or type(error).__name__}")


def frame_count(image: Image.Image) -> int:
    """Return how many frames or pages an image has."""
    try:
        return getattr(image, "n_frames", 1)
    except Exception as error:
        raise _unreadable(error) from error


def go_to(image: Image.Image, number: int) -> None:
    """Decode frame `number` of an animation. ValueError if it is damaged or too large."""
    try:
        image.seek(number)
        image.load()
    except Exception as error:
        raise _unreadable(error, f"frame {number}: ") from error


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return (height, width) of an image after its EXIF rotation."""
    is_rotated = _orientation(image) in _ROTATED
    return (image.width, image.height) if is_rotated else (image.height, image.width)


def pixels(image: Image.Image, background: str = BACKGROUND, say: Say = lambda words: None) -> np.ndarray:
    """Return the pixels uint8 [H, W, 3] of an image (its current frame), rotated by its EXIF orientation.

    Transparent parts show `background`, a colour name or #rrggbb. 65535 is white for 16 bits. For
    floats, 1 is white if none is above 2, 255 if none is above 255, else 65535; for integers of
    32 bits, 255, 65535 or the largest value. Colour profiles are not applied. `say` is called with a line
    about each conversion that is a guess. ValueError for a damaged image or values outside all these ranges.
    """
    try:
        upright = ImageOps.exif_transpose(image) if _orientation(image) != 1 else image
        return np.array(_to_rgb(upright, background, say))
    except ValueError:
        raise
    except Exception as error:
        raise _unreadable(error) from error


def lay_on(image: Image.Image, background: str, say: Say) -> Image.Image:
    """Return an RGBA image composited over a colour."""
    if image.getchannel("A").getextrema() == (255, 255):
        return image.convert("RGB")
    say(f"has transparent parts, which show {background}")
    below = Image.new("RGBA", image.size, (*ImageColor.getrgb(background)[:3], 255))
    return Image.alpha_composite(below, image).convert("RGB")


def check_colour(colour: str) -> str:
    """Return a colour. ValueError unless it is a CSS name or #rrggbb."""
    try:
        if len(colour) <= 100 and len(ImageColor.getrgb(colour)) == 3:
            return colour
    except ValueError:
        pass
    raise ValueError(
        f"reference_background is {colour[:100]!r}; it must be a colour such as white or #7f7f7f"
    )


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # an image with damaged EXIF data can still be read
        return 1


def _to_rgb(image: Image.Image, background: str, say: Say) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _from_numbers(image, background, say)
    palette = getattr(image.palette, "mode", "") if image.mode == "P" else ""
    if image.mode in _TRANSPARENT or palette.endswith("A") or "transparency" in image.info:
        return lay_on(_with_alpha(image), background, say)
    if image.mode == "LAB":
        return _from_lab(image)
    return image.convert("RGB")


def _with_alpha(image: Image.Image) -> Image.Image:
    key = image.info.get("transparency")
    if isinstance(key, (tuple, list)) and max(key) > 255:  # a 16-bit key, but the pixels have 8 bits
        image.info["transparency"] = tuple(value >> 8 for value in key)
    if image.mode == "La":
        image = image.convert("LA")
    return image.convert("RGBA")


def _from_lab(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    profiles = (ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"))
    converted = ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
    assert converted is not None
    return converted


def _from_numbers(image: Image.Image, background: str, say: Say) -> Image.Image:
    """Return a grey image from values that do not have 8 bits."""
    numbers = np.array(image).astype(np.float64)
    if image.mode == "I" and _is_unsigned(image):
        numbers %= 1 << 32
    if not np.isfinite(numbers).all():
        raise ValueError("cannot be read as an image: it has values that are not finite")
    white = _white(image, numbers, say)
    grey = np.floor(numbers.clip(0, white) * (255 / white) + 0.5).astype(np.uint8)
    tags = getattr(image, "tag_v2", {})
    if image.mode.startswith("I;16") and tags.get(_PHOTOMETRIC) == 0:  # Pillow converts the others itself
        grey = 255 - grey
    rgb = Image.fromarray(grey).convert("RGB")
    key = image.info.get("transparency")
    if isinstance(key, int):
        rgb.putalpha(Image.fromarray(np.where(numbers == key, 0, 255).astype(np.uint8)))
        return lay_on(rgb, background, say)
    return rgb


def _is_unsigned(image: Image.Image) -> bool:
    """Whether 32-bit integers are unsigned, which Pillow ignores."""
    tags = getattr(image, "tag_v2", {})
    return tags.get(_BITS, (16,))[0] == 32 and tags.get(_SAMPLES, (1,))[0] == 1


def _white(image: Image.Image, numbers: np.ndarray, say: Say) -> float:
    """Return the value of white: that of the type, or one chosen from the largest value."""
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(_BITS, (16 if image.mode.startswith("I;16") else 32,))[0]
    is_signed = tags.get(_SAMPLES, (1,))[0] == _SIGNED
    if image.mode.startswith("I;16"):
        return float((1 << min(bits, 16)) - 1)
    if image.mode == "I" and (image.format in ("PNG", "PPM") or bits == 16):
        return 32767.0 if is_signed else 65535.0
    least, most = float(numbers.min()), float(numbers.max())
    known = (
        [1.0, 255.0, 65535.0]
        if image.mode == "F"
        else [255.0, 65535.0, float((1 << 31) - 1), float((1 << 32) - 1)]
    )
    # Sharpening and resizing can give values slightly above 1.
    white = next((white for white in known if most <= (2.0 if white == 1.0 else white)), None)
    if white is None:
        raise ValueError(f"cannot be read as an image: its values reach {most:g}, above {known[-1]:g}")
    say(f"has values from {least:g} to {most:g}; {white:g} is used as white")
    return white
