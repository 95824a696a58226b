"""Loads and saves models as checkpoint folders (config.json and weights), with strict checks of all keys."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import nn

from videosys.utils.files import replacing, write_text
from videosys.utils.hub import resolve
from videosys.utils.interrupts import raise_interrupt
from videosys.utils.plain import read_json
from videosys.utils.prefixes import KNOWN, common_prefix, prefixes_of, told_prefixes, without_prefix
from videosys.utils.progress import progress
from videosys.utils.reading import expanded
from videosys.utils.settled import settle
from videosys.utils.weights import SAFETENSORS_NAMES, load_state_dict, shortened

__all__ = [
    "check_model",
    "load_model",
    "load_state_dict",
    "read_config",
    "resolve",
    "save_model",
    "tell_prefix",
]

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)
Split = Callable[[str, torch.Tensor], dict[str, torch.Tensor]]
Adapt = Callable[[str, torch.Tensor], torch.Tensor]

_LOG = logging.getLogger("videosys.checkpoint")


def read_config(config_cls: type[T], folder: str | Path, name: str = "config.json") -> T:
    """Return the dataclass that a checkpoint's config.json describes.

    Keys without a field are ignored. A missing or damaged file, a value of the wrong type and a missing
    value are a ValueError that names the file and the key.
    """
    path = Path(folder) / name
    if not expanded(path).exists():
        below = sorted(found.parent.name for found in expanded(Path(folder)).glob(f"*/{name}"))
        hint = f"; its checkpoint folders are {', '.join(below)}" if below else ""
        raise ValueError(f"{path}: no such file, so {folder} is not a checkpoint folder{hint}")
    return read_json(config_cls, path, ignores_unknown=True)


@settle
def load_model(
    model_cls: type[M],
    config: Any,
    folder: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    quiet: bool = True,
    keep: Callable[[nn.Module], Split] | None = None,
    adapt: Adapt | None = None,
    **kwargs: Any,
) -> M:
    """Return `model_cls(config, **kwargs)` with a folder's weights, in eval mode and without gradients.

    The model is built on the meta device and its tensors are loaded one by one as `dtype` (integers keep
    theirs), so the peak memory is the size of the weights. The class may define `ignored_keys` (prefixes of
    keys to ignore), `float32_parameters` (keys that stay float32) and `current_key(key)` (maps keys of older
    files). ValueError, before any weight is read, for an invalid config, and for missing keys, unexpected
    keys and wrong shapes, all of which it lists.
    keep: changes the model before it has weights, and returns a function that converts a tensor of the file
    to those of the changed model, by name. adapt: changes each tensor of the file before it is converted to
    `dtype`.
    """
    model, mapped, words = _model_and_weights(model_cls, config, folder, **kwargs)
    tell_prefix(folder, words)
    exact = getattr(model_cls, "float32_parameters", ())
    dtypes = {key: torch.float32 if key in exact else dtype for key in mapped}
    keys = progress(list(mapped), f"load {model_cls.__name__}", quiet=quiet)
    weights = placed(keys, mapped, dtypes, device, keep(model) if keep else as_it_is, adapt)
    model.load_state_dict(weights, strict=True, assign=True)
    unfilled = [name for name, item in [*model.named_parameters(), *model.named_buffers()] if item.is_meta]
    assert not unfilled, f"{model_cls.__name__} has buffers that are not in the checkpoint: {unfilled}"
    return model.eval().requires_grad_(False)


def as_it_is(key: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the tensor unchanged, under its own name."""
    return {key: tensor}


def placed(
    keys: Iterable[str],
    mapped: dict[str, torch.Tensor],
    dtypes: Mapping[str, torch.dtype],
    device: str | torch.device,
    split: Split = as_it_is,
    adapt: Adapt | None = None,
) -> dict[str, torch.Tensor]:
    """Return the tensors of a file on a device, adapted, converted to their dtypes (not integers) and split.

    They are copied one by one from the mapped file and removed from `mapped`: a part of the file is unmapped
    after its last tensor.
    """
    weights: dict[str, torch.Tensor] = {}
    for key in keys:
        # Converted on the device, because a conversion on the host needs another copy in host memory.
        there = mapped.pop(key).to(device)
        there = adapt(key, there) if adapt else there
        weights |= split(key, there.to(dtypes[key]) if there.is_floating_point() else there)
    return weights


