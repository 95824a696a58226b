"""Steps on a card: kernels of attention, compiled blocks, eight-bit weights, CUDA graphs, the benchmark."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from eval.performance import graphs, needs, published
from eval.performance.cases import step_row
from eval.performance.plan import Plan
from tests.gpu import card
from tests.gpu.card import MODELS, ON_CARD, distance, small
from tests.tiny_checkpoint import config_of, text_to_video_config
from videosys import PABConfig, TeaCacheConfig, VideoSysEngine
from videosys.generation.compile import blocks, check_compiler, compile_blocks, compile_report
from videosys.layers.attention import CrossAttention
from videosys.layers.backends import KERNELS, attend, check_attention
from videosys.layers.storage import dequantize, quantize, quantize_blocks, use_opaque_dequantize

pytestmark = ON_CARD
PROMPT = "a small red circle spins"
CACHES = {"teacache": TeaCacheConfig(0.3, (1.0, 0.0)), "pab": PABConfig()}
# batch, heads, queries, keys, width: within frames, over frames, to a text, over a clip
SHAPES = [(4, 4, 400, 400, 72), (2, 64, 15, 15, 72), (2, 4, 700, 21, 72), (1, 3, 600, 600, 96)]


def compiler() -> None:
    try:
        check_compiler(card.DEVICE)
    except ValueError as error:
        pytest.skip(str(error))


@torch.no_grad()
@pytest.mark.parametrize("is_biased", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("backend", KERNELS)
def test_every_kernel_of_attention_gives_the_same_numbers(backend, shape, is_biased):
    try:
        check_attention(backend, card.DEVICE, torch.bfloat16)
    except ValueError as error:
        pytest.skip(str(error))
    torch.manual_seed(0)
    batch, heads, queries, keys, width = shape
    q, k, v = (
        torch.randn(batch, n, heads, width, device=card.DEVICE, dtype=torch.bfloat16).transpose(1, 2)
        for n in (queries, keys, keys)
    )
    masked = torch.rand(batch, 1, 1, keys, device=card.DEVICE) < 0.3
    bias = torch.where(masked, -10000.0, 0.0).to(q.dtype) if is_biased else None
    exact = (part.double() for part in (q, k, v))
    want = attend(*exact, None if bias is None else bias.double(), "math")
    try:
        made = attend(q, k, v, bias, backend)
    except RuntimeError as error:
        if backend in ("flash", "efficient", "cudnn") and "No available kernel" in str(error):
            pytest.skip(f"{backend} does not serve this shape on this card")
        raise
    assert distance(made, want) < 1e-2


@torch.no_grad()
@pytest.mark.timeout(600)
@pytest.mark.parametrize("storage", ["auto", "float8_e4m3fn"])
@pytest.mark.parametrize("model", MODELS)
def test_compiled_blocks_give_the_same_numbers_for_texts_of_any_length(model, storage):
    compiler()
    subjects = [small(model, text=length).subject() for length in (5, 20, 33)]
    own = subjects[0].model
    if storage != "auto":
        quantize_blocks(own)
    plan = replace(small(model).plan, latent_size=tuple(subjects[0].latents.shape[2:]))
    conditions = [plan.condition(own, subject.prompt_embeds) for subject in subjects]
    subjects = [replace(subject, model=own, condition=each) for subject, each in zip(subjects, conditions)]
    wants = [subject.step() for subject in subjects]
    before = compile_report()
    compile_blocks(use_opaque_dequantize(own, card.DEVICE))
    for subject, want in zip(subjects, wants):
        assert distance(subject.step(), want) < 2e-2
    after = compile_report()
    assert after.graphs - before.graphs == len({type(block) for block in blocks(own)})
    assert after.graph_breaks == before.graph_breaks


@torch.no_grad()
def test_weights_of_eight_bits_come_back_as_on_a_cpu():
    weight = torch.randn(300, 200).bfloat16()
    quantized, scale = (part.to(card.DEVICE) for part in quantize(weight))
    assert torch.equal(dequantize(quantized, scale).cpu(), dequantize(*quantize(weight)))


@pytest.mark.parametrize("cache", CACHES)
def test_what_a_cache_keeps_in_the_memory_of_the_host_changes_nothing(checkpoint, cache):
    config = config_of(checkpoint, device=str(card.DEVICE))
    with VideoSysEngine(config, quiet=True) as engine:
        here = engine.generate(PROMPT, cache=CACHES[cache])
        away = engine.generate(PROMPT, cache=replace(CACHES[cache], device="cpu"))
    assert torch.equal(here.video[0], away.video[0])
    assert here.steps == away.steps


@pytest.mark.timeout(600)
@pytest.mark.parametrize("cache", CACHES)
def test_a_compiled_engine_makes_nearly_the_same_video(random_model, cache):
    compiler()
    config = text_to_video_config(*random_model, device=str(card.DEVICE))
    with (
        VideoSysEngine(config, quiet=True) as eager,
        VideoSysEngine(replace(config, compile="blocks"), quiet=True) as compiled,
    ):
        want, made = (engine.generate(PROMPT, cache=CACHES[cache]) for engine in (eager, compiled))
    assert [step.computed for step in want.steps] == [step.computed for step in made.steps]
    assert (want.video[0].float() - made.video[0].float()).abs().mean() < 3
    assert made.compiled.graph_breaks == 0


@pytest.mark.timeout(600)
@pytest.mark.parametrize("is_compiled", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_a_fixed_schedule_as_graphs(model, is_compiled):
    """`steps` itself compares each graph with the step that it was made of."""
    subject = small(model).subject()
    if is_compiled:
        compiler()
        compile_blocks(subject.model)
    runs = graphs.steps(subject)
    assert set(runs) == {"computed eager", "computed graph", "reused eager", "reused graph"}
    for run in runs.values():
        run()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("model", MODELS)
def test_the_benchmark_of_published_sizes_runs(model, monkeypatch):
    monkeypatch.setattr(published, "decoder", lambda *_: lambda: torch.zeros(1000, device=card.DEVICE) + 1)
    setting, plan = small(model), Plan(card.DEVICE, 1)
    setting = replace(
        setting, plan=replace(setting.plan, config=replace(setting.plan.config, num_inference_steps=6))
    )
    size = published.Published(setting, {"fast": 2}, needs.SMALL)
    (row,) = published.needs_of("toy", size, plan)
    assert row["floor_s"] > 0 < row["eager_s"]  # which is less is launches at this size
    assert row["step_mib"] > 0
    assert {row["step"] for row in published.kernels_of("toy", size, plan)} >= {"eager"}
    made = list(published.generations("toy", size, plan))
    assert [row["computed"] for row in made[:2]] == [6, 2]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["opensora-51x480x848", "latte-16x512x512", "v120-29x480x640"])
def test_the_floor_of_a_published_size_is_below_its_step(name):
    size = published.SIZES[name].setting
    setting, plan = replace(size, device=card.DEVICE), Plan(card.DEVICE, rounds=1, compile=False)
    row = step_row(setting, setting.subject(), plan)
    assert 0 < row["floor_s"] < row["eager_s"]


@torch.no_grad()
def test_the_peak_of_a_call_is_that_of_its_tensors():
    def run() -> None:
        for _ in range(3):
            torch.zeros(1 << 20, device=card.DEVICE) + 1  # two of these live at once

    assert 8 << 20 <= needs.peak(run, card.DEVICE) < 9 << 20


@torch.no_grad()
def test_texts_of_several_lengths_go_without_a_mask():
    torch.manual_seed(0)
    layer = CrossAttention(288, 4).to(card.DEVICE, torch.bfloat16).requires_grad_(False)
    x = torch.randn(2, 3, 50, 288, device=card.DEVICE, dtype=torch.bfloat16)
    texts = [torch.randn(1, n, 288, device=card.DEVICE, dtype=torch.bfloat16) for n in (7, 21)]
    runs = [layer.prepare(slice(i, i + 1), y) for i, y in enumerate(texts)]
    together = layer(x, runs)
    for i, y in enumerate(texts):
        alone = layer(x[i : i + 1], [layer.prepare(slice(0, 1), y)])
        assert distance(together[i : i + 1], alone) < 1e-2
