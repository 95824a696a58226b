"""What the processes of an engine say to each other, and what their parent makes of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from videosys import LatteConfig, OpenSoraConfig, ParallelConfig, Reference, TeaCacheConfig, VideoOutput
from videosys.engine.failure import Report, is_shared_mistake, root_cause
from videosys.engine.messages import pack, unpack
from videosys.engine.order import Order
from videosys.engine.torchrun import check_alike, described
from videosys.generation.request import VideoJob

VALUES = [
    None,
    True,
    -7,
    0.1,
    float("inf"),
    "text \u2192 \ud83c",
    [1, [2.5, "x"]],
    (1, ("a", None)),
    {"a": (1, 2), 3: {"b": []}},
    Path("a/b.png"),
    OpenSoraConfig(seed=3, cache=TeaCacheConfig(0.2, (1.0, 0.0)), parallel=ParallelConfig(num_gpus=4, sp=2)),
    LatteConfig(negative_prompt="grey", num_frames=np.int64(5)),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_values_arrive_as_they_were(value):
    assert unpack(pack(value)) == value
    assert type(unpack(pack(value))) is type(value)
    assert pack(value) == pack(value)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.int64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_tensors_arrive_as_they_were_and_may_be_changed(dtype, shape):
    tensor = torch.arange(6).reshape(2, 3).to(dtype)[: shape[0] if shape else 0].reshape(shape or (0, 3))
    tensor = tensor if shape else torch.tensor(3).to(dtype)
    made = unpack(pack({"x": [tensor]}))["x"][0]
    assert (made.dtype, made.shape) == (dtype, tensor.shape)
    assert torch.equal(made, tensor)
    made.zero_()


def test_a_tensor_that_is_not_contiguous_arrives():
    tensor = torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1)[1:]
    assert torch.equal(unpack(pack(tensor)), tensor)


def test_a_tensor_that_is_used_twice_stays_one():
    frames = torch.zeros(1, 8, 8, 3, dtype=torch.uint8)
    one, two = unpack(pack([Reference(frames), Reference(frames, target=5)]))
    assert one.source is two.source
    assert (two.target, two.source.shape) == (5, frames.shape)


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", 1j, VALUES, print, np.zeros(2)])
def test_what_cannot_be_sent_is_named(value):
    if value is VALUES:
        value = [len, *VALUES]
    with pytest.raises(TypeError, match=r"cannot be sent to another process"):
        pack(value)


def output(*jobs):
    return VideoOutput([], [job.prompt for job in jobs], [job.seed for job in jobs], [])


A, B, C = VideoJob("a", 1), VideoJob("b", 1), VideoJob("c", 1)


@pytest.mark.parametrize(
    ("arriving", "given"),
    [
        ("ABC", [[0], [1], [2]]),
        ("BAC", [[], [1, 0], [2]]),
        ("CBA", [[], [], [2, 1, 0]]),
        ("CAB", [[], [1], [2, 0]]),
    ],
)
def test_outputs_are_given_in_order(arriving, given):
    jobs = {"A": [A], "B": [B], "C": [C]}
    order, outputs = Order([*jobs.values()]), [output(*jobs[name]) for name in arriving]
    for one, expected in zip(outputs, given, strict=True):
        order.add(one)
        assert [outputs.index(ready) for ready in iter(order.next, None)] == expected
    assert order.next(anyway=True) is None


def test_what_was_made_is_given_even_if_something_before_it_never_comes():
    order = Order([[A], [B], [C]])
    order.add(output(C))
    order.add(output(B))
    assert order.next() is None
    assert [order.next(anyway=True).prompts for _ in range(2)] == [["b"], ["c"]]
    assert order.next(anyway=True) is None


def test_the_same_prompt_may_be_asked_for_twice():
    order = Order.of(["a", "b", "a", "c", "a", "b"], OpenSoraConfig(seed=1, batch_size=2))
    order.add(output(A, C))
    assert order.next() is None
    for _ in range(2):
        order.add(output(A, B))
    assert [ready.prompts for ready in iter(order.next, None)] == [["a", "b"], ["a", "c"], ["a", "b"]]


class Silent:
    """Four processes, of which some say where they stand."""

    def __len__(self):
        return 4

    def stacks(self, ranks):
        return {rank: f"stack {rank}" for rank in ranks}


PEER = Report(0, "RuntimeError: Connection closed by peer", "trace 0", is_peer=True)
ERROR = Report(1, "KeyError: 'x'", "trace 1")
END = Report(2, "the process was ended by SIGKILL", "", is_end=True)


@pytest.mark.parametrize(
    ("reports", "message"),
    [
        ([PEER, ERROR, END], "rank 2 of 4: the process was ended by SIGKILL"),
        ([PEER, ERROR], "rank 1 of 4: KeyError: 'x'\ntrace 1"),
        ([ERROR, replace(ERROR, rank=3, text="later")], "rank 1 of 4: KeyError: 'x'\ntrace 1"),
        (
            [PEER, replace(PEER, rank=3)],
            "rank 0 of 4: RuntimeError: Connection closed by peer; nothing was heard of ranks 1, 2\ntrace 0\n"
            "rank 1 stood here:\nstack 1\nrank 2 stood here:\nstack 2",
        ),
    ],
)
def test_the_cause_is_the_rank_that_complains_of_no_other(reports, message):
    assert str(root_cause({report.rank: report for report in reports}, Silent())) == message


def test_a_mistake_is_what_all_ranks_of_a_replica_say_alike():
    mistake = Report(0, "num_frames is 3", "", is_mistake=True)
    both = {0: mistake, 1: replace(mistake, rank=1)}
    assert is_shared_mistake(both, range(2))
    assert not is_shared_mistake(both, range(3))
    assert not is_shared_mistake({**both, 1: replace(mistake, text="other")}, range(2))
    assert not is_shared_mistake({**both, 1: replace(mistake, is_mistake=False)}, range(2))


def test_requests_that_differ_are_told_apart_by_name():
    config = OpenSoraConfig(num_frames=34)
    frames = torch.zeros(1, 4, 4, 3, dtype=torch.uint8)
    row = described(["a"], config, {"references": [Reference(frames)]})
    check_alike([row, described(["a"], config, {"references": [Reference(frames.clone())]})])
    others = {
        "rank 1 .* num_frames is 17 and 34$": described(["a"], replace(config, num_frames=17), {}),
        "rank 1 .* seed is 3 and null$": described(["a"], replace(config, seed=3), {}),
        "rank 1 .* prompt is ": described(["a", "b"], config, {}),
        "rank 1 .* references is ": described(["a"], config, {"references": [Reference(frames + 1)]}),
        "rank 1 .* cache is ": described(["a"], replace(config, cache=TeaCacheConfig(0.2)), {}),
    }
    for message, other in others.items():
        base = row if "references" in other else {k: v for k, v in row.items() if k != "references"}
        with pytest.raises(ValueError, match=message):
            check_alike([base, other])
