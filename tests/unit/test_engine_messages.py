"""What the processes of an engine say to each other, and what their parent makes of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from videosys import LatteConfig, OpenSoraConfig, ParallelConfig, Reference, TeaCacheConfig, VideoOutput
from videosys.engine.failure import RankFailure, is_shared_refusal, root_cause
from videosys.engine.messages import value_codec
from videosys.engine.reorder import ReorderBuffer
from videosys.engine.torchrun import check_same_request, describe
from videosys.generation.request import VideoJob

CODEC = value_codec()
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
    copy = CODEC.unpack(CODEC.pack(value))
    assert copy == value
    assert type(copy) is type(value)
    assert CODEC.pack(value) == CODEC.pack(value)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.int64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_tensors_arrive_as_they_were_and_may_be_changed(dtype, shape):
    tensor = torch.arange(6).reshape(2, 3).to(dtype)[: shape[0] if shape else 0].reshape(shape or (0, 3))
    tensor = tensor if shape else torch.tensor(3).to(dtype)
    copy = CODEC.unpack(CODEC.pack({"x": [tensor]}))["x"][0]
    assert (copy.dtype, copy.shape) == (dtype, tensor.shape)
    assert torch.equal(copy, tensor)
    copy.zero_()


def test_a_tensor_that_is_not_contiguous_arrives():
    tensor = torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1)[1:]
    assert torch.equal(CODEC.unpack(CODEC.pack(tensor)), tensor)


def test_a_tensor_that_is_used_twice_stays_one():
    frames = torch.zeros(1, 8, 8, 3, dtype=torch.uint8)
    one, two = CODEC.unpack(CODEC.pack([Reference(frames), Reference(frames, target=5)]))
    assert one.source is two.source
    assert (two.target, two.source.shape) == (5, frames.shape)


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", 1j, VALUES, print, np.zeros(2)])
def test_what_cannot_be_sent_is_named(value):
    if value is VALUES:
        value = [len, *VALUES]
    with pytest.raises(TypeError, match=r"cannot be sent to another process"):
        CODEC.pack(value)


def output(*jobs):
    return VideoOutput([], [job.prompt for job in jobs], [job.seed for job in jobs], [])


A, B, C = VideoJob("a", 1), VideoJob("b", 1), VideoJob("c", 1)


@pytest.mark.parametrize(
    ("arriving", "expected"),
    [
        ("ABC", [[0], [1], [2]]),
        ("BAC", [[], [1, 0], [2]]),
        ("CBA", [[], [], [2, 1, 0]]),
        ("CAB", [[], [1], [2, 0]]),
    ],
)
def test_outputs_are_popped_in_order(arriving, expected):
    jobs = {"A": [A], "B": [B], "C": [C]}
    buffer, outputs = ReorderBuffer([*jobs.values()]), [output(*jobs[name]) for name in arriving]
    for output_, ready in zip(outputs, expected, strict=True):
        buffer.put(output_)
        assert [outputs.index(popped) for popped in iter(buffer.pop, None)] == ready
    assert buffer.pop(skip_missing=True) is None


def test_what_has_arrived_is_popped_even_if_an_output_before_it_never_comes():
    buffer = ReorderBuffer([[A], [B], [C]])
    buffer.put(output(C))
    buffer.put(output(B))
    assert buffer.pop() is None
    assert [buffer.pop(skip_missing=True).prompts for _ in range(2)] == [["b"], ["c"]]
    assert buffer.pop(skip_missing=True) is None


def test_the_same_prompt_may_be_asked_for_twice():
    buffer = ReorderBuffer.for_request(["a", "b", "a", "c", "a", "b"], OpenSoraConfig(seed=1, batch_size=2))
    buffer.put(output(A, C))
    assert buffer.pop() is None
    for _ in range(2):
        buffer.put(output(A, B))
    assert [ready.prompts for ready in iter(buffer.pop, None)] == [["a", "b"], ["a", "c"], ["a", "b"]]


class Silent:
    """Four processes, of which some say where they stand."""

    def __len__(self):
        return 4

    def stacks(self, ranks):
        return {rank: f"stack {rank}" for rank in ranks}


PEER = RankFailure(0, "RuntimeError: Connection closed by peer", "trace 0", is_lost_peer=True)
ERROR = RankFailure(1, "KeyError: 'x'", "trace 1")
END = RankFailure(2, "the process was ended by SIGKILL", "", is_exit=True)


@pytest.mark.parametrize(
    ("failures", "message"),
    [
        ([PEER, ERROR, END], "rank 2 of 4: the process was ended by SIGKILL"),
        ([PEER, ERROR], "rank 1 of 4: KeyError: 'x'\ntrace 1"),
        ([ERROR, replace(ERROR, rank=3, text="later")], "rank 1 of 4: KeyError: 'x'\ntrace 1"),
        (
            [PEER, replace(PEER, rank=3)],
            "rank 0 of 4: RuntimeError: Connection closed by peer; no message from ranks 1, 2\ntrace 0\n"
            "stack of rank 1:\nstack 1\nstack of rank 2:\nstack 2",
        ),
    ],
)
def test_the_cause_is_the_rank_that_complains_of_no_other(failures, message):
    assert str(root_cause({failure.rank: failure for failure in failures}, Silent())) == message


def test_a_refusal_is_shared_if_all_ranks_of_a_replica_use_the_same_words():
    refusal = RankFailure(0, "num_frames is 3", "", is_refusal=True)
    both = {0: refusal, 1: replace(refusal, rank=1)}
    assert is_shared_refusal(both, range(2))
    assert not is_shared_refusal(both, range(3))
    assert not is_shared_refusal({**both, 1: replace(refusal, text="other")}, range(2))
    assert not is_shared_refusal({**both, 1: replace(refusal, is_refusal=False)}, range(2))


def test_requests_that_differ_are_told_apart_by_name():
    config = OpenSoraConfig(num_frames=34)
    frames = torch.zeros(1, 4, 4, 3, dtype=torch.uint8)
    row = describe(["a"], config, {"references": [Reference(frames)]}, CODEC)
    check_same_request([row, describe(["a"], config, {"references": [Reference(frames.clone())]}, CODEC)])
    others = {
        "rank 1: .* num_frames is 17 and 34$": describe(["a"], replace(config, num_frames=17), {}, CODEC),
        "rank 1: .* seed is 3 and null$": describe(["a"], replace(config, seed=3), {}, CODEC),
        "rank 1: .* prompt is ": describe(["a", "b"], config, {}, CODEC),
        "rank 1: .* references is ": describe(["a"], config, {"references": [Reference(frames + 1)]}, CODEC),
        "rank 1: .* cache is ": describe(["a"], replace(config, cache=TeaCacheConfig(0.2)), {}, CODEC),
    }
    for message, other in others.items():
        base = row if "references" in other else {k: v for k, v in row.items() if k != "references"}
        with pytest.raises(ValueError, match=message):
            check_same_request([base, other])
