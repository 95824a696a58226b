"""The kind of a file by its first bytes, for files whose name is misleading."""

from __future__ import annotations

import re
from pathlib import Path

HEAD_BYTES = 1024  # enough for `kind_of`
SAFETENSORS = "a safetensors file"
ZIP = "a ZIP archive, as .xlsx, .docx and .npz files are"
PICKLE = "a pickle"
WIDE = "text in UTF-16 or UTF-32: save it as UTF-8"

# The first match. Formats that begin with a length, such as safetensors, may begin like any other.
_KINDS = (
    (rb".{4}\0{4}\{", SAFETENSORS),
    (rb"\x89PNG", "a PNG image"),
    (rb"\xff\xd8\xff", "a JPEG image"),
    (rb"GIF8[79]a", "a GIF image"),
    (rb"BM.{4}\0{4}", "a BMP image"),
    (rb"II\*\0|MM\0\*", "a TIFF image"),
    (rb"RIFF.{4}(WEBP|AVI |WAVE)", "a WebP image, an AVI video or a sound"),
    (rb".{4}ftyp", "an MP4 video or an AVIF image"),
    (rb"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    (rb"PK(\x03\x04|\x05\x06)", ZIP),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (rb"Rar!\x1a\x07", "a RAR archive"),
    (rb".{257}ustar", "a TAR archive"),
    (rb"\xd0\xcf\x11\xe0", "an old Office document"),
    (rb"\x1f\x8b", "compressed by gzip"),
    (rb"BZh[1-9]1AY", "compressed by bzip2"),
    (rb"\xfd7zXZ", "compressed by xz"),
    (rb"\x28\xb5\x2f\xfd", "compressed by zstd"),
    (rb"\x04\x22\x4d\x18", "compressed by lz4"),
    (rb"\x89HDF\r\n", "an HDF5 file, as Keras writes"),
    (rb"GGUF[\0-\x1f]", "a GGUF file, as llama.cpp reads"),
    (rb"\x93NUMPY", "a NumPy array"),
    (rb"%PDF-", "a PDF document"),
    (rb"%!PS", "a PostScript document"),
    (rb"\{\\rtf", "a rich text document"),
    (rb"PAR1[\0-\x1f]", "a Parquet table"),
    (rb"SQLite format 3\0", "a database"),
    (rb"\x80[\x02-\x05]", PICKLE),
    (rb"\0+\Z", "zero bytes, as after an interrupted download: download the file again"),
    (rb"\Z", "empty"),
    (rb"\xff\xfe|\xfe\xff|\0\0\xfe\xff", WIDE),
    (rb"([\t\n\r -~]\0){2}|(\0[\t\n\r -~]){2}", WIDE),
    (rb"([\t\n\r -~]\0{3}){2}|(\0{3}[\t\n\r -~]){2}", WIDE),
)
_TEXTS = (
    (rb"version https://git-lfs", "a Git LFS pointer, not the file itself: run `git lfs pull`"),
    (
        rb"<(!doctype html|(html|head|body)[\s>])",
        "an HTML page, such as a login or error page: download the file again",
    ),
    (rb"<(\?xml|error[\s>])", "XML text, such as a server error: download the file again"),
)


def kind_of(content: bytes) -> str:
    """Return the kind of a file by its first `HEAD_BYTES` bytes, or "" if it may be text or weights."""
    head = content[:HEAD_BYTES]
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    found = [kind for pattern, kind in _KINDS if re.match(pattern, head, re.DOTALL)]
    found += [kind for pattern, kind in _TEXTS if re.match(pattern, text)]
    return found[0] if found else ""


def file_kind(path: Path) -> str:
    """Return the same of a file."""
    with path.open("rb") as file:
        return kind_of(file.read(HEAD_BYTES))
