"""One thread per test process: results do not depend on how many tests run side by side."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from videosys.generation.config import NegativePromptConfig
from videosys.models import FAMILIES
from videosys.utils.settled import SETTINGS, default_device

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # which triton reads when it is first imported, by whomever


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def process_settings_are_unchanged():
    """The test that changes a setting of the process fails. SETTINGS are restored for later tests."""
    before = process_settings()
    yield
    after = process_settings()
    for setting in SETTINGS:
        if after[setting] != before[setting]:
            setting.set(setting.neutral[0] if before[setting] is None else before[setting])
    assert after == before


def process_settings() -> dict[Any, Any]:
    """The settings of torch that change results, its default device, and diffusers' attention backend."""
    found: dict[Any, Any] = {setting: setting.deviation() for setting in SETTINGS}
    dispatch = sys.modules.get("diffusers.models.attention_dispatch")
    backend = dispatch._AttentionBackendRegistry.get_active_backend()[0].value if dispatch else "native"
    return found | {"device": default_device(), "attention backend": backend}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """The folder of a small checkpoint with random weights, which no test may change."""
    from tests.tiny_checkpoint import write_checkpoint  # takes seconds to import

    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def with_negative_prompt() -> list[str]:
    """The names of the tiny checkpoints whose models take a negative prompt."""
    families = [family for family in FAMILIES.values() if issubclass(family.config, NegativePromptConfig)]
    return [name for family in families for name in family.tiny]


@pytest.fixture(scope="session", params=with_negative_prompt())
def random_model(request, tmp_path_factory) -> tuple[str, Path]:
    """A model with a negative prompt, and the folder of a small checkpoint with random weights of it."""
    from tests.tiny_checkpoint import WRITERS

    folder = tmp_path_factory.mktemp(request.param)
    WRITERS[request.param](folder)
    return request.param, folder
