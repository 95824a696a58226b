"""LTX-Video with a cache: `python examples/diffusers/ltx.py --tiny`."""

from __future__ import annotations

from typing import Any

import torch
from shared import Example, Tiny, device, script


def published() -> Any:
    """LTX-Video with 2 billion parameters."""
    from diffusers import LTXPipeline

    return LTXPipeline.from_pretrained("Lightricks/LTX-Video", torch_dtype=torch.bfloat16).to(device())


EXAMPLE = Example(
    name="ltx",
    published=published,
    call={"num_inference_steps": 50, "height": 480, "width": 704, "num_frames": 161},
    fps=24,
    tiny=Tiny(
        pipeline="LTXPipeline",
        transformer="LTXVideoTransformer3DModel",
        sizes={
            "in_channels": 8,
            "out_channels": 8,
            "num_attention_heads": 4,
            "attention_head_dim": 8,
            "cross_attention_dim": 32,
            "num_layers": 3,
            "caption_channels": 32,
        },
        scheduler="FlowMatchEulerDiscreteScheduler",
        texts={
            "prompt_embeds": (1, 8, 32),
            "prompt_attention_mask": (1, 8),
            "negative_prompt_embeds": (1, 8, 32),
            "negative_prompt_attention_mask": (1, 8),
        },
        call={"width": 64},
    ),
)

if __name__ == "__main__":
    script(EXAMPLE)
