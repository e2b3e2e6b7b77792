"""Whole models measured: the file against an independent computation, killed runs, wrong words."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.cluster.hierarchy import fcluster
from sklearn.metrics import adjusted_rand_score, silhouette_score

from polysem.client import Client
from polysem.client.commands.cli import cli
from polysem.client.measuring import measure, measurements, ranking, table1
from polysem.client.measuring.agreement import adjusted_rand_indexes
from polysem.client.measuring.measure import BEST_CUT_THRESHOLDS, Measuring, variants
from polysem.client.questions.clustering import cluster_call
from polysem.proto.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unavailable,
    UnknownIndex,
    UnknownNeuron,
)
from polysem.proto.neurons import NeuronRange
from polysem.proto.questions import listing
from polysem.proto.questions.clustering import Clustering, ClusterQuery

EVERY = variants(("hac", "scc", "components"), ("neuron", "pre_mlp"), ("folded", "raw"))


@pytest.fixture(scope="module")
def file(polysem_client, tmp_path_factory):
    """Every neuron of the small index by every clustering."""
    out = tmp_path_factory.mktemp("measured") / "all.parquet"
    Measuring(polysem_client, ("*",), EVERY, distance_threshold=0.4).run(out)
    return out


@pytest.fixture(scope="module")
def measured(file):
    return measurements.read(file)


@pytest.fixture
def in_small_shards(monkeypatch):
    monkeypatch.setattr(measure, "EXAMPLES_AT_ONCE", 30 * 25)  # 25 neurons of up to 30 examples


def distances_of(embeddings):
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit = np.divide(embeddings, norms, out=np.zeros_like(embeddings), where=norms > 0)
    d = 1 - unit @ unit.T
    np.fill_diagonal(d, 0)
    return d.clip(0, 2)


def intra_inter(d, labels):
    pairs = np.triu_indices(len(d), 1)
    same = labels[pairs[0]] == labels[pairs[1]]
    return [d[pairs][part].mean() if part.any() else None for part in (same, ~same)]


def near(a, b, tolerance=2e-6):
    return (a is None) == (b is None) and (a is None or abs(a - b) < tolerance)


# ---- The numbers


def test_there_is_a_row_a_neuron_and_clustering_in_order(measured):
    assert len(measured) == 192 * 12
    first = measured.rows(np.arange(13))
    assert [(r["layer"], r["neuron"]) for r in first] == [(0, 0)] * 12 + [(0, 1)]
    assert [
        tuple(r[k] for k in ("algorithm", "linkage", "embedding", "layer_norm", "frame")) for r in first[:12]
    ] == list(EVERY)


@pytest.mark.parametrize("variant", EVERY, ids=str)
def test_the_numbers_are_those_of_the_definitions(measured, polysem_client, variant):
    rows = [r for r in measured.rows(np.arange(len(measured))) if all(r[k] == v for k, v in variant._asdict().items())]
    choice = {"embedding": variant.embedding, "layer_norm": variant.layer_norm}
    trees = list(polysem_client.cluster("*", algorithm=variant.algorithm, distance_threshold=0.4, **choice))
    embeddings = list(polysem_client.embed("*", **choice))
    others = list(polysem_client.cluster("*", algorithm=variant.algorithm, distance_threshold=0.4,
                                         embedding="neuron", layer_norm=variant.layer_norm))  # fmt: skip
    for row, tree, (_, e, *_), other in list(zip(rows, trees, embeddings, others, strict=True))[::6]:
        n = len(e)
        assert (row["layer"], row["neuron"], row["n_examples"]) == (*tree.id, n)
        if n < 3:
            continue
        d = distances_of(e.astype(np.float64))
        labels = fcluster(tree.linkage, 0.4, "distance")
        assert row["n_clusters"] == labels.max()
        intra, inter = intra_inter(d, labels)
        assert near(row["intra"], intra)
        assert near(row["inter"], inter)
        assert near(row["root_height"], tree.linkage[-1, 2])
        sizes = np.sort(np.bincount(labels)[1:])[::-1]
        assert near(row["second_share"], sizes[1] / n if len(sizes) > 1 else 0.0)
        silhouettes = {}
        for t in BEST_CUT_THRESHOLDS:
            at = fcluster(tree.linkage, t, "distance")
            if 1 < at.max() < n:
                silhouettes[t] = silhouette_score(d, at, metric="precomputed")
        assert near(row["best_silhouette"], max(silhouettes.values(), default=None), 1e-5)
        if silhouettes:
            assert silhouettes[row["best_threshold"]] > max(silhouettes.values()) - 1e-5
        check_matched(row, tree.linkage, d, other.metrics.n_clusters)


def check_matched(row, linkage, d, wanted):
    """The best cut in distance from `wanted` clusters, of two the smaller."""
    cuts = [fcluster(linkage, t, "distance") for t in (-1.0, *linkage[:, 2])]
    labels = min(cuts, key=lambda labels: (abs(labels.max() - wanted), labels.max()))
    assert row["matched_n_clusters"] == labels.max()
    intra, inter = intra_inter(d, labels)
    assert near(row["matched_intra"], intra)
    assert near(row["matched_inter"], inter)
    several = 1 < labels.max() < len(d)
    assert near(row["matched_silhouette"], silhouette_score(d, labels, metric="precomputed") if several else None, 1e-5)


def test_hac_and_scc_agree_as_scikit_learn_says(measured, polysem_client):
    wanted = {"algorithm": "scc", "embedding": "neuron", "layer_norm": "raw"}
    places = np.all([measured.column(name) == value for name, value in wanted.items()], axis=0)
    rows = measured.rows(np.flatnonzero(places))
    trees = (
        list(polysem_client.cluster("*", algorithm=algorithm, layer_norm="raw", distance_threshold=0.4))
        for algorithm in ("hac", "scc")
    )
    for row, a, b in zip(rows, *trees, strict=True):
        want = adjusted_rand_score(a.labels, b.labels) if len(a.labels) > 1 else None
        assert near(row["ari_hac_scc"], want, 1e-12)


def test_the_adjusted_rand_index_of_many_at_once():
    rng = np.random.default_rng(0)
    n = np.array([0, 1, 2, 2, 9, 30], np.int32)
    a, b = (rng.integers(0, 4, n.sum()) for _ in range(2))
    found, start = adjusted_rand_indexes(a, b, n), 0
    for index, count in zip(found, n, strict=True):
        part = slice(start, start + count)
        assert np.isnan(index) if count < 2 else abs(index - adjusted_rand_score(a[part], b[part])) < 1e-12
        start += count


def test_a_neuron_without_examples_has_a_row_of_nulls(measured):
    (row, *_) = measured.rows(np.flatnonzero((measured.column("layer") == 1) & (measured.column("neuron") == 3)))
    assert (row["n_examples"], row["n_clusters"]) == (0, 0)
    assert all(row[name] is None for name in ("intra", "inter", "silhouette", "mean_distance", "root_height"))


# ---- The file


def test_shards_change_no_number(polysem_client, measured, in_small_shards, tmp_path):
    Measuring(polysem_client, ("*",), EVERY, distance_threshold=0.4).run(tmp_path / "m")
    small = measurements.read(tmp_path / "m")
    for name in measurements.COLUMNS:
        np.testing.assert_array_equal(small.column(name), measured.column(name))
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_what_it_depends_on_stands_in_the_file(measured, polysem_client):
    assert measured.about["index"]["sha256"] == polysem_client.indexes()[0].sha256
    assert measured.about["distance_threshold"] == 0.4
    assert set(measured.about["columns"]) == set(measurements.COLUMNS)


def test_another_reader_opens_it(file):
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_parquet(file)
    assert len(frame) == 2304
    assert frame.query("algorithm == 'hac'").intra.notna().any()


KILLED = """
import os, signal, sys
from pathlib import Path
from polysem.client import Client
from polysem.client.measuring import measure
measure.EXAMPLES_AT_ONCE = 30 * 25
left = int(sys.argv[3])
def progress(n):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
with Client(sys.argv[1]) as client:
    measure.Measuring(client, best_cut=False).run(Path(sys.argv[2]), progress)
