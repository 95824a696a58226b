"""Wan 2.1 text to video with a cache: `python examples/diffusers/wan.py --tiny`."""

from __future__ import annotations

from typing import Any

import torch
from shared import Example, Tiny, device, script


def published() -> Any:
    """Wan 2.1 with 1.3 billion parameters; 14 billion: Wan-AI/Wan2.1-T2V-14B-Diffusers."""
    from diffusers import UniPCMultistepScheduler, WanPipeline

    pipe = WanPipeline.from_pretrained("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", torch_dtype=torch.bfloat16)
    pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config, flow_shift=3.0)
    return pipe.to(device())


EXAMPLE = Example(
    name="wan",
    published=published,
    call={"num_inference_steps": 50, "height": 480, "width": 832, "num_frames": 81},
    tiny=Tiny(
        pipeline="WanPipeline",
        transformer="WanTransformer3DModel",
        sizes={
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "text_dim": 32,
            "ffn_dim": 32,
            "num_layers": 2,
            "rope_max_seq_len": 32,
        },
        scheduler="UniPCMultistepScheduler",
        settings={"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0},
        texts={"prompt_embeds": (1, 8, 32), "negative_prompt_embeds": (1, 8, 32)},
    ),
)

if __name__ == "__main__":
    script(EXAMPLE)
