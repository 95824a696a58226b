"""Train a tiny transformer that predicts noise: `python -m eval.training.train noise --model NAME ...`.

It uses the frozen text encoder of the tiny Open-Sora. The loss is weighted like that of a velocity: the
content of a clip is determined at high noise, where a plain noise loss is almost constant. For the same
reason, the layers next to the latents compute in float32 and are initialized to the identity.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from eval.training.batches import CaptionedLatents
from eval.training.latents import HELD_OUT_SHARD
from eval.training.recipes import NOISE, RECIPES, Recipe
from eval.training.train_transformer import ADAM_LR, HELD_OUT_BATCHES, Optimizers
from eval.training.trainer import Stage, Trainer, add_run_options, say, settings_of
from videosys import CommandParser, T5Encoder, load_model, resolve, save_model
from videosys.layers.embeddings import sinusoid
from videosys.text_encoders.cleaning import clean_prompt

TRAIN_TIMESTEPS = 1000
HEAD_EPS = 1e-6  # epsilon of the norm before the head
MAX_TOKENS = 40  # more than any caption has
CONTENT = 1.2  # scale of the first tokens; positions have a scale of about 1
VELOCITY = 1000.0  # cap of the weight; below it the loss equals that of a velocity
FOCUSED = 0.8
FOCUS, FOCUS_WIDTH = 3.5, 1.1  # median, and deviation of the logarithm, of the noise-to-clip ratio
P_NULL = 0.1  # share of captions replaced by the empty prompt
TEXT_DTYPE = torch.float16  # for texts kept in memory


def signal_shares(beta_start: float = 1e-4, beta_end: float = 0.02) -> Tensor:
    """The clip's share of the variance of noisy latents [1000], for the published linear betas."""
    betas = torch.linspace(beta_start, beta_end, TRAIN_TIMESTEPS, dtype=torch.float64)
    return (1 - betas).cumprod(0).float()


def timestep_odds(shares: Tensor, focused: float = FOCUSED) -> np.ndarray:
    """Probability of each timestep in training: a share `focused` where noise is about FOCUS times the clip,
    the rest uniform. Positions and motions are determined there; at higher noise the loss is mostly
    irreducible.
    """
    if not 0 <= focused <= 1:
        raise ValueError(f"focused is {focused}; it must be from 0 to 1")
    log_sigma = ((1 - shares) / shares).log().div(2).double().numpy()
    bell = np.exp(-0.5 * ((log_sigma - np.log(FOCUS)) / FOCUS_WIDTH) ** 2) * np.gradient(log_sigma)
    return (1 - focused) / len(shares) + focused * bell / bell.sum()


