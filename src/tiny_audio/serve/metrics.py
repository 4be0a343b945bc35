"""A server's metrics for Prometheus."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.responses import Response

LATENCIES = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)  # seconds
BATCHES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of one server; each server in a process has its own."""

    def __init__(self) -> None:
        own = self._registry = CollectorRegistry()
        self.requests = Counter(
            "tiny_audio_requests", "Requests for a transcription, by HTTP status.", ["status"], registry=own
        )
        self.latency = Histogram(
            "tiny_audio_request_seconds", "From request to answer.", buckets=LATENCIES, registry=own
        )
        self.audio = Counter(
            "tiny_audio_audio_seconds", "Seconds of the recordings that were transcribed.", registry=own
        )
        self.queue = Gauge("tiny_audio_queue", "Recordings in work or waiting.", registry=own)
        self.uploads = Gauge("tiny_audio_uploads", "Recordings that are being sent.", registry=own)
        self.batch = Histogram(
            "tiny_audio_batch_size", "Pieces that the model read at once.", buckets=BATCHES, registry=own
        )

    def response(self) -> Response:
        """Return all metrics in Prometheus' text format."""
        return Response(generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})
