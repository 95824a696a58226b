"""The small trained Wan that is bundled with the package, as a pipeline of diffusers."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from videosys.models.open_sora_plan.autoencoder import CausalVAE, CausalVAEConfig
from videosys.text_encoders.t5 import T5Encoder
from videosys.utils.checkpoint import load_model, read_config, resolve
from videosys.utils.hub import BUNDLED_FOLDER
from videosys.utils.lazy import imported
from videosys.utils.settled import settle

TRANSFORMER = "bundled:wan/transformer"
AUTOENCODER = "bundled:open_sora_plan/vae"
TEXTS = "bundled:opensora"
SHIFT = 3.0  # of the scheduler's grid, as Wan is published for small videos
# Arguments of the pipeline's call for which the model was trained, with short texts.
TINY_WAN_CALL = MappingProxyType(
    {
        "num_inference_steps": 30,
        "height": 64,
        "width": 64,
        "num_frames": 33,
        "guidance_scale": 5.0,
        "max_sequence_length": 32,
    }
)
TINY_WAN_CALIBRATION = BUNDLED_FOLDER / "wan" / "transformer" / "calibration.json"


class PipelineVAE(nn.Module):
    """A CausalVAE with the interface of the autoencoder of a diffusers pipeline."""

    def __init__(self, vae: CausalVAE):
        super().__init__()
        self.vae = vae
        channels, scale = vae.config.z_channels, vae.config.scaling_factor
        self.config = SimpleNamespace(
            z_dim=channels,
            latents_mean=[0.0] * channels,
            latents_std=[1 / scale] * channels,
            scale_factor_temporal=vae.config.temporal_factor,
            scale_factor_spatial=vae.config.spatial_factor,
        )

    @property
    def dtype(self) -> torch.dtype:
        return self.vae.dtype

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @torch.no_grad()
    def decode(self, latents: Tensor, return_dict: bool = True) -> Any:
        """The frames [B, 3, T, H, W] of latents [B, C, t, h, w], in a tuple or as `.sample`."""
        frames = self.vae.frames(latents)
        return SimpleNamespace(sample=frames) if return_dict else (frames,)


@settle
def tiny_wan(transformer: str | Path = TRANSFORMER) -> Any:
    """A WanPipeline for clips of 64 x 64 pixels on a CPU. Call it with `TINY_WAN_CALL`.

    `python -m videosys.tiny.words` lists its vocabulary. transformer: a folder with other weights.
    """
    folder, model = resolve(AUTOENCODER), imported("diffusers", "WanTransformer3DModel")
    texts = T5Encoder.from_pretrained(TEXTS)
    pipe = imported("diffusers", "WanPipeline")(
        tokenizer=texts.tokenizer,
        text_encoder=texts.model,
        transformer=model.from_pretrained(resolve(transformer), torch_dtype=torch.float32),
        vae=PipelineVAE(load_model(CausalVAE, read_config(CausalVAEConfig, folder), folder)),
        scheduler=imported("diffusers", "UniPCMultistepScheduler")(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=SHIFT
        ),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
