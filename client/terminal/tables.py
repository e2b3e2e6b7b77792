"""Many neurons: metrics, listings, statistics; and how numbers are written everywhere."""

from collections.abc import Iterable

import numpy as np
from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from polysem.client.baselines import Baselines
from polysem.client.drawing import colours
from polysem.client.questions.clustering import Metrics, Neuron
from polysem.client.questions.listing import ListedNeuron, Listing
from polysem.client.questions.statistics import Statistics
from polysem.client.terminal.fitting import Fitting
from polysem.proto.questions.clustering import APPROXIMATE, mixed_methods
from polysem.proto.units import Unit

_COLUMNS = {
    "n_examples": "examples",
    "n_clusters": "clusters",
    "largest_share": "largest",
    "intra": "intra",
    "inter": "inter",
    "silhouette": "silhouette",
    "mean_distance": "mean",
    "max_distance": "max",
}
_ACTIVATION_COLUMNS = {
    "maximum_activation": "max act.",
    "mean_activation": "mean act.",
    "share_positive": "positive",
}


_KIND = {"kind": "kind", "best_silhouette": "clear"}
_TESTS = {"p_value": "p", "excess_silhouette": "excess"}
_HELD = {  # by what says whether the index holds them
    "p_value": {"p_value": "p", "excess_silhouette": "excess", "q_value": "q"},
    "significant_clusters": {
        "significant_clusters": "signif.",
        "stability": "stability",
        "prediction_strength": "strength",
    },
}
_BASELINES = {"token_agreement": "token AMI", "single_token_share": "one token", "singleton_share": "singletons"}


def metrics_table(neurons: Iterable[Neuron]) -> RenderableType:
    """A row a neuron, in the order given, those with a test with p and excess; – where a metric is undefined."""
    neurons = list(neurons)
    held = _TESTS if any(neuron.significance for neuron in neurons) else {}
    unit = neurons[0].provenance.unit if neurons else "neuron"
    table = right_aligned(unit, *held.values(), *_COLUMNS.values(), *_BASELINES.values())
    for neuron in neurons:
        test = neuron.significance
        tests = [written(test and test.p_value), written(test and test.excess)] if held else []
        numbers = [metric_text(neuron.metrics, name) for name in _COLUMNS]
        numbers += [metric_text(neuron.baselines, name) for name in _BASELINES]
        table.add_row(str(neuron.id), *tests, *numbers)
    found = [neuron.method for neuron in neurons]
    table.caption = mixed_methods(sum(method in APPROXIMATE for method in found), len(found)) or None
    return Fitting(table)


def listing(neurons: Listing, skipped: int = 0) -> RenderableType:
    """Neurons as a table, and how many there are; * at those with a common and a rare behaviour."""
    held: dict[str, str] = {}
    for name, columns in _HELD.items():
        held |= columns if any(getattr(neuron, name) is not None for neuron in neurons) else {}
    names = (*held, *_KIND, *_COLUMNS, *_ACTIVATION_COLUMNS)
    headings = (*held.values(), *_KIND.values(), *_COLUMNS.values(), *_ACTIVATION_COLUMNS.values())
    table = right_aligned(neurons.unit, *headings, "")
    if neurons.n_approximate:
        table.add_column("method", no_wrap=True)
    for neuron in neurons:
        cells = [*(metric_text(neuron, name) for name in names), "*" if neuron.rare else "", neuron.method or "–"]
        table.add_row(str(neuron.id), *cells[: len(table.columns) - 1])
    if not len(neurons):
        n = neurons.n_matching
        return Text(f"only {counted(n, neurons.unit)} match" if n else f"no {neurons.unit} matches")
    last = skipped + len(neurons)
    note = Text(f"{skipped + 1:,} to {last:,} of {neurons.n_matching:,} that match", "dim")
    if any(neuron.rare for neuron in neurons):
        note.append("; * a common and a rare behaviour: 20 examples or more, at least 90% in one cluster and 3 not")
    if any(neuron.n_clusters is None for neuron in neurons):
        note.append("; – as clusters: too many examples for this linkage, ask for scc or for single linkage")
    if mixed := mixed_methods(neurons.n_approximate, neurons.n_matching):
        note.append(f"; {mixed}")
    return Group(Fitting(table, 2 if neurons.n_approximate else 1), Text(), note)


def statistics_table(found: Iterable[Statistics], unit: Unit = "neuron") -> RenderableType:
    """A row a neuron, in the order given."""
    names = ("n_examples", "lowest_example", "highest_example", "threshold")
    table = right_aligned(unit, *_ACTIVATION_COLUMNS.values(), "examples", "from", "to", "threshold")
    for one in found:
        table.add_row(str(one.id), *(metric_text(one, name) for name in (*_ACTIVATION_COLUMNS, *names)))
    return Fitting(table)


class StatisticsPanel:
    """A neuron's histogram of key activations, with the band of its examples."""

    def __init__(self, statistics: Statistics, unit: Unit = "neuron") -> None:
        self._statistics, self._unit = statistics, unit

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        s = self._statistics
        negative = s.side == "negative"
        both = "" if s.minimum_activation is None else f", lowest {s.minimum_activation:.2f}"
        yield Text.assemble(
            *(f"{self._unit} ", (str(s.id), "bold"), f": highest activation {s.maximum_activation:.2f}{both}; "),
            f"each context's {'lowest' if negative else 'highest'}: mean {s.mean_activation:.2f}, "
            f"{'below' if negative else 'above'} 0 in {s.share_positive:.1%} of the contexts",
        )
        yield Text(self._band())
        yield Text()
        if not s.histogram.any():
            yield Text(f"it is {s.side} in no context", "dim")
            return
        counts, edges = s.histogram.reshape(16, 4).sum(axis=1), s.bin_edges[::4]
        widths = np.sqrt(counts / counts.max()) * max(options.max_width - 30, 8)
        yield Text("activation         contexts (a bar is as long as their square root)", "dim")
        for i, count in enumerate(counts.tolist()):
            inside = self._holds_examples(edges[i], edges[i + 1])
            yield Text.assemble(
                f"{edges[i]:6.2f} – {edges[i + 1]:6.2f} {count:9,} ",
                ("█" * round(widths[i]), colours.BAND_ON_ANY_GROUND if inside else "dim"),
                " ◂" if inside else "",
            )

    def _holds_examples(self, weakest: float, strongest: float) -> bool:
        low, high = self._statistics.lowest_example, self._statistics.highest_example
        if low is None or high is None:
            return False
        sign = -1 if self._statistics.side == "negative" else 1
        return sign * strongest >= sign * low and sign * weakest <= sign * high

    def _band(self) -> str:
        s = self._statistics
        if not s.n_examples:
            return "no dataset examples"
        least = (
            ""
            if s.threshold is None
            else f" ({'at most' if s.side == 'negative' else 'at least'} {s.threshold:.2f} was asked)"
        )
        examples = counted(s.n_examples, "dataset example")
        return f"{examples} from {s.lowest_example:.2f} to {s.highest_example:.2f}{least}, marked ◂"


def right_aligned(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def metric_text(metrics: Metrics | Baselines | ListedNeuron | Statistics, name: str) -> str:
    value = getattr(metrics, name)
    if isinstance(value, int | str):
        return str(value)
    return written(value, "{:.0%}" if "share" in name else "{:.2f}")


def written(value: float | None, form: str = "{:.2f}") -> str:
    return "–" if value is None else form.format(value)


def counted(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"
