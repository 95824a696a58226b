"""Video pipelines of diffusers with a tiny random U-Net."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import diffusers
import torch

from tests.video_pipelines import Case, built, noise, noise_image
from tests.video_pipelines_more import model, video

POOLED = MappingProxyType(
    {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 56,
    }
)
TWO = ("DownEncoderBlock2D",) * 2


class Crop:
    """Stands for the settings of an image encoder."""

    crop_size = MappingProxyType({"width": 32, "height": 32})


def control_sizes(kind: str, **more: Any) -> dict[str, Any]:
    """Of a ControlNet with two levels. kind: the end of the names of its blocks."""
    return {
        "block_out_channels": (8, 16),
        "down_block_types": (f"CrossAttnDownBlock{kind}", f"DownBlock{kind}"),
        "layers_per_block": 1,
        "cross_attention_dim": 8,
        **more,
    }


def sizes(kind: str, **more: Any) -> dict[str, Any]:
    """Of a U-Net with two levels."""
    ups = (f"UpBlock{kind}", f"CrossAttnUpBlock{kind}")
    return {**control_sizes(kind), "up_block_types": ups, **more}


def text_pair(width: int = 8, pooled: bool = False) -> dict[str, torch.Tensor]:
    pair = {}
    for sign in ("", "negative_"):
        pair[f"{sign}prompt_embeds"] = noise(1, 5, width, seed=len(sign))
        if pooled:
            pair[f"{sign}pooled_prompt_embeds"] = noise(1, width, seed=len(sign))
    return pair


def ddim() -> Any:
    return diffusers.DDIMScheduler(beta_schedule="linear", clip_sample=False)


def vae() -> Any:
    ups = ("UpDecoderBlock2D",) * 2
    sizes = {"down_block_types": TWO, "up_block_types": ups, "norm_num_groups": 2}
    return model("AutoencoderKL", block_out_channels=(8, 16), **sizes)


def motion_unet(**more: Any) -> Any:
    own = {"norm_num_groups": 2, "num_attention_heads": 2, "motion_num_attention_heads": 2}
    return model("UNetMotionModel", **sizes("Motion", **own, **more))


def controlnet() -> Any:
    own = {"norm_num_groups": 2, "attention_head_dim": 2, "conditioning_embedding_out_channels": (8, 8)}
    return model("ControlNetModel", **control_sizes("2D", **own))


def sparse_controlnet() -> Any:
    own = {"norm_num_groups": 2, "attention_head_dim": 2, "conditioning_embedding_out_channels": (8, 8)}
    own["motion_num_attention_heads"] = 2
    return model("SparseControlNetModel", **control_sizes("Motion", **own))


def animatediff(kind: str, unet: Any = None, controlnet: Any = None, **call: Any) -> Case:
    parts = {"vae": vae(), **({"controlnet": controlnet} if controlnet else {})}
    call = {**text_pair(), **call}
    name = kind if kind.endswith("Pipeline") else f"AnimateDiff{kind}Pipeline"
    return built(name, unet or motion_unet(), ddim(), call, **parts)


def with_image(pipe: Any, call: dict[str, Any]) -> Case:
    """The image encoder is replaced by fixed embeddings of a guidance pair."""
    pipe._encode_image = lambda *_, **__: torch.cat([torch.zeros(1, 1, 8), noise(1, 1, 8)])
    return pipe, {**call, "image": noise_image(0)}


def stable_video() -> Case:
    own = {"block_out_channels": (32, 64), "num_attention_heads": 2, "addition_time_embed_dim": 8}
    own |= {"projection_class_embeddings_input_dim": 24, "num_frames": 4}
    unet = model("UNetSpatioTemporalConditionModel", **sizes("SpatioTemporal", **own))
    parts = {"vae": model("AutoencoderKLTemporalDecoder", block_out_channels=(32, 32), down_block_types=TWO)}
    scheduler = diffusers.EulerDiscreteScheduler(prediction_type="v_prediction", use_karras_sigmas=True)
    call = {"num_frames": 4}
    return with_image(*built("StableVideoDiffusionPipeline", unet, scheduler, call, **parts))


def text_to_video(name: str, **call: Any) -> Case:
    unet = model("UNet3DConditionModel", **sizes("3D", norm_num_groups=2, attention_head_dim=4))
    return built(name, unet, ddim(), {**text_pair(), **call}, vae=vae())


def image_to_video() -> Case:
    unet = model("I2VGenXLUNet", **sizes("3D", norm_num_groups=2, attention_head_dim=4))
    parts, call = {"vae": vae(), "feature_extractor": Crop()}, {**text_pair(), "num_frames": 4}
    return with_image(*built("I2VGenXLPipeline", unet, ddim(), call, **parts))


def text_to_video_zero(larger: bool) -> Case:
    """Not a video model: a U-Net for images, whose attention is changed to see the first frame."""
    own = POOLED if larger else {}
    unet = model("UNet2DConditionModel", **sizes("2D", norm_num_groups=2, attention_head_dim=2, **own))
    call = {"video_length": 3, "t0": 1, "t1": 2, "prompt": None if larger else "a cat"}
    call |= text_pair(pooled=True) if larger else {}
    parts = {"vae": vae(), **({} if larger else {"requires_safety_checker": False})}
    name = f"TextToVideoZero{'SDXL' if larger else ''}Pipeline"
    pipe, call = built(name, unet, ddim(), call, **parts)
    if not larger:
        pipe.encode_prompt = lambda *_, **__: tuple(text_pair().values())
    return pipe, call


CASES: MappingProxyType[str, Callable[[], Case]] = MappingProxyType(
    {
        "animatediff": lambda: animatediff(""),
        "animatediff_pag": lambda: animatediff("PAG"),
        "animatediff_sdxl": lambda: animatediff("SDXL", motion_unet(**POOLED), **text_pair(pooled=True)),
        "animatediff_control": lambda: animatediff(
            "ControlNet", controlnet=controlnet(), conditioning_frames=video()
        ),
        "animatediff_sparse": lambda: animatediff(
            "SparseControlNet",
            controlnet=sparse_controlnet(),
            conditioning_frames=video(2),
            controlnet_frame_indices=[0, 3],
        ),
        "animatediff_video": lambda: animatediff("VideoToVideo", video=video(), strength=1.0),
        "animatediff_video_control": lambda: animatediff(
            "VideoToVideoControlNet",
            controlnet=controlnet(),
            video=video(),
            conditioning_frames=video(),
            strength=1.0,
        ),
        "pia": lambda: animatediff("PIAPipeline", motion_unet(in_channels=9), image=noise_image(0)),
        "stable_video": stable_video,
        "text_to_video": lambda: text_to_video("TextToVideoSDPipeline"),
        "text_to_video_video": lambda: text_to_video("VideoToVideoSDPipeline", video=video(), strength=1.0),
        "i2vgen_xl": image_to_video,
    }
)
ZERO: MappingProxyType[str, Callable[[], Case]] = MappingProxyType(
    {
        "text_to_video_zero": lambda: text_to_video_zero(larger=False),
        "text_to_video_zero_sdxl": lambda: text_to_video_zero(larger=True),
    }
)
