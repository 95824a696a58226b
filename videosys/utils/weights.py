"""Tensors of a checkpoint folder, memory-mapped, from one file or from shards with an index."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from videosys.utils.interrupts import raise_interrupt
from videosys.utils.kinds import HEAD_BYTES, PICKLE, SAFETENSORS, ZIP, kind_of
from videosys.utils.reading import check_regular, expanded, load_json

PART_BYTES = 128 << 20
FOREIGN = re.compile(
    r"(?:GLOBAL|global:?|class|[Ff]unction) (?:GLOBAL )?([\w.]+\.[\w.]+)"
)  # in torch's errors about objects that it does not load

# Names in published checkpoints; the first existing one is used.
SAFETENSORS_NAMES = ("model.safetensors", "diffusion_pytorch_model.safetensors")
BIN_NAMES = ("pytorch_model.bin", "diffusion_pytorch_model.bin", "model.bin")
TRAINING_PATTERNS = ("*.ckpt", "*.pt", "*.pth")  # training checkpoints: weights, possibly with other state


def load_state_dict(folder: str | Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint folder by name, mapped from their files on the CPU.

    Tensors are read on use. Safetensors are preferred to .bin files, and those to the .ckpt,
    .pt or .pth file of a training; all but safetensors are read with `weights_only`, so that no code in them
    can run. A file that is missing, damaged or outside the folder is a ValueError.
    """
    folder = Path(folder)
    for name in (*SAFETENSORS_NAMES, *BIN_NAMES):
        if (folder / f"{name}.index.json").exists():
            return _read_shards(folder, folder / f"{name}.index.json")
        if (folder / name).exists():
            return read_tensors(folder / name)
    patterns = {"*.safetensors": read_tensors, **dict.fromkeys(TRAINING_PATTERNS, read_training)}
    for pattern, read in patterns.items():
        others = sorted(folder.glob(pattern))
        if len(others) == 1:
            return read(others[0])
    names = ", ".join((*SAFETENSORS_NAMES, *BIN_NAMES))
    raise ValueError(
        f"{folder}: no weights found; expected one of {names}, or the .index.json of one, or one .ckpt file, "
        "or one .pt or .pth file"
    )


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of one .safetensors or .bin file by name, mapped from it."""
    tensors = _read(path)
    if not _is_state_dict(tensors):
        raise ValueError(f"{path}: must contain only tensors by name")
    return tensors


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata in the header of a .safetensors file. ValueError for any other file."""
    try:
        check_regular(path, path.stat().st_mode)
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except Exception as error:
        raise_interrupt(error)
        raise ValueError(f"{path}: cannot be read as tensors: {_reason(path, error)}") from error


def read_training(path: Path) -> dict[str, torch.Tensor]:
    """Return the weights in a training checkpoint by name, mapped from the file.

    These are the averaged ones (`ema_state_dict`) if present, else those of `state_dict`, or of the
    `gen_model` in it, or all tensors. All other content must be plain data, or the file is
    refused.
    """
    content = _read(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must contain a dictionary, got {type(content).__name__}")
    if content and _is_state_dict(content):
        return content
    tensors = content.get("ema_state_dict")
    if tensors and _is_state_dict(tensors):
        return tensors
    tensors = tensors or content.get("state_dict")
    if isinstance(tensors, dict):
        tensors = tensors.get("gen_model", tensors)
    if not tensors or not _is_state_dict(tensors):
        raise ValueError(f"{path}: must contain tensors by name as ema_state_dict or state_dict")
    return tensors


def _is_state_dict(content: Any) -> bool:
    return isinstance(content, dict) and all(
        isinstance(key, str) and isinstance(item, torch.Tensor) for key, item in content.items()
    )


def _read(path: Path) -> Any:
    try:
        check_regular(path, path.stat().st_mode)
        if path.suffix == ".safetensors":
            return _map_safetensors(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:
        raise_interrupt(error)
        raise ValueError(f"{path}: cannot be read as tensors: {_reason(path, error)}") from error


def _reason(path: Path, error: Exception) -> str:
    """Return why a file cannot be read, from its content, since errors of the libraries are unclear."""
    if not path.is_file():
        return str(error)
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    is_ours, size = path.suffix == ".safetensors", path.stat().st_size
    kind = kind_of(head)
    if kind and kind not in (SAFETENSORS, ZIP, PICKLE):
        return f"it is {kind}"
    if is_ours and kind in (ZIP, PICKLE):
        return "it is a torch.save file; its name must end in .bin, .pt or .ckpt"
    if head.isascii() and head.decode("ascii").replace("\n", "").replace("\r", "").isprintable():
        return f"it is text that begins with {head[:40].decode('ascii')!r}"
    if is_ours and size < (needed := 8 + int.from_bytes(head[:8], "little")):
        return f"it has {size} bytes but its header needs {needed}: it is truncated or damaged"
    if not is_ours and kind == SAFETENSORS:
        return "it is a safetensors file; its name must end in .safetensors"
    if kind == ZIP and not zipfile.is_zipfile(path):
        return f"it is truncated after {size} bytes"
    if is_ours and "not fully covered" in str(error):
        return f"its tensors do not match its {size} bytes: it is truncated or damaged"
    if named := FOREIGN.search(str(error)):
        return f"it contains objects other than tensors ({named[1]}), which are not loaded"
    first = "" if is_pickle(error) else f" ({type(error).__name__} {' '.join(str(error).split())[:200]})"
    return f"it is damaged, or contains objects other than tensors{first}"


def is_pickle(error: Exception) -> bool:
    """Whether this is torch's error about refused content, which suggests unsafe loading."""
    return "weights_only" in str(error) or "Weights only" in str(error)


def _map_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a file, mapped in parts: a part is unmapped when its tensors are deleted."""
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
        raise ValueError(f"{index}: names tensors that are not in their files: {shortened(absent)}")
    return {key: shards[name][key] for key, name in places.items()}


def _read_index(index: Path) -> dict[str, str]:
    try:
        places = load_json(index)["weight_map"]
        if not all(isinstance(name, str) for name in places.values()):
            raise TypeError("a file name is not text")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index}: must contain JSON with a weight_map of file names ({error!r})") from error
    return places


def _inside(folder: Path, name: str, index: Path) -> Path:
    """Return the file named in an index, which must be in its folder (or a blob of the hub's cache)."""
    home = folder.resolve()
    # The hub's cache links every file of snapshots/<commit>/ to one in blobs/.
    roots = [home, *(parent.parent / "blobs" for parent in home.parents if parent.name == "snapshots")]
    path = expanded(folder / name)
    if Path(name).name != name or not any(root in path.resolve().parents for root in roots):
        raise ValueError(f"{index}: names {name!r}, which is not a file in its own folder")
    if not path.is_file():
        raise ValueError(f"{index}: names {name!r}, which is missing")
    return path


def shortened(names: Iterable[str], limit: int = 10) -> str:
    """Return the first names and the number of further ones."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
