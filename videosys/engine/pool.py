"""A request to several processes: every rank works on it, their parent collects what comes out."""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from videosys.engine.build import rank_device, seeded
from videosys.engine.failure import RankError, Report, is_shared_mistake, root_cause, silence
from videosys.engine.messages import Message
from videosys.engine.order import Order
from videosys.engine.processes import Processes, threads_of
from videosys.estimate.memory import Watch
from videosys.generation.config import PipelineConfig
from videosys.generation.request import VideoOutput
from videosys.models import family_of
from videosys.utils.logging import get_logger

BUILD = "videosys.engine.build:build_pipeline"
SILENT = logging.CRITICAL + 1
SETTLE = 0.5  # seconds in which other ranks may say more about an error
PATIENCE = 5.0  # the same where they must: all refuse what one refuses, and a lost connection has a cause


@dataclass
class Request:
    """What is known of one request. answers: of each replica's ranks to the last `next`."""

    number: int
    order: Order
    answers: list[dict[int, str]]
    working: set[int] = field(default_factory=set)  # replicas that are not at the end
    failure: Exception | None = None

    @property
    def is_over(self) -> bool:
        return not self.working

    def fail(self, error: Exception) -> None:
        """Ends with an error, unless it has ended or is to end with another."""
        if self.working:
            self.failure = self.failure or error

    def take(self) -> VideoOutput | None:
        """The next output; None where it is still to come, and at the end.

        After a failure first all that was made before it, then the error.
        """
        output = self.order.next(anyway=self.is_over)
        if output is None and self.is_over and self.failure is not None:
            raise self.failure
        return output


