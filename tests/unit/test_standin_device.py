"""Models, autoencoders and whole generations on a stand-in for another device, which refuses tensors that
were left behind, and on Apple's every number in float64.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

from tests.distributed.models import Request, build, condition, latents
from tests.house.test_stateless import EXAMPLES
from tests.standin import Away, stand_in
from tests.tiny_checkpoint import CAUSAL, FRAMES, VAE, config_of, text_to_video_config
from tests.unit.test_cache_device import POLICIES, STEPS
from videosys import VideoSysEngine, psnr, ssim
from videosys.cache import start
from videosys.calibration.calibrate import calibrate
from videosys.calibration.collect import rms
from videosys.calibration.runs import error_db
from videosys.calibration.study import Study
from videosys.generation.denoise import Sampling, denoise
from videosys.layers.linear import multiply
from videosys.layers.tiling import FrameTiling, Tiling
from videosys.models.latte.autoencoder import TEMPORAL, LatteVAE
from videosys.models.open_sora_plan.autoencoder import V110, V120, CausalVAE
from videosys.models.opensora.autoencoder import OpenSoraVAE
from videosys.parallel import Parallel
from videosys.schedulers import ddim, euler_ancestral, pndm
from videosys.schedulers.flow import FlowSolver, shifted_grid
from videosys.schedulers.rflow import RFlowScheduler
from videosys.schedulers.solvers import DPMSolverConfig, SDEDPMSolverConfig, Training, UniPCConfig

KINDS = {"cuda": (), "mps": (torch.float64,)}
PROMPT = "a small red circle spins"
TILES = Tiling(16, 2, 5, 2, 0.25)
AUTOENCODERS: dict[str, Callable[[], Any]] = {
    "opensora": lambda: OpenSoraVAE(VAE),
    "opensora tiled": lambda: OpenSoraVAE(VAE, tiling=FrameTiling(24)),
    "latte": lambda: LatteVAE(FRAMES),
    "latte tiled": lambda: LatteVAE(FRAMES, tiling=FrameTiling(24)),
    "latte temporal": lambda: LatteVAE(dataclasses.replace(FRAMES, _class_name=TEMPORAL)),
    "v110": lambda: CausalVAE(dataclasses.replace(V110, **CAUSAL)),
    "v120 tiled": lambda: CausalVAE(dataclasses.replace(V120, **CAUSAL), tiling=TILES),
}


@pytest.fixture(params=KINDS)
def machine(request):
    with stand_in(request.param, KINDS[request.param]) as machine:
        yield machine


@pytest.fixture
def card():
    with stand_in() as machine:
        yield machine


@pytest.fixture
def mps():
    with stand_in("mps", KINDS["mps"]) as machine:
        yield machine


def test_it_refuses_what_the_device_would(machine):
    x = torch.ones(2, 3, device=machine.device)
    assert isinstance(x, Away)
    assert (x * torch.tensor(2.0)).device == machine.device  # a number may come from the host
    with pytest.raises(RuntimeError, match="same device"):
        x + torch.ones(2, 3)
    with pytest.raises(RuntimeError, match="same device"):
        multiply(torch.ones(2, 3), x, None, "none")
    with pytest.raises(RuntimeError, match="is for a CPU"):
        torch.ops.mkldnn._linear_pointwise(x, x, None, "none", [], "")
    with pytest.raises(TypeError):
        x.numpy()
    if machine.device.type == "mps":
        with pytest.raises(TypeError, match=r"has no torch\.float64"):
            x.double()
    assert machine.allocated == x.nbytes


def near(made: torch.Tensor, want: torch.Tensor) -> None:
    assert isinstance(made, Away)
    torch.testing.assert_close(made.cpu(), want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_model_that_is_built_there(name, machine):
    torch.manual_seed(0)
    _, forward = EXAMPLES[name]()
    want = forward()
    torch.manual_seed(0)
    with torch.device(machine.device):
        model, forward = EXAMPLES[name]()
        assert all(item.device == machine.device for item in model.state_dict().values())
        near(forward(), want)


class Inputs:
    """Runs a model's example with inputs of the CPU, and latents where the model is."""

    def __init__(self, model: nn.Module):
        self.model, self.conditions = model, []
        self.run, self.prepare = model.forward, model.prepare

    def __enter__(self) -> Inputs:
        self.model.forward = self.forward  # type: ignore[method-assign]
        self.model.prepare = self.prepared  # type: ignore[assignment]
        return self

    def __exit__(self, *_: Any) -> None:
        del self.model.forward, self.model.prepare

    def prepared(self, *inputs: Any, **options: Any) -> Any:
        self.conditions.append(self.prepare(*inputs, **options))
        return self.conditions[-1]

    def forward(self, latents: torch.Tensor, *inputs: Any, **options: Any) -> torch.Tensor:
        return self.run(latents.to(next(self.model.parameters()).device), *inputs, **options)


