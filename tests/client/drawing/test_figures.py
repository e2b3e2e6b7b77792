"""The paper's figures of a neuron."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from polysem.client.commands.cli import cli
from polysem.client.drawing import figures
from polysem.client.letters import letters
from polysem.client.questions.cluster import Cluster
from polysem.proto.errors import InvalidArgument


@pytest.fixture
def neuron(client):
    return max(client.cluster("0.*"), key=lambda n: (n.metrics.n_clusters >= 3, n.metrics.n_examples))


def texts(figure):
    from matplotlib.text import Text

    return [t.get_text() for t in figure.findobj(Text)]


def test_figure_2_has_a_leaf_a_text_and_the_distance_axis(neuron):
    drawn = neuron.plot_dendrogram(max_per_cluster=100)
    (ax,) = drawn.axes
    assert ax.get_xlabel() == "cosine distance"
    assert len(ax.artists) == len(neuron.labels)
    heights = sorted({float(x) for line in ax.lines[:-1] for x in line.get_xdata()} - {0.0})
    assert np.allclose(heights, np.unique(neuron.linkage[:, 2][neuron.linkage[:, 2] > 0]))
    keys = [example.tokens[example.key] for example in neuron.examples]
    assert all(any(key.strip() in text for text in texts(drawn)) for key in keys)


def test_a_tree_without_texts_asks_for_none(client):
    neuron = client.cluster("0.1")[0]
    neuron.plot_dendrogram(texts=False)
    assert "examples" not in vars(neuron)


def test_figure_3_splits_at_the_last_merge(neuron):
    drawn = figures.plot_behaviours(neuron, neuron.examples)
    top = neuron.linkage[-1, 2]
    assert f"{top:.2f} apart" in drawn.axes[0].get_title(loc="left")
    assert neuron.linkage[-2, 2] <= drawn.axes[0].lines[-1].get_xdata()[0] < top


def test_figure_4_has_both_embeddings_at_one_cut(neuron, client):
    drawn = neuron.plot_compare()
    pre_mlp = client.cluster(neuron.id, embedding="pre_mlp")[0]
    first, second, *_ = [ax.get_title(loc="left") for ax in drawn.axes]
    assert first.startswith(f"pre-MLP embeddings: {pre_mlp.metrics.n_clusters} clusters")
    assert second.startswith(f"neuron embeddings: {neuron.metrics.n_clusters} clusters")
    assert sum(len(points.get_offsets()) for points in drawn.axes[3].collections) == len(neuron.labels)


def test_colour_never_stands_alone_in_a_figure(neuron):
    many = [f"{c.letter} {c.size}" for c in neuron.clusters if c.size > 1]
    assert texts(neuron.plot_dendrogram(max_per_cluster=9)).count(many[0]) == 1
    left, right, *_ = (ax.get_legend() for ax in neuron.plot_compare().axes[2:])
    shown = [text.get_text() for text in right.get_texts()]
    assert shown[: len(many)] == many
    assert len(shown) == len(many) + (len(many) < len(neuron.clusters))  # all single examples in one line
    assert left.get_texts()


def clustering_of(labels):
    """A stand-in for a neuron of which only the clusters count."""
    labels = np.array(labels, np.int32)
    sizes = np.bincount(labels)
    names = letters(sizes)
    found = [
        Cluster(label, np.flatnonzero(labels == label), 0, None, None, names[label]) for label in range(len(sizes))
    ]
    return SimpleNamespace(labels=labels, clusters=sorted(found, key=lambda c: (-c.size, c.label)))


def test_in_a_comparison_a_cluster_has_the_letter_of_the_one_it_shares_most_with():
    neuron = clustering_of([0, 0, 0, 0, 1, 1, 1, 2, 2, 3])
    looks = figures._looks_as(clustering_of([1, 1, 1, 2, 0, 0, 0, 3, 3, 3]), neuron)
    assert {label: look.letter for label, look in looks.items()} == {0: "B", 1: "A", 2: "·", 3: "C"}
    halves = figures._looks_as(clustering_of([0, 0, 1, 1, 2, 2, 2, 3, 3, 3]), neuron)  # A falls in two: one is new
    assert {label: look.letter for label, look in halves.items()} == {0: "A", 1: "D", 2: "B", 3: "C"}
    of_neuron = figures._looks(neuron)
    assert looks[1].colour == of_neuron[0].colour


def test_the_comparison_keeps_algorithm_and_cut(neuron, client):
    scc = client.cluster(neuron.id, algorithm="scc", thresholds=[0.2, 0.7])[0].cut(0.3)
    pre_mlp = client.cluster(
        neuron.id, algorithm="scc", thresholds=[0.2, 0.7], embedding="pre_mlp", distance_threshold=0.3
    )[0]
    titles = [ax.get_title(loc="left") for ax in scc.plot_compare().axes[:2]]
    assert titles[0].startswith(f"pre-MLP embeddings: {pre_mlp.metrics.n_clusters} clusters")
    assert titles[1].startswith(f"neuron embeddings: {scc.metrics.n_clusters} clusters")


def test_projection_is_scikit_learns_pca_of_unit_vectors():
    from sklearn.decomposition import PCA

    x = np.random.default_rng(0).normal(size=(30, 7)).astype(np.float32)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    points, shares = figures.projection(x)
    pca = PCA(2).fit(unit)
    assert np.allclose(np.abs(points), np.abs(pca.transform(unit)), atol=1e-5)
    assert np.allclose(shares, pca.explained_variance_ratio_, atol=1e-5)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_projection_of_few_points(n):
    points, _ = figures.projection(np.ones((n, 3), np.float32))
    assert points.shape == (n, 2)
    assert not points.any()


@pytest.mark.parametrize("kind", ["dendrogram", "behaviours", "comparison"])
@pytest.mark.parametrize("suffix", ["svg", "png", "pdf", "html"])
def test_the_command_writes_every_kind_in_every_format(client, neuron, tmp_path, kind, suffix):
    out = tmp_path / f"figure.{suffix}"
    result = CliRunner().invoke(
        cli, ["figure", str(neuron.id), "--kind", kind, "--out", str(out), "--server", client.target]
    )
    assert (result.exit_code, result.output) == (0, f"{out}: neuron {neuron.id}, {kind}\n")
    start = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF", "html": b"<!doctype html>"}[suffix]
    assert out.read_bytes().startswith(start)
    if suffix == "html":
        assert not re.search(r'(src|href)="https?:', out.read_text())


def test_texts_of_the_corpus_are_neither_mathematics_nor_markup(client, tmp_path):
    from polysem.client.questions.examples import Example

    neuron = client.cluster("0.1", distance_threshold=2.0)[0]
    hostile = ["$x^", "<script>", "\x1b[31m", "a_{b}$"]
    e = neuron.examples[0]
    examples = [
        Example(e.neuron, i, "d", 0, 1, 1.0, ["a ", hostile[i % 4]], np.array([0, 1.0], np.float32), 1)
        for i in range(len(neuron.labels))
    ]
    out = tmp_path / "figure.svg"
    figures.save(figures.plot_dendrogram(neuron, examples), out, "title")
    text = out.read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "$x^" in text


def test_what_cannot_be_drawn_is_told(client, tmp_path):
    for arguments, words in (
        (["0.*"], "a figure shows one"),
        (["0.1", "--out", str(tmp_path / "figure.gif")], "a figure is written as svg, png, html, pdf"),
    ):
        result = CliRunner().invoke(cli, ["figure", *arguments, "--server", client.target])
        assert result.exit_code != 0
        assert words in result.output + str(result.exception)
    few = next(n for n in client.cluster("*", index="single") if n.metrics.n_examples == 1)
    with pytest.raises(InvalidArgument, match="two behaviours need two or more"):
        figures.plot_behaviours(few, few.examples)
    none = next(n for n in client.cluster("*") if not n.metrics.n_examples)
    for draw in (none.plot_dendrogram, none.plot_compare):
        with pytest.raises(InvalidArgument, match=f"neuron {none.id} has no dataset examples on this corpus"):
            draw()
