"""Jobs in a database: accepted once, claimed by one worker at a time, finished once.

A job is queued, in_progress, completed or failed. Every change is one SQL statement whose condition checks
the expected state, so that a worker that was considered dead cannot change a job.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import sqlalchemy as sql

from videosys.utils.logging import get_logger

ATTEMPTS = 3  # a job is queued again at most twice
ORDERS = ("asc", "desc")
BUSY_SECONDS = 30.0
LEAST_LATER = 1e-3  # seconds between the start times of two jobs
OURS = (sql.exc.IntegrityError, sql.exc.DataError, sql.exc.ProgrammingError)  # caused by a statement
LOG = get_logger("serve")


class StoreAway(Exception):
    """The database cannot be reached or written now; the same call can succeed later."""


@dataclass(frozen=True)
class Job:
    """A row of the table. Times are Unix seconds.

    number: in the order of acceptance. request: the client's request as JSON. body_hash: of the request's
    bytes, to check repeated requests with the same `idempotency_key`. attempt: number of starts by a worker.
    stage, step, steps, eta: of the last `StepProgress`.
    """

    id: str
    owner: str
    prompt: str
    request: str
    size: str
    frames: int
    fps: float
    seed: int
    created: float
    status: str = "queued"
    number: int | None = None
    idempotency_key: str | None = None
    body_hash: str = ""
    attempt: int = 0
    worker: str | None = None
    started: float | None = None
    ended: float | None = None
    error: str | None = None
    stage: str | None = None
    step: int = 0
    steps: int = 0
    eta: float | None = None
    computed: str | None = None

    @property
    def changes(self) -> dict[str, Any]:
        """The fields of the config that the request changes."""
        return json.loads(self.request)

    @property
    def files(self) -> str:
        """The stem of the job's file names; it differs for each attempt."""
        return self.files_of(self.attempt)

    def files_of(self, attempt: int) -> str:
        """As `files`, of any attempt."""
        return f"{self.id}-{attempt}"


TYPES: Mapping[str, Any] = {
    "str": sql.Text,
    "str | None": sql.Text,
    "int": sql.BigInteger,
    "int | None": sql.BigInteger,
    "float": sql.Double,
    "float | None": sql.Double,
}
FAILED_TOO_OFTEN = "the worker process ended three times while generating this video"


def job_table(metadata: sql.MetaData) -> sql.Table:
    """The table, with one column per field of `Job`."""
    columns = [
        sql.Column(item.name, TYPES[str(item.type)], nullable="None" in str(item.type))
        for item in fields(Job)
        if item.name != "number"
    ]
    # SQLite increments automatically only with this type.
    number = sql.Column("number", sql.BigInteger().with_variant(sql.Integer, "sqlite"), primary_key=True)
    return sql.Table(
        "jobs",
        metadata,
        number,
        *columns,
        sql.UniqueConstraint("id"),
        sql.UniqueConstraint("owner", "idempotency_key"),
        sql.Index("jobs_status", "status", "number"),
        sql.Index("jobs_owner", "owner", "started"),
    )


