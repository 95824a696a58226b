"""CUDA graphs on a stand-in for a card: a graph that is a call made again stands in for a captured one."""

from __future__ import annotations

import dataclasses
import logging
from types import SimpleNamespace

import pytest
import torch

from tests.standin import Away, stand_in
from tests.tiny_checkpoint import config_of, text_to_video_config
from tests.unit.test_cache_device import POLICIES
from videosys import Reference, TeaCacheConfig, VideoSysEngine
from videosys.estimate.blueprint import blueprint
from videosys.estimate.cost import Estimator
from videosys.generation import graphs, pipeline
from videosys.generation.graphs import Graphed, uses_graphs

PROMPT = "a small red circle spins"


class Captures:
    """Counts what is captured and run. A graph reads its inputs where they were, and writes so."""

    def __init__(self, machine=None):
        self.machine, self.captured, self.replayed = machine, 0, 0

    def __call__(self, run):
        before = 0 if self.machine is None else len(self.machine.uploads)
        made = run()
        if self.machine is not None:
            assert len(self.machine.uploads) == before, "a captured call must not read the host's memory"
        self.captured += 1

        def replay() -> None:
            self.replayed += 1
            for own, new in zip(leaves(made), leaves(run())):
                own.copy_(new)

        return replay, made


def leaves(tree):
    return [item for item in torch.utils._pytree.tree_leaves(tree) if isinstance(item, torch.Tensor)]


@pytest.fixture
def card(monkeypatch):
    with stand_in() as machine:
        captures = Captures(machine)
        monkeypatch.setattr(pipeline, "graphed", lambda model, device: Graphed(model, captures))
        yield captures


def videos(config, **request):
    """The same with graphs and without."""
    made = []
    for cuda_graphs in (True, False):
        changed = dataclasses.replace(config, device="cuda", dtype="float32", cuda_graphs=cuda_graphs)
        with VideoSysEngine(changed, quiet=True) as engine:
            made.append(engine.generate(PROMPT, **request))
    return made


def check(made, want, captures) -> None:
    assert made.steps == want.steps
    assert torch.equal(made.video[0], want.video[0])
    assert captures.captured >= 2  # before the blocks, and behind them
    assert captures.replayed > captures.captured


def slow(*values: str) -> list:
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


@pytest.mark.parametrize("policy", ["teacache", *slow("none", "schedule", "output", "pab")])
def test_a_generation_has_the_same_bits(policy, card, checkpoint):
    caches = {**POLICIES, "none": None, "output": dataclasses.replace(POLICIES["teacache"], place="output")}
    cache = caches[policy] and dataclasses.replace(caches[policy], device="auto")
    config = config_of(checkpoint, num_frames=17, num_inference_steps=6)
    check(*videos(config, **({} if cache is None else {"cache": cache})), card)


@pytest.mark.parametrize("policy", ["interval", *slow("teacache")])
def test_the_others_have_the_same_bits(policy, card, random_model):
    config = text_to_video_config(*random_model, num_frames=1, num_inference_steps=5)
    check(*videos(config, cache=dataclasses.replace(POLICIES[policy], device="auto")), card)


def test_frames_that_are_kept_have_the_same_bits(card, checkpoint):
    """An image for the first frame: the model gets a mask of the frames that are denoised."""
    config = config_of(checkpoint, num_frames=17, num_inference_steps=4)
    image = Reference(torch.arange(32 * 48 * 3).view(1, 32, 48, 3).remainder(256).to(torch.uint8))
    check(*videos(config, references=[image], cache=TeaCacheConfig(0.3, (1.0, 0.0))), card)


def toy():
    """A model of which only the parts outside the blocks are called."""
    return SimpleNamespace(
        embed=lambda x: (x + 1, x * 2), signal=lambda kind, x, t: x + t, head=lambda x, t, condition: x * t
    )


