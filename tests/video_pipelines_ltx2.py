"""LTX 2 and SANA-WM, video pipelines of diffusers with LTX 2's autoencoder, with tiny random transformers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import diffusers
import numpy as np

from tests.video_pipelines import Case, built, euler, noise, noise_image, texts
from tests.video_pipelines_more import model

NONE: Mapping[str, Any] = MappingProxyType({})
SIZES = MappingProxyType(
    {
        "in_channels": 4,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "cross_attention_dim": 16,
        "audio_in_channels": 4,
        "audio_out_channels": 4,
        "audio_num_attention_heads": 2,
        "audio_attention_head_dim": 4,
        "audio_cross_attention_dim": 8,
        "num_layers": 2,
        "caption_channels": 32,
        "rope_double_precision": False,
    }
)
KEYFRAMES = MappingProxyType({"vae_scale_factors": (2, 2, 2), "use_keyframes_abs_pos_embedding": True})
VAE = MappingProxyType(
    {
        "latent_channels": 4,
        "block_out_channels": (8,),
        "decoder_block_out_channels": (8,),
        "layers_per_block": (1,),
        "decoder_layers_per_block": (1, 1),
        "spatio_temporal_scaling": (True,),
        "decoder_spatio_temporal_scaling": (True,),
        "decoder_inject_noise": (False, False),
        "downsample_type": ("spatial",),
        "upsample_residual": (False,),
        "upsample_factor": (1,),
        "patch_size": 1,
    }
)
AUDIO_VAE = MappingProxyType(
    {
        "base_channels": 4,
        "ch_mult": (1,),
        "num_res_blocks": 1,
        "attn_resolutions": None,
        "resolution": 32,
        "latent_channels": 2,
        "mid_block_add_attention": False,
        "mel_bins": 8,
    }
)
CONNECTORS = MappingProxyType(
    {
        "num_attention_heads": 4,
        "attention_head_dim": 8,
        "num_layers": 1,
        "num_learnable_registers": None,
    }
)
SIGMAS = MappingProxyType({"sigmas": [1.0, 0.75, 0.5, 0.25]})


def connectors() -> Any:
    """Between text and transformer, for picture and sound."""
    from diffusers.pipelines.ltx2 import LTX2TextConnectors

    own = {f"{kind}_connector_{name}": x for kind in ("video", "audio") for name, x in CONNECTORS.items()}
    sizes = {"caption_channels": 32, "text_proj_in_factor": 3, "connector_rope_base_seq_len": 32}
    return LTX2TextConnectors(
        **sizes, **own, rope_double_precision=False, causal_temporal_positioning=False
    ).eval()


def vae() -> Any:
    return model("AutoencoderKLLTX2Video", **VAE)


def ltx2(
    pipeline: str, sizes: Mapping[str, Any] = NONE, parts: Mapping[str, Any] = NONE, **call: Any
) -> Case:
    """Guided by the text, by a block left out, and by the sound, where the pipeline can."""
    transformer = model("LTX2VideoTransformer3DModel", **SIZES, **sizes)
    own = {"vae": vae(), "audio_vae": model("AutoencoderKLLTX2Audio", **AUDIO_VAE)}
    own |= {"connectors": connectors(), "scheduler": euler(), **parts}
    known = inspect.signature(getattr(diffusers, pipeline).__call__).parameters
    call = {**texts(96, masks="_attention_mask"), "spatio_temporal_guidance_blocks": [1], **call}
    call = {name: value for name, value in call.items() if name in known}
    return built(pipeline, transformer, own.pop("scheduler"), call, **own)


def refine() -> Case:
    from diffusers.pipelines.ltx2 import LTX2LatentUpsamplerModel

    larger = LTX2LatentUpsamplerModel(
        in_channels=4,
        mid_channels=32,
        num_blocks_per_stage=1,
        dims=3,
        spatial_upsample=False,
        temporal_upsample=True,
    )
    parts = {
        "temporal_latent_upsampler": larger,
        "scheduler": diffusers.LTXEulerAncestralRFScheduler(eta=0.5),
    }
    call = {"latents": noise(1, 4, 5, 16, 16), "audio_latents": noise(1, 2, 8, 2), "keyframe_positions": [8]}
    call |= {"keyframes_latents": noise(1, 4, 1, 16, 16), "frame_rate": 25.0}
    return ltx2("LTX2DFRTemporalRefinePipeline", KEYFRAMES, parts, **call, **SIGMAS)


def sana_wm() -> Case:
    sizes = {"in_channels": 4, "num_layers": 2, "hidden_size": 32, "num_attention_heads": 2}
    sizes |= {"softmax_every_n": 2, "linear_head_dim": 16, "caption_channels": 8, "image_size": 64}
    sizes |= {"chunk_plucker_post_attn_blocks": 2, "chunk_plucker_channels": 12}
    camera = np.broadcast_to(np.eye(4, dtype=np.float32), (9, 4, 4)).copy()
    call = {"image": noise_image(0), "prompt": None, "c2w": camera, "intrinsics": [30.0, 30.0, 16.0, 16.0]}
    call |= texts(8, masks="_attention_mask")
    transformer = model("SanaWMTransformer3DModel", **sizes)
    return built("SanaWMPipeline", transformer, euler(), call, vae=vae())


CASES: MappingProxyType[str, Callable[[], Case]] = MappingProxyType(
    {
        "ltx2": lambda: ltx2("LTX2Pipeline"),
        "ltx2_image": lambda: ltx2("LTX2ImageToVideoPipeline", image=noise_image(0), image_crf=0),
        "ltx2_condition": lambda: ltx2("LTX2ConditionPipeline"),
        "ltx2_in_context": lambda: ltx2("LTX2InContextPipeline"),
        "ltx2_hdr": lambda: ltx2("LTX2HDRPipeline"),
        "ltx2_dfr": lambda: ltx2("LTX2DFRPipeline", KEYFRAMES, **SIGMAS),
        "ltx2_dfr_refine": refine,
        "sana_wm": sana_wm,
    }
)
