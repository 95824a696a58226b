"""Train the tiny STDiT3 and its T5 encoder jointly: `python -m eval.training.train transformer ...`.

Captions are processed as in sampling: suffix, double cleaning, tokenizer, and the null caption cut to the
prompt's length.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import T5Config, T5EncoderModel

from eval.training.batches import CaptionedLatents
from eval.training.clips import FPS
from eval.training.latents import HELD_OUT_SHARD
from eval.training.trainer import Stage, Trainer, say, settings_of
from videosys import CommandParser, STDiT3, STDiT3Config, save_model
from videosys.text_encoders.cleaning import prepare_prompt
from videosys.text_encoders.t5 import load_tokenizer

SIZE = 64
TEXT_WIDTH = 96
CONFIG = STDiT3Config(hidden_size=128, depth=4, num_heads=4, caption_channels=TEXT_WIDTH)
LATENT_FRAMES = (10, 5)  # two chunks, one chunk
P_SHORT = 0.35  # share of batches of one chunk
P_NULL = 0.1  # share of captions replaced by the null caption
P_MASKED = 0.15  # share of batches with conditioning frames
P_UNIFORM = 0.3  # share of uniform times; the others are logit-normal
ADAM_LR, MUON_LR = 1e-3, 2e-3
HAS_MUON = hasattr(torch.optim, "Muon")  # since torch 2.9; AdamW is used before
HELD_OUT_BATCHES = 12


class TinyModel(nn.Module):
    """The transformer and its jointly trained text encoder."""

    def __init__(self, vocab_size: int):
        super().__init__()
        self.transformer = STDiT3(CONFIG)
        self.text_encoder = T5EncoderModel(text_config(vocab_size))
        # Blocks start without text and with small gates, and the initial velocity is 0.
        layers: list[Any] = [self.transformer.t_block[1], self.transformer.final_layer.linear]
        blocks: list[Any] = [*self.transformer.spatial_blocks, *self.transformer.temporal_blocks]
        for layer in [*layers, *(block.cross_attn.proj for block in blocks)]:
            nn.init.zeros_(layer.weight)
        for block in blocks:
            nn.init.zeros_(block.scale_shift_table)

    def forward(
        self, noisy: Tensor, times: Tensor, ids: Tensor, null: Tensor, frame_mask: Tensor | None
    ) -> Tensor:
        """Velocity [B, 4, T, 8, 8] of noisy latents at `times` [B] in 0..1; ids [B, L], null [B] of bool."""
        model = self.transformer
        y = self.text_encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        y = torch.where(null[:, None, None], model.null_caption(ids.shape[1]), y)
        frames, rows, columns = noisy.shape[2:]
        size = frames, rows, columns
        condition = model.prepare(y, latent_size=size, fps=FPS, height=SIZE, width=SIZE)
        return model(noisy, 1000 * times, condition, frame_mask=frame_mask)[:, :4]


def text_config(vocab_size: int) -> T5Config:
    return T5Config(
        vocab_size=vocab_size,
        d_model=TEXT_WIDTH,
        d_kv=24,
        num_heads=4,
        d_ff=192,
        num_layers=2,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        decoder_start_token_id=0,
    )


def tokens(tokenizer: Any, captions: Sequence[str]) -> dict[str, Tensor]:
    """The token ids [L] of each caption."""
    return {
        caption: torch.tensor(tokenizer(prepare_prompt(caption))["input_ids"])
        for caption in dict.fromkeys(captions)
    }


def frame_mask(rng: np.random.Generator, batch: int, frames: int) -> Tensor:
    """bool [B, T], False for conditioning frames: the first one or few, the last one, or a random few."""
    mask = np.ones((batch, frames), dtype=bool)
    for row in mask:
        kind = rng.integers(4)
        if kind == 0:
            row[0] = False
        elif kind == 1:
            row[: frames // 2] = False
        elif kind == 2:
            row[-1] = False
        else:
            row[rng.random(frames) < 0.25] = False
    return torch.from_numpy(mask)


def draw_times(rng: np.random.Generator, batch: int) -> Tensor:
    normal = 1 / (1 + np.exp(-rng.standard_normal(batch)))
    times = np.where(rng.random(batch) < P_UNIFORM, rng.random(batch), normal)
    return torch.from_numpy(times.astype(np.float32))


def flow_loss(model: nn.Module, data: CaptionedLatents, seed: tuple[int, int], batch_size: int) -> Tensor:
    """Mean squared error of the velocity over the denoised frames."""
    rng = np.random.default_rng(seed)
    latents, ids = data.batch(rng, batch_size)
    latents = latents[:, :, : LATENT_FRAMES[int(rng.random() < P_SHORT)]]
    batch, _, frames = latents.shape[:3]
    times = draw_times(rng, batch)
    mask = frame_mask(rng, batch, frames) if rng.random() < P_MASKED else None
    noise = torch.from_numpy(rng.standard_normal(latents.shape, dtype=np.float32))
    share = times[:, None, None, None, None]
    free = torch.ones(batch, frames, dtype=torch.bool) if mask is None else mask
    where = free[:, None, :, None, None]
    noisy = torch.where(where, (1 - share) * latents + share * noise, latents)
    null = torch.from_numpy(rng.random(batch) < P_NULL)
    # On a CPU, the backward of fused attention on short rows is several times slower than matrix products.
    with sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", torch.bfloat16):
        velocity = model(noisy, times, ids, null, mask)
    error = (velocity.float() - (latents - noise)).square() * where
    return error.sum() / (where.sum() * error[0, :, 0].numel())


def held_out_figure(model: nn.Module, data: CaptionedLatents) -> float:
    """The negative loss on held-out clips, with the same noise every time."""
    with torch.no_grad():
        losses = [float(flow_loss(model, data, (7, i), 64)) for i in range(HELD_OUT_BATCHES)]
    return -sum(losses) / len(losses)


class Optimizers:
    """Muon for the blocks' matrices and AdamW for the rest, as one optimizer. `scale`: a group's factor on
    lr.
    """

    def __init__(self, model: nn.Module):
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        is_matrix = {
            name: HAS_MUON and p.ndim == 2 and "blocks." in name and "table" not in name for name, p in named
        }
        matrices = [p for name, p in named if is_matrix[name]]
        others = [p for name, p in named if not is_matrix[name]]
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, lr=ADAM_LR, betas=(0.9, 0.99), weight_decay=1e-4)
        ]
        if matrices:
            self.parts.append(
                torch.optim.Muon(matrices, lr=MUON_LR, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
            )
            self.parts[-1].param_groups[0]["scale"] = MUON_LR / ADAM_LR

    @property
    def param_groups(self) -> list[dict]:
        return [group for part in self.parts for group in part.param_groups]

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad()

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict:
        return {str(i): part.state_dict() for i, part in enumerate(self.parts)}

    def load_state_dict(self, state: dict) -> None:
        for i, part in enumerate(self.parts):
            part.load_state_dict(state[str(i)])


def export(folder: Path, tokenizer: Path, model: TinyModel, figure: float) -> None:
    """Write `transformer`, `text_encoder` and `tokenizer` as bfloat16 in the published layout."""
    exact = STDiT3.float32_parameters
    state = model.transformer.state_dict()
    save_model(
        {k: v if k in exact else v.bfloat16() for k, v in state.items()}, CONFIG, folder / "transformer"
    )
    encoder = T5EncoderModel(model.text_encoder.config)
    encoder.load_state_dict(model.text_encoder.state_dict())
    encoder.bfloat16().save_pretrained(folder / "text_encoder")
    shutil.copytree(tokenizer, folder / "tokenizer", dirs_exist_ok=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = CommandParser(prog="python -m eval.training.train transformer", description=__doc__)
    parser.add_argument("--latents", type=Path, required=True, help="folder of the latents stage")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and the export")
    parser.add_argument("--minutes", type=float, default=90.0)
    parser.add_argument("--batch-size", type=int, default=32)
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    tokenizer = load_tokenizer(args.tokenizer)
    data = CaptionedLatents(args.latents, partial(tokens, tokenizer))
    held_out = CaptionedLatents(args.latents, data.tokens, numbers=[HELD_OUT_SHARD])
    model = TinyModel(len(tokenizer))
    say(f"parameters: {sum(p.numel() for p in model.parameters())}; clips: {len(data.latents)}")
    stage = Stage(
        "transformer",
        args.minutes,
        ADAM_LR,
        lambda m: (p for n, p in m.named_parameters() if n != "transformer.rope.freqs"),
        lambda m, step: flow_loss(m, data, (1, step), args.batch_size),
        lambda m: held_out_figure(m, held_out),
        improved=partial(export, args.out / "export", args.tokenizer),
        optimizer=Optimizers,
    )
    Trainer(model, args.out, decay=0.999, every=240.0, settings=settings_of(args)).run(stage)
    return 0
