"""The paper's figures of a neuron, with matplotlib (extra `figures`), fit for a paper.

dendrogram  Figure 2: the tree with its clusters in colour, a text at each leaf, shaded by activation
behaviours  Figure 3: the same of a few examples of each of the two widest branches: a common and a rare behaviour
comparison  Figure 4: the trees by pre-MLP and by neuron embeddings side by side, above the embeddings in two dimensions
"""

import io
import warnings
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from polysem.client import characters, files, letters
from polysem.client.drawing import colours, dendrogram
from polysem.client.drawing.dendrogram import ABOVE_THE_CUT, Layout
from polysem.client.drawing.matching import matched
from polysem.proto.arrays import FloatArray, IntArray
from polysem.proto.errors import InvalidArgument
from polysem.proto.questions.clustering import APPROXIMATE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from polysem.client.questions.cluster import Cluster
    from polysem.client.questions.clustering import Neuron
    from polysem.client.questions.examples import Example

KINDS = ("dendrogram", "behaviours", "comparison")
FORMATS = ("svg", "png", "html", "pdf")
MAX_LEAVES = 60  # with a text each
TEXT_BEFORE, TEXT_AFTER = 34, 22  # characters around the key token
MISSING_GLYPH = r"Glyph \d+ .* missing from"
INK, CUT = "#222222", "#555555"
LETTER_SIZE, LETTER_GAP = 6.5, 7.0  # points: of the letters beside a tree, and from one to the next
TEXT_AT = 30  # points from a leaf to its text: room for a letter and a size
MAX_IN_LEGEND = 14
STYLE = {"font.size": 8, "svg.fonttype": "none", "svg.hashsalt": "polysem", "font.family": "DejaVu Sans"}


class Look(NamedTuple):
    """Marks that distinguish a cluster: its letter, size and colour."""

    letter: str
    size: int
    colour: str

    @property
    def words(self) -> str:
        return f"{self.letter} {self.size}"


class Side(NamedTuple):
    """One way to embed a neuron: its clustering, and its embeddings (n, D) in the order of the labels."""

    neuron: "Neuron"
    embeddings: FloatArray


def figure(draw: Any, *arguments: Any, **options: Any) -> "Figure":
    """A figure drawn in this module's style, without touching the caller's."""
    matplotlib = _matplotlib()
    with matplotlib.rc_context(STYLE):
        return draw(*arguments, **options)  # type: ignore[no-any-return]


def plot_dendrogram(
    neuron: "Neuron", examples: "Sequence[Example] | None" = None, *, max_per_cluster: int = 6, ax: "Axes | None" = None
) -> "Figure":
    """Figure 2 of the paper: the root on the left, distances along the width, the cut as a dashed line.

    examples         a text for each leaf; None: the tree alone
    max_per_cluster  of a larger cluster only so many are leaves, the central one always
    ax               where to draw; None: a figure of its own
    """
    _check_has_examples(neuron)
    return figure(_dendrogram, neuron, examples, _shown_leaves(neuron, examples, max_per_cluster), ax)


def plot_behaviours(neuron: "Neuron", examples: "Sequence[Example]", *, max_per_cluster: int = 4) -> "Figure":
    """Figure 3 of the paper: the two sides of the tree's last merge, a common and a rare behaviour."""
    if len(neuron.labels) < 2:
        raise InvalidArgument(f"{neuron.title} has {len(neuron.labels)} examples; two behaviours need two or more")
    top = float(neuron.tree.heights[-1])
    below = neuron.tree.heights[neuron.tree.heights < top]
    two = neuron.cut(float((below[-1] + top) / 2) if len(below) else 0.0)
    leaves = [i for c in two.clusters[:2] for i in _representatives(two, c, examples, max_per_cluster)]
    title = (
        f"{neuron.title}: {two.clusters[0].size} examples of one behaviour, "
        f"{sum(c.size for c in two.clusters[1:])} of another, {top:.2f} apart"
    )
    return figure(_dendrogram, two, examples, leaves, None, title)


def plot_comparison(pre_mlp: Side, neuron: Side) -> "Figure":
    """Figure 4 of the paper: the same neuron by both embeddings; below, their unit vectors' first two components."""
    _check_has_examples(neuron.neuron)
    return figure(_comparison, pre_mlp, neuron)


def _check_has_examples(neuron: "Neuron") -> None:
    if not len(neuron.labels):
        raise InvalidArgument(f"{neuron.title} has no dataset examples on this corpus: there is nothing to draw")


