"""The resumable training loop: what is on disk is whole, and a resumed run equals one that never stopped."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from eval.training import trainer as training
from eval.training.factors import factor
from eval.training.trainer import (
    Stage,
    StageRun,
    Timer,
    Trainer,
    learning_rate,
    load_state,
    save_state,
    settings_of,
)


def toy_stage(minutes: float = 1.0, **kwargs) -> Stage:
    def loss(model: nn.Module, step: int) -> torch.Tensor:
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        return (model(x) - x.sum(1, keepdim=True)).square().mean()

    return Stage(
        "toy", minutes, 1e-2, nn.Module.parameters, loss, lambda model: -model.bias.abs().item(), **kwargs
    )


def toy_run(folder: Path) -> StageRun:
    torch.manual_seed(0)
    return StageRun(Trainer(nn.Linear(3, 1), folder), toy_stage())


def test_factors_are_parsed():
    assert factor("spin=4") == ("spin", 4.0)
    assert factor("cross=.5") == ("cross", 0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("roll=2", "'roll' is not one of rightward, .*, circle, square, triangle, ring, cross"),
        ("spin", "the factor of spin is ''; it must be a positive number"),
        *((f"spin={value}", f"the factor of spin is '{value}'") for value in ("x", "0", "-1", "nan", "inf")),
    ],
)
def test_wrong_factors_are_refused(text, message):
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        factor(text)


@pytest.mark.parametrize("budget", [{"minutes": 0.0}, {"steps": 0}, {"minutes": 0.0, "steps": 0}])
def test_a_stage_of_nothing_is_done_at_once(budget):
    assert toy_stage(**budget).progress(0, 0.0) == 1
    assert toy_stage(minutes=0.0, steps=4).progress(1, 9.0) == 0.25


def test_state_comes_back(tmp_path):
    path = tmp_path / "new" / "state.pt"
    assert load_state(path) is None
    state = {"step": 3, "weights": {"a": torch.arange(4.0)}}
    save_state(path, state)
    loaded = load_state(path)
    assert loaded["step"] == 3
    assert torch.equal(loaded["weights"]["a"], state["weights"]["a"])


def test_failed_save_keeps_the_old_state_and_leaves_no_file(tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    save_state(path, {"step": 1})

    def half_written(state, target):
        Path(target).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(training.torch, "save", half_written)
    with pytest.raises(OSError, match="disk full"):
        save_state(path, {"step": 2})
    assert load_state(path) == {"step": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.pt"]


def test_state_with_code_is_refused(tmp_path):
    torch.save({"code": Path}, tmp_path / "state.pt")
    with pytest.raises(Exception, match="weights_only"):
        load_state(tmp_path / "state.pt")


def test_a_stage_of_steps_ends_after_them_whatever_the_clock_says(tmp_path):
    run = StageRun(Trainer(nn.Linear(3, 1), tmp_path), toy_stage(minutes=0.0, steps=7))
    rates = []
    advance = run.advance

    def watched():
        loss = advance()
        rates.append(run.optimizer.param_groups[0]["lr"])
        return loss

    run.advance = watched
    run.train()
    assert run.step == 7
    assert rates == [learning_rate(1e-2, step / 7, step) for step in range(7)]


def test_resumed_run_equals_the_uninterrupted_one(tmp_path):
    whole = toy_run(tmp_path / "whole")
    for _ in range(5):
        whole.advance()
    stopped = toy_run(tmp_path / "parts")
    for _ in range(3):
        stopped.advance()
    stopped.save()
    resumed = StageRun(Trainer(nn.Linear(3, 1), tmp_path / "parts"), toy_stage())
    assert resumed.step == 3
    for _ in range(2):
        resumed.advance()
    assert torch.equal(resumed.model.weight, whole.model.weight)
    assert torch.equal(resumed.average.weight, whole.average.weight)


def test_a_stage_brings_its_own_optimizer(tmp_path):
    made: list[torch.optim.Optimizer] = []

    def slow(model: nn.Module) -> torch.optim.Optimizer:
        made.append(torch.optim.SGD([model.bias], lr=1.0))
        made[0].param_groups[0]["scale"] = 0.5
        return made[0]

    run = StageRun(Trainer(nn.Linear(3, 1), tmp_path), toy_stage(optimizer=slow))
    assert run.optimizer is made[0]
    before = run.model.weight.clone()
    run.advance()
    assert torch.equal(run.model.weight, before)  # which this optimizer does not move
    assert made[0].param_groups[0]["lr"] == 0.5 * learning_rate(1e-2, 0.0, 0)


@pytest.mark.parametrize("finished", [False, True])
def test_a_run_with_other_arguments_does_not_go_on(tmp_path, finished):
    def trainer(**given) -> Trainer:
        args = argparse.Namespace(out=tmp_path, minutes=0.002, steps=None, **given)
        return Trainer(nn.Linear(3, 1), tmp_path, settings=settings_of(args))

    if finished:
        trainer(rate=1.0, cap=20.0).run(toy_stage(minutes=0.002))
    else:
        StageRun(trainer(rate=1.0, cap=20.0), toy_stage()).save()
    trainer(rate=1.0, cap=20.0, added="later").run(toy_stage(minutes=0.002))
    with pytest.raises(ValueError, match=r"from a run with rate 1\.0 \(now 0\.5\); use the same arguments"):
        trainer(rate=0.5, cap=20.0).run(toy_stage())


def test_state_of_another_stage_is_not_resumed(tmp_path):
    other = toy_run(tmp_path)
    other.advance()
    other.save()
    save_state(tmp_path / "running.pt", load_state(tmp_path / "running.pt") | {"stage": "other"})
    assert toy_run(tmp_path).step == 0


def test_finished_stage_is_loaded_and_every_best_is_told(tmp_path):
    told: list[float] = []
    stage = toy_stage(minutes=0.002, improved=lambda model, figure: told.append(figure))
    first = nn.Linear(3, 1)
    Trainer(first, tmp_path).run(stage)
    assert told == sorted(told)
    count, second = len(told), nn.Linear(3, 1)
    Trainer(second, tmp_path).run(stage)
    assert len(told) == count > 0
    assert torch.equal(first.weight, second.weight)


def test_only_the_stages_parameters_move(tmp_path):
    model = nn.Linear(3, 1)
    before = model.weight.clone()
    stage = toy_stage()
    run = StageRun(
        Trainer(model, tmp_path),
        Stage("bias", 1.0, 1e-2, lambda m: [m.bias], stage.loss, stage.evaluate),
    )
    run.advance()
    assert torch.equal(model.weight, before)
    assert not torch.equal(run.average.bias, torch.zeros(1))


def test_learning_rate_warms_up_and_falls():
    assert learning_rate(1.0, 0.0, 0) < learning_rate(1.0, 0.0, 20) < learning_rate(1.0, 0.0, 100)
    assert math.isclose(learning_rate(1.0, 0.0, 100), 1.0)
    assert math.isclose(learning_rate(1.0, 1.0, 100), 0.02)
    assert learning_rate(1.0, 7.0, 100) == learning_rate(1.0, 1.0, 100)


def test_timer_is_due_once_per_period(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(training.time, "monotonic", lambda: now[0])
    timer = Timer(20.0, last=0.0)
    now[0] = 21.0
    assert (timer.due(), timer.due()) == (True, False)
