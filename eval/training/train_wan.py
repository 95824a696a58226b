"""Train the tiny Wan, a transformer of diffusers: `python -m eval.training.train wan --latents FOLDER ...`.

It learns a rectified flow on the latents of the tiny Open-Sora-Plan's autoencoder, with the frozen text
encoder of the tiny Open-Sora. Texts are padded with zeros, as in WanPipeline.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from eval.training.batches import CaptionedLatents
from eval.training.latents import HELD_OUT_SHARD
from eval.training.train_noise import P_NULL, Texts, signal_shares
from eval.training.train_transformer import ADAM_LR, HELD_OUT_BATCHES, Optimizers, draw_times
from eval.training.trainer import Stage, Trainer, add_run_options, say, settings_of
from eval.training.wan_start import fit_head, settle_norms, start_from
from videosys import CommandParser, resolve

SHIFT = 2.0  # shift of the drawn times towards noise, as in flow schedulers
TOKENS, MOST_TOKENS = 32, 512  # padded text lengths: in this project's calls, and WanPipeline's default
P_LONG = 0.12  # share of batches with texts of MOST_TOKENS
FIT_BATCHES = 16


class Batch(NamedTuple):
    """The arguments of the model and the target velocity."""

    noisy: Tensor
    timesteps: Tensor
    text: Tensor
    velocity: Tensor


class FlowBatches:
    """Random batches of a folder of latents, which depend only on the seed. `null` [D]: the empty prompt."""

    def __init__(self, data: CaptionedLatents, null: Tensor, size: int):
        self.data, self.null, self.size = data, null, size

    def __call__(self, seed: tuple[int, int]) -> Batch:
        rng = np.random.default_rng(seed)
        latents, text = self.data.batch(rng, self.size)
        times = draw_times(rng, self.size)
        times = SHIFT * times / (1 + (SHIFT - 1) * times)
        noise = torch.from_numpy(rng.standard_normal(latents.shape, dtype=np.float32))
        share = times.view(-1, 1, 1, 1, 1)
        null = torch.from_numpy(rng.random(self.size) < P_NULL)
        padded = self.padded(text.float(), null, MOST_TOKENS if rng.random() < P_LONG else TOKENS)
        return Batch((1 - share) * latents + share * noise, 1000 * times, padded, noise - latents)

    def padded(self, text: Tensor, null: Tensor, length: int) -> Tensor:
        """Pad texts [B, L, D] with zeros to [B, length, D]; where `null` [B] is true, use the empty
        prompt.
        """
        rows = text.new_zeros(len(text), length, text.shape[2])
        rows[~null, : text.shape[1]] = text[~null]
        rows[null, 0] = self.null
        return rows


def flow_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean squared error of the velocity."""
    # On a CPU, the backward of fused attention on short rows is several times slower than matrix products.
    # Blocks are compiled only for short texts.
    stance = torch.compiler.set_stance("default" if batch.text.shape[1] == TOKENS else "force_eager")
    with stance, sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", torch.bfloat16):
        predicted = model(*batch[:3], return_dict=False)[0]
    return (predicted.float() - batch.velocity).square().mean()


def build(config: Path, start: str | None, batches: FlowBatches) -> Any:
    """A model from a config.json, with blocks initialized to do nothing, or with the weights of `start`."""
    fields = json.loads(config.read_text(encoding="utf-8"))
    model: Any = WanTransformer3DModel.from_config(fields)
    if start is not None and is_wan(resolve(start)):
        model.load_state_dict(WanTransformer3DModel.from_pretrained(resolve(start)).state_dict())
        return model
    for block in model.blocks:
        nn.init.zeros_(block.scale_shift_table)
        nn.init.zeros_(block.attn2.to_out[0].weight)
    nn.init.zeros_(model.condition_embedder.time_proj.weight)
    nn.init.zeros_(model.proj_out.weight)
    if start is not None:
        start_from(model, resolve(start), signal_shares())
        settle_norms(model, lambda: flow_loss(model, batches((8, 0))))
        fit_head(model, ((b[:3], b.velocity) for b in (batches((8, i)) for i in range(FIT_BATCHES))))
    return model


def is_wan(folder: Path) -> bool:
    """Whether a folder has a WanTransformer3DModel."""
    fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return fields.get("_class_name") == WanTransformer3DModel.__name__


def export(folder: Path, model: Any, figure: float) -> None:
    """Write the transformer as bfloat16 for `WanTransformer3DModel.from_pretrained`."""
    other = type(model).from_config(model.config)
    other.load_state_dict(model.state_dict())
    other.bfloat16().save_pretrained(folder / "transformer")


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    torch.manual_seed(0)
    texts = Texts(str(resolve(args.text_encoder)))
    drawn = CaptionedLatents(args.latents, texts, factors=dict(args.more))
    data = FlowBatches(drawn, texts.null[0], args.batch_size)
    held = CaptionedLatents(args.latents, texts, numbers=[HELD_OUT_SHARD])
    held_out = FlowBatches(held, texts.null[0], args.batch_size)
    model = build(resolve(args.config) / "config.json", args.start, data)
    say(f"parameters: {sum(p.numel() for p in model.parameters())}; clips: {len(data.data.latents)}")
    if args.compile:
        model.compile_repeated_blocks()

    def figure(model: nn.Module) -> float:
        with torch.no_grad():
            losses = [float(flow_loss(model, held_out((7, i)))) for i in range(HELD_OUT_BATCHES)]
        return -sum(losses) / len(losses)

    stage = Stage(
        "wan",
        args.minutes,
        ADAM_LR * args.rate,
        nn.Module.parameters,
        lambda m, step: flow_loss(m, data((1, step))),
        figure,
        improved=partial(export, args.out / "export"),
        optimizer=Optimizers,
        steps=args.steps,
    )
    Trainer(model, args.out, decay=0.999, every=300.0, settings=settings_of(args)).run(stage)
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(prog="python -m eval.training.train wan", description=__doc__)
    add_run_options(parser, 16)
    parser.add_argument("--config", default="bundled:wan/transformer", help="folder of the config.json")
    parser.add_argument(
        "--start", help="folder of a trained Wan, or of a trained Open-Sora-Plan v1.2.0 of the same shape"
    )
    parser.add_argument(
        "--compile", action="store_true", help="compile the blocks: takes minutes, then training is faster"
    )
    return parser.parse_args(argv)
