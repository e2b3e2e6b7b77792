"""Clusters as delphi's cache: what is in the files, and what its own loader and detection scorer make of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from polysem.client.cutting import Tree
from polysem.client.exporting import delphi, writing
from polysem.proto.errors import FailedPrecondition

ROOT = Path(__file__).parent.parent.parent.parent
PEERS = ROOT / "build" / "peers"
SOME = ("0.0-9", "1.5", "L1N7")


@pytest.fixture(scope="module")
def cache(polysem_client, tmp_path_factory):
    folder = tmp_path_factory.mktemp("delphi") / "out"
    writing.export(polysem_client, "delphi", folder, *SOME)
    return folder


@pytest.fixture(scope="module")
def clusters(cache):
    """The lines of clusters.jsonl by module and latent."""
    lines = [json.loads(line) for line in (cache / delphi.CLUSTERS).read_text().splitlines()]
    return {(line["module"], line["latent"]): line for line in lines}


def test_heights_at_which_a_tree_joins_its_examples():
    """((0 1) 2) joined with 3."""
    tree = Tree(np.array([[0, 1], [4, 2], [5, 3]]), np.array([0.1, 0.4, 0.9]), np.zeros(3, int), np.zeros(3))
    assert delphi.heights(tree, [0, 2, 3]).tolist() == [[0, 0.4, 0.9], [0.4, 0, 0.9], [0.9, 0.9, 0]]
    assert delphi.heights(tree, [1, 0]).tolist() == [[0, 0.1], [0.1, 0]]


def test_a_latent_is_a_cluster_with_its_texts_and_activations(cache, clusters, polysem_client):
    found = {neuron.id: neuron for neuron in polysem_client.cluster(*SOME, n_null=0) if len(neuron.labels)}
    bos = polysem_client.info().bos_token_id
    assert bos == 256
    n_clusters = sum(cluster.size > 1 for neuron in found.values() for cluster in neuron.clusters)
    assert len(clusters) == n_clusters
    for (module, latent), line in clusters.items():
        data = load_file(cache / "latents" / module / f"0_{sum(m == module for m, _ in clusters) - 1}.safetensors")
        (neuron,) = (one for id_, one in found.items() if str(id_) == line["neuron"])
        (cluster,) = (one for one in neuron.clusters if one.letter == line["cluster"])
        assert sorted(line["examples"]) == cluster.members.tolist()
        examples = polysem_client.examples(neuron.id, examples=cluster.members.tolist())
        mine = data["locations"][:, 2] == latent
        assert module == f"blocks.{neuron.id.layer}.mlp.hook_post"
        for example in examples:
            row = [*example.token_ids.tolist(), *[bos] * (32 - len(example.token_ids))]
            (at,) = np.nonzero((data["tokens"] == row).all(1))
            here = mine & (data["locations"][:, 0] == at[0])
            want = {i: value for i, value in enumerate(example.activations.tolist()) if value > 0}
            assert (
                dict(zip(data["locations"][here, 1].tolist(), data["activations"][here].tolist(), strict=True)) == want
            )
        config = json.loads((cache / "latents" / module / "config.json").read_text())
        assert config["cache_ctx_len"] == data["tokens"].shape[1] == 32


def test_neighbours_are_the_neurons_other_clusters(cache, clusters):
    for module in {module for module, _ in clusters}:
        neighbours = json.loads((cache / "neighbours" / f"{module}-co-occurrence.json").read_text())
        for (of, latent), line in clusters.items():
            if of == module:
                sisters = {i for (m, i), other in clusters.items() if m == of and other["neuron"] == line["neuron"]}
                assert {i for _, i in neighbours[str(latent)]} == sisters - {latent}
                assert neighbours[str(latent)] == sorted(neighbours[str(latent)])


def test_an_older_server_that_tells_no_token_ids_is_told(polysem_client, tmp_path):
    class Older:
        """A client whose examples have no token ids, as an older server's."""

        def __getattr__(self, name):
            return getattr(polysem_client, name)

        def examples(self, *neurons, **options):
            for example in polysem_client.examples(*neurons, **options):
                object.__setattr__(example, "token_ids", example.token_ids[:0])
                yield example

    with pytest.raises(FailedPrecondition, match="does not tell token ids"):
        writing.export(Older(), "delphi", tmp_path / "out", "1.5")


@pytest.fixture(scope="module")
def read(cache, checkpoint):
    """What delphi makes of it, by module and latent."""
    if not (PEERS / "delphi").is_dir():
        if os.environ.get("POLYSEM_NEEDS_PEERS"):
            pytest.fail("no delphi: make peers")
        pytest.skip("no delphi: make peers")
    script = Path(__file__).with_name("read_by_delphi.py")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, cache, checkpoint],
        env=os.environ | {"PYTHONPATH": str(PEERS)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return {(one["module"], one["latent"]): one for one in json.loads(done.stdout.splitlines()[-1])}


def test_its_loader_reads_every_cluster_with_its_sisters_as_non_activating(read, clusters):
    assert read.keys() == clusters.keys()
    several = 0
    for key, one in read.items():
        line = clusters[key]
        assert len(one["tokens"]) == len(line["examples"])
        sisters = [
            other for k, other in clusters.items() if k[0] == key[0] and other["neuron"] == line["neuron"] and k != key
        ]
        if sisters:
            several += 1
            texts = [tokens for k, other in read.items() if clusters[k] in sisters for tokens in other["tokens"]]
            assert one["others"]
            assert all(tokens in texts for tokens in one["others"])
    assert several > 3


def test_its_detection_scorer_runs_on_every_cluster(read, clusters):
    for key, one in read.items():
        assert one["explanation"] == (clusters[key]["name"] or "No explanation found")
        assert one["n_activating"] == len(one["tokens"])
        assert one["n_scored"] == one["n_activating"] + len(one["others"])
        assert set(one["wrong"]) <= set(one["texts"])  # the same words, in a document of another cluster
        assert len(one["wrong"]) < one["n_scored"] / 4
