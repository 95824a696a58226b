"""Requests to several processes: every rank works on them, the parent collects the outputs."""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from videosys.cache import CACHES
from videosys.engine import messages as m
from videosys.engine.build import rank_device, seeded
from videosys.engine.codec import Codec
from videosys.engine.failure import RankError, RankFailure, is_shared_refusal, root_cause, timeout_error
from videosys.engine.processes import Processes
from videosys.engine.reorder import ReorderBuffer
from videosys.estimate.memory import MemoryCheck
from videosys.generation.config import PipelineConfig
from videosys.generation.request import VideoOutput
from videosys.generation.watch import Cancelled, Watch
from videosys.models import FAMILIES, family_of
from videosys.utils.logging import get_logger

BUILD = "videosys.engine.build:build_pipeline"
LOG_NOTHING = logging.CRITICAL + 1
# Seconds for other ranks to report more about a failure.
MORE_FAILURES_SECONDS = 0.5
# The same if a report is expected: all refuse the same request, and a lost connection has a cause.
NEEDED_FAILURES_SECONDS = 5.0


@dataclass
class RequestState:
    """The state of one request.

    replies: of each replica's ranks to the last `Next`. active: replicas that have not finished.
    watch: for progress and cancellation, or None.
    """

    number: int
    outputs: ReorderBuffer
    replies: list[dict[int, type[m.Message]]]
    active: set[int] = field(default_factory=set)
    error: Exception | None = None
    watch: Watch | None = None

    @property
    def stopped_by(self) -> Exception | None:
        """The error that stopped it, or None."""
        return None if self.watch is None else self.watch.error

    @property
    def is_over(self) -> bool:
        """Whether all ranks have finished it."""
        return not self.active

    def fail(self, error: Exception) -> None:
        """Ends with an error, unless it has ended or has another error."""
        if self.active:
            self.error = self.error or error

    def pop(self) -> VideoOutput | None:
        """The next output; None if it has not arrived, and at the end.

        After a failure, first all outputs that have arrived, then the error.
        """
        output = self.outputs.pop(skip_missing=self.is_over)
        if output is None and self.is_over and self.error is not None:
            raise self.error
        return output


