"""STDiT3 beside the goldens: what is computed once, what may not change a bit, and what is refused."""

from __future__ import annotations

import pytest
import torch

from tests.parity.stdit3 import prefix_mask
from videosys.cache import NO_CACHE, NoCacheConfig, ResidualCache, TeaCacheConfig, start
from videosys.layers.embeddings import position_embedding, sinusoid
from videosys.layers.rope import RotaryEmbedding, rotary_frequencies, rotate
from videosys.models.opensora.transformer import STDiT3, STDiT3Config, text_runs
from videosys.parallel import Parallel

SMALL = STDiT3Config(hidden_size=32, depth=2, num_heads=2, caption_channels=12, model_max_length=9)
SIZE = (5, 6, 8)
TIMESTEPS = torch.tensor([961.3, 240.7])


def build(config: STDiT3Config = SMALL) -> STDiT3:
    torch.manual_seed(0)
    return STDiT3(config).eval().requires_grad_(False)


def random(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def prepare(model: STDiT3, embeds: torch.Tensor, mask: torch.Tensor | None = None, **changes):
    return model.prepare(
        embeds, mask, **{"latent_size": SIZE, "fps": 12.0, "height": 48, "width": 64, **changes}
    )


MODEL = build()
EMBEDS = random(2, 9, 12)
LATENTS = random(2, 4, *SIZE, seed=2)


def forward(condition, latents=LATENTS, timesteps=TIMESTEPS, model=MODEL, **more) -> torch.Tensor:
    return model(latents, timesteps, condition, **more)


@pytest.mark.parametrize("kept", [None, [True, False, True, True, False]])
def test_no_cache_keeps_every_bit_of_a_forward_without_the_four_lines(kept):
    condition = prepare(MODEL, EMBEDS)
    frame_mask = None if kept is None else torch.tensor([kept, [True] * 5])
    x, time = MODEL.embed(LATENTS, TIMESTEPS, condition, frame_mask)
    plain = MODEL.head(MODEL.run_blocks(x, time, condition), time, condition)
    assert torch.isfinite(plain).all()
    for cache in (
        NO_CACHE,
        *(start(c, [1.0], Parallel().gather_rows) for c in (NoCacheConfig(), TeaCacheConfig())),
    ):
        cache.begin_step(0, 961.3)
        assert torch.equal(forward(condition, cache=cache, frame_mask=frame_mask), plain)


def test_a_skipped_step_runs_no_block_and_adds_the_residual(monkeypatch):
    condition = prepare(MODEL, EMBEDS)
    cache = ResidualCache([1.0, 0.5])
    cache.begin_step(0, 961.3)
    first = forward(condition, cache=cache)
    monkeypatch.setattr(cache, "should_compute", lambda signal: False)
    monkeypatch.setattr(MODEL, "run_blocks", None)
    torch.testing.assert_close(forward(condition, cache=cache), first, atol=1e-5, rtol=0)
    x, time = MODEL.embed(LATENTS, TIMESTEPS * 0.5, condition)
    expected = MODEL.head(x + cache.residual, time, condition)
    assert torch.equal(forward(condition, timesteps=TIMESTEPS * 0.5, cache=cache), expected)


@pytest.mark.parametrize("kind", ["modulated", "timestep"])
def test_the_signal_is_the_first_blocks_input_or_the_time(kind):
    condition = prepare(MODEL, EMBEDS)
    x, time = MODEL.embed(LATENTS, TIMESTEPS, condition)
    seen = []
    hook = MODEL.spatial_blocks[0].attn.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    MODEL.run_blocks(x, time, condition)
    hook.remove()
    signal = MODEL.signal(kind, x, time)
    assert torch.equal(signal.flatten(), seen[0].flatten() if kind == "modulated" else time.t.flatten())


def test_blocks_ask_the_cache_for_each_branch_in_order():
    asked = []

    class Watching(ResidualCache):
        def layer(self, stack, index):
            return lambda kind, compute: asked.append((stack, index, kind)) or compute()

    cache = Watching([1.0])
    assert torch.equal(forward(prepare(MODEL, EMBEDS), cache=cache), forward(prepare(MODEL, EMBEDS)))
    order = [(stack, i) for i in range(SMALL.depth) for stack in ("spatial", "temporal")]
    assert asked == [(stack, i, kind) for stack, i in order for kind in ("attention", "cross", "mlp")]


def test_text_and_position_are_computed_once_per_generation(monkeypatch):
    condition = prepare(MODEL, EMBEDS)
    expected = forward(condition)
    monkeypatch.setattr(MODEL.y_embedder, "forward", None)
    monkeypatch.setattr(MODEL.rope, "forward", None)
    monkeypatch.setattr(MODEL.fps_embedder, "forward", None)
    for block in [*MODEL.spatial_blocks, *MODEL.temporal_blocks]:
        monkeypatch.setattr(block.cross_attn.kv_linear, "forward", None)
    assert torch.equal(forward(condition), expected)


@pytest.mark.parametrize(
    "mask",
    [
        prefix_mask([7, 3], 9),
        prefix_mask([7, 3], 9).bool(),
        prefix_mask([7, 3], 9).float(),
        prefix_mask([7, 3], 9) * 5,
    ],
    ids=["int", "bool", "float", "weights"],
)
def test_any_kind_of_mask_means_zero_or_not(mask):
    plain = forward(prepare(MODEL, EMBEDS, prefix_mask([7, 3], 9)))
    assert torch.equal(forward(prepare(MODEL, EMBEDS, mask)), plain)


def test_a_mask_of_ones_is_no_mask():
    ones = torch.ones(2, 9, dtype=torch.int64)
    assert torch.equal(forward(prepare(MODEL, EMBEDS, ones)), forward(prepare(MODEL, EMBEDS)))


def test_a_smaller_mask_is_repeated_along_the_batch():
    small, pair = prefix_mask([4], 9), prefix_mask([4, 4], 9)
    assert torch.equal(forward(prepare(MODEL, EMBEDS, small)), forward(prepare(MODEL, EMBEDS, pair)))
    runs = text_runs(random(4, 9, 12), prefix_mask([4, 6], 9))
    assert [(rows, y.shape[1]) for rows, y in runs] == [
        (slice(i, i + 1), n) for i, n in enumerate([4, 6, 4, 6])
    ]


def test_a_mask_need_not_be_a_prefix():
    mask = torch.tensor([[0, 1, 1, 0, 0, 1, 0, 0, 1], [1, 0, 0, 0, 0, 0, 0, 0, 0]])
    taken = torch.zeros_like(EMBEDS)
    taken[0, :4], taken[1, :1] = EMBEDS[0, mask[0].bool()], EMBEDS[1, :1]
    moved = forward(prepare(MODEL, taken, prefix_mask([4, 1], 9)))
    assert torch.equal(forward(prepare(MODEL, EMBEDS, mask)), moved)


def test_what_the_mask_leaves_out_has_no_effect():
    mask, other = prefix_mask([7, 3], 9), EMBEDS.clone()
    other[0, 7:], other[1, 3:] = 1e4, -1e4
    assert torch.equal(forward(prepare(MODEL, other, mask)), forward(prepare(MODEL, EMBEDS, mask)))


@pytest.mark.parametrize("lengths", [[5, 5, 5], [5, 5, 2], [2, 9, 2], [1, 2, 3]])
def test_samples_of_any_text_length_do_not_meet(lengths):
    embeds, latents = random(3, 9, 12), random(3, 4, *SIZE, seed=5)
    timesteps, fps = torch.tensor([900.0, 500.0, 20.0]), torch.tensor([8.0, 12.0, 24.0])
    mask = prefix_mask(lengths, 9)
    together = forward(prepare(MODEL, embeds, mask, fps=fps), latents, timesteps)
    for i in range(3):
        one = slice(i, i + 1)
        alone = forward(prepare(MODEL, embeds[one], mask[one], fps=fps[one]), latents[one], timesteps[one])
        torch.testing.assert_close(together[one], alone, atol=2e-5, rtol=0)


@pytest.mark.parametrize("mask", [torch.zeros(2, 9), prefix_mask([9, 0], 9), torch.zeros(1, 9)])
def test_a_mask_that_keeps_nothing_is_refused(mask):
    with pytest.raises(ValueError, match="keeps no token of at least one prompt"):
        prepare(MODEL, EMBEDS, mask)


@pytest.mark.parametrize("shape", [(3, 9), (2, 8), (4, 9), (2, 10)])
def test_a_mask_of_another_shape_is_refused(shape):
    with pytest.raises(
        ValueError, match=rf"prompt_mask \({shape[0]}, {shape[1]}\) does not fit text \(2, 9, 12\)"
    ):
        prepare(MODEL, EMBEDS, torch.ones(shape))


def test_a_frame_mask_of_all_true_is_no_frame_mask():
    condition = prepare(MODEL, EMBEDS)
    all_true = torch.ones(2, 5, dtype=torch.bool)
    assert torch.equal(forward(condition, frame_mask=all_true), forward(condition))


def test_blocks_see_kept_frames_as_at_timestep_zero():
    condition, none_free = prepare(MODEL, EMBEDS), torch.zeros(2, 5, dtype=torch.bool)
    x, time = MODEL.embed(LATENTS, TIMESTEPS, condition, none_free)
    _, zero = MODEL.embed(LATENTS, torch.zeros(2), condition)
    kept = MODEL.run_blocks(x, time, condition)
    assert torch.equal(kept, MODEL.run_blocks(x, zero, condition))
    assert not torch.equal(kept, MODEL.run_blocks(x, time._replace(frame_mask=None), condition))


@pytest.mark.parametrize("size", [(4, 6, 8), (5, 5, 8), (5, 6, 7), (5, 8, 6)])
def test_latents_of_another_size_are_refused(size):
    with pytest.raises(ValueError, match=r"latents are .*, prepared for \(5, 6, 8\)"):
        forward(prepare(MODEL, EMBEDS), random(2, 4, *size))


def test_fps_may_be_a_number_or_one_per_sample():
    plain = forward(prepare(MODEL, EMBEDS, fps=12.0))
    for fps in (12, torch.tensor(12), torch.tensor([12.0])):
        assert torch.equal(forward(prepare(MODEL, EMBEDS, fps=fps)), plain)
    both = forward(prepare(MODEL, EMBEDS, fps=torch.tensor([12.0, 12.0])))
    torch.testing.assert_close(both, plain, atol=1e-5, rtol=0)
    assert not torch.equal(forward(prepare(MODEL, EMBEDS, fps=24.0)), plain)


def test_the_null_caption_is_cut_to_the_prompt():
    assert torch.equal(MODEL.null_caption(4), MODEL.y_embedder.y_embedding[:4])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_angles_are_float32_whatever_the_dtype_of_the_model(dtype):
    half = build().to(dtype)
    for whole, cast in zip(MODEL.rope(21), half.rope(21)):
        assert cast.dtype == torch.float32
        assert torch.equal(whole, cast)
    expected = MODEL._position(prepare(MODEL, EMBEDS).grid, 48, 64)
    assert expected.dtype == torch.float32
    assert torch.equal(prepare(half, EMBEDS).position, expected.to(dtype))
    times = torch.tensor([999.7, 999.2])  # bfloat16 has one value for both
    seen = []
    hook = half.t_embedder.mlp[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    half.t_embedder(times)
    hook.remove()
    assert torch.equal(seen[0], sinusoid(times, 256).to(dtype))
    assert not torch.equal(seen[0][0], seen[0][1])


# Largest difference as a share of the largest value; measured are 0.0085 and 0.0013.
@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.03), (torch.float16, 0.004)])
def test_half_precision_stays_near_float32(dtype, bound):
    half, frame_mask = build().to(dtype), torch.tensor([[False, True, True, True, True]] * 2)
    for mask in (None, frame_mask):
        whole = forward(prepare(MODEL, EMBEDS, prefix_mask([7, 3], 9)), frame_mask=mask)
        rounded = forward(prepare(half, EMBEDS, prefix_mask([7, 3], 9)), model=half, frame_mask=mask)
        assert rounded.dtype == torch.float32
        assert (rounded - whole).abs().max() <= bound * whole.abs().max()


