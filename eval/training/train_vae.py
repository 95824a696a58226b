"""Train the tiny Open-Sora VAE on procedural clips: `python -m eval.training.train vae --out FOLDER`.

There are five stages, each with a budget in minutes:
1. spatial: the spatial stage on single frames, in pixels;
2. temporal: the temporal stage on 17-frame windows, in latents of the frozen spatial encoder (cheap);
3. joint: temporal stage and spatial decoder together, in pixels. Then both encoders, scale and shift are
   final and FOLDER/export is written, so a transformer can be trained on its latents;
4. decoder: only both decoders, in pixels; FOLDER/export is updated whenever the held-out PSNR improves;
5. images: the temporal encoder learns to encode a single image as the first frame of a clip.
After an interruption, the same command resumes. FOLDER/sheet.png shows held-out clips above their
reconstructions.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from eval.training.clips import FULL_FRAMES, render, sample_spec, to_uint8
from eval.training.factors import odds_of
from eval.training.trainer import Stage, Trainer, say, settings_of
from videosys import CommandParser, OpenSoraVAE, OpenSoraVAEConfig, save_model

M = TypeVar("M", bound=nn.Module)

CONFIG = OpenSoraVAEConfig(
    block_out_channels=(16, 32, 48, 48),
    layers_per_block=1,
    norm_num_groups=8,
    temporal_filters=16,
    num_res_blocks=1,
    channel_multipliers=(1, 1, 2, 2),
    num_groups=8,
    micro_batch_size=17,
)
WINDOW = CONFIG.micro_frame_size
POOL = 8  # candidates per clip if some are drawn more often
OBJECT_WEIGHT = (
    4.0  # extra weight of pixels of the object and its edge, because most of a frame is background
)
KL_SPATIAL, KL_LATENT, KL_PIXEL = 1e-4, 1e-3, 3e-4
HELD_OUT_CLIPS = 16
FRAMES_PER_STEP, WINDOWS_PER_STEP, LATENT_WINDOWS = 16, 4, 16
DECODED_PER_WINDOW = 4  # frames per window that a training step in pixels decodes


class Clips:
    """Training clips as uint8 [N, T, 64, 64, 3] and, once encoded, their spatial latents [N, 4, T, 8, 8].

    factors: how many times more often clips with a motion or shape are drawn.
    """

    def __init__(
        self,
        count: int,
        seed: int,
        held_out: bool | None = False,
        factors: Mapping[str, float] | None = None,
    ):
        rng = np.random.default_rng(seed)
        specs = [sample_spec(rng, held_out) for _ in range(POOL * count if factors else count)]
        if factors:
            odds = np.array([odds_of(spec, factors) for spec in specs])
            chosen = rng.choice(len(specs), size=count, replace=False, p=odds / odds.sum())
            specs = [specs[i] for i in chosen]
        self.frames = torch.stack([to_uint8(render(spec)) for spec in specs])
        self.latents = torch.empty(0)

    def pick(self, clips: Tensor, frames: Tensor) -> Tensor:
        """Float frames [*, 3, 64, 64] in [-1, 1]."""
        return self.frames[clips, frames].movedim(-1, -3) / 127.5 - 1

    def encode(self, vae: OpenSoraVAE) -> None:
        """Set `latents` to the means of the spatial stage, multiplied by the scaling factor."""
        every = torch.arange(FULL_FRAMES)
        with torch.no_grad():
            rows = [
                vae.encode_frames(self.pick(torch.tensor(i), every).movedim(1, 0)[None])
                for i in range(len(self.frames))
            ]
        self.latents = torch.cat(rows)

    def windows(self, step: int, count: int) -> tuple[Tensor, Tensor]:
        """(clips [count, 1], frames [count, 17]) of random windows, which depend only on `step`."""
        generator = torch.Generator().manual_seed(step)
        clips = torch.randint(len(self.frames), (count, 1), generator=generator)
        starts = torch.randint(FULL_FRAMES - WINDOW + 1, (count, 1), generator=generator)
        return clips, starts + torch.arange(WINDOW)

    def window_latents(self, clips: Tensor, frames: Tensor) -> Tensor:
        """[count, 4, 17, 8, 8]"""
        return self.latents.movedim(2, 1)[clips, frames].movedim(1, 2)


def pixel_loss(frames: Tensor, target: Tensor) -> Tensor:
    """Weighted mean of |e| + 2 e^2 over pixels [N, 3, H, W]; pixels of the object have a larger weight."""
    background = target[:, :, :1, :1]  # the corner is always background
    differs = ((target - background).abs().amax(1, keepdim=True) > 0.02).float()
    weight = 1 + OBJECT_WEIGHT * nn.functional.max_pool2d(differs, 3, stride=1, padding=1)
    error = (frames.float() - target).abs()
    return (weight * (error + 2 * error.square())).mean() / weight.mean()


def kl_divergence(moments: Tensor) -> Tensor:
    """Mean over the latents of KL(N(mean, exp(logvar)) || N(0, 1))."""
    mean, logvar = moments.float().chunk(2, dim=1)
    logvar = logvar.clamp(-30.0, 20.0)
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()


def posterior_sample(moments: Tensor, step: int) -> Tensor:
    """A sample of the posterior with moments [B, 2 C, ...], which depends only on the step."""
    mean, logvar = moments.chunk(2, dim=1)
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(step))
    return mean + torch.exp(0.5 * logvar.clamp(-30.0, 20.0)) * noise.to(mean)


def bfloat16_compute() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


class VAEStages:
    """Losses and evaluations of the stages on one set of clips."""

    def __init__(self, clips: Clips, held_out: Clips, export: Path):
        self.clips, self.held_out, self.export = clips, held_out, export

    def spatial_loss(self, vae: OpenSoraVAE, step: int) -> Tensor:
        generator = torch.Generator().manual_seed(step)
        clips = torch.randint(len(self.clips.frames), (FRAMES_PER_STEP,), generator=generator)
        frames = torch.randint(FULL_FRAMES, (FRAMES_PER_STEP,), generator=generator)
        target = self.clips.pick(clips, frames)
        with bfloat16_compute():
            moments = vae.spatial.encode(target).latent_dist.parameters.float()
            x = posterior_sample(moments, step)
            out = vae.spatial.decode(x).sample
        return pixel_loss(out, target) + KL_SPATIAL * kl_divergence(moments)

    def temporal_loss(self, vae: OpenSoraVAE, step: int) -> Tensor:
        target = self.clips.window_latents(*self.clips.windows(step, LATENT_WINDOWS))
        out, moments = temporal_pass(vae, target, step)
        error = (out - target).abs()
        return (error + error.square()).mean() + KL_LATENT * kl_divergence(moments)

    def joint_loss(self, vae: OpenSoraVAE, step: int) -> Tensor:
        clips, frames = self.clips.windows(step, WINDOWS_PER_STEP)
        latents = self.clips.window_latents(clips, frames)
        out, moments = temporal_pass(vae, latents, step)
        order = torch.rand(frames.shape, generator=torch.Generator().manual_seed(step)).argsort(1)
        places = order[:, :DECODED_PER_WINDOW]
        target = self.clips.pick(clips, frames.gather(1, places)).flatten(0, 1)
        x = out.movedim(2, 1)[torch.arange(len(places))[:, None], places].flatten(0, 1)
        with bfloat16_compute():
            decoded = vae.spatial.decode(x / vae.config.scaling_factor).sample
        error = (out - latents).abs().mean()
        return pixel_loss(decoded, target) + 0.1 * error + KL_PIXEL * kl_divergence(moments)

    def spatial_psnr(self, vae: OpenSoraVAE) -> float:
        """PSNR in dB of single frames through the spatial stage."""
        clips = torch.arange(HELD_OUT_CLIPS)[:, None]
        target = self.held_out.pick(clips, torch.arange(0, FULL_FRAMES, 8)).flatten(0, 1)
        with torch.no_grad():
            out = vae.spatial.decode(vae.spatial.encode(target).latent_dist.mode()).sample
        return psnr(out, target)

    def full_psnr(self, vae: OpenSoraVAE) -> float:
        """PSNR in dB of whole clips through both stages, with the weights as stored."""
        target, out = self.reconstruct(bfloat16_weights(vae))
        return psnr(out, target)

    def reconstruct(self, vae: OpenSoraVAE) -> tuple[Tensor, Tensor]:
        """Held-out clips and their reconstructions, [N, 3, T, H, W] each."""
        every = torch.arange(FULL_FRAMES)
        target = self.held_out.pick(torch.arange(HELD_OUT_CLIPS)[:, None], every).movedim(1, 2)
        with torch.no_grad():
            rows = [vae.decode(vae.encode(clip[None]), FULL_FRAMES) for clip in target]
        return target, torch.cat(rows)

    def write(self, vae: OpenSoraVAE, figure: float) -> None:
        """Write the export folder and a sheet of originals above reconstructions."""
        stored = bfloat16_weights(vae)
        save_model({k: v.to(torch.bfloat16) for k, v in stored.state_dict().items()}, vae.config, self.export)
        contact_sheet(*self.reconstruct(stored), self.export.parent / "sheet.png")
        say(f"exported to {self.export} at {figure:.2f} dB")


class ImageStage:
    """Trains the temporal encoder to encode a single image as the first frame of a clip.

    Group norms include the time axis, so an encoder trained only on clips encodes an image differently.
    Latents of clips do not change, because a frozen copy is the teacher; so a transformer trained on the old
    latents can be conditioned on images.
    """

    def __init__(self, vae: OpenSoraVAE, clips: Clips, held_out: Clips):
        self.teacher = copy.deepcopy(vae.temporal).requires_grad_(False)
        self.clips, self.held_out = clips, held_out
        held_out.encode(vae)

    def loss(self, vae: OpenSoraVAE, step: int) -> Tensor:
        window = self.clips.window_latents(*self.clips.windows(step, LATENT_WINDOWS))
        with torch.no_grad():
            wanted = self.teacher.encode(window)
        error = vae.temporal.encode(window) - wanted
        image_error = vae.temporal.encode(window[:, :, :1]) - wanted[:, :, :1]
        return torch.stack([e.abs().mean() + e.square().mean() for e in (error, image_error)]).sum()

    def figure(self, vae: OpenSoraVAE) -> float:
        """PSNR in dB of latents of single images against those of the clips that they start."""
        window = self.held_out.latents[:, :, :WINDOW]
        with torch.no_grad():
            wanted, _ = self.teacher.encode(window)[:, :, :1].chunk(2, dim=1)
            mean, _ = bfloat16_weights(vae).temporal.encode(window[:, :, :1]).chunk(2, dim=1)
        return float(10 * (wanted.var() / (mean - wanted).square().mean()).log10())


def temporal_pass(vae: OpenSoraVAE, latents: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """(latents that the temporal stage reconstructs from a posterior sample, the posterior's moments)."""
    with bfloat16_compute():
        moments = vae.temporal.encode(latents).float()
        z = posterior_sample(moments, step)
        return vae.temporal.decode(z, latents.shape[2]).float(), moments


def psnr(out: Tensor, target: Tensor) -> float:
    """Mean PSNR in dB of clips or frames, with values in 0 to 1."""
    error = ((out.clamp(-1, 1) - target) / 2).square().flatten(1).mean(1)
    return float((-10 * error.log10()).mean())


def bfloat16_weights(vae: M) -> M:
    """A float32 copy with weights rounded to bfloat16."""
    stored = copy.deepcopy(vae)
    stored.load_state_dict({key: value.to(torch.bfloat16).float() for key, value in vae.state_dict().items()})
    return stored


def contact_sheet(
    target: Tensor, out: Tensor, path: Path, frames: Sequence[int] = (0, 5, 11, 16, 17, 22, 28, 33)
) -> None:
    """Write a PNG with a row of frames per clip, and its reconstruction in the row below."""
    from PIL import Image

    rows = [
        to_uint8(clip)[list(frames)].permute(1, 0, 2, 3).flatten(1, 2)
        for pair in zip(target, out, strict=True)
        for clip in pair
    ]
    Image.fromarray(torch.cat(rows).numpy()).save(path)


def freeze_spatial(vae: OpenSoraVAE, stages: VAEStages) -> None:
    """Round the spatial encoder to its stored precision, and set the scaling factor for unit variance."""
    round_parameters(vae.spatial.encoder, vae.spatial.quant_conv)
    vae.config = replace(vae.config, scaling_factor=1.0)
    stages.clips.encode(vae)
    factor = float(f"{1 / stages.clips.latents.std().item():.5f}")
    vae.config = replace(vae.config, scaling_factor=factor)
    stages.clips.latents *= factor
    say(f"spatial latents: scaling factor {factor}, std per channel {channel_std(stages.clips.latents)}")


def freeze_temporal(vae: OpenSoraVAE, stages: VAEStages, count: int = 600) -> None:
    """Round the temporal encoder, and set scale and shift to standardize the latents per channel."""
    round_parameters(vae.temporal.encoder, vae.temporal.quant_conv)
    with torch.no_grad():
        halves = stages.clips.latents[:count].split(WINDOW, dim=2)
        z = torch.cat([vae.temporal.encode(x).chunk(2, dim=1)[0] for half in halves for x in half.split(50)])
    spread = z.std((0, 2, 3, 4), keepdim=True)
    vae.scale.copy_(spread.to(torch.bfloat16))
    vae.shift.copy_(z.mean((0, 2, 3, 4), keepdim=True).to(torch.bfloat16))
    shift, scale = vae.shift.flatten().tolist(), vae.scale.flatten().tolist()
    say(f"latents of {count} clips: shift {shift}, scale {scale}")


def channel_std(x: Tensor) -> list[float]:
    return [round(v, 3) for v in x.std((0, 2, 3, 4)).tolist()]


def round_parameters(*modules: nn.Module) -> None:
    """Round frozen parameters to bfloat16, as they will be stored."""
    with torch.no_grad():
        for module in modules:
            for parameter in module.parameters():
                parameter.copy_(parameter.to(torch.bfloat16))


def decoders(vae: OpenSoraVAE) -> list[nn.Parameter]:
    spatial, temporal = vae.spatial, vae.temporal
    modules = (spatial.decoder, spatial.post_quant_conv, temporal.decoder, temporal.post_quant_conv)
    return [parameter for module in modules for parameter in module.parameters()]


def temporal_encoder(vae: OpenSoraVAE) -> list[nn.Parameter]:
    return [*vae.temporal.encoder.parameters(), *vae.temporal.quant_conv.parameters()]


def spatial_decoder_and_temporal(vae: OpenSoraVAE) -> list[nn.Parameter]:
    modules = (vae.spatial.decoder, vae.spatial.post_quant_conv, vae.temporal)
    return [parameter for module in modules for parameter in module.parameters()]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(prog="python -m eval.training.train vae", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and the export")
    parser.add_argument("--spatial-minutes", type=float, default=9.0)
    parser.add_argument("--temporal-minutes", type=float, default=5.0)
    parser.add_argument("--joint-minutes", type=float, default=8.0)
    parser.add_argument("--decoder-minutes", type=float, default=40.0)
    parser.add_argument("--images-minutes", type=float, default=8.0)
    parser.add_argument(
        "--clips", type=int, default=2000, help="number of training clips, rendered once and kept in memory"
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    torch.manual_seed(args.seed)
    vae = OpenSoraVAE(CONFIG)
    say(f"parameters: {sum(p.numel() for p in vae.parameters())}")
    clips = Clips(args.clips, args.seed + 1)
    stages = VAEStages(
        clips, Clips(HELD_OUT_CLIPS, args.seed + 1_000_003, held_out=None), args.out / "export"
    )
    train(vae, stages, args)
    return 0


def train(vae: OpenSoraVAE, stages: VAEStages, args: argparse.Namespace) -> None:
    trainer = Trainer(vae, args.out, settings=settings_of(args))

    def stage(name, peak, parameters, loss, evaluate, **kwargs) -> None:
        minutes = getattr(args, f"{name}_minutes")
        trainer.run(Stage(name, minutes, peak, parameters, loss, evaluate, **kwargs))

    stage("spatial", 2e-3, lambda v: v.spatial.parameters(), stages.spatial_loss, stages.spatial_psnr)
    freeze_spatial(vae, stages)
    stage("temporal", 2e-3, lambda v: v.temporal.parameters(), stages.temporal_loss, stages.full_psnr)
    stage("joint", 1e-3, spatial_decoder_and_temporal, stages.joint_loss, stages.full_psnr)
    freeze_temporal(vae, stages)
    stage("decoder", 1e-3, decoders, stages.joint_loss, stages.full_psnr, improved=stages.write)
    images = ImageStage(vae, stages.clips, stages.held_out)
    stage("images", 1e-3, temporal_encoder, images.loss, images.figure, improved=stages.write)