class Store:
    """The jobs of one service. Several threads and processes may use it.

    All methods raise StoreAway while the database cannot be reached; one line is logged when that begins,
    and one when it ends.
    """

    def __init__(self, url: str):
        """url: for SQLAlchemy. ValueError if no database can be opened there."""
        self.jobs = job_table(sql.MetaData())
        self._is_away = False
        try:
            self.engine = sql.create_engine(url, pool_pre_ping=True)
            if self.engine.dialect.name == "sqlite":
                sql.event.listen(self.engine, "connect", set_up_sqlite)
            self.jobs.metadata.create_all(self.engine)
        except (sql.exc.SQLAlchemyError, ImportError) as error:
            reason = reason_of(error)
            shown = sql.engine.make_url(url).render_as_string() if "://" in url else url
            raise ValueError(f"--database {shown}: cannot be opened: {reason}") from error

    def close(self) -> None:
        self.engine.dispose()

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sql.Connection]:
        """A connection, whose changes are stored together at the end of the `with` block."""
        try:
            with self.engine.begin() as connection:
                yield connection
        except OURS:
            raise
        except sql.exc.SQLAlchemyError as error:
            if not self._is_away:
                LOG.error("the database cannot be used, trying again: %s", reason_of(error))
            self._is_away = True
            raise StoreAway(reason_of(error)) from error
        if self._is_away:
            self._is_away = False
            LOG.warning("the database can be used again")

    # For the server.

    def add(self, job: Job) -> Job:
        """Store a job and return it, or return the earlier job with the same idempotency key."""
        values = {item.name: getattr(job, item.name) for item in fields(Job) if item.name != "number"}
        try:
            with self._connection() as connection:
                connection.execute(sql.insert(self.jobs).values(values))
        except sql.exc.IntegrityError:
            found = self.earlier(job.owner, job.idempotency_key)
            if found is None:
                raise
            return found
        return job

    def earlier(self, owner: str, idempotency_key: str | None) -> Job | None:
        """The job of the owner's earlier request with this key, or None."""
        if idempotency_key is None:
            return None
        same = (self.jobs.c.owner == owner, self.jobs.c.idempotency_key == idempotency_key)
        return self._first(sql.select(self.jobs).where(*same))

    def get(self, owner: str, name: str) -> Job | None:
        """An owner's job, or None."""
        return self._first(sql.select(self.jobs).where(self.jobs.c.id == name, self.jobs.c.owner == owner))

    def page(self, owner: str, after: str | None, limit: int, order: str) -> list[Job]:
        """Up to `limit` jobs of an owner that follow the one named `after`. order asc: oldest first."""
        column = self.jobs.c.number
        query = sql.select(self.jobs).where(self.jobs.c.owner == owner)
        if after is not None:
            place = sql.select(column).where(self.jobs.c.id == after).scalar_subquery()
            query = query.where(column > place if order == "asc" else column < place)
        query = query.order_by(column.asc() if order == "asc" else column.desc()).limit(limit)
        with self._connection() as connection:
            return [as_job(row) for row in connection.execute(query)]

    def remove(self, owner: str, name: str) -> Job | None:
        """Remove a job and return it; None if it does not exist. A worker that runs it then stops."""
        chosen = (self.jobs.c.id == name, self.jobs.c.owner == owner)
        return self._changed(sql.delete(self.jobs).where(*chosen))

    def ahead(self, job: Job) -> int:
        """The number of queued jobs that were accepted before this one."""
        waiting = (self.jobs.c.status == "queued", self.jobs.c.number < job.number)
        with self._connection() as connection:
            return connection.scalar(sql.select(sql.func.count()).where(*waiting)) or 0

    def counts(self) -> dict[str, int]:
        """The number of jobs by status."""
        query = sql.select(self.jobs.c.status, sql.func.count()).group_by(self.jobs.c.status)
        with self._connection() as connection:
            return {str(row[0]): int(row[1]) for row in connection.execute(query)}

    def finished_files(self) -> set[str]:
        """The stems of the file names of all completed jobs."""
        query = sql.select(self.jobs).where(self.jobs.c.status == "completed")
        with self._connection() as connection:
            return {as_job(row).files for row in connection.execute(query)}

    def release(
        self, worker: str | None = None, *, is_counted: bool = True, error: str = FAILED_TOO_OFTEN
    ) -> None:
        """Queue the jobs of an ended worker, or of all workers, again. Jobs with too many attempts fail.

        is_counted: false if the worker was asked to end. error: of jobs that fail.
        """
        chosen = [self.jobs.c.status == "in_progress"]
        if worker is not None:
            chosen.append(self.jobs.c.worker == worker)
        again: dict[str, Any] = {
            "status": "queued",
            "worker": None,
            "stage": None,
            "step": 0,
            "steps": 0,
            "eta": None,
        }
        if not is_counted:
            again["attempt"] = self.jobs.c.attempt - 1
        failed = {"status": "failed", "error": error, "ended": time.time(), "worker": None}
        with self._connection() as connection:
            if is_counted:
                too_often = self.jobs.c.attempt >= ATTEMPTS
                connection.execute(sql.update(self.jobs).where(*chosen, too_often).values(failed))
            connection.execute(sql.update(self.jobs).where(*chosen).values(again))

    # For the workers.

    def claim(self, worker: str) -> Job | None:
        """The next job for a worker; None if none is queued.

        Owners take turns: the owner whose last job started longest ago comes first. A clock that was set
        back does not change that: `started` is later than that of all earlier jobs.
        """
        other, now = self.jobs.alias(), time.time()
        latest = sql.select(sql.func.max(other.c.started)).scalar_subquery()
        served = sql.select(sql.func.max(other.c.started)).where(other.c.owner == self.jobs.c.owner)
        waiting = (
            sql.select(self.jobs.c.number)
            .where(self.jobs.c.status == "queued")
            .order_by(sql.func.coalesce(served.scalar_subquery(), 0.0), self.jobs.c.number)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        begun: dict[str, Any] = {"status": "in_progress", "worker": worker}
        begun["started"] = sql.case((latest >= now, latest + LEAST_LATER), else_=now)
        chosen = (self.jobs.c.number == waiting.scalar_subquery(), self.jobs.c.status == "queued")
        change = sql.update(self.jobs).where(*chosen)
        return self._changed(change.values(begun | {"attempt": self.jobs.c.attempt + 1}))

    def report(self, job: Job, **values: Any) -> bool:
        """Store a worker's report on its job; False if the job no longer belongs to this worker."""
        own = (
            self.jobs.c.id == job.id,
            self.jobs.c.worker == job.worker,
            self.jobs.c.attempt == job.attempt,
            self.jobs.c.status == "in_progress",
        )
        return self._changed(sql.update(self.jobs).where(*own).values(values)) is not None

    def finish(self, job: Job, *, error: str | None = None, computed: str | None = None) -> bool:
        """Finish a job, as failed if `error` is set; False if it no longer belongs to this worker."""
        status = "completed" if error is None else "failed"
        ended = {"status": status, "error": error, "computed": computed, "ended": time.time(), "worker": None}
        return self.report(job, **ended, eta=None)

    def _first(self, query: sql.Select) -> Job | None:
        with self._connection() as connection:
            row = connection.execute(query).first()
        return None if row is None else as_job(row)

    def _changed(self, change: Any) -> Job | None:
        """The row that a statement changed or removed."""
        with self._connection() as connection:
            row = connection.execute(change.returning(self.jobs)).first()
        return None if row is None else as_job(row)


def reason_of(error: Exception) -> str:
    """The database's message about an error, in one line."""
    return str(getattr(error, "orig", None) or error).strip().splitlines()[0]


def as_job(row: sql.Row) -> Job:
    return Job(**row._asdict())


def set_up_sqlite(connection: Any, _record: Any) -> None:
    """Configure SQLite: readers do not wait for writers, and commits survive a power failure."""
    cursor = connection.cursor()
    for setting in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={int(1000 * BUSY_SECONDS)}"):
        cursor.execute(f"PRAGMA {setting}")
    cursor.close()
