"""Frames: what is subtracted from the embeddings before cosines, against a GPT-2 in NumPy over the same corpus."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.testing import assert_allclose
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist
from sklearn.metrics import adjusted_rand_score

from polysem.client.commands.cli import cli
from polysem.client.measuring import measurements
from polysem.proto.errors import FailedPrecondition, InvalidArgument
from polysem.server.index.format import open_index

from .small_truth import N_LAYERS, Truth

NEURONS = ["0.3", "0.40", "1.7", "1.88"]
CHOICES = [(e, n) for e in ("neuron", "pre_mlp") for n in ("folded", "raw")]
COMPATIBLE = Path(__file__).parent.parent / "compatibility" / "index"  # made by version 0.1.0


@pytest.fixture(scope="module")
def truth(checkpoint, corpus_file):
    return Truth(checkpoint, corpus_file)


@pytest.fixture(scope="module")
def index(index_folder):
    return open_index(index_folder)


def of_all_tokens(truth, layer):
    """x̂ (tokens, D) of the whole corpus, BOS apart."""
    return np.concatenate([x[1:] for x in truth.xhat[layer]])


def test_an_index_holds_mean_and_deviation_of_x_hat_over_all_tokens_but_bos(truth, index):
    for layer in range(N_LAYERS):
        every = of_all_tokens(truth, layer)
        assert_allclose(index.moments(layer).mean, every.mean(0), atol=1e-4)
        assert_allclose(index.moments(layer).deviation, every.std(0), atol=1e-4)


def wanted(truth, index, id_, embedding, layer_norm, frame):
    """A neuron's embeddings (n, D) float64, from the stored x̂ and the corpus."""
    layer, j = id_
    stored = index.layer(layer)
    x = stored.xhat[stored.rows[stored.offsets[j] : stored.offsets[j + 1]]].astype(float)
    every = of_all_tokens(truth, layer)
    w = {name: truth.weights[f"h.{layer}.{name}"] for name in ("ln_2.weight", "ln_2.bias", "mlp.c_fc.weight")}
    gamma, beta, column = w["ln_2.weight"], w["ln_2.bias"], w["mlp.c_fc.weight"][:, j]
    if layer_norm == "folded":
        h, of_all, v = x, every, gamma * column
    else:
        h, of_all, v = gamma * x + beta, gamma * every + beta, column
    if embedding == "pre_mlp":
        v = np.ones_like(v)
    if frame in ("centred", "standardised"):
        h = h - of_all.mean(0)
    if frame == "standardised":
        h = h / of_all.std(0)
    e = h * v
    return e - e.mean(0) if frame == "own" else e


@pytest.mark.parametrize(("embedding", "layer_norm"), CHOICES)
@pytest.mark.parametrize("frame", ["raw", "centred", "standardised", "own"])
def test_embeddings_and_trees_are_those_of_the_frame(truth, index, polysem_client, embedding, layer_norm, frame):
    how = {"embedding": embedding, "layer_norm": layer_norm, "frame": frame}
    for got, neuron in zip(polysem_client.embed(*NEURONS, **how), polysem_client.cluster(*NEURONS, **how), strict=True):
        want = wanted(truth, index, got.id, embedding, layer_norm, frame)
        ours = got.embeddings * np.sign((got.embeddings * want).sum(0))  # signs of dimensions change no cosine
        assert_allclose(ours, want, atol=2e-4 * np.abs(want).max())
        assert neuron.provenance.choice.frame == frame
        if len(want) > 2:
            tree = linkage(pdist(want, "cosine"), "average")
            assert_allclose(neuron.linkage[:, 2], tree[:, 2], atol=1e-4)
            labels = fcluster(tree, (tree[-1, 2] + tree[-2, 2]) / 2, "distance")
            assert adjusted_rand_score(neuron.cut((tree[-1, 2] + tree[-2, 2]) / 2).labels, labels) == 1


def test_frames_give_other_trees(polysem_client):
    heights = [polysem_client.cluster("0.3", frame=f)[0].linkage[-1, 2] for f in ("raw", "centred", "own")]
    assert len(set(heights)) == 3


