"""Checks before the routes: rate limits, the size of request bodies, and requests from other sites."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

from videosys.serve.answers import ApiError

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
MINUTE = 60.0
OWNERS_KEPT = 10_000
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class Rate:
    """Limits the number of requests of each owner per minute."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic):
        self.per_minute, self.clock = per_minute, clock
        self._times: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def check(self, owner: str) -> None:
        """Count a request. ApiError 429 if the owner is over the limit."""
        now = self.clock()
        with self._lock:
            if len(self._times) > OWNERS_KEPT:
                self._times = {name: times for name, times in self._times.items() if times[-1] > now - MINUTE}
            times = self._times.setdefault(owner, deque())
            while times and times[0] <= now - MINUTE:
                times.popleft()
            if len(times) >= self.per_minute:
                wait = max(1, round(times[0] + MINUTE - now))
                text = f"the limit is {self.per_minute} videos per minute; try again in {wait} s"
                raise ApiError(429, text, "rate_limit_exceeded", **{"Retry-After": str(wait)})
            times.append(now)


class Body:
    """ASGI middleware: rejects a body of more than `most` bytes without reading all of it."""

    def __init__(self, app: Any, most: int):
        self.app, self.most = app, most

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self.most:
            await self._error().response()(scope, receive, send)
            return
        received = 0

        async def counted() -> MutableMapping[str, Any]:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.most:
                raise self._error()
            return message

        await self.app(scope, counted, send)

    def _error(self) -> ApiError:
        return ApiError(413, f"the limit for a request is {self.most} bytes", "request_too_large")


def check_site(host: str, headers: Mapping[str, str]) -> None:
    """ApiError 403 for a request that a browser sends on behalf of another site's page.

    host: address to which the server is bound. On the loopback, only the loopback's host names are accepted,
    which prevents DNS rebinding.
    """
    asked = site(f"//{headers.get('host', '')}")
    if host in LOOPBACK and (asked is None or asked.hostname not in LOOPBACK):
        raise ApiError(403, "this service accepts only the hosts 127.0.0.1 and localhost", "forbidden")
    origin = headers.get("origin")
    if origin is None:
        return
    own = site(origin)
    if asked is None or own is None or own.netloc != asked.netloc:
        raise ApiError(403, "requests from other sites are refused", "forbidden")


def site(address: str) -> SplitResult | None:
    """The parts of an address; None for text that is not one."""
    try:
        return urlsplit(address)
    except ValueError:  # such as an open bracket
        return None
