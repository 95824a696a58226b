"""Wan 2.1 text to video with a cache: `python examples/diffusers/wan.py --tiny`."""

from __future__ import annotations

from typing import Any

import torch
from shared import Example, Trained, device, script

from videosys.diffusers import TINY_WAN_CALIBRATION, TINY_WAN_CALL, tiny_wan


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
    fps=16,
    tiny=Trained(
        built=tiny_wan,
        call=TINY_WAN_CALL,
        prompts=(
            "a large red circle moves rightward on a white background",
            "a small cyan ring bounces on a navy background",
            "a large yellow cross grows on a black background",
        ),
        calibration=TINY_WAN_CALIBRATION,
    ),
)

if __name__ == "__main__":
    script(EXAMPLE)
