"""Prometheus metrics of the service."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator

from fastapi import Request, Response
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from videosys.serve.store import Store, StoreAway
from videosys.serve.workers import AnyWorkers

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
STATUSES = ("queued", "in_progress", "completed", "failed")


class Metrics:
    """Counters of this server, and the job counts in the database at the time of the request."""

    def __init__(self, store: Store, workers: AnyWorkers):
        self.store, self.workers = store, workers
        self.registry = CollectorRegistry()
        labels = ("method", "route", "status")
        self.requests = Counter("videosys_http_requests", "Answers", labels, registry=self.registry)
        self.seconds = Histogram(
            "videosys_http_seconds", "Response time in seconds", ("route",), registry=self.registry
        )
        self.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Called by the registry: the current jobs and workers."""
        with contextlib.suppress(StoreAway):  # the jobs are unknown
            counts = self.store.counts()
            jobs = GaugeMetricFamily("videosys_jobs", "Jobs by status", labels=["status"])
            for status in STATUSES:
                jobs.add_metric([status], counts.get(status, 0))
            yield jobs
        yield GaugeMetricFamily("videosys_workers_alive", "Worker processes", value=self.workers.alive)
        restarts = self.workers.restarts
        yield GaugeMetricFamily("videosys_worker_restarts", "Workers that ended", value=restarts)

    def describe(self) -> list[Metric]:
        return []  # do not query the database at registration

    def text(self) -> str:
        return generate_latest(self.registry).decode()

    async def measure(
        self, request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        """Middleware that counts responses. Labels have a fixed set of values: videos are counted under the
        pattern of their route, and all unknown methods as one.
        """
        begin, status = time.perf_counter(), 500  # for an error that an outer handler answers
        try:
            response = await call_next(request)
            status = response.status_code
            return response
        finally:
            route = getattr(request.scope.get("route"), "path", "none")
            method = request.method if request.method in METHODS else "other"
            self.requests.labels(method, route, str(status)).inc()
            self.seconds.labels(route).observe(time.perf_counter() - begin)
