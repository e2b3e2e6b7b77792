"""A file of `polysem measure --null` that a server shows in its listings, in place of tests that the index holds."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import polysem.server
from polysem.client.commands.cli import cli
from polysem.client.measuring import measurements
from polysem.client.measuring.measure import Measuring, variants
from polysem.proto.errors import InvalidArgument, NotFound
from polysem.proto.facts import HeldTests
from polysem.proto.questions.tested import q_values
from polysem.server.index.format import open_index
from polysem.server.measured import attach

ELSEWHERE = Path(__file__).parent.parent / "compatibility" / "index"
OF_NEURON = ("p_value", "null_silhouette", "excess_silhouette")
OF_CLUSTERS = ("significant_clusters", "stability", "prediction_strength")


@pytest.fixture(scope="module")
def measure(polysem_client, tmp_path_factory):
    """A function that writes measurements of a few neurons of the small index: HAC of neuron embeddings."""
    folder = tmp_path_factory.mktemp("measured")

    def write(*neurons, n_null=9, asked=variants(["hac"], ["neuron"]), **how):
        out = folder / f"{len(list(folder.iterdir()))}.parquet"
        Measuring(polysem_client, neurons, asked, best_cut=False, n_null=n_null, seed=3, **how).run(out)
        return out

    return write


@pytest.fixture(scope="module")
def file(measure):
    return measure("0.0-19", "1.5", asked=variants(["hac", "scc"], ["pre_mlp", "neuron"], frames=["own", "raw"]))


@pytest.fixture(scope="module")
def client(index_folder, file):
    with polysem.server.local(index_folder, device="cpu", measurements=[file]) as client:
        yield client


def test_listings_have_them_of_the_measured_neurons_and_a_dash_elsewhere(client, file):
    measured = measurements.read(file)
    variant = {"algorithm": "hac", "embedding": "neuron", "frame": "raw"}
    rows = {
        (row["layer"], row["neuron"]): row
        for row in measured.rows(np.arange(len(measured)))
        if row.items() >= variant.items()
    }
    assert len(rows) == 21
    q = dict(zip(rows, q_values(np.array([row["p_value"] or np.nan for row in rows.values()])), strict=True))
    seen = 0
    for listed in client.neurons():
        row = rows.get(tuple(listed.id), dict.fromkeys((*OF_NEURON, *OF_CLUSTERS)))
        for name in OF_NEURON:
            assert getattr(listed, name) == row[name]
        for name in OF_CLUSTERS:
            assert getattr(listed, name) == (None if row["p_value"] is None else row[name])
        assert listed.q_value == (None if row["p_value"] is None else q[listed.id])
        seen += listed.p_value is not None
    assert 10 < seen <= 21


def test_they_sort_filter_and_decide_what_is_rare(client):
    first = client.neurons(sort_by="-excess_silhouette", limit=1)[0]
    assert first.excess_silhouette == max(
        row.excess_silhouette for row in client.neurons("0.0-19", "1.5") if row.p_value
    )
    assert {row.p_value <= 0.5 for row in client.neurons(where={"p_value": (None, 0.5)})} == {True}
    for row in client.neurons(distance_threshold=1.2):
        assert not (row.rare and row.p_value is not None and row.p_value > 0.05)


def test_answers_about_many_neurons_have_them_and_the_server_says_so(client, polysem_client, file):
    listed = {row.id: row.p_value for row in client.neurons("0.*")}
    for neuron in client.cluster("0.*"):
        assert (neuron.significance and neuron.significance.p_value) == listed[neuron.id]
    assert client.indexes()[0].tests == HeldTests(9, 3, clusters=True)
    assert polysem_client.indexes()[0].tests is None  # the index's folder is as it was


@pytest.mark.parametrize(
    ("how", "clusters"),
    [
        ({"asked": variants(["hac"], ["neuron"], frames=["own"])}, None),
        ({"asked": variants(["hac"], ["neuron"], linkage="single")}, None),
        ({"distance_threshold": 0.7}, [True, False, True]),
    ],
    ids=str,
)
def test_clusters_are_of_one_tree_and_stability_of_one_cut(index_folder, measure, how, clusters):
    index = open_index(index_folder)
    attach([index], [measure("0.0-9", **how)])
    assert not np.isnan(index.nulls.tests[:10]).all()
    found = index.nulls.clusters
    assert (None if found is None else (~np.isnan(found)).any(axis=0).tolist()) == clusters


def test_what_holds_no_tests_of_what_is_served_is_refused(index_folder, measure, file, tmp_path):
    small = open_index(index_folder)
    for path, words in (
        (measure("0.0", n_null=0), "holds no tests of neuron embeddings by hac; measure with --null 99"),
        (measure("0.0", asked=variants(["hac"], ["pre_mlp"])), "holds no tests of neuron embeddings by hac"),
        (measure("0.0", asked=variants(["hac"], ["neuron"], frames=["standardised"])), "holds no tests of neuron"),
    ):
        with pytest.raises(InvalidArgument, match=words):
            attach([small], [path])
    with pytest.raises(InvalidArgument, match=r"is of the index 'small' \([0-9a-f]{12}…\), which is not served"):
        attach([open_index(ELSEWHERE)], [file])
    with pytest.raises(InvalidArgument, match="are both of the positive side of 'small'; name one"):
        attach([small], [file, measure("0.0")])
    with pytest.raises(NotFound, match="does not exist; `polysem measure --out FILE` writes one"):
        attach([small], [tmp_path / "none.parquet"])


def test_serve_tells_a_wrong_file_in_one_sentence(index_folder, tmp_path):
    words = ["serve", "--index", str(index_folder), "--port", "0", "--measurements", str(tmp_path / "none.parquet")]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 1
    assert "none.parquet' does not exist; `polysem measure --out FILE` writes one" in str(done.exception)
