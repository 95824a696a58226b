"""The routes of the service."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from videosys.serve import answers
from videosys.serve.answers import ApiError
from videosys.serve.bodies import read_body
from videosys.serve.files import VARIANTS, path_of, remove_files
from videosys.serve.guards import Body, Rate, check_site
from videosys.serve.metrics import Metrics
from videosys.serve.pages import add_page, describe_model
from videosys.serve.requests import BadRequest, Checker, VideoRequest
from videosys.serve.settings import Keys
from videosys.serve.store import ORDERS, Job, Store, StoreAway
from videosys.serve.workers import AnyWorkers
from videosys.utils.logging import get_logger
from videosys.utils.typed import listing

LONGEST_KEY = 200  # maximum characters of an Idempotency-Key
LONGEST_PAGE = 100
VIDEO_ID = re.compile(r"video_[0-9a-f]{32}")
RETRY_SECONDS = 5  # for clients, while the database cannot be used
LOG = get_logger("serve")


@dataclass
class Service:
    """The state and operations behind the routes. host: address to which the server is bound."""

    checker: Checker
    store: Store
    workers: AnyWorkers
    keys: Keys
    folder: Path
    host: str = "127.0.0.1"

    def __post_init__(self) -> None:
        self.limits = self.checker.limits
        self.about = describe_model(self.checker)
        self.rate = Rate(self.limits.per_minute)
        self.metrics = Metrics(self.store, self.workers)
        self._accepting = threading.Lock()  # otherwise simultaneous requests could exceed the limit

    def owner(self, request: Request) -> str:
        """The owner of a request. ApiError 401 without a valid key, 403 for a request from another site."""
        check_site(self.host, request.headers)
        owner = self.keys.owner(request.headers.get("authorization", ""))
        if owner is None:
            text = "a valid API key is required: Authorization: Bearer KEY"
            raise ApiError(401, text, "invalid_api_key", **{"WWW-Authenticate": "Bearer"})
        return owner

    def accept(self, owner: str, body: Mapping[str, Any], raw: bytes, idempotency_key: str | None) -> Job:
        """Store the job of a request in the database and return it.

        Limits do not apply to a request that is repeated with its Idempotency-Key.
        """
        asked = hashlib.sha256(raw).hexdigest()
        job = self.store.earlier(owner, idempotency_key)
        if job is None:
            self.rate.check(owner)
            new = new_job(owner, self.checker.check(body), idempotency_key, asked)
            with self._accepting:
                self._check_queue()
                job = self.store.add(new)
        if job.body_hash != asked:
            text = "this Idempotency-Key was used with another request"
            raise ApiError(422, text, "idempotency_mismatch", "Idempotency-Key")
        return job

    def _check_queue(self) -> None:
        """ApiError 429 if the queue is full."""
        if self.store.counts().get("queued", 0) >= self.limits.queue:
            text = f"the queue is full: {self.limits.queue} videos are queued"
            raise ApiError(429, text, "queue_full", **{"Retry-After": "10"})

    def find(self, owner: str, name: str) -> Job:
        """An owner's job. ApiError 404 if it does not exist."""
        job = self.store.get(owner, name) if VIDEO_ID.fullmatch(name) else None
        if job is None:
            raise answers.not_found(name)
        return job

    def shown(self, job: Job) -> dict[str, Any]:
        """The response for a job."""
        ahead = self.store.ahead(job) if job.status == "queued" and job.number is not None else None
        return answers.video(job, self.checker.model, ahead)

    def page(self, owner: str, after: str | None, limit: str, order: str) -> dict[str, Any]:
        """A page of an owner's jobs. ApiError 400 for wrong parameters, 404 if `after` does not exist."""
        count = number_of(limit)
        if order not in ORDERS:
            text = f"order is {order[:40]!r}; it must be one of {listing(ORDERS)}"
            raise ApiError(400, text, "invalid_value", "order")
        if after is not None:
            self.find(owner, after)
        jobs = self.store.page(owner, after, count + 1, order)
        return answers.page([self.shown(job) for job in jobs[:count]], len(jobs) > count)

    def content(self, owner: str, name: str, variant: str) -> Response:
        """A file of a finished job, or the range of it that the request names."""
        if variant not in VARIANTS:
            text = f"variant is {variant[:40]!r}; it must be one of {listing(VARIANTS)}"
            raise ApiError(400, text, "invalid_value", "variant")
        job = self.find(owner, name)
        path = path_of(self.folder, job, variant)
        if job.status != "completed" or not path.is_file():
            raise ApiError(404, f"the video is not ready; its status is {job.status}", "not_ready")
        suffix, kind = VARIANTS[variant]
        return FileResponse(
            path, media_type=kind, filename=f"{job.id}{suffix}", content_disposition_type="inline"
        )

    def remove(self, owner: str, name: str) -> dict[str, Any]:
        """Remove a job and its files; a running job is stopped."""
        job = self.store.remove(owner, name) if VIDEO_ID.fullmatch(name) else None
        if job is None:
            raise answers.not_found(name)
        for attempt in range(1, job.attempt + 2):  # one that was given back is not counted
            remove_files(self.folder, job.files_of(attempt))
        return {"id": job.id, "object": "video.deleted", "deleted": True}

    def health(self) -> JSONResponse:
        """The health of the service: the database must respond and a worker must be alive."""
        alive, counts = self.workers.alive, None
        status = "ok" if alive else "no worker is alive"
        try:
            counts = self.store.counts()
        except StoreAway:
            status = "the database cannot be used"
        content = {"status": status, "workers": alive, "jobs": counts}
        return JSONResponse(content, 200 if status == "ok" else 503)


