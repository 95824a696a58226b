"""What pipelines share: frames as bytes, noise, devices, and parts that come and go."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from videosys.generation.config import resolve_dtype
from videosys.generation.offload import Component
from videosys.generation.request import batches, check_prompts, checksum, initial_noise, make_jobs, to_uint8
from videosys.utils.devices import parse_device, resolve_device
from videosys.utils.seed import generator

CPU = torch.device("cpu")


def test_every_level_comes_back():
    levels = torch.arange(256).float()
    frames = (levels / 127.5 - 1).expand(1, 3, 1, 1, 256)
    result = to_uint8(frames)
    assert result.shape == (1, 1, 1, 256, 3)
    assert torch.equal(result[0, 0, 0, :, 1].float(), levels)


def test_levels_are_rounded_half_up():
    values = torch.tensor([-1.0, (2 * 0.4999) / 255 - 1, 1 / 255 - 1, (2 * 127.4) / 255 - 1, 0.0, 1.0])
    assert to_uint8(values.view(1, 1, 1, 1, 6))[0, 0, 0, :, 0].tolist() == [0, 0, 1, 127, 128, 255]


@pytest.mark.parametrize(("value", "level"), [(-7.0, 0), (7.0, 255), (-float("inf"), 0), (float("inf"), 255)])
def test_levels_are_clamped(value, level):
    assert to_uint8(torch.full((1, 3, 1, 1, 1), value)).unique().tolist() == [level]


def test_half_precision_is_converted_in_float32():
    frames = torch.linspace(-1, 1, 4097).bfloat16().view(1, 1, 1, 1, -1)
    assert torch.equal(to_uint8(frames), to_uint8(frames.float()))


def test_channels_come_last_and_samples_first():
    frames = torch.arange(2 * 3 * 4 * 5 * 6).float().view(2, 3, 4, 5, 6) / 1000 - 1
    result = to_uint8(frames)
    assert result.shape == (2, 4, 5, 6, 3)
    assert result.is_contiguous()
    assert int(result[1, 2, 3, 4, 1]) == int((frames[1, 1, 2, 3, 4] + 1) / 2 * 255 + 0.5)


def test_noise_of_a_sample_is_its_own():
    both = initial_noise((4, 2, 3), [generator(5), generator(6)])
    assert torch.equal(both[1], torch.randn(4, 2, 3, generator=generator(6)))
    assert both.shape == (2, 4, 2, 3)
    assert checksum(both) != checksum(both.flip(0))
    assert checksum(both) == checksum(both.clone())
    assert 0 <= checksum(both) < 2**32


def test_jobs_and_batches():
    jobs = make_jobs(["a", "b"], 10, 2)
    assert [(job.prompt, job.seed) for job in jobs] == [("a", 10), ("a", 11), ("b", 10), ("b", 11)]
    assert list(batches([1, 2, 3, 4, 5], 2)) == [[1, 2], [3, 4], [5]]


def test_prompts_are_a_list():
    assert check_prompts("a") == ["a"]
    assert check_prompts(("a", "b")) == ["a", "b"]


def test_devices_and_dtypes():
    assert resolve_device("cpu") == CPU
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert parse_device("auto") == resolve_device("auto")
    assert parse_device("cuda:99") == torch.device("cuda:99")  # which no machine has
    assert resolve_dtype("auto", CPU) == torch.float32
    assert resolve_dtype("auto", torch.device("cuda")) == torch.bfloat16
    assert resolve_dtype("float16", CPU) == torch.float16


@pytest.mark.parametrize(("offload", "kept"), [("none", True), ("stage", False)])
def test_a_component_loads_when_used(offload, kept):
    loads = []
    part = Component(lambda: loads.append(1) or nn.Linear(1, 1), CPU, offload)
    assert not part.is_loaded
    for _ in range(2):
        with part.use() as module:
            assert isinstance(module, nn.Linear)
            assert part.is_loaded
        assert part.is_loaded is kept
    assert len(loads) == (1 if kept else 2)
    part.close()
    assert not part.is_loaded


def test_a_component_on_an_accelerator_is_parked_in_memory(monkeypatch):
    moves = []
    monkeypatch.setattr(nn.Module, "to", lambda self, device: moves.append(str(device)) or self)
    part = Component(lambda: nn.Linear(1, 1), torch.device("cuda"), "stage")
    for _ in range(2):
        with part.use():
            pass
        assert part.is_loaded
    assert moves == ["cpu", "cuda", "cpu"]


def test_a_component_that_cannot_be_loaded_stays_empty():
    part = Component(lambda: 1 / 0, CPU)
    with pytest.raises(ZeroDivisionError), part.use():
        pass
    assert not part.is_loaded


@pytest.mark.parametrize("offload", ["none", "stage"])
def test_threads_share_a_component_until_the_last_is_done(offload):
    loads, both = [], threading.Barrier(4, timeout=20)

    def load():
        loads.append(1)
        time.sleep(0.05)
        return nn.Linear(1, 1)

    part = Component(load, CPU, offload)

    def use(number):
        with part.use() as module:
            both.wait()
            if number:  # the first leaves while the others are at work
                both_left.wait()
            assert part.is_loaded
        if not number:
            assert part.is_loaded
            both_left.wait()
        return module

    both_left = threading.Barrier(4, timeout=20)
    with ThreadPoolExecutor(4) as pool:
        modules = list(pool.map(use, range(4)))
    assert len({id(module) for module in modules}) == len(loads) == 1
    assert part.is_loaded is (offload == "none")
