"""Video pipelines of diffusers with tiny random transformers: what the adapter is tried on.

Each function returns a pipeline and the arguments of its call, which end in latents.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import MappingProxyType, SimpleNamespace
from typing import Any

import diffusers
import torch
from PIL import Image

from tests import video_models as models

STEPS = 4
LARGER = {"height": 64, "width": 64, "clean_caption": False, "negative_prompt": None}
Case = tuple[Any, dict[str, Any]]


class NoVAE:
    """Stands for an autoencoder of which only some settings are read."""

    def __init__(self, **settings: Any):
        self.config = SimpleNamespace(scaling_factor=1.0, **settings)
        self.dtype = torch.float32


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def wan_vae() -> Any:
    return diffusers.AutoencoderKLWan(base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)


def unipc() -> Any:
    return diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )


def euler() -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler()


def texts(width: int, length: int = 8, masks: str = "") -> dict[str, torch.Tensor]:
    """Embeddings of prompt and negative prompt; masks: the end of the names of their masks."""
    pair = {
        "prompt_embeds": noise(1, length, width),
        "negative_prompt_embeds": noise(1, length, width, seed=1),
    }
    if masks:
        pair |= {f"{name}{masks}": torch.ones(1, length) for name in ("prompt", "negative_prompt")}
    return pair


def built(pipeline: str, transformer: Any, scheduler: Any, call: dict[str, Any], **parts: Any) -> Case:
    cls = getattr(diffusers, pipeline)
    names = cls.__init__.__code__.co_varnames[1 : cls.__init__.__code__.co_argcount]
    optional = dict.fromkeys(names)
    pipe = cls(**{**optional, "transformer": transformer, "scheduler": scheduler, **parts})
    pipe.set_progress_bar_config(disable=True)
    sizes = {"height": 32, "width": 32, "num_frames": 9}
    return pipe, {"num_inference_steps": STEPS, "output_type": "latent", **sizes, **call}


def wan() -> Case:
    return built("WanPipeline", models.wan(), unipc(), texts(32), boundary_ratio=None, expand_timesteps=False)


def wan_two_models() -> Case:
    parts = {"transformer_2": models.wan(), "boundary_ratio": 0.875, "expand_timesteps": False}
    return built("WanPipeline", models.wan(), unipc(), texts(32), **parts)


def wan_video_to_video() -> Case:
    call = {
        **texts(32),
        "video": [noise_image(seed) for seed in range(9)],
        "strength": 0.6,
        "num_inference_steps": 6,
    }
    pipe, call = built("WanVideoToVideoPipeline", models.wan(), unipc(), call, vae=wan_vae())
    return pipe, {name: value for name, value in call.items() if name != "num_frames"}


def noise_image(seed: int) -> Any:
    pixels = torch.rand(32, 32, 3, generator=torch.Generator().manual_seed(seed))
    return Image.fromarray((pixels * 255).byte().numpy())


def wan_image_to_video() -> Case:
    """Wan 2.2's: no image encoder, and two models."""
    call = {**texts(32), "image": noise_image(0)}
    first, second = (models.wan(in_channels=36) for _ in range(2))
    parts = {"vae": wan_vae(), "boundary_ratio": 0.9, "expand_timesteps": False, "transformer_2": second}
    return built("WanImageToVideoPipeline", first, unipc(), call, **parts)


def skyreels() -> Case:
    transformer = models.wan("SkyReelsV2Transformer3DModel", text_dim=16)
    return built("SkyReelsV2Pipeline", transformer, unipc(), texts(16))


def skyreels_diffusion_forcing() -> Case:
    transformer = models.wan("SkyReelsV2Transformer3DModel", text_dim=16)
    pipeline = "SkyReelsV2DiffusionForcingPipeline"
    return built(pipeline, transformer, unipc(), {**texts(16), "prompt": None, "base_num_frames": 9})


def ltx() -> Case:
    transformer = models.ltx()
    return built("LTXPipeline", transformer, euler(), {**texts(32, masks="_attention_mask"), "width": 64})


def hunyuan_call() -> dict[str, Any]:
    masks = {"prompt_attention_mask": torch.ones(1, 8)}
    return {"prompt_embeds": noise(1, 8, 16), "pooled_prompt_embeds": noise(1, 8), **masks}


def hunyuan_video() -> Case:
    return built("HunyuanVideoPipeline", models.hunyuan(), euler(), hunyuan_call())


def hunyuan_video_two_calls() -> Case:
    pipe, call = hunyuan_video()
    negative = {f"negative_{name}": value.flip(-1) for name, value in hunyuan_call().items()}
    return pipe, {**call, **negative, "true_cfg_scale": 3.0}


def hunyuan_video_15() -> Case:
    transformer = models.hunyuan_video_15()
    call = {}
    for sign in ("", "negative_"):
        call |= {
            f"{sign}prompt_embeds": noise(1, 8, 16, seed=len(sign)),
            f"{sign}prompt_embeds_mask": torch.ones(1, 8),
        }
        call |= {f"{sign}prompt_embeds_2": noise(1, 4, 32), f"{sign}prompt_embeds_mask_2": torch.ones(1, 4)}
    vae = NoVAE(latent_channels=4)
    vae.temporal_compression_ratio, vae.spatial_compression_ratio = 4, 16
    guider = diffusers.ClassifierFreeGuidance(guidance_scale=3.0)
    return built("HunyuanVideo15Pipeline", transformer, euler(), call, vae=vae, guider=guider)


