"""A fixed schedule as two CUDA graphs: one for a computed step and one for a skipped step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch

from eval.performance.models import Setting, Subject
from eval.performance.plan import NO_COMPILER, Plan, Row
from eval.performance.timing import Run, alternate, ratio
from videosys import ScheduleConfig, compile_blocks, start

COMPUTED, REUSED, LAST = range(3)
KINDS: Mapping[str, int] = MappingProxyType({"computed": COMPUTED, "reused": REUSED})
WARM_UP = 3  # calls before a graph is captured, as torch recommends, so that libraries allocate their memory


def graphs(plan: Plan) -> Iterator[Row]:
    """Time a step eagerly and as a graph. A fixed schedule does not read values from the GPU."""
    if missing := plan.needs_cuda("fixed schedule as CUDA graphs"):
        yield missing
        return
    is_compiled: bool | str = plan.compile and (plan.can_compile or NO_COMPILER)
    for model in plan.models:
        subject = Setting.small(model, torch.bfloat16, plan.device).subject()
        if is_compiled is True:
            compile_blocks(subject.model)
        runs = steps(subject)
        samples = alternate(runs, plan.rounds)
        for kind in KINDS:
            row: Row = {"model": model, "dtype": "bfloat16", "compiled": is_compiled, "step": kind}
            row |= {f"{way}_s": samples[f"{kind} {way}"].seconds for way in ("eager", "graph")}
            yield row | {"ratio": ratio(samples, f"{kind} eager", f"{kind} graph")}


@torch.no_grad()
def steps(subject: Subject) -> dict[str, Run]:
    """Each kind of step, eager and captured. ArithmeticError if a graph gives different values."""
    runs: dict[str, Run] = {}
    cache = start(ScheduleConfig(computed=(COMPUTED, LAST)), range(LAST + 1), lambda row: row[None])
    pool = (
        torch.cuda.graph_pool_handle()
    )  # shared: the skipped step reads the residual that the computed one stored
    for kind, step in KINDS.items():

        def eager(step: int = step) -> torch.Tensor:
            cache.begin_step(step, float(step))
            return subject.step(cache)

        want = eager().clone()
        graph, made = capture(eager, pool)
        graph.replay()
        if not torch.allclose(made, want, atol=1e-2, rtol=1e-2):
            raise ArithmeticError(f"the graph of a {kind} step of {type(subject.model).__name__} differs")
        runs |= {f"{kind} eager": eager, f"{kind} graph": graph.replay}
    return runs


def capture(run: Run, pool: Any) -> tuple[torch.cuda.CUDAGraph, Any]:
    """Capture a call; return (the graph, its output tensor)."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        made = run()
    return graph, made