def test_a_frame_goes_through_listings_text_and_similar_clusters(polysem_client):
    alone = polysem_client.cluster("0.3", frame="own", distance_threshold=0.9)[0]
    how = {"frame": "own", "distance_threshold": 0.9}
    (listed,) = polysem_client.neurons("0.3", **how)
    assert listed.n_clusters == alone.metrics.n_clusters
    assert listed.n_clusters != polysem_client.cluster("0.3", distance_threshold=0.9)[0].metrics.n_clusters
    example = alone.examples[alone.clusters[0].central]
    text = "".join(example.tokens[: example.key + 1])
    nearest = [
        min(f.distance for token in polysem_client.explain(text, "0.3", **options) for f in token.firings if f.fires)
        for options in ({"frame": "own"}, {"frame": "raw"})
    ]
    assert nearest[0] != nearest[1]
    assert polysem_client.similar("0.3", alone.clusters[0].label, **how)[0]


def test_an_unknown_frame_is_refused_in_words(polysem_client):
    with pytest.raises(InvalidArgument, match="frame"):
        polysem_client.cluster("0.3", frame="centered")


def test_an_index_of_version_0_1_0_has_no_means_but_raw_and_own(tmp_path):
    import polysem.server

    with polysem.server.local(COMPATIBLE, model=str(COMPATIBLE.parent / "checkpoint"), device="cpu") as client:
        assert len(client.cluster("0.1", frame="own")) == 1
        with pytest.raises(FailedPrecondition, match=r"holds no mean of its layers' x̂.* index the corpus anew"):
            client.cluster("0.1", frame="centred")[0]


def test_measurements_tell_frames_apart_and_older_files_are_raw(polysem_client, index_folder, tmp_path):
    import pyarrow.parquet

    out = tmp_path / "frames.parquet"
    arguments = ["measure", "0.0-9", "--index", str(index_folder), "--out", str(out), "--algorithm", "hac"]
    done = CliRunner().invoke(cli, [*arguments, "--frame", "raw", "--frame", "own"], catch_exceptions=False)
    assert done.exit_code == 0
    measured = measurements.read(out)
    assert sorted(set(measured.column("frame"))) == ["own", "raw"]
    own = [row for row in measured.rows(np.arange(len(measured))) if row["frame"] == "own"]
    neuron = polysem_client.cluster("0.3", frame="own")[0]
    assert own[6]["neuron"] == 3
    assert own[6]["n_clusters"] == neuron.metrics.n_clusters
    shown = CliRunner().invoke(cli, ["table1", str(out)]).output
    assert "frame own" in shown
    ranked = CliRunner().invoke(cli, ["rank", str(out), "--frame", "own", "--json"]).output
    assert {json.loads(line)["frame"] for line in ranked.splitlines()} == {"own"}

    table = pyarrow.parquet.read_table(out)
    about = json.loads(table.schema.metadata[b"polysem"])
    about["variants"] = [{k: v for k, v in variant.items() if k != "frame"} for variant in about["variants"][:1]]
    older = table.drop_columns(["frame"]).replace_schema_metadata({b"polysem": json.dumps(about)})
    pyarrow.parquet.write_table(older, tmp_path / "older.parquet", write_page_checksum=True)
    assert set(measurements.read(tmp_path / "older.parquet").column("frame")) == {"raw"}


def test_the_command_line_takes_a_frame(index_folder):
    done = CliRunner().invoke(cli, ["cluster", "--help"])
    assert "--frame [raw|centred|standardised|own]" in done.output.replace("\n", " ")


def test_the_command_cuts_one_neuron_where_its_significant_merges_suggest_but_in_the_raw_frame(polysem_client):
    def cut(*words):
        line = ["cluster", "0.3", "--server", polysem_client.target, "--null", "19", "--json", *words]
        said = json.loads(CliRunner().invoke(cli, line).output)
        return said["provenance"]["clustering"]["distance_threshold"]

    want = polysem_client.cluster("0.3", frame="own", n_null=19)[0].significant_cut
    assert cut("--frame", "own") == want != 0.5
    assert cut("--frame", "own", "--distance-threshold", "0.5") == cut() == 0.5


def test_a_copy_of_the_index_verifies(index_folder, tmp_path):
    from polysem.server.index.format import verify

    shutil.copytree(index_folder, tmp_path / "copy")
    assert verify(open_index(tmp_path / "copy")) > 0