def tensors(tree: Any) -> Iterator[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        yield tree
    elif dataclasses.is_dataclass(tree):
        yield from tensors([getattr(tree, field.name) for field in dataclasses.fields(tree)])
    elif isinstance(tree, (list, tuple)):
        for item in tree:
            yield from tensors(item)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_model_that_is_moved_there_and_back(name, machine):
    """Texts, masks and timesteps may stay on the CPU: they go where the weights are."""
    torch.manual_seed(0)
    model, forward = EXAMPLES[name]()
    want = forward()
    with Inputs(model) as inputs:
        model.to(machine.device)
        near(forward(), want)
        kept = list(tensors(inputs.conditions))
        assert len(kept) > 5
        assert all(item.device == machine.device for item in kept)
        model.to("cpu")
        assert torch.equal(forward(), want)


@contextmanager
def default_device(device: torch.device) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_default_device_moves_no_table(name, machine):
    torch.manual_seed(0)
    model, forward = EXAMPLES[name]()
    model.eval()
    size = torch.tensor([500.0, 500.0])
    want = forward()
    with default_device(machine.device), Inputs(model) as inputs:
        made = forward()
    assert torch.equal(made, want)
    assert size.device.type == "cpu"
    assert all(item.device.type == "cpu" for item in tensors(inputs.conditions))


def rflow() -> RFlowScheduler:
    scheduler = RFlowScheduler()
    scheduler.set_timesteps(STEPS, num_frames=17)
    return scheduler


def noise() -> torch.Generator:
    return torch.Generator().manual_seed(3)


SAMPLERS: dict[str, tuple[str, Callable[[], Any]]] = {
    "rflow": ("opensora", rflow),
    "euler": ("opensora", lambda: FlowSolver(shifted_grid(STEPS, 3.0), 2)),
    "unipc of flow": ("opensora", lambda: UniPCConfig().build(STEPS, Training("flow", shift=3.0), None)),
    "ddim": ("latte", lambda: ddim(STEPS, eta=0.5, generator=noise())),
    "pndm": ("plan_v110", lambda: pndm(STEPS)),
    "euler_ancestral": ("plan_v120", lambda: euler_ancestral(STEPS, generator=noise())),
    "dpm++": ("latte", lambda: DPMSolverConfig(order=3).build(STEPS, Training("epsilon"), None)),
    "sde": ("latte", lambda: SDEDPMSolverConfig().build(STEPS, Training("epsilon"), noise())),
    "unipc": ("latte", lambda: UniPCConfig(grid="karras").build(STEPS, Training("epsilon"), None)),
}


@pytest.mark.parametrize(
    ("policy", "sampler"),
    [*((policy, "rflow") for policy in POLICIES), *(("teacache", name) for name in SAMPLERS)],
)
def test_the_default_device_moves_no_number_of_a_loop(policy, sampler, mps):
    name, make = SAMPLERS[sampler]
    request = Request(name)
    model, x = build(request, Parallel()), latents(request)
    prepared = condition(model, request, Parallel())
    cache = dataclasses.replace(POLICIES[policy], device="auto")

    def run() -> tuple[torch.Tensor, list[Any]]:
        scheduler = make()
        caching = start(cache, scheduler.times(), Parallel().gather_rows, 7)
        sampling = Sampling(5.0, noise())
        return denoise(model, scheduler, x, prepared, sampling, caching, Parallel()), caching.steps

    want, steps = run()
    with default_device(mps.device):
        made, same = run()
    assert torch.equal(made, want)
    assert same == steps


@pytest.mark.parametrize("name", AUTOENCODERS)
@torch.no_grad()
def test_an_autoencoder_that_is_moved_there(name, machine):
    torch.manual_seed(0)
    vae = AUTOENCODERS[name]().eval()
    frames = torch.randn(1, 3, 5, 32, 32)
    latents = torch.randn(1, 4, *vae.latent_size(5, 32, 32))
    want = vae.decode(latents, 5)
    moments = vae.encode(frames)
    vae.to(machine.device)
    assert all(item.device == machine.device for item in [*vae.parameters(), *vae.buffers()])
    near(vae.decode(latents.to(machine.device), 5), want)
    made = vae.encode(frames.to(machine.device))
    near(*(getattr(item, "mean", item) if name.startswith("v1") else item for item in (made, moments)))


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_an_autoencoder_that_is_built_there(name, card):
    with torch.device(card.device):
        vae = AUTOENCODERS[name]().eval()
        latents = torch.randn(1, 4, *vae.latent_size(5, 32, 32))
        assert vae.decode(latents, 5).device == card.device
    assert all(item.device == card.device for item in [*vae.parameters(), *vae.buffers()])


def videos(machine, config, **request):
    """A video of the device, and the same of the CPU."""
    made = []
    for device in (machine.device.type, "cpu"):
        with VideoSysEngine(
            dataclasses.replace(config, device=device, dtype="float32"), quiet=True
        ) as engine:
            made.append(engine.generate(PROMPT, **request))
    return made


def check(made, want) -> None:
    assert [step.computed for step in made.steps] == [step.computed for step in want.steps]
    assert [step.reused for step in made.steps] == [step.reused for step in want.steps]
    assert (made.video[0].int() - want.video[0].int()).abs().max() <= 2


@pytest.mark.parametrize("policy", ["teacache", "schedule", "pab"])
def test_a_generation_of_opensora(policy, mps, checkpoint):
    config = config_of(checkpoint, num_frames=17, num_inference_steps=6)
    check(*videos(mps, config, cache=POLICIES[policy]))


@pytest.mark.parametrize("policy", ["teacache", "interval", "pab"])
def test_a_generation_of_the_others(policy, mps, random_model):
    """Each with the sampler of its model."""
    config = text_to_video_config(*random_model, num_frames=1, num_inference_steps=5)
    check(*videos(mps, config, cache=dataclasses.replace(POLICIES[policy], device="auto")))


def test_what_is_measured_of_videos_and_latents(machine):
    noise = torch.Generator().manual_seed(0)
    a, b = (torch.rand(3, 32, 48, 3, generator=noise) for _ in range(2))
    for metric in (psnr, ssim):
        made = metric(a, b, machine.device)
        assert type(made) is torch.Tensor
        torch.testing.assert_close(made, metric(a, b), atol=1e-9, rtol=0)
    there = [item.to(machine.device) for item in (a, b)]
    assert error_db(*there) == pytest.approx(error_db(a, b))
    assert rms(there[0]).tolist() == pytest.approx(rms(a).tolist())


@pytest.mark.slow
@pytest.mark.parametrize("held_out", [0, 1])
def test_a_calibration(held_out, mps, checkpoint, tmp_path):
    """Also with the device as default device. Recorded runs are read from files to the host. Which solvers
    are tried may depend on rounding.
    """
    config = config_of(checkpoint, num_frames=1, num_inference_steps=5, dtype="float32")
    studies = [
        Study(dataclasses.replace(config, device=device), [PROMPT], [PROMPT] * held_out, tmp_path / device)
        for device in ("mps", "cpu")
    ]
    with default_device(mps.device):
        made = {row.name: row.result for row in calibrate(studies[0], [3], 0).rows if not row.config}
    want = {row.name: row.result for row in calibrate(studies[1], [3], 0).rows if not row.config}
    assert made.keys() == want.keys() >= {"schedule joint"}
    for name, result in made.items():
        assert result.computed == want[name].computed
        assert result.psnr["full"] == pytest.approx(want[name].psnr["full"], abs=0.5)
