"""Clusters in the formats of other tools: what is in the files, and that they are whole or not there."""

import gzip
import json
from collections import Counter

import numpy as np
import pytest
from pyarrow import parquet

from polysem.client.exporting import circuit_tracer, writing
from polysem.client.exporting.formats import FORMATS
from polysem.proto.errors import FailedPrecondition, InvalidArgument, PolysemError, Unavailable, UnknownNeuron

SOME = ("0.0-9", "1.5", "L1N7")


def written(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lines(path):
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


@pytest.fixture(scope="module")
def exports(polysem_client, tmp_path_factory):
    """The folder of exports of the same neurons, one below it for each format."""
    folder = tmp_path_factory.mktemp("exports")
    for format_ in FORMATS:
        writing.export(polysem_client, format_, folder / format_, *SOME, licence="MIT")
    return folder


@pytest.fixture(scope="module")
def neurons(polysem_client):
    """The exported neurons with examples, by id: the neuron, and its examples."""
    found = [neuron for neuron in polysem_client.cluster(*SOME) if len(neuron.labels)]
    return {neuron.id: (neuron, list(polysem_client.examples(neuron.id))) for neuron in found}


# ---- By hand


@pytest.mark.parametrize(
    ("pair", "one"), [((0, 0), 0), ((1, 0), 1), ((0, 1), 2), ((2, 0), 3), ((1, 1), 4), ((0, 2), 5)]
)
def test_cantors_pairing(pair, one):
    assert circuit_tracer.paired(*pair) == one


def test_percentiles_spread_what_is_counted_evenly_in_a_bin():
    found = circuit_tracer.percentiles(np.array([1, 0, 1]), np.array([0.0, 1.0, 2.0, 3.0]))
    assert (len(found), found[24], found[74]) == (99, 0.5, 2.5)
    assert circuit_tracer.percentiles(np.zeros(3, int), np.arange(4)) == []


# ---- What is in the files


def test_circuit_tracers_quantiles_are_the_clusters(exports, neurons, polysem_client):
    files = sorted((exports / "circuit-tracer" / "features" / "small").iterdir())
    assert {int(path.stem) for path in files} == {circuit_tracer.paired(*id_) for id_ in neurons}
    names = {(one.neuron, one.letter): one.text for one in polysem_client.labels(*neurons)}
    for id_, (neuron, examples) in neurons.items():
        path = exports / "circuit-tracer" / "features" / "small" / f"{circuit_tracer.paired(*id_)}.json"
        model = json.loads(path.read_bytes())
        shown = [(tuple(e["tokens"]), e["train_token_ind"]) for q in model["examples_quantiles"] for e in q["examples"]]
        assert Counter(shown) == Counter((tuple(e.tokens), e.key) for e in examples)
        clusters = sorted((c for c in neuron.clusters if c.size > 1), key=lambda c: (-c.size, c.label))
        for quantile, cluster in zip(model["examples_quantiles"], clusters, strict=False):
            name = names[id_, cluster.letter]
            share = f"({cluster.size} of {len(examples)})"
            assert quantile["quantile_name"] == f"{cluster.letter} {name} {share}".replace("  ", " ")
            strongest = max((examples[i] for i in cluster.members), key=lambda e: e.activation)
            assert np.float32(quantile["examples"][0]["tokens_acts_list"]).tolist() == strongest.activations.tolist()
        assert model["act_max"] == pytest.approx(polysem_client.statistics(id_)[0].maximum_activation)
        assert len(model["top_logits"]) == len(model["bottom_logits"]) == 10


def test_neuronpedias_bins_are_the_clusters(exports, neurons):
    """Sorted as its page sorts them, activations stand cluster by cluster, the largest first."""
    for layer in (0, 1):
        (folder,) = (exports / "neuronpedia").glob(f"*/{layer}-polysem-neurons")
        source = json.loads((folder / "source.jsonl").read_bytes())
        assert source["id"] == f"{layer}-polysem-neurons"
        assert "licence of the texts: MIT" in source["notes"]
        rows = lines(folder / "activations" / "batch-0.jsonl.gz")
        assert len({row["id"] for row in rows}) == len(rows)
        assert {len(row["id"]) for row in rows} == {25}
        features = lines(folder / "features" / "batch-0.jsonl.gz")
        explained = lines(folder / "explanations" / "batch-0.jsonl.gz")
        mine = {id_: found for id_, found in neurons.items() if id_.layer == layer}
        assert [feature["index"] for feature in features] == [str(id_.neuron) for id_ in sorted(mine)]
        for id_, (neuron, examples) in mine.items():
            own = [row for row in rows if row["index"] == str(id_.neuron)]
            assert all(row["maxValue"] < row["binMax"] for row in own)  # or the page would move it elsewhere
            shown = sorted(own, key=lambda row: (-row["binMax"], -row["maxValue"]))
            bins = list(dict.fromkeys(row["binMax"] for row in shown))
            sizes = [sum(row["binMax"] == one for row in shown) for one in bins]
            clusters = sorted((c.size for c in neuron.clusters if c.size > 1), reverse=True)
            single = len(examples) - sum(clusters)
            assert sizes == clusters + ([single] if single else [])
            assert sum(row["binContains"] * len(examples) for row in own if row["binMax"] == bins[0]) == pytest.approx(
                sizes[0] ** 2
            )
            assert sum(row["index"] == str(id_.neuron) for row in explained) <= len(clusters)


# Of the repository's neuronpedia_utils/db_models: fields without a default, and those with one that are written.
NEURONPEDIA = {
    "features": ({"modelId", "layer", "index"}, {
        "creatorId", "maxActApprox", "hookName", "neg_str", "neg_values", "pos_str", "pos_values", "sourceSetName",
        "freq_hist_data_bar_heights", "freq_hist_data_bar_values", "logits_hist_data_bar_heights",
        "logits_hist_data_bar_values",
    }),
    "activations": ({
        "id", "tokens", "index", "layer", "modelId", "maxValue", "maxValueTokenIndex", "minValue", "values",
        "creatorId",
    }, {"dataSource", "dataIndex", "binMin", "binMax", "binContains", "qualifyingTokenIndex"}),
    "explanations": ({"id", "modelId", "layer", "index", "description", "authorId"}, {"notes"}),
    "release.jsonl": ({"name", "description", "creatorName", "creatorId"}, set()),
    "model.jsonl": ({"id", "instruct", "creatorId"}, {
        "displayNameShort", "displayName", "layers", "neuronsPerLayer", "dimension",
    }),
    "sourceset.jsonl": ({"modelId", "name", "creatorId"}, {"creatorName", "releaseName", "description", "type"}),
    "source.jsonl": ({"id", "modelId", "setName", "creatorId"}, {
        "dataset", "num_prompts", "num_tokens_in_prompt", "notes",
    }),
}  # fmt: skip


def test_every_line_for_neuronpedia_has_the_fields_of_its_tables(exports):
    for folder in (exports / "neuronpedia").glob("*/*-polysem-neurons"):
        for kind, (needed, known) in NEURONPEDIA.items():
            path = folder / kind
            rows = lines(path / "batch-0.jsonl.gz") if path.is_dir() else [json.loads(path.read_bytes())]
            assert rows
            for row in rows:
                assert needed <= set(row) <= needed | known
                assert len(row.get("tokens", ())) == len(row.get("values", ()))
                assert None not in row.values()


def test_a_data_set_is_read_and_streamed_by_its_own_library(exports, neurons, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = str(exports / "datasets")
    found = datasets.load_dataset(folder, "examples", split="train", cache_dir=str(tmp_path / "cache"))
    assert Counter(found["neuron"]) == {str(id_): len(examples) for id_, (_, examples) in neurons.items()}
    assert datasets.load_dataset(folder, split="train", cache_dir=str(tmp_path / "cache")).num_rows == found.num_rows
    id_, (neuron, examples) = max(neurons.items(), key=lambda item: item[1][0].metrics.n_clusters)
    (largest,) = (cluster for cluster in neuron.clusters if cluster.letter == "A")
    rows = list(datasets.load_dataset(folder, f"{id_}.A", split="train", streaming=True))
    want = sorted((examples[i] for i in largest.members), key=lambda e: (-e.activation, e.example))
    assert [(row["document"], row["position"], row["tokens"]) for row in rows] == [
        (e.document, e.position, list(e.tokens)) for e in want
    ]
    clusters = datasets.load_dataset(folder, "clusters", split="train", cache_dir=str(tmp_path / "cache"))
    assert sum(clusters["n_examples"]) == found.num_rows
    card = (exports / "datasets" / "README.md").read_text()
    assert 'license: "MIT"' in card


def test_the_manifest_says_where_it_comes_from(exports, polysem_client, neurons):
    (index,) = polysem_client.indexes()
    for format_ in FORMATS:
        facts = json.loads((exports / format_ / writing.MANIFEST).read_text())
        assert facts["index"] == index.sha256
        assert facts["corpus"]["sha256"] == index.corpus_sha256
        assert "distance_threshold 0.5" in facts["clustering"]
        assert (facts["licence"], facts["n_neurons"]) == ("MIT", len(neurons))


# ---- Whole or not there


@pytest.mark.parametrize("format_", FORMATS)
def test_a_stopped_export_goes_on_and_ends_with_the_same_bytes(polysem_client, tmp_path, monkeypatch, format_):
    monkeypatch.setattr(writing, "PIECE", 5)
    want, out = tmp_path / "want", tmp_path / "out"
    writing.export(polysem_client, format_, want, *SOME)

    def stop(done, total):
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            writing.export(polysem_client, format_, out, *SOME, progress=stop)
        assert not out.exists()
    with pytest.raises(FailedPrecondition, match="the beginning of another export"):
        writing.export(polysem_client, format_, out, "0.0")
    told = []
    writing.export(polysem_client, format_, out, *SOME, progress=lambda *n: told.append(n))
    assert written(out) == written(want)
    assert told == [(5, 12), (10, 12), (12, 12)]
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".tmp"] == []


def test_a_server_that_goes_away_is_what_is_said(polysem_client, tmp_path):
    """Its errors are OSErrors, too; they are none of the disk."""

    class Away:
        """A client whose server goes away when it is asked for examples."""

        def __getattr__(self, name):
            return getattr(polysem_client, name)

        def examples(self, *neurons, **options):
            raise Unavailable("there is no server at 127.0.0.1:1")

    with pytest.raises(Unavailable, match="there is no server"):
        writing.export(Away(), "datasets", tmp_path / "out", "1.5")
    writing.export(polysem_client, "datasets", tmp_path / "out", "1.5")


def test_a_neuron_is_exported_alike_alone_and_among_others(polysem_client, exports, tmp_path):
    writing.export(polysem_client, "datasets", tmp_path / "alone", "1.5", licence="MIT")
    rows = parquet.read_table(tmp_path / "alone" / "clusters").to_pylist()
    among = parquet.read_table(exports / "datasets" / "clusters").to_pylist()
    assert rows == [row for row in among if row["neuron"] == "1.5"]


def test_wrong_input_is_a_sentence(polysem_client, exports, tmp_path):
    with pytest.raises(InvalidArgument, match="format"):
        writing.export(polysem_client, "nonsense", tmp_path / "f", "0.0")
    with pytest.raises(FailedPrecondition, match="exists already"):
        writing.export(polysem_client, "datasets", exports / "datasets", "0.0")
    with pytest.raises(UnknownNeuron, match=r"there is no neuron 9\.1"):
        writing.export(polysem_client, "datasets", tmp_path / "a", "9.1")
    silent = next(n.id for n in polysem_client.statistics("*") if n.n_examples == 0)
    with pytest.raises(FailedPrecondition, match="nothing to export"):
        writing.export(polysem_client, "datasets", tmp_path / "b", str(silent))
    (tmp_path / "c.tmp").mkdir()
    with pytest.raises(FailedPrecondition, match="is no export"):
        writing.export(polysem_client, "datasets", tmp_path / "c", "0.0")
    with pytest.raises(PolysemError, match="there is no index 'none'"):
        writing.export(polysem_client, "datasets", tmp_path / "d", "0.0", index="none")
    assert [path.name for path in tmp_path.iterdir()] == ["c.tmp"]


def test_the_command_says_what_it_wrote(polysem_here, tmp_path):
    done = polysem_here("export", "0.0-3", "--format", "circuit-tracer", "--out", tmp_path / "e")
    assert done.returncode == 0, done.stderr
    assert "neurons for circuit-tracer" in done.stdout
    assert (tmp_path / "e" / writing.MANIFEST).exists()
    again = polysem_here("export", "0.0-3", "--format", "circuit-tracer", "--out", tmp_path / "e")
    assert again.returncode == 1
    assert "exists already" in again.stderr
    assert polysem_here("export", "0.0", "--format", "nonsense", "--out", "x").returncode == 2
