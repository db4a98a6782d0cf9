"""What Prometheus is told."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from timechat.serving.http.jobs import Jobs
from timechat.serving.service import Service
from timechat.serving.videos import VideoStore

_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """The counters of one server.

    Attributes:
        registry: All of them.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "timechat_http_requests", "Requests answered", ["method", "route", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "timechat_http_request_seconds",
            "Seconds from a request to the end of its answer",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request; `route` is the pattern, not the address."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def watch(self, service: Service, jobs: Jobs, films: VideoStore) -> None:
        """Tell of these too, whenever somebody asks."""
        self.registry.register(_StateCollector(service, jobs, films))


class _StateCollector(Collector):
    def __init__(self, service: Service, jobs: Jobs, films: VideoStore) -> None:
        self._service, self._jobs, self._films = service, jobs, films

    def collect(self) -> Iterable[Metric]:
        """What there is now."""
        state = self._service.engine.state
        yield CounterMetricFamily("timechat_tokens_written", "Tokens written", value=state.tokens)
        yield CounterMetricFamily("timechat_decoding_steps", "Steps that wrote them", value=state.steps)
        yield CounterMetricFamily("timechat_frames_encoded", "Frames encoded", value=state.frames)
        yield CounterMetricFamily("timechat_answers_parked", "Answers that made room for others", value=state.preempted)
        seconds = CounterMetricFamily("timechat_engine_seconds", "Seconds at work, by kind", labels=["kind"])
        for kind, value in state.seconds.items():
            seconds.add_metric([kind], value)
        yield seconds
        yield GaugeMetricFamily("timechat_answers_running", "Answers being written", value=state.running)
        yield GaugeMetricFamily("timechat_answers_waiting", "Answers that wait for a row", value=state.waiting)
        yield GaugeMetricFamily("timechat_looks_waiting", "Pieces of videos that wait", value=state.frame_batches)
        yield GaugeMetricFamily(
            "timechat_requests_inside", "Requests at work or waiting", value=self._service.num_active
        )
        yield CounterMetricFamily(
            "timechat_requests_turned_away", "Requests answered with 429", value=self._service.num_rejected
        )
        jobs = GaugeMetricFamily("timechat_jobs", "Jobs, by status", labels=["status"])
        for status, count in self._jobs.counts().items():
            jobs.add_metric([status], count)
        yield jobs
        yield GaugeMetricFamily("timechat_upload_bytes", "Bytes of all uploads", value=self._films.num_bytes)
