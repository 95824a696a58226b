"""The names of tensors as a model has them, where a training or a wrapper has put words before them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")

# Of DistributedDataParallel, trainings, torch.compile, pipelines, and files of other programs.
KNOWN = (
    "module.",
    "model.",
    "_orig_mod.",
    "transformer.",
    "diffusion_model.",
    "net.",
    "dit.",
    "vae.",
    "text_encoder.",
)
_KNOWN = re.compile(f"({'|'.join(map(re.escape, KNOWN))})+")
# Of wrappers around single blocks: anywhere in a name.
_WRAPPERS = re.compile(r"_orig_mod\.|_fsdp_wrapped_module\.|_checkpoint_wrapped_module\.")


def without_prefix(weights: Mapping[str, T], expected: Collection[str]) -> tuple[dict[str, T], list[str]]:
    """Return the weights by the names that are expected, and the known words that were taken off.

    Taken off are the marks of wrappers, and what stands before most of the expected names, also where the
    file has more. A prefix of unknown words stays: `common_prefix` finds it.
    """
    inner = {key if key in expected else _WRAPPERS.sub("", key): item for key, item in weights.items()}
    if len(inner) < len(weights):  # two names would become one
        inner = dict(weights)
    words = sorted({mark for key in weights if key not in inner for mark in _WRAPPERS.findall(key)})
    prefix = common_prefix(inner, expected)
    if not _KNOWN.fullmatch(prefix):
        return inner, words
    return {key.removeprefix(prefix): item for key, item in inner.items()}, [*words, prefix]


def common_prefix(names: Iterable[str], expected: Collection[str]) -> str:
    """Return what stands before most of the expected names in `names`, or "" where they stand alone."""
    names = set(names)
    lacking = [key for key in expected if key not in names]
    if not lacking or len(lacking) < len(expected):
        return ""
    ends = {key.rpartition(".")[2] for key in lacking}
    found = Counter(prefix for name in names for prefix in _starts(name, ends, expected))
    best = found.most_common(2)
    is_clear = bool(best) and (len(best) == 1 or best[0][1] > best[1][1])
    return best[0][0] if is_clear and 2 * best[0][1] >= len(lacking) else ""


def _starts(name: str, ends: Collection[str], expected: Collection[str]) -> list[str]:
    """Return what stands before an expected name in `name`; a name has several where expected ones nest."""
    if name.rpartition(".")[2] not in ends:
        return []
    dots = [index + 1 for index, letter in enumerate(name) if letter == "."]
    return [name[:dot] for dot in dots if name[dot:] in expected]
