"""Two, three and four processes do what one does: every model, cache and mesh, in one start per number."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from tests.distributed import ranks
from tests.distributed.cases import CACHES, Case, cases
from videosys.cache import EasyCacheConfig, SeaCacheConfig, StepRecord, TeaCacheConfig
from videosys.parallel import Parallel

FORWARD, LOOP = 2e-6, 1e-5  # of the largest value
MARGIN = 1e-3  # of the threshold: nearer to it, rounding may decide

MEASURED = ("teacache", "naive", "linear")  # their decisions depend on tensors
Truth = tuple[torch.Tensor, list[StepRecord]]

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(600)]


@pytest.mark.parametrize("world_size", [3, *(pytest.param(size, marks=pytest.mark.slow) for size in (2, 4))])
def test_several_processes_do_what_one_does(world_size, tmp_path):
    truths: dict[tuple, Truth] = {}
    with ranks.started(world_size, tmp_path) as wait:
        for case in cases(world_size):
            if key(case) not in truths:
                truths[key(case)] = case.run(Parallel())
        outcomes = wait(500)
    check_margins(truths)
    wrong = []
    for case in cases(world_size):
        size = world_size // case.axes[0]
        for rank, outcome in enumerate(outcomes):
            first = outcomes[rank - rank % size]
            wrong += [
                f"{case.name}, rank {rank}: {what}"
                for what in compared(case, outcome, first, truths[key(case)])
            ]
    assert not wrong, "\n".join(wrong)
    for rank, outcome in enumerate(outcomes):
        check_seen(outcome.seen, rank, world_size)
        assert outcome.seen["other_threshold"] == outcomes[0].seen["other_threshold"]
    if world_size == 4:
        check_colossalai([outcome.seen["colossalai"] for outcome in outcomes])


def key(case: Case) -> tuple:
    return case.request, case.cache


def compared(case: Case, outcome: ranks.Outcome, first: ranks.Outcome, truth: Truth) -> Iterator[str]:
    """What differs from one process, and from the first rank of the same replica."""
    expected, records = truth
    output, steps = outcome.tensors[case.name], outcome.steps[case.name]
    limit = (FORWARD if case.cache is None else LOOP) * float(expected.abs().max())
    off = float((output - expected).abs().max()) if output.shape == expected.shape else float("inf")
    if not off <= limit:
        yield f"{off:.2e} off, {limit:.2e} allowed"
    if not torch.equal(output, first.tensors[case.name]):
        yield "differs from the first rank of its replica"
    if [(step["computed"], step["reused"]) for step in steps] != [(r.computed, r.reused) for r in records]:
        yield f"computes other steps: {steps}"


def check_margins(truths: dict[tuple, Truth]) -> None:
    """Equal decisions say something: both kinds occur, and none is a matter of rounding."""
    for (request, cache), (_, steps) in truths.items():
        config = None if cache is None else CACHES[cache]
        if not isinstance(config, TeaCacheConfig | EasyCacheConfig | SeaCacheConfig):
            continue
        sums = [step.accumulated for step in steps if step.accumulated is not None]
        assert all(abs(total - config.threshold) > MARGIN * config.threshold for total in sums), request
        assert {step.computed for step in steps[1:-1]} == {True, False}, request


def check_seen(seen: dict[str, Any], rank: int, world_size: int) -> None:
    size = world_size if world_size % 2 else world_size // 2
    first = rank - rank % size
    assert seen["exchanges"] == []
    assert seen["shared_work"] == []
    assert seen["rows"] == [[float(other), 0.5] for other in range(world_size)]
    assert seen["split_rows"] == [[float(other)] for other in range(first, first + size)]
    for name in ("other_threshold", "other_request"):
        assert seen[name].startswith("RuntimeError: the ranks of one video disagree"), seen[name]
    assert "guidance_scale" in seen["no_guidance"]
    assert seen["gradients"].count("there is no backward pass") == 2
    assert [("not set" in said, "were started" in said) for said in seen["wrong_meshes"]] == [
        (True, False),
        (False, True),
    ]
    assert seen["causal_vae"] == [True] * 6
    assert seen["published_vaes"] == [True] * (9 if world_size == 3 else 0)
    assert seen["grouped_blocks"] == [True] * (4 if world_size == 3 else 0)
    assert set(seen["patience"]) == {ranks.PATIENCE.total_seconds()}


def check_colossalai(seen: list[Any]) -> None:
    """Both backends make the same groups, whose results are the same."""
    if find_spec("colossalai") is None:
        pytest.skip("colossalai is not installed; all but its mesh has been tested")
    for rank, both in enumerate(seen):
        assert both["torch"] == [
            [rank],
            [rank % 2, rank % 2 + 2],
            [rank - rank % 2, rank - rank % 2 + 1],
            [0, 1, 2, 3],
        ]
        assert both["colossalai"] == both["torch"]
        assert both["equal"]
