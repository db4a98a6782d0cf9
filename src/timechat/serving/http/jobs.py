"""Questions that take long: answered in the background, with progress, through restarts."""

import json
import logging
import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Literal

from timechat.serving.engine import CancelledRequestError, EngineStoppedError, RequestContext
from timechat.serving.errors import ApiError, busy
from timechat.serving.http.database import Database
from timechat.serving.http.schemas import JobRequest
from timechat.serving.service import Service
from timechat.serving.settings import ServerSettings

logger = logging.getLogger(__name__)

Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]

_MAX_RECORD = 1_000_000
_STOP_SECONDS = 10.0  # that the jobs at work may take to notice that the server goes down
_TYPICAL_SECONDS = 30.0  # that a job takes, for who asks when to come again


@dataclass
class Job:
    """One of them.

    Attributes:
        id: `job-…`.
        request: What is asked.
        filename: Of the video, where it is one of the server's.
        status: How far it is.
        progress: Stage, what is done of it and what there is to do.
        result: The answer.
        error: Why there is none.
    """

    id: str
    request: JobRequest
    filename: str | None
    created_at: float
    status: Status = "queued"
    started_at: float | None = None
    finished_at: float | None = None
    progress: dict[str, Any] = field(default_factory=lambda: {"stage": None, "done": 0, "total": 0})
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    context: RequestContext = field(default_factory=RequestContext, repr=False)

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status in ("succeeded", "failed", "cancelled")

    def to_dict(self) -> dict[str, Any]:
        """As the API has it."""
        video = self.request.video
        return {
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
            "result": self.result,
            "error": self.error,
        }

    def to_record(self) -> dict[str, Any]:
        """The same and all that is needed to take it up again."""
        return self.to_dict() | {"request": self.request.model_dump(mode="json")}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "Job":
        """Read what `to_record` gives."""
        kept = ("id", "filename", "created_at", "status", "started_at", "finished_at", "progress", "result", "error")
        return cls(request=JobRequest.model_validate(record["request"]), **{name: record[name] for name in kept})


class Jobs:
    """All jobs of a server, worked on in threads of their own."""

    def __init__(self, service: Service, settings: ServerSettings, database: Database) -> None:
        """Take up what an earlier server has left; nothing runs before `start`."""
        self._service, self._settings, self._database = service, settings, database
        self._jobs = {record["id"]: Job.from_record(record) for record in reversed(database.load_jobs())}
        for job in self._jobs.values():
            if job.status == "running":  # its server was stopped or killed: windows that are done are in the cache
                job.status, job.started_at = "queued", None
                self._save(job)
        self._news = threading.Condition()
        self._is_stopping = False
        self._threads = [
            threading.Thread(target=self._run, name=f"timechat-job-{i}", daemon=True)
            for i in range(settings.job_workers)
        ]

    def start(self) -> None:
        """Begin to work."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End; jobs at work go on when the next server starts."""
        with self._news:
            self._is_stopping = True
            self._news.notify_all()
        for job in self.list_jobs():
            if job.status == "running":
                job.context.cancel(EngineStoppedError("the server is going down"))
        self._service.engine.wake()
        end = time.monotonic() + _STOP_SECONDS
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, end - time.monotonic()))

    def add(self, request: JobRequest, filename: str | None) -> Job:
        """Put a job at the end of the queue.

        Raises:
            ApiError: Too many wait already (429), or it makes no question.
        """
        if not isinstance(request.video, str) or request.video[:5].lower() == "data:":
            raise ApiError(400, "a job takes a video by its id or address; upload it first, at /v1/files", "video")
        self._service.check(request.to_request(request.task))
        with self._news:
            waiting = sum(job.status == "queued" for job in self._jobs.values())
            if waiting >= self._settings.max_waiting_jobs:
                raise busy(f"{waiting} jobs wait already", _TYPICAL_SECONDS)
            job = Job(f"job-{secrets.token_hex(12)}", request, filename, time.time())
            if len(json.dumps(job.to_record())) > _MAX_RECORD:
                raise ApiError(413, f"a job may have {_MAX_RECORD} characters, its transcript included", "transcript")
            self._save(job)
            self._jobs[job.id] = job
            self._forget_oldest()
            self._news.notify_all()
        return job

    def list_jobs(self) -> list[Job]:
        """All jobs, the newest first."""
        return list(reversed(list(self._jobs.values())))

    def get(self, job_id: str) -> Job:
        """A job by its id.

        Raises:
            ApiError: There is none.
        """
        if job_id not in self._jobs:
            raise ApiError(404, f"there is no job {job_id[:40]!r}", "job_id", "job_not_found")
        return self._jobs[job_id]

    def cancel(self, job_id: str) -> Job:
        """Call a job off; one that is over stays as it is."""
        job = self.get(job_id)
        with self._news:
            if job.status == "queued":
                self._finish(job, "cancelled")
        if job.status == "running":
            self._service.cancel(job.context)
        return job

    def delete(self, job_id: str) -> None:
        """Forget a job that is over.

        Raises:
            ApiError: There is none, or it is not over.
        """
        job = self.get(job_id)
        if not job.is_over:
            raise ApiError(409, "the job is not over; cancel it first", "job_id")
        with self._news:
            self._jobs.pop(job_id, None)
            self._database.delete("jobs", job_id)

    def counts(self) -> dict[str, int]:
        """How many there are of each status."""
        statuses = [job.status for job in list(self._jobs.values())]
        return {status: statuses.count(status) for status in ("queued", "running", "succeeded", "failed", "cancelled")}

    def _forget_oldest(self) -> None:
        over = [job.id for job in self._jobs.values() if job.is_over]
        for job_id in over[: max(0, len(over) - self._settings.max_kept_jobs)]:
            self._jobs.pop(job_id)
            self._database.delete("jobs", job_id)

    def _run(self) -> None:
        while True:
            with self._news:
                job = self._next()
                while job is None and not self._is_stopping:
                    self._news.wait()
                    job = self._next()
                if self._is_stopping or job is None:
                    return
                job.status, job.started_at = "running", time.time()
            try:
                self._save(job)
                self._run_job(job)
            except Exception:  # such as a full disk: the next job may fare better
                logger.exception("%s could not be written down", job.id)

    def _next(self) -> Job | None:
        return next((job for job in self._jobs.values() if job.status == "queued"), None)

    def _run_job(self, job: Job) -> None:
        def progress(stage: str, done: int, total: int) -> None:
            job.context.check()
            job.progress = {"stage": stage, "done": done, "total": total}

        try:
            question = job.request.to_request(job.request.task)
            job.result = self._service.answer(question, job.context, progress).to_dict()
            self._finish(job, "succeeded")
        except ApiError as error:
            if isinstance(error.__cause__, EngineStoppedError):
                return  # it stays as running on the disk, and is taken up by the next server
            if isinstance(error.__cause__, CancelledRequestError):
                self._finish(job, "cancelled")
                return
            job.error = error.to_dict()["error"]
            self._finish(job, "failed")
        except Exception:
            logger.exception("%s failed", job.id)
            job.error = ApiError(500, "something went wrong inside of the server; its log says more").to_dict()["error"]
            self._finish(job, "failed")

    def _finish(self, job: Job, status: Status) -> None:
        with self._news:  # who deletes it waits until it is written down, so that it does not come back
            job.finished_at = time.time()
            job.status = status
            self._save(job)

    def _save(self, job: Job) -> None:
        self._database.save_job(job.id, job.created_at, job.status, job.to_record())
