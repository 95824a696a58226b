"""More video pipelines of diffusers with tiny random transformers: those that begin with an image or a video,
or have a control branch.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import diffusers
import torch

from tests.video_models import MODELS, WAN
from tests.video_pipelines import (
    Case,
    built,
    euler,
    hunyuan_call,
    noise,
    noise_image,
    texts,
    unipc,
    wan_vae,
)

LONG = 512  # tokens that Wan's blocks expect behind those of an image
IMAGE_TOKENS = 257
FOUR = (8, 8, 8, 8)
WAN_IMAGE = MappingProxyType({**WAN, "in_channels": 36, "image_dim": 4, "added_kv_proj_dim": 24})


def model(name: str, **changes: Any) -> Any:
    """A transformer of `MODELS`, or of a class of diffusers, with other sizes."""
    cls, sizes = MODELS.get(name, (name, {}))
    return getattr(diffusers, cls)(**{**sizes, **changes}).eval()


def video(frames: int = 9) -> list[Any]:
    return [noise_image(seed) for seed in range(frames)]


def hunyuan_vae(channels: int = 4) -> Any:
    sizes = {"latent_channels": channels, "block_out_channels": FOUR, "norm_num_groups": 4}
    return diffusers.AutoencoderKLHunyuanVideo(layers_per_block=1, **sizes)


def cogvideox_vae() -> Any:
    sizes = {"latent_channels": 4, "block_out_channels": FOUR, "norm_num_groups": 2}
    return diffusers.AutoencoderKLCogVideoX(layers_per_block=1, **sizes)


def ltx_vae() -> Any:
    layers = {"layers_per_block": (1,) * 5, "decoder_layers_per_block": (1,) * 5}
    widths = {"block_out_channels": FOUR, "decoder_block_out_channels": FOUR}
    return diffusers.AutoencoderKLLTXVideo(latent_channels=8, **layers, **widths)


def with_image(pipeline: str, transformer: Any, text: int, image: int = 4, **call: Any) -> Case:
    """A pipeline whose image encoder is replaced by fixed embeddings."""
    call = {**texts(text, LONG), "image": noise_image(0), **call}
    pipe, call = built(pipeline, transformer, unipc(), call, vae=wan_vae())
    pipe.encode_image = lambda *_, **__: noise(1, IMAGE_TOKENS, image)
    return pipe, call


def skyreels_image_to_video() -> Case:
    transformer = model("skyreels", **{**WAN_IMAGE, "text_dim": 16})
    return with_image("SkyReelsV2ImageToVideoPipeline", transformer, 16)


def wan_image_encoder() -> Case:
    """Wan 2.1's image to video, whose blocks attend to an encoded image too."""
    return with_image("WanImageToVideoPipeline", model("wan", **WAN_IMAGE), 32)


def wan_vace() -> Case:
    transformer = model("WanVACETransformer3DModel", **WAN, vace_layers=[0], vace_in_channels=96)
    return built("WanVACEPipeline", transformer, unipc(), texts(32), vae=wan_vae())


def lucy_edit() -> Case:
    call = {**texts(32), "video": video()}
    return built("LucyEditPipeline", model("wan", in_channels=32), unipc(), call, vae=wan_vae())


def wan_animate() -> Case:
    sizes = {
        **WAN_IMAGE,
        "latent_channels": 16,
        "out_channels": 16,
        "text_dim": 16,
        "image_dim": 16,
        "motion_encoder_channel_sizes": {"4": 16, "8": 16, "16": 16},
        "motion_encoder_size": 16,
        "motion_style_dim": 8,
        "motion_dim": 4,
        "motion_encoder_dim": 16,
        "face_encoder_hidden_dim": 16,
        "face_encoder_num_heads": 2,
        "inject_face_latents_blocks": 2,
    }
    call = {"pose_video": video(), "face_video": video(), "segment_frame_length": 9}
    transformer = model("WanAnimateTransformer3DModel", **sizes)
    return with_image("WanAnimatePipeline", transformer, 16, 16, **call)


def chronoedit() -> Case:
    transformer = model("ChronoEditTransformer3DModel", **WAN_IMAGE)
    return with_image("ChronoEditPipeline", transformer, 32)


def hunyuan_image_to_video(kind: str, channels: int) -> Case:
    transformer = model(
        "hunyuan_video", in_channels=channels, image_condition_type=kind, guidance_embeds=False
    )
    call = {**hunyuan_call(), "image": noise_image(0)}
    parts = {"vae": hunyuan_vae()}
    return built("HunyuanVideoImageToVideoPipeline", transformer, euler(), call, **parts)


def hunyuan_skyreels() -> Case:
    call = {**hunyuan_call(), "image": noise_image(0), "negative_prompt_embeds": noise(1, 8, 16)}
    call |= {"negative_pooled_prompt_embeds": noise(1, 8), "negative_prompt_attention_mask": torch.ones(1, 8)}
    transformer = model("hunyuan_video", in_channels=8, guidance_embeds=False)
    return built("HunyuanSkyreelsImageToVideoPipeline", transformer, euler(), call, vae=hunyuan_vae())


def cogvideox(pipeline: str, channels: int, scheduler: str, **call: Any) -> Case:
    made, parts = getattr(diffusers, scheduler)(), {"vae": cogvideox_vae()}
    transformer = model("cogvideox", in_channels=channels)
    return built(pipeline, transformer, made, {**texts(32, length=16), **call}, **parts)


def ltx(pipeline: str) -> Case:
    call = {**texts(32, masks="_attention_mask"), "image": noise_image(0), "width": 64}
    return built(pipeline, model("ltx"), euler(), call, vae=ltx_vae())


def sana_image_to_video() -> Case:
    call = {**texts(8, masks="_attention_mask"), "frames": 9, "negative_prompt": None}
    call |= {"use_resolution_binning": False, "image": noise_image(0)}
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    return built("SanaImageToVideoPipeline", model("sana_video"), scheduler, call, vae=wan_vae())


CASES: MappingProxyType[str, Callable[[], Case]] = MappingProxyType(
    {
        "wan_image_encoder": wan_image_encoder,
        "wan_vace": wan_vace,
        "wan_animate": wan_animate,
        "lucy_edit": lucy_edit,
        "chronoedit": chronoedit,
        "skyreels_image_to_video": skyreels_image_to_video,
        "hunyuan_image_concat": lambda: hunyuan_image_to_video("latent_concat", 9),
        "hunyuan_image_replace": lambda: hunyuan_image_to_video("token_replace", 4),
        "hunyuan_skyreels": hunyuan_skyreels,
        "cogvideox_image": lambda: cogvideox(
            "CogVideoXImageToVideoPipeline", 8, "CogVideoXDDIMScheduler", image=noise_image(0)
        ),
        "cogvideox_video": lambda: cogvideox(
            "CogVideoXVideoToVideoPipeline", 4, "CogVideoXDPMScheduler", video=video(), num_inference_steps=5
        ),
        "cogvideox_control": lambda: cogvideox(
            "CogVideoXFunControlPipeline", 8, "CogVideoXDDIMScheduler", control_video=video()
        ),
        "ltx_image": lambda: ltx("LTXImageToVideoPipeline"),
        "ltx_condition": lambda: ltx("LTXConditionPipeline"),
        "sana_image_to_video": sana_image_to_video,
    }
)
