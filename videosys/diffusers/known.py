"""Pipelines known by a short name: their published weights, and a tiny model of each for a CPU."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import torch

from videosys.diffusers.tiny import TINY_WAN_CALIBRATION, TINY_WAN_CALL, tiny_wan
from videosys.utils.lazy import imported

PROMPTS = (
    "a cat plays the piano in a sunny room",
    "waves break on a rocky shore at dusk",
    "a train crosses a bridge in the fog",
)
RANDOM_CALL = MappingProxyType(
    {"num_inference_steps": 10, "height": 32, "width": 32, "num_frames": 9, "output_type": "latent"}
)


class Tiny(Protocol):
    """A tiny pipeline, the arguments of all its calls, and prompts.

    calibration: its file, or None.
    """

    @property
    def call(self) -> Mapping[str, Any]: ...

    @property
    def prompts(self) -> Sequence[str]: ...

    @property
    def calibration(self) -> Path | None: ...

    def built(self) -> Any:
        """The pipeline."""

    def arguments(self, prompt: str) -> dict[str, Any]:
        """The arguments of the pipeline's call for a prompt."""


@dataclass(frozen=True)
class RandomTiny:
    """A pipeline with a tiny transformer of random weights, without text encoder and autoencoder.

    pipeline, transformer, scheduler: class names in diffusers. sizes: arguments of the transformer;
    settings: of the scheduler. texts: name -> shape of the embeddings that replace a prompt.
    changes: arguments that differ from `RANDOM_CALL`.
    """

    pipeline: str
    transformer: str
    sizes: Mapping[str, Any]
    scheduler: str
    texts: Mapping[str, tuple[int, ...]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)
    prompts: Sequence[str] = PROMPTS
    calibration: Path | None = None

    @property
    def call(self) -> Mapping[str, Any]:
        return {**RANDOM_CALL, **self.changes}

    def built(self) -> Any:
        """The pipeline, with the same weights each time. The global random state is not changed."""
        cls = imported("diffusers", self.pipeline)
        parts = dict.fromkeys(name for name in inspect.signature(cls.__init__).parameters if name != "self")
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)  # that of the CPU only
            parts["transformer"] = imported("diffusers", self.transformer)(**self.sizes).eval()
        parts["scheduler"] = imported("diffusers", self.scheduler)(**self.settings)
        pipe = cls(**parts)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def arguments(self, prompt: str) -> dict[str, Any]:
        """Random embeddings that depend only on the prompt, and masks that keep all of them."""
        source = torch.Generator().manual_seed(sum(prompt.encode()))
        return {
            name: torch.ones(shape) if "mask" in name else torch.randn(shape, generator=source)
            for name, shape in self.texts.items()
        }


@dataclass(frozen=True)
class TrainedTiny:
    """A tiny trained pipeline that is bundled with the package."""

    built: Callable[[], Any]
    call: Mapping[str, Any]
    prompts: Sequence[str]
    calibration: Path | None

    def arguments(self, prompt: str) -> dict[str, Any]:
        """The prompt itself."""
        return {"prompt": prompt}


@dataclass(frozen=True)
class Known:
    """A pipeline with published weights.

    model: its id on the hub. dtype: of the weights, a name in torch. call: the arguments of its calls, and
    fps of its videos. flow_shift: of a UniPC scheduler that replaces the published one. offload: whether
    models are moved to the GPU one by one, and the autoencoder decodes in tiles.
    """

    model: str
    dtype: str
    call: Mapping[str, Any]
    fps: int
    tiny: Tiny
    flow_shift: float | None = None
    offload: bool = False
    prompts: Sequence[str] = PROMPTS

    def built(self) -> Any:
        """The pipeline, loaded, on the GPU if there is one."""
        pipe = loaded(self.model, self.dtype, to_device=not self.offload)
        if self.flow_shift is not None:
            config = pipe.scheduler.config
            pipe.scheduler = imported("diffusers", "UniPCMultistepScheduler").from_config(
                config, flow_shift=self.flow_shift
            )
        if self.offload:
            pipe.vae.enable_tiling()
            pipe.enable_model_cpu_offload(device=device())
        return pipe

    def arguments(self, prompt: str) -> dict[str, Any]:
        """The prompt itself."""
        return {"prompt": prompt}


def device() -> str:
    """The device of published models."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def loaded(model: str, dtype: str = "bfloat16", to_device: bool = True) -> Any:
    """The pipeline of a folder or of an id on the hub. ValueError if diffusers cannot load it."""
    try:
        pipe = imported("diffusers", "DiffusionPipeline").from_pretrained(
            model, torch_dtype=getattr(torch, dtype)
        )
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot load {model}: {' '.join(str(error).split())}") from error
    return pipe.to(device()) if to_device else pipe


WAN = Known(
    model="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",  # 14 billion parameters: Wan-AI/Wan2.1-T2V-14B-Diffusers
    dtype="bfloat16",
    call={"num_inference_steps": 50, "height": 480, "width": 832, "num_frames": 81},
    fps=16,
    flow_shift=3.0,
    tiny=TrainedTiny(
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
HUNYUAN_VIDEO = Known(
    model="hunyuanvideo-community/HunyuanVideo",
    dtype="bfloat16",
    call={"num_inference_steps": 50, "height": 544, "width": 960, "num_frames": 61},
    fps=15,
    offload=True,
    tiny=RandomTiny(
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
LTX = Known(
    model="Lightricks/LTX-Video",
    dtype="bfloat16",
    call={"num_inference_steps": 50, "height": 480, "width": 704, "num_frames": 161},
    fps=24,
    tiny=RandomTiny(
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
        changes={"width": 64},
    ),
)
COGVIDEOX = Known(
    model="zai-org/CogVideoX-2b",  # 5 billion parameters: zai-org/CogVideoX-5b, in bfloat16
    dtype="float16",
    call={"num_inference_steps": 50, "height": 480, "width": 720, "num_frames": 49},
    fps=8,
    tiny=RandomTiny(
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
KNOWN: Mapping[str, Known] = MappingProxyType(
    {"wan": WAN, "hunyuan_video": HUNYUAN_VIDEO, "ltx": LTX, "cogvideox": COGVIDEOX}
)
