"""Reads a golden case: its JSON (config, inputs, literals) and its tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

GOLDENS = Path(__file__).parent


def load_json(family: str, name: str) -> Any:
    return json.loads((GOLDENS / family / f"{name}.json").read_text(encoding="utf-8"))


def load_tensors(family: str, name: str) -> dict[str, torch.Tensor]:
    return load_file(GOLDENS / family / f"{name}.safetensors")


def load_case(family: str, name: str) -> tuple[Any, dict[str, torch.Tensor]]:
    return load_json(family, name), load_tensors(family, name)
