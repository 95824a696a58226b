"""CogVideoX with a cache: `python examples/diffusers/cogvideox.py --tiny`."""

from __future__ import annotations

from typing import Any

import torch
from shared import Example, Tiny, device, script


def published() -> Any:
    """CogVideoX with 2 billion parameters; 5 billion: zai-org/CogVideoX-5b."""
    from diffusers import CogVideoXPipeline

    return CogVideoXPipeline.from_pretrained("zai-org/CogVideoX-2b", torch_dtype=torch.float16).to(device())


EXAMPLE = Example(
    name="cogvideox",
    published=published,
    call={"num_inference_steps": 50, "height": 480, "width": 720, "num_frames": 49},
    fps=8,
    tiny=Tiny(
        pipeline="CogVideoXPipeline",
        transformer="CogVideoXTransformer3DModel",
        sizes={
            "num_attention_heads": 4,
            "attention_head_dim": 8,
            "in_channels": 4,
            "out_channels": 4,
            "time_embed_dim": 8,
            "text_embed_dim": 32,
            "num_layers": 3,
            "sample_width": 8,
            "sample_height": 8,
            "sample_frames": 9,
            "max_text_seq_length": 16,
        },
        scheduler="CogVideoXDDIMScheduler",
        texts={"prompt_embeds": (1, 16, 32), "negative_prompt_embeds": (1, 16, 32)},
    ),
)

if __name__ == "__main__":
    script(EXAMPLE)
