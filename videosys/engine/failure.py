"""Combines failures of several ranks into one error."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from videosys.engine.messages import Failed
from videosys.engine.processes import Processes


class RankError(RuntimeError):
    """A process of the engine failed. All processes were ended; the next request starts new ones."""


@dataclass(frozen=True)
class RankFailure:
    """An error of a rank, or the exit of its process.

    text: message. trace: traceback. The rest as in `Failed`.
    """

    rank: int
    text: str
    trace: str
    request: int | None = None
    is_exit: bool = False
    is_refusal: bool = False
    is_lost_peer: bool = False

    @classmethod
    def from_message(cls, processes: Processes, rank: int, message: Failed | None) -> RankFailure:
        """The failure in a message; None means that the process has ended."""
        if message is None:
            text, trace = describe_exit(processes.exit_status(rank)), processes.stack(rank)
            return cls(rank, text, trace, is_exit=True)
        name = "" if message.is_refusal else message.error
        text = ": ".join(part for part in (name, message.text) if part)
        flags = {"is_refusal": message.is_refusal, "is_lost_peer": message.is_lost_peer}
        return cls(rank, text, message.trace, message.request, **flags)


def describe_exit(status: int | None) -> str:
    """A description of how a process ended."""
    if status is None:
        return "the process closed its pipe"
    if status >= 0:
        return f"the process ended with status {status}"
    names = {number.value: number.name for number in signal.Signals}
    reason = ", probably because memory ran out" if -status == signal.SIGKILL else ""
    return f"the process was ended by {names.get(-status, f'signal {-status}')}{reason}"


def is_shared_refusal(failures: Mapping[int, RankFailure], ranks: Sequence[int]) -> bool:
    """Whether all of these ranks refuse a request with the same message, so that their states are equal."""
    refusals = [failures[rank] for rank in ranks if rank in failures and failures[rank].is_refusal]
    return len(refusals) == len(ranks) and len({failure.text for failure in refusals}) == 1


def root_cause(failures: Mapping[int, RankFailure], processes: Processes) -> RankError:
    """The error of the rank that failed first: one that exited, else the first that did not lose a peer.

    If all lost a peer, the message includes the stacks of the ranks that did not report.
    """
    first = min(failures.values(), key=lambda failure: (failure.is_lost_peer, not failure.is_exit))
    silent = [rank for rank in range(len(processes)) if rank not in failures]
    stacks = processes.stacks(silent) if first.is_lost_peer else {}
    others = f"; no message from {name_ranks(silent)}" if stacks else ""
    lines = [f"rank {first.rank} of {len(processes)}: {first.text}{others}", first.trace]
    return RankError("\n".join(line.rstrip() for line in [*lines, *stack_lines(stacks)] if line))


def timeout_error(ranks: Sequence[int], seconds: float, processes: Processes) -> TimeoutError:
    """The error of a request without an answer for this many seconds, with the stacks of the ranks."""
    text = f"{name_ranks(ranks)} of {len(processes)} did not respond for {seconds:g} s (parallel.timeout)"
    return TimeoutError("\n".join([text, *stack_lines(processes.stacks(ranks))]))


def stack_lines(stacks: Mapping[int, str]) -> list[str]:
    """The stack of each rank, one paragraph each."""
    return [f"stack of rank {rank}:\n{stack}" for rank, stack in stacks.items()]


def name_ranks(ranks: Sequence[int]) -> str:
    """`rank 1` or `ranks 1, 2`."""
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