def number_of(limit: str) -> int:
    """The number of videos on a page. ApiError 400 for anything but 1 to `LONGEST_PAGE`."""
    count = int(limit) if limit.isascii() and limit.isdecimal() and len(limit) < 9 else 0
    if not 1 <= count <= LONGEST_PAGE:
        text = f"limit is {limit[:40]!r}; it must be a whole number from 1 to {LONGEST_PAGE}"
        raise ApiError(400, text, "invalid_value", "limit")
    return count


def new_job(owner: str, request: VideoRequest, idempotency_key: str | None, body_hash: str) -> Job:
    """The job of a request."""
    config = request.config
    height, width = config.size
    return Job(
        id=f"video_{uuid.uuid4().hex}",
        owner=owner,
        prompt=request.prompt,
        request=json.dumps(request.changes),
        size=f"{width}x{height}",
        frames=config.output_frames,
        fps=float(config.fps),
        seed=config.seed,
        created=time.time(),
        idempotency_key=idempotency_key,
        body_hash=body_hash,
    )


def build_app(service: Service) -> FastAPI:
    """The application. Work that may wait for the disk runs in threads."""
    app = FastAPI(title="videosys", docs_url=None, redoc_url=None)
    add_routes(app, service)
    add_status_routes(app, service)
    add_page(app)
    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(BadRequest, bad_request)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(StoreAway, store_away)
    app.add_exception_handler(ClientDisconnect, client_gone)
    app.add_exception_handler(Exception, unexpected)
    app.add_middleware(Body, most=service.limits.body)
    app.middleware("http")(service.metrics.measure)
    return app


def add_routes(app: FastAPI, service: Service) -> None:
    @app.post("/v1/videos")
    async def create(request: Request) -> JSONResponse:
        owner = service.owner(request)
        key = request.headers.get("idempotency-key")
        if key is not None and not 0 < len(key) <= LONGEST_KEY:
            text = f"Idempotency-Key has {len(key)} characters; it must have 1 to {LONGEST_KEY}"
            raise ApiError(400, text, "invalid_value", "Idempotency-Key")
        body, raw = await read_body(request)
        job = await run_in_threadpool(service.accept, owner, body, raw, key)
        return JSONResponse(await run_in_threadpool(service.shown, job))

    @app.get("/v1/videos")
    def page(request: Request, after: str | None = None, limit: str = "20", order: str = "desc") -> Any:
        owner = service.owner(request)
        return service.page(owner, after, limit, order)

    @app.get("/v1/videos/{name}")
    def get(request: Request, name: str) -> dict[str, Any]:
        return service.shown(service.find(service.owner(request), name))

    @app.get("/v1/videos/{name}/content")
    def content(request: Request, name: str, variant: str = "video") -> Response:
        return service.content(service.owner(request), name, variant)

    @app.delete("/v1/videos/{name}")
    def remove(request: Request, name: str) -> dict[str, Any]:
        return service.remove(service.owner(request), name)


def add_status_routes(app: FastAPI, service: Service) -> None:
    @app.get("/v1/models")
    def models(request: Request) -> dict[str, Any]:
        service.owner(request)
        card = answers.model_card(service.checker.model) | service.about
        return {"object": "list", "data": [card]}

    @app.get("/v1/models/{name}")
    def model(request: Request, name: str) -> dict[str, Any]:
        service.owner(request)
        if name != service.checker.model:
            raise ApiError(404, f"model {name[:80]!r} does not exist", "model_not_found", "model")
        return answers.model_card(name) | service.about

    @app.get("/health")
    def health() -> JSONResponse:
        return service.health()

    @app.get("/metrics")
    def metrics() -> PlainTextResponse:
        return PlainTextResponse(service.metrics.text(), media_type="text/plain; version=0.0.4")


async def api_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def bad_request(_request: Request, error: Exception) -> Response:
    assert isinstance(error, BadRequest)
    return ApiError(400, str(error), "invalid_value", error.param).response()


async def http_error(_request: Request, error: Exception) -> Response:
    """Unknown routes, wrong methods, and other requests that the framework rejects."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    return ApiError(error.status_code, str(error.detail), "http_error", **headers).response()


async def store_away(_request: Request, _error: Exception) -> Response:
    """The store has logged it."""
    text, retry = "the job database cannot be used now; try again later", str(RETRY_SECONDS)
    return ApiError(503, text, "database_unavailable", **{"Retry-After": retry}).response()


async def client_gone(_request: Request, _error: Exception) -> Response:
    """The client closed the connection during its request, so the response is not read."""
    return ApiError(400, "the request is incomplete", "incomplete_request").response()


async def unexpected(request: Request, error: Exception) -> Response:
    """An internal error: logged, not sent to the client."""
    LOG.error("%s %s", request.method, request.url.path, exc_info=error)
    return ApiError(500, "internal error; see the log of the service", "server_error").response()
