"""Training of the tiny checkpoints that predict noise: where they start, the loss, and what is exported."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from eval.training import latents as shards
from eval.training import train_causal_vae, train_noise, train_vae
from eval.training.batches import CaptionedLatents
from eval.training.captions import caption_of
from eval.training.clips import ClipSpec, render, sample_spec
from eval.training.detect import detect
from eval.training.recipes import NOISE, RECIPES, fold_statistics
from eval.training.train_vae import Clips
from videosys.models.latte.autoencoder import LatteVAE, LatteVAEConfig
from videosys.models.open_sora_plan.autoencoder import CausalVAE
from videosys.schedulers import ddim
from videosys.utils.checkpoint import load_model, read_config, resolve

NAMES = sorted(NOISE)


@pytest.fixture(scope="module")
def texts():
    return train_noise.Texts(str(resolve("bundled:opensora")))


def small_image_vae() -> LatteVAE:
    torch.manual_seed(1)
    config = LatteVAEConfig(
        block_out_channels=(16, 32, 48, 48), layers_per_block=1, norm_num_groups=8, scaling_factor=1.0
    )
    return LatteVAE(config).eval().requires_grad_(False)


def begun(name: str):
    torch.manual_seed(0)
    recipe = RECIPES[name]
    model = recipe.model(recipe.config)
    train_noise.begin(model, recipe)
    return recipe, model.requires_grad_(False)


def test_the_shares_are_those_of_the_published_sampler():
    expected = ddim(50)._scheduler.alphas_cumprod
    assert torch.allclose(train_noise.signal_shares(), expected, rtol=1e-5)


def test_most_timesteps_are_drawn_where_places_and_motions_are_decided():
    shares = train_noise.signal_shares()
    odds = train_noise.timestep_odds(shares)
    sigma = ((1 - shares) / shares).sqrt().numpy()
    assert odds.sum() == pytest.approx(1)
    assert odds.min() > 0.19 / len(odds)  # none is left out
    assert train_noise.timestep_odds(shares, 0.0) == pytest.approx(np.full(1000, 0.001))
    middle = (sigma > 3.5 / np.exp(1.1)) & (sigma < 3.5 * np.exp(1.1))  # a deviation to either side
    assert odds[middle].sum() == pytest.approx(0.8 * 0.683 + 0.2 * middle.mean(), abs=0.01)


@pytest.mark.parametrize("focused", [-0.1, 1.1])
def test_a_share_of_timesteps_is_from_0_to_1(focused):
    with pytest.raises(ValueError, match=rf"focused is {focused};.*0 to 1"):
        train_noise.timestep_odds(train_noise.signal_shares(), focused)


@pytest.mark.parametrize("name", NAMES)
def test_training_starts_from_a_model_that_returns_its_input(name):
    recipe, model = begun(name)
    noisy = torch.randn(2, 4, *recipe.latent_size)
    condition = model.prepare(torch.randn(2, 5, 96), latent_size=recipe.latent_size)
    out = train_noise.predict(model, noisy, torch.tensor([999, 700]), condition)
    assert (out - noisy).square().mean() < 0.01 * noisy.square().mean()  # the norm of a token varies


@pytest.mark.parametrize("name", NAMES)
def test_training_computes_what_sampling_does(name):
    recipe, model = begun(name)
    torch.manual_seed(3)
    for parameter in model.parameters():
        parameter.add_(0.02 * torch.randn_like(parameter))
    noisy, times = torch.randn(2, 4, *recipe.latent_size), torch.tensor([40, 900])
    condition = model.prepare(torch.randn(2, 7, 96), latent_size=recipe.latent_size)
    expected = model(noisy, times, condition)[:, :4]
    out = train_noise.predict(model, noisy, times, condition)
    assert (out - expected).abs().max() < 0.02 * expected.abs().max()  # bfloat16 in the blocks


class Oracle(torch.nn.Module):
    """Knows the clips, and is wrong by a constant in the noise."""

    def __init__(self, latents: torch.Tensor, wrong_by: float):
        super().__init__()
        self.latents, self.wrong_by = latents, wrong_by
        self.shares = train_noise.signal_shares()

    def prepare(self, embeds, mask, latent_size):
        self.embeds, self.mask = embeds, mask
        return None

    def embed(self, noisy, timesteps, condition):
        return noisy, timesteps

    def run_blocks(self, x, timesteps, condition):
        return x

    def head(self, x, timesteps, condition):
        share = self.shares[timesteps].view(-1, 1, 1, 1, 1)
        return (x - share.sqrt() * self.latents) / (1 - share).sqrt() + self.wrong_by


@pytest.mark.parametrize(("cap", "wrong_by"), [(1.0, 0.0), (1.0, 0.5), (50.0, 0.5)])
def test_the_loss_weighs_the_error_by_the_share_of_the_signal(texts, cap, wrong_by):
    recipe = RECIPES["latte"]

    class Data:
        def batch(self, rng, size):
            return torch.full((size, 4, *recipe.latent_size), 0.25), torch.zeros(size, 6, 96)

    loss = train_noise.NoiseLoss(recipe, texts.null, 8, cap)
    found = float(loss(Oracle(torch.tensor(0.25), wrong_by), Data(), (1, 2)))
    drawn = np.random.default_rng((1, 2)).choice(1000, size=8, p=loss.odds)
    weights = (1 / train_noise.signal_shares()[drawn]).clamp(max=cap)
    assert found == pytest.approx(float(weights.mean()) * wrong_by**2, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_the_null_text_is_what_sampling_gives(texts, name):
    recipe = RECIPES[name]
    loss = train_noise.NoiseLoss(recipe, texts.null, 2, 1.0)
    model = Oracle(torch.tensor(0.0), 0.0)
    loss.condition(model, torch.ones(2, 6, 96), torch.tensor([True, False]))
    assert model.embeds[0].equal(texts.null[:6])
    assert model.embeds[1].equal(torch.ones(6, 96))
    if recipe.reads_padding:
        assert model.mask is None
    else:
        assert model.mask.tolist() == [[1, 0, 0, 0, 0, 0], [1] * 6]


def test_texts_are_those_of_the_encoder(texts):
    captions = [caption_of(sample_spec(np.random.default_rng(i)), i % 4) for i in range(6)]
    for caption, rows in texts(captions).items():
        embeds, mask = texts.encoder([caption])
        assert torch.allclose(rows.float(), embeds[0, : int(mask.sum())], atol=2e-3)


@pytest.mark.parametrize("name", NAMES)
def test_latents_fit_the_recipe_and_the_export_loads(name, tmp_path, texts, monkeypatch):
    recipe, model = begun(name)
    vae = small_image_vae()
    if recipe.vae is CausalVAE:
        causal = CausalVAE(train_causal_vae.CONFIG).requires_grad_(False)
        train_causal_vae.inflate(causal, vae)
        vae = causal
    monkeypatch.setattr(shards, "CLIPS_PER_SHARD", 1)
    shards.write_shard(
        lambda specs: recipe.encode(vae, torch.stack([recipe.frames(spec) for spec in specs])), tmp_path, 0
    )
    data = CaptionedLatents(tmp_path, texts)
    assert data.latents.shape == (1, 4, *recipe.latent_size)
    train_noise.export(tmp_path, recipe, model, 0.0)
    folder = tmp_path / "transformer"
    loaded = load_model(recipe.model, read_config(type(recipe.config), folder), folder)
    assert loaded.config == recipe.config
    assert loaded.proj_out.weight.equal(model.proj_out.weight.bfloat16().float())


def test_folding_makes_latents_standard_and_keeps_the_picture():
    vae = small_image_vae()
    frames = torch.stack([render(sample_spec(np.random.default_rng(i)))[:, ::11] for i in range(3)])
    latents = vae.encode(frames)
    before = vae.decode(latents, 4)
    axes = (0, 2, 3, 4)
    fold_statistics(vae, latents.mean(axes), latents.std(axes))
    folded = vae.encode(frames)
    assert torch.allclose(folded.mean(axes), torch.zeros(4), atol=1e-4)
    assert torch.allclose(folded.std(axes), torch.ones(4), atol=1e-3)
    assert torch.allclose(vae.decode(folded, 4), before, atol=1e-4)


def test_an_inflated_autoencoder_codes_a_first_frame_as_the_image_one_does():
    image_vae = small_image_vae()
    vae = CausalVAE(train_causal_vae.CONFIG).requires_grad_(False)
    train_causal_vae.inflate(vae, image_vae)
    frame = render(sample_spec(np.random.default_rng(5)))[None, :, :1]
    latents = vae.encode(frame).mean
    assert torch.allclose(latents, image_vae.encode(frame), atol=1e-4)


def test_pixels_of_chosen_shapes_are_drawn_more_often():
    clips = Clips(4, 5, factors={"cross": 1e9})
    assert {detect(frames).shape for frames in clips.frames} == {"cross"}


def test_a_trained_autoencoder_is_continued_with_its_encoder(tmp_path, monkeypatch):
    for module in (train_causal_vae, train_vae):
        monkeypatch.setattr(module, "HELD_OUT_CLIPS", 1)
    start = resolve("bundled:open_sora_plan/vae")
    budgets = ["--whole-minutes", "9", "--decoder-minutes", "0.01", "--clips", "2"]
    train_causal_vae.main(["--start", str(start), "--out", str(tmp_path), *budgets])
    recipe = RECIPES["open_sora_plan_v110"]
    before, after = (recipe.load_vae(folder).state_dict() for folder in (start, tmp_path / "export"))
    changed = {name.split(".")[0] for name, value in before.items() if not value.equal(after[name])}
    assert changed <= {"decoder", "post_quant_conv"}
    assert after.keys() == before.keys()


def test_a_window_is_the_same_for_the_same_step():
    class Stub:
        frames = torch.zeros(5, 34, 1, 1, 3)

        def pick(self, clips, frames):
            return (100.0 * clips + frames)[..., None, None, None].expand(-1, -1, 3, 1, 1)

    windows = train_causal_vae.Windows(Stub(), 17, 2)
    first = windows(3)
    assert first.shape == (2, 3, 17, 1, 1)
    assert first.equal(windows(3))
    assert (first[:, 0, 1:] - first[:, 0, :-1]).unique().tolist() == [1.0]
    assert replace(windows, frames=5)(3).shape[2] == 5


def test_shards_of_other_models_need_their_autoencoder(tmp_path):
    with pytest.raises(ValueError, match=r"config\.json"):
        shards.encoder("latte", tmp_path)


def test_the_held_out_shard_is_read_alone(tmp_path, texts, monkeypatch):
    monkeypatch.setattr(shards, "CLIPS_PER_SHARD", 2)
    for number in (0, shards.HELD_OUT_SHARD):
        shards.write_shard(lambda specs: torch.zeros(len(specs), 4, 1, 8, 8), tmp_path, number)
    read = partial(CaptionedLatents, tmp_path, texts)
    assert len(read().latents) == 2
    assert len(read(numbers=[shards.HELD_OUT_SHARD]).latents) == 2


def test_clips_with_a_factor_are_drawn_more_often(tmp_path, texts, monkeypatch):
    """Latents contain 1 for clips with a factor of 6 and 0 for the others."""
    specs = [ClipSpec("cross", "red", "white", "large", motion) for motion in ("spin", "grow", "still")]
    monkeypatch.setattr(shards, "training_spec", lambda rng: specs.pop(0))
    monkeypatch.setattr(shards, "CLIPS_PER_SHARD", 3)
    marked = [1.0, 0.0, 0.0]
    shards.write_shard(lambda specs: torch.tensor(marked).view(3, 1, 1, 1, 1), tmp_path, 0)

    def share(factors):
        data, rng = CaptionedLatents(tmp_path, texts, factors=factors), np.random.default_rng(0)
        return float(torch.cat([data.batch(rng, 40)[0] for _ in range(30)]).mean())

    assert share({}) == pytest.approx(1 / 3, abs=0.06)
    assert share({"spin": 6.0}) == pytest.approx(6 / 8, abs=0.06)
    assert share({"spin": 6.0, "cross": 2.0}) == pytest.approx(6 / 8, abs=0.06)
