"""A report on some neurons: one HTML file that needs nothing from elsewhere, for a browser, a phone or paper."""

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from polysem.client.client import Client
from polysem.client.drawing import browser, notebook
from polysem.client.questions.clustering import Neuron
from polysem.client.questions.counted import wholly_tested
from polysem.client.questions.examples import Example
from polysem.client.questions.labels import Label
from polysem.client.questions.logit_effects import LogitEffects
from polysem.proto.errors import FailedPrecondition, Unsupported
from polysem.proto.questions.clustering import APPROXIMATE, mixed_methods

MAX_NEURONS = 40  # with their texts; about 150 KB each at 100 examples
MAX_TABLE_ROWS = 2000

STYLE = """
:root { color-scheme: light dark; --ground: #ffffff; --ink: #1c1b19; --line: #e2dfd8; --link: #1f4f96; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #14161a; --ink: #ebeae7; --line: #2d3138; --link: #93b8f5; }
}
body { background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; margin: 0 auto;
  max-width: 1200px; padding: 1rem; }
a { color: var(--link); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 0.15rem 0.6rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
article { border-top: 2px solid var(--line); margin-top: 2rem; padding-top: 0.5rem; }
h2 { margin: 0.3rem 0; }
@media print { :root { color-scheme: light; --ground: #ffffff; --ink: #000000; } article { break-before: page; } }
"""

START = """
for (const article of document.querySelectorAll("article")) {
  const data = JSON.parse(article.querySelector("script").textContent);
  Polysem.show(article.querySelector("div"), data, { title: false });
  const effects = article.querySelector(":scope > section > div");
  if (effects) Polysem.logitEffects(effects, data.logit_effects);
}
"""


class Report(NamedTuple):
    """html        the page
    n_asked     neurons that were asked for
    n_drawn     of them, those drawn with their texts
    """

    html: str
    n_asked: int
    n_drawn: int


def make(client: Client, *neurons: str, index: str | None = None, **options: object) -> Report:
    """The report on these neurons, clustered by `options`, those of `Client.cluster`.

    At most MAX_NEURONS are drawn with their texts, those with most clusters first where there are more; the table has
    MAX_TABLE_ROWS rows at most. The page says what it leaves out.
    """
    found = client.cluster(*neurons, index=index, n_null=wholly_tested(None, *neurons), **options)  # type: ignore[arg-type]
    asked = list(found)
    drawn = asked if len(asked) <= MAX_NEURONS else sorted(asked, key=_most_behaviours)[:MAX_NEURONS]
    texts = {id(neuron): neuron.examples for neuron in drawn}
    effects = _effects(client, drawn, index)
    of_labels = {name: value for name, value in options.items() if name not in ("n_null", "seed")}
    ids = [neuron.id for neuron in drawn if len(neuron.labels)]
    names = browser.names_of(client, ids, index=index, **of_labels)
    articles = "".join(
        _article(neuron, texts[id(neuron)], of, names.get(neuron.id, ()))
        for neuron, of in zip(drawn, effects, strict=True)
    )
    return Report(_page(asked, drawn, articles, " ".join(neurons)), len(asked), len(drawn))


def _most_behaviours(neuron: Neuron) -> tuple[int, float]:
    """Sort neurons with several clusters of some size first, of equals the clearest."""
    large = sum(cluster.size >= 4 for cluster in neuron.clusters)
    return -large, -(neuron.metrics.silhouette or -1.0)


def _effects(client: Client, drawn: Sequence[Neuron], index: str | None) -> Sequence[LogitEffects | None]:
    """Return what each neuron writes; None where the server is older, or its checkpoint has no unembedding."""
    try:
        return list(client.logit_effects(*(neuron.id for neuron in drawn), index=index, side=drawn[0].side))
    except (Unsupported, FailedPrecondition):
        return [None] * len(drawn)


def _article(neuron: Neuron, examples: Sequence[Example], effects: LogitEffects | None, names: Sequence[Label]) -> str:
    data, writes = browser.data(neuron, examples, neuron.silhouettes, names=names), ""
    if effects is not None:
        data["logit_effects"] = browser.effects_data(effects)
        writes = "<section><h3>What it adds to the output</h3><div></div></section>"
    return (
        f'<article id="n{neuron.id}"><h2>{neuron.title.capitalize()}</h2>'
        f"<div>{notebook.plain_html(neuron, examples)}</div>{writes}"
        f'<script type="application/json">{browser.json_in_html(data)}</script></article>'
    )


def _page(asked: Sequence[Neuron], drawn: Sequence[Neuron], articles: str, named: str) -> str:
    script = f"{browser.script()}{START}"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:"
    title = f"Polysem: {drawn[0].id}" if len(asked) == 1 else f"Polysem: {len(asked):,} neurons"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}{browser.style()}</style></head><body><main>"
        f"<h1>{escape(title)}</h1>{_words(asked, drawn, named)}{_table(asked, drawn)}{articles}</main>"
        f"{_provenance(asked)}<script>{script}</script></body></html>"
    )


def _words(asked: Sequence[Neuron], drawn: Sequence[Neuron], named: str) -> str:
    """Say what was asked, what is shown, and what is not."""
    empty = sum(not neuron.metrics.n_examples for neuron in asked)
    sentences = [f"Asked for: {named}."]
    if empty:
        sentences.append(f"{_n(empty, 'neuron')} of them without dataset examples.")
    if mixed := mixed_methods(sum(neuron.method in APPROXIMATE for neuron in asked), len(asked)):
        sentences.append(f"{mixed.removesuffix(' (see method)')}.")
    if len(drawn) < len(asked):
        sentences.append(
            f"{len(asked):,} neurons are too many for one page: the {len(drawn)} with most clusters of four or more "
            f"examples are drawn with their texts. Name fewer neurons to see others."
        )
    if len(asked) > MAX_TABLE_ROWS:
        sentences.append(f"The table has the first {MAX_TABLE_ROWS:,}; `polysem cluster … --json` gives all.")
    return f"<p>{escape(' '.join(sentences))}</p>"


def _table(asked: Sequence[Neuron], drawn: Sequence[Neuron]) -> str:
    linked = {id(neuron) for neuron in drawn}
    tests = ("p", "excess silhouette") if any(neuron.significance for neuron in asked) else ()
    head = ("neuron", *tests, "examples", "clusters", "largest", "intra", "inter", "silhouette", "mean distance")
    rows = []
    for neuron in asked[:MAX_TABLE_ROWS]:
        m = neuron.metrics
        name = f'<a href="#n{neuron.id}">{neuron.id}</a>' if id(neuron) in linked else str(neuron.id)
        share = "–" if m.largest_share is None else f"{m.largest_share:.0%}"
        found = neuron.significance
        tested = [_shown(found and found.p_value), _shown(found and found.excess)] if tests else []
        cells = (name, *tested, m.n_examples, m.n_clusters, share, *map(_shown, (m.intra, m.inter, m.silhouette)))
        rows.append("".join(f"<td>{cell}</td>" for cell in (*cells, _shown(m.mean_distance))))
    heads = "".join(f'<th scope="col">{name}</th>' for name in head)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'


def _provenance(asked: Sequence[Neuron]) -> str:
    p = asked[0].provenance
    return (
        f"<footer><p>{escape(browser.note(asked[0]))}. Distances are cosine distances, 0 to 2. Model "
        f"{escape(p.model_id)} ({escape(p.model_sha256[:12])}), index {escape(p.index)} "
        f"({escape(p.index_sha256[:12])}), Polysem {escape(p.software_version)}.</p></footer>"
    )


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _n(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
