"""Metrics for Prometheus."""

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
    """The metrics of one server.

    Attributes:
        registry: Registry of all metrics.
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
        """Count a request; `route` is the pattern of the path."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def watch(self, service: Service, jobs: Jobs, videos: VideoStore) -> None:
        """Add the state of these objects to the metrics."""
        self.registry.register(_StateCollector(service, jobs, videos))


class _StateCollector(Collector):
    def __init__(self, service: Service, jobs: Jobs, videos: VideoStore) -> None:
        self._service, self._jobs, self._videos = service, jobs, videos

    def collect(self) -> Iterable[Metric]:
        """Return the current values."""
        state = self._service.engine.state
        yield CounterMetricFamily("timechat_tokens_written", "Generated tokens", value=state.tokens)
        yield CounterMetricFamily("timechat_decoding_steps", "Decode steps", value=state.steps)
        yield CounterMetricFamily("timechat_frames_encoded", "Encoded frames", value=state.frames)
        yield CounterMetricFamily("timechat_answers_parked", "Preemptions of answers", value=state.preempted)
        seconds = CounterMetricFamily("timechat_engine_seconds", "Seconds of work, by kind", labels=["kind"])
        for kind, value in state.seconds.items():
            seconds.add_metric([kind], value)
        yield seconds
        yield GaugeMetricFamily("timechat_answers_running", "Answers in the batch", value=state.running)
        yield GaugeMetricFamily("timechat_answers_waiting", "Answers that wait for the batch", value=state.waiting)
        yield GaugeMetricFamily("timechat_looks_waiting", "Waiting batches of frames", value=state.frame_batches)
        yield GaugeMetricFamily(
            "timechat_requests_inside", "Running and waiting requests", value=self._service.num_active
        )
        yield CounterMetricFamily(
            "timechat_requests_turned_away", "Requests rejected with 429", value=self._service.num_rejected
        )
        jobs = GaugeMetricFamily("timechat_jobs", "Jobs, by status", labels=["status"])
        for status, count in self._jobs.counts().items():
            jobs.add_metric([status], count)
        yield jobs
        yield GaugeMetricFamily("timechat_upload_bytes", "Size of all uploads", value=self._videos.num_bytes)
