"""A small module for tests of keys behind prefixes, and the bundled text encoder's weights for the same."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from videosys.utils.hub import resolve
from videosys.utils.weights import load_state_dict


class Toy(nn.Module):
    ignored_keys = ("loss.",)

    def __init__(self, config: None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
        self.model = nn.Linear(2, 3)


def text_encoder_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of the bundled text encoder, whose config.json is written into the folder."""
    source = resolve("bundled:opensora", subfolder="text_encoder")
    (folder / "config.json").write_text((source / "config.json").read_text())
    return load_state_dict(source)
