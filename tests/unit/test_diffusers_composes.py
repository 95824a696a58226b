"""`cached` beside what else changes a pipeline: offloading, compiled blocks, adapters, casting."""

from __future__ import annotations

import importlib.util
from typing import Any

import diffusers
import pytest
import torch
from diffusers.models.attention_dispatch import attention_backend

from tests.video_pipelines import case, generate
from videosys.cache import IntervalConfig, TeaCacheConfig
from videosys.diffusers import cached

CACHES = {"interval": IntervalConfig(every=2), "teacache": TeaCacheConfig(threshold=0.25)}


@pytest.fixture(autouse=True)
def active_backend():
    """Restores the attention backend of the process, which `set_attention_backend` changes too."""
    with attention_backend():
        yield


def group_offload(pipe: Any) -> None:
    device = torch.device("cpu")
    options = {"offload_type": "block_level", "num_blocks_per_group": 1}
    pipe.transformer.enable_group_offload(onload_device=device, offload_device=device, **options)


def leaf_offload(pipe: Any) -> None:
    device = torch.device("cpu")
    pipe.transformer.enable_group_offload(
        onload_device=device, offload_device=device, offload_type="leaf_level"
    )


def model_offload(pipe: Any) -> None:
    pipe.enable_model_cpu_offload(device="cpu")


def casting(pipe: Any) -> None:
    dtypes = {"storage_dtype": torch.float8_e4m3fn, "compute_dtype": torch.float32}
    pipe.transformer.enable_layerwise_casting(**dtypes)


def compiled_blocks(pipe: Any) -> None:
    pipe.transformer.compile_repeated_blocks(backend="eager", fullgraph=True)


def compiled_model(pipe: Any) -> None:
    pipe.transformer.compile(backend="eager")


def optimized_module(pipe: Any) -> None:
    pipe.transformer = torch.compile(pipe.transformer, backend="eager")


def native_attention(pipe: Any) -> None:
    pipe.transformer.set_attention_backend("native")


def plain_attention(pipe: Any) -> None:
    pipe.transformer.set_attention_backend("_native_math")


def quantized(pipe: Any) -> None:
    kinds = {torch.nn.Linear}
    torch.ao.quantization.quantize_dynamic(pipe.transformer.blocks, kinds, dtype=torch.qint8, inplace=True)


def adapter(pipe: Any) -> None:
    from peft import LoraConfig

    pipe.transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False))


CHANGES = {
    "group_offload": group_offload,
    "leaf_offload": leaf_offload,
    "model_offload": model_offload,
    "casting": casting,
    "compiled_blocks": compiled_blocks,
    "compiled_model": compiled_model,
    "optimized_module": optimized_module,
    "native_attention": native_attention,
    "plain_attention": plain_attention,
    "quantized": quantized,
    "adapter": adapter,
}
SAME = {"group_offload", "leaf_offload", "model_offload", "native_attention"}


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated")
@pytest.mark.parametrize("change", CHANGES)
def test_beside(change):
    if change == "adapter" and importlib.util.find_spec("peft") is None:
        pytest.skip("peft is not installed")
    (pipe, call), (other, _) = case("wan"), case("wan")
    CHANGES[change](pipe)
    plain = generate(pipe, call)
    with cached(pipe, cache=IntervalConfig(every=1)):
        assert torch.equal(generate(pipe, call), plain)
    for cache in CACHES.values():
        with cached(pipe, cache=cache) as run:
            got = [generate(pipe, call) for _ in range(2)]  # hooks are installed anew after each
        assert 2 < sum(step.computed for step in run.steps) < len(run.steps)
        assert torch.equal(*got)
        assert not torch.equal(got[0], plain)
        if change in SAME:
            with cached(other, cache=cache):
                assert torch.equal(got[0], generate(other, call))
    assert torch.equal(generate(pipe, call), plain)


@pytest.mark.parametrize("change", ["compiled_model", "optimized_module"])
def test_blocks_of_a_model_that_is_compiled_as_a_whole_cannot_be_used(change):
    pipe, _ = case("wan")
    CHANGES[change](pipe)
    with pytest.raises(ValueError, match=r"place 'stack' is not possible: WanTransformer3DModel is compiled"):
        cached(pipe, cache="interval", place="stack").__enter__()


def test_compiled_blocks_are_compiled_no_second_time():
    pipe, call = case("wan")
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    pipe.transformer.compile_repeated_blocks(backend=backend)
    generate(pipe, call)
    before = len(graphs)
    for _ in range(2):
        with cached(pipe, cache=TeaCacheConfig(threshold=0.25)):
            generate(pipe, call)
    assert before == len(graphs) > 0


def skipped_layer() -> Any:
    config = diffusers.LayerSkipConfig(indices=[1], fqn="transformer_blocks")
    options = {"skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 1.0}
    return diffusers.SkipLayerGuidance(guidance_scale=3.0, skip_layer_config=[config], **options)


def smoothed_energy() -> Any:
    config = diffusers.SmoothedEnergyGuidanceConfig(indices=[1], fqn="transformer_blocks")
    options = {"seg_guidance_start": 0.0, "seg_guidance_stop": 1.0}
    return diffusers.SmoothedEnergyGuidance(guidance_scale=3.0, seg_guidance_config=[config], **options)


@pytest.mark.parametrize("make", [skipped_layer, smoothed_energy])
@pytest.mark.parametrize("place", ["output", "stack"])
def test_beside_guiders(make, place):
    """Some of them register hooks on single blocks before each call of the model."""
    pipe, call = case("motif_video")
    pipe.guider = make()
    plain = generate(pipe, call)
    with cached(pipe, cache=IntervalConfig(every=1), place=place) as run:
        assert torch.equal(generate(pipe, call), plain)
    assert len(run.steps) == 11  # the first step has two calls, the others three
    with cached(pipe, cache=IntervalConfig(every=2), place=place) as run:
        assert not torch.equal(generate(pipe, call), plain)
    assert [step.computed for step in run.steps if step.step == 1].count(True) <= 1
    assert torch.equal(generate(pipe, call), plain)