@settle
def check_model(model_cls: type[nn.Module], config: Any, folder: str | Path, **kwargs: Any) -> None:
    """Raise the ValueError that `load_model` would raise. No weight is read: files are only mapped."""
    _model_and_weights(model_cls, config, folder, **kwargs)


def _model_and_weights(
    model_cls: type[M], config: Any, folder: str | Path, **kwargs: Any
) -> tuple[M, dict[str, torch.Tensor], list[str]]:
    """Return the model on the meta device, and the weights of a folder for exactly its keys.

    The third item is the prefixes that were removed from the file's keys.
    """
    model = empty_model(model_cls, config, folder, **kwargs)
    ignored = tuple(getattr(model_cls, "ignored_keys", ()))
    current = getattr(model_cls, "current_key", str)
    found, words = without_prefix(load_state_dict(folder), model.state_dict().keys())
    weights = {current(key): item for key, item in found.items() if not key.startswith(ignored)}
    check_keys(model, weights, folder, words)
    return model, weights, words


def empty_model(model_cls: type[M], config: Any, folder: str | Path, **kwargs: Any) -> M:
    """Return the model on the meta device, without weights; ValueError for an invalid config."""
    try:
        with torch.device("meta"):
            return model_cls(config, **kwargs)
    except Exception as error:  # torch, diffusers and transformers raise various errors for invalid sizes
        raise_interrupt(error)
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise ValueError(f"{folder}: its config is not valid for {model_cls.__name__}: {reason}") from error


def tell_prefix(folder: str | Path, words: Sequence[str]) -> None:
    """Log the prefixes that were removed from the keys of a folder's weights."""
    if words:
        _LOG.warning("%s: removed the prefix %s from the keys", folder, " and ".join(map(repr, words)))


def check_keys(
    model: nn.Module, weights: Mapping[str, torch.Tensor], folder: str | Path, words: Sequence[str] = ()
) -> None:
    """Raise a ValueError that lists the names, shapes and dtypes that do not match the model.

    Keys of the model after a prefix are counted per prefix, not listed. words: prefixes that were removed.
    """
    expected = model.state_dict()
    prefix = common_prefix(weights, expected.keys())
    if prefix:
        raise ValueError(
            f"{folder}: the keys of the weights begin with {prefix!r}, those of {type(model).__name__} do "
            f"not; rename them (known prefixes, such as {KNOWN[0]!r}, are removed automatically)"
        )
    found = prefixes_of(weights, expected.keys())
    named = {prefix + key: key for prefix in found for key in expected if prefix + key in weights}
    behind = {*named.values()}
    misfits = _misfits(weights, expected)
    misfits["missing"] = [key for key in misfits["missing"] if key not in behind]
    misfits["unexpected"] = [key for key in misfits["unexpected"] if key not in named]
    lines = [f"{len(keys)} {word}: {shortened(keys)}" for word, keys in misfits.items() if keys]
    if found:
        plain = sum(key in weights for key in expected)
        lines.insert(0, told_prefixes(plain, found, len(expected), words))
    if lines:
        raise ValueError(f"{folder}: the weights do not fit {type(model).__name__}; " + "; ".join(lines))


def _misfits(
    weights: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]
) -> dict[str, list[str]]:
    """Return the keys that do not fit, by reason."""
    pairs = [(key, weights[key], expected[key]) for key in expected if key in weights]
    return {
        "missing": [key for key in expected if key not in weights],
        "unexpected": [key for key in weights if key not in expected],
        "with another shape": [
            f"{key} {tuple(item.shape)} instead of {tuple(own.shape)}"
            for key, item, own in pairs
            if item.shape != own.shape
        ],
        "with a dtype of another kind": [
            f"{key} {item.dtype}"
            for key, item, own in pairs
            if item.is_floating_point() != own.is_floating_point()
        ],
    }


@settle
def save_model(state_dict: Mapping[str, torch.Tensor], config: Any, folder: str | Path) -> None:
    """Write config.json and model.safetensors, each atomically."""
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in state_dict.items()}
    with replacing(Path(folder) / SAFETENSORS_NAMES[0]) as temporary:
        save_file(tensors, temporary)
    write_text(Path(folder) / "config.json", json.dumps(dataclasses.asdict(config), indent=2) + "\n")
