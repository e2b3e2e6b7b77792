import io
from types import SimpleNamespace

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console
from scipy.cluster.hierarchy import fcluster
from scipy.cluster.hierarchy import linkage as scipy_linkage

from polysem.client import terminal
from polysem.client.cutting import Tree
from polysem.client.drawing import dendrogram, notebook
from polysem.client.measuring import agreement
from polysem.client.questions.clustering import Metrics, Neuron
from polysem.client.questions.examples import Example
from polysem.proto.facts import Provenance, Timing
from polysem.proto.neurons import NeuronId
from polysem.proto.questions.clustering import Clustering, EmbeddingChoice

PROVENANCE = Provenance("i", "", "m", "", "0", EmbeddingChoice(), Clustering())


def of_cuts(neuron, silhouette_thresholds, **options):
    return [SimpleNamespace(cut_silhouettes=[0.5] * len(silhouette_thresholds))]


def neuron_of(points, texts=("text",), threshold=0.5, merge_tests=None):
    """A neuron whose examples lie at `points` on a line, with its true tree."""
    n = len(points)
    z = scipy_linkage(np.array(points, float)[:, None], "average") if n > 1 else np.zeros((0, 4))
    first = list(range(n))  # an example of each node, as its central one
    for a, b in z[:, :2].astype(int):
        first.append(min(first[a], first[b]))
    tree = Tree(z[:, :2].astype(np.int32), z[:, 2], np.array(first[n:], np.int32), z[:, 2])
    raw = fcluster(z, threshold, "distance") if n > 1 else np.ones(n, int)
    labels = np.array([list(dict.fromkeys(raw)).index(label) for label in raw], np.int32)
    metrics = Metrics(n, len(set(labels)), None, None, None, None, None, None)
    examples = [example(i, texts[i % len(texts)]) for i in range(n)]
    asker = SimpleNamespace(examples=lambda *neurons, index, side: examples, cluster=of_cuts)
    timing = Timing(0, 0, 1)
    return Neuron(
        NeuronId(1, 2), labels, tree, metrics, threshold, "matrix", PROVENANCE, timing, asker, merge_tests=merge_tests
    )


def example(place, text, key=1):
    tokens = ["before ", text, " after"]
    return Example(NeuronId(1, 2), place, "doc", 0, 3, 2.0, tokens, np.array([0.1, 2.0, -0.1], np.float32), key)


def drawn(renderable, width=80, colour=False):
    console = Console(width=width, file=io.StringIO(), force_terminal=colour, no_color=not colour, highlight=False)
    console.print(renderable)
    return console.file.getvalue()


def test_leaves_of_a_cluster_are_neighbours_with_the_largest_cluster_first():
    neuron = neuron_of([0, 10, 10.1, 10.2, 0.1])
    layout = dendrogram.layout(neuron)
    assert neuron.labels.tolist() == [0, 1, 1, 1, 0]
    assert layout.labels[:5].tolist() == [1, 1, 1, 0, 0]
    assert sorted(layout.leaves.tolist()) == [0, 1, 2, 3, 4]
    assert (np.diff(layout.heights[5:]) >= 0).all()


@pytest.mark.parametrize("n", [0, 1, 2, 3, 17, 300])
@pytest.mark.parametrize("width", [40, 80, 120])
def test_any_neuron_is_drawn_within_the_width(n, width):
    rng = np.random.default_rng(n)
    neuron = neuron_of(rng.uniform(0, 5, n), texts=["def", "日本語", "😀", "x" * 200])
    for colour in (False, True):
        text = drawn(terminal.neuron_panel(neuron, neuron.examples), width, colour)
        plain = [line for line in text.splitlines() if "\x1b" not in line]
        assert all(cell_len(line) <= width for line in plain)
    assert f"neuron {neuron.id}" in notebook.neuron_html(neuron)


def test_significant_merges_are_marked_and_only_these():
    plain = neuron_of([0, 0.1, 5, 5.1, 5.2])
    assert "◇" not in drawn(terminal.neuron_panel(plain, plain.examples))
    tested = neuron_of([0, 0.1, 5, 5.1, 5.2], merge_tests=np.array([[np.nan, 0], [0.3, 0], [0.01, 0], [0.01, 1.0]]))
    text = drawn(terminal.neuron_panel(tested, tested.examples))
    assert text.count("◇") == 2  # the root, and the legend
    assert "◇ significant merge" in text
    layout = dendrogram.layout(tested)
    assert layout.significant.tolist() == [False, False, False, True]
    assert layout.pruned([0, 4]).significant.tolist() == [True]
    assert layout.pruned([2, 4]).significant.tolist() == [False]


def test_equal_examples_make_one_cluster_at_distance_0():
    neuron = neuron_of([1.0] * 6)
    assert "6 examples fall into 1 cluster" in drawn(terminal.neuron_panel(neuron, neuron.examples))


HOSTILE = [
    "\x1b[31mred\x1b[0m",
    "[bold]markup[/bold]",
    "<script>alert(1)</script>",
    "a\nb\tc\r",
    "\u202edrawkcab",
    "&amp;",
]


def test_texts_of_the_corpus_reach_the_terminal_harmless():
    neuron = neuron_of(np.arange(6.0), texts=HOSTILE)
    text = drawn(terminal.neuron_panel(neuron, neuron.examples), 120)
    assert "[bold]markup[/bold]" in text
    assert not set(text) & set("\x1b\t\r\u202e")
    assert "a⏎b→c" in text
    assert "«<script>alert(1)</script>»" in text


def test_texts_of_the_corpus_reach_the_notebook_escaped():
    html = notebook.neuron_html(neuron_of(np.arange(6.0), texts=HOSTILE))
    assert html.count("<script") == 1  # our own
    assert html.count("</script") == 1
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "&amp;amp;" in html
    assert "http" not in html.replace("http://www.w3.org/2000/svg", "")


def test_hac_beside_scc_says_how_far_they_agree():
    a, b, none = neuron_of([0, 0.1, 5, 5.1]), neuron_of([0, 0.1, 5, 9]), neuron_of([])
    assert "the same clusters" in drawn(terminal.comparison(none, none), 100)
    assert "the same clusters" in drawn(terminal.comparison(a, a), 100)
    text = drawn(terminal.comparison(a, b), 100)
    assert "HAC  AAAABBBB" in text
    assert "SCC  AAAA····" in text


@pytest.mark.parametrize(
    ("a", "b"), [([0, 0, 1, 1], [0, 0, 1, 2]), ([0], [0]), ([0, 1, 2], [0, 1, 2]), ([0] * 5, [0] * 5)]
)
def test_adjusted_rand_index_is_scikit_learns(a, b):
    from sklearn.metrics import adjusted_rand_score

    a, b = np.array(a, np.int32), np.array(b, np.int32)
    assert agreement.adjusted_rand_index(a, b) == pytest.approx(adjusted_rand_score(a, b))


def test_undefined_metrics_are_a_dash(polysem_client):
    neurons = polysem_client.cluster("0.*")
    assert any(neuron.metrics.inter is None for neuron in neurons)
    assert "–" in drawn(terminal.metrics_table(neurons), 120)
    assert "<table>" in neurons._repr_html_()


@pytest.mark.parametrize(
    ("columns", "width"),
    [("0", 120), ("1", 20), ("80", 80), ("99999999", 1000), (None, 120)],
)
def test_output_is_as_wide_as_can_be_read(monkeypatch, columns, width):
    if columns is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", columns)
    assert terminal.console().width == width
