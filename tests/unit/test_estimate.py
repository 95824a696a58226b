"""The estimate of memory and operations against what torch's allocator reports."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from eval.performance.models import Setting, models, with_transformer
from eval.performance.needs import peak_on_cpu as measured_peak
from tests.tiny_checkpoint import build_model, config_of, text_to_video_config
from videosys import STDiT3, VideoSysEngine
from videosys.cache import BestConfig, IntervalConfig, Linear, PABConfig, ScheduleConfig, TeaCacheConfig
from videosys.cache.forecast import MAX_RESIDUALS
from videosys.estimate import estimate
from videosys.estimate.__main__ import main
from videosys.estimate.blueprint import blueprint
from videosys.estimate.cache import branch_bytes, cache_settings, greediest
from videosys.estimate.cost import Estimator
from videosys.estimate.meter import Meter, has_amx, on_meta
from videosys.estimate.scores import score_bytes
from videosys.generation.parts import Part
from videosys.generation.request import make_jobs
from videosys.layers.backends import attend
from videosys.models import load_family_config as read
from videosys.parallel import Parallel, ParallelConfig

LARGE = {"height": 128, "width": 128, "num_frames": 17}  # activations, not small change, make the peak
SMALL_TEXT = 8


def near(value: float) -> object:
    return pytest.approx(value, rel=0.15)


def stages(config, **options):
    return {stage.name: stage for stage in estimate(config, **options).stages}


def bytes_of(module: nn.Module) -> int:
    tensors = {item.data_ptr(): item for item in module.state_dict().values()}
    return sum(item.nbytes for item in tensors.values())


@pytest.fixture
def made(random_model):
    name, folder = random_model
    return text_to_video_config(name, folder, height=192, width=128, num_frames=9)


@pytest.mark.parametrize("cache", ["none", "teacache", "interval", "easycache", "seacache"])
def test_opensora_needs_what_is_measured(checkpoint, cache):
    check_measured(config_of(checkpoint, **LARGE, cache=base_cache(cache)))


def base_cache(name):
    from videosys.cache import CACHES

    return TeaCacheConfig(threshold=0.1, coefficients=(1.0, 0.0)) if name == "teacache" else CACHES[name]()


def test_other_models_need_what_is_measured(made):
    check_measured(made)


@torch.no_grad()
def check_measured(config):
    """All weights, the denoising and the decoding of one video, against the allocator."""
    engine = VideoSysEngine(config, quiet=True)
    pipeline, jobs = engine.pipeline, make_jobs(["a red circle"], 7, 1)
    texts = pipeline.encode_texts(["a red circle"], config, quiet=True)
    length = max(int(mask.sum()) for _, mask in texts.values())
    want = stages(config, text_tokens=length)
    given = pipeline.denoising(jobs, texts, config)
    with pipeline.transformer.use() as model, pipeline.vae.use() as vae, pipeline.text_encoder.use() as text:
        assert want["text encoder"].weights == bytes_of(text.model)
        assert want["transformer"].weights == bytes_of(model)
        assert want["autoencoder"].weights == bytes_of(vae)
        made: list[torch.Tensor] = []
        peak = measured_peak(lambda: made.append(pipeline.denoise(given, config.cache, quiet=True)[0]))
        assert want["transformer"].peak == near(peak)
        peak = measured_peak(lambda: decoded(pipeline, made[0], config))
        assert want["autoencoder"].peak == near(peak)


def decoded(pipeline, latents, config):
    """The bytes of a micro-batch's frames, as a generation makes them."""
    return pipeline.decode(latents, config, quiet=True, continues=config.num_clips > 1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", models())
@torch.no_grad()
def test_a_step_of_the_middle_size_needs_what_is_measured(checkpoint, model, dtype):
    """With the feed-forward in chunks, the attention in pieces and frames read as they lie, as CPUs do."""
    setting = shallow(model, getattr(torch, dtype))
    subject = setting.subject()
    subject.step()  # kernels that are made once
    inputs = subject.latents.nbytes + subject.prompt_embeds.nbytes
    made = shallow_of(subject, setting, config_of(checkpoint, dtype=dtype))
    assert made.activations == pytest.approx(measured_peak(subject.step) + inputs, rel=0.05)
    assert made.weights == pytest.approx(bytes_of(subject.model), rel=1e-4)  # some are float32 as published
    linear = 2 * setting.tokens * 384 * 384 * (12 + 4)  # q, k, v, their projection, and the feed-forward
    assert made.flops > config_of(checkpoint).steps * linear


def shallow(model, *where):
    """A transformer of the middle size with one block of each stack."""
    setting = Setting.small(model, *where)
    return replace(setting, plan=with_transformer(setting.plan, setting.config.with_depth(1)))


def shallow_of(subject, setting, config):
    """What the estimate says of a subject, whose batch is a guided video."""
    return estimator_of(setting, config, 1).shallow_transformer(1)


def estimator_of(setting, config, depth):
    """The estimate of a benchmark's model with another depth."""
    parts = {name: getattr(setting.plan, name) for name in ("config", "family", "parts")}
    plan = replace(blueprint(config), **parts, latent_size=setting.size.latents)
    return Estimator(plan.with_depth(depth), config, setting.size.text)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", ["bmm", "math"])
@pytest.mark.parametrize("shape", [(8, 2, 128, 128, 32), (2, 2, 512, 40, 32), (1, 2, 600, 600, 48)])
@torch.no_grad()
def test_what_an_attention_makes_and_drops_is_known(shape, backend, dtype):
    batch, heads, queries, others, width = shape
    q, k = (torch.randn(batch, n, heads, width, dtype=dtype).transpose(1, 2) for n in (queries, others))
    made = attend(q, k, k, backend=backend)
    peak = measured_peak(lambda: attend(q, k, k, backend=backend))
    assert made.nbytes + score_bytes(q, k, backend) == pytest.approx(peak, rel=0.25)


def test_operations_are_those_of_the_formula():
    with Meter() as meter:
        nn.Linear(30, 50, device="meta")(torch.empty(4, 30, device="meta"))
        q = torch.empty(2, 3, 40, 8, device="meta")
        k = torch.empty(2, 3, 70, 8, device="meta")
        nn.functional.scaled_dot_product_attention(q, k, k)
    assert meter.flops == 2 * 4 * 30 * 50 + 4 * 2 * 3 * 40 * 70 * 8


def test_caches_are_counted(checkpoint):
    none, tea, pab = (
        stages(config_of(checkpoint, **LARGE, num_inference_steps=30, cache=cache))["transformer"]
        for cache in (base_cache("none"), TeaCacheConfig(coefficients=(1.0, 0.0)), PABConfig())
    )
    tokens = 2 * 5 * 8 * 8 * 32 * 4
    assert none.cache == 0
    assert tea.cache == 2 * tokens  # a residual and a signal
    assert pab.cache == 8 * tokens  # both attentions of two pairs
    assert none.peak < tea.peak < pab.peak


def test_the_settings_of_a_goal_are_looked_up(checkpoint):
    config = read("examples/opensora/tiny_calibrated.yaml", None, [])
    found = cache_settings(config, blueprint(config))
    assert isinstance(found, ScheduleConfig)
    assert found.computed is not None
    unknown = config_of(checkpoint, **LARGE, cache=BestConfig(speedup=2.0))  # no calibration is beside it
    cache = stages(unknown)["transformer"].cache
    assert cache == (MAX_RESIDUALS + 1) * 2 * 5 * 8 * 8 * 32 * 4  # and a signal
    assert greediest(PABConfig(speedup=2.0)) == PABConfig()
    assert greediest(IntervalConfig(speedup=2.0, device="cpu")).device == "cpu"


def test_residuals_of_a_forecast_are_counted(checkpoint):
    config = config_of(checkpoint, **LARGE, cache=IntervalConfig())
    one, two = (
        Estimator(blueprint(config), replace(config, cache=cache), SMALL_TEXT).shallow_transformer(1)
        for cache in (IntervalConfig(), IntervalConfig(forecast=Linear()))
    )
    residual = 2 * 5 * 8 * 8 * 32 * 4
    assert (one.cache, two.cache) == (residual, 2 * residual)
    assert two.peak == one.peak + residual


def test_branches_are_counted_for_the_blocks_that_keep_them(checkpoint):
    policy = PABConfig(spatial=None, temporal=None, cross=None, mlp_spatial=((0.5, 2, (0, 1)),))
    config = config_of(checkpoint, **LARGE, num_inference_steps=30, cache=policy)
    plan = blueprint(config).with_depth(28)
    model = on_meta(lambda: plan.transformer(1, Parallel()), torch.float32)
    assert branch_bytes(config, plan, model, 2) == 2 * 2 * 5 * 8 * 8 * 32 * 4


def test_the_published_sizes_are_known_without_a_file():
    config = read("examples/opensora/base.yaml", None, ["dtype=bfloat16", "device=cpu"])
    (text, transformer, vae), made = (made := estimate(config)).stages, made
    assert len(made.assumed) == 3
    assert text.weights == pytest.approx(4.76e9 * 2, rel=0.01)
    assert transformer.weights == pytest.approx(1.2e9 * 2, rel=0.02)
    assert transformer.text == pytest.approx(155e6, rel=0.05)
    assert transformer.flops == pytest.approx(30 * 113e12, rel=0.01)
    assert vae.flops == pytest.approx(242e12, rel=0.03)
    assert made.peak > text.weights + transformer.weights + vae.weights


CONVOLUTIONS = {  # channels in and out, [T,] H and W, kernel
    "columns": (32, 32, (5, 16, 16), 3),
    "columns of few channels": (4, 32, (3, 6, 6), 3),
    "no columns": (32, 64, (5, 16, 16), 1),
    "large": (64, 64, (9, 48, 48), 3),
    "frames": (64, 64, (64, 64), 3),
    "small frames": (32, 32, (16, 16), 3),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CONVOLUTIONS)
@torch.no_grad()
def test_what_kernels_of_a_cpu_copy_is_known(name, dtype):
    """oneDNN's 1 x 1 x 1 in bfloat16 needs more, but is nowhere near a peak."""
    channels, out, size, kernel = CONVOLUTIONS[name]
    if kernel == 1 and dtype != torch.float32:
        pytest.skip("not modelled")
    if has_amx() and dtype == torch.bfloat16 and math.prod(size) < 4096:
        pytest.skip("AMX kernels have scratch for each thread, more than tensors as small as these")
    made = {2: nn.Conv2d, 3: nn.Conv3d}[len(size)](channels, out, kernel, padding=kernel // 2, dtype=dtype)
    x = torch.randn(1, channels, *size, dtype=dtype)
    made(x)
    empty, nothing = copy.deepcopy(made).to("meta"), x.to("meta")
    with Meter(torch.device("cpu")) as meter:
        empty(nothing)
    assert meter.peak == near(measured_peak(lambda: made(x)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@torch.no_grad()
def test_small_clips_decode_in_what_is_said(random_model, dtype):
    name, folder = random_model
    config = text_to_video_config(name, folder, height=64, width=64, num_frames=5, dtype=dtype)
    check_decoding(config)


@pytest.mark.slow
@torch.no_grad()
def test_tiles_are_counted(checkpoint):
    check_decoding(config_of(checkpoint, **LARGE, enable_vae_tiling=True, vae_tile_sample_min_size=64))


def check_decoding(config):
    """The decoding of a micro-batch, until its frames are bytes, against the allocator."""
    pipeline, want = VideoSysEngine(config, quiet=True).pipeline, stages(config)["autoencoder"]
    z = torch.randn(config.batch_size, 4, *pipeline.latent_size(config))
    with pipeline.vae.use():
        decoded(pipeline, z, config)  # kernels that are made once
        assert want.peak == near(measured_peak(lambda: decoded(pipeline, z.clone(), config)))


class Painter(nn.Module):
    """An autoencoder whose own work needs nothing, so that turning frames into bytes makes the peak."""

    def decode(self, latents, num_frames, progress=None):
        return latents.new_zeros(len(latents), 3, num_frames, 96, 96)

    def encode(self, frames):
        return frames.new_zeros(1, 4, 1, 1, 1)


def with_painter(config):
    """The blueprint of a config with a painter for its autoencoder."""
    plan = blueprint(config)
    vae = Part(lambda config, parallel: Painter(), plan.parts.vae.config, None)
    return replace(plan, parts=replace(plan.parts, vae=vae))


@pytest.mark.parametrize("model", ["opensora", "latte"])
def test_frames_and_their_bytes_are_counted(model):
    config = read(f"examples/{model}/tiny.yaml", None, ["num_frames=34"])
    plan = with_painter(config)
    made = Estimator(plan, config).vae()
    latents = torch.zeros(1, 4, *plan.latent_size)
    peak = measured_peak(lambda: plan.decode(Painter(), latents))
    assert 3 * 34 * 96 * 96 * 3 * 4 < made.peak == pytest.approx(peak, rel=0.05)


def test_clips_that_wait_for_others_are_counted():
    one, three = (
        Estimator(with_painter(config), config).vae().peak
        for config in (
            read("examples/opensora/tiny.yaml", None, [f"loops={loops}", "num_frames=34"]) for loops in (1, 3)
        )
    )
    tail = 4 * 4  # what the painter gives the next clip to continue from
    assert three == one + 2 * 34 * 96 * 96 * 3 + tail


def test_slices_need_what_one_video_needs(checkpoint):
    one, two, sliced = (
        stages(config_of(checkpoint, **LARGE, **more))["autoencoder"].peak
        for more in ({}, {"batch_size": 2}, {"batch_size": 2, "enable_vae_slicing": True})
    )
    assert sliced == one + 17 * 128 * 128 * 3 < two  # the bytes of the first wait for the second


def test_weights_in_eight_bits_are_counted(checkpoint):
    config = config_of(checkpoint, **LARGE, storage_dtype="float8_e4m3fn", cache=base_cache("interval"))
    check_measured(config)
    text, transformer, _ = estimate(config).stages
    wide, whole, _ = estimate(replace(config, storage_dtype="auto")).stages
    assert transformer.weights < 0.6 * whole.weights
    assert text.total >= wide.weights  # it is read whole, and then made narrow


@pytest.mark.slow
def test_groups_and_stages_leave_weights_in_the_host(checkpoint):
    on_gpu = {"device": "cuda", "dtype": "float32"}
    none, stage, group = (
        estimate(config_of(checkpoint, **on_gpu, offload=how)) for how in ("none", "stage", "group")
    )
    weights = {made.name: made.weights for made in none.stages}
    assert (none.host, stage.host, group.host) == (0, sum(weights.values()), sum(weights.values()))
    assert stage.peak == max(made.weights + made.peak for made in none.stages)
    model = on_meta(lambda: STDiT3(build_model().config), torch.float32)
    layers = sum(
        item.nbytes for name, item in model.spatial_blocks[0].named_parameters() if "table" not in name
    )
    resident = {made.name: made.resident for made in group.stages}
    assert resident["transformer"] == weights["transformer"] - 2 * layers  # two of four blocks are away
    assert resident["text encoder"] == weights["text encoder"]  # which has one block
    assert resident["autoencoder"] == weights["autoencoder"]
    assert estimate(config_of(checkpoint, device="cpu", offload="stage")).host == 0


@pytest.mark.parametrize("cache", ["teacache", "interval", "pab"])
def test_a_cache_on_another_device_is_counted_there(checkpoint, cache):
    policy = PABConfig() if cache == "pab" else base_cache(cache)
    on_gpu = {**LARGE, "device": "cuda", "dtype": "float32", "num_inference_steps": 30}
    near_by, far = (
        stages(config_of(checkpoint, **on_gpu, cache=replace(policy, device=device)))["transformer"]
        for device in ("auto", "cpu")
    )
    assert (far.cache, far.host) == (0, near_by.cache)
    assert near_by.host == 0
    assert far.peak < near_by.peak
    here = stages(config_of(checkpoint, **{**on_gpu, "device": "cpu"}, cache=replace(policy, device="cpu")))
    assert here["transformer"].cache == near_by.cache


def test_devices_that_share_a_video_need_less_each(checkpoint):
    def peak(**changes):
        return stages(config_of(checkpoint, **LARGE, **changes))["transformer"].peak

    alone, halves, tokens = (
        peak(parallel=ParallelConfig(count, dp=1, cfg=cfg, sp=sp))
        for count, cfg, sp in ((1, 1, 1), (2, 2, 1), (4, 1, 4))
    )
    assert halves == pytest.approx(peak(guidance_scale=1.0), rel=0.02)
    assert 0.2 * alone < tokens < 0.5 * alone  # text, latents and the output are whole on each


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["device=foo"], "device is 'foo'"),
        (["device=meta"], "device is 'meta'"),
        (["--text-tokens", "0"], "text_tokens is 0; it must be 1 or more"),
    ],
)
def test_the_command_refuses_what_cannot_be(arguments, message, capsys):
    assert main(["--config", "examples/opensora/tiny.yaml", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_command_prints_a_table_and_json(capsys):
    tiny = ["--config", "examples/opensora/tiny.yaml"]
    assert main(tiny) == 0
    assert "transformer" in capsys.readouterr().out
    assert main([*tiny, "--json", "--text-tokens", "5"]) == 0
    read_back = json.loads(capsys.readouterr().out)
    assert [stage["name"] for stage in read_back["stages"]] == ["text encoder", "transformer", "autoencoder"]
    assert read_back["peak"] > 0


def test_a_wrong_file_is_one_error(capsys):
    assert main(["--config", "no/such.yaml"]) == 2
    assert "no/such.yaml" in capsys.readouterr().err
