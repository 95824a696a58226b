"""The transformers at a size that a CPU takes seconds for, with random weights and inputs, and diffusers' own
Latte on the same weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from eval.performance.floor import Shape, record
from videosys import (
    LatteT2V,
    LatteT2VConfig,
    OpenSoraT2V,
    OpenSoraT2VConfig,
    STDiT3,
    STDiT3Config,
    use_attention,
)

CAPTION_CHANNELS = 4096
NOISE = 1_000_003  # random numbers, taken again and again: a prime, so that no two rows are alike
TIMESTEP = 500.0


@dataclass(frozen=True)
class Size:
    """Latents [batch, 4, *latents] (two by two of them are a token), and tokens of text."""

    latents: tuple[int, int, int] = (16, 32, 32)
    batch: int = 2
    text: int = 100

    @property
    def tokens(self) -> int:
        """Tokens of the batch."""
        frames, rows, columns = self.latents
        return self.batch * frames * (rows // 2) * (columns // 2)


MID = Size()


@dataclass(frozen=True)
class Subject:
    """A prepared model: everything a step needs."""

    model: Any
    latents: torch.Tensor
    timesteps: torch.Tensor
    prompt_embeds: torch.Tensor
    condition: Any

    def step(self, cache: Any = None) -> torch.Tensor:
        """One forward."""
        cached = () if cache is None else (cache,)
        return self.model(self.latents, self.timesteps, self.condition, *cached)

    def calls(self) -> Counter[Shape]:
        """The matrix products and attentions of a step, by shape."""
        use_attention(self.model, "torch")  # whose attention is one call
        calls = record(self.step)
        use_attention(self.model, "auto")
        return calls


def stdit3(depth: int, width: int, heads: int) -> nn.Module:
    return STDiT3(STDiT3Config(depth=depth, hidden_size=width, num_heads=heads))


def latte(depth: int, width: int, heads: int) -> nn.Module:
    return LatteT2V(latte_config(depth, width, heads))


def latte_config(depth: int, width: int, heads: int) -> LatteT2VConfig:
    return LatteT2VConfig(
        num_layers=depth,
        num_attention_heads=heads,
        attention_head_dim=width // heads,
        cross_attention_dim=width,
        sample_size=32,
    )


def open_sora_plan(depth: int, width: int, heads: int) -> nn.Module:
    heads = width // 96  # its heads are 96 wide as published
    config = OpenSoraT2VConfig(
        num_layers=depth, num_attention_heads=heads, attention_head_dim=96, cross_attention_dim=width
    )
    return OpenSoraT2V(config)


BUILDERS: MappingProxyType[str, Callable[[int, int, int], nn.Module]] = MappingProxyType(
    {"STDiT3": stdit3, "LatteT2V": latte, "OpenSoraT2V": open_sora_plan}
)


@dataclass(frozen=True)
class Setting:
    """Which model, how large, and where it runs."""

    model: str
    dtype: torch.dtype = torch.float32
    device: torch.device = torch.device("cpu")  # noqa: RUF009 (it never changes)
    size: Size = MID
    depth: int = 2
    width: int = 384
    heads: int = 6

    def resized(self, **changes: Any) -> Setting:
        return replace(self, size=replace(self.size, **changes))

    def built(self) -> nn.Module:
        """The model with random weights."""
        with torch.device("meta"):
            model = BUILDERS[self.model](self.depth, self.width, self.heads)
        model = model.to(self.dtype).to_empty(device=self.device).eval().requires_grad_(False)
        torch.manual_seed(0)
        noise = (0.02 * torch.randn(NOISE)).to(self.device, self.dtype)
        for parameter in model.parameters():
            for part in parameter.view(-1).split(NOISE):
                part.copy_(noise[: len(part)])
        return model

    def subject(self) -> Subject:
        model = self.built()
        make: dict[str, Any] = {"device": self.device}
        latents = torch.randn(self.size.batch, 4, *self.size.latents, **make)
        embeds = torch.randn(self.size.batch, self.size.text, CAPTION_CHANNELS, **make).to(self.dtype)
        _, rows, columns = self.size.latents
        more = {"fps": 24.0, "height": 8 * rows, "width": 8 * columns} if self.model == "STDiT3" else {}
        with torch.no_grad():
            condition = model.prepare(embeds, latent_size=self.size.latents, **more)
        timesteps = torch.full((self.size.batch,), TIMESTEP, **make)
        return Subject(model, latents, timesteps, embeds, condition)


def diffusers_latte(setting: Setting, subject: Subject) -> Callable[[], torch.Tensor]:
    """A step of diffusers' LatteTransformer3DModel with the weights and inputs of our own."""
    from diffusers import LatteTransformer3DModel

    config = latte_config(setting.depth, setting.width, setting.heads)
    theirs = LatteTransformer3DModel(
        num_layers=config.num_layers,
        num_attention_heads=config.num_attention_heads,
        attention_head_dim=config.attention_head_dim,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        patch_size=config.patch_size,
        sample_size=config.native_size,
        video_length=setting.size.latents[0],
        caption_channels=config.caption_channels,
        cross_attention_dim=config.cross_attention_dim,
        attention_bias=True,
        activation_fn="gelu-approximate",
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=config.norm_eps,
        num_embeds_ada_norm=1000,
    )
    theirs.load_state_dict(subject.model.state_dict())
    theirs = theirs.to(setting.device, setting.dtype).eval().requires_grad_(False)
    latents, timesteps = subject.latents.to(setting.dtype), subject.timesteps.long()
    return lambda: theirs(latents, timesteps, subject.prompt_embeds, return_dict=False)[0]
