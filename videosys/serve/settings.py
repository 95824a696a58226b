"""Settings for the operator of a service."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from videosys.utils.reading import read_text
from videosys.utils.typed import check_positive, check_types

KEYS_VARIABLE = "VIDEOSYS_API_KEYS"
LEAST_KEY = 16  # characters
EVERYBODY = "everybody"  # owner of all jobs of a service without keys


@dataclass(frozen=True)
class Limits:
    """Limits of a request, a key and the queue. ValueError for a limit below 1.

    queue: waiting jobs. prompt: characters. pixels: per frame. frames: per video. steps: of the sampler.
    per_minute: videos per key and minute. body: bytes of a request.
    """

    queue: int = 100
    prompt: int = 2000
    pixels: int = 1920 * 1088
    frames: int = 1000
    steps: int = 200
    per_minute: int = 60
    body: int = 1 << 20

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "queue", "prompt", "pixels", "frames", "steps", "per_minute", "body")


@dataclass(frozen=True)
class Source:
    """The config of a service: a file, the model's name if the file does not determine it, and overrides."""

    config: str
    model: str | None = None
    overrides: tuple[str, ...] = ()


class Keys:
    """The API keys of a service. Only their hashes are stored."""

    def __init__(self, keys: Sequence[str]):
        """keys: empty for a service without authentication. ValueError for a key that is too weak."""
        for number, key in enumerate(keys, 1):
            if len(key) < LEAST_KEY or not key.isascii() or not key.isprintable() or " " in key:
                text = f"must have {LEAST_KEY} or more ASCII characters without blanks"
                raise ValueError(f"API key {number} of {len(keys)} {text}")
        self._digests = [digest(key) for key in dict.fromkeys(keys)]

    @property
    def is_open(self) -> bool:
        """Whether the service works without keys."""
        return not self._digests

    def owner(self, authorization: str) -> str | None:
        """The owner for the header `Authorization: Bearer KEY`; None for a wrong key.

        All keys are compared, each in constant time.
        """
        if not self._digests:
            return EVERYBODY
        scheme, _, key = authorization.partition(" ")
        given = digest(key.strip())
        matches = [own for own in self._digests if hmac.compare_digest(own, given)]
        return matches[0][:16] if matches and scheme.lower() == "bearer" else None


def digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def read_keys(path: Path | None) -> Keys:
    """The keys in a file, one per line, or in VIDEOSYS_API_KEYS, separated by commas. ValueError for a file
    that cannot be read or has no keys.
    """
    if path is None:
        return Keys([key.strip() for key in os.environ.get(KEYS_VARIABLE, "").split(",") if key.strip()])
    try:
        lines = [line.strip() for line in read_text(path).splitlines()]
    except FileNotFoundError:
        raise ValueError(f"--keys {path}: no such file") from None
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise ValueError(f"--keys {path}: contains no keys")
    return Keys(keys)
