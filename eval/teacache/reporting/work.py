"""Floating-point work, counted by running transformers without data, and the least time it takes on a GPU."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

import videosys
from videosys import LatteT2V, LatteT2VConfig, OpenSoraT2V, OpenSoraT2VConfig, STDiT3, STDiT3Config

PAIR = 2  # prompts under guidance: with and without the text
BYTES = 2  # of a bfloat16


@dataclass(frozen=True)
class Architecture:
    """A transformer, and how often a block's tokens cross the memory outside matrix products.

    eager, fused: reads and writes of all tokens per layer, counted by hand in code run operation by operation
    and in code whose norms, gates and rotary embeddings are fused. text: tokens of the longest prompt.
    """

    model: type
    config: type
    layers: str
    eager: int
    fused: int
    text: int


ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        "STDiT3": Architecture(STDiT3, STDiT3Config, "depth", 2 * 57, 2 * 8, 300),
        "LatteT2V": Architecture(LatteT2V, LatteT2VConfig, "num_layers", 33 + 25, 2 * 4, 120),
        "OpenSoraT2V": Architecture(OpenSoraT2V, OpenSoraT2VConfig, "num_layers", 33, 8, 512),
    }
)


@dataclass(frozen=True)
class Gpu:
    """What a device reaches: FLOPs per second in bfloat16 products, bytes per second of its memory."""

    name: str
    flops: float
    bandwidth: float


GPUS: Mapping[str, Gpu] = MappingProxyType({"H200": Gpu("H200", 790e12, 4.3e12)})


@dataclass(frozen=True)
class Setting:
    """A published size: latents (frames, rows, columns), model evaluations, and the model's arguments."""

    title: str
    study: str
    architecture: str
    latents: tuple[int, int, int]
    evaluations: int
    text: int | None = None
    options: tuple[tuple[str, Any], ...] = ()


SETTINGS = (
    Setting("Latte-1, 16 x 512 x 512", "latte", "LatteT2V", (16, 64, 64), 50),
    Setting("Open-Sora v1.2, 51 x 480p", "opensora", "STDiT3", (15, 60, 106), 30),
    Setting("Open-Sora v1.2, 204 x 480p", "opensora", "STDiT3", (60, 60, 106), 30),
    Setting(
        "Open-Sora-Plan v1.1.0, 65 x 512 x 512",
        "open_sora_plan_v110",
        "LatteT2V",
        (17, 64, 64),
        159,
        300,
        (("video_length", 17),),
    ),
    Setting("Open-Sora-Plan v1.2.0, 29 x 480p", "open_sora_plan_v120", "OpenSoraT2V", (8, 60, 80), 100),
    Setting("Open-Sora-Plan v1.2.0, 93 x 720p", "open_sora_plan_v120", "OpenSoraT2V", (24, 90, 160), 100),
)


@dataclass(frozen=True)
class Work:
    """FLOPs (two per multiplication with addition) of one generation's transformer, guidance pair included.

    prepare: once, for the text. step: with the blocks. reused: without. tokens and width: of the pair.
    """

    prepare: int
    step: int
    reused: int
    tokens: int
    width: int
    layers: int
    architecture: Architecture

    def total(self, computed: float, evaluations: int) -> float:
        return self.prepare + computed * self.step + (evaluations - computed) * self.reused

    def seconds(self, computed: float, evaluations: int, gpu: Gpu, fused: bool) -> float:
        """A lower bound of the loop's time: products at the device's peak, and other work at its bandwidth.

        A reused step moves the tokens about ten times.
        """
        crossing = self.tokens * self.width * BYTES / gpu.bandwidth
        passes = self.layers * (self.architecture.fused if fused else self.architecture.eager)
        moved = crossing * (computed * passes + (evaluations - computed) * 10)
        return self.total(computed, evaluations) / gpu.flops + moved


class Skipped:
    """A cache that reuses in every step, for counting what such a step costs."""

    def should_compute(self, signal: Any) -> bool:
        signal("modulated")
        return False

    def reuse(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.empty_like(x)


def count(
    architecture: Architecture, config: Any, latents: tuple[int, int, int], text: int | None = None
) -> Work:
    """The work of a transformer at a size of its latents, for a guided generation with a prompt of `text`
    tokens (None for the longest). The model holds no weights, so this takes seconds and no memory.
    """
    with torch.device("meta"):
        model = architecture.model(config).eval()
        embeds = torch.empty(PAIR, text or architecture.text, config.caption_channels)
        inputs = torch.empty(PAIR, config.in_channels, *latents), torch.empty(PAIR)
    size = {"fps": 24.0, "height": 8.0 * latents[1], "width": 8.0 * latents[2]}
    more = size if architecture.model is STDiT3 else {}
    with torch.no_grad():
        with FlopCounterMode(display=False) as prepare:
            condition = model.prepare(embeds, None, latent_size=latents, **more)
        with FlopCounterMode(display=False) as step:
            model(*inputs, condition)
        with FlopCounterMode(display=False) as reused:
            model(*inputs, condition, Skipped())
    frames, rows, columns = latents
    return Work(
        prepare.get_total_flops(),
        step.get_total_flops(),
        reused.get_total_flops(),
        PAIR * frames * -(-rows // 2) * -(-columns // 2),
        width(config),
        getattr(config, architecture.layers),
        architecture,
    )


def width(config: Any) -> int:
    """Numbers per token."""
    hidden = getattr(config, "hidden_size", None)
    return hidden or config.num_attention_heads * config.attention_head_dim


def count_setting(setting: Setting) -> Work:
    architecture = ARCHITECTURES[setting.architecture]
    return count(architecture, architecture.config(**dict(setting.options)), setting.latents, setting.text)


def count_run(config: Mapping[str, Any], frames: int, height: int, width: int) -> Work | None:
    """The work of videos in a manifest, from their config; None where the transformer's size is not known
    here (a checkpoint on the hub that is not the published one).
    """
    folder = checkpoint(str(config["transformer"]), config)
    if folder is None:
        return None
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    architecture = ARCHITECTURES[kind(config)]
    names = {field.name for field in dataclasses.fields(architecture.config)}
    given = {name: hashable(value) for name, value in content.items() if name in names}
    latents = latent_size(config, frames, height, width)
    text = content.get("model_max_length")
    return count(architecture, architecture.config(**given), latents, text)


def checkpoint(source: str, config: Mapping[str, Any]) -> Path | None:
    """The folder of a transformer on this computer."""
    bundled = source.removeprefix("bundled:")
    root = Path(videosys.__file__).parent / "tiny" / bundled if bundled != source else Path(source)
    places = [root, root / "transformer", root / str(config.get("transformer_type"))]
    return next((place for place in places if (place / "config.json").is_file()), None)


def hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def kind(config: Mapping[str, Any]) -> str:
    """Which transformer a config runs."""
    if "version" in config:
        return "LatteT2V" if config["version"] == "v110" else "OpenSoraT2V"
    return "STDiT3" if "vae_micro_batch_size" in config else "LatteT2V"


def latent_size(config: Mapping[str, Any], frames: int, height: int, width: int) -> tuple[int, int, int]:
    """Latents of a video: eight pixels to one; in time by the model's autoencoder."""
    rows, columns = height // 8, width // 8
    if "version" in config:
        return (frames - 1) // 4 + 1, rows, columns
    if kind(config) == "LatteT2V":
        return frames, rows, columns
    chunks, rest = divmod(frames, 17)  # of which five latents are made
    return 5 * chunks + -(-rest // 4), rows, columns
