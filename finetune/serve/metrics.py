"""The server's counters, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Upper ends of the histogram of latencies."""


class ServerMetrics:
    """Counters of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ["path", "status"]
        self.requests = Counter("finetune_requests", "Requests answered.", labels, registry=self.registry)
        self.seconds = Histogram(
            "finetune_request_seconds",
            "Seconds from the head of a request to the end of its answer.",
            ["path"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.images = Counter("finetune_images", "Images answered.", ["result"], registry=self.registry)
        self.batches = Histogram(
            "finetune_batch_images",
            "Images in a forward pass.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=self.registry,
        )
        self._queue = Gauge("finetune_queue_images", "Images being decoded or answered.", registry=self.registry)

    def watch_queue(self, size: Callable[[], int]) -> None:
        """Read the gauge of the queue off `size` whenever it is asked for."""
        self._queue.set_function(size)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)