def _dendrogram(
    neuron: "Neuron",
    examples: "Sequence[Example] | None",
    leaves: Sequence[int],
    ax: "Axes | None" = None,
    title: str | None = None,
) -> "Figure":
    layout = dendrogram.layout(neuron).pruned(leaves)
    if ax is None:
        height = max(0.19 * len(layout.leaves), 0.8) + 0.9
        width = 7.2 if examples is not None else 4.0
        ax = _axes(width, height)
        if examples is not None:
            ax.figure.subplots_adjust(left=0.04, right=0.34)
    looks = _looks(neuron)
    _tree(ax, layout, neuron.distance_threshold, looks)
    if examples is not None:
        for place, i in enumerate(layout.leaves.tolist()):
            _text(ax, place, examples[i], looks[int(neuron.labels[i])].colour)
    ax.set_title(title or _title(neuron, len(layout.leaves)), loc="left", fontsize=8)
    return cast("Figure", ax.get_figure(root=True))


def _looks(neuron: "Neuron") -> dict[int, Look]:
    """Return the marks of each cluster, by its label."""
    of = colours.of_clusters(neuron.clusters)
    return {c.label: Look(c.letter, c.size, of[c.label]) for c in neuron.clusters}


def _looks_as(other: "Neuron", neuron: "Neuron") -> dict[int, Look]:
    """Marks for another clustering of the neuron's examples: a cluster looks like the one it shares most examples with.

    Clusters that have no such one come after the neuron's letters. By label.
    """
    known = {label: rank for rank, label in enumerate(cluster.label for cluster in neuron.clusters)}
    of_examples = np.array([known[label] for label in neuron.labels.tolist()], np.int32)
    ranks = dict(zip(other.labels.tolist(), matched(other.labels, of_examples).tolist(), strict=True))
    n_letters = sum(c.size > 1 for c in neuron.clusters)
    new = [c.label for c in other.clusters if ranks[c.label] >= n_letters and c.size > 1]
    ranks |= {label: n_letters + place for place, label in enumerate(new)}
    palette, beyond = colours.PALETTE, colours.BEYOND
    return {
        c.label: Look(
            letters.letter_of(rank := ranks[c.label], c.size),
            c.size,
            colours.SINGLE if c.size < 2 else palette[rank] if rank < len(palette) else beyond,
        )
        for c in other.clusters
    }


def _tree(ax: "Axes", layout: Layout, threshold: float, looks: dict[int, Look]) -> None:
    n, y = len(layout.leaves), layout.places()
    for i, (a, b) in enumerate(layout.merges.tolist()):
        at, label = layout.heights[n + i], int(layout.labels[n + i])
        colour = INK if label == ABOVE_THE_CUT else looks[label].colour
        ax.plot([layout.heights[a], at, at, layout.heights[b]], [y[a], y[a], y[b], y[b]], color=colour, lw=1.2)
    ax.axvline(threshold, color=CUT, ls=(0, (4, 3)), lw=0.9)
    ax.scatter(
        np.zeros(n), y[:n], s=10, marker="s", color=[looks[int(label)].colour for label in layout.labels[:n]], zorder=3
    )
    _letters(ax, layout, looks)
    ax.set_xlim(max(float(layout.heights.max(initial=0)) * 1.05, threshold * 1.1, 0.1), -0.01)
    ax.set_ylim(n - 0.5, -0.5)
    ax.set_yticks([])
    ax.set_xlabel("cosine distance")
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)


def _letters(ax: "Axes", layout: Layout, looks: dict[int, Look]) -> None:
    """Letter and size of each cluster, right of its leaves; where they would overlap, the largest stay."""
    n = len(layout.leaves)
    height = ax.get_position().height * ax.get_figure(root=True).get_size_inches()[1] * 72  # type: ignore[union-attr]
    gap = LETTER_GAP * n / max(height, 1.0)  # in leaves
    taken: list[float] = []
    for label in sorted(layout.clusters(), key=lambda label: -looks[label].size):
        place = float(np.flatnonzero(layout.labels[:n] == label).mean())
        if looks[label].size > 1 and all(abs(place - other) >= gap for other in taken):
            taken.append(place)
            ax.annotate(
                looks[label].words, (0, place), xytext=(5, 0), textcoords="offset points", fontsize=LETTER_SIZE,
                fontweight="bold", color=INK, va="center", annotation_clip=False,
            )  # fmt: skip


