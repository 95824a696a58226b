"""The benchmark counts the right calls, takes turns, and writes what it measured; no time is tested."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from eval.performance import __main__ as command
from eval.performance import cases, floor, graphs, needs, published, timing
from eval.performance.floor import Floor, flops, record, total_flops
from eval.performance.models import Setting, Size, diffusers_step, models
from eval.performance.plan import Plan
from eval.performance.published import Published
from eval.performance.sizes import SIZES
from eval.performance.timing import Sample, alternate, ratio
from videosys import Parallel
from videosys.generation import compile as compiling

CPU = torch.device("cpu")
SMALL = Size(latents=(2, 4, 4), text=3)
ONCE = Plan(rounds=1, compile=False)


TOY = {
    "STDiT3": {"depth": 1, "hidden_size": 16, "num_heads": 2},
    "LatteT2V": {
        "num_layers": 1,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "cross_attention_dim": 16,
    },
    "OpenSoraT2V": {
        "num_layers": 1,
        "num_attention_heads": 1,
        "attention_head_dim": 96,
        "cross_attention_dim": 96,
    },
}


def small(model: str) -> Setting:
    return replace(Setting.small(model, **TOY[model]), size=SMALL)


def test_calls_are_counted_by_shape():
    x, weight = torch.randn(2, 3, 5), torch.randn(7, 5)
    q, k = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 6, 8)
    calls = record(lambda: (F.linear(x, weight), F.scaled_dot_product_attention(q, k, k)))
    assert calls == {("linear", 6, 5, 7, False): 1, ("attention", 2, 3, 4, 6, 8): 1}
    assert total_flops(calls) == 2 * 6 * 5 * 7 + 4 * 2 * 3 * 4 * 6 * 8
    assert total_flops(calls, "linear") == flops(("linear", 6, 5, 7, False))


@pytest.mark.parametrize("model", models())
def test_the_floor_of_a_model_is_all_its_products(model):
    setting = small(model)
    subject = setting.subject()
    calls = subject.calls()
    tokens, width = setting.tokens, setting.config.hidden_size
    blocks = len(subject.model.stacks)
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
    torch.testing.assert_close(diffusers_step(setting, subject)(), subject.step(), atol=1e-5, rtol=1e-4)
    assert diffusers_step(small("STDiT3"), subject) is None


def test_runs_take_turns():
    seen: list[str] = []
    samples = alternate({name: lambda name=name: seen.append(name) for name in "ab"}, rounds=2)
    assert "".join(seen) == "ab" + "ab" + "ba"
    assert len(samples["a"].cpu) == 2


def test_a_ratio_is_that_of_each_round():
    samples = {"a": Sample((2.0, 8.0, 9.0), (2.0, 8.0, 9.0)), "b": Sample((1.0, 4.0, 3.0), (1.0, 4.0, 3.0))}
    assert ratio(samples, "a", "b") == 2.0


def test_a_reused_step_and_the_cache_alone(monkeypatch):
    monkeypatch.setattr(Plan, "settings", lambda plan: [small("STDiT3")])
    (row,) = cases.caches(ONCE)
    assert 0 < row["reused_share_published_depth"] < row["reused_share"]
    assert row["overhead_s"] > 0


def test_a_real_size_is_measured_and_not_scaled(monkeypatch):
    seen: list[Setting] = []
    monkeypatch.setattr(cases, "real_row", lambda setting, plan: seen.append(setting) or {})
    list(cases.real(ONCE))
    (setting,) = seen
    assert (setting.model, setting.tokens, setting.dtype) == ("STDiT3", 2 * 15 * 9 * 16, torch.bfloat16)
    assert (setting.plan.depth, setting.config.hidden_size) == (28, 1152)


def test_shares_of_a_real_size():
    row = cases.real_row(small("STDiT3"), ONCE)
    assert row["reused_share"] == row["reused_s"] / row["computed_s"]


def test_memory_is_what_lives_at_once():
    def run() -> None:
        for _ in range(3):
            torch.zeros(1000) + 1  # two of these live at once

    assert 8000 <= needs.peak_on_cpu(run) < 9000


def test_what_needs_a_gpu_says_so():
    for case in (graphs.graphs, published.published, published.kernels, published.teacache):
        (row,) = case(ONCE)
        assert "needs CUDA" in str(row)


@pytest.mark.parametrize("error", [0.0, 1.0])
def test_a_graph_must_give_the_numbers_of_its_step(monkeypatch, error):
    """Where no graph can be captured, one stands in for it that is off by an error."""
    graph = SimpleNamespace(replay=lambda: None)
    tiny = {model: small(model) for model in models()}
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(graphs, "capture", lambda run, pool: (graph, run() + error))
    monkeypatch.setattr(graphs.Setting, "small", lambda model, *_: tiny[model])
    monkeypatch.setattr(Plan, "needs_cuda", lambda plan, what: None)
    if error:
        with pytest.raises(ArithmeticError, match="computed step of STDiT3 differs"):
            list(graphs.graphs(ONCE))
        return
    rows = list(graphs.graphs(ONCE))
    assert [row["step"] for row in rows] == ["computed", "reused"] * 3
    assert {row["compiled"] for row in rows} == {False}


def test_the_floor_counts_attentions_whatever_kernel_serves():
    calls = replace(small("LatteT2V"), dtype=torch.bfloat16).subject().calls()
    assert sum(count for shape, count in calls.items() if shape[0] == "attention") == 3
    floor = Floor(calls, torch.bfloat16, CPU)
    assert {len(runs) for shape, runs in floor._runs.items() if shape[0] == "attention"} == {2}


def test_the_autoencoders_have_the_published_layouts():
    from videosys.models.open_sora_plan.autoencoder import V110, V120

    plans = needs.autoencoders()
    with torch.device("meta"):
        built = {name: plan.parts.vae.build(Parallel()).config for name, plan in plans.items()}
    assert [built[f"open_sora_plan_{version}"] for version in ("v110", "v120")] == [V110, V120]
    assert [built[name].is_temporal for name in ("latte", "latte, frame by frame")] == [True, False]


def test_the_report_is_written(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(command, "CASES", {"steps": lambda _: iter([{"model": "m", "eager_s": 0.12345}])})
    assert command.main(["--output", str(tmp_path), "--rounds", "1", "--cases", "steps"]) == 0
    assert json.loads((tmp_path / "performance.json").read_text())["steps"] == [
        {"model": "m", "eager_s": 0.12345}
    ]
    assert "| m | 0.1235 |" in (tmp_path / "performance.md").read_text()
    assert "eager_s 0.1235" in capsys.readouterr().out


class Card:
    """What stands in for torch.cuda: a clock that its events read, and memory that a call takes."""

    def __init__(self) -> None:
        self.now, self.allocated, self.most, self.log = 0.0, 100, 100, []

    def is_available(self) -> bool:
        return True

    def synchronize(self) -> None:
        self.log.append("synchronize")

    def Event(self, enable_timing: bool) -> Event:
        return Event(self)

    def reset_peak_memory_stats(self) -> None:
        self.most = self.allocated

    def memory_allocated(self) -> int:
        return self.allocated

    def max_memory_allocated(self) -> int:
        return self.most

    def work(self) -> None:
        """5 ms, and 30 bytes for a while."""
        self.now += 5.0
        self.most = max(self.most, self.allocated + 30)


class Event:
    def __init__(self, card: Card):
        self.card, self.at = card, -1.0

    def record(self) -> None:
        self.at = self.card.now

    def synchronize(self) -> None:
        self.card.log.append("event")

    def elapsed_time(self, later: Event) -> float:
        return later.at - self.at


@pytest.fixture
def card(monkeypatch) -> Card:
    made = Card()
    monkeypatch.setattr(timing.torch, "cuda", made)
    return made


def test_a_gpu_is_timed_by_its_own_events(card):
    _, seconds = timing.once(card.work, 10)
    assert seconds == pytest.approx(0.005)
    assert card.log == ["synchronize", "event"]
    samples = alternate({"a": card.work}, 3)
    assert samples["a"].seconds == pytest.approx(0.005)
    assert ratio(samples, "a", "a") == 1.0


def test_a_floor_is_timed_by_calls_in_a_row_on_a_gpu(monkeypatch):
    seen: list[int] = []
    monkeypatch.setattr(floor, "replays", lambda *_: [lambda: None])
    monkeypatch.setattr(floor, "counted", lambda run, calls: seen.append(calls) or 1.0)
    for device in (CPU, torch.device("cuda")):
        Floor({("linear", 2, 2, 2, False): 3}, torch.float32, device).measure()
    assert seen == [1, floor.GPU_CALLS]


def test_the_peak_of_a_gpu_forgets_what_was_before(card):
    card.most = 10_000  # while weights were made
    assert needs.peak(card.work, torch.device("cuda")) == 30
    assert card.log == ["synchronize", "synchronize"]


def test_without_a_compiler_rows_say_so(monkeypatch):
    monkeypatch.setattr(Plan, "settings", lambda plan: [small("STDiT3")])
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    (row,) = cases.steps(Plan(rounds=1))
    assert row["compiled_s"] == "no compiler"
    assert row["eager_share"] > 0


def toy(model: str) -> Published:
    setting = small(model)
    config = replace(setting.plan.config, num_inference_steps=6)
    plan = replace(setting.plan, config=config)
    return Published(replace(setting, plan=plan), {"slow": 4, "fast": 2}, needs.SMALL)


@pytest.fixture
def no_autoencoder(monkeypatch):
    monkeypatch.setattr(published, "decoder", lambda *_: lambda: torch.zeros(1000) + 1)


@pytest.mark.parametrize("model", ["OpenSoraT2V", "STDiT3"])
def test_a_published_size_tells_all_that_a_step_needs(model, no_autoencoder):
    (row,) = published.needs_of("toy", toy(model), ONCE)
    assert row["size"] == "toy"
    for name in ("eager_s", "floor_s", "reused_s", "overhead_s", "decode_s", "weights_mib", "step_mib"):
        assert row[name] > 0
    assert row["eager_over_ideal"] == row["eager_s"] / row["ideal_s"]
    assert row["ideal_s"] == pytest.approx(row["gflop"] / 790e3)
    assert 4000 <= row["decode_mib"] * needs.MIB < 9000


def test_a_video_that_does_not_fit_costs_one_figure(monkeypatch):
    def fail() -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(published, "decoder", lambda *_: fail)
    assert published.decode_row(toy("STDiT3"), ONCE) == {"decode_s": "out of memory"}


def test_kernels_are_sorted_by_time():
    rows = list(published.kernels_of("toy", toy("OpenSoraT2V"), ONCE))
    times = [row["ms"] for row in rows]
    assert times == sorted(times, reverse=True)
    assert len(rows) == published.MOST_KERNELS
    assert 0 < sum(row["share"] for row in rows) <= 1.001


def test_generations_compute_as_many_steps_as_published(no_autoencoder, monkeypatch):
    stored: list[int] = []
    monkeypatch.setattr(published.Paced, "store", lambda cache, x, y: stored.append(cache.step) or y)
    monkeypatch.setattr(published.Paced, "reuse", lambda cache, x: x)
    rows = list(published.generations("toy", toy("STDiT3"), ONCE))
    assert [(row["teacache"], row["computed"]) for row in rows] == [("all", 6), ("slow", 4), ("fast", 2)]
    assert stored == [0, 2, 3, 5, 0, 5]
    assert rows[0]["speedup"] == 1.0


@pytest.mark.parametrize(
    ("computed", "evaluations"), [(19, 30), (12, 30), (27, 50), (15, 50), (37, 150), (24, 150)]
)
def test_computed_steps_are_spread_evenly(computed, evaluations):
    steps = sorted(published.spread(computed, evaluations))
    assert (len(steps), steps[0], steps[-1]) == (computed, 0, evaluations - 1)
    gaps = {after - before for before, after in pairwise(steps)}
    assert max(gaps) - min(gaps) <= 1


def test_published_sizes_are_those_of_the_models():
    sizes = {name: Published.of(size, CPU) for name, size in SIZES.items() if size.is_measured}
    assert {name: size.setting.tokens for name, size in sizes.items()} == {
        "latte-16x512x512": 32768,
        "opensora-51x480x848": 47700,
        "v110-65x512x512": 34816,
        "v120-29x480x640": 19200,
        "v120-93x480x640": 57600,
    }
    assert [size.evaluations for size in sizes.values()] == [50, 30, 150, 100, 100]
    assert [size.setting.plan.depth for size in sizes.values()] == [28, 28, 28, 32, 32]


def test_one_size_can_be_asked_for(monkeypatch, tmp_path):
    seen: list[Plan] = []
    monkeypatch.setattr(command, "CASES", {"published": lambda plan: seen.append(plan) or iter(())})
    sizes = ["latte-16x512x512", "v120-29x480x640"]
    argv = ["--cases", "published", "--models", "LatteT2V", "--output", str(tmp_path), "--sizes", *sizes]
    assert command.main(argv) == 0
    assert (seen[0].models, seen[0].sizes) == (("LatteT2V",), tuple(sizes))


def test_the_processor_is_described(tmp_path):
    file = tmp_path / "cpuinfo"
    file.write_text("model name\t: A: b\nflags\t\t: fpu avx512_bf16 amx_bf16 sse\n\n")
    assert command.processor(file) == {"processor": "A: b", "bfloat16": "avx512_bf16 amx_bf16"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "--rounds is 0; it must be 1 or more"),
        (["--models", "LatteT2V", "--sizes", "v120-29x480x640"], "--sizes need the models OpenSoraT2V"),
    ],
)
def test_what_measures_nothing_is_refused(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit):
        command.main(["--output", str(tmp_path / "out"), *arguments])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_size_that_does_not_fit_leaves_the_others_to_measure(monkeypatch):
    def rows(name, size, plan):
        if name == "latte-16x512x512":
            raise torch.OutOfMemoryError
        yield {"size": name}

    monkeypatch.setattr(Plan, "needs_cuda", lambda self, what: None)
    plan = Plan(torch.device("cpu"), 1, False, ("LatteT2V",), ("latte-16x512x512", "v110-65x512x512"))
    made = list(published.on_gpu(rows, "sizes")(plan))
    assert made == [
        {"size": "latte-16x512x512", "step": published.OUT_OF_MEMORY},
        {"size": "v110-65x512x512"},
    ]


@pytest.mark.slow
def test_the_adapter_for_diffusers_is_measured_beside_the_model_alone(tmp_path):
    argv = ["--cases", "wan", "--tiny", "--rounds", "1", "--output", str(tmp_path)]
    assert command.main(argv) == 0
    rows = json.loads((tmp_path / "performance.json").read_text())["wan"]
    assert [(row["model"], row["cache"]) for row in rows] == [
        (model, cache) for model in ("1.3B", "14B") for cache in ("output", "stack", "FirstBlockCache")
    ]
    assert all(row["reused_s"] > 0 and row["computed_s"] > 0 for row in rows)
