"""The benchmark counts the right calls, takes turns, and writes what it measured; no time is tested."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from eval.performance import __main__ as command
from eval.performance import cases, graphs, needs
from eval.performance.floor import Floor, flops, record, total_flops
from eval.performance.models import BUILDERS, Setting, Size, diffusers_latte
from eval.performance.timing import Sample, alternate, ratio

CPU = torch.device("cpu")
SMALL = Size(latents=(2, 4, 4), text=3)


def small(model: str) -> Setting:
    width = 96 if model == "OpenSoraT2V" else 16
    return Setting(model, size=SMALL, depth=1, width=width, heads=2)


def test_calls_are_counted_by_shape():
    x, weight = torch.randn(2, 3, 5), torch.randn(7, 5)
    q, k = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 6, 8)
    calls = record(lambda: (F.linear(x, weight), F.scaled_dot_product_attention(q, k, k)))
    assert calls == {("linear", 6, 5, 7, False): 1, ("attention", 2, 3, 4, 6, 8): 1}
    assert total_flops(calls) == 2 * 6 * 5 * 7 + 4 * 2 * 3 * 4 * 6 * 8
    assert total_flops(calls, "linear") == flops(("linear", 6, 5, 7, False))


@pytest.mark.parametrize("model", BUILDERS)
def test_the_floor_of_a_model_is_all_its_products(model):
    setting = small(model)
    subject = setting.subject()
    calls = subject.calls()
    tokens, width = setting.size.tokens, setting.width
    blocks = {"STDiT3": 2, "LatteT2V": 2, "OpenSoraT2V": 1}[model]
    perceptrons = sum(
        count * flops(shape)
        for shape, count in calls.items()
        if shape[0] == "linear" and shape[1] == tokens and 4 * width in shape[2:4]
    )
    assert perceptrons == blocks * 2 * 2 * tokens * width * 4 * width
    floor = Floor(calls, setting.dtype, CPU)
    floor.measure()
    assert floor.seconds > 0
    assert floor.peak("linear") > 0


@torch.no_grad()
def test_diffusers_does_the_same():
    setting = small("LatteT2V")
    subject = setting.subject()
    torch.testing.assert_close(diffusers_latte(setting, subject)(), subject.step(), atol=1e-5, rtol=1e-4)


def test_runs_take_turns():
    seen: list[str] = []
    samples = alternate({name: lambda name=name: seen.append(name) for name in "ab"}, rounds=2)
    assert "".join(seen) == "ab" + "ab" + "ba"
    assert len(samples["a"].cpu) == 2


def test_a_ratio_is_that_of_each_round():
    samples = {"a": Sample((2.0, 8.0, 9.0), (2.0, 8.0, 9.0)), "b": Sample((1.0, 4.0, 3.0), (1.0, 4.0, 3.0))}
    assert ratio(samples, "a", "b") == 2.0


def test_a_reused_step_and_the_cache_alone(monkeypatch):
    monkeypatch.setattr(cases, "settings", lambda device: [small("STDiT3")])
    (row,) = cases.caches(CPU, 1, compile=False)
    assert 0 < row["reused_share_published_depth"] < row["reused_share"]
    assert row["overhead_s"] > 0


def test_a_real_size_is_measured_and_not_scaled(monkeypatch):
    monkeypatch.setattr(cases, "Setting", lambda *given, **_: replace(small("STDiT3"), dtype=given[1]))
    (row,) = cases.real(CPU, 1, compile=False)
    assert (cases.REAL_SIZE.tokens, row["dtype"]) == (2 * 15 * 9 * 16, "bfloat16")
    assert row["reused_share"] == row["reused_s"] / row["computed_s"]


def test_memory_is_what_lives_at_once():
    def run() -> None:
        for _ in range(3):
            torch.zeros(1000) + 1  # two of these live at once

    assert 8000 <= needs.peak_on_cpu(run) < 9000


def test_graphs_say_that_they_need_a_gpu():
    (row,) = graphs.graphs(CPU, 1, compile=False)
    assert "needs CUDA" in str(row)


def test_the_floor_counts_attentions_whatever_kernel_serves():
    calls = replace(small("LatteT2V"), dtype=torch.bfloat16).subject().calls()
    assert sum(count for shape, count in calls.items() if shape[0] == "attention") == 3
    floor = Floor(calls, torch.bfloat16, CPU)
    assert {len(runs) for shape, runs in floor._runs.items() if shape[0] == "attention"} == {2}


def test_the_autoencoders_have_the_published_layouts():
    from videosys.autoencoders.causal_vae import V110, V120

    with torch.device("meta"):
        assert [needs.plan_vae(name).config for name in ("v110", "v120")] == [V110, V120]


def test_the_report_is_written(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(command, "CASES", {"steps": lambda *_: iter([{"model": "m", "eager_s": 0.12345}])})
    assert command.main(["--output", str(tmp_path), "--rounds", "1", "--cases", "steps"]) == 0
    assert json.loads((tmp_path / "performance.json").read_text())["steps"] == [
        {"model": "m", "eager_s": 0.12345}
    ]
    assert "| m | 0.1235 |" in (tmp_path / "performance.md").read_text()
    assert "eager_s 0.1235" in capsys.readouterr().out
