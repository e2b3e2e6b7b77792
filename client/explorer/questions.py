"""Questions in the explorer's addresses: a permanent link is a question, and a question is written as one.

Everything comes from an address bar, so everything is checked, and told in words where it is wrong.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args
from urllib.parse import urlencode

from polysem.proto.errors import InvalidArgument
from polysem.proto.neurons import MAX_INDEX, NeuronId, parse_neurons
from polysem.proto.questions.clustering import (
    DEFAULT_DISTANCE_THRESHOLD,
    Algorithm,
    Embedding,
    Frame,
    LayerNorm,
    Linkage,
    check_distance_threshold,
)
from polysem.proto.questions.listing import NEURON_METRICS, NeuronMetric
from polysem.proto.questions.summary import N_STEPS, NEURON_KINDS
from polysem.proto.sides import SIDES

MAX_PAGE = 100_000
LOOKS = ("", "table")
CHOICES: dict[str, tuple[str, ...]] = {
    "algorithm": get_args(Algorithm),
    "linkage": get_args(Linkage),
    "embedding": get_args(Embedding),
    "layer_norm": get_args(LayerNorm),
    "side": SIDES,
    "frame": get_args(Frame),
}
SHORT = {"algorithm": "by", "distance_threshold": "cut"}  # as addresses have them; the long names are read, too


@dataclass(frozen=True)
class View:
    """Clustering of neurons: the part of an address after `?`, with its defaults left out."""

    algorithm: Any = "hac"
    linkage: Any = "average"
    embedding: Any = "neuron"
    layer_norm: Any = "folded"
    side: Any = "positive"
    frame: Any = "raw"
    distance_threshold: float = DEFAULT_DISTANCE_THRESHOLD
    index: str | None = None

    @classmethod
    def of(cls, parameters: Mapping[str, str]) -> "View":
        found: dict[str, Any] = {}
        for name, values in CHOICES.items():
            if value := parameters.get(SHORT.get(name, name)) or parameters.get(name):
                if value not in values:
                    raise InvalidArgument(f"{name} is one of {', '.join(values)}, not {value[:40]!r}", name)
                found[name] = value
        for old in ("distance_threshold", "cut"):
            if text := parameters.get(old):
                found["distance_threshold"] = number(old, text)
        if "distance_threshold" in found:
            check_distance_threshold(found["distance_threshold"])
        return cls(**found, index=parameters.get("index") or None)

    def clustering(self) -> dict[str, Any]:
        """Return it as arguments of `Client.cluster`."""
        return {name: getattr(self, name) for name in (*CHOICES, "distance_threshold", "index")}

    def asked_of(self) -> dict[str, Any]:
        """The index and its side, as arguments of every question."""
        return {"index": self.index, "side": self.side}

    def on(self, side: str) -> "View":
        """Return this view on a side of the activations."""
        return replace(self, side=side)

    def query(self, **more: Any) -> str:
        """The address's part from `?` on, or nothing."""
        default = View()
        changed = {
            name: value for name, value in vars(self).items() if value is not None and value != getattr(default, name)
        }
        changed = {SHORT.get(name, name): value for name, value in changed.items()}
        changed |= {name: value for name, value in more.items() if value not in (None, "")}
        return f"?{urlencode(changed)}" if changed else ""


