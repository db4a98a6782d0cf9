"""Requests that are answered in the background, with progress, and resumed after a restart.

Jobs that index videos wait for each other: one at a time writes to the library.
"""

import json
import logging
import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Literal

from timechat.serving.context import RequestContext
from timechat.serving.database import Database
from timechat.serving.errors import CancelledRequestError, EngineStoppedError, RequestError, busy_error, internal_error
from timechat.serving.http.schemas import JobRequest
from timechat.serving.http.search_requests import IndexRequest
from timechat.serving.library import ServedLibrary
from timechat.serving.progress import ProgressTracker, ProgressUpdate
from timechat.serving.service import Service
from timechat.serving.settings import ServerSettings

logger = logging.getLogger(__name__)

Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]

_MAX_RECORD = 1_000_000
_STOP_SECONDS = 10.0  # maximum time for running jobs to end when the server stops
_MAX_ATTEMPTS = 2  # a job whose server is killed that many times may be what kills it
_TYPICAL_SECONDS = 30.0  # typical time of a job, for `Retry-After`


@dataclass
class Job:
    """A request in the background; its times are in seconds since 1970.

    Attributes:
        id: `job-…`.
        request: The request.
        filename: File name of the video, if the server has its file.
        created_at: Time of creation.
        status: Status.
        started_at: Time of the start; None while the job is queued.
        finished_at: Time of the end; None before it.
        progress: Stage, the finished part `done` that only rises from 0 to `total`, which is 1, and a description.
        result: Answer as JSON; None if there is none.
        error: Error as JSON; None if there is none.
        attempts: Number of starts; one that was ended by a regular stop of the server does not count.
        context: State that the threads of the job share.
    """

    id: str
    request: JobRequest | IndexRequest
    filename: str | None
    created_at: float
    status: Status = "queued"
    started_at: float | None = None
    finished_at: float | None = None
    progress: dict[str, Any] = field(default_factory=lambda: _progress(None, 0.0, None))
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    attempts: int = 0
    context: RequestContext = field(default_factory=RequestContext, repr=False)

    @property
    def is_over(self) -> bool:
        """Whether the job has ended."""
        return self.status in ("succeeded", "failed", "cancelled")

    @property
    def is_index(self) -> bool:
        """Whether the job indexes videos."""
        return isinstance(self.request, IndexRequest)

    def to_dict(self, *, with_result: bool = True) -> dict[str, Any]:
        """Return the job object of the API."""
        video, result = self.request.video, self.result or {}
        job = {
            "id": self.id,
            "object": "job",
            "status": self.status,
            "task": self.request.task,
            "query": self.request.query,
            "video": video if isinstance(video, str) else None,
            "filename": self.filename,
            "created_at": self.created_at,
            "started_at": self.started_at,
            "finished_at": self.finished_at,
            "progress": self.progress,
            "found": result.get("found"),
            "num_events": len(result["events"]) if "events" in result else None,
            "error": self.error,
        }
        return job | {"result": self.result} if with_result else job

    def to_record(self) -> dict[str, Any]:
        """Return the record in the database, from which the job can be resumed."""
        return self.to_dict() | {"request": self.request.model_dump(mode="json"), "attempts": self.attempts}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "Job":
        """Read a record of `to_record`."""
        kept = ("id", "filename", "created_at", "status", "started_at", "finished_at", "progress", "result", "error")
        kind = IndexRequest if record["task"] == "index" else JobRequest
        job = cls(request=kind.model_validate(record["request"]), **{name: record[name] for name in kept})
        job.attempts = record.get("attempts", 0)  # records of version 0.2 have none
        if job.progress["total"] != 1:  # a record of version 0.2
            done = 1.0 if job.status == "succeeded" else 0.0
            job.progress = _progress(job.progress["stage"], done, None)
        return job


def _crash_error() -> RequestError:
    return RequestError(
        500,
        f"the server ended {_MAX_ATTEMPTS} times while this job was running, so it is not tried again; ask about a "
        "shorter part of the video, or fewer frames, and look at the server's log",
        code="server_crashed",
    )


def _progress(stage: str | None, done: float, message: str | None) -> dict[str, Any]:
    return {"stage": stage, "done": done, "total": 1, "message": message}