"""


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(polysem_client, in_small_shards, tmp_path):
    Measuring(polysem_client, best_cut=False).run(tmp_path / "undisturbed")
    out = tmp_path / "killed"
    environment = os.environ | {"GRPC_ENABLE_FORK_SUPPORT": "0"}
    for n in (3, 14, 12):
        words = [sys.executable, "-c", KILLED, polysem_client.target, str(out), str(n)]
        assert subprocess.run(words, env=environment, check=False).returncode == -signal.SIGKILL
        assert not out.exists()
        with pytest.raises(NotFound):
            measurements.read(out)
    asked = []
    Measuring(polysem_client, best_cut=False).run(out, asked.append)
    assert out.read_bytes() == (tmp_path / "undisturbed").read_bytes()
    assert sum(asked) == 192 * 4
    assert max(asked) == 25 * 4  # shards that were done before count at once
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "undisturbed"]


def stopped(client, out, **options):
    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Measuring(client, best_cut=False, **options).run(out, stop)


def test_unfinished_measurements_of_another_kind_are_kept(polysem_client, in_small_shards, tmp_path):
    stopped(polysem_client, tmp_path / "m")
    with pytest.raises(FailedPrecondition, match="begun with another distance_threshold"):
        Measuring(polysem_client, best_cut=False, distance_threshold=0.7).run(tmp_path / "m")
    Measuring(polysem_client, best_cut=False).run(tmp_path / "m")


def test_a_file_that_is_there_is_replaced_only_by_force(polysem_client, tmp_path):
    (tmp_path / "m").write_text("mine")
    with pytest.raises(FailedPrecondition, match="exists already; choose another name, or --force"):
        Measuring(polysem_client, ("0.0",), best_cut=False).run(tmp_path / "m")
    assert (tmp_path / "m").read_text() == "mine"
    Measuring(polysem_client, ("0.0",), best_cut=False).run(tmp_path / "m", force=True)
    assert len(measurements.read(tmp_path / "m")) == 4


def test_a_place_that_cannot_be_written_is_told(polysem_client, tmp_path):
    with pytest.raises(FailedPrecondition, match=r"cannot write .*: No such file or directory"):
        Measuring(polysem_client, ("0.0",), best_cut=False).run(tmp_path / "absent" / "m")


def test_a_damaged_file_is_refused(file, tmp_path):
    whole = file.read_bytes()
    for name, data in (("cut", whole[: len(whole) // 2]), ("text", b"layer,neuron\n"), ("empty", b"")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InvalidArgument, match=f"cannot read .*{name}"):
            measurements.read(tmp_path / name)
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 1
    (tmp_path / "flipped").write_bytes(flipped)
    with pytest.raises(InvalidArgument, match="flipped"):
        measurements.read(tmp_path / "flipped")


def test_another_parquet_file_is_told_from_ours(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"layer": [1]}), tmp_path / "other")
    with pytest.raises(InvalidArgument, match="was not written by `polysem measure`"):
        measurements.read(tmp_path / "other")


@pytest.mark.parametrize(
    ("neurons", "options", "error"),
    [
        (("0.96",), {}, UnknownNeuron),
        (("2.*",), {}, UnknownNeuron),
        (("x",), {}, InvalidArgument),
        (("*",), {"distance_threshold": float("nan")}, InvalidArgument),
        (("*",), {"index": "absent"}, UnknownIndex),
    ],
)
def test_what_cannot_be_measured_is_told_before_anything_is_done(polysem_client, neurons, options, error):
    with pytest.raises(error):
        Measuring(polysem_client, neurons, **options)


def test_a_server_that_is_not_there_is_told(tmp_path):
    with Client("127.0.0.1:1") as client, pytest.raises(Unavailable):
        Measuring(client)


@pytest.mark.parametrize("thresholds", [(float("nan"),), (2.1,), (-0.1,), (0.5,) * 65])
def test_cuts_that_cannot_be_are_refused_on_both_ends(polysem_client, thresholds):
    query = ClusterQuery((NeuronRange(0, 0, 0),))
    with pytest.raises(InvalidArgument, match="silhouette_thresholds"):
        next(polysem_client.clusters(replace(query, clustering=Clustering(silhouette_thresholds=thresholds))))
    call = cluster_call(query)
    call.request.silhouette_thresholds.extend(thresholds)
    with pytest.raises(InvalidArgument, match="silhouette_thresholds"):
        list(polysem_client._answers(call))


# ---- Table 1 and ranks


def test_table_1_is_the_median_over_neurons(measured):
    rows = {(row.layer, row.algorithm, row.embedding, row.layer_norm): row for row in table1.rows(measured, True)}
    assert len(rows) == 3 * 12
    mine = (measured.column("algorithm") == "hac") & (measured.column("embedding") == "neuron")
    mine &= (measured.column("layer_norm") == "folded") & (measured.column("n_examples") > 0)
    for layer in (None, 0, 1):
        part = mine if layer is None else mine & (measured.column("layer") == layer)
        row, values = rows[layer, "hac", "neuron", "folded"], measured.column("inter")[part]
        other = measured.column("inter")[np.flatnonzero(part) + 2]  # of pre_mlp, folded
        both = values[~np.isnan(values) & ~np.isnan(other)]
        assert row.n_neurons == part.sum()
        assert row.numbers["inter"].n_undefined == np.isnan(values).sum()
        assert row.numbers["inter"].n_paired == len(both)
        assert near(row.numbers["inter"].median, np.median(both), 1e-12)
        assert near(row.numbers["inter"].mean, both.mean(), 1e-12)


def test_the_fair_comparison_has_the_same_number_of_clusters(measured):
    rows = {(row.algorithm, row.embedding): row for row in table1.rows(measured) if row.layer_norm == "folded"}
    a, b = (rows["hac", embedding] for embedding in ("neuron", "pre_mlp"))
    assert a.mean_matched_clusters == a.mean_clusters
    assert abs(a.mean_matched_clusters - b.mean_matched_clusters) < 0.05  # but for ties
    assert a.numbers["matched_intra"] == a.numbers["intra"]
    assert near(a.numbers["matched_silhouette"].median, a.numbers["silhouette"].median, 1e-12)


def test_ranks_are_sorted_and_bounded(measured):
    rows = ranking.rank(measured, "inter", least={"n_examples": 5}, most={"n_clusters": 20}, algorithm="scc")
    values = [row["inter"] for row in rows if row["inter"] is not None]
    assert values == sorted(values, reverse=True)
    assert all(row["inter"] is None for row in rows[len(values) :])
    assert all(row["n_examples"] >= 5 and row["n_clusters"] <= 20 and row["algorithm"] == "scc" for row in rows)
    assert ranking.rank(measured, "inter", ascending=True)[0]["inter"] <= values[-1]


def test_rare_behaviours_are_small_clusters_beside_a_large_one(measured):
    rows = ranking.rare(measured, embedding="pre_mlp", layer_norm="raw")
    gaps = [row["root_height"] - row["largest_height"] for row in rows]
    assert gaps == sorted(gaps, reverse=True)
    assert all(row["largest_share"] >= 0.9 and row["n_examples"] >= 20 for row in rows)
    assert all(round(row["n_examples"] * (1 - row["largest_share"])) >= 3 for row in rows)


@pytest.mark.parametrize(
    "ask",
    [
        lambda m: ranking.rank(m, "beauty"),
        lambda m: ranking.rank(m, "algorithm"),
        lambda m: ranking.rank(m, least={"beauty": 1}),
        lambda m: ranking.rank(m, algorithm="kmeans"),
    ],
)
def test_unknown_columns_and_clusterings_are_told(measured, ask):
    with pytest.raises(InvalidArgument):
        ask(measured)


# ---- Commands


def run(*words):
    return CliRunner().invoke(cli, [str(word) for word in words], env={"COLUMNS": "200"})


def test_the_commands_from_measuring_to_ranking(polysem_client, tmp_path):
    out, server = tmp_path / "m.parquet", polysem_client.target
    done = run("measure", "0.0-9", "--server", server, "--out", out, "--no-best-cut", "--algorithm", "hac")
    assert done.exit_code == 0, done.output
    assert "10 neurons by 2 clusterings" in done.output
    shown = run("table1", out)
    assert "hac, pre_mlp" in shown.output
    assert "The fair comparison" in shown.output
    rows = [json.loads(line) for line in run("table1", out, "--json", "--per-layer").output.splitlines()]
    both = ["pre_mlp", "neuron"]
    assert [(row["layer"], row["embedding"]) for row in rows] == [*((None, e) for e in both), *((0, e) for e in both)]
    ranked = [json.loads(line) for line in run("rank", out, "--by", "inter", "--json", "--top", 3).output.splitlines()]
    assert len(ranked) == 3
    assert "┃ clusters ┃ examples ┃" in run("rank", out).output


def test_measuring_in_this_process_gives_the_server_s_numbers(polysem_client, index_folder, tmp_path):
    for name, where in (("far", ["--server", polysem_client.target]), ("here", ["--index", index_folder])):
        done = run("measure", "1.*", "--out", tmp_path / name, "--no-best-cut", *where)
        assert done.exit_code == 0, done.output
    assert (tmp_path / "far").read_bytes() == (tmp_path / "here").read_bytes()


def test_rare_shows_the_rare_texts(polysem_client, file, monkeypatch):
    monkeypatch.setattr(listing, "LEAST_SHARE_OF_COMMON", 0.5)
    done = run("rank", file, "--rare", "--server", polysem_client.target, "--json", "--top", 2)
    rows = [json.loads(line) for line in done.output.splitlines()]
    assert rows
    assert all(text for row in rows for texts in row["rare_texts"] for text in texts)
    assert "and rarely" in run("rank", file, "--rare", "--server", polysem_client.target, "--top", 1).output


def test_rare_refuses_another_index(polysem_client, file, tmp_path, index_folder):
    other = measurements.Measurements(file, measurements.read(file).about | {}, None)
    other.about["index"] = other.about["index"] | {"sha256": "0" * 64}
    from polysem.client.commands.measure import _check_index

    with pytest.raises(FailedPrecondition, match="is another"):
        _check_index(polysem_client, other, None)


@pytest.mark.parametrize("words", [("--least", "n_examples"), ("--rare", "--by", "inter"), ("--top", "0")])
def test_wrong_words_are_told(file, words):
    done = run("rank", file, *words)
    assert done.exit_code == 2


def test_the_file_is_named_where_it_is_absent():
    done = run("table1", Path("absent.parquet"))
    assert isinstance(done.exception, NotFound)
    assert "polysem measure --out FILE" in str(done.exception)
