"""Train the tiny CausalVAE of both Open-Sora-Plan versions: `python -m eval.training.train causal_vae --out
FOLDER`.

It is initialized from the image autoencoder of the tiny Latte: convolutions are inflated to 3-D, with the
image weight in the newest frame (as for the published model). There are two stages, each with a budget in
minutes: the whole autoencoder on windows of 17 frames, after which encoder and latents are final and
FOLDER/export is written; then the decoder only. With --start, only the decoder of a trained one is trained.
"""

from __future__ import annotations

import argparse
import copy
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eval.training.clips import FULL_FRAMES
from eval.training.factors import add_factors
from eval.training.recipes import RECIPES, fold_statistics
from eval.training.train_vae import (
    HELD_OUT_CLIPS,
    Clips,
    bfloat16_compute,
    bfloat16_weights,
    contact_sheet,
    kl_divergence,
    pixel_loss,
    posterior_sample,
    psnr,
    round_parameters,
)
from eval.training.trainer import Stage, Trainer, say, settings_of
from videosys import CausalVAE, CommandParser, save_model
from videosys.models.open_sora_plan.autoencoder import V120

CONFIG = replace(
    V120,
    hidden_size=16,
    hidden_size_mult=(1, 2, 3, 3),
    num_res_blocks=1,
    norm_num_groups=8,
    decoder_resnet_blocks=("ResnetBlock2D", "ResnetBlock2D", "ResnetBlock3D", "ResnetBlock3D"),
    scaling_factor=1.0,
)
NUM_FRAMES = 33  # per clip
KL = 3e-4
WINDOW = (17, 2)  # frames per window, windows per step
STATISTICS_CLIPS = 100


@dataclass(frozen=True)
class Windows:
    """Random windows of training clips."""

    clips: Clips
    frames: int
    count: int

    def __call__(self, step: int) -> Tensor:
        """[count, 3, frames, 64, 64]"""
        generator = torch.Generator().manual_seed(step)
        clips = torch.randint(len(self.clips.frames), (self.count, 1), generator=generator)
        starts = torch.randint(FULL_FRAMES - self.frames + 1, (self.count, 1), generator=generator)
        return self.clips.pick(clips, starts + torch.arange(self.frames)).movedim(1, 2)


# Names of parts in the published autoencoders -> names in diffusers' image autoencoders.
RENAMED = (
    (r"mid\.block_1\.", "mid_block.resnets.0."),
    (r"mid\.block_2\.", "mid_block.resnets.1."),
    (r"mid\.attn_1\.norm\.", "mid_block.attentions.0.group_norm."),
    (r"mid\.attn_1\.([qkv])\.", r"mid_block.attentions.0.to_\1."),
    (r"mid\.attn_1\.proj_out\.", "mid_block.attentions.0.to_out.0."),
    (r"(down|up)\.(\d)\.block\.", r"\1_blocks.\2.resnets."),
    (r"(down|up)\.(\d)\.(down|up)sample\.", r"\1_blocks.\2.\3samplers.0.conv."),
    ("nin_shortcut", "conv_shortcut"),
    ("norm_out", "conv_norm_out"),
    (r"(\.conv)+\.(weight|bias)$", r".\2"),
    (r"samplers\.0\.", "samplers.0.conv."),
)


def image_key(key: str) -> str:
    """The key of the image autoencoder's parameter that initializes this one."""
    for pattern, replacement in RENAMED:
        key = re.sub(pattern, replacement, key)
    # Their decoders number levels from the lowest resolution.
    return re.sub(r"up_blocks\.(\d)", lambda match: f"up_blocks.{3 - int(match[1])}", key)


def inflate(vae: CausalVAE, image_vae: nn.Module) -> None:
    """Initialize every convolution with the image autoencoder's weight in its newest frame."""
    source = image_vae.state_dict()
    state = vae.state_dict()
    for key, value in state.items():
        begin = source[image_key(key)]
        value.zero_()
        if value.ndim == 5:
            value[:, :, -1] = begin.view(*value.shape[:2], *value.shape[3:])
        else:
            value.copy_(begin)


def per_image(x: Tensor) -> Tensor:
    return x.movedim(2, 1).flatten(0, 1)


def whole_loss(windows: Windows, vae: CausalVAE, step: int) -> Tensor:
    target = windows(step)
    with bfloat16_compute():
        moments = vae.moments(target).float()
        out = vae.frames(posterior_sample(moments, step))
    return pixel_loss(per_image(out), per_image(target)) + KL * kl_divergence(moments)


