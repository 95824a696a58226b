"""What went wrong in which rank, told as one error."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from videosys.engine.messages import Message
from videosys.engine.processes import Processes


class RankError(RuntimeError):
    """A process of the engine failed; all of them were ended, and the next request starts new ones."""


@dataclass(frozen=True)
class Report:
    """An error of a rank, or (without a message) its end. The text says what, the trace where."""

    rank: int
    text: str
    trace: str
    request: int | None = None
    is_end: bool = False
    is_mistake: bool = False
    is_peer: bool = False

    @classmethod
    def of(cls, processes: Processes, rank: int, message: Message | None) -> Report:
        if message is None:
            return cls(rank, ending(processes.status(rank)), processes.crash(rank), is_end=True)
        name, text = message["error"], message["text"]
        text = text if message["is_mistake"] else f"{name}: {text}" if text else name
        kinds = {name: message[name] for name in ("request", "is_mistake", "is_peer")}
        return cls(rank, text, message["trace"], **kinds)


def ending(status: int | None) -> str:
    """How a process ended, in words."""
    if status is None:
        return "it closed its pipe"
    if status >= 0:
        return f"the process ended with status {status}"
    names = {number.value: number.name for number in signal.Signals}
    reason = ", as the system does when memory runs out" if -status == signal.SIGKILL else ""
    return f"the process was ended by {names.get(-status, f'signal {-status}')}{reason}"


def is_shared_mistake(reports: Mapping[int, Report], ranks: Sequence[int]) -> bool:
    """Whether all of these ranks refuse what was asked, in the same words: they are at the same place."""
    own = [reports[rank] for rank in ranks if rank in reports and reports[rank].is_mistake]
    return len(own) == len(ranks) and len({report.text for report in own}) == 1


def root_cause(reports: Mapping[int, Report], processes: Processes) -> Exception:
    """The error of the rank that began it: one that ended, else the first that complains of no other rank."""
    first = min(reports.values(), key=lambda report: (report.is_peer, not report.is_end))
    silent = [rank for rank in range(len(processes)) if rank not in reports]
    where = processes.stacks(silent) if first.is_peer else {}
    others = f"; nothing was heard of {ranks_named(silent)}" if where else ""
    lines = [f"rank {first.rank} of {len(processes)}: {first.text}{others}", first.trace]
    lines += [f"rank {rank} stood here:\n{stack}" for rank, stack in where.items()]
    return RankError("\n".join(line.rstrip() for line in lines if line))


def silence(ranks: Sequence[int], seconds: float, processes: Processes) -> TimeoutError:
    """The error of a request that nobody answers."""
    stacks = processes.stacks(ranks)
    lines = [f"{ranks_named(ranks)} of {len(processes)} said nothing for {seconds:g} s (parallel.timeout)"]
    lines += [f"rank {rank} stood here:\n{stack}" for rank, stack in stacks.items()]
    return TimeoutError("\n".join(lines))


def ranks_named(ranks: Sequence[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
