"""Small models with random weights, and one forward and one whole denoise loop of each on some devices.

What this says with `Parallel()` is the truth that several devices are held to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from videosys.cache import CacheConfig, StepRecord, start
from videosys.generation.denoise import Sampling, denoise
from videosys.models.open_sora_plan.transformer import OpenSoraT2V, OpenSoraT2VConfig
from videosys.models.opensora.transformer import STDiT3, STDiT3Config
from videosys.models.pixart.latte_t2v import LatteT2V, LatteT2VConfig
from videosys.parallel import Parallel
from videosys.schedulers.rflow import RFlowScheduler

CAPTION, LENGTH = 16, 6
SIZE = (5, 10, 10)  # 25 tokens per frame and 5 frames: neither 2 nor 3 nor 4 divides them
LATTE = LatteT2VConfig(
    num_layers=2,
    num_attention_heads=4,
    attention_head_dim=12,
    sample_size=10,
    video_length=5,
    caption_channels=CAPTION,
    cross_attention_dim=48,
)


def opensora(parallel: Parallel) -> nn.Module:
    config = STDiT3Config(
        input_sq_size=80,
        hidden_size=48,
        depth=2,
        num_heads=4,
        caption_channels=CAPTION,
        model_max_length=LENGTH,
    )
    return STDiT3(config, parallel)


def latte(parallel: Parallel) -> nn.Module:
    return LatteT2V(LATTE, parallel)


def plan_v120(parallel: Parallel) -> nn.Module:
    config = OpenSoraT2VConfig(
        num_layers=2,
        num_attention_heads=12,
        attention_head_dim=6,
        caption_channels=CAPTION,
        cross_attention_dim=72,
        sample_size=(10, 10),
        sample_size_t=5,
    )
    return OpenSoraT2V(config, parallel)


# Open-Sora-Plan v1.1.0 is Latte's class, and is here for its masks.
MODELS: Mapping[str, Callable[[Parallel], nn.Module]] = MappingProxyType(
    {"opensora": opensora, "latte": latte, "plan_v110": latte, "plan_v120": plan_v120}
)


@dataclass(frozen=True)
class Request:
    """What a model is asked for.

    prompts: videos in the batch, of different text lengths where there are `text_masks`.
    visible: the last rows of latents are padding. kept: the first frame is a reference, the second an edit.
    """

    model: str
    size: tuple[int, int, int] = SIZE
    prompts: int = 1
    text_masks: bool = False
    visible: bool = False
    kept: bool = False
    guidance_scale: float = 5.0


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def build(request: Request, parallel: Parallel) -> nn.Module:
    torch.manual_seed(1)
    return MODELS[request.model](parallel).eval().requires_grad_(False)


def condition(model: Any, request: Request, parallel: Parallel) -> Any:
    """This device's half of the pair, or the whole."""
    rows = request.prompts * (2 if request.guidance_scale > 1 else 1)
    text = parallel.cfg_shard(random(rows, LENGTH, CAPTION, seed=2))
    kept = torch.arange(LENGTH) < torch.arange(LENGTH, LENGTH - request.prompts, -1)[:, None]
    if request.model == "opensora":
        mask = kept if request.text_masks else None
        scale = {"fps": 24.0, "height": 80.0, "width": 80.0}
        return model.prepare(text, mask, latent_size=request.size, **scale)
    mask = parallel.cfg_shard(kept.repeat(rows // request.prompts, 1)) if request.text_masks else None
    visible = torch.ones(1, *request.size)
    visible[:, :, -3:] = 0
    visible_mask = visible if request.visible else None
    return model.prepare(text, mask, latent_size=request.size, visible_mask=visible_mask)


def latents(request: Request) -> Tensor:
    return random(request.prompts, 4, *request.size, seed=3)


def frame_mask(request: Request) -> Tensor | None:
    """The first frame is kept, the second joins half-way."""
    if not request.kept:
        return None
    mask = torch.ones(request.prompts, request.size[0])
    mask[:, 0], mask[:, 1] = 0.0, 0.5
    return mask


@torch.no_grad()
def forward(request: Request, parallel: Parallel) -> Tensor:
    """The model's output for the pair, at two different timesteps where it is not split."""
    model = build(request, parallel)
    pair = latents(request).repeat(2, 1, 1, 1, 1)
    mask = frame_mask(request)
    inputs = {} if mask is None else {"frame_mask": parallel.cfg_shard((mask == 1).repeat(2, 1))}
    timesteps = parallel.cfg_shard(torch.linspace(900, 700, len(pair)))
    noise_pred = model(parallel.cfg_shard(pair), timesteps, condition(model, request, parallel), **inputs)
    return parallel.cfg_gather(noise_pred)


def loop(
    request: Request,
    cache: CacheConfig,
    parallel: Parallel,
    steps: int = 6,
    change: Callable[[nn.Module], object] = lambda model: None,
) -> tuple[Tensor, list[StepRecord]]:
    """Denoised latents, and what was computed. `change` is done to the model first."""
    model, scheduler = build(request, parallel), RFlowScheduler(use_timestep_transform=False)
    change(model)
    scheduler.set_timesteps(steps)
    running = start(cache, scheduler.times(), parallel.gather_rows, 7)
    sampling = Sampling(
        request.guidance_scale, torch.Generator().manual_seed(4), frame_mask=frame_mask(request)
    )
    prepared = condition(model, request, parallel)
    output = denoise(model, scheduler, latents(request), prepared, sampling, running, parallel)
    return output, running.steps
