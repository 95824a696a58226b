"""Video pipelines of diffusers with tiny random transformers, for tests of the adapter.

Each case is a pipeline and the arguments of its call, which ends in latents.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import MappingProxyType, SimpleNamespace
from typing import Any

import diffusers
import torch
from PIL import Image

from tests.video_models import transformer

STEPS = 4
SIZES = MappingProxyType({"height": 32, "width": 32, "num_frames": 9})
LARGER = MappingProxyType({"height": 64, "width": 64})
NO_TEXT = MappingProxyType({"negative_prompt": None, "clean_caption": False})  # embeddings instead
Case = tuple[Any, dict[str, Any]]


class NoVAE:
    """Stands for an autoencoder of which only some settings are read, from itself or its config."""

    def __init__(self, temporal: int, spatial: int, **settings: Any):
        settings |= {"temporal_compression_ratio": temporal, "spatial_compression_ratio": spatial}
        self.config = SimpleNamespace(scaling_factor=1.0, **settings)
        self.dtype = torch.float32
        vars(self).update(settings)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def noise_image(seed: int) -> Any:
    pixels = torch.rand(32, 32, 3, generator=torch.Generator().manual_seed(seed))
    return Image.fromarray((pixels * 255).byte().numpy())


def wan_vae() -> Any:
    return diffusers.AutoencoderKLWan(base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)


def guider() -> Any:
    return diffusers.ClassifierFreeGuidance(guidance_scale=3.0)


def unipc() -> Any:
    return flow_scheduler("UniPCMultistepScheduler", 3.0)


def flow_scheduler(cls: str, shift: float) -> Any:
    settings = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": shift}
    return getattr(diffusers, cls)(**settings)


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


def built(pipeline: Any, model: Any, scheduler: Any, call: dict[str, Any], **parts: Any) -> Case:
    """A pipeline without its other parts. Of the usual arguments it is given those that its call takes."""
    cls = getattr(diffusers, pipeline) if isinstance(pipeline, str) else pipeline
    needed = inspect.signature(cls).parameters
    missing = {name: None for name, each in needed.items() if each.default is inspect.Parameter.empty}
    place = "transformer" if "transformer" in needed else "unet"
    pipe = cls(**{**missing, place: model, "scheduler": scheduler, **parts})
    pipe.set_progress_bar_config(disable=True)
    known = inspect.signature(cls.__call__).parameters
    usual = {"num_inference_steps": STEPS, "output_type": "latent", **SIZES}
    return pipe, {**{name: value for name, value in usual.items() if name in known}, **call}


def wan_two_models() -> Case:
    second, first = (transformer("wan") for _ in range(2))
    parts = {"transformer_2": second, "boundary_ratio": 0.875}
    return built("WanPipeline", first, unipc(), texts(32), **parts)


def wan_image_to_video() -> Case:
    """Wan 2.2's: no image encoder, and two models."""
    first, second = (transformer("wan_image_to_video") for _ in range(2))
    call = {**texts(32), "image": noise_image(0)}
    parts = {"vae": wan_vae(), "boundary_ratio": 0.9, "transformer_2": second}
    return built("WanImageToVideoPipeline", first, unipc(), call, **parts)


def wan_video_to_video() -> Case:
    video = [noise_image(seed) for seed in range(9)]
    call = {**texts(32), "video": video, "strength": 0.6, "num_inference_steps": 6}
    return built("WanVideoToVideoPipeline", transformer("wan"), unipc(), call, vae=wan_vae())


def skyreels_diffusion_forcing() -> Case:
    call = {**texts(16), "prompt": None, "base_num_frames": 9}
    return built("SkyReelsV2DiffusionForcingPipeline", transformer("skyreels"), unipc(), call)


def hunyuan_call() -> dict[str, Any]:
    masks = {"prompt_attention_mask": torch.ones(1, 8)}
    return {"prompt_embeds": noise(1, 8, 16), "pooled_prompt_embeds": noise(1, 8), **masks}


def hunyuan_video_two_calls() -> Case:
    negative = {f"negative_{name}": value.flip(-1) for name, value in hunyuan_call().items()}
    call = {**hunyuan_call(), **negative, "true_cfg_scale": 3.0}
    return built("HunyuanVideoPipeline", transformer("hunyuan_video"), euler(), call)


def hunyuan_video_15() -> Case:
    call = {}
    for sign in ("", "negative_"):
        call |= {
            f"{sign}prompt_embeds": noise(1, 8, 16, seed=len(sign)),
            f"{sign}prompt_embeds_mask": torch.ones(1, 8),
            f"{sign}prompt_embeds_2": noise(1, 4, 32),
            f"{sign}prompt_embeds_mask_2": torch.ones(1, 4),
        }
    parts = {"vae": NoVAE(4, 16, latent_channels=4), "guider": guider()}
    return built("HunyuanVideo15Pipeline", transformer("hunyuan_video_15"), euler(), call, **parts)


