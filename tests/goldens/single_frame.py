"""Open-Sora-Plan v1.1.0's image of one latent frame by the published formulas, in plain torch and float64.

    python -m tests.goldens.single_frame     writes open_sora_plan/v110_transformer_image.safetensors

The image mode is the forward without its temporal blocks, and so without temporal positions, which stand
between the first spatial and the first temporal block. Weights and inputs are those of `v110_transformer`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from tests.goldens.fill import fill_tensor
from tests.goldens.load import load_json

NAME = "v110_transformer_image"
Weights = dict[str, Tensor]


def case() -> dict[str, Any]:
    return load_json("open_sora_plan", "v110_transformer")


def inputs(case: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """The first latent frame [B, 4, 1, H, W], the timesteps [B] and the text [B, L, D]."""
    latents, text = (case["inputs"][name] for name in ("hidden_states", "encoder_hidden_states"))
    frames = fill_tensor(latents["fill"], latents["shape"], case["salt"])[:, :, :1]
    return (
        frames,
        torch.tensor(case["literals"]["timestep"]),
        fill_tensor(text["fill"], text["shape"], case["salt"])[:, 0],
    )


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def norm(x: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()


def sine_cosine(positions: Tensor, width: int) -> Tensor:
    k = torch.arange(width // 2, dtype=torch.float64)
    angles = positions[:, None] * 10000 ** (-k / (width / 2))
    return torch.cat((angles.sin(), angles.cos()), -1)


def positions(rows: int, columns: int, width: int, sample_size: int) -> Tensor:
    """[rows * columns, width]: the column in the first half."""
    base, scale = sample_size / 2, max(sample_size // 64, 1)
    y, x = (sine_cosine(torch.arange(n).double() / (n / base) / scale, width // 2) for n in (rows, columns))
    return torch.cat((x.repeat(rows, 1), y.repeat_interleave(columns, 0)), -1)


def attention(w: Weights, name: str, x: Tensor, y: Tensor, heads: int) -> Tensor:
    """Softmax attention of x [B, N, D] to y [B, L, D]."""
    q, k, v = (
        linear(w, f"{name}.to_{part}", source).unflatten(-1, (heads, -1)).transpose(1, 2)
        for part, source in (("q", x), ("k", y), ("v", y))
    )
    weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
    return linear(w, f"{name}.to_out.0", (weights @ v).transpose(1, 2).flatten(-2))


def block(w: Weights, name: str, x: Tensor, t6: Tensor, text: Tensor, heads: int) -> Tensor:
    table = (w[f"{name}.scale_shift_table"] + t6).unbind(1)
    shift1, scale1, gate1, shift2, scale2, gate2 = (item[:, None] for item in table)
    a = norm(x) * (1 + scale1) + shift1
    x = x + gate1 * attention(w, f"{name}.attn1", a, a, heads)
    x = x + attention(w, f"{name}.attn2", x, text, heads)  # neither norm nor gate
    b = norm(x) * (1 + scale2) + shift2
    hidden = F.gelu(linear(w, f"{name}.ff.net.0.proj", b), approximate="tanh")
    return x + gate2 * linear(w, f"{name}.ff.net.2", hidden)


def image(w: Weights, case: dict[str, Any]) -> Tensor:
    """The output [B, 8, 1, H, W] of the image mode."""
    config, (latents, timesteps, text) = case["config"], inputs(case)
    heads = config["num_attention_heads"]
    width = heads * config["attention_head_dim"]
    frames = latents[:, :, 0].double()
    rows, columns = frames.shape[2] // 2, frames.shape[3] // 2
    x = F.conv2d(frames, w["pos_embed.proj.weight"], w["pos_embed.proj.bias"], stride=2)
    x = x.flatten(2).transpose(1, 2) + positions(rows, columns, width, config["sample_size"][0])
    # Angles are float32 in all published code, and at timestep 894 that shows. exp is rounded from float64,
    # because the last bit of a float32 exp differs between CPUs.
    exponents = -math.log(10000) * torch.arange(128.0) / 128
    angles = (timesteps[:, None] * exponents.double().exp().float()).double()
    embedder = "adaln_single.emb.timestep_embedder"
    hidden = F.silu(linear(w, f"{embedder}.linear_1", torch.cat((angles.cos(), angles.sin()), -1)))
    embedded = linear(w, f"{embedder}.linear_2", hidden)
    t6 = linear(w, "adaln_single.linear", F.silu(embedded)).unflatten(-1, (6, width))
    y = F.gelu(linear(w, "caption_projection.linear_1", text.double()), approximate="tanh")
    y = linear(w, "caption_projection.linear_2", y)
    for i in range(config["num_layers"]):
        x = block(w, f"transformer_blocks.{i}", x, t6, y, heads)
    shift, scale = (w["scale_shift_table"] + embedded[:, None]).unbind(1)
    x = linear(w, "proj_out", norm(x) * (1 + scale[:, None]) + shift[:, None])
    x = x.unflatten(-1, (2, 2, -1)).unflatten(1, (rows, columns))  # [B, h, w, p, q, 8]
    return x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)[:, :, None]


def weights(state: Weights, salt: int) -> Weights:
    """Filled tensors of the names and shapes of a state dict."""
    return {key: fill_tensor(key, item.shape, salt).double() for key, item in state.items()}


def main() -> None:
    from tests.parity.latte import build  # for the names and shapes of the weights only

    made = case()
    output = image(weights(build(made).state_dict(), made["salt"]), made).float().contiguous()
    save_file({"output": output}, Path(__file__).parent / "open_sora_plan" / f"{NAME}.safetensors")


if __name__ == "__main__":
    main()