def cogvideox(scheduler: str = "CogVideoXDDIMScheduler") -> Case:
    made = getattr(diffusers, scheduler)()
    return built("CogVideoXPipeline", models.cogvideox(), made, texts(32, length=16))


def mochi() -> Case:
    transformer = models.mochi()
    call = {
        name: value.bool() if "mask" in name else value
        for name, value in texts(32, 16, "_attention_mask").items()
    }
    return built("MochiPipeline", transformer, euler(), call)


def latte(scheduler: str = "DDIMScheduler") -> Case:
    transformer = models.latte()
    settings = {"clip_sample": False} if scheduler == "DDIMScheduler" else {}
    pipe, call = built("LattePipeline", transformer, getattr(diffusers, scheduler)(**settings), texts(32))
    del call["num_frames"]
    return pipe, {
        **call,
        "height": 64,
        "width": 64,
        "video_length": 4,
        "clean_caption": False,
        "negative_prompt": None,
    }


def allegro() -> Case:
    transformer = models.allegro()
    call = {
        **texts(24, masks="_attention_mask"),
        "height": 64,
        "width": 64,
        "num_frames": 8,
        "negative_prompt": None,
    }
    return built("AllegroPipeline", transformer, euler_ancestral(), {**call, "clean_caption": False})


def euler_ancestral() -> Any:
    return diffusers.EulerAncestralDiscreteScheduler()


def kandinsky5() -> Case:
    transformer = models.kandinsky5()
    call: dict[str, Any] = {}
    for sign in ("", "negative_"):
        call[f"{sign}prompt_embeds_qwen"] = noise(1, 8, 32, seed=len(sign))
        call[f"{sign}prompt_embeds_clip"] = noise(1, 16, seed=len(sign))
        call[f"{sign}prompt_cu_seqlens"] = torch.tensor([0, 8])
    return built("Kandinsky5T2VPipeline", transformer, euler(), call, vae=kandinsky_vae())


def kandinsky_vae() -> Any:
    return NoVAE(temporal_compression_ratio=4, spatial_compression_ratio=8)


def sana_video() -> Case:
    transformer = models.sana_video()
    call = {
        **texts(8, masks="_attention_mask"),
        "frames": 9,
        "use_resolution_binning": False,
        "negative_prompt": None,
    }
    scheduler = diffusers.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=8.0
    )
    pipe, call = built("SanaVideoPipeline", transformer, scheduler, call, vae=wan_vae())
    del call["num_frames"]
    return pipe, call


def easyanimate() -> Case:
    transformer = models.easyanimate()
    vae = NoVAE(latent_channels=4)
    vae.temporal_compression_ratio, vae.spatial_compression_ratio = 4, 8
    return built("EasyAnimatePipeline", transformer, euler(), texts(16, masks="_attention_mask"), vae=vae)


def anyflow() -> Case:
    transformer = models.wan("AnyFlowTransformer3DModel", gate_value=0.25, deltatime_type="r")
    call = {**texts(32), "guidance_scale": 3.0}
    scheduler = diffusers.FlowMapEulerDiscreteScheduler()
    return built("AnyFlowPipeline", transformer, scheduler, call, vae=wan_vae())


def motif_video() -> Case:
    transformer = models.motif_video()
    guider = diffusers.ClassifierFreeGuidance(guidance_scale=3.0)
    call = texts(32, masks="_attention_mask")
    return built("MotifVideoPipeline", transformer, euler(), call, vae=wan_vae(), guider=guider)


def helios() -> Case:
    transformer = models.wan(
        "HeliosTransformer3DModel",
        rope_dim=(4, 4, 4),
        has_multi_term_memory_patch=True,
        guidance_cross_attn=True,
        zero_history_timestep=True,
        is_amplify_history=False,
    )
    call = {**texts(32), "num_frames": 66, "height": 16, "width": 16}
    return built(
        "HeliosPipeline",
        transformer,
        diffusers.HeliosScheduler(stages=1, stage_range=[0, 1]),
        call,
        vae=wan_vae(),
    )


CASES: MappingProxyType[str, Callable[[], Case]] = MappingProxyType(
    {
        "wan": wan,
        "wan_two_models": wan_two_models,
        "wan_image_to_video": wan_image_to_video,
        "wan_video_to_video": wan_video_to_video,
        "skyreels": skyreels,
        "skyreels_diffusion_forcing": skyreels_diffusion_forcing,
        "ltx": ltx,
        "hunyuan_video": hunyuan_video,
        "hunyuan_video_two_calls": hunyuan_video_two_calls,
        "hunyuan_video_15": hunyuan_video_15,
        "cogvideox": cogvideox,
        "cogvideox_dpm": functools.partial(cogvideox, "CogVideoXDPMScheduler"),
        "mochi": mochi,
        "latte": latte,
        "latte_heun": functools.partial(latte, "HeunDiscreteScheduler"),
        "latte_pndm": functools.partial(latte, "PNDMScheduler"),
        "allegro": allegro,
        "kandinsky5": kandinsky5,
        "sana_video": sana_video,
        "easyanimate": easyanimate,
        "anyflow": anyflow,
        "motif_video": motif_video,
        "helios": helios,
    }
)


def case(name: str) -> Case:
    """The pipeline with weights that are the same each time, and a call that makes the same each time."""
    torch.manual_seed(0)
    return CASES[name]()


def generate(pipe: Any, call: dict[str, Any], seed: int = 0, **changes: Any) -> torch.Tensor:
    """The latents of one generation."""
    return pipe(**{**call, "generator": torch.Generator().manual_seed(seed), **changes})[0]
