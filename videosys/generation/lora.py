"""LoRA (arXiv 2106.09685) for transformers: files of PEFT and diffusers, merged into the weights at loading.

A weight W becomes W + scale * (alpha / rank) * up @ down. The model has no extra layers, so its speed and all
features are unaffected. To remove a LoRA, the original weights are loaded from their file again, bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from videosys.utils.files import anchored
from videosys.utils.hub import resolve
from videosys.utils.plain import from_mapping, read_json
from videosys.utils.reading import expanded
from videosys.utils.typed import check_types, shown
from videosys.utils.weights import read_metadata, read_tensors, shortened

SUFFIX = ".safetensors"
NAMES = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")  # PEFT, diffusers
SETTINGS = "adapter_config.json"
PATTERNS = (f"*{SUFFIX}", SETTINGS)
HEADER = "lora_adapter_metadata"  # diffusers' settings in a file's header, each prefixed with `transformer.`
# Prefixes of the model's names in files.
PREFIXES = (
    "base_model.",
    "model.",
    "module.",
    "_orig_mod.",
    "transformer.",
    "diffusion_model.",
    "net.",
    "dit.",
)
JOINED = ("lora_transformer_", "lora_unet_")  # prefixes of names with underscores instead of dots
DOWN = r"lora_A|lora_down|lora\.down|lora_linear_layer\.down"
UP = r"lora_B|lora_up|lora\.up|lora_linear_layer\.up"
KEY = re.compile(
    rf"(?P<module>.+?)\.(?:(?P<down>{DOWN})|(?P<up>{UP}))(?:\.\w+)?\.weight|(?P<scaled>.+)\.alpha"
)
PROCESSOR = re.compile(r"\.processor\.(to_q|to_k|to_v|to_out)_lora\.")  # older files of diffusers
LISTED = 40  # maximum number of keys in an error


@dataclass(frozen=True)
class Lora:
    """A LoRA of the transformer.

    path: a .safetensors file, a folder with one (and optionally PEFT's adapter_config.json), or a hub id.
    scale: its weight; 0 leaves the model unchanged.
    """

    path: str
    scale: float = 1.0

    def __post_init__(self) -> None:
        check_types(self)
        if not self.path.strip():
            raise ValueError("path is empty; it must be a .safetensors file, a folder or a hub id")
        if not math.isfinite(self.scale):
            raise ValueError(f"scale is {self.scale}; it must be a finite number")

    def anchored(self) -> Lora:
        """The LoRA with an absolute path, for a program that changes its working directory later."""
        return Lora(anchored(self.path), self.scale)


def as_loras(value: Any) -> tuple[Lora, ...]:
    """The LoRAs of a config from user input: a path, a mapping with `path` and `scale`, a `Lora`, or a list
    of these. ValueError for anything else.
    """
    items = value if isinstance(value, (list, tuple)) else [] if value is None else [value]
    return tuple(as_lora(item) for item in items)


def as_lora(item: Any) -> Lora:
    """The LoRA of one item. ValueError for an invalid item."""
    if isinstance(item, Lora):
        return item
    if isinstance(item, (str, Path)):
        return Lora(str(item))
    if isinstance(item, Mapping):
        return from_mapping(Lora, item, "lora")
    raise ValueError(f"lora must contain paths or mappings with path and scale, got {shown(item)}")


@dataclass(frozen=True)
class Settings:
    """The settings in adapter_config.json. alpha_pattern: alpha by the suffix of a module's name."""

    lora_alpha: float | None = None
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    use_rslora: bool = False
    use_dora: bool = False

    def factor(self, module: str, rank: int, alpha: float | None) -> float:
        """The factor of the product of a module's matrices. alpha: from the module's key, if any."""
        ends = (value for end, value in self.alpha_pattern.items() if f".{module}".endswith(f".{end}"))
        alpha = next(ends, self.lora_alpha) if alpha is None else alpha
        return 1.0 if alpha is None else alpha / (math.sqrt(rank) if self.use_rslora else rank)


class Delta(NamedTuple):
    """The change of a weight: factor * up [out, r, ...] @ down [r, in, ...]."""

    down: Tensor
    up: Tensor
    factor: float

    def added(self, weight: Tensor) -> Tensor:
        """The changed weight, float32."""
        down, up = (part.to(weight.device).float().flatten(1) for part in (self.down, self.up))
        return weight.float() + self.factor * (up @ down).view(weight.shape)


Deltas = Mapping[str, Sequence[Delta]]  # by the name of the weight


def adapted(deltas: Deltas) -> Callable[[str, Tensor], Tensor]:
    """A function from the name and tensor of a parameter to the changed tensor."""

    def adapt(key: str, tensor: Tensor) -> Tensor:
        for delta in deltas.get(key, ()):
            tensor = delta.added(tensor)
        return tensor

    return adapt


def read_loras(
    loras: Iterable[Lora], shapes: Mapping[str, Sequence[int]], current: Callable[[str], str], offline: bool
) -> dict[str, list[Delta]]:
    """The changes of a model's weights by all LoRAs. Files are memory-mapped and not read yet.

    shapes: of the model's weights by name. current: maps a name in older files to the current one. A
    ValueError lists unknown keys of a file and keys with a wrong shape.
    """
    deltas: dict[str, list[Delta]] = {}
    for lora in loras:
        for name, delta in read_lora(find_file(lora, offline), shapes, current).items():
            if lora.scale:
                deltas.setdefault(name, []).append(delta._replace(factor=delta.factor * lora.scale))
    return deltas


def find_file(lora: Lora, offline: bool) -> Path:
    """The safetensors file of a LoRA. ValueError if there is none, or more than one."""
    path = expanded(lora.path)
    if path.is_file():
        if path.suffix != SUFFIX:
            raise ValueError(
                f"lora {lora.path!r}: only {SUFFIX} files are read, because others can hold code"
            )
        return path
    if path.suffix == SUFFIX:
        raise ValueError(f"lora {lora.path!r}: there is no such file")
    try:
        folder = resolve(lora.path, offline=offline, patterns=PATTERNS)
    except ValueError as error:
        raise ValueError(f"lora: {error}") from error
    files = sorted(file for file in folder.iterdir() if file.suffix == SUFFIX)
    named = [file for file in files if file.name in NAMES] or files
    if len(named) != 1:
        found = f"it has {', '.join(file.name for file in named)}; name one" if named else "it has none"
        raise ValueError(f"lora {lora.path!r}: the folder must have one {SUFFIX} file, and {found}")
    return named[0]


def read_settings(path: Path) -> Settings:
    """The settings in adapter_config.json next to a file, or in the file's header. ValueError for DoRA."""
    beside = path.with_name(SETTINGS)
    if beside.is_file():
        settings = read_json(Settings, beside, ignores_unknown=True)
    else:
        settings = header_settings(path)
    if settings.use_dora:
        raise ValueError(f"{path}: DoRA (use_dora) is not supported")
    return settings


def header_settings(path: Path) -> Settings:
    """The settings in a file's header, as diffusers writes them, or the defaults."""
    text = read_metadata(path).get(HEADER)
    try:
        content = {} if text is None else json.loads(text)
        values = {key.removeprefix("transformer."): value for key, value in content.items()}
        known = {key: values[key] for key in Settings.__dataclass_fields__ if key in values}
        return from_mapping(Settings, known, f"{path}: {HEADER}")
    except (AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: its header's {HEADER} is not a JSON object: {error}") from error


def read_lora(
    path: Path, shapes: Mapping[str, Sequence[int]], current: Callable[[str], str]
) -> dict[str, Delta]:
    """The changes in one file, by the name of the weight."""
    tensors, settings = read_tensors(path), read_settings(path)
    names = {weight.removesuffix(".weight"): weight for weight in shapes if weight.endswith(".weight")}
    joined = {name.replace(".", "_"): name for name in names}
    parts: dict[str, dict[str, str]] = {}  # module -> kind -> key
    unknown: list[str] = []
    for key in tensors:
        written, kind = parse_key(key)
        module = find_module(written, names, joined, current)
        if module is None or kind in parts.get(module, {}):
            unknown.append(key)
        else:
            parts.setdefault(module, {})[kind] = key
    check_parts(path, parts, unknown, tensors, {name: shapes[names[name]] for name in parts})
    return {names[module]: delta_of(module, kinds, tensors, settings) for module, kinds in parts.items()}


def parse_key(key: str) -> tuple[str, str]:
    """(module name in the file, kind: down, up or scaled) of a key; ("", "") for an unknown key."""
    match = KEY.fullmatch(PROCESSOR.sub(processor_module, key))
    if match is None:
        return "", ""
    if match["scaled"]:
        return match["scaled"], "scaled"
    return match["module"], "down" if match["down"] else "up"


def processor_module(match: re.Match[str]) -> str:
    """The current form of an older key: attn.processor.to_out_lora.up becomes attn.to_out.0.lora.up."""
    return f".{match[1]}{'.0' if match[1] == 'to_out' else ''}.lora."


def find_module(
    name: str, names: Mapping[str, str], joined: Mapping[str, str], current: Callable[[str], str]
) -> str | None:
    """The model's module for a name in a file, or None."""
    for prefix in JOINED:
        if name.startswith(prefix):
            return joined.get(name.removeprefix(prefix))
    while True:
        now = current(f"{name}.weight").removesuffix(".weight")
        if now in names:
            return now
        known = next((prefix for prefix in PREFIXES if name.startswith(prefix)), None)
        if known is None:
            return None
        name = name.removeprefix(known)


def check_parts(
    path: Path,
    parts: Mapping[str, Mapping[str, str]],
    unknown: Sequence[str],
    tensors: Mapping[str, Tensor],
    shapes: Mapping[str, Sequence[int]],
) -> None:
    """Raise a ValueError that lists keys that are unknown, lack a counterpart or do not fit."""
    lonely = [key for kinds in parts.values() for key in kinds.values() if not {"down", "up"} <= kinds.keys()]
    whole = {module: kinds for module, kinds in parts.items() if {"down", "up"} <= kinds.keys()}
    misfits = [
        f"{kinds['down']} {list(tensors[kinds['down']].shape)} and {kinds['up']} "
        f"{list(tensors[kinds['up']].shape)} for a weight {list(shapes[module])}"
        for module, kinds in whole.items()
        if not fits(tensors[kinds["down"]], tensors[kinds["up"]], shapes[module])
    ]
    scalars = [kinds["scaled"] for kinds in parts.values() if "scaled" in kinds]
    misfits += [f"{key} {list(tensors[key].shape)}" for key in scalars if tensors[key].numel() != 1]
    problems = {
        "that are not of the transformer's LoRA": unknown,
        "without the other matrix": lonely,
        "with another shape": misfits,
    }
    lines = [f"{len(keys)} {what}: {shortened(keys, LISTED)}" for what, keys in problems.items() if keys]
    if not tensors:
        lines = ["it has no tensors"]
    if lines:
        raise ValueError(f"{path}: the LoRA does not fit the transformer; keys " + "; keys ".join(lines))


def fits(down: Tensor, up: Tensor, shape: Sequence[int]) -> bool:
    """Whether up @ down has the shape of a weight: of a linear layer [out, in], or of a convolution."""
    if min(down.ndim, up.ndim, len(shape)) < 2 or not (down.is_floating_point() and up.is_floating_point()):
        return False
    inner, outer = down.numel() // max(down.shape[0], 1), up.numel() // max(up.shape[0], 1)
    return up.shape[0] == shape[0] and outer == down.shape[0] > 0 and inner == math.prod(shape[1:])


def delta_of(
    module: str, kinds: Mapping[str, str], tensors: Mapping[str, Tensor], settings: Settings
) -> Delta:
    """The change of a module's weight from its matrices."""
    down, up = tensors[kinds["down"]], tensors[kinds["up"]]
    alpha = float(tensors[kinds["scaled"]]) if "scaled" in kinds else None
    return Delta(down, up, settings.factor(module, len(down), alpha))


def loras_hash(loras: Sequence[Lora], offline: bool) -> str:
    """A hash of LoRAs and their scales, 16 hexadecimal digits, independent of the location of files."""
    digest = hashlib.sha256()
    for lora in loras:
        path = find_file(lora, offline)
        digest.update(f"{lora.scale!r}:{read_settings(path)!r}:".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]
