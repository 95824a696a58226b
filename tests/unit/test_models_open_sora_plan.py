"""OpenSoraT2V beside the goldens: masks, what is computed once, branches, shards, and what is refused."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace

import pytest
import torch

from videosys.cache import ResidualCache
from videosys.layers.rope import rotary_frequencies, rotary_table_3d, rotate_3d
from videosys.models.open_sora_plan.transformer import OpenSoraT2V, OpenSoraT2VConfig
from videosys.models.pixart.layers import visible_text
from videosys.parallel import Parallel

SMALL = OpenSoraT2VConfig(
    num_layers=2,
    num_attention_heads=3,
    attention_head_dim=12,
    cross_attention_dim=36,
    caption_channels=10,
    interpolation_scale_t=1.0,
    interpolation_scale_h=1.5,
    interpolation_scale_w=2.0,
)
SIZE = (3, 6, 10)  # 15 tokens per frame
TIMESTEPS = torch.tensor([961.3, 240.7])


def build(config: OpenSoraT2VConfig = SMALL, parallel: Parallel = Parallel()) -> OpenSoraT2V:
    torch.manual_seed(0)
    return OpenSoraT2V(config, parallel).eval().requires_grad_(False)


def random(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def prefix_mask(*lengths: int) -> torch.Tensor:
    return (torch.arange(9)[None] < torch.tensor(lengths)[:, None]).long()


MODEL = build()
EMBEDS = random(2, 9, 10)
LATENTS = random(2, 4, *SIZE, seed=2)


def prepare(mask=None, embeds=EMBEDS, model=MODEL, **more):
    return model.prepare(embeds, mask, **{"latent_size": SIZE, **more})


def forward(condition, latents=LATENTS, timesteps=TIMESTEPS, model=MODEL, **more) -> torch.Tensor:
    return model(latents, timesteps, condition, **more)


def test_nothing_masked_makes_no_mask_tensor_and_no_difference():
    plain, ones = prepare(), prepare(prefix_mask(9, 9), visible_mask=torch.ones(2, *SIZE))
    for condition in (plain, ones, prepare(prefix_mask(4, 4))):
        assert condition.layout.bias is None
        assert all(text.bias is None for (text,) in condition.text)
    assert torch.equal(forward(plain), forward(ones))


def test_tokens_that_no_prompt_keeps_are_not_computed():
    assert prepare(prefix_mask(4, 2)).text[0][0].k.shape[2] == 4
    kept = visible_text(EMBEDS, torch.tensor([[0, 1, 0, 0, 2, 0, 0, 0, 0]] * 2))[0]
    assert torch.equal(kept, EMBEDS[:, [1, 4]])


def test_what_the_text_mask_leaves_out_has_no_effect():
    other = EMBEDS.clone()
    other[0, 7:], other[1, 3:] = 50.0, -50.0
    mask = prefix_mask(7, 3)
    torch.testing.assert_close(forward(prepare(mask, other)), forward(prepare(mask)), atol=1e-5, rtol=0)
    assert not torch.allclose(forward(prepare(None, other)), forward(prepare()), atol=1e-3)


def test_prompts_of_other_lengths_do_not_meet():
    together = forward(prepare(prefix_mask(7, 3)))
    for i, mask in enumerate((prefix_mask(7), prefix_mask(3))):
        one = slice(i, i + 1)
        alone = forward(prepare(mask, EMBEDS[one]), LATENTS[one], TIMESTEPS[one])
        torch.testing.assert_close(together[one], alone, atol=1e-5, rtol=0)


def test_a_prompt_that_is_all_masked_sees_all():
    for lengths in ((0, 0), (0, 5)):
        masked = forward(prepare(prefix_mask(*lengths)))
        # The scores lose digits where 10000 is taken from all of them.
        torch.testing.assert_close(masked[0], forward(prepare())[0], atol=5e-3, rtol=0)
    assert torch.isfinite(masked).all()


def test_latents_that_are_not_visible_are_seen_by_no_other_token():
    visible = torch.ones(1, *SIZE)
    visible[:, 2], visible[:, :, :, 8:] = 0, 0
    other = LATENTS.clone()
    other[:, :, 2], other[..., 8:] = 7.0, -7.0
    condition = prepare(visible_mask=visible)
    seen, again = forward(condition), forward(condition, other)
    torch.testing.assert_close(seen[:, :, :2, :, :8], again[:, :, :2, :, :8], atol=1e-5, rtol=0)
    assert not torch.allclose(forward(prepare()), seen, atol=1e-3)


def test_a_patch_is_visible_when_one_of_its_latents_is():
    visible = torch.zeros(1, *SIZE)
    visible[..., ::2, 1::2] = 1
    assert prepare(visible_mask=visible).layout.bias is None


def test_the_blocks_ask_the_cache_for_each_branch_in_order():
    asked = []

    class Watching(ResidualCache):
        def layer(self, stack, index):
            return lambda kind, compute: asked.append((stack, index, kind)) or compute()

    assert torch.equal(forward(prepare(), cache=Watching([1.0])), forward(prepare()))
    kinds = ("attention", "cross", "mlp")
    assert asked == [("joint", i, kind) for i in range(SMALL.num_layers) for kind in kinds]


def test_a_kept_attention_takes_the_gate_of_the_step_it_is_used_in():
    x, _, t6 = MODEL.embed(LATENTS, TIMESTEPS, prepare())
    kept = random(*x.shape, seed=3)
    block = MODEL.transformer_blocks[0]

    def branch(kind, compute):
        return kept if kind == "attention" else torch.zeros_like(x)

    gate = block.scale_shift_table[2] + t6[:, 0, 2]
    out = block(x, t6, prepare().text[0], prepare().layout, branch)
    torch.testing.assert_close(out, x + gate[:, None, None] * kept)


@pytest.mark.parametrize("kind", ["modulated", "timestep"])
def test_the_signal_is_the_first_blocks_input_or_the_time(kind):
    condition = prepare()
    x, t, t6 = MODEL.embed(LATENTS, TIMESTEPS, condition)
    seen = []
    hook = MODEL.transformer_blocks[0].attn1.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    MODEL.run_blocks(x, t6, condition)
    hook.remove()
    assert torch.equal(MODEL.signal(kind, x, t, t6), seen[0] if kind == "modulated" else t)


def test_a_skipped_step_runs_no_block_and_adds_the_residual(monkeypatch):
    condition, cache = prepare(), ResidualCache([1.0, 0.5])
    cache.begin_step(0, 961.3)
    forward(condition, cache=cache)
    monkeypatch.setattr(cache, "should_compute", lambda signal: False)
    monkeypatch.setattr(MODEL, "run_blocks", None)
    x, t, _ = MODEL.embed(LATENTS, TIMESTEPS * 0.5, condition)
    expected = MODEL.head(x + cache.residual, t, condition)
    assert torch.equal(forward(condition, timesteps=TIMESTEPS * 0.5, cache=cache), expected)


def test_text_is_projected_once_per_generation(monkeypatch):
    condition = prepare(prefix_mask(7, 3))
    expected = forward(condition)
    monkeypatch.setattr(MODEL.caption_projection, "forward", None)
    for block in MODEL.transformer_blocks:
        monkeypatch.setattr(block.attn2.to_k, "forward", None)
        monkeypatch.setattr(block.attn2.to_v, "forward", None)
    assert torch.equal(forward(condition), expected)


@pytest.mark.parametrize("size", [(1, 6, 10), (3, 5, 9)])
def test_other_sizes_keep_theirs(size):
    visible = torch.ones(1, *size)
    visible[..., 6:] = 0
    condition = prepare(latent_size=size, visible_mask=visible)
    assert forward(condition, random(2, 4, *size)).shape == (2, 4, *size)


# Largest difference as a share of the largest value.
@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.04), (torch.float16, 0.005)])
def test_half_precision_stays_near_float32(dtype, bound):
    half, visible = build().to(dtype), torch.ones(1, *SIZE)
    visible[:, 2] = 0
    whole = forward(prepare(prefix_mask(7, 3), visible_mask=visible))
    condition = prepare(prefix_mask(7, 3), visible_mask=visible, model=half)
    assert condition.layout.rotary[0].dtype == torch.float32
    rounded = forward(condition, model=half)
    assert rounded.dtype == torch.float32
    assert (rounded - whole).abs().max() <= bound * whole.abs().max()


def test_rotation_turns_each_third_by_its_own_axis():
    size, scales, x = (2, 3, 4), (1.0, 1.5, 2.0), random(1, 24, 2, 12)
    turned = rotate_3d(x, rotary_table_3d(size, scales, 12))
    frequencies, token = rotary_frequencies(4), (1 * 3 + 2) * 4 + 3  # frame 1, row 2, column 3
    for third, position in enumerate((1 / 1.0, 2 / 1.5, 3 / 2.0)):
        pairs = x[0, token, 1, 4 * third : 4 * third + 4]
        expected = torch.complex(pairs[:2], pairs[2:]) * torch.polar(torch.ones(2), position * frequencies)
        actual = turned[0, token, 1, 4 * third : 4 * third + 4]
        torch.testing.assert_close(actual, torch.cat((expected.real, expected.imag)))


@pytest.mark.parametrize(
    ("changes", "scales"),
    [
        ({}, (1.0, 1.5, 2.0)),
        ({"interpolation_scale_h": None, "sample_size": (90, 160)}, (1.0, 3.0, 2.0)),
        ({"interpolation_scale_w": None, "sample_size": (60, 100)}, (1.0, 1.5, 2.5)),
        ({"interpolation_scale_t": None, "sample_size_t": 24}, (1.5, 1.5, 2.0)),
        ({"interpolation_scale_t": None, "sample_size_t": 33}, (3.0, 1.5, 2.0)),
    ],
)
def test_interpolation_scales_follow_from_the_sample_size_where_none_is_given(changes, scales):
    assert replace(SMALL, **changes).interpolation_scales == scales


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_rope": False}, "use_rope is False; only True is supported"),
        ({"downsampler": "k333"}, "downsampler is 'k333'; only None"),
        ({"norm_eps": 1e-5}, "norm_eps"),
        ({"attention_head_dim": 16, "cross_attention_dim": 48}, "16 must be a multiple of 6"),
        ({"cross_attention_dim": 48}, "cross_attention_dim 48 must be the width 36"),
        ({"interpolation_scale_h": 0.0}, "must be positive"),
    ],
)
def test_other_networks_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **changes)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"mask": torch.ones(2, 8)}, r"prompt_mask \[2, 8\] does not fit prompt_embeds \[2, 9, 10\]"),
        ({"mask": torch.ones(1, 9)}, r"prompt_mask \[1, 9\] does not fit"),
        ({"embeds": EMBEDS[:, None]}, r"prompt_embeds must be \[B, L, D\]"),
        ({"visible_mask": torch.ones(2, 3, 6, 9)}, r"visible_mask is \(2, 3, 6, 9\); it must be"),
        ({"visible_mask": torch.ones(3, 6, 10)}, r"visible_mask is \(3, 6, 10\); it must be"),
        ({"visible_mask": torch.ones(3, *SIZE)}, "B a divisor of 2"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(inputs, message):
    with pytest.raises(ValueError, match=message):
        prepare(**inputs)


@dataclass
class Board:
    """What the ranks of one process show each other."""

    world: int
    barrier: threading.Barrier = field(init=False)
    parts: list[torch.Tensor | None] = field(init=False)

    def __post_init__(self) -> None:
        self.barrier, self.parts = threading.Barrier(self.world, timeout=20), [None] * self.world

    def exchange(self, rank: int, part: torch.Tensor) -> list[torch.Tensor]:
        self.parts[rank] = part
        self.barrier.wait()
        seen = list(self.parts)
        self.barrier.wait()
        return seen


@dataclass(frozen=True)
class Threads(Parallel):
    """Ranks as threads, with uneven shards."""

    board: Board = field(default_factory=lambda: Board(1))
    rank: int = 0

    def shard(self, x, dim):
        return x.tensor_split(self.board.world, dim)[self.rank]

    def gather(self, x, dim, size):
        whole = torch.cat(self.board.exchange(self.rank, x), dim)
        assert whole.shape[dim] == size
        return whole

    def swap_all(self, tensors, gather, scatter, size):
        return [self.shard(self.gather(x, gather, size), scatter) for x in tensors]


@pytest.mark.parametrize("world", [2, 3, 4])  # of 15 tokens per frame and 3 heads: at 4 a rank has no head
def test_shards_of_tokens_give_what_one_device_gives(world):
    visible, board, results = torch.ones(2, *SIZE), Board(world), [None] * world
    visible[1, :, :, 6:] = 0
    expected = forward(prepare(prefix_mask(7, 3), visible_mask=visible))

    def work(rank: int) -> None:
        with torch.no_grad():
            model = models[rank]
            condition = prepare(prefix_mask(7, 3), visible_mask=visible, model=model)
            results[rank] = forward(condition, model=model)

    models = [build(parallel=Threads(board, rank)) for rank in range(world)]
    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)
