"""The one command for a card: what it measures, what it leaves, and how it goes on. No time is tested."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from eval.performance import __main__ as command
from eval.performance import cases, gpu, published
from eval.performance.models import models
from eval.performance.plan import Plan
from tests.standin import stand_in
from tests.unit.test_graphs import Captures
from tests.unit.test_performance import small
from videosys.generation.graphs import Graphed

SIZES = ["latte-16x512x512", "opensora-51x480x848", "v120-29x480x640"]
ROW = {"eager_s": 0.2, "ideal_s": 0.1, "eager_over_ideal": 2.0, "decode_s": "out of memory"}


@pytest.fixture
def here(tmp_path):
    return ["--tiny", "--output", str(tmp_path), "--sizes", *SIZES]


def rows_of(tmp_path):
    return json.loads((tmp_path / gpu.FILE).read_text())["rows"]


def test_it_goes_on_where_it_ended(here, tmp_path, capsys):
    seen: list[str] = []

    def measure(name, args, seconds):
        seen.append(name)
        return {gpu.FAILED: "an illegal memory access"} if len(seen) == 2 else ROW

    assert gpu.main(here, measure) == 1
    assert f"left: {SIZES[1]}; run the same command again to continue" in capsys.readouterr().out
    assert gpu.main(here, measure) == 0
    assert seen == [*SIZES, SIZES[1]]
    assert rows_of(tmp_path) == dict.fromkeys(SIZES, ROW)
    assert gpu.main(here, measure) == 0
    assert len(seen) == 4
    text = (tmp_path / "gpu.md").read_text()
    assert text.startswith("date ")
    assert f"| {SIZES[0]} | 200 |  | 100 | 2 |" in text


def test_another_setting_is_measured_anew(here, tmp_path, capsys):
    seen: list[str] = []
    measure = lambda name, args, seconds: seen.append(name) or ROW  # noqa: E731
    gpu.main(here, measure)
    gpu.main([*here, "--rounds", "1"], measure)
    assert seen == SIZES * 2
    assert "measuring everything again" in capsys.readouterr().out


def test_time_that_is_over_begins_nothing(here, capsys):
    assert gpu.main([*here, "--minutes", "0"], lambda *_: pytest.fail("begun")) == 0
    assert f"left: {', '.join(SIZES)}" in capsys.readouterr().out


def test_without_a_card_it_says_so(tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        gpu.main(["--output", str(tmp_path / "out")])
    assert error.value.code == 2
    assert "needs a CUDA device" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("done", "want"),
    [
        (SimpleNamespace(returncode=0, stdout='load\n{"eager_s": 1.0}\n', stderr=""), {"eager_s": 1.0}),
        (SimpleNamespace(returncode=1, stdout="", stderr="Traceback\nE: no\n"), {gpu.FAILED: "E: no"}),
        (SimpleNamespace(returncode=-6, stdout="", stderr=""), {gpu.FAILED: "exit status -6"}),
    ],
)
def test_a_size_is_measured_in_a_process_of_its_own(done, want, monkeypatch):
    seen = []
    monkeypatch.setattr(gpu.subprocess, "run", lambda command, **_: seen.append(command) or done)
    args = SimpleNamespace(tiny=True, no_compile=True, rounds=2)
    assert gpu.measured_apart(SIZES[0], args, 10.0) == want
    assert seen[0][1:] == [
        *("-m", "eval.performance.gpu", "--one", SIZES[0], "--rounds", "2", "--tiny", "--no-compile")
    ]


def test_a_process_that_does_not_end_is_a_failure(monkeypatch):
    def run(command, timeout, **_):
        raise gpu.subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(gpu.subprocess, "run", run)
    args = SimpleNamespace(tiny=True, no_compile=True, rounds=2)
    assert gpu.measured_apart(SIZES[0], args, 10.0) == {gpu.FAILED: "no result within 70 s"}


@pytest.fixture
def quick(monkeypatch):
    """The smallest models, and no autoencoder."""
    made = {model: small(model) for model in models()}
    monkeypatch.setattr(published.Setting, "small", lambda model, *where: replaced(made[model], *where))
    monkeypatch.setattr(published, "decoder", lambda *where: lambda: torch.zeros(1000, device=where[-1]) + 1)


def replaced(setting, dtype, device, size, kernels):
    return replace(setting, dtype=dtype, device=device, size=size, kernels=kernels)


def test_a_card_fills_every_column(quick, monkeypatch):
    captures = Captures()
    monkeypatch.setattr(cases, "graphed", lambda model, device: Graphed(model, captures))
    stage = SimpleNamespace(total=1 << 30, weights=1 << 20, text=1 << 10)
    monkeypatch.setattr(published, "estimate", lambda *_: SimpleNamespace(stages=(stage,) * 3))
    args = SimpleNamespace(tiny=True, no_compile=True, rounds=1)
    with stand_in("cuda"):
        row = gpu.row_of("opensora-51x480x848", args)
    assert [name for name, cell in zip(gpu.COLUMNS, gpu.cells(row)) if not cell] == [
        "compiled ms",
        "compiled / ideal",
    ]
    assert captures.replayed > 0
    assert row["step_over_estimate"] == pytest.approx(
        (row["weights_mib"] + row["step_mib"] + 1 / 1024) / 1024
    )
    assert "floor_s" not in row


def test_the_cases_of_a_card_run_to_their_end_without_one(quick, tmp_path):
    cases_of_a_card, sizes = ["published", "kernels", "teacache"], SIZES[1:]
    argv = ["--cases", *cases_of_a_card, "--sizes", *sizes, "--output", str(tmp_path)]
    assert command.main([*argv, "--tiny", "--rounds", "1", "--no-compile"]) == 0
    report = json.loads((tmp_path / "performance.json").read_text())
    for case in cases_of_a_card:
        assert {row["size"] for row in report[case]} == set(sizes)
    assert {row["teacache"] for row in report["teacache"]} == {"all", "fast"}


@pytest.mark.slow
def test_the_command_runs_to_its_end_without_a_card(tmp_path):
    """Each size in a process of its own, with an autoencoder of the published layout."""
    argv = ["--tiny", "--rounds", "1", "--no-compile", "--output", str(tmp_path)]
    assert gpu.main([*argv, "--sizes", *SIZES]) == 0
    assert list(rows_of(tmp_path)) == SIZES


def test_what_stands_for_a_size_is_small():
    size = published.size_of("v120-93x480x640", Plan(tiny=True))
    assert (size.setting.model, size.setting.plan.depth, size.evaluations) == ("OpenSoraT2V", 2, 4)
    assert size.setting.tokens < 200