class Texts:
    """Encodes captions with the frozen text encoder. `null` [40, D]: the empty prompt with its padding."""

    def __init__(self, source: str):
        self.encoder = T5Encoder.from_pretrained(source, max_length=MAX_TOKENS)
        self.null = self.encoder([""], padded=True)[0][0]

    @torch.no_grad()
    def __call__(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """The embeddings [L, D] of each caption, without padding. Captions of equal length are batched."""
        by_length: dict[int, list[tuple[str, list[int]]]] = defaultdict(list)
        for caption in dict.fromkeys(captions):
            ids = self.encoder.tokenize(clean_prompt(caption))
            by_length[len(ids)].append((caption, ids))
        embeddings: dict[str, Tensor] = {}
        for pairs in by_length.values():
            parts = torch.tensor([ids for _, ids in pairs]).split(256)
            rows = torch.cat([self.encoder.model(input_ids=part)[0] for part in parts])
            embeddings.update(zip((caption for caption, _ in pairs), rows.to(TEXT_DTYPE), strict=True))
        return embeddings


def begin(model: Any, recipe: Recipe) -> None:
    """Initialize the weights for training: blocks that do nothing, and a head whose output is
    sqrt(1 - share) * latents + sqrt(share) * v, where v (initially 0) comes from separate channels.

    This is the noise that corresponds to velocity v. The blocks learn v, which has the same scale at all
    timesteps. With a random head, gradients would be hundreds of times larger at high noise.
    """
    blocks = [part for name, part in model.named_modules() if "_blocks." in name and hasattr(part, "ff")]
    for block in blocks:
        nn.init.zeros_(block.scale_shift_table)
        if hasattr(block, "attn2"):
            nn.init.zeros_(block.attn2.to_out[0].weight)
    nn.init.zeros_(model.adaln_single.linear.weight)
    nn.init.zeros_(model.scale_shift_table)
    with torch.no_grad():
        weight, bias = model.pos_embed.proj.weight, model.pos_embed.proj.bias
        weight.copy_((CONTENT * nn.init.orthogonal_(weight.flatten(1).clone())).view_as(weight))
        # A constant besides the latents, because otherwise the head's norm would divide by their size.
        nn.init.normal_(bias, std=CONTENT)
        third = len(bias) // 3
        solve_time(model, slice(0, third), slice(third, 2 * third))
        solve_head(model, recipe, slice(0, third))


def solve_time(model: Any, through: slice, velocity: slice) -> None:
    """Set the time embedding so that it scales the head's channels `through` by sqrt(1 - share) and
    `velocity` by sqrt(share). The other channels stay random.
    """
    embedder = model.adaln_single.emb["timestep_embedder"]
    waves = sinusoid(torch.arange(TRAIN_TIMESTEPS), embedder.linear_1.in_features)
    features = nn.functional.silu(embedder.linear_1(waves))
    features = torch.cat((features, torch.ones(TRAIN_TIMESTEPS, 1)), dim=1).double()
    shares = signal_shares().double()
    wanted = torch.stack((1 - shares, shares), dim=1).sqrt() - 1
    ridge = 1e-6 * torch.eye(features.shape[1], dtype=torch.float64)
    solution = torch.linalg.solve(features.T @ features + ridge, features.T @ wanted).float()
    for channels, column in zip((through, velocity), solution.T, strict=True):
        embedder.linear_2.weight[channels] = column[:-1]
        embedder.linear_2.bias[channels] = column[-1]


def solve_head(model: Any, recipe: Recipe, through: slice) -> None:
    """Set the head to return the latents from the channels `through`, by least squares on random latents."""
    latents = torch.randn(64, 4, *recipe.latent_size)
    text = torch.zeros(64, 1, recipe.config.caption_channels)
    condition = model.prepare(text, latent_size=recipe.latent_size)
    x, *time = model.embed(latents, torch.full((64,), float(TRAIN_TIMESTEPS - 1)), condition)
    x = model.run_blocks(x, time[-1], condition)
    features = nn.functional.layer_norm(x, x.shape[-1:], eps=HEAD_EPS).flatten(0, 2)[:, through]
    wanted = rearrange(latents, "b c t (h ph) (w pw) -> (b t h w) (ph pw c)", ph=2, pw=2)
    # The time embedding also shifts these channels; weights with a sum of 0 cancel this.
    features = torch.cat((features, 1000 * torch.ones(1, features.shape[1])))
    features = torch.cat((features, torch.ones(len(features), 1)), dim=1)
    features[-1, -1] = 0
    wanted = torch.cat((wanted, torch.zeros(1, wanted.shape[1])))
    solution = torch.linalg.lstsq(features, wanted, driver="gelsd").solution
    nn.init.zeros_(model.proj_out.weight)
    nn.init.zeros_(model.proj_out.bias)
    rows = (torch.arange(4)[:, None] * recipe.config.out_channels + torch.arange(4)).flatten()
    model.proj_out.weight[rows, through] = solution[:-1].T
    model.proj_out.bias[rows] = solution[-1]


def predict(model: Any, noisy: Tensor, timesteps: Tensor, condition: Any) -> Tensor:
    """The predicted noise [B, 4, t, 8, 8]: the model's forward, with only the blocks in bfloat16."""
    x, *time = model.embed(noisy, timesteps, condition)
    # On a CPU, the backward of fused attention on short rows is several times slower than matrix products.
    with sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", torch.bfloat16):
        x = model.run_blocks(x, time[-1], condition)
    return model.head(x.float(), time[0], condition)[:, :4]


class NoiseLoss:
    """The loss of a batch: mean squared error of the noise, weighted by min(1 / signal share, cap).

    focused: see `timestep_odds`.
    """

    def __init__(self, recipe: Recipe, null: Tensor, batch_size: int, cap: float, focused: float = FOCUSED):
        self.recipe, self.null, self.batch_size, self.cap = recipe, null, batch_size, cap
        self.shares = signal_shares()
        self.odds = timestep_odds(self.shares, focused)

    def __call__(self, model: Any, data: CaptionedLatents, seed: tuple[int, int]) -> Tensor:
        rng = np.random.default_rng(seed)
        latents, text = data.batch(rng, self.batch_size)
        timesteps = torch.from_numpy(rng.choice(TRAIN_TIMESTEPS, size=len(latents), p=self.odds))
        noise = torch.from_numpy(rng.standard_normal(latents.shape, dtype=np.float32))
        share = self.shares[timesteps].view(-1, 1, 1, 1, 1)
        noisy = share.sqrt() * latents + (1 - share).sqrt() * noise
        condition = self.condition(model, text.float(), torch.from_numpy(rng.random(len(latents)) < P_NULL))
        error = (predict(model, noisy, timesteps, condition) - noise).square()
        return (error * (1 / share).clamp(max=self.cap)).mean()

    def condition(self, model: Any, text: Tensor, null: Tensor) -> Any:
        """The model's condition for texts [B, L, D], with some replaced by the empty prompt."""
        length = text.shape[1]
        embeds = torch.where(null[:, None, None], self.null[:length], text)
        mask = None
        if not self.recipe.reads_padding:
            mask = (~null[:, None] | (torch.arange(length) == 0)).long()
        return model.prepare(embeds, mask, latent_size=self.recipe.latent_size)


def export(folder: Path, recipe: Recipe, model: nn.Module, figure: float) -> None:
    """Write the transformer as bfloat16 in the published layout."""
    state = {name: value.bfloat16() for name, value in model.state_dict().items()}
    save_model(state, recipe.config, folder / "transformer")


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    torch.manual_seed(0)
    recipe, texts = RECIPES[args.model], Texts(str(resolve(args.text_encoder)))
    data = CaptionedLatents(args.latents, texts, factors=dict(args.more))
    held_out = CaptionedLatents(args.latents, texts, numbers=[HELD_OUT_SHARD])
    model = recipe.model(recipe.config)
    begin(model, recipe)
    if args.start:
        model.load_state_dict(load_model(recipe.model, recipe.config, args.start).state_dict())
    say(f"parameters: {sum(p.numel() for p in model.parameters())}; clips: {len(data.latents)}")
    batch_loss = NoiseLoss(recipe, texts.null, args.batch_size, args.cap, args.focused)
    judge = NoiseLoss(recipe, texts.null, args.batch_size, VELOCITY)  # independent of the training loss

    def figure(model: nn.Module) -> float:
        with torch.no_grad():
            losses = [float(judge(model, held_out, (7, i))) for i in range(2 * HELD_OUT_BATCHES)]
        return -sum(losses) / len(losses)

    stage = Stage(
        "noise",
        args.minutes,
        ADAM_LR * args.rate,
        nn.Module.parameters,
        lambda m, step: batch_loss(m, data, (1, step)),
        figure,
        improved=partial(export, args.out / "export", recipe),
        optimizer=Optimizers,
        steps=args.steps,
    )
    Trainer(model, args.out, decay=0.999, every=240.0, settings=settings_of(args)).run(stage)
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(prog="python -m eval.training.train noise", description=__doc__)
    parser.add_argument("--model", choices=NOISE, required=True)
    add_run_options(parser, 32)
    parser.add_argument("--start", type=Path, help="folder of a trained transformer to start from")
    parser.add_argument("--cap", type=float, default=VELOCITY, help="maximum weight of a step's loss")
    parser.add_argument(
        "--focused",
        type=float,
        default=FOCUSED,
        help="share of timesteps drawn where positions are determined",
    )
    return parser.parse_args(argv)