class Jobs:
    """The queue of jobs, and the threads that run them."""

    def __init__(self, service: Service, settings: ServerSettings, database: Database, library: ServedLibrary) -> None:
        """Load the jobs of an earlier server; they run after `start`."""
        self._service, self._settings, self._database, self._library = service, settings, database, library
        self._jobs = {record["id"]: Job.from_record(record) for record in reversed(database.load_jobs())}
        for job in self._jobs.values():
            if job.status == "running":  # its server was stopped or killed; finished windows are in the cache
                job.status, job.started_at = "queued", None
                if job.attempts >= _MAX_ATTEMPTS:
                    job.status, job.error, job.finished_at = "failed", _crash_error().to_dict()["error"], time.time()
                self._save(job)
        self._changed = threading.Condition()
        self._is_stopping = False
        self._threads = [
            threading.Thread(target=self._run, name=f"timechat-job-{i}", daemon=True)
            for i in range(settings.job_workers)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop; the next server resumes the running jobs."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        for job in self.list_jobs():
            if job.status == "running":
                job.context.cancel(EngineStoppedError("the server is shutting down"))
        self._service.engine.wake()
        end = time.monotonic() + _STOP_SECONDS
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, end - time.monotonic()))

    def add(self, request: JobRequest, filename: str | None) -> Job:
        """Add a job to the end of the queue.

        Raises:
            RequestError: Too many jobs wait (429), or the request is wrong.
        """
        if not isinstance(request.video, str) or request.video[:5].lower() == "data:":
            raise RequestError(400, "a job needs the id or address of a video; upload it first, at /v1/files", "video")
        self._service.check(request.to_request(request.task))
        return self._enqueue(request, filename)

    def add_index(self, request: IndexRequest) -> Job:
        """Add a job that indexes videos.

        Raises:
            RequestError: Too many jobs wait (429), or the request is wrong.
        """
        self._library.check(request.to_task())
        return self._enqueue(request, None)

    def _enqueue(self, request: JobRequest | IndexRequest, filename: str | None) -> Job:
        with self._changed:
            waiting = sum(job.status == "queued" for job in self._jobs.values())
            if waiting >= self._settings.max_waiting_jobs:
                raise busy_error(f"{waiting} jobs wait already", _TYPICAL_SECONDS)
            job = Job(f"job-{secrets.token_hex(12)}", request, filename, time.time())
            if len(json.dumps(job.to_record())) > _MAX_RECORD:
                raise RequestError(
                    413, f"a job may have {_MAX_RECORD} characters, its transcript included", "transcript"
                )
            self._save(job)
            self._jobs[job.id] = job
            self._forget_oldest()
            self._changed.notify_all()
        return job

    def list_jobs(self) -> list[Job]:
        """Return all jobs, the newest first."""
        return list(reversed(list(self._jobs.values())))

    def get(self, job_id: str) -> Job:
        """Return a job by its id.

        Raises:
            RequestError: There is no job of that id.
        """
        if job_id not in self._jobs:
            raise RequestError(404, f"there is no job {job_id[:40]!r}", "job_id", "job_not_found")
        return self._jobs[job_id]

    def cancel(self, job_id: str) -> Job:
        """Cancel a job; a finished one does not change."""
        job = self.get(job_id)
        with self._changed:
            if job.status == "queued":
                self._finish(job, "cancelled")
        if job.status == "running":
            self._service.cancel(job.context)
        return job

    def delete(self, job_id: str) -> None:
        """Delete a finished job.

        Raises:
            RequestError: There is no job of that id, or it is not finished.
        """
        job = self.get(job_id)
        if not job.is_over:
            raise RequestError(409, "the job is not finished; cancel it first", "job_id")
        with self._changed:
            self._jobs.pop(job_id, None)
            self._database.delete("jobs", job_id)

    def counts(self) -> dict[str, int]:
        """Return the number of jobs by status."""
        statuses = [job.status for job in list(self._jobs.values())]
        return {status: statuses.count(status) for status in ("queued", "running", "succeeded", "failed", "cancelled")}

    def _forget_oldest(self) -> None:
        over = [job.id for job in self._jobs.values() if job.is_over]
        for job_id in over[: max(0, len(over) - self._settings.max_kept_jobs)]:
            self._jobs.pop(job_id)
            self._database.delete("jobs", job_id)

    def _run(self) -> None:
        while True:
            with self._changed:
                job = self._next()
                while job is None and not self._is_stopping:
                    self._changed.wait()
                    job = self._next()
                if self._is_stopping or job is None:
                    return
                job.status, job.started_at = "running", time.time()
                job.attempts += 1
            try:
                self._save(job)
                self._run_job(job)
            except Exception:  # such as a full disk: the next job may succeed
                logger.exception("%s could not be saved", job.id)

    def _next(self) -> Job | None:
        jobs = list(self._jobs.values())
        is_indexing = any(job.is_index and job.status == "running" for job in jobs)
        return next((job for job in jobs if job.status == "queued" and not (job.is_index and is_indexing)), None)

    def _run_job(self, job: Job) -> None:
        def report(update: ProgressUpdate) -> None:
            done = max(job.progress["done"], round(update.done / update.total, 4))  # a resumed job starts again
            job.progress = _progress(update.stage, done, update.message)

        try:
            if isinstance(job.request, IndexRequest):
                job.result = self._library.index(job.request.to_task(), job.context, report)
            else:
                progress = ProgressTracker(2 if job.request.cite else 1, report)
                request = job.request.to_request(job.request.task)
                job.result = self._service.answer(request, job.context, progress).to_dict()
            self._finish(job, "succeeded")
        except RequestError as error:
            if isinstance(error.__cause__, EngineStoppedError):
                job.attempts -= 1
                self._save(job)  # its record stays `running`, and the next server resumes it
                return
            if isinstance(error.__cause__, CancelledRequestError):
                self._finish(job, "cancelled")
                return
            job.error = error.to_dict()["error"]
            self._finish(job, "failed")
        except Exception:
            logger.exception("%s failed", job.id)
            job.error = internal_error().to_dict()["error"]
            self._finish(job, "failed")

    def _finish(self, job: Job, status: Status) -> None:
        with self._changed:  # a concurrent `delete` waits until the job is saved, so that it does not come back
            job.finished_at = time.time()
            if status == "succeeded":
                job.progress = job.progress | {"done": 1.0}
            job.status = status
            self._save(job)

    def _save(self, job: Job) -> None:
        self._database.save_job(job.id, job.created_at, job.status, job.to_record())
