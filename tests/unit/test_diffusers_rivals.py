"""Fewer steps as rivals of a cache: which solvers fit a scheduler, and what `calibrate` says of them."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import diffusers
import pytest
import torch

from tests.video_pipelines import case, generate
from videosys.cache import RunSpec
from videosys.calibration.measure import FULL
from videosys.diffusers import calibrate
from videosys.diffusers import calibrate as calibrate_function
from videosys.diffusers.rivals import OWN, SOLVERS, replaced, rivals
from videosys.diffusers.study import quality

TWO_M, UNIPC = SOLVERS
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}


def test_solvers_have_the_current_shift():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_shift(5.0)
    assert {solver.config.flow_shift for name, solver in rivals(scheduler).items() if name != OWN} == {5.0}


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, {TWO_M, UNIPC}),
        ("UniPCMultistepScheduler", FLOW, {TWO_M}),
        ("DPMSolverMultistepScheduler", FLOW, {UNIPC}),
        ("DDIMScheduler", {"clip_sample": False}, {TWO_M, UNIPC}),
        ("PNDMScheduler", {"prediction_type": "v_prediction"}, {TWO_M, UNIPC}),
        ("CogVideoXDDIMScheduler", {}, set()),  # its noise is shifted; the solvers' is not
        ("CogVideoXDPMScheduler", {}, set()),
        ("FlowMapEulerDiscreteScheduler", {}, set()),
        ("EDMEulerScheduler", {}, set()),
    ],
)
def test_solvers_that_fit(name, settings, expected):
    scheduler = getattr(diffusers, name)(**settings)
    found = rivals(scheduler)
    assert found.pop(OWN) is scheduler
    assert set(found) == expected
    for solver in found.values():
        if "FlowMatch" in type(scheduler).__name__ or scheduler.config.get("use_flow_sigmas"):
            assert solver.config.flow_shift == 3.0
            assert solver.config.prediction_type == "flow_prediction"
        else:
            assert solver.config.prediction_type == scheduler.config.prediction_type
        assert solver.config.solver_order == 2


@pytest.mark.parametrize(
    ("name", "expected"), [("ltx", {UNIPC}), ("wan", {TWO_M}), ("latte", {TWO_M, UNIPC})]
)
def test_solvers_reach_the_same_latents_with_many_steps(name, expected):
    pipe, call = case(name)
    own = pipe.scheduler
    many = 500  # enough that Latte's own grid, too, begins with nearly the last training timestep
    reference = generate(pipe, call, num_inference_steps=many)
    before = generate(pipe, call)
    for rival, solver in rivals(own).items():
        if rival not in expected:
            continue
        with replaced(pipe, solver):
            latents = generate(pipe, call, num_inference_steps=60)
        assert quality(latents, reference)[0] > 30, rival
        assert pipe.scheduler is own
    assert torch.equal(generate(pipe, call), before)


def test_one_line_says_where_fewer_steps_are_nearer(monkeypatch, caplog, tmp_path):
    module = __import__("sys").modules[calibrate_function.__module__]
    found = {4: ("4 steps of UniPC", 31.0), 6: ("6 steps of the scheduler itself", 20.0), 8: None}
    monkeypatch.setattr(module, "best_rival", lambda bench, budget: found[budget])

    def row(budget: int, psnr: float) -> SimpleNamespace:
        return SimpleNamespace(budget=budget, result=SimpleNamespace(psnr={FULL: psnr}))

    report = SimpleNamespace(rows=[row(4, 28.5), row(4, 30.0), row(6, 25.0), row(8, 20.0)])
    study = SimpleNamespace(scope=RunSpec(num_inference_steps=12), bench=lambda: None)
    with caplog.at_level(logging.WARNING):
        module.compare_fewer_steps(study, report)
    assert [record.getMessage() for record in caplog.records] == [
        "fewer steps are closer to the full run than any cache: 4 steps of UniPC 31.0 dB, the best cache 30.0"
    ]


def test_the_rivals_of_a_calibration_are_measured_and_kept(tmp_path, caplog):
    pipe, call = case("ltx")
    prompt = {key: value for key, value in call.items() if "embeds" in key or "mask" in key}
    rest = {key: value for key, value in call.items() if key not in prompt}
    before = dict(pipe.config), pipe.scheduler
    options = {"out": tmp_path / "out.json", "budgets": [5], **rest, "num_inference_steps": 8}
    with caplog.at_level(logging.INFO):
        calibrate(pipe, [prompt], **options)
    assert (dict(pipe.config), pipe.scheduler) == before
    kept = "".join(path.read_text() for path in tmp_path.glob("out.work/*/journal.jsonl"))
    for name in (OWN, UNIPC):
        assert f"rival {name} 5" in kept
    refused = [text for text in caplog.messages if "is not compared, because the pipeline fails" in text]
    assert len(refused) == 1  # LTX gives its own sigmas, which this solver does not take
    assert refused[0].startswith(TWO_M)
