"""Metrics of a server for Prometheus, on a port of its own. One `Metrics` a server; all names begin with polysem_."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, make_wsgi_app
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import ThreadingWSGIServer
from prometheus_client.registry import Collector

from polysem.proto.errors import FailedPrecondition

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
SHARES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1)
SIZES = (1, 3, 10, 30, 100, 300, 1000, 3000, 10000)
MAX_READERS = 64  # connections of those who read the metrics


class Metrics:
    """Counters and histograms that the server's parts write to; `gauge` adds what is looked up when somebody reads."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.batches = self._counter("batches", "Batches sent to the device, by why they were sent", "class", "reason")
        self.batch_size = self._histogram("batch_size", "Neurons or examples in a batch", SIZES, "class")
        self.batch_fill = self._histogram("batch_fill", "Cost of a batch over the most it may cost", SHARES, "class")
        self.wait_seconds = self._histogram("wait_seconds", "From a request to its first batch", SECONDS, "class")
        self.stage_seconds = self._histogram("stage_seconds", "Of a batch: compute, encode", SECONDS, "stage")
        self.refusals = self._counter("refusals", "Requests refused, by the limit that they met", "reason")
        self.cost = self._counter("cost", "n_examples² · d_model served", "key", "class")
        self.calls = self._counter("calls", "Calls ended, by gRPC code", "method", "code")
        self.call_seconds = self._histogram("call_seconds", "Of a whole call", SECONDS, "method")
        ProcessCollector(registry=self.registry)

    def gauge(self, name: str, meaning: str, label: str, read: Callable[[], Mapping[str, float]]) -> None:
        """A gauge whose values, by the label's value, are what `read` returns at the time."""
        self.registry.register(_Gauge(f"polysem_{name}", meaning, label, read))

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"polysem_{name}", meaning, labels, registry=self.registry)

    def _histogram(self, name: str, meaning: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"polysem_{name}", meaning, labels, buckets=buckets, registry=self.registry)


class _Gauge(Collector):
    def __init__(self, name: str, meaning: str, label: str, read: Callable[[], Mapping[str, float]]) -> None:
        self._about, self._label, self._read = (name, meaning), label, read

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return [GaugeMetricFamily(*self._about, labels=[self._label])]

    def collect(self) -> Iterable[GaugeMetricFamily]:
        family = GaugeMetricFamily(*self._about, labels=[self._label])
        for value, number in self._read().items():
            family.add_metric([value], number)
        return [family]


class _Reader(WSGIRequestHandler):
    """One connection; one that says nothing is closed."""

    timeout = 10.0  # seconds

    def handle(self) -> None:
        with contextlib.suppress(TimeoutError):
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


class _Readers(ThreadingWSGIServer):
    """A thread a connection; beyond MAX_READERS they are closed at once."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._free = threading.Semaphore(MAX_READERS)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        return self._free.acquire(blocking=False)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()


class _ReadersByIPv6(_Readers):
    address_family = socket.AF_INET6


class Port:
    """Answers GET /metrics on host:port until closed. Raises FailedPrecondition where the port is taken."""

    def __init__(self, metrics: Metrics, host: str, port: int) -> None:
        readers = _ReadersByIPv6 if ":" in host else _Readers
        try:
            self._server = make_server(host, port, make_wsgi_app(metrics.registry), readers, _Reader)
        except OSError as error:
            raise FailedPrecondition(
                f"cannot serve metrics on {host}:{port} ({error.strerror or error}); choose another --metrics-port"
            ) from error
        self.port: int = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, name="polysem-metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