def test_what_a_cache_keeps_is_not_written_again():
    captures = Captures()
    model = Graphed(toy(), captures)
    kept = []
    for step in range(4):
        x, t = model.embed(torch.full((2,), float(step)))
        kept.append(model.signal("modulated", x, t))
    assert [float(item[0]) for item in kept] == [1.0, 4.0, 7.0, 10.0]
    assert (captures.captured, captures.replayed) == (2, 6)


def test_results_of_one_graph_are_read_where_they_are():
    model = Graphed(toy(), Captures())
    for _ in range(2):
        x, t = model.embed(torch.ones(2))
        model.signal("modulated", x, t)
    graph = next(iter(model.signal.graphs.values()))
    assert [item is own for item, own in zip(graph.inputs, (x, t))] == [True, True]
    other = torch.full((2,), 5.0)
    assert model.signal("modulated", other, t).tolist() == [7.0, 7.0]
    assert x.tolist() == [2.0, 2.0]  # and not those of another call


def test_each_shape_and_each_condition_has_its_graph():
    captures = Captures()
    model = Graphed(toy(), captures)
    conditions = [object(), object()]
    for size, condition in ((2, 0), (3, 0), (2, 1)):
        for value in (1.0, 2.0, 3.0):
            x = torch.full((size,), value)
            assert model.head(x, x, conditions[condition]).tolist() == [value * value] * size
    assert captures.captured == 3


def test_a_model_without_the_parts_is_refused():
    with pytest.raises(ValueError, match="Linear has no embed and no signal and no head; set it to false"):
        graphs.graphed(torch.nn.Linear(2, 2), torch.device("cuda"))


@pytest.mark.parametrize(
    ("is_wanted", "device", "size", "words"),
    [
        (True, "cuda", 1, None),
        (True, "cuda", 2, "all tokens of a video on one device"),
        (True, "cpu", 1, "a CUDA device"),
        (True, "mps", 1, "a CUDA device"),
        (False, "cpu", 1, None),
    ],
)
def test_where_there_are_no_graphs_a_warning_says_so(is_wanted, device, size, words, caplog, monkeypatch):
    parallel = SimpleNamespace(sp=SimpleNamespace(size=size))
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(logging.getLogger("videosys"), "propagate", True)
    assert uses_graphs(is_wanted, torch.device(device), parallel) == (is_wanted and words is None)
    assert (words in caplog.text) if words else not caplog.text


def test_a_cpu_makes_the_same_video_with_the_setting(checkpoint):
    config = config_of(checkpoint, num_frames=1, num_inference_steps=2, cuda_graphs=True)
    with VideoSysEngine(config, quiet=True) as engine:
        assert not isinstance(engine.generate(PROMPT).video[0], Away)


def test_the_estimate_knows_what_graphs_hold(checkpoint):
    config = config_of(checkpoint, device="cuda", dtype="bfloat16")
    peaks = {}
    for device in ("cuda", "cpu"):
        for cuda_graphs in (True, False):
            changed = dataclasses.replace(config, device=device, cuda_graphs=cuda_graphs)
            peaks[device, cuda_graphs] = Estimator(blueprint(changed), changed).transformer().peak
    assert peaks["cuda", True] > peaks["cuda", False]
    assert peaks["cpu", True] == peaks["cpu", False]


def test_graphs_are_captured_on_a_stream_of_their_own(monkeypatch):
    seen = []

    class Graph:
        replay = staticmethod(lambda: seen.append("replay"))

    class Context:
        def __init__(self, graph, **mode):
            seen.append(sorted(mode))

        def __enter__(self):
            seen.append("begin")

        def __exit__(self, *_):
            seen.append("end")

    cuda = SimpleNamespace(
        Stream=lambda device: "stream", graph_pool_handle=lambda: "pool", CUDAGraph=Graph, graph=Context
    )
    monkeypatch.setattr(graphs.torch, "cuda", cuda)
    replay, made = graphs.Capturer(torch.device("cuda"))(lambda: seen.append("run") or 3)
    replay()
    assert made == 3
    assert seen == [["capture_error_mode", "pool", "stream"], "begin", "run", "end", "replay"]
