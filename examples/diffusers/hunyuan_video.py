"""HunyuanVideo with a cache: `python examples/diffusers/hunyuan_video.py --tiny`."""

from __future__ import annotations

from typing import Any

import torch
from shared import Example, device, quiet, script


def published() -> Any:
    """The weights that the community converted for diffusers."""
    from diffusers import HunyuanVideoPipeline

    pipe = HunyuanVideoPipeline.from_pretrained(
        "hunyuanvideo-community/HunyuanVideo", torch_dtype=torch.bfloat16
    )
    pipe.vae.enable_tiling()
    pipe.enable_model_cpu_offload(device=device())
    return pipe


def tiny() -> Any:
    """Four layers of random weights."""
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        HunyuanVideoPipeline,
        HunyuanVideoTransformer3DModel,
    )

    torch.manual_seed(0)
    transformer = HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=2,
        num_single_layers=2,
        num_refiner_layers=1,
        patch_size=1,
        text_embed_dim=16,
        pooled_projection_dim=8,
        rope_axes_dim=(2, 4, 4),
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=7.0)
    return quiet(HunyuanVideoPipeline(None, None, transformer.eval(), None, scheduler, None, None))


EXAMPLE = Example(
    name="hunyuan_video",
    published=published,
    tiny=tiny,
    call={"num_inference_steps": 50, "height": 544, "width": 960, "num_frames": 61},
    texts={
        "prompt_embeds": (1, 8, 16),
        "pooled_prompt_embeds": (1, 8),
        "prompt_attention_mask": (1, 8),
    },
    tiny_call={
        "num_inference_steps": 10,
        "height": 32,
        "width": 32,
        "num_frames": 9,
        "output_type": "latent",
    },
)

if __name__ == "__main__":
    script(EXAMPLE)
