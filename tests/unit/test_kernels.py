"""Our Triton kernels, run by its interpreter on the CPU, against their formulas in float64."""

from __future__ import annotations

import math
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from eval.performance import operations
from eval.performance.plan import Plan
from tests.house.source import ROOT
from videosys.cache import teacache
from videosys.generation.compile import compile_blocks, compile_report
from videosys.layers import kernels
from videosys.layers.attention import SelfAttention
from videosys.layers.modulation import EPS
from videosys.layers.rope import RotaryEmbedding, rotary_table_3d, rotate_3d
from videosys.models.open_sora_plan.transformer import OpenSoraT2V, OpenSoraT2VConfig
from videosys.models.opensora.transformer import STDiT3, STDiT3Config
from videosys.models.pixart import layers as pixart
from videosys.models.pixart.latte_t2v import LatteT2V, LatteT2VConfig
from videosys.utils.triton import has_triton

TOLERANCE = {torch.float16: 1e-3, torch.bfloat16: 2e-2}  # the interpreter cuts off what bfloat16 rounds
HALF = torch.float16
needs_triton = pytest.mark.skipif(
    not has_triton(), reason="triton is missing or too old: pip install -e '.[triton]' (Linux only)"
)


@pytest.fixture
def interpreted(monkeypatch) -> None:
    """Kernels that take tensors of the CPU."""
    if torch.cuda.is_available():
        pytest.skip("there is a card here, for which kernels are compiled: tests/gpu runs them")
    from triton import language
    from triton.runtime import interpreter

    dot = interpreter.InterpreterBuilder.create_dot

    def wide(handle):
        if handle.dtype.scalar != language.bfloat16:
            return handle
        data = interpreter._convert_float(handle.data, language.bfloat16, language.float32, None)
        return interpreter.TensorHandle(data.view("float32"), language.float32)

    # It multiplies the bits of bfloat16 numbers as if they were whole numbers.
    monkeypatch.setattr(
        interpreter.InterpreterBuilder,
        "create_dot",
        lambda self, a, b, *more: dot(self, wide(a), wide(b), *more),
    )
    monkeypatch.setattr(kernels, "DEVICES", ("cpu",))


def distance(made: torch.Tensor, want: torch.Tensor) -> float:
    return float((made.double() - want).norm() / want.norm())


