"""Jobs in a database: accepted, claimed and finished once, whoever is killed; fair between owners."""

from __future__ import annotations

import sqlite3
import threading

import pytest

pytest.importorskip("sqlalchemy", reason="the extra 'serve' is not installed: pip install -e '.[serve]'")

import sqlalchemy as sql

from tests.postgres import started
from videosys.serve.store import ATTEMPTS, FAILED_TOO_OFTEN, Job, Store, StoreAway


@pytest.fixture(scope="module")
def postgres():
    with started() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def url(request, tmp_path):
    """The URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'jobs.sqlite'}"
    url = request.getfixturevalue("postgres")
    store = Store(url)
    store.jobs.drop(store.engine)
    store.close()
    return url


@pytest.fixture
def store(url):
    store = Store(url)
    yield store
    store.close()


def job(name, owner="a", **more):
    return Job(name, owner, "a cross", "{}", "64x64", 17, 12.0, 3, 100.0, **more)


def add(store, *names, **more):
    return [store.add(job(name, **more)) for name in names]


def status(store, name, owner="a"):
    found = store.get(owner, name)
    return found.status, found.attempt, found.worker


def test_a_job_is_claimed_in_order_reported_and_finished(store):
    add(store, "one", "two")
    first = store.claim("w1")
    assert (first.id, first.status, first.attempt, first.worker) == ("one", "in_progress", 1, "w1")
    assert store.claim("w2").id == "two"
    assert store.claim("w3") is None
    assert store.report(first, stage="denoise", step=2, steps=6, eta=1.5)
    assert store.get("a", "one").step == 2
    assert store.finish(first, computed="computed 4 of 6 steps")
    done = store.get("a", "one")
    assert (done.status, done.computed, done.worker, done.eta) == (
        "completed",
        "computed 4 of 6 steps",
        None,
        None,
    )
    assert not store.finish(first, error="late")
    assert not store.report(first, step=3)
    assert store.get("a", "one") == done
    assert store.counts() == {"completed": 1, "in_progress": 1}


def test_jobs_are_seen_by_their_owner_only(store):
    add(store, "one")
    assert store.get("b", "one") is None
    assert store.remove("b", "one") is None
    assert store.page("b", None, 10, "asc") == []
    assert store.get("a", "one").id == "one"


def test_pages_go_on_behind_a_job(store):
    add(store, *"abcde")
    assert [item.id for item in store.page("a", None, 2, "desc")] == ["e", "d"]
    assert [item.id for item in store.page("a", "d", 2, "desc")] == ["c", "b"]
    assert [item.id for item in store.page("a", "b", 9, "asc")] == ["c", "d", "e"]
    assert store.page("a", "unknown", 9, "asc") == []


def test_a_job_of_a_dead_worker_is_queued_again_at_most_twice(store):
    add(store, "one", "two")
    for attempt in range(1, ATTEMPTS + 1):
        assert store.claim(f"w{attempt}").id == "one"
        store.release("another")
        assert status(store, "one") == ("in_progress", attempt, f"w{attempt}")
        store.release(f"w{attempt}")
    failed = store.get("a", "one")
    assert (failed.status, failed.error, failed.attempt) == ("failed", FAILED_TOO_OFTEN, ATTEMPTS)
    assert store.claim("w").id == "two"


def test_a_job_that_was_given_back_may_be_begun_as_often_as_before(store):
    add(store, "one")
    for _ in range(2 * ATTEMPTS):
        assert store.claim("w").attempt == 1
        store.release("w", is_counted=False)
    assert status(store, "one") == ("queued", 0, None)


def test_a_worker_that_was_thought_dead_changes_nothing(store):
    add(store, "one")
    old = store.claim("w1")
    store.release()
    assert not store.report(old, step=1)
    assert not store.finish(old, computed="late")
    new = store.claim("w1")  # even one of the same name
    assert not store.finish(old, computed="late")
    assert store.finish(new, computed="in time")
    store.release()
    assert store.get("a", "one").computed == "in time"


def test_a_finished_job_is_never_made_again(store):
    add(store, "one")
    store.finish(store.claim("w"), computed="")
    for _ in range(3):
        store.release("w")
        store.release()
    assert status(store, "one")[0] == "completed"
    assert store.claim("w") is None
    assert store.finished_files() == {"one-1"}


def test_a_removed_job_is_lost_to_its_worker(store):
    add(store, "one", "two")
    begun = store.claim("w")
    assert store.remove("a", "one").files == "one-1"
    assert not store.report(begun, step=1)
    assert not store.finish(begun, computed="")
    assert store.remove("a", "one") is None
    assert store.remove("a", "two").status == "queued"
    assert store.claim("w") is None


def test_owners_take_turns(store):
    add(store, *[f"a{number}" for number in range(6)], owner="a")
    add(store, "b0", "b1", owner="b")
    add(store, "c0", owner="c")
    order = []
    while (claimed := store.claim("w")) is not None:
        order.append(claimed.id)
        store.finish(claimed, computed="")
    assert order[:3] == ["a0", "b0", "c0"]
    assert order.index("b1") <= 4
    assert len(order) == len(set(order)) == 9


def test_owners_take_turns_also_where_the_clock_is_set_back(store, monkeypatch):
    add(store, "a0", "a1", "a2", owner="a")
    add(store, "b0", "b1", "b2", owner="b")
    order = []
    for now in (9000.0, 9001.0, 5000.0, 5001.0, 5002.0, 5003.0):
        monkeypatch.setattr("time.time", lambda now=now: now)
        order.append(store.claim("w").id)
    assert order == ["a0", "b0", "a1", "b1", "a2", "b2"]


def test_a_database_that_is_away_is_told_once_and_used_when_it_is_back(store, monkeypatch, caplog):
    original = store.engine.begin

    def refused():
        raise sql.exc.OperationalError("SELECT", {}, OSError("connection refused\nis it running?"))

    monkeypatch.setattr(store.engine, "begin", refused)
    calls = (
        lambda: store.add(job("one")),
        lambda: store.get("a", "one"),
        lambda: store.page("a", None, 5, "asc"),
        lambda: store.claim("w"),
        lambda: store.counts(),
        lambda: store.release(),
        lambda: store.finished_files(),
        lambda: store.remove("a", "one"),
    )
    for call in calls:
        with pytest.raises(StoreAway, match=r"^connection refused$"):
            call()
    monkeypatch.setattr(store.engine, "begin", original)
    add(store, "one")
    assert store.claim("w").id == "one"
    assert [record.message for record in caplog.records] == [
        "the database cannot be used, trying again: connection refused",
        "the database can be used again",
    ]


def test_the_same_idempotency_key_is_the_same_job(store):
    (first,) = add(store, "one", idempotency_key="k", body_hash="x")
    (again,) = add(store, "two", idempotency_key="k", body_hash="y")
    assert (again.id, again.body_hash) == ("one", "x")
    assert add(store, "three", idempotency_key="k", owner="b")[0].id == "three"
    assert add(store, "four", "five")[1].id == "five"  # no key is no key
    assert store.counts() == {"queued": 4}
    assert first.id == "one"


def test_many_workers_claim_each_job_once(store, url):
    add(store, *(f"j{number}" for number in range(40)))
    claimed, lock = [], threading.Lock()

    def work(name):
        own = Store(url)
        while (found := own.claim(name)) is not None:
            with lock:
                claimed.append(found.id)
            own.finish(found, computed="")
        own.close()

    threads = [threading.Thread(target=work, args=(f"w{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == sorted(f"j{number}" for number in range(40))


def test_sqlite_is_read_while_it_is_written(tmp_path):
    Store(f"sqlite:///{tmp_path / 'jobs.sqlite'}").close()
    connection = sqlite3.connect(tmp_path / "jobs.sqlite")
    assert connection.execute("pragma journal_mode").fetchone() == ("wal",)
    connection.close()


def test_jobs_outlive_the_process(store, url):
    add(store, "one", "two")
    store.claim("w")
    other = Store(url)
    other.release()
    assert status(other, "one") == ("queued", 1, None)
    assert other.ahead(other.get("a", "two")) == 1
    other.close()


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "nonsense",
        "sqlite:////no/such/folder/x.sqlite",
        "nodialect://x",
        "postgresql+psycopg://u:secretive@127.0.0.1:1/x",
    ],
)
def test_a_database_that_cannot_be_opened_is_one_error_without_its_password(bad):
    with pytest.raises(ValueError, match=r"^--database .*: cannot be opened: ") as info:
        Store(bad)
    assert "secretive" not in str(info.value)
    assert "\n" not in str(info.value)
