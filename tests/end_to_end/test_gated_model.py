"""A gated model through a real server: both sides and all embeddings, in every question, client and command."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from click.testing import CliRunner
from pyarrow import parquet

import polysem.server
from polysem.client import Client
from polysem.client.commands import cli
from polysem.client.exporting import writing
from polysem.client.measuring import measurements, table1
from polysem.client.measuring.measure import Measuring, variants
from polysem.kernels.significance import rotation_test
from polysem.kernels.splits import significant_merges
from polysem.proto.errors import FailedPrecondition, InvalidArgument, UnknownNeuron
from polysem.proto.facts import Selection
from polysem.proto.questions.clustering import EmbeddingChoice
from polysem.server.corpus.documents import Corpus
from polysem.server.index.format import open_index
from polysem.server.indexing.builder import Recipe, build
from polysem.server.model.loading import load
from polysem.server.questions import resident

from ..server.model import tiny_families
from ..server.model.tiny_families import TINY

NEURON = "1.7"
RULE = Selection("first", 0.5, 30)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, corpus_file: Path) -> dict[str, Path]:
    """Indexes of a tiny Llama: of everything, and of layer 1 alone, positive side alone, first tokens skipped."""
    folder = tmp_path_factory.mktemp("llama")
    model = load(str(tiny_families.write(folder / "model", TINY["llama, biases"])), "cpu")
    corpus = Corpus(str(corpus_file), max_documents=60)
    build(model, corpus, folder / "all", Recipe(RULE, bos=True))
    build(model, corpus, folder / "some", Recipe(RULE, bos=True, sides="positive", layers=(1,), skip_positions=3))
    return {"all": folder / "all", "some": folder / "some"}


@pytest.fixture(scope="module")
def client(folders: dict[str, Path]) -> Iterator[Client]:
    with polysem.server.local(*folders.values(), device="cpu") as client:
        yield client


def test_the_server_says_what_model_and_indexes_it_has(client):
    assert (client.info().model.family, client.info().model.gated) == ("llama", True)
    every, some = client.indexes()
    assert (every.sides, every.layers, every.skip_positions) == (("positive", "negative"), (), 0)
    assert (some.sides, some.layers, some.skip_positions) == (("positive",), (1,), 3)
    assert every.n_negative_examples > 0
    assert some.n_negative_examples == 0


@pytest.mark.parametrize("side", ["positive", "negative"])
def test_every_answer_is_of_the_side_asked_for(client, side):
    sign = 1 if side == "positive" else -1
    neuron = client.cluster(NEURON, side=side)[0]
    examples = client.examples(NEURON, side=side)
    assert neuron.side == side
    assert len(neuron.labels) == len(examples) > 1
    assert {example.side for example in examples} == {side}
    assert all(sign * example.activation > 0 for example in examples)
    assert [example.activation for example in neuron.examples] == [example.activation for example in examples]
    assert client.embed(NEURON, side=side)[0].embeddings.shape == (len(examples), 24)
    statistics = client.statistics(NEURON, side=side)[0]
    ends = statistics.minimum_activation, statistics.maximum_activation
    assert ends[0] < 0 < ends[1]
    strongest = ends[1] if sign > 0 else ends[0]
    assert statistics.bin_edges[-1] == pytest.approx(strongest)
    assert max(sign * example.activation for example in examples) == pytest.approx(sign * strongest, rel=1e-4)
    assert statistics.n_examples == len(examples)
    listed = {row.id: row for row in client.neurons("1.*", side=side)}[neuron.id]
    assert (listed.n_clusters, listed.side) == (neuron.metrics.n_clusters, side)
    assert client.similar(NEURON, 0, side=side, limit=5).provenance.side == side
    assert client.embed(NEURON, side=side).provenance.side == side
    assert client.explain("a window", NEURON, side=side).provenance.side == side
    (importance,) = client.importance(NEURON, examples=[0], tokens_before=2, side=side)
    assert (importance.side, importance.activation) == (side, pytest.approx(examples[0].activation, rel=1e-3))
    assert importance.importances[-1] != 0


TABLES = {
    "cluster": lambda client, side: client.cluster(NEURON, side=side),
    "examples": lambda client, side: client.examples(NEURON, side=side),
    "embed": lambda client, side: client.embed(NEURON, side=side),
    "statistics": lambda client, side: client.statistics(NEURON, side=side),
    "neurons": lambda client, side: client.neurons(limit=3, side=side),
    "similar": lambda client, side: client.similar(NEURON, 0, limit=3, side=side),
    "importance": lambda client, side: client.importance(NEURON, examples=[0], tokens_before=2, side=side),
    "explain": lambda client, side: client.explain("a window", NEURON, side=side),
}


@pytest.mark.parametrize("question", TABLES)
@pytest.mark.parametrize("side", ["positive", "negative"])
def test_every_table_says_of_which_side_it_is(client, question, side):
    answer = TABLES[question](client, side)
    for per in answer._tables:
        assert answer.to_pandas(per)["side"].unique().tolist() == [side]
        assert set(answer.to_polars(per)["side"]) == set(answer.to_arrow(per)["side"].to_pylist()) == {side}


def test_tables_of_both_sides_can_be_put_together(client):
    both = pandas.concat(client.cluster("1.*", side=side).to_pandas() for side in ("positive", "negative"))
    assert not both.duplicated(["layer", "neuron", "side"]).any()
    assert both.duplicated(["layer", "neuron"]).any()


@pytest.mark.parametrize("embedding", ["neuron", "gate", "up", "pre_mlp"])
@pytest.mark.parametrize(("frame", "side"), [("raw", "positive"), ("raw", "negative"), ("standardised", "negative")])
def test_the_rotation_test_is_of_the_gated_embeddings(client, embedding, frame, side):
    how = {"embedding": embedding, "frame": frame, "side": side}
    neuron = client.cluster(NEURON, n_null=49, seed=3, **how)[0]
    e = torch.from_numpy(np.array(client.embed(NEURON, **how)[0].embeddings))
    n = torch.tensor([len(e)])
    want = rotation_test(e[None], n, 49, 3)
    assert neuron.significance == pytest.approx([values.item() for values in want], abs=1e-4)
    merges = significant_merges(
        e,
        torch.arange(len(e))[None],
        torch.ones(1, e.shape[1]),
        n,
        torch.from_numpy(neuron.linkage)[None],
        n_null=49,
        seed=3,
    )
    np.testing.assert_array_equal(neuron.merge_tests[:, 1], merges.significant[0].double())
    # examples at two places lie on a line, as all their rotations do: every silhouette is 1 but for rounding, p large
    got, want = neuron.merge_tests[:, 0], merges.p_value[0].numpy()
    np.testing.assert_allclose(got, want, atol=0.1)
    np.testing.assert_array_equal(got[want < 0.5], want[want < 0.5])


@pytest.mark.parametrize(("tested", "frame"), [(True, "raw"), (False, "own"), (False, "raw")])
def test_embeddings_that_must_be_held_are_within_the_room_of_a_batch(folders, monkeypatch, tested, frame):
    model, index = load(str(folders["all"].parent / "model"), "cpu"), open_index(folders["all"])
    neurons = np.array([(layer, j) for layer in range(2) for j in range(40)], np.int32)
    counts = index.n_examples[tuple(neurons.T)]
    assert 0 < (counts < 24).sum() < len(neurons)  # d_model
    room = 4 * 24 * 5 * 24
    monkeypatch.setattr(resident, "batch_bytes", lambda device: room)
    found = list(resident.device_batches(model, index, neurons, EmbeddingChoice(frame=frame), tested))
    assert sorted(np.concatenate([batch.places for batch in found]).tolist()) == list(range(len(neurons)))
    widest = [max(batch.used.shape[1], 24 if tested or frame != "raw" else 0) for batch in found]
    sizes = [batch.used.size * width * 4 for batch, width in zip(found, widest, strict=True)]
    assert all(size <= room or len(batch.places) == 1 for size, batch in zip(sizes, found, strict=True))
    held = [batch.used.size * 24 * 4 for batch in found]
    assert (max(held) > room) == (not tested and frame == "raw")


def test_both_sides_have_examples_of_their_own(client):
    positive, negative = (
        {(e.context, e.position) for e in client.examples(NEURON, side=side)} for side in ("positive", "negative")
    )
    assert not positive & negative


@pytest.mark.parametrize("side", ["positive", "negative"])
def test_a_text_of_the_corpus_falls_in_its_own_cluster(client, side):
    neuron = client.cluster(NEURON, side=side)[0]
    whole = client.examples(NEURON, whole_context=True, side=side)
    for label, example in list(zip(neuron.labels.tolist(), whole, strict=True))[:5]:
        text = "".join(example.tokens[1:])
        token = client.explain(text, NEURON, side=side, distance_threshold=2.0)[example.position - 1]
        (firing,) = token.firings
        assert firing.fires
        assert firing.activation == pytest.approx(example.activation, rel=2e-3)
        assert firing.distance is not None
        assert firing.cluster in range(neuron.metrics.n_clusters)
        if sum(neuron.labels == label) == 1:  # at distance 0 from its own
            assert firing.cluster == label


def test_the_strongest_neurons_of_a_text_are_those_of_the_side(client):
    for side, sign in (("positive", 1), ("negative", -1)):
        for token in client.explain("the model reads a window", side=side, n_strongest=3):
            assert len(token.firings) == 3
            shares = [firing.share for firing in token.firings]
            assert shares == sorted(shares, reverse=True)
            assert all(
                firing.fires == (sign * firing.activation > 0 and firing.share >= 0.25) for firing in token.firings
            )


@pytest.mark.parametrize("algorithm", ["hac", "scc", "components"])
@pytest.mark.parametrize("name", ["neuron", "pre_mlp", "gate", "up"])
def test_every_embedding_is_clustered_by_every_algorithm(client, algorithm, name):
    embedded = client.embed(NEURON, embedding=name, side="negative")[0].embeddings.astype(float)
    unit = embedded / np.linalg.norm(embedded, axis=1, keepdims=True)
    pairs = np.triu_indices(len(unit), 1)
    neuron = client.cluster(NEURON, embedding=name, algorithm=algorithm, side="negative")[0]
    assert neuron.metrics.mean_distance == pytest.approx((1 - unit @ unit.T)[pairs].mean(), abs=1e-4)
    assert neuron.provenance.choice.embedding == name


def test_a_side_and_a_layer_that_the_index_does_not_hold_are_said_in_words(client):
    with pytest.raises(FailedPrecondition, match=r"'some' holds the positive side alone; .* --sides both"):
        client.cluster("1.0", index="some", side="negative")[0]
    with pytest.raises(
        FailedPrecondition, match=r"layer 0 is not in the index 'some', which holds layer 1 of the model's 2"
    ):
        client.cluster("0.3", index="some")[0]
    with pytest.raises(UnknownNeuron, match="layers 0 to 1"):
        client.cluster("2.0", index="some")[0]
    with pytest.raises(InvalidArgument, match="side"):
        client.cluster("1.0", side="left")[0]  # type: ignore[arg-type]


def test_what_a_neuron_writes_is_turned_round_on_the_negative_side(client):
    (up,), (down,) = (client.logit_effects(NEURON, side=side) for side in ("positive", "negative"))
    assert (up.side, down.side) == ("positive", "negative")
    assert up.likelier == [token._replace(effect=-token.effect) for token in down.less_likely]
    assert up.less_likely == [token._replace(effect=-token.effect) for token in down.likelier]
    assert up.skewness == pytest.approx(-down.skewness, abs=1e-6)
    assert up.kurtosis == pytest.approx(down.kurtosis, abs=1e-6)


def test_what_neurons_write_is_said_with_the_hash_of_an_unembedding_of_its_own(client):
    found = client.logit_effects("*", index="some")
    assert {one.id.layer for one in found} == {1}
    assert len(found.provenance.unembedding_sha256) == 64
    with pytest.raises(FailedPrecondition, match="layer 0 is not in the index 'some'"):
        client.logit_effects("0.3", index="some")[0]
    with pytest.raises(FailedPrecondition, match="'some' holds the positive side alone"):
        client.logit_effects(NEURON, index="some", side="negative")[0]


def test_an_index_of_some_layers_answers_about_them_by_the_models_numbers(client):
    assert {neuron.id.layer for neuron in client.cluster("*", index="some")} == {1}
    assert {row.id.layer for row in client.neurons(index="some")} == {1}
    assert {found.neuron.layer for found in client.similar("1.7", 0, index="some", every_layer=True)} == {1}
    assert {f.neuron.layer for token in client.explain("a window", index="some") for f in token.firings} == {1}


def test_tokens_that_are_skipped_are_never_key_tokens(client):
    examples = client.examples("1.*", index="some")
    assert min(example.position for example in examples) >= 4  # BOS, and three more
    whole = client.examples("1.7", examples=[0], index="some", whole_context=True)[0]
    assert whole.position >= 4
    assert whole.activations[whole.key] == pytest.approx(whole.activation, rel=1e-3)


def run(*arguments: Any) -> str:
    result = CliRunner().invoke(cli.cli, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_commands_take_a_side(client, monkeypatch, tmp_path):
    monkeypatch.setenv("POLYSEM_SERVER", client.target)
    monkeypatch.setenv("COLUMNS", "120")
    assert "neuron 1.7, negative side" in " ".join(run("cluster", NEURON, "--side", "negative").split())
    example = json.loads(run("examples", NEURON, "--side", "negative", "--json").splitlines()[0])
    assert example["side"] == "negative"
    assert example["activation"] < 0
    assert json.loads(run("cluster", NEURON, "--side", "negative", "--json"))["provenance"]["side"] == "negative"
    of_example = ["importance", NEURON, "--example", "1", "--tokens-before", "2", "--side", "negative"]
    importance = json.loads(run(*of_example, "--json"))
    want = client.examples(NEURON, examples=[1], side="negative")[0]
    assert (importance["side"], importance["key_token"]) == ("negative", want.key_part.text)
    for question in (["similar", NEURON, "--cluster", "0"], ["explain", "a window", NEURON]):
        rows = [json.loads(row) for row in run(*question, "--side", "negative", "--json").splitlines()]
        assert {row["side"] for row in rows} == {"negative"}
    assert json.loads(run("statistics", NEURON, "--json"))["minimum_activation"] < 0
    assert "below 0 in" in " ".join(run("statistics", NEURON, "--side", "negative").split())
    run("report", NEURON, "--side", "negative", "--out", tmp_path / "r.html")
    assert "negative side" in (tmp_path / "r.html").read_text()
    run("figure", NEURON, "--side", "negative", "--out", tmp_path / "f.svg")
    assert "negative side" in (tmp_path / "f.svg").read_text()


@pytest.mark.parametrize("embedding", ["neuron", "gate", "up", "pre_mlp"])
def test_frames_of_gated_neurons(client, folders, embedding):
    """own is raw minus its mean; centred and standardised change x̂, while gate and up values stay what they are."""
    raw, own, centred, standardised = (
        client.embed(NEURON, embedding=embedding, frame=frame)[0].embeddings.astype(float)
        for frame in ("raw", "own", "centred", "standardised")
    )
    np.testing.assert_allclose(own, raw - raw.mean(0), atol=1e-5 * abs(raw).max())
    index = open_index(folders["all"])
    stored = index.layer(1)
    x = stored.xhat[stored.rows[stored.offsets[7] : stored.offsets[8]]].astype(float)
    mean, deviation = (values.astype(float) for values in index.moments(1))
    assert abs(x).min() > 0
    np.testing.assert_allclose(centred, raw / x * (x - mean), atol=2e-3 * abs(raw).max())
    np.testing.assert_allclose(standardised, raw / x * (x - mean) / deviation, atol=5e-3 * abs(standardised).max())
    neuron = client.cluster(NEURON, embedding=embedding, frame="own")[0]
    unit = own / np.linalg.norm(own, axis=1, keepdims=True)
    pairs = np.triu_indices(len(own), 1)
    assert neuron.metrics.mean_distance == pytest.approx((1 - unit @ unit.T)[pairs].mean(), abs=1e-4)


@pytest.mark.parametrize("frame", ["raw", "own", "centred", "standardised"])
@pytest.mark.parametrize("embedding", ["neuron", "other"])
def test_a_context_s_own_key_token_is_explained_as_the_example_is_clustered(client, embedding, frame):
    """Its mean distance to its cluster follows from the embeddings of the same frame."""
    how = {"embedding": embedding, "frame": frame, "distance_threshold": 1.2}
    neuron = client.cluster(NEURON, n_null=0, **how)[0]
    cluster = neuron.clusters[0]
    e = client.embed(NEURON, embedding=embedding, frame=frame)[0].embeddings.astype(float)
    unit = e / np.linalg.norm(e, axis=1, keepdims=True)
    example = client.examples(NEURON, examples=[cluster.central], whole_context=True)[0]
    explained = client.explain("".join(example.tokens[1:]), NEURON, **how)  # BOS apart
    fired = explained[example.key - 1].firings[0]
    of_cluster = [1 - unit[cluster.central] @ unit[c.members].T.mean(1) for c in neuron.clusters]
    assert fired.distance == pytest.approx(min(of_cluster), abs=3e-3)


@pytest.mark.parametrize("similarity", ["neuron", "pre_mlp"])
@pytest.mark.parametrize("frame", ["raw", "own", "centred", "standardised"])
def test_similar_clusters_are_compared_in_the_frame_of_the_layer(client, similarity, frame):
    neuron = client.cluster(NEURON, n_null=0, frame=frame)[0]
    found = client.similar(NEURON, neuron.clusters[0].label, similarity=similarity, frame=frame, limit=3)
    framed = {"embedding": similarity, "frame": "raw" if frame == "own" else frame}
    mine = client.embed(NEURON, **framed)[0].embeddings[neuron.clusters[0].central].astype(float)
    assert len(found) == 3
    for other in found:
        theirs = client.embed(other.neuron, **framed)[0].embeddings[other.central].astype(float)
        cosine = mine @ theirs / np.linalg.norm(mine) / np.linalg.norm(theirs)
        assert other.similarity == pytest.approx(cosine, abs=1e-5)


def test_a_measurement_is_of_a_side_and_of_the_layers_that_are_there(client, tmp_path):
    every = variants(("hac",), ("neuron", "pre_mlp", "gate", "up"), ("folded",), linkage="average")
    Measuring(client, ("1.*",), every, best_cut=False, side="negative").run(tmp_path / "negative.parquet")
    measured = measurements.read(tmp_path / "negative.parquet")
    assert measured.about["side"] == "negative"
    table = parquet.read_table(tmp_path / "negative.parquet")
    assert set(table["side"].to_pylist()) == set(measured.column("side").tolist()) == {"negative"}
    parquet.write_table(table.drop_columns(["side"]), tmp_path / "older.parquet")  # the metadata says it
    assert set(measurements.read(tmp_path / "older.parquet").column("side").tolist()) == {"negative"}
    listed = {row.id.neuron: row.n_clusters for row in client.neurons("1.*", side="negative", embedding="gate")}
    of_gate = measured.column("embedding") == "gate"
    numbers, found = (measured.column(name)[of_gate].tolist() for name in ("neuron", "n_clusters"))
    assert dict(zip(numbers, found, strict=True)) == listed
    rows = table1.rows(measured)
    assert [row.embedding for row in rows] == ["pre_mlp", "gate", "up", "neuron"]
    assert all(row.numbers["matched_intra"].median is not None for row in rows)
    Measuring(client, ("*",), every[:1], best_cut=False, index="some").run(tmp_path / "some.parquet")
    assert set(measurements.read(tmp_path / "some.parquet").column("layer").tolist()) == {1}
    with pytest.raises(FailedPrecondition, match="layer 0 is not in the index 'some'"):
        Measuring(client, ("0.*",), every[:1], index="some")


def test_activations_of_the_negative_side_are_exported_with_their_sign_turned(client, tmp_path):
    writing.export(client, "circuit-tracer", tmp_path / "e", "0.0-9", side="negative")
    (folder,) = (tmp_path / "e" / "features").iterdir()
    assert folder.name == "all-negative"
    want = {e.activation for e in client.examples("0.0-9", side="negative")}
    models = [json.loads(path.read_text()) for path in folder.iterdir()]
    shown = [e for model in models for quantile in model["examples_quantiles"] for e in quantile["examples"]]
    keys = {np.float32(e["tokens_acts_list"][e["train_token_ind"]]) for e in shown}
    assert keys == {np.float32(-activation) for activation in want}
    assert all(
        0 < max(e["tokens_acts_list"]) <= model["act_max"]
        for model in models
        for q in model["examples_quantiles"]
        for e in q["examples"]
    )