def normed(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight.double()


def turned(x: torch.Tensor, table) -> torch.Tensor:
    """Interleaved pairs of [B, T, ..., d]."""
    cos, sin = (part.double().view(-1, *[1] * (x.ndim - 3), x.shape[-1] // 2) for part in table)
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)


def attended(parts, weights, table, eps) -> torch.Tensor:
    q, k, v = (part.double() for part in parts)
    if weights:
        q, k = normed(q, weights[0], eps), normed(k, weights[1], eps)
    if table:
        q, k = turned(q, table), turned(k, table)
    q, k, v = (part.permute(0, 2, 3, 1, 4) for part in (q, k, v))
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    return (scores.softmax(-1) @ v).permute(0, 3, 1, 2, 4)


def layout(batch: int, frames: int, positions: int, heads: int, width: int, dtype=HALF):
    """Queries, keys and values as a layer for all three leaves them; norms' weights and a rotation."""
    torch.manual_seed(frames)
    parts = torch.randn(batch, frames, positions, 3, heads, width).to(dtype).unbind(3)
    weights = [torch.randn(width).to(dtype) for _ in range(2)]
    return parts, weights, RotaryEmbedding(width)(frames)


@needs_triton
@pytest.mark.parametrize("has_norm", [False, True], ids=["plain", "normed and turned"])
@pytest.mark.parametrize("frames", [1, 2, 15, 16, 17, 33, 64])
@pytest.mark.parametrize("width", [64, 72, 96])
def test_attention_over_few_frames(interpreted, frames, width, has_norm):
    parts, *more = layout(2, frames, 1, 2, width)
    more = more if has_norm else [(), ()]
    made = kernels.attend_frames(parts, *more, eps=EPS)
    assert made.shape == parts[0].shape
    assert made.is_contiguous()
    assert distance(made, attended(parts, *more, EPS)) < TOLERANCE[HALF]


@needs_triton
def test_attention_over_any_few_frames(interpreted):
    for frames in range(1, kernels.MOST_FRAMES + 1):
        parts, weights, table = layout(1, frames, 1, 1, 72)
        made = kernels.attend_frames(parts, weights, table, EPS)
        assert distance(made, attended(parts, weights, table, EPS)) < TOLERANCE[HALF]


@needs_triton
@pytest.mark.parametrize("sizes", [(1, 3, 5, 2), (3, 4, 2, 3)])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_attention_of_any_batch_and_layout(interpreted, sizes, dtype):
    parts, weights, table = layout(*sizes, 16, dtype)
    want = attended(parts, weights, table, EPS)
    apart = [part.contiguous() for part in parts]
    mixed = [parts[0], *apart[1:]]
    by_heads = [part.transpose(2, 3).contiguous().transpose(2, 3) for part in parts]
    for given in (parts, apart, mixed, by_heads):
        assert distance(kernels.attend_frames(given, weights, table, EPS), want) < TOLERANCE[dtype]


@needs_triton
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("width", [72, 64, 96])
def test_norms_and_rotation_of_queries_and_keys(interpreted, width, dtype):
    (q, k, _), weights, table = layout(2, 5, 1, 3, width, dtype)
    q, k = q[:, :, 0], k[:, :, 0]
    for given, turn in (((), lambda x: x), (table, lambda x: turned(x, table))):
        made = kernels.norm_rotate((q, k), weights, given, EPS, 1 if given else width // 2)
        for got, part, weight in zip(made, (q, k), weights):
            assert got.is_contiguous()
            assert distance(got, turn(normed(part.double(), weight, EPS))) < TOLERANCE[dtype]


@needs_triton
def test_rotation_in_three_axes(interpreted):
    torch.manual_seed(0)
    q, k = (torch.randn(2, 24, 3, 96).half() for _ in range(2))
    table = rotary_table_3d((2, 3, 4), (1.0, 2.0, 1.5), 96)
    for got, part in zip(kernels.norm_rotate((q, k), table=table, group=16), (q, k)):
        assert distance(got, rotate_3d(part.double(), table).double()) < TOLERANCE[HALF]


@needs_triton
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("width", [64, 1152])
@pytest.mark.parametrize("frames", [1, 3], ids=["shared", "by frame"])
def test_residual_gate_norm_and_modulation(interpreted, frames, width, dtype):
    torch.manual_seed(0)
    x, y = (torch.randn(2, 3, 4, width).to(dtype) for _ in range(2))
    shift, scale, gate = torch.randn(2, frames, 6, width).to(dtype).unsqueeze(2).unbind(3)[:3]

    def want(total: torch.Tensor) -> torch.Tensor:
        normed = torch.nn.functional.layer_norm(total.double(), (width,), eps=EPS)
        return normed * (1 + scale.double()) + shift.double()

    assert distance(kernels.modulate(x, shift, scale, EPS), want(x)) < TOLERANCE[dtype]
    for given, factor in ((None, 1.0), (gate, gate.double()), (gate.contiguous(), gate.double())):
        total, made = kernels.add_modulate(x, y, given, shift, scale, EPS)
        assert distance(total, x.double() + factor * y.double()) < TOLERANCE[dtype]
        assert distance(made, want(total)) < TOLERANCE[dtype]


@needs_triton
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shape", [(1, 2, 3, 8), (2, 3, 50, 64)])
def test_the_sums_that_teacache_decides_by(interpreted, shape, dtype, monkeypatch):
    torch.manual_seed(0)
    current, previous = (torch.randn(shape).to(dtype) for _ in range(2))
    want = teacache.l1_sums(current, previous)
    monkeypatch.setattr(teacache, "runs_triton", lambda device: True)
    for given in ((current, previous), (current.transpose(0, 1), previous.transpose(0, 1))):
        assert teacache.l1_sums(*given) == pytest.approx(want, rel=1e-14)
    current[0, 0, 0, 0] = float("nan")  # which computes the step
    assert math.isnan(teacache.l1_sums(current, previous)[0])


@needs_triton
@torch.no_grad()
def test_compilers_are_told_the_truth_about_the_operators(interpreted):
    (q, k, v), weights, table = layout(1, 2, 2, 2, 16)
    x, (shift, scale, gate) = torch.randn(1, 2, 2, 64).half(), torch.randn(3, 1, 1, 1, 64).half()
    table = list(table)
    for name, given in (
        ("attend_frames", (q, k, v, weights, table, EPS)),
        ("attend_frames", (q, k, v, [], [], 0.0)),
        ("attend_tiles", (*(part[:, :, 0].transpose(1, 2) for part in (q, k, v)), None)),
        ("norm_rotate", (q[:, :, 0], k[:, :, 0], weights, table, EPS, 1)),
        ("modulate", (x, shift, scale, EPS)),
        ("add_modulate", (x, x.clone(), gate, shift, scale, EPS)),
        ("add_modulate", (x, x.clone(), None, shift, scale, EPS)),
    ):
        tests = ("test_schema", "test_faketensor", "test_aot_dispatch_static")
        torch.library.opcheck(getattr(torch.ops.videosys, name).default, given, test_utils=tests)


def stdit3() -> STDiT3:
    return STDiT3(STDiT3Config(hidden_size=64, depth=1, num_heads=2, caption_channels=8, model_max_length=6))


def latte() -> LatteT2V:
    shape = {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 32, "cross_attention_dim": 64}
    return LatteT2V(LatteT2VConfig(**shape, caption_channels=8))


def open_sora_plan() -> OpenSoraT2V:
    shape = {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 48, "cross_attention_dim": 96}
    return OpenSoraT2V(OpenSoraT2VConfig(**shape, caption_channels=8))


# Which kernels a forward calls: temporal blocks attend over frames, norms are in blocks and head.
USED = {
    stdit3: {"attend_frames": 1, "attend_tiles": 2, "norm_rotate": 1, "modulate": 3, "add_modulate": 2},
    latte: {"attend_frames": 1, "attend_tiles": 1, "modulate": 3, "add_modulate": 2},
    open_sora_plan: {"attend_tiles": 1, "norm_rotate": 1, "modulate": 2, "add_modulate": 1},
}


def prepared(build):
    """A model in float16, and its forward of two frames."""
    torch.manual_seed(0)
    model = build().half().eval().requires_grad_(False)
    if build is stdit3:
        more = {"fps": 12.0, "height": 32, "width": 32}
    else:
        more = {}
    embeds, latents = torch.randn(2, 5, 8).half(), torch.randn(2, 4, 2, 4, 4)
    condition = model.prepare(embeds, latent_size=(2, 4, 4), **more)
    return model, lambda: model(latents, torch.tensor([500.0, 500.0]), condition)


@pytest.fixture
def calls(monkeypatch) -> dict[str, int]:
    """How often each kernel is asked for."""
    seen: dict[str, int] = {}

    def counted(name: str):
        run = getattr(kernels, name)

        def call(*args, **kwargs):
            seen[name] = seen.get(name, 0) + 1
            return run(*args, **kwargs)

        return call

    for name in kernels.SCHEMAS:
        monkeypatch.setattr(kernels, name, counted(name))
    return seen


def turn_on(model, monkeypatch):
    monkeypatch.setattr(kernels, "runs_triton", lambda device: True)
    return kernels.use_kernels(model, "auto", torch.device("cuda"))


@needs_triton
@torch.no_grad()
@pytest.mark.parametrize("build", USED)
def test_models_give_the_same_numbers_with_kernels(interpreted, build, calls, monkeypatch):
    model, forward = prepared(build)
    want = forward()
    assert not calls
    turn_on(model, monkeypatch)
    assert distance(forward(), want.double()) < 5e-3
    assert calls == USED[build]
    kernels.use_kernels(model, "none", torch.device("cuda"))
    assert torch.equal(forward(), want)


@needs_triton
@torch.no_grad()
@pytest.mark.parametrize("build", USED)
def test_the_benchmark_finds_every_kernel_of_a_step(interpreted, build, monkeypatch):
    model, forward = prepared(build)
    turn_on(model, monkeypatch)
    plan = Plan(torch.device("cpu"), rounds=1, compile=False)
    monkeypatch.setattr(operations, "CALLS", 1)
    rows = list(operations.operation_rows({"size": "toy"}, SimpleNamespace(step=forward), plan))
    found: dict[str, int] = {}
    for row in rows:
        found[row["operation"]] = found.get(row["operation"], 0) + row["calls"]
        assert row["difference"] < 5e-3
        assert row["kernel_over_bound"] == row["kernel_ms"] / row["bound_ms"] > 1
    assert found == USED[build]


def test_bounds_are_those_of_bytes_and_products():
    x = torch.empty(2, 15, 1590, 16, 72, dtype=HALF, device="meta")
    frames = operations.Operation(
        "attend_frames", torch.ops.videosys.attend_frames, (x, x, x, [], [], 0.0), {}
    )
    assert frames.bound == pytest.approx(8 * x.numel() / 3.35e12)
    tokens, weight = x.view(-1, 1152), x.new_empty(1152, 4608)
    inputs = (x.new_empty(4608), tokens, weight)
    gelu = operations.Operation(
        "_addmm_activation", torch.ops.aten._addmm_activation, inputs, {"use_gelu": True}
    )
    assert gelu.bound == pytest.approx(8 * len(tokens) * 1152**2 / 790e12)


@needs_triton
@torch.no_grad()
@pytest.mark.parametrize("build", USED)
def test_compiled_blocks_call_the_kernels(interpreted, build, monkeypatch):
    compiler, before = torch.compile, compile_report()
    monkeypatch.setattr(torch, "compile", lambda run, **_: compiler(run, backend="aot_eager", dynamic=False))
    model, forward = prepared(build)
    turn_on(model, monkeypatch)
    want = forward()
    compile_blocks(model)
    assert distance(forward(), want.double()) < 1e-3
    after = compile_report()
    assert (after.graphs > before.graphs, after.graph_breaks) == (True, before.graph_breaks)


def test_kernels_serve_what_they_were_written_for(monkeypatch):
    """Estimates run the models of cards on meta, by the same choice."""
    x = torch.empty(2, 15, 4, 1152, dtype=HALF, device="meta")
    assert kernels.serves_frames(x, 16)
    assert kernels.serves_frames(x.bfloat16(), 16)
    wide, many, empty = (
        x.new_empty(shape) for shape in ((2, 15, 4, 2304), (2, 65, 4, 1152), (0, 15, 4, 1152))
    )
    assert kernels.serves_frames(wide, 24)
    for other in (x.float(), many, empty, x.new_empty(2, 15, 1152), torch.empty(x.shape, dtype=HALF)):
        assert not kernels.serves_frames(other, 16)
    assert not kernels.serves_frames(wide, 16)  # 144 numbers a head
    assert not kernels.serves_frames(x.new_empty(2, 15, 4, 1120), 16)  # 70: rows of 140 bytes
    assert not kernels.serves_frames(x.requires_grad_(), 16)
    with torch.no_grad():
        assert kernels.serves_frames(x, 16)


def test_heads_and_vectors_that_do_not_fit_go_another_way():
    q = torch.empty(2, 5, 3, 72, dtype=HALF, device="meta")
    assert kernels.serves_heads(q, q)
    assert not kernels.serves_heads(q, q[:, :, :2])
    assert not kernels.serves_heads(q, q.clone().requires_grad_())
    x, vector = q.new_empty(2, 5, 3, 64), q.new_empty(2, 1, 1, 64)
    assert kernels.serves_modulation(x, vector, vector)
    assert kernels.serves_modulation(x, vector.expand(2, 5, 1, 64), vector.expand(2, 5, 1, 64))
    for shape in ((2, 3, 1, 64), (1, 1, 1, 64), (2, 1, 3, 64), (64,)):
        other = q.new_empty(shape)
        assert not kernels.serves_modulation(x, other, other)
    assert not kernels.serves_modulation(x, vector, vector.expand(2, 5, 1, 64))
    assert not kernels.serves_modulation(x[:, 0], vector, vector)


@pytest.mark.parametrize("layer", [SelfAttention(64, 2), pixart.SelfAttention(64, 2)])
def test_another_kernel_of_attention_is_left_to_do_its_work(layer):
    from videosys.layers.backends import takes_frames

    x = torch.empty(1, 3, 4, 64, dtype=HALF, device="meta")
    assert not takes_frames(layer, x)
    layer.uses_kernels = True
    assert takes_frames(layer, x)
    layer.attention_backend = "math"
    assert not takes_frames(layer, x)


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
def test_kernels_compile_for_a_card(capability, tmp_path, monkeypatch):
    """Ampere and Hopper, with the compiler that triton brings."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    command = [sys.executable, "-m", "tests.unit.compile_kernels", str(capability)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    made = [line.split() for line in done.stdout.splitlines()]
    assert len(made) == 12
    assert int(made.pop(5)[1]) <= 16  # with a bias, which is read number by number
    assert [name for name, narrow, size in made if int(narrow) or not int(size)] == []
