"""Names of tensors without the prefixes that trainers and wrappers add."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")

# Of DistributedDataParallel, trainers, torch.compile, pipelines, and files of other programs.
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
_SHOWN = 5  # prefixes in a message
_KNOWN = re.compile(f"({'|'.join(map(re.escape, KNOWN))})+")
# Of wrappers around single blocks: anywhere in a name.
_WRAPPERS = re.compile(r"_orig_mod\.|_fsdp_wrapped_module\.|_checkpoint_wrapped_module\.")


def without_prefix(weights: Mapping[str, T], expected: Collection[str]) -> tuple[dict[str, T], list[str]]:
    """Return the weights by their expected names, and the known prefixes that were removed.

    The prefixes of wrappers are removed, and a known prefix of most of the expected names, even if the
    file has more keys. An unknown prefix stays: `common_prefix` finds it.
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
    """Return the prefix of most of the expected names in `names`, or "" if they have none."""
    names = set(names)
    lacking = [key for key in expected if key not in names]
    if not lacking or len(lacking) < len(expected):
        return ""
    ends = {key.rpartition(".")[2] for key in lacking}
    found = Counter(prefix for name in names for prefix in _starts(name, ends, expected))
    best = found.most_common(2)
    is_clear = bool(best) and (len(best) == 1 or best[0][1] > best[1][1])
    return best[0][0] if is_clear and 2 * best[0][1] >= len(lacking) else ""


def prefixes_of(names: Iterable[str], expected: Collection[str]) -> dict[str, int]:
    """Return the prefixes of expected names in the other `names`, and how many names have each.

    The most frequent come first. A single name counts only if the expected one is missing.
    """
    names, ends = set(names), {key.rpartition(".")[2] for key in expected}
    starts = {
        name: found for name in names if name not in expected and (found := _starts(name, ends, expected))
    }
    votes = Counter(prefix for found in starts.values() for prefix in found)
    best = {
        name: max(found, key=lambda prefix: (votes[prefix], -len(prefix))) for name, found in starts.items()
    }
    counts = Counter(best.values())
    odd = {
        prefix for name, prefix in best.items() if counts[prefix] == 1 and name.removeprefix(prefix) in names
    }
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {prefix: count for prefix, count in ordered if prefix not in odd}


def told_prefixes(plain: int, found: Mapping[str, int], expected: int, words: Sequence[str] = ()) -> str:
    """Return a line on the prefixes `found` of expected names.

    plain: number of names without one, after removing `words`. expected: number of names needed.
    """
    off = f" once {' and '.join(map(repr, words))} is removed" if words else ""
    places = [f"{plain} without a prefix{off}"] if plain else []
    places += [f"{count} with {prefix!r}" for prefix, count in [*found.items()][:_SHOWN]]
    places += [f"more with {len(found) - _SHOWN} other prefixes"] if len(found) > _SHOWN else []
    whole = sum(count == expected for count in (plain, *found.values()))
    sets = f"{whole} complete sets of the model's {expected} keys" if whole > 1 else "keys of the model"
    advice = "keep one of them" if whole > 1 else "rename them, or remove those that are not needed"
    return f"the file holds {sets}: {' and '.join(places)}; {advice}"


def _starts(name: str, ends: Collection[str], expected: Collection[str]) -> list[str]:
    """Return the prefixes of expected names in `name`; there are several if expected names are nested."""
    if name.rpartition(".")[2] not in ends:
        return []
    dots = [index + 1 for index, letter in enumerate(name) if letter == "."]
    return [name[:dot] for dot in dots if name[dot:] in expected]