@dataclass(frozen=True)
class Table:
    """Which neurons the overview shows: sorted, filtered, and which page of them.

    layer    None for every layer, or for those of `neurons`
    kind     a kind of neurons; empty: every one
    clear    with a layer: where the step of clarity begins of whose cell the neurons are; None: any
    sort_by  a metric, with - before it for the largest first; "-" alone: by layer and neuron; empty: the clearest first
    where    least and most of a metric, as `Client.neurons` takes them
    page     from 1
    look     empty for rows, or "table"
    """

    neurons: str = ""
    layer: int | None = None
    kind: str = ""
    clear: float | None = None
    sort_by: str = ""
    where: tuple[tuple[NeuronMetric, tuple[float | None, float | None]], ...] = ()
    page: int = 1
    look: str = ""

    @classmethod
    def of(cls, parameters: Mapping[str, str]) -> "Table":
        sort_by, kind, look = (parameters.get(name, "") for name in ("sort_by", "kind", "look"))
        if sort_by.removeprefix("-") not in ("", *NEURON_METRICS):
            raise InvalidArgument(f"neurons are sorted by one of {', '.join(NEURON_METRICS)}, not {sort_by[:40]!r}")
        if kind not in ("", *NEURON_KINDS):
            raise InvalidArgument(f"a kind of neurons is one of {', '.join(NEURON_KINDS)}, not {kind[:40]!r}", "kind")
        if look not in LOOKS:
            raise InvalidArgument(f"look is table, or left out for rows, not {look[:40]!r}", "look")
        layer = whole_number(parameters, "layer")
        where = []
        for metric in NEURON_METRICS:
            least, most = (parameters.get(f"{end}_{metric}") for end in ("least", "most"))
            if least or most:
                ends = tuple(
                    number(f"{end} of {metric}", text) if text else None
                    for end, text in (("least", least), ("most", most))
                )
                where.append((metric, ends))
        page = number("page", parameters.get("page") or "1")
        if not (1 <= page <= MAX_PAGE and page == int(page)):
            raise InvalidArgument(f"pages are counted from 1 to {MAX_PAGE:,}, not {parameters['page'][:40]!r}", "page")
        return cls(
            parameters.get("neurons", "").strip(),
            layer,
            kind,
            _clear(parameters.get("clear", "")),
            sort_by,
            tuple(where),  # type: ignore[arg-type]
            int(page),
            look,
        )

    def ranges(self) -> list[str]:
        """The neurons to choose from, as `Client.neurons` takes them; none: all."""
        if self.cell is not None:  # which is a filter of its own, so that the other cells are counted, too
            return []
        return named_neurons(self.neurons) if self.layer is None else [f"{self.layer}.*"]

    @property
    def cell(self) -> tuple[int, int] | None:
        """The layer and step of clarity whose neurons are shown; None: any."""
        return None if self.layer is None or self.clear is None else (self.layer, round(self.clear * N_STEPS))

    def parameters(self, **changed: Any) -> dict[str, Any]:
        """For `View.query`; `changed` come in place of its own."""
        found: dict[str, Any] = {"neurons": self.neurons, "layer": self.layer, "kind": self.kind, "look": self.look}
        found |= {"sort_by": self.sort_by, "clear": None if self.clear is None else f"{self.clear:g}"}
        for metric, (least, most) in self.where:
            found |= {f"least_{metric}": least, f"most_{metric}": most}
        if self.page > 1:
            found["page"] = self.page
        return found | changed


def _clear(text: str) -> float | None:
    if not text:
        return None
    clear = number("clear", text)
    if not 0 <= clear < 1:
        raise InvalidArgument(f"clear is where a step of clarity begins, 0 to 0.95, not {text[:40]!r}", "clear")
    return clear


def neuron_id(text: str) -> NeuronId:
    """The one neuron that a text names."""
    ranges = parse_neurons(text)
    layer, first, last = ranges[0]
    if layer is None or first is None or first != last:
        raise InvalidArgument(f"{text[:40]!r} names many neurons; a page shows one, like 2.185", "neurons")
    return NeuronId(layer, first)


def named_neurons(text: str) -> list[str]:
    """The neurons and ranges that a field names, as they stand in it: 2.* 3.0-99."""
    return [name for name in re.split(r"[\s,]+", text) if name]


def named(text: str) -> tuple[NeuronId, str]:
    """The neuron that a text names, and the letter of its cluster, or "": 2.185, or 2.185.B."""
    found = re.fullmatch(r"\s*(.*?)[./\s]([A-Za-z]{1,3})\s*", text)
    return (neuron_id(found[1]), found[2].upper()) if found and found[1] else (neuron_id(text), "")


def whole_number(parameters: Mapping[str, str], name: str) -> int | None:
    """Return a parameter of an address that numbers something, None where it is not given. Raises InvalidArgument."""
    text = parameters.get(name, "")
    if not text:
        return None
    if not (re.fullmatch(r"[0-9]{1,10}", text) and int(text) <= MAX_INDEX):
        raise InvalidArgument(f"{name} is a whole number up to {MAX_INDEX}, not {text[:40]!r}", name)
    return int(text)


def number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidArgument(f"{name} must be a number, not {text[:40]!r}", name) from None
