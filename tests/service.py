"""A service with a tiny checkpoint, without a server process and without workers, for tests of its routes."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from videosys import load_family_config
from videosys.serve.app import Service, build_app
from videosys.serve.requests import Checker
from videosys.serve.settings import Keys, Limits
from videosys.serve.store import Store

CONFIG = "examples/opensora/tiny.yaml"
KEYS = ("first-key-first-key", "second-key-second-key")
LIMITS = Limits(queue=5, prompt=60, pixels=128 * 128, frames=60, steps=40, per_minute=30, body=4000)


@functools.cache
def checker() -> Checker:
    """The checks of all these services."""
    return Checker(load_family_config(CONFIG), LIMITS)


@contextmanager
def started(folder: Path, keys: Sequence[str] = KEYS) -> Iterator[Service]:
    """A service whose files are in a folder."""
    store = Store(f"sqlite:///{folder / 'jobs.sqlite'}")
    workers = SimpleNamespace(alive=1, restarts=0)
    yield Service(checker(), store, workers, Keys(keys), folder)
    store.close()


def client_of(service: Service, key: str | None = KEYS[0]) -> TestClient:
    """A client that has a key, if any."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    app = build_app(service)
    return TestClient(app, base_url="http://127.0.0.1", headers=headers, raise_server_exceptions=False)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """A service that asks for keys."""
    with started(tmp_path) as made:
        yield made


@pytest.fixture
def client(service: Service) -> TestClient:
    """A client of it, with the first key."""
    return client_of(service)


def error_of(answer: Any, status: int) -> dict[str, str | None]:
    """The error that an answer of this status holds."""
    assert answer.status_code == status, answer.text
    return answer.json()["error"]
