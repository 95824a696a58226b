"""HunyuanVideo with a cache: `python examples/diffusers/hunyuan_video.py --tiny`."""

from __future__ import annotations

from typing import Any

import torch
from shared import Example, Tiny, device, script


def published() -> Any:
    """The weights that the community converted for diffusers."""
    from diffusers import HunyuanVideoPipeline

    pipe = HunyuanVideoPipeline.from_pretrained(
        "hunyuanvideo-community/HunyuanVideo", torch_dtype=torch.bfloat16
    )
    pipe.vae.enable_tiling()
    pipe.enable_model_cpu_offload(device=device())
    return pipe


EXAMPLE = Example(
    name="hunyuan_video",
    published=published,
    call={"num_inference_steps": 50, "height": 544, "width": 960, "num_frames": 61},
    fps=15,
    tiny=Tiny(
        pipeline="HunyuanVideoPipeline",
        transformer="HunyuanVideoTransformer3DModel",
        sizes={
            "in_channels": 4,
            "out_channels": 4,
            "num_attention_heads": 2,
            "attention_head_dim": 10,
            "num_layers": 2,
            "num_single_layers": 2,
            "num_refiner_layers": 1,
            "patch_size": 1,
            "text_embed_dim": 16,
            "pooled_projection_dim": 8,
            "rope_axes_dim": (2, 4, 4),
        },
        scheduler="FlowMatchEulerDiscreteScheduler",
        settings={"shift": 7.0},
        texts={
            "prompt_embeds": (1, 8, 16),
            "pooled_prompt_embeds": (1, 8),
            "prompt_attention_mask": (1, 8),
        },
    ),
)

if __name__ == "__main__":
    script(EXAMPLE)
