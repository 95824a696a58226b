"""A forward leaves its model as it was: every tensor, attribute and container, and so the next forward."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import nn

import videosys.models
from videosys.models.open_sora_plan.transformer import OpenSoraT2V, OpenSoraT2VConfig
from videosys.models.opensora.transformer import STDiT3, STDiT3Config
from videosys.models.pixart.latte_t2v import LatteT2V, LatteT2VConfig

Forward = Callable[[], torch.Tensor]


def opensora() -> tuple[nn.Module, Forward]:
    config = STDiT3Config(hidden_size=32, depth=2, num_heads=2, caption_channels=8, model_max_length=6)
    model = STDiT3(config).eval()
    embeds, mask = torch.randn(2, 6, 8), torch.tensor([[1] * 6, [1] * 3 + [0] * 3])
    latents, frame_mask = torch.randn(2, 4, 3, 4, 6), torch.tensor([[True, True, False]] * 2)

    def forward() -> torch.Tensor:
        condition = model.prepare(embeds, mask, latent_size=(3, 4, 6), fps=12.0, height=32, width=48)
        return model(latents, torch.tensor([500.0, 500.0]), condition, frame_mask=frame_mask)

    return model, forward


def open_sora_plan() -> tuple[nn.Module, Forward]:
    config = OpenSoraT2VConfig(
        num_layers=2, num_attention_heads=2, attention_head_dim=12, cross_attention_dim=24, caption_channels=8
    )
    model = OpenSoraT2V(config).eval()
    embeds, mask = torch.randn(2, 6, 8), torch.tensor([[1] * 6, [1] * 3 + [0] * 3])
    latents, visible = torch.randn(2, 4, 3, 4, 6), torch.ones(1, 3, 4, 6)
    visible[..., 4:] = 0

    def forward() -> torch.Tensor:
        condition = model.prepare(embeds, mask, latent_size=(3, 4, 6), visible_mask=visible)
        return model(latents, torch.tensor([500.5, 500.5]), condition)

    return model, forward


def latte() -> tuple[nn.Module, Forward]:
    config = LatteT2VConfig(
        num_layers=2, num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16, caption_channels=8
    )
    model = LatteT2V(config).eval()
    embeds, mask = torch.randn(2, 6, 8), torch.tensor([[1] * 6, [1] * 3 + [0] * 3])
    latents, visible = torch.randn(2, 4, 3, 4, 6), torch.ones(1, 3, 4, 6)
    visible[..., 4:] = 0

    def forward() -> torch.Tensor:
        condition = model.prepare(embeds, mask, latent_size=(3, 4, 6), visible_mask=visible)
        return model(latents, torch.tensor([500, 500]), condition)

    return model, forward


# One small model and one call of each; a model without an entry fails below.
EXAMPLES: dict[str, Callable[[], tuple[nn.Module, Forward]]] = {
    "STDiT3": opensora,
    "OpenSoraT2V": open_sora_plan,
    "LatteT2V": latte,
}


def model_classes() -> set[str]:
    """Return the names of the classes in `models/` that can be prepared and called."""
    found = set()
    for item in pkgutil.walk_packages(videosys.models.__path__, "videosys.models."):
        module = importlib.import_module(item.name)
        for name, value in vars(module).items():
            is_model = isinstance(value, type) and issubclass(value, nn.Module) and hasattr(value, "prepare")
            # Blocks prepare too, but only a model says in which latent size.
            if is_model and value.__module__ == item.name and "latent_size" in value.prepare.__annotations__:
                found.add(name)
    return found


def state(model: nn.Module) -> dict[str, Any]:
    """Return all that a model and the objects it holds remember, in a form that can be compared."""
    made: dict[str, Any] = {}
    for name, module in model.named_modules():
        made.update({f"{name}.{key}": _print(value) for key, value in vars(module).items()})
    return made


def _print(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return (id(value), value.dtype, value.shape, value._version, value.detach().clone().double().tolist())
    if isinstance(value, nn.Module):
        return id(value)  # its own attributes are looked at by name
    if isinstance(value, Mapping):
        return [(_print(key), _print(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple, set, frozenset)):
        return [type(value).__name__, *(_print(item) for item in value)]
    if dataclasses.is_dataclass(value) or (hasattr(value, "__dict__") and not callable(value)):
        return (id(value), _print(vars(value)) if hasattr(value, "__dict__") else None)
    return value if isinstance(value, (bool, int, float, str, bytes, type(None))) else id(value)


@pytest.mark.parametrize("name", EXAMPLES)
@torch.no_grad()
def test_a_forward_changes_nothing(name):
    torch.manual_seed(0)
    model, forward = EXAMPLES[name]()
    before = state(model)
    random = torch.get_rng_state()
    first = forward()
    assert state(model) == before
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(forward(), first)
    assert torch.isfinite(first).all()


def test_every_model_has_an_example():
    assert model_classes() == set(EXAMPLES)


class Stateful(nn.Module):
    def __init__(self, change: Callable[[Stateful], Any]) -> None:
        super().__init__()
        self.change = change
        self.inner = nn.Linear(2, 2)
        self.register_buffer("table", torch.zeros(2))
        self.items: list[int] = []
        self.nested = {"a": [1]}

    def forward(self) -> None:
        self.change(self)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: setattr(model, "count", 1),
        lambda model: model.items.append(1),
        lambda model: model.nested["a"].append(2),
        lambda model: model.table.add_(1),
        lambda model: model.table.mul_(0),
        lambda model: setattr(model, "table", model.table.clone()),
        lambda model: setattr(model.inner, "seen", torch.ones(1)),
        lambda model: model.inner.bias.data.add_(1),
        lambda model: setattr(model.inner, "weight", nn.Parameter(model.inner.weight.detach().clone())),
        lambda model: model.inner.register_forward_hook(print),
        lambda model: model.train(not model.training),
    ],
)
def test_changes_are_seen(change):
    model = Stateful(change)
    before = state(model)
    assert state(model) == before
    model()
    assert state(model) != before