def cogvideox(scheduler: str) -> Case:
    made = getattr(diffusers, scheduler)()
    return built("CogVideoXPipeline", transformer("cogvideox"), made, texts(32, length=16))


def mochi() -> Case:
    pair = texts(32, 16, "_attention_mask")
    call = {name: value.bool() if "mask" in name else value for name, value in pair.items()}
    return built("MochiPipeline", transformer("mochi"), euler(), call)


def latte(scheduler: str, **settings: Any) -> Case:
    made = getattr(diffusers, scheduler)(**settings)
    return built(
        "LattePipeline", transformer("latte"), made, {**texts(32), **LARGER, **NO_TEXT, "video_length": 4}
    )


def allegro() -> Case:
    call = {**texts(24, masks="_attention_mask"), **LARGER, **NO_TEXT, "num_frames": 8}
    scheduler = diffusers.EulerAncestralDiscreteScheduler()
    return built("AllegroPipeline", transformer("allegro"), scheduler, call)


def with_modulation(model: Any) -> Any:
    """A model whose modulations are not zero, as they begin: blocks that add nothing would show nothing."""
    for name, parameter in model.named_parameters():
        if "modulation" in name:
            parameter.data.copy_(0.1 * torch.randn_like(parameter))
    return model


def kandinsky5() -> Case:
    model = with_modulation(transformer("kandinsky5"))
    call: dict[str, Any] = {}
    for sign in ("", "negative_"):
        call |= {
            f"{sign}prompt_embeds_qwen": noise(1, 8, 32, seed=len(sign)),
            f"{sign}prompt_embeds_clip": noise(1, 16, seed=len(sign)),
            f"{sign}prompt_cu_seqlens": torch.tensor([0, 8]),
        }
    return built("Kandinsky5T2VPipeline", model, euler(), call, vae=NoVAE(4, 8))


def sana_video() -> Case:
    call = {**texts(8, masks="_attention_mask"), "frames": 9, "negative_prompt": None}
    call["use_resolution_binning"] = False
    scheduler = flow_scheduler("DPMSolverMultistepScheduler", 8.0)
    return built("SanaVideoPipeline", transformer("sana_video"), scheduler, call, vae=wan_vae())


def easyanimate() -> Case:
    call, vae = texts(16, masks="_attention_mask"), NoVAE(4, 8, latent_channels=4)
    return built("EasyAnimatePipeline", transformer("easyanimate"), euler(), call, vae=vae)


def anyflow() -> Case:
    call, scheduler = {**texts(32), "guidance_scale": 3.0}, diffusers.FlowMapEulerDiscreteScheduler()
    return built("AnyFlowPipeline", transformer("anyflow"), scheduler, call, vae=wan_vae())


def motif_video() -> Case:
    call = texts(32, masks="_attention_mask")
    model = transformer("motif_video")
    return built("MotifVideoPipeline", model, euler(), call, vae=wan_vae(), guider=guider())


def helios() -> Case:
    call = {**texts(32), "num_frames": 66, "height": 16, "width": 16}
    scheduler = diffusers.HeliosScheduler(stages=1, stage_range=[0, 1])
    return built("HeliosPipeline", transformer("helios"), scheduler, call, vae=wan_vae())


CASES: MappingProxyType[str, Callable[[], Case]] = MappingProxyType(
    {
        "wan": lambda: built("WanPipeline", transformer("wan"), unipc(), texts(32)),
        "wan_two_models": wan_two_models,
        "wan_image_to_video": wan_image_to_video,
        "wan_video_to_video": wan_video_to_video,
        "skyreels": lambda: built("SkyReelsV2Pipeline", transformer("skyreels"), unipc(), texts(16)),
        "skyreels_diffusion_forcing": skyreels_diffusion_forcing,
        "ltx": lambda: built(
            "LTXPipeline", transformer("ltx"), euler(), {**texts(32, masks="_attention_mask"), "width": 64}
        ),
        "hunyuan_video": lambda: built(
            "HunyuanVideoPipeline", transformer("hunyuan_video"), euler(), hunyuan_call()
        ),
        "hunyuan_video_two_calls": hunyuan_video_two_calls,
        "hunyuan_video_15": hunyuan_video_15,
        "cogvideox": lambda: cogvideox("CogVideoXDDIMScheduler"),
        "cogvideox_dpm": lambda: cogvideox("CogVideoXDPMScheduler"),
        "mochi": mochi,
        "latte": lambda: latte("DDIMScheduler", clip_sample=False),
        "latte_heun": lambda: latte("HeunDiscreteScheduler"),
        "latte_pndm": lambda: latte("PNDMScheduler"),
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
    """The latents of one generation; where a pipeline returns a list of them, joined and flat."""
    torch.manual_seed(seed)  # I2VGenXL encodes its image without the generator
    latents = pipe(**{**call, "generator": torch.Generator().manual_seed(seed), **changes})[0]
    return latents if isinstance(latents, torch.Tensor) else torch.cat([x.flatten() for x in latents])