def _text(ax: "Axes", place: int, example: "Example", colour: str) -> None:
    """The text at a leaf in a frame of its cluster's colour; each token shaded by its share of the strongest."""
    from matplotlib.offsetbox import AnnotationBbox, HPacker, TextArea

    shades = dendrogram.shades(example).tolist()
    tokens = characters.shown(example.tokens, example.key, example.key_part)
    parts: list[Any] = []
    for i in _around_key(tokens, example.key):
        token = tokens[i]
        look: dict[str, Any] = {"family": "DejaVu Sans Mono", "size": 6.2, "parse_math": False}
        if i == example.key:
            look["weight"] = "bold"
        if step := colours.step(shades[i]):
            look["bbox"] = {"pad": 0.6, "lw": 0, "fc": colours.AMBER[step - 1]}
        parts.append(TextArea(token, textprops=look))
    box = HPacker(children=parts, pad=0, sep=0, align="baseline")
    frame = {"edgecolor": colour, "lw": 1.0, "boxstyle": "square,pad=0.15", "facecolor": "none"}
    ax.add_artist(
        AnnotationBbox(
            box, (0, place), xycoords="data", xybox=(TEXT_AT, 0), boxcoords="offset points", box_alignment=(0, 0.5),
            bboxprops=frame, annotation_clip=False, pad=0.15,
        )
    )  # fmt: skip


def _around_key(tokens: Sequence[str], key: int) -> range:
    """The places of the tokens that fit beside the key token."""
    first, room = key, TEXT_BEFORE
    while first > 0 and (room := room - len(tokens[first - 1])) >= 0:
        first -= 1
    last, room = key, TEXT_AFTER
    while last + 1 < len(tokens) and (room := room - len(tokens[last + 1])) >= 0:
        last += 1
    return range(first, last + 1)


def _comparison(pre_mlp: Side, neuron: Side) -> "Figure":
    drawn = _new(figsize=(7.2, 5.6), layout="constrained")
    axes = drawn.subplots(2, 2, height_ratios=[3, 2])
    names = ("pre-MLP embeddings", "neuron embeddings")
    all_looks = _looks_as(pre_mlp.neuron, neuron.neuron), _looks(neuron.neuron)
    for column, (side, name, looks) in enumerate(zip((pre_mlp, neuron), names, all_looks, strict=True)):
        _tree(axes[0, column], dendrogram.layout(side.neuron), side.neuron.distance_threshold, looks)
        m = side.neuron.metrics
        axes[0, column].set_title(
            f"{name}: {m.n_clusters} clusters, intra {_shown(m.intra)}, inter {_shown(m.inter)}", loc="left", fontsize=8
        )
        points, shares = projection(side.embeddings)
        ax = axes[1, column]
        _scatter(ax, points, side.neuron.labels, looks)
        ax.set_xlabel(f"first component ({shares[0]:.0%} of variance)")
        ax.set_ylabel(f"second ({shares[1]:.0%})")
    cut = f"{neuron.neuron.title}, cut at cosine distance {neuron.neuron.distance_threshold:g}"
    drawn.suptitle(f"{cut}\nletters by size on the right; on the left by the examples shared with it", fontsize=9)
    return drawn


def _scatter(ax: "Axes", points: FloatArray, labels: IntArray, looks: dict[int, Look]) -> None:
    """The points (n, 2) of each cluster as its letter, single examples as dots; a legend with the sizes."""
    single = np.array([looks[label].size < 2 for label in labels.tolist()], bool)
    for label, look in sorted(looks.items(), key=lambda item: -item[1].size):
        if look.size > 1:
            x, y = points[labels == label].T
            marker = f"$\\mathbf{{{look.letter}}}$"
            ax.scatter(
                x, y, s=16 * len(look.letter), marker=marker, color=look.colour, linewidths=0.2, label=look.words
            )
    if single.any():
        words = f"{single.sum()} single"
        x, y = points[single].T
        ax.scatter(x, y, s=8, color=colours.SINGLE, label=words)
    handles, words_of = ax.get_legend_handles_labels()
    more = len(handles) - MAX_IN_LEGEND
    title = f"largest {MAX_IN_LEGEND} of {len(handles)}" if more > 0 else None
    ax.legend(
        handles[:MAX_IN_LEGEND], words_of[:MAX_IN_LEGEND], title=title, fontsize=5.5, title_fontsize=5.5, ncols=2,
        loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, handletextpad=0.1, columnspacing=0.6,
    )  # fmt: skip


