"""A hash that distinguishes weights without reading all of them."""

from __future__ import annotations

import hashlib
from pathlib import Path

SUFFIXES = (".safetensors", ".bin", ".ckpt", ".index.json")
SAMPLES, SAMPLE_BYTES = 64, 4096  # of each file


def weights_hash(folder: str | Path) -> str:
    """16 hexadecimal digits for the weights in a checkpoint's folder, independent of its location.

    The hash covers each file's name, length and a sample of its bytes: index and header have only names
    and shapes, which a fine-tuned model shares with the original. ValueError if there are no weights.
    """
    files = sorted(path for path in Path(folder).iterdir() if path.name.endswith(SUFFIXES))
    if not files:
        raise ValueError(f"{folder}: no weights found; expected a file ending in {', '.join(SUFFIXES)}")
    digest = hashlib.sha256()
    for path in files:
        length = path.stat().st_size
        digest.update(f"{path.name}:{length}:".encode())
        with path.open("rb") as file:
            for index in range(SAMPLES):
                file.seek(max(length - SAMPLE_BYTES, 0) * index // (SAMPLES - 1))
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()[:16]
