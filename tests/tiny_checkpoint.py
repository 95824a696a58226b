"""A checkpoint of random weights with the real factors (8x in space, 4x in time, chunks of 17 frames)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from videosys import OpenSoraConfig
from videosys.models import FAMILIES, family_of
from videosys.models.latte.autoencoder import IMAGES, TEMPORAL, LatteVAE, LatteVAEConfig
from videosys.models.open_sora_plan.autoencoder import V110, V120, CausalVAE
from videosys.models.open_sora_plan.transformer import OpenSoraT2V, OpenSoraT2VConfig
from videosys.models.opensora.autoencoder import OpenSoraVAE, OpenSoraVAEConfig
from videosys.models.opensora.transformer import STDiT3, STDiT3Config
from videosys.models.pixart.latte_t2v import LatteT2V, LatteT2VConfig
from videosys.parallel import Parallel
from videosys.text_encoders.t5 import load_tokenizer
from videosys.utils.checkpoint import save_model
from videosys.utils.hub import BUNDLED_FOLDER

TOKENIZER = BUNDLED_FOLDER / "opensora" / "tokenizer"
TEXT_WIDTH = 16
MODEL = STDiT3Config(hidden_size=32, depth=2, num_heads=2, caption_channels=TEXT_WIDTH, model_max_length=40)
VAE = OpenSoraVAEConfig(
    block_out_channels=(4, 4, 4, 4),
    layers_per_block=1,
    norm_num_groups=2,
    temporal_filters=4,
    num_res_blocks=1,
    channel_multipliers=(1, 1, 1, 1),
    num_groups=2,
)
# Small and quick; 34 frames are two chunks, so that time matters.
SETTINGS: dict[str, Any] = {
    "height": 32,
    "width": 48,
    "num_frames": 34,
    "fps": 12.0,
    "num_inference_steps": 4,
    "guidance_scale": 3.0,
    "seed": 7,
}


def build_model(seed: int = 0) -> STDiT3:
    torch.manual_seed(seed)
    return STDiT3(MODEL).eval().requires_grad_(False)


def build_vae(seed: int = 0) -> OpenSoraVAE:
    torch.manual_seed(seed)
    vae = OpenSoraVAE(VAE).eval().requires_grad_(False)
    vae.spatial.decoder.conv_out.weight.mul_(8)  # the pictures use the whole range of colours
    vae.scale.fill_(2.0)
    vae.shift.fill_(0.1)
    return vae


def write_text_encoder(folder: Path) -> None:
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(load_tokenizer(TOKENIZER)),
        d_model=TEXT_WIDTH,
        d_kv=8,
        num_heads=2,
        d_ff=32,
        num_layers=1,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        decoder_start_token_id=0,
    )
    T5EncoderModel(config).save_pretrained(folder / "text_encoder")
    shutil.copytree(TOKENIZER, folder / "tokenizer")


def write_checkpoint(folder: Path) -> Path:
    """The folder, now with `transformer`, `vae`, `text_encoder` and `tokenizer`."""
    save_model(build_model().state_dict(), MODEL, folder / "transformer")
    save_model(build_vae().state_dict(), VAE, folder / "vae")
    write_text_encoder(folder)
    return folder


def places(folder: Path) -> dict[str, str]:
    """The fields of a config that name a checkpoint."""
    return {
        "transformer": str(folder / "transformer"),
        "vae": str(folder / "vae"),
        "text_encoder": str(folder),
    }


def config_of(folder: Path, **changes: Any) -> OpenSoraConfig:
    return OpenSoraConfig(**{**places(folder), **SETTINGS, **changes})


SHAPE: dict[str, Any] = {
    "num_layers": 2,
    "num_attention_heads": 2,
    "caption_channels": TEXT_WIDTH,
}
LATTE = LatteT2VConfig(**SHAPE, attention_head_dim=16, cross_attention_dim=32, sample_size=8, video_length=5)
PLAN = OpenSoraT2VConfig(**SHAPE, attention_head_dim=12, cross_attention_dim=24, sample_size=(4, 6))
CAUSAL: dict[str, Any] = {"hidden_size": 32, "hidden_size_mult": (1, 1, 1, 1), "num_res_blocks": 1}
FRAMES = LatteVAEConfig(block_out_channels=(32, 32, 32, 32), layers_per_block=1)


def write_random(build: Callable[..., torch.nn.Module], config: Any, folder: Path) -> None:
    torch.manual_seed(0)
    model = build(config).requires_grad_(False)
    if hasattr(model, "decoder"):
        model.decoder.conv_out.apply(brighten)
    save_model(model.state_dict(), config, folder)


def brighten(module: torch.nn.Module) -> None:
    """The pictures use the whole range of colours."""
    if hasattr(module, "weight"):
        module.weight.mul_(4)


def write_latte(folder: Path) -> None:
    write_random(LatteT2V, LATTE, folder / "transformer")
    write_random(LatteVAE, replace(FRAMES, _class_name=IMAGES), folder / "vae")
    write_random(LatteVAE, replace(FRAMES, _class_name=TEMPORAL), folder / "vae_temporal_decoder")
    write_text_encoder(folder)


def write_plan_v110(folder: Path) -> None:
    write_random(LatteT2V, LATTE, folder / "65x512x512")
    write_random(CausalVAE, replace(V110, **CAUSAL), folder / "vae")
    write_text_encoder(folder)


def write_plan_v120(folder: Path) -> None:
    write_random(OpenSoraT2V, PLAN, folder / "29x480p")
    write_random(CausalVAE, replace(V120, **CAUSAL), folder / "vae")
    write_text_encoder(folder)


# By the names of the families' tiny checkpoints (`Family.tiny`).
WRITERS = MappingProxyType(
    {
        "opensora": write_checkpoint,
        "latte": write_latte,
        "open_sora_plan_v110": write_plan_v110,
        "open_sora_plan_v120": write_plan_v120,
    }
)


def text_to_video_config(name: str, folder: Path, **changes: Any) -> Any:
    """The config for a checkpoint that one of WRITERS wrote: all its parts are in one folder."""
    places = {part: str(folder) for part in ("transformer", "vae", "text_encoder")}
    small = {"num_frames": 5, "height": 16, "width": 32, "num_inference_steps": 4, "seed": 7}
    small = {"device": "cpu", **small, **changes}
    (family,) = [family for family in FAMILIES.values() if name in family.tiny]
    version = {key: value for key, value in family.tiny[name].items() if key == "version"}
    return family.config(**places, **version, **small)


def build_pipeline(config: Any, quiet: bool = False, parallel: Parallel = Parallel()) -> Any:
    """The pipeline of a config, as an engine builds it."""
    return family_of(config).build(config, quiet, parallel)
