"""Text encoders on the meta device, for the estimate of memory and operations."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from videosys.text_encoders.t5 import CONFIG_FILES, encoder_class, find_folder, read_encoder_config
from videosys.utils.lazy import imported

# T5 v1.1 XXL; mT5 XXL differs in its vocabulary.
XXL: MappingProxyType[str, Any] = MappingProxyType(
    {
        "vocab_size": 32128,
        "d_model": 4096,
        "d_kv": 64,
        "d_ff": 10240,
        "num_layers": 24,
        "num_heads": 64,
        "feed_forward_proj": "gated-gelu",
    }
)
MT5_VOCABULARY = 250112


def encoder_shape(folder: Path | None, is_mt5: bool = False) -> nn.Module:
    """Build the encoder of a checkpoint's folder, or without a folder the published XXL, on `meta`.

    is_mt5: selects the published encoder. ValueError if the folder has no readable config.json.
    """
    if folder is not None:
        config = read_encoder_config(find_folder(folder, "text_encoder", CONFIG_FILES))
    else:
        config = imported("transformers", "T5Config")(
            **{**XXL, **({"vocab_size": MT5_VOCABULARY} if is_mt5 else {})}
        )
    return encoder_class(config)(config)


def encode_shape(encoder: Any, batch: int, length: int) -> torch.Tensor:
    """Return embeddings [batch, length, D] without values."""
    ids = torch.zeros(batch, length, dtype=torch.int64, device="meta")
    return encoder(input_ids=ids)[0]