class Pool:
    """A process for each device; started with the first request, and anew with the next after a failure.

    The processes compute a micro-batch ahead of what was taken. Requests may be read in turns, also by
    several threads; what one of them asks for is done before the other's.
    """

    def __init__(self, config: PipelineConfig, quiet: bool = False, build: str = BUILD):
        """build: `module:function` that makes each rank's pipeline of config, quiet and device.

        ValueError where this computer has too few devices, and for axes that the model cannot be cut along.
        """
        parallel = config.parallel.resolved(config.is_guided)
        self.config, self.quiet, self.build = replace(config, parallel=parallel), quiet, build
        self.devices = [rank_device(config, rank, parallel.num_gpus) for rank in range(parallel.num_gpus)]
        dp = parallel.dp or 1
        self.size = parallel.num_gpus // dp  # ranks of a replica
        self.replicas = [range(first, first + self.size) for first in range(0, parallel.num_gpus, self.size)]
        self.watch = Watch(len(self.devices))
        # Finds and fetches the folders once, and tells at once of mistakes. It never loads a weight.
        self.pipeline = family_of(config).build(self.config, quiet)
        self._lock, self._numbers = threading.RLock(), itertools.count()
        self._processes: Processes | None = None
        self._requests: dict[int, Request] = {}
        self._abandoned: list[int] = []  # what nobody reads any more, to be told to the ranks

    def stream(
        self, prompts: Sequence[str], config: PipelineConfig, inputs: dict[str, Any]
    ) -> Iterator[VideoOutput]:
        """The outputs in order, each as soon as it and those before it are done.

        When a rank fails, what was made before comes first; then RankError with the rank's traceback,
        TimeoutError where nothing was heard for `parallel.timeout` seconds, or the ValueError of a request
        that all ranks refuse (they go on with the next).
        """
        self.watch.look(replace(config, parallel=self.config.parallel))
        request = self._open(prompts, seeded(config), inputs)
        try:
            while (output := self._next(request)) is not None:
                yield output
        finally:
            # Not told to the ranks here: a forgotten generator may be closed anywhere.
            self._abandoned.append(request.number)

    def close(self) -> None:
        """Ends the processes."""
        with self._lock:
            if self._processes is not None:
                self._processes.close()
            self._forget(RankError("the engine was closed"))

    def _open(self, prompts: Sequence[str], config: PipelineConfig, inputs: dict[str, Any]) -> Request:
        with self._lock, self._ended_by_interrupts():
            processes = self._started()
            self._drop()
            request = Request(next(self._numbers), Order.of(prompts, config), [{} for _ in self.replicas])
            self._requests[request.number] = request
            given = {"request": request.number, "prompts": list(prompts), "inputs": inputs}
            for rank, device in enumerate(self.devices):
                own = replace(config, parallel=self.config.parallel, device=str(device))
                # Rank 0 tells what this program wants to hear now; the others are silent.
                level = SILENT if rank else get_logger().getEffectiveLevel()
                processes.send(rank, "open", config=own, level=level, **given)
            for replica in range(len(self.replicas)):
                self._ask(request, replica)
            return request

    def _started(self) -> Processes:
        if self._processes is None:
            parallel = self.config.parallel
            about = {"build": self.build, "quiet": self.quiet, "threads": threads_of(parallel.num_gpus)}
            starts = [
                {"device": str(device), "config": replace(self.config, device=str(device)), **about}
                for device in self.devices
            ]
            self._processes = Processes(starts)
        return self._processes

    def _drop(self) -> None:
        """Lets the ranks forget what is no longer read."""
        while self._abandoned:
            number = self._abandoned.pop()
            if self._requests.pop(number, None) is not None and self._processes is not None:
                for rank in range(len(self._processes)):
                    self._processes.send(rank, "drop", request=number)

    def _ask(self, request: Request, replica: int) -> None:
        """Has a replica make its next micro-batch."""
        assert self._processes is not None
        request.working.add(replica)
        ranks = self.replicas[replica]
        for rank in ranks:
            self._processes.send(rank, "next", request=request.number, wanted=rank == ranks[0])

    def _next(self, request: Request) -> VideoOutput | None:
        """The next output of a request, waited for; None at its end."""
        with self._lock:
            self._drop()
            while (output := request.take()) is None and not request.is_over:
                with self._ended_by_interrupts():
                    self._listen()
            return output

    @contextlib.contextmanager
    def _ended_by_interrupts(self) -> Iterator[None]:
        """Ends the ranks when Ctrl-C, for one, leaves it open what they were told and what they said."""
        try:
            yield
        except BaseException:
            self._fail(RankError("the processes of this engine were ended by an interrupt"))
            raise

    def _listen(self) -> None:
        """Waits for something from the ranks, for `timeout` seconds."""
        processes, timeout = self._processes, self.config.parallel.timeout
        assert processes is not None
        heard = processes.receive(timeout)
        if not heard:
            silent = [rank for rank, owed in enumerate(processes.owed) if owed]
            self._fail(silence(silent, timeout, processes))
        for rank, message in heard:
            if message is not None and not is_failure(message):
                self._hear(rank, message)
        failures = [(rank, message) for rank, message in heard if is_failure(message)]
        if failures and self._processes is processes:
            self._settle(processes, failures)

    def _hear(self, rank: int, message: Message) -> None:
        if message["kind"] == "log":
            relay(message["record"])
        else:
            self._answer(rank, message)

    def _answer(self, rank: int, message: Message) -> None:
        """Keeps an output, and lets the replica go on when all of its ranks have said that they are done."""
        request = self._requests.get(message["request"])
        if request is None:
            return  # read no more
        if message.get("output") is not None:
            request.order.add(message["output"])
        replica = rank // self.size
        answers = request.answers[replica]
        answers[rank] = message["kind"]
        if len(answers) < self.size:
            return
        kinds = set(answers.values())
        answers.clear()
        if kinds == {"end"} or request.failure is not None:
            request.working.discard(replica)
        elif kinds == {"output"}:
            self._ask(request, replica)
        else:
            self._fail(
                RankError(f"replica {replica}: some ranks are at the end of a request, others are not")
            )

    def _settle(self, processes: Processes, failures: Sequence[tuple[int, Message | None]]) -> None:
        """Waits a little for what other ranks say about errors, and ends the ranks.

        They stay where all ranks of the replica refuse a request in the same words.
        """
        reports: dict[int, Report] = {}
        begin = time.monotonic()
        while True:
            for rank, message in failures:
                if rank not in reports:
                    reports[rank] = Report.of(processes, rank, message)
            ranks, patience = self._awaited(reports)
            left = max(0.0, begin + patience - time.monotonic())
            heard = [] if reports.keys() >= ranks else processes.receive(left)
            if not heard:
                break
            for rank, message in heard:
                if message is not None and not is_failure(message):
                    self._hear(rank, message)
            failures = [(rank, message) for rank, message in heard if is_failure(message)]
        replicas = {rank // self.size for rank in reports}
        if all(is_shared_mistake(reports, self.replicas[replica]) for replica in replicas):
            for replica in replicas:
                self._refuse(processes, self.replicas[replica], reports[self.replicas[replica][0]])
        else:
            self._fail(root_cause(reports, processes))

    def _awaited(self, reports: Mapping[int, Report]) -> tuple[set[int], float]:
        """Of which ranks a report would help, and for how long it is waited for."""
        if all(report.is_mistake for report in reports.values()):
            return {rank for own in self.replicas if reports.keys() & {*own} for rank in own}, PATIENCE
        everyone = {rank for own in self.replicas for rank in own}
        return everyone, PATIENCE if all(report.is_peer for report in reports.values()) else SETTLE

    def _refuse(self, processes: Processes, ranks: Sequence[int], report: Report) -> None:
        """Ends a request, or what all of them need, with what all ranks of a replica say is wrong with it."""
        error = ValueError(report.text)
        error.__cause__ = RankError(report.trace)
        if report.request is None:
            self._fail(error)
            return
        request = self._requests.get(report.request)
        if request is not None:
            # What other replicas are making is waited for.
            request.fail(error)
            request.working.discard(report.rank // self.size)
        for rank in ranks:
            processes.send(rank, "resume")

    def _fail(self, error: Exception) -> None:
        """Ends the ranks; what is asked of them now ends with an error."""
        if self._processes is not None:
            self._processes.end()
        self._forget(error)

    def _forget(self, error: Exception) -> None:
        for request in self._requests.values():
            request.fail(error)
            request.working.clear()
        self._requests.clear()
        self._processes = None


def is_failure(message: Message | None) -> bool:
    """Whether it is the end of a rank, or tells of an error."""
    return message is None or message["kind"] == "error"


def relay(record: dict[str, Any]) -> None:
    """Writes down here what a rank wants to have written down."""
    made = logging.makeLogRecord(record)
    logger = logging.getLogger(made.name)
    if logger.isEnabledFor(made.levelno):
        logger.handle(made)
