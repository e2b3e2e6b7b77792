"""`neighbours=K` through server and client: what is asked arrives, and the answer says how and by what it was made."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from polysem.client.commands.cli import cli
from polysem.proto.errors import InvalidArgument

ASKED = ["0.3", "0.95", "1.0", "1.17", "1.64"]
HOW = [
    ({"algorithm": "scc"}, "neighbours"),
    ({"algorithm": "scc", "thresholds": "geometric", "until_stable": True}, "neighbours"),
    ({"algorithm": "components"}, "neighbour_tree"),
    ({"linkage": "single"}, "neighbour_tree"),
]


@pytest.mark.parametrize(("how", "method"), HOW, ids=str)
def test_the_answer_says_how_and_by_what_it_was_made(polysem_client, how, method):
    for neuron in polysem_client.cluster(*ASKED, **how, neighbours=3):
        assert (neuron.method, neuron.library) == (method, "torch")
        assert neuron.provenance.clustering.neighbours == 3
        recut = neuron.cut(0.3)
        assert (recut.method, recut.library) == (method, "torch")
    for neuron in polysem_client.cluster(*ASKED, **how):
        assert (neuron.method, neuron.library) == ("matrix", "polysem")
        assert neuron.provenance.clustering.neighbours is None


@pytest.mark.parametrize(("how", "method"), HOW, ids=str)
def test_as_many_neighbours_as_there_are_give_the_exact_clusters(polysem_client, how, method):
    exact, asked = (polysem_client.cluster("1.0-39", **how, neighbours=k) for k in (None, 1024))
    for one, other in zip(exact, asked, strict=True):
        assert one.labels.tolist() == other.labels.tolist()
        np.testing.assert_allclose(one.linkage[:, 2], other.linkage[:, 2], atol=2e-6)


def test_few_neighbours_give_more_clusters(polysem_client):
    counts = [
        sum(neuron.metrics.n_clusters for neuron in polysem_client.cluster("1.0-39", algorithm="scc", neighbours=k))
        for k in (1, 29)
    ]
    assert counts[0] > counts[1]


def test_company_changes_no_byte(polysem_client):
    def trees(*asked):
        found = polysem_client.cluster(*asked, algorithm="scc", neighbours=4)
        return {str(neuron.id): (neuron.linkage.tobytes(), neuron.labels.tobytes()) for neuron in found}

    together = trees("0.90-95", "1.0-69", "0.0-9")
    for name in ASKED:
        assert trees(name) == {name: together[name]}


def test_other_questions_cluster_so_too(polysem_client):
    how = {"algorithm": "scc", "neighbours": 2}
    listed = {neuron.id: neuron.n_clusters for neuron in polysem_client.neurons(**how)}
    clustered = {neuron.id: neuron.metrics.n_clusters for neuron in polysem_client.cluster("*", **how)}
    assert listed == clustered
    assert listed != {neuron.id: neuron.n_clusters for neuron in polysem_client.neurons(algorithm="scc")}
    assert {similar.to for similar in polysem_client.similar("1.17", **how)} == set(range(clustered[1, 17]))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"neighbours": 25}, "neighbours is 25, and HAC with average linkage needs all distances"),
        ({"neighbours": 25, "linkage": "complete"}, "HAC with complete linkage needs all distances"),
        *(
            ({"algorithm": "scc", "neighbours": k}, f"neighbours is {k!r}; give a whole number from 1 to 1024")
            for k in (0, -1, 1025, 2.0, "25", True)
        ),
    ],
    ids=str,
)
def test_what_cannot_be_is_told_in_words(polysem_client, how, words):
    with pytest.raises(InvalidArgument, match=words) as raised:
        polysem_client.cluster("1.17", **how)
    assert raised.value.field == "neighbours"


def test_the_limit_is_published(polysem_client):
    about = polysem_client.info()
    assert (about.limits.max_neighbours, about.neighbour_library) == (1024, "torch")


class TestCommand:
    @staticmethod
    def run(client, *words):
        return CliRunner().invoke(cli, [*words, "--server", client.target])

    def test_prints_method_and_library(self, polysem_client):
        done = self.run(polysem_client, "cluster", "1.17", "--algorithm", "scc", "--neighbours", "5", "--json")
        printed = json.loads(done.output)
        assert (printed["method"], printed["library"]) == ("neighbours", "torch")
        assert printed["provenance"]["clustering"]["neighbours"] == 5

    def test_shows_them_beside_the_tree(self, polysem_client):
        done = self.run(polysem_client, "cluster", "1.17", "--algorithm", "scc", "--neighbours", "5")
        assert "Sub-Cluster Component of 5 nearest neighbours" in " ".join(done.output.replace("│", " ").split())

    def test_says_who_searches(self, polysem_client):
        assert "searched by torch" in self.run(polysem_client, "info").output

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--neighbours", "25"], "ask for algorithm scc or for single linkage"),
            (["--algorithm", "scc", "--neighbours", "0"], "neighbours is 0; give a whole number from 1 to 1024"),
            (["--algorithm", "scc", "--neighbours", "many"], "'many' is not a valid integer"),
        ],
    )
    def test_tells_what_is_wrong(self, polysem_client, words, message):
        done = self.run(polysem_client, "cluster", "1.17", *words)
        assert done.exit_code != 0
        assert message in f"{done.output} {done.exception}"
        assert isinstance(done.exception, InvalidArgument | SystemExit)