def projection(embeddings: FloatArray) -> tuple[FloatArray, tuple[float, float]]:
    """Unit vectors of the embeddings (n, D) on their two first principal components (n, 2), and each one's variance.

    Signs are chosen so that each component's largest entry is positive.
    """
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit = np.divide(embeddings, lengths, out=np.zeros_like(embeddings), where=lengths > 0)
    centred = unit - unit.mean(0) if len(unit) else unit
    if len(centred) < 2:
        return np.zeros((len(centred), 2), np.float32), (0.0, 0.0)
    u, s, vt = np.linalg.svd(centred, full_matrices=False)
    rank = min(2, len(s))
    signs = np.sign(vt[np.arange(rank), np.abs(vt[:rank]).argmax(1)])
    points = np.zeros((len(centred), 2), np.float32)
    points[:, :rank] = u[:, :rank] * s[:rank] * np.where(signs == 0, 1, signs)
    total = float((s**2).sum()) or 1.0
    shares = [*(s[:rank] ** 2 / total), 0.0, 0.0][:2]
    return points, (float(shares[0]), float(shares[1]))


def format_of(out: Path) -> str:
    """One of FORMATS, by the end of the file's name. Raises InvalidArgument."""
    kind = out.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise InvalidArgument(
            f"a figure is written as {', '.join(FORMATS)}, not as {out.name!r}; end its name so", "out"
        )
    return kind


def save(figure: "Figure", out: Path, title: str, force: bool = False) -> None:
    """Write a figure as its file's name ends: svg, png, pdf, or html, a page with the SVG in it.

    Raises FailedPrecondition where the file is there already (unless `force`) or cannot be written.
    """
    with files.writing(out, force) as file:
        file.write(_drawn(figure, format_of(out), title))


def _drawn(figure: "Figure", kind: str, title: str) -> bytes:
    picture = io.BytesIO()
    with _matplotlib().rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", MISSING_GLYPH)  # a box in png and pdf; svg keeps the text
        if kind != "html":
            metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
            figure.savefig(picture, format=kind, dpi=300, bbox_inches="tight", metadata=metadata)
            return picture.getvalue()
        figure.savefig(picture, format="svg", bbox_inches="tight", metadata={"Date": None})
    svg = picture.getvalue().decode()
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>body{{margin:1rem}}svg{{max-width:100%;height:auto}}</style></head>"
        f"<body><h1>{escape(title)}</h1>{svg[svg.index('<svg') :]}</body></html>"
    )
    return page.encode()


def _shown_leaves(neuron: "Neuron", examples: "Sequence[Example] | None", limit: int) -> list[int]:
    """The examples that are leaves: some of each cluster, MAX_LEAVES in all where texts stand beside them."""
    if examples is None:
        return list(range(len(neuron.labels)))
    found: list[int] = []
    for cluster in neuron.clusters:
        found += _representatives(neuron, cluster, examples, limit)
    return found[:MAX_LEAVES]


def _representatives(neuron: "Neuron", cluster: "Cluster", examples: "Sequence[Example]", limit: int) -> list[int]:
    return dendrogram.representatives(cluster, dendrogram.layout(neuron), examples, limit)


def _title(neuron: "Neuron", n_leaves: int) -> str:
    m = neuron.metrics
    some = "" if n_leaves == m.n_examples else f", {n_leaves} drawn"
    how = f" ({neuron.made_by})" * (neuron.method in APPROXIMATE)
    return (
        f"{neuron.title}: {m.n_examples} examples{some}, {m.n_clusters} clusters at {neuron.distance_threshold:g}{how}"
    )


def _axes(width: float, height: float) -> "Axes":
    return _new(figsize=(width, height)).add_subplot()


def _new(**options: Any) -> "Figure":
    """A figure that a notebook shows; without pyplot, so that nothing keeps it."""
    from matplotlib.figure import Figure

    class ShownFigure(Figure):
        def _repr_png_(self) -> bytes:
            picture = io.BytesIO()
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", MISSING_GLYPH)
                self.savefig(picture, format="png", dpi=120, bbox_inches="tight")
            return picture.getvalue()

    return ShownFigure(**options)


def _matplotlib() -> Any:
    try:
        import matplotlib
        import matplotlib.figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "figures need matplotlib, which is not installed here: pip install 'polysem[figures]'", name=error.name
        ) from None
    return matplotlib


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
