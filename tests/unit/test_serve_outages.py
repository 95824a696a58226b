"""The routes where the video, the database, the rest of a request or a place in the queue is missing."""
# ruff: noqa: F811 (fixtures are imported under the names they are asked for)

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed: pip install -e '.[serve]'")

from tests.service import KEYS, LIMITS, client, client_of, error_of, service  # noqa: F401 (fixtures)
from videosys.serve.app import build_app
from videosys.serve.store import StoreAway


@pytest.mark.parametrize("name", ["video_0", f"video_{0:032x}", "%00", "a%00b", "%ff", "x" * 3000])
def test_what_is_no_video_is_not_found(client, service, monkeypatch, name):
    for function in ("get", "remove"):
        original = getattr(service.store, function)

        def as_postgres(owner, name, original=original):
            assert "\x00" not in name
            return original(owner, name)

        monkeypatch.setattr(service.store, function, as_postgres)
    for answer in (
        client.get(f"/v1/videos/{name}"),
        client.get(f"/v1/videos/{name}/content"),
        client.delete(f"/v1/videos/{name}"),
        client.get(f"/v1/videos?after={name}"),
    ):
        assert error_of(answer, 404)["code"] == "not_found"


def test_requests_at_the_same_time_do_not_pass_the_limit_of_the_queue(service, monkeypatch):
    counts = service.store.counts

    def slow():
        found = counts()
        time.sleep(0.02)
        return found

    monkeypatch.setattr(service.store, "counts", slow)
    client = client_of(service)
    with ThreadPoolExecutor(10) as pool:
        answers = pool.map(lambda _: client.post("/v1/videos", json={"prompt": "a"}).status_code, range(10))
    assert sorted(answers) == [200] * LIMITS.queue + [429] * (10 - LIMITS.queue)


def test_a_database_that_is_away_is_a_503(client, service, monkeypatch):
    def away(*_):
        raise StoreAway("connection refused")

    for name in ("get", "page", "counts", "remove", "earlier"):
        monkeypatch.setattr(service.store, name, away)
    name = f"/v1/videos/video_{0:032x}"
    for answer in (
        client.get("/v1/videos"),
        client.post("/v1/videos", json={"prompt": "a"}),
        client.get(name),
        client.delete(name),
    ):
        assert error_of(answer, 503)["code"] == "database_unavailable"
        assert answer.headers["retry-after"]
    health = client.get("/health")
    assert (health.status_code, health.json()["status"]) == (503, "the database cannot be used")
    text = client.get("/metrics").text
    assert "videosys_workers_alive 1.0" in text
    assert "videosys_jobs" not in text


def test_a_client_that_leaves_within_its_request_is_no_error(service, caplog):
    """Its body ends with the connection."""
    sent = []

    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    headers = {"host": "127.0.0.1", "authorization": f"Bearer {KEYS[0]}", "content-length": "100"}
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": "/v1/videos",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    asyncio.run(build_app(service)(scope, receive, send))
    assert caplog.records == []


def test_other_methods_are_told_which_are_allowed(client):
    answer = client.put("/v1/videos", json={})
    error_of(answer, 405)
    assert answer.headers["allow"]


@pytest.mark.parametrize("is_counted", [True, False])
def test_files_of_a_killed_worker_go_with_the_video(client, service, tmp_path, is_counted):
    name = client.post("/v1/videos", json={"prompt": "a"}).json()["id"]
    killed = service.store.claim("killed")
    file = tmp_path / f"{killed.files}.mp4"
    file.touch()
    service.store.release("killed", is_counted=is_counted)
    assert client.delete(f"/v1/videos/{name}").json()["deleted"]
    assert not file.exists()
