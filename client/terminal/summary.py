"""A summary of many neurons: how many there are of each kind, and how clear their clusters are, layer by layer."""

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from polysem.client.terminal.tables import right_aligned
from polysem.proto.arrays import IntArray
from polysem.proto.questions.summary import LEAST_CLEAR, NeuronKind, NeuronSummary
from polysem.proto.units import Unit

_SHADES = " ▁▂▃▄▅▆▇█"
_KINDS: dict[NeuronKind, str] = {
    "one": "one feature: at least 90% of the examples in one cluster",
    "few": "a few features: at least 60% in the two largest, 10% in the second",
    "several": "several features: the rest",
    "blurred": f"blurred: best silhouette below {LEAST_CLEAR}",
    "too_few": "fewer than 20 examples: not judged",
}
_TESTED = "blurred: no more than chance (p above .05)"


def summary(found: NeuronSummary, unit: Unit = "neuron") -> RenderableType:
    """Kinds with their counts, and a row a layer with a bar for each step of the best silhouette."""
    kinds = right_aligned("kind", f"{unit}s", "share")
    kinds.add_column("", no_wrap=True)
    for kind, words in _KINDS.items():
        n = found.kinds[kind]
        words = _TESTED if kind == "blurred" and found.n_tested else words
        kinds.add_row(kind, f"{n:,}", f"{n / max(found.n_neurons, 1):.1%}", words)
    layers = right_aligned("layer", "judged")
    layers.add_column("0  best silhouette 1", no_wrap=True)
    for layer, counts in zip(found.layers.tolist(), found.clarity, strict=True):
        layers.add_row(str(layer), f"{counts.sum():,}", bars(counts, int(found.clarity.max(initial=0))))
    note = f"{found.n_neurons:,} {unit}s of any kind; a bar is as high as the square root of its number"
    return Group(kinds, Text(), layers, Text(), Text(note, "dim"))


def bars(counts: IntArray, most: int) -> str:
    """Write counts (S,) as S bars, the highest for `most`; a blank is 0."""
    high = np.ceil(np.sqrt(counts / max(most, 1)) * (len(_SHADES) - 1)).astype(int)
    return "".join(_SHADES[i] for i in high)
