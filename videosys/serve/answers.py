"""Responses of the service, in the format of the OpenAI API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi.responses import JSONResponse

from videosys.serve.files import without_files
from videosys.serve.store import Job

# Shares of the total work in percent, so that the progress never decreases.
DENOISED, DECODED = 90, 99


class ApiError(Exception):
    """An error response."""

    def __init__(self, status: int, message: str, code: str, param: str | None = None, **headers: str):
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.headers = status, message, code, param, headers

    def response(self) -> JSONResponse:
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return JSONResponse({"error": error}, self.status, headers=self.headers)


def not_found(name: str) -> ApiError:
    return ApiError(404, f"video {name[:80]!r} does not exist", "not_found", "video_id")


def video(job: Job, model: str, ahead: int | None = None) -> dict[str, Any]:
    """A job as an OpenAI `Video`, with further fields such as frames, seed and the progress.

    stage, step, of, eta (seconds left): of a job in progress. queue_position: 1 is the next job. settings:
    the config fields that the client set. elapsed: seconds from the start to the end of the work.
    """
    error = None if job.error is None else {"code": "generation_failed", "message": job.error}
    return {
        "id": job.id,
        "object": "video",
        "model": model,
        "status": job.status,
        "progress": percent(job),
        "created_at": int(job.created),
        "completed_at": int(job.ended) if job.status == "completed" and job.ended else None,
        "expires_at": None,
        "prompt": job.prompt,
        "size": job.size,
        "seconds": f"{job.frames / job.fps:.6g}",
        "remixed_from_video_id": None,
        "error": error,
        "frames": job.frames,
        "seed": job.seed,
        "settings": without_files(job.changes),
        "stage": job.stage,
        "step": job.step,
        "of": job.steps,
        "eta": None if job.eta is None else round(job.eta, 1),
        "elapsed": None if not job.started or not job.ended else round(max(0.0, job.ended - job.started), 2),
        "attempt": job.attempt,
        "queue_position": None if ahead is None else ahead + 1,
        "cache": job.computed,
    }


def percent(job: Job) -> int:
    """The progress of a job in percent, 0 to 100."""
    if job.status == "completed":
        return 100
    if not job.steps or job.stage == "encode":
        return 0
    done = job.step / job.steps
    return int(DENOISED * done if job.stage == "denoise" else DENOISED + (DECODED - DENOISED) * done)


def page(items: Sequence[dict[str, Any]], has_more: bool) -> dict[str, Any]:
    """A page of a list."""
    first, last = (items[0]["id"], items[-1]["id"]) if items else (None, None)
    return {"object": "list", "data": [*items], "first_id": first, "last_id": last, "has_more": has_more}


def model_card(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "videosys"}