def test_rotation_turns_each_pair_by_position_times_frequency():
    x, (cos, sin) = random(2, 6, 8), RotaryEmbedding(8)(6)
    turned = torch.view_as_complex(x.view(2, 6, 4, 2)) * torch.polar(
        torch.ones(6, 4), torch.outer(torch.arange(6.0), rotary_frequencies(8))
    )
    torch.testing.assert_close(rotate(x, (cos, sin)), torch.view_as_real(turned).flatten(-2))


def test_positions_are_the_same_share_of_the_picture_at_every_resolution():
    small = position_embedding(4, 6, 16, scale=1.0, base_size=5).view(4, 6, 16)
    large = position_embedding(8, 12, 16, scale=2.0, base_size=10).view(8, 12, 16)
    torch.testing.assert_close(large[::2, ::2], small)
    assert torch.equal(small[2, :, 8:], small[2, :1, 8:].expand(6, 8))  # the second half is the row's
    assert torch.equal(small[:, 3, :8], small[:1, 3, :8].expand(4, 8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 30, "num_heads": 4}, "hidden_size 30 must be num_heads"),
        ({"hidden_size": 36, "num_heads": 12}, "times an even number"),
        ({"hidden_size": 18, "num_heads": 3}, "multiple of 4"),
    ],
)
def test_impossible_configs_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        STDiT3Config(**changes)


def test_other_configs_work():
    config = STDiT3Config(
        hidden_size=16,
        depth=1,
        num_heads=2,
        caption_channels=12,
        qk_norm=False,
        pred_sigma=False,
        patch_size=(2, 2, 2),
    )
    model = build(config)
    assert not any("q_norm" in key for key in model.state_dict())
    assert forward(prepare(model, EMBEDS), model=model).shape == (2, 4, *SIZE)
