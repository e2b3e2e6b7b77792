"""Live view of a server's metrics: `polysem top`. Reads the metrics' port, which a full queue does not slow."""

import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from polysem.client import addresses
from polysem.proto.errors import InvalidArgument, Unavailable

LINE = re.compile(r"^(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)$")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
DEFAULT_PORT = 9464
CLASSES = ("interactive", "bulk")


@dataclass(frozen=True)
class Sample:
    """All that the port said at one time, in seconds of this machine's monotonic clock."""

    time_s: float
    values: Mapping[tuple[str, frozenset[tuple[str, str]]], float]

    def of(self, name: str, **labels: str) -> float:
        """The sum over all that carries the name and these labels; 0 where there is none."""
        wanted = set(labels.items())
        return sum(value for (known, has), value in self.values.items() if known == name and wanted <= has)

    def by(self, name: str, label: str) -> dict[str, float]:
        """Its sums by the values of a label."""
        sums: dict[str, float] = {}
        for (known, has), value in self.values.items():
            if known == name and label in (own := dict(has)):
                sums[own[label]] = sums.get(own[label], 0.0) + value
        return sums


def parse(text: str, time_s: float) -> Sample:
    """Prometheus's text format. Raises InvalidArgument where it is something else."""
    values: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            found = LINE.match(line)
            if found is None:
                raise InvalidArgument(
                    f"these are no metrics: {line[:60]!r}; give the server's --metrics-port", "metrics"
                )
            values[found["name"], frozenset(LABEL.findall(found["labels"] or ""))] = float(found["value"])
    return Sample(time_s, values)


def read(address: str, timeout_s: float = 5.0) -> Sample:
    """Read the metrics that host:port gives now. Raises Unavailable, InvalidArgument."""
    try:
        with _opener(address).open(f"http://{address}/metrics", timeout=timeout_s) as answer:
            return parse(answer.read().decode("utf-8", "replace"), time.monotonic())
    except (urllib.error.URLError, OSError, ValueError) as error:
        if isinstance(error, InvalidArgument):
            raise
        raise Unavailable(
            f"no metrics at {address} ({getattr(error, 'reason', error)}): start the server with "
            "`polysem serve --metrics-port 9464`, or name its port: --metrics HOST:PORT"
        ) from None


def _opener(address: str) -> urllib.request.OpenerDirector:
    """Without the environment's proxies for this machine."""
    without = [urllib.request.ProxyHandler({})] if addresses.is_on_this_machine(address) else []
    return urllib.request.build_opener(*without)


def summary(before: Sample, now: Sample) -> dict[str, Any]:
    """The figures that `polysem top` shows; rates are over the time between the samples."""
    elapsed_s = max(now.time_s - before.time_s, 1e-9)

    def rate(name: str, **labels: str) -> float:
        return max(now.of(name, **labels) - before.of(name, **labels), 0.0) / elapsed_s

    def mean(name: str, **labels: str) -> float | None:
        n = now.of(f"{name}_count", **labels) - before.of(f"{name}_count", **labels)
        total = now.of(f"{name}_sum", **labels) - before.of(f"{name}_sum", **labels)
        return total / n if n > 0 else None

    keys = now.by("polysem_cost_total", "key")
    earlier = before.by("polysem_cost_total", "key")
    return {
        "classes": {
            class_: {
                "requests": int(now.of("polysem_queued_requests", **{"class": class_})),
                "queued_cost": now.of("polysem_queued_cost", **{"class": class_}),
                "oldest_s": now.of("polysem_oldest_seconds", **{"class": class_}),
                "batches_per_s": rate("polysem_batches_total", **{"class": class_}),
                "batch_size": mean("polysem_batch_size", **{"class": class_}),
                "batch_fill": mean("polysem_batch_fill", **{"class": class_}),
                "wait_s": mean("polysem_wait_seconds", **{"class": class_}),
            }
            for class_ in CLASSES
        },
        "reasons": now.by("polysem_batches_total", "reason"),
        "calls_per_s": rate("polysem_calls_total"),
        "codes": now.by("polysem_calls_total", "code"),
        "refusals": now.by("polysem_refusals_total", "reason"),
        "busy": rate("polysem_stage_seconds_sum", stage="compute"),
        "memory_bytes": now.of("process_resident_memory_bytes"),
        "device_memory_bytes": now.by("polysem_device_memory_bytes", "kind"),
        "jobs": now.by("polysem_jobs", "state"),
        "cost_per_s": {key: (cost - earlier.get(key, 0.0)) / elapsed_s for key, cost in keys.items()},
    }


def summaries(address: str, every_s: float) -> Iterator[dict[str, Any]]:
    """One every so many seconds, without end. Raises InvalidArgument for what is no address."""
    address = addresses.with_port(address, DEFAULT_PORT)
    before = read(address)
    while True:
        time.sleep(every_s)
        now = read(address)
        yield summary(before, now)
        before = now


def picture(address: str, figures: Mapping[str, Any]) -> Group:
    """The figures for a terminal."""
    queue = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("class", "requests", "queued cost", "oldest", "wait", "batches/s", "items a batch", "filled"):
        queue.add_column(heading, justify="left" if heading == "class" else "right", header_style="dim")
    for class_, row in figures["classes"].items():
        queue.add_row(
            class_,
            f"{row['requests']:,}",
            f"{row['queued_cost']:.2g}",
            f"{row['oldest_s']:.1f} s",
            _or_dash(row["wait_s"], lambda s: f"{1e3 * s:,.0f} ms"),
            f"{row['batches_per_s']:.1f}",
            _or_dash(row["batch_size"], lambda n: f"{n:,.0f}"),
            _or_dash(row["batch_fill"], lambda share: f"{share:.0%}"),
        )
    facts = Table.grid(padding=(0, 2))
    facts.add_row(Text("device", "dim"), f"{figures['busy']:.0%} busy{_gpu(figures['device_memory_bytes'])}")
    facts.add_row(Text("memory", "dim"), f"{figures['memory_bytes'] / 1e6:,.0f} MB resident")
    facts.add_row(Text("calls", "dim"), f"{figures['calls_per_s']:.1f}/s; {_counts(figures['codes'])}")
    facts.add_row(Text("sent", "dim"), _counts(figures["reasons"]))
    facts.add_row(Text("refused", "dim"), _counts(figures["refusals"]))
    if figures["jobs"]:
        facts.add_row(Text("jobs", "dim"), _counts(figures["jobs"]))
    busiest = sorted(figures["cost_per_s"].items(), key=lambda item: -item[1])[:10]
    facts.add_row(
        Text("cost/s", "dim"), ", ".join(f"{key or 'without a key'} {cost:.2g}" for key, cost in busiest) or "none yet"
    )
    return Group(Text(f"Polysem at {address}, Ctrl-C leaves\n", "bold"), queue, Text(""), facts)


def _or_dash(value: float | None, show: Any) -> str:
    return "–" if value is None else str(show(value))


def _counts(counts: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {int(n):,}" for name, n in sorted(counts.items(), key=lambda item: -item[1])) or "none"


def _gpu(memory: Mapping[str, float]) -> str:
    return f", {memory['held'] / 1e9:.1f} of {memory['total'] / 1e9:.1f} GB held" if memory else ""