class Pool:
    """One process per device, started with the first request and again after a failure.

    The processes compute one micro-batch ahead of the reader. Requests can be read alternately and by several
    threads; their micro-batches are computed in the order in which they are requested.
    """

    def __init__(
        self, config: PipelineConfig, quiet: bool = False, build: str = BUILD, plugins: Sequence[str] = ()
    ):
        """build: as in `Processes`. plugins: modules to import in addition to those that register something.

        ValueError if this computer has too few devices, for axes that the model cannot be split along, and
        for a plugin that other processes cannot import.
        """
        self.build, self.plugins = build, plugins
        importable_plugins(self.plugins)
        parallel = config.parallel.resolved(config.is_guided)
        self.config, self.quiet = replace(config, parallel=parallel), quiet
        self.devices = [rank_device(config, rank, parallel.num_gpus) for rank in range(parallel.num_gpus)]
        self.replica_size = parallel.replica_size
        firsts = range(0, parallel.num_gpus, self.replica_size)
        self.replicas = [range(first, first + self.replica_size) for first in firsts]
        self.memory_check = MemoryCheck(len(self.devices))
        # Finds and downloads the folders once, and reports errors early. It never loads weights.
        self.pipeline = family_of(config).build(self.config, quiet)
        self._lock, self._numbers = threading.RLock(), itertools.count()
        self._processes: Processes | None = None
        self._is_replaced = False
        self._requests: dict[int, RequestState] = {}
        self._abandoned: list[int] = []  # abandoned requests that ranks still have

    def stream(
        self,
        prompts: Sequence[str],
        config: PipelineConfig,
        inputs: dict[str, Any],
        watch: Watch | None = None,
    ) -> Iterator[VideoOutput]:
        """Yield the outputs in order, each as soon as it and the previous ones are done.

        If a rank fails, earlier outputs come first; then RankError with the rank's traceback,
        TimeoutError if no rank replied for `parallel.timeout` seconds, or the ValueError of a request
        that all ranks refuse (they continue with the next). watch: for progress, and to stop the request
        before its next step; the ranks then agree on this before each step.
        """
        self.memory_check.look(replace(config, parallel=self.config.parallel))
        request = self._open(prompts, seeded(config), inputs, watch)
        try:
            while (output := self._next(request)) is not None:
                yield output
        finally:
            # No message to the ranks here: an abandoned generator may be closed in any thread.
            self._abandoned.append(request.number)

    def changed(self, config: PipelineConfig) -> Pool:
        """The pool of another transformer; this one's processes end."""
        pool = Pool(config, self.quiet, self.build, self.plugins)
        with self._lock:
            self._is_replaced = True  # a submitted request must not restart the processes
        self.close()
        return pool

    def close(self) -> None:
        """Ends the processes; requests read by other threads end with `Cancelled`."""
        processes = self._processes
        if processes is not None:
            processes.interrupt()  # otherwise the lock would be held until the next message
        with self._lock:
            if self._processes is not None:
                self._processes.close()
            self._end_requests(closed())

    def _open(
        self, prompts: Sequence[str], config: PipelineConfig, inputs: dict[str, Any], watch: Watch | None
    ) -> RequestState:
        outputs = ReorderBuffer.for_request(prompts, config)
        request = RequestState(next(self._numbers), outputs, [{} for _ in self.replicas], watch=watch)
        config, texts = replace(config, parallel=self.config.parallel), list(map(str, prompts))
        # Rank 0 logs at this program's current level; the others do not log.
        levels = [get_logger().getEffectiveLevel(), *[LOG_NOTHING] * (len(self.devices) - 1)]
        messages = [
            m.Open(
                replace(config, device=str(device)), request.number, texts, inputs, level, watch is not None
            )
            for device, level in zip(self.devices, levels)
        ]
        with self._lock:
            if self._is_replaced:
                raise closed()
            codec = m.message_codec() if self._processes is None else self._processes.codec
            with m.refusing_unknown():  # before anything is started or sent
                codec.check(messages[0])
            with self._ended_by_interrupts():
                processes = self._started(codec)
                self._drop_abandoned()
                self._requests[request.number] = request
                for rank, message in enumerate(messages):
                    processes.send(rank, message)
                for replica in range(len(self.replicas)):
                    self._ask_next(request, replica)
        if watch is not None:
            watch.when_stopped(partial(cancel, processes, request.number))
        return request

    def _started(self, codec: Codec) -> Processes:
        if self._processes is None:
            count = len(self.devices)
            self._processes = Processes(count, codec, self.build, importable_plugins(self.plugins))
            port, threads = self._processes.store.port, max(1, torch.get_num_threads() // count)
            for rank, device in enumerate(map(str, self.devices)):
                config = replace(self.config, device=device)
                self._processes.send(rank, m.Start(config, rank, port, device, self.quiet, threads))
        return self._processes

    def _drop_abandoned(self) -> None:
        """Tells the ranks to drop abandoned requests."""
        while self._abandoned:
            number = self._abandoned.pop()
            if self._requests.pop(number, None) is not None and self._processes is not None:
                for rank in range(len(self._processes)):
                    self._processes.send(rank, m.Drop(number))

    def _ask_next(self, request: RequestState, replica: int) -> None:
        """Makes a replica compute its next micro-batch."""
        assert self._processes is not None
        request.active.add(replica)
        ranks = self.replicas[replica]
        for rank in ranks:
            self._processes.send(rank, m.Next(request.number, needs_output=rank == ranks[0]))

    def _next(self, request: RequestState) -> VideoOutput | None:
        """Waits for the next output of a request; None at its end."""
        with self._lock:
            self._drop_abandoned()
            while (output := request.pop()) is None and not request.is_over:
                with self._ended_by_interrupts():
                    self._listen()
            return output

    @contextlib.contextmanager
    def _ended_by_interrupts(self) -> Iterator[None]:
        """Ends the ranks if an interrupt such as Ctrl-C leaves the state of messages unknown."""
        try:
            yield
        except BaseException:
            self._fail(RankError("the processes of this engine were ended by an interrupt"))
            raise

    def _listen(self) -> None:
        """Waits for messages of the ranks, for `timeout` seconds, and handles them."""
        processes, timeout = self._processes, self.config.parallel.timeout
        assert processes is not None
        messages = processes.receive(timeout)
        if processes.is_interrupted:
            self._fail(closed())
        elif not messages:
            silent = [rank for rank, pending in enumerate(processes.pending_replies) if pending]
            self._fail(timeout_error(silent, timeout, processes))
        failures = self._handle(messages)
        if failures and self._processes is processes:
            self._handle_failures(processes, failures)

    def _handle(self, messages: Sequence[tuple[int, m.Message | None]]) -> list[tuple[int, m.Failed | None]]:
        """Handles logs and replies, and returns the failures."""
        failures: list[tuple[int, m.Failed | None]] = []
        for rank, message in messages:
            if message is None or isinstance(message, m.Failed):
                failures.append((rank, message))
            elif isinstance(message, m.Log):
                handle_log(message)
            elif isinstance(message, m.Progress):
                request = self._requests.get(message.request)
                if request is not None and request.watch is not None:
                    request.watch.tell(message.progress)
            elif isinstance(message, (m.Output, m.End)):
                self._handle_reply(rank, message)
        return failures

    def _handle_reply(self, rank: int, message: m.Output | m.End) -> None:
        """Keeps an output, and continues the replica when all of its ranks have replied."""
        request = self._requests.get(message.request)
        if request is None:
            return  # no longer read
        replica = rank // self.replica_size
        if isinstance(message, m.Output) and message.output is not None:
            request.outputs.put(message.output, replica, len(self.replicas))
        replies = request.replies[replica]
        replies[rank] = type(message)
        if len(replies) < self.replica_size:
            return
        kinds = set(replies.values())
        replies.clear()
        if request.stopped_by is not None:
            request.fail(request.stopped_by)
        if kinds == {m.End} or request.error is not None:
            request.active.discard(replica)
        elif kinds == {m.Output}:
            self._ask_next(request, replica)
        else:
            text = "some ranks have finished a request, others have not"
            self._fail(RankError(f"replica {replica}: {text}"))

    def _handle_failures(self, processes: Processes, messages: Sequence[tuple[int, m.Failed | None]]) -> None:
        """Waits briefly for failures of other ranks, and ends the ranks.

        They keep running if all ranks of the replica refuse a request with the same message.
        """
        failures: dict[int, RankFailure] = {}
        begin = time.monotonic()
        while True:
            for rank, message in messages:
                if rank not in failures:
                    failures[rank] = RankFailure.from_message(processes, rank, message)
            ranks, seconds = self._awaited(failures)
            left = max(0.0, begin + seconds - time.monotonic())
            more = [] if failures.keys() >= ranks else processes.receive(left)
            if not more:
                break
            messages = self._handle(more)
        replicas = {rank // self.replica_size for rank in failures}
        if all(is_shared_refusal(failures, self.replicas[replica]) for replica in replicas):
            for replica in replicas:
                self._refuse(processes, self.replicas[replica], failures[self.replicas[replica][0]])
        else:
            self._fail(root_cause(failures, processes))

    def _awaited(self, failures: Mapping[int, RankFailure]) -> tuple[set[int], float]:
        """The ranks whose failures may show the cause, and how many seconds to wait for them."""
        if all(failure.is_refusal for failure in failures.values()):
            own = [ranks for ranks in self.replicas if failures.keys() & {*ranks}]
            return {rank for ranks in own for rank in ranks}, NEEDED_FAILURES_SECONDS
        is_cause_missing = all(failure.is_lost_peer for failure in failures.values())
        seconds = NEEDED_FAILURES_SECONDS if is_cause_missing else MORE_FAILURES_SECONDS
        return {*range(len(self.devices))}, seconds

    def _refuse(self, processes: Processes, ranks: Sequence[int], failure: RankFailure) -> None:
        """Ends a request, or all of them, with the error that all ranks of a replica raised."""
        error = ValueError(failure.text)
        error.__cause__ = RankError(failure.trace)
        if failure.request is None:
            self._fail(error)
            return
        request = self._requests.get(failure.request)
        if request is not None:
            # Wait for micro-batches of other replicas.
            request.fail(request.stopped_by or error)
            request.active.discard(failure.rank // self.replica_size)
        for rank in ranks:
            processes.send(rank, m.Resume())

    def _fail(self, error: Exception) -> None:
        """Ends the ranks, and all running requests with an error."""
        if self._processes is not None:
            self._processes.end()
        self._end_requests(error)

    def _end_requests(self, error: Exception) -> None:
        for request in self._requests.values():
            request.fail(error)
            request.active.clear()
        self._requests.clear()
        self._processes = None


def importable_plugins(plugins: Sequence[str] = ()) -> list[str]:
    """The modules that other processes of an engine import: these, and those of the current registrations.

    ValueError if one is the script itself, which other processes do not import.
    """
    modules = [*plugins, *FAMILIES.modules, *CACHES.modules]
    if "__main__" in modules:
        raise ValueError(
            "a cache or a model family was registered in the script itself; with several processes it "
            "must be registered in a module that the script imports, so that each process can import it "
            "too"
        )
    return modules


def closed() -> Cancelled:
    return Cancelled("the engine was closed")


def cancel(processes: Processes, number: int) -> None:
    """Makes the ranks stop a request before its next step."""
    for rank in range(len(processes)):
        processes.send(rank, m.Cancel(number))


def handle_log(message: m.Log) -> None:
    """Handles a rank's log record here."""
    record = logging.makeLogRecord(vars(message))
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)
