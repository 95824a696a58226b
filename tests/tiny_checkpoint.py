"""A checkpoint of random weights with the real factors (8x in space, 4x in time, chunks of 17 frames)."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from videosys import OpenSoraConfig
from videosys.autoencoders.opensora import OpenSoraVAE, OpenSoraVAEConfig
from videosys.models.opensora import STDiT3, STDiT3Config
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
