"""Text encoders without memory, to know what they would need."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

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
    """The encoder of a folder's config.json, or without a folder the published XXL; build it on `meta`."""
    import transformers as tf

    if folder is not None:
        home = folder / "text_encoder" if (folder / "text_encoder").is_dir() else folder
        config = tf.T5Config.from_pretrained(str(home), local_files_only=True)
    else:
        config = tf.T5Config(**{**XXL, **({"vocab_size": MT5_VOCABULARY} if is_mt5 else {})})
    return tf.T5EncoderModel(config)


def encode_shape(encoder: Any, batch: int, length: int) -> torch.Tensor:
    """Embeddings [batch, length, D], without values, of that many tokens."""
    ids = torch.zeros(batch, length, dtype=torch.int64, device="meta")
    return encoder(input_ids=ids)[0]
