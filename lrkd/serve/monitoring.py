"""What the server counts for Prometheus: its traffic, its batches, and what the model says."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    Summary,
    generate_latest,
)

from lrkd.serve.asked import ItemError
from lrkd.serve.batcher import Verdict
from lrkd.serve.model import Model

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The counters, in a registry of their own.

    Args:
        model: Whose labels are counted.
        waiting: How many items wait, asked at every scrape.
        ready: Whether the server takes requests, likewise.
    """

    def __init__(self, model: Model, waiting: Callable[[], int], ready: Callable[[], bool]) -> None:
        self.registry = to = CollectorRegistry()
        ProcessCollector(registry=to)
        Info("lrkd_model", "The model that is served", registry=to).info(model.names())
        Gauge("lrkd_ready", "1 while requests are taken", registry=to).set_function(lambda: float(ready()))
        Gauge("lrkd_waiting_items", "Items accepted and in no batch yet", registry=to).set_function(waiting)
        self._requests = Counter("lrkd_requests", "Requests answered", ["endpoint", "status"], registry=to)
        self._seconds = Histogram(
            "lrkd_request_seconds", "From a request's head to its answer", ["endpoint"], buckets=_SECONDS, registry=to
        )
        self._items = Counter("lrkd_items", "Items of answered requests", ["outcome"], registry=to)
        self._batch_items = Histogram("lrkd_batch_items", "Items scored together", buckets=_ITEMS, registry=to)
        self._batch_seconds = Histogram("lrkd_batch_seconds", "Scoring one batch", buckets=_SECONDS, registry=to)
        self._labels = Counter("lrkd_labels", "Items by the label that the model gave", ["label"], registry=to)
        self._gain = Summary("lrkd_gain", "Expected gain of scored items", registry=to)
        self._cut = Counter("lrkd_tokens_cut", "Tokens that the model did not see", registry=to)
        self._items_cut = Counter("lrkd_items_cut", "Items of which the model did not see all tokens", registry=to)
        for label in model.label_set.labels:
            self._labels.labels(label)  # shown from the start, as 0
        for outcome in ("scored", "refused", "failed"):
            self._items.labels(outcome)

    def request(self, endpoint: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        self._requests.labels(endpoint, str(status)).inc()
        self._seconds.labels(endpoint).observe(seconds)

    def batch(self, items: int, seconds: float) -> None:
        """Count a batch."""
        self._batch_items.observe(items)
        self._batch_seconds.observe(seconds)

    def found(self, found: Sequence[Verdict | ItemError]) -> None:
        """Count an answered request's items."""
        for item in found:
            if isinstance(item, ItemError):
                self._items.labels("failed" if item.ours else "refused").inc()
                continue
            self._items.labels("scored").inc()
            self._labels.labels(item.label).inc()
            self._gain.observe(item.gain)
            self._cut.inc(item.tokens_cut)
            self._items_cut.inc(item.tokens_cut > 0)

    def render(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self.registry)
