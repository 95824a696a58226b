"""The tensors of a checkpoint folder, memory-mapped, from one file or from shards with an index."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

PART_BYTES = 128 << 20

# The names that published checkpoints use; the first that is there is taken.
SAFETENSORS_NAMES = ("model.safetensors", "diffusion_pytorch_model.safetensors")
BIN_NAMES = ("pytorch_model.bin", "diffusion_pytorch_model.bin", "model.bin")
CKPT_PATTERN = "*.ckpt"  # what a training leaves: weights and more


def load_state_dict(folder: str | Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint folder by name, mapped from their files on the CPU.

    Nothing is read before a tensor is used. Safetensors come before .bin files, and those before the .ckpt
    file of a training; .bin and .ckpt files are read with `weights_only`, so that nothing in them can run.
    A file that is missing, damaged or outside the folder is a ValueError.
    """
    folder = Path(folder)
    for name in (*SAFETENSORS_NAMES, *BIN_NAMES):
        if (folder / f"{name}.index.json").exists():
            return _read_shards(folder, folder / f"{name}.index.json")
        if (folder / name).exists():
            return read_tensors(folder / name)
    for pattern, read in (("*.safetensors", read_tensors), (CKPT_PATTERN, read_training)):
        others = sorted(folder.glob(pattern))
        if len(others) == 1:
            return read(others[0])
    names = ", ".join((*SAFETENSORS_NAMES, *BIN_NAMES))
    raise ValueError(
        f"{folder}: no weights; there must be one of {names}, or the .index.json of one, or one .ckpt file"
    )


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of one .safetensors or .bin file by name, mapped from it."""
    tensors = _read(path)
    if not _is_state_dict(tensors):
        raise ValueError(f"{path}: must hold tensors by name and nothing else")
    return tensors


def read_training(path: Path) -> dict[str, torch.Tensor]:
    """Return the weights in the .ckpt file of a training by name, mapped from it.

    These are the averaged ones (`ema_state_dict`) where there are any, else those of `state_dict`, or of the
    `gen_model` in it. Whatever else the file holds must be plain data, or it is refused.
    """
    content = _read(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must hold a dictionary, got {type(content).__name__}")
    tensors = content.get("ema_state_dict")
    if tensors and _is_state_dict(tensors):
        return {key.removeprefix("module."): tensor for key, tensor in tensors.items()}
    tensors = tensors or content.get("state_dict")
    if isinstance(tensors, dict):
        tensors = tensors.get("gen_model", tensors)
    if not tensors or not _is_state_dict(tensors):
        raise ValueError(f"{path}: must hold tensors by name as ema_state_dict or state_dict")
    return tensors


def _is_state_dict(content: Any) -> bool:
    return isinstance(content, dict) and all(isinstance(item, torch.Tensor) for item in content.values())


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return _map_safetensors(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
        raise ValueError(
            f"{path}: cannot be read as tensors (damaged, or it holds other things): {reason}"
        ) from error


def _map_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a file, mapped in parts: a part's memory is free when its tensors are gone."""
    tensors: dict[str, torch.Tensor] = {}
    file, size = safe_open(path, framework="pt"), 0
    for name in list(file.keys()):
        if size >= PART_BYTES:
            file, size = safe_open(path, framework="pt"), 0
        tensors[name] = file.get_tensor(name)
        size += tensors[name].nbytes
    return tensors


def _read_shards(folder: Path, index: Path) -> dict[str, torch.Tensor]:
    places = _read_index(index)
    shards = {name: read_tensors(_inside(folder, name, index)) for name in sorted(set(places.values()))}
    absent = [key for key, name in places.items() if key not in shards[name]]
    if absent:
        raise ValueError(f"{index}: names tensors that their files do not hold: {shortened(absent)}")
    return {key: shards[name][key] for key, name in places.items()}


def _read_index(index: Path) -> dict[str, str]:
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if not all(isinstance(name, str) for name in places.values()):
            raise TypeError("a file name is not text")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index}: must hold JSON with a weight_map of file names ({error!r})") from error
    return places


def _inside(folder: Path, name: str, index: Path) -> Path:
    """Return the file that an index names, which must be in its folder (or a blob of the hub's cache)."""
    home = folder.resolve()
    # The hub's cache links every file of snapshots/<commit>/ to one in blobs/.
    roots = [home, *(parent.parent / "blobs" for parent in home.parents if parent.name == "snapshots")]
    path = folder / name
    if Path(name).name != name or not any(root in path.resolve().parents for root in roots):
        raise ValueError(f"{index}: names {name!r}, which is not a file in its own folder")
    if not path.is_file():
        raise ValueError(f"{index}: names {name!r}, which is missing")
    return path


def shortened(names: Iterable[str], limit: int = 10) -> str:
    """Return the first names and how many more there are."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
