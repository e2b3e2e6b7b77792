"""Neurons in a notebook: HTML that needs nothing from elsewhere; every text is escaped.

Where scripts run (a trusted notebook) the drawing of polysem.client.drawing takes the place of the plain HTML, with a
cut that is dragged; where they do not (a viewer, an untrusted notebook) the plain HTML stays.
"""

import uuid
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from polysem.client import characters
from polysem.client.drawing import browser, colours, dendrogram
from polysem.proto.errors import PolysemError

if TYPE_CHECKING:
    from polysem.client.questions.cluster import Cluster
    from polysem.client.questions.clustering import Neuron
    from polysem.client.questions.examples import Example

MAX_EXAMPLES = 5  # of a cluster
MAX_CLUSTERS = 20
MAX_ROWS = 30
WIDTH, LEAF = 360, 14  # of the tree in pixels; height of a leaf


def neuron_html(neuron: "Neuron") -> str:
    """A neuron: its metrics, its dendrogram, its clusters with highlighted examples, largest first."""
    try:
        examples: Any = neuron.examples
        len(examples)
        note = ""
    except (RuntimeError, PolysemError) as error:  # of an AsyncClient, whose texts must be awaited; the server is gone
        examples, note = None, f"<div><i>{escape(str(error))}</i></div>"
    name = f"polysem-{uuid.uuid4().hex}"
    return (
        f'{note}<div id="{name}">{plain_html(neuron, examples)}</div><style>{browser.style()}</style>'
        f"<script>{browser.script()}Polysem.show(document.getElementById('{name}'), "
        f"{browser.json_in_html(browser.data(neuron, examples, _silhouettes(neuron)))});</script>"
    )


def _silhouettes(neuron: "Neuron") -> list[tuple[float, float | None]]:
    """Silhouettes of further cuts; none if the server cannot be asked."""
    try:
        return neuron.silhouettes
    except (RuntimeError, PolysemError):
        return []


def plain_html(neuron: "Neuron", examples: "Sequence[Example] | None") -> str:
    """The same without scripts: the cut stands still, and only some examples of a cluster are shown."""
    m = neuron.metrics
    head = (
        f"<b>{neuron.title}</b> &nbsp; {m.n_examples} examples, {m.n_clusters} clusters at cosine distance "
        f"{neuron.distance_threshold:g} &nbsp; intra {_shown(m.intra)} · inter {_shown(m.inter)} · "
        f"silhouette {_shown(m.silhouette)}<br>{escape(browser.note(neuron))}"
    )
    if not m.n_examples:
        return f"<div>{head}</div>"
    colour_of = colours.of_clusters(neuron.clusters)
    cards = "".join(_card(cluster, examples, colour_of[cluster.label]) for cluster in neuron.clusters[:MAX_CLUSTERS])
    more = len(neuron.clusters) - MAX_CLUSTERS
    rest = f"<div>… {more} more clusters</div>" if more > 0 else ""
    return f"<div>{head}</div>{tree_svg(neuron)}{cards}{rest}"


def tree_svg(neuron: "Neuron") -> str:
    """The dendrogram: distances along the width, the root on the left, the cut as a dashed line."""
    drawn = dendrogram.layout(neuron)
    n, colour_of = len(drawn.leaves), colours.of_clusters(neuron.clusters)
    top = max(float(drawn.heights.max()), neuron.distance_threshold) or 1.0
    leaf = max(min(LEAF, 600 / n), 1.0)
    x = 10 + (WIDTH - 20) * (1 - drawn.heights / top)
    y = 24 + leaf * (drawn.places() + 0.5)
    lines = []
    for i, (first, second) in enumerate(drawn.merges.tolist()):
        colour = colour_of.get(int(drawn.labels[n + i]), "currentColor")
        at = x[n + i]
        path = f"M{x[first]:.1f} {y[first]:.1f}H{at:.1f}V{y[second]:.1f}H{x[second]:.1f}"
        lines.append(f'<path d="{path}" fill="none" stroke="{colour}"/>')
    cut = 10 + (WIDTH - 20) * (1 - neuron.distance_threshold / top)
    bottom = 24 + leaf * n
    axis = "".join(
        f'<text x="{at:.0f}" y="16" font-size="11" text-anchor="{anchor}" fill="currentColor">{text}</text>'
        for at, anchor, text in ((10, "start", f"cosine distance {top:.2g}"), (WIDTH - 10, "end", "0"))
    )
    return (
        f'<svg width="{WIDTH}" height="{bottom + 4:.0f}" role="img" aria-label="dendrogram of {neuron.title}">'
        f"{axis}"
        f'<line x1="{cut:.1f}" x2="{cut:.1f}" y1="20" y2="{bottom:.0f}" stroke="currentColor" stroke-dasharray="3 3"/>'
        f"{''.join(lines)}</svg>"
    )


def _card(cluster: "Cluster", examples: Any, colour: str) -> str:
    size = f"{cluster.size} example{'s' if cluster.size > 1 else ''}"
    lines = ""
    if examples is not None:
        others = [i for i in cluster.members.tolist() if i != cluster.central]
        shown = [cluster.central, *others][:MAX_EXAMPLES]
        lines = "".join(f'<div style="white-space:pre-wrap">{example_html(examples[i])}</div>' for i in shown)
        if cluster.size > len(shown):
            lines += f"<div>… {cluster.size - len(shown)} more</div>"
    return (
        f'<div style="border-left:4px solid {colour};margin:8px 0;padding-left:8px">'
        f"<div><b>{cluster.letter}</b> · {size}</div>{lines}</div>"
    )


def example_html(example: "Example") -> str:
    """Its text, each token shaded by activation as a share of the example's maximum, the key token underlined."""
    spans = []
    tokens = characters.shown(example.tokens, example.key, example.key_part)
    for i, (token, shade) in enumerate(zip(tokens, dendrogram.shades(example).tolist(), strict=True)):
        step = colours.step(shade)  # translucent: a notebook may be light or dark
        style = f"background:rgba(240,149,46,{step * 0.11:.2f})" if step else ""
        if i == example.key:
            style += ";text-decoration:underline;font-weight:bold"
        text = escape(token)
        spans.append(f'<span style="{style}">{text}</span>' if style else text)
    return f'<code title="{escape(characters.visible(example.document))}">{"".join(spans)}</code>'


def table_html(columns: Mapping[str, np.ndarray[Any, Any]]) -> str:
    """A row a neuron, the first of many."""
    n = len(next(iter(columns.values())))
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    rows = "".join(
        "<tr>" + "".join(f"<td>{_cell(values[i])}</td>" for values in columns.values()) + "</tr>"
        for i in range(min(n, MAX_ROWS))
    )
    more = f"<div>… {n - MAX_ROWS} more neurons</div>" if n > MAX_ROWS else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{more}"


def _cell(value: Any) -> str:
    return _shown(None if np.isnan(value) else float(value)) if isinstance(value, np.floating) else str(value)


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