def decoder_loss(windows: Windows, vae: CausalVAE, step: int) -> Tensor:
    target = windows(step)
    with bfloat16_compute():
        with torch.no_grad():
            latents = vae.moments(target).float()[:, :4]
        out = vae.frames(latents)
    return pixel_loss(per_image(out), per_image(target))


class Evaluation:
    """Evaluates reconstructions of held-out clips, with the weights as stored."""

    def __init__(self, clips: Clips):
        every = torch.arange(NUM_FRAMES)
        self.target = clips.pick(torch.arange(HELD_OUT_CLIPS)[:, None], every).movedim(1, 2)

    def reconstruct(self, vae: CausalVAE) -> Tensor:
        stored = bfloat16_weights(vae)
        with torch.no_grad():
            rows = [stored.decode(stored.encode(clip[None]).mean, NUM_FRAMES) for clip in self.target]
        return torch.cat(rows)

    def figure(self, vae: Any) -> float:
        """PSNR in dB over whole clips."""
        return psnr(self.reconstruct(vae), self.target)

    def write(self, folder: Path, vae: CausalVAE, figure: float) -> None:
        """Write the export folder, and a sheet of originals above reconstructions."""
        state = {name: value.bfloat16() for name, value in vae.state_dict().items()}
        save_model(state, vae.config, folder / "export")
        shown = (0, 4, 9, 14, 18, 23, 28, 32)
        contact_sheet(self.target, self.reconstruct(vae), folder / "sheet.png", shown)
        say(f"exported at {figure:.2f} dB")


def freeze_encoder(vae: CausalVAE, clips: Clips) -> None:
    """Standardise the latents per channel, and round the encoder to its stored precision."""
    every = torch.arange(NUM_FRAMES)
    with torch.no_grad():
        latents = torch.cat(
            [
                vae.encode(clips.pick(torch.tensor([i]), every).movedim(0, 1)[None]).mean
                for i in range(STATISTICS_CLIPS)
            ]
        )
    axes = (0, 2, 3, 4)
    fold_statistics(vae, latents.mean(axes), latents.std(axes))
    round_parameters(vae.encoder, vae.quant_conv)
    say(f"latents: mean {latents.mean(axes).tolist()}, deviation {latents.std(axes).tolist()}")


def decoder_parameters(vae: CausalVAE) -> Iterable[nn.Parameter]:
    return [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(
        prog="python -m eval.training.train causal_vae", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and the export")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--image-vae", type=Path, help="folder of the latte_vae stage")
    source.add_argument("--start", type=Path, help="folder of a trained autoencoder, whose encoder is kept")
    parser.add_argument("--whole-minutes", type=float, default=20.0)
    parser.add_argument("--decoder-minutes", type=float, default=30.0)
    add_factors(parser)
    parser.add_argument("--clips", type=int, default=2000, help="number of training clips, kept in memory")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    torch.manual_seed(0)
    vae = CausalVAE(CONFIG)
    if args.start:
        vae.load_state_dict(RECIPES["open_sora_plan_v110"].load_vae(args.start).state_dict())
    else:
        inflate(vae, RECIPES["latte"].load_vae(args.image_vae))
    say(f"parameters: {sum(p.numel() for p in vae.parameters())}")
    clips = Clips(args.clips, 41, factors=dict(args.more))
    evaluation = Evaluation(Clips(HELD_OUT_CLIPS, 1_000_041, held_out=None))
    trainer = Trainer(vae, args.out, every=120.0, settings=settings_of(args))

    windows = Windows(clips, *WINDOW)

    def stage(name: str, minutes: float, loss: Callable, **options) -> Stage:
        options = {"peak": 3e-4, "parameters": nn.Module.parameters, **options}
        return Stage(
            name, minutes, loss=lambda m, step: loss(windows, m, step), evaluate=evaluation.figure, **options
        )

    if not args.start:
        trainer.run(stage("whole", args.whole_minutes, whole_loss))
        freeze_encoder(vae, clips)
    evaluation.write(args.out, vae, evaluation.figure(copy.deepcopy(vae)))
    trainer.run(
        stage(
            "decoder",
            args.decoder_minutes,
            decoder_loss,
            peak=6e-4,
            parameters=decoder_parameters,
            improved=lambda m, figure: evaluation.write(args.out, m, figure),
        )
    )
    return 0
