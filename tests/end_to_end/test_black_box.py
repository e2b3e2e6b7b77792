"""Every rule, embedding and algorithm a client can ask for is what the glossary says: plain_gpt2 and plain_rules.

Two indexes of one checkpoint and one corpus, behind one server, differ in all that can differ. x̂ is stored as float16,
so it is first held against the truth to half a unit of float16; what follows from it must then agree to float32.
Where rounding could flip an answer, the seed is such that it does not, and the last tests say by what margin.
"""

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.testing import assert_allclose
from safetensors.numpy import load_file, save_file

from polysem.server.model.loading import load

from . import plain_gpt2, plain_rules

N_LAYERS, N_NEURONS = 2, 60
ALL = [(layer, neuron) for layer in range(N_LAYERS) for neuron in range(N_NEURONS)]
LINKAGES = ("average", "complete", "single")
CUTS = (0.3, 0.5, 0.7)
ROUNDS = [r / 50 for r in range(1, 51)]
FLOAT32 = {"rtol": 1e-5, "atol": 2e-6}
SEED = 13

RECIPES: dict[str, dict[str, Any]] = {
    "first": {"context_length": 14, "windows": "all", "bos": True},
    "top": {"context_length": 32, "windows": "first", "bos": False},
}
RULES: dict[str, Callable[[Any], Any]] = {
    "first": lambda highest: plain_rules.first(highest, 0.5, 40),
    "top": lambda highest: plain_rules.top(highest, 12),
}
CHOICES = [
    {"embedding": embedding, "layer_norm": layer_norm}
    for embedding in ("neuron", "pre_mlp")
    for layer_norm in ("folded", "raw")
]

Key = tuple[int, int]  # layer, neuron


class Example(NamedTuple):
    context: int
    position: int
    activation: float


class Truth(NamedTuple):
    """What one index should hold; xhat[layer][context] (T, D), activations[layer][context] (T, N)."""

    contexts: list[plain_rules.Context]
    xhat: list[list[Any]]
    activations: list[list[Any]]
    examples: dict[Key, list[Example]]  # in corpus order


# ---- The world: a checkpoint, a corpus, two indexes behind a server, and the truth about them


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint) -> Path:
    """Weights of NumPy's random numbers; the biases let neurons fire everywhere, rarely or nowhere."""
    folder = make_checkpoint("black-box", n_layer=N_LAYERS, n_inner=N_NEURONS)
    random = np.random.Generator(np.random.PCG64(SEED))
    weights = {}
    for name, array in sorted(load_file(folder / "model.safetensors").items()):
        mean, spread = (-1.5, 1.5) if name.endswith("c_fc.bias") else (float(".ln_" in name and "weight" in name), 0.3)
        weights[name] = random.normal(mean, spread, array.shape).astype(np.float32)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def weights(checkpoint) -> dict[str, Any]:
    stored = load_file(checkpoint / "model.safetensors")
    return {name.removeprefix("transformer."): array.astype(float) for name, array in stored.items()}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> tuple[Path, list[tuple[str, str]]]:
    """(file, [(name, text)]): 94 documents of 1 to 24 words, and the awkward ones.

    Each begins with a character of its own: activations at a common beginning are equal but for rounding.
    """
    text = "the café of Zürich sells 日本 tea 😀 to class def return if None <|endoftext|> 0 1 23"
    words = text.split()
    random = np.random.Generator(np.random.PCG64(SEED))
    lines = [
        {"id": f"d{d:03d}", "text": chr(33 + d) + " ".join(random.choice(words, 1 + d % 24).tolist())}
        for d in range(94)
    ]
    lines.insert(3, {"id": "empty", "text": ""})
    lines.insert(40, {"text": "ßnameless, so its line's number is its name"})
    path = tmp_path_factory.mktemp("black-box-corpus") / "corpus.jsonl"
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    named = [(line.get("id", str(number)), line["text"]) for number, line in enumerate(lines, start=1)]
    return path, [(name, text) for name, text in named if text]


@pytest.fixture(scope="module")
def client(checkpoint, corpus, tmp_path_factory) -> Iterator[Any]:
    import polysem.server
    from polysem.proto.facts import Selection
    from polysem.server.corpus.documents import Corpus
    from polysem.server.indexing import builder

    resident = load(str(checkpoint), "cpu")
    folder = tmp_path_factory.mktemp("black-box-indexes")
    for name, rule in {"first": Selection("first", 0.5, 40), "top": Selection("top", max_examples=12)}.items():
        recipe = builder.Recipe(rule, **RECIPES[name])
        builder.build(resident, Corpus(str(corpus[0])), folder / name, recipe, batch_tokens=300)
    with polysem.server.local(*(folder / name for name in RECIPES), device="cpu") as client:
        yield client


@pytest.fixture(scope="module", params=list(RECIPES))
def index(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def truth(corpus, weights, index) -> Truth:
    recipe = RECIPES[index]
    contexts = plain_rules.contexts(corpus[1], recipe["context_length"], recipe["windows"], recipe["bos"])
    read = [list(plain_gpt2.read(weights, 2, context.ids)) for context in contexts]
    xhat, activations = ([[seen[layer][part] for seen in read] for layer in range(N_LAYERS)] for part in (0, 1))
    examples = {}
    for layer, neuron in ALL:
        positions = [int(a[recipe["bos"] :, neuron].argmax()) + recipe["bos"] for a in activations[layer]]
        highest = np.array([a[p, neuron] for a, p in zip(activations[layer], positions, strict=True)])
        examples[layer, neuron] = [Example(c, positions[c], highest[c]) for c in RULES[index](highest).tolist()]
    return Truth(contexts, xhat, activations, examples)


@pytest.fixture(scope="module")
def served_xhat(client, index) -> dict[Key, Any]:
    """(n, D) of each neuron's examples: the pre-MLP embedding with LayerNorm folded."""
    found = client.embed("*", embedding="pre_mlp", layer_norm="folded", index=index)
    return {key: neuron.embeddings.astype(float) for key, neuron in zip(ALL, found, strict=True)}


@pytest.fixture(scope="module", params=CHOICES, ids=lambda choice: "-".join(choice.values()))
def choice(request) -> dict[str, str]:
    return request.param


@pytest.fixture(scope="module")
def distances(served_xhat, weights, choice) -> dict[Key, Any]:
    """(n, n) of each neuron, of our own embeddings of the served x̂."""
    return {key: plain_rules.cosine_distances(embed(weights, key, x, **choice)) for key, x in served_xhat.items()}


@pytest.fixture(scope="module")
def rounds(distances) -> dict[Key, list[Any]]:
    """Labels of each neuron in each round of SCC."""
    return {key: list(plain_rules.scc(d, ROUNDS)) for key, d in distances.items()}


def embed(weights: Any, key: Key, xhat: Any, embedding: str, layer_norm: str) -> Any:
    layer, neuron = key
    gamma, beta = weights[f"h.{layer}.ln_2.weight"], weights[f"h.{layer}.ln_2.bias"]
    w = weights[f"h.{layer}.mlp.c_fc.weight"][:, neuron]
    h, w = (xhat, gamma * w) if layer_norm == "folded" else (xhat * gamma + beta, w)
    return h * w if embedding == "neuron" else h


# ---- The index


def test_the_index_counts_what_the_corpus_holds(client, index, truth, corpus):
    (info,) = (info for info in client.indexes() if info.name == index)
    assert info.n_documents == len(corpus[1])
    assert info.n_contexts == len(truth.contexts)
    assert info.n_tokens == sum(len(context.ids) for context in truth.contexts)
    assert info.n_examples == sum(map(len, truth.examples.values()))
    assert info.n_neurons_with_examples == sum(bool(found) for found in truth.examples.values())


def test_examples_are_those_of_the_rule(client, index, truth):
    found: dict[Key, list[Any]] = {key: [] for key in ALL}
    for example in client.examples("*", index=index):
        found[tuple(example.neuron)].append(example)
    for key, want in truth.examples.items():
        assert [(e.context, e.position) for e in found[key]] == [(w.context, w.position) for w in want]
        assert [e.document for e in found[key]] == [truth.contexts[w.context].document for w in want]
        assert [e.example for e in found[key]] == list(range(len(want)))
        assert_allclose([e.activation for e in found[key]], [w.activation for w in want], **FLOAT32)


def test_text_runs_from_20_tokens_before_the_key_token_to_10_after(client, index, truth):
    wanted = [(key, want) for key, found in truth.examples.items() for want in found]
    for example, (key, want) in zip(client.examples("*", index=index), wanted, strict=True):
        ids = truth.contexts[want.context].ids
        begin = max(want.position - 20, int(RECIPES[index]["bos"]))
        span = slice(begin, want.position + 11)
        assert list(example.tokens) == plain_rules.texts(ids)[span]
        assert example.key == want.position - begin
        around = truth.activations[key[0]][want.context][span, key[1]]
        assert_allclose(example.activations, around, rtol=2**-11 + 1e-5, atol=2e-6)  # stored as float16


def test_whole_contexts_come_with_all_their_activations(client, index, truth):
    for key in [max(ALL, key=lambda key: len(truth.examples[key])), (1, 7), (1, 30)]:
        found = client.examples(key, whole_context=True, index=index)
        for example, want in zip(found, truth.examples[key], strict=True):
            assert list(example.tokens) == plain_rules.texts(truth.contexts[want.context].ids)
            assert example.key == want.position
            activations = truth.activations[key[0]][want.context][:, key[1]]
            assert_allclose(example.activations, activations, **FLOAT32)


# ---- Embeddings and distances


def test_xhat_is_the_truth_rounded_to_float16(served_xhat, truth):
    for (layer, neuron), x in served_xhat.items():
        examples = truth.examples[layer, neuron]
        want = np.array([truth.xhat[layer][e.context][e.position] for e in examples]).reshape(x.shape)
        assert_allclose(x, want, rtol=2**-11, atol=2e-6)


def test_embeddings_are_those_of_the_definition(client, index, served_xhat, weights, choice):
    for (key, x), neuron in zip(served_xhat.items(), client.embed("*", index=index, **choice), strict=True):
        assert_allclose(neuron.embeddings, embed(weights, key, x, **choice), rtol=1e-6, atol=1e-6)


def test_distances_are_those_of_the_unrounded_truth(client, index, truth, weights, choice):
    for (key, examples), neuron in zip(truth.examples.items(), client.cluster("*", index=index, **choice), strict=True):
        if len(examples) > 1:
            x = np.array([truth.xhat[key[0]][e.context][e.position] for e in examples])
            want = plain_rules.metrics(plain_rules.cosine_distances(embed(weights, key, x, **choice)), [0] * len(x))
            got = [neuron.metrics.max_distance, neuron.metrics.mean_distance]
            assert_allclose(got, [want["max_distance"], want["mean_distance"]], atol=5e-4)  # x̂ is float16


def test_float16_moves_a_distance_by_no_more_than_twice_its_rounding(truth, served_xhat, weights, choice):
    moved = []
    for key, stored in served_xhat.items():
        x = np.array([truth.xhat[key[0]][e.context][e.position] for e in truth.examples[key]]).reshape(stored.shape)
        exact, served = (plain_rules.cosine_distances(embed(weights, key, of, **choice)) for of in (x, stored))
        moved.append(np.abs(exact - served).max(initial=0.0))
    rounding = 2**-11  # of a coordinate, relative: so each embedding turns by that angle at most
    assert 3e-5 < max(moved) < 2 * rounding


# ---- Clusters


@pytest.mark.parametrize("linkage", LINKAGES)
def test_agglomerative_trees_and_cuts_are_scipys(client, index, distances, choice, linkage):
    asked = [client.cluster("*", linkage=linkage, distance_threshold=t, index=index, **choice) for t in CUTS]
    for *neurons, d in zip(*asked, distances.values(), strict=True):
        assert_allclose(neurons[0].linkage[:, 2], plain_rules.tree(d, linkage)[:, 2], atol=2e-6)
        for threshold, neuron in zip(CUTS, neurons, strict=True):
            want = plain_rules.cut(d, linkage, threshold)
            assert neuron.labels.tolist() == want
            assert neurons[0].cut(threshold).labels.tolist() == want


def test_every_round_of_scc_is_the_definitions(client, index, rounds, choice):
    neurons = client.cluster("*", algorithm="scc", index=index, **choice)
    for neuron, labels in zip(neurons, rounds.values(), strict=True):
        for threshold, want in zip(ROUNDS, labels, strict=True):
            assert neuron.cut(threshold).labels.tolist() == want


@pytest.mark.parametrize("threshold", CUTS)
def test_components_are_those_of_the_graph_of_near_pairs(client, index, distances, choice, threshold):
    neurons = client.cluster("*", algorithm="components", distance_threshold=threshold, index=index, **choice)
    for neuron, d in zip(neurons, distances.values(), strict=True):
        assert neuron.labels.tolist() == plain_rules.components(d, threshold)


@pytest.mark.parametrize("algorithm", ["hac", "scc"])
def test_metrics_and_central_examples_are_the_definitions(client, index, distances, choice, algorithm):
    neurons = client.cluster("*", algorithm=algorithm, index=index, **choice)
    for neuron, d in zip(neurons, distances.values(), strict=True):
        for cut in (neuron, neuron.cut(0.3)):  # the server's numbers, and those the client makes of the tree
            want = plain_rules.metrics(d, cut.labels)
            if cut is not neuron:
                want["silhouette"] = None  # needs the distances
            for name, value in want.items():
                assert_same(getattr(cut.metrics, name), value)
            assert [c.size for c in cut.clusters] == sorted(np.bincount(cut.labels), reverse=True)
            for cluster in cut.clusters:
                assert cluster.members.tolist() == np.flatnonzero(cut.labels == cluster.label).tolist()
                assert cluster.central == plain_rules.central(d, cluster.members)[0]
                mean = plain_rules.metrics(d[np.ix_(cluster.members, cluster.members)], [0] * cluster.size)
                assert_same(cluster.mean_distance, mean["mean_distance"])


def assert_same(got: float | None, want: float | None) -> None:
    assert (got is None) == (want is None)
    if want is not None:
        assert_allclose(got, want, atol=2e-6)


# ---- The data is worth comparing, and no comparison hangs on rounding


def test_the_data_holds_all_that_the_rules_tell_apart(client, index, truth):
    sizes = {len(found) for found in truth.examples.values()}
    assert sizes >= ({0, 1, 2, 40} if index == "first" else {0, 12})
    for layer in range(N_LAYERS):
        keys = [(e.context, e.position) for key, found in truth.examples.items() for e in found if key[0] == layer]
        assert len(set(keys)) < 0.9 * len(keys)  # neurons share key tokens, so rows of x̂
    assert sum(neuron.metrics.n_clusters > 2 for neuron in client.cluster("*", index=index)) > 10
    if index == "first":
        assert len(truth.contexts) > 256  # more than a shard
        assert len({context.document for context in truth.contexts}) < len(truth.contexts) / 2  # many windows each
        assert any("�" in "".join(plain_rules.texts(context.ids)) for context in truth.contexts)  # cut characters


def test_no_example_is_chosen_by_rounding(truth, index):
    for (layer, neuron), examples in truth.examples.items():
        fired = [a[RECIPES[index]["bos"] :, neuron] for a in truth.activations[layer]]
        highest = np.sort([a.max() for a in fired])[::-1]
        if index == "first" and examples:
            assert np.abs(highest - 0.5 * highest[0]).min() > 1e-6
        if index == "top" and len(examples) == 12:
            assert highest[11] - highest[12] > 1e-6
        else:
            assert min(highest[highest > 0], default=1) > 1e-6
        for example in examples:
            both = np.sort(fired[example.context])[-2:]
            assert len(both) < 2 or both[1] - both[0] > 1e-6


def test_no_cluster_hangs_on_rounding(served_xhat, distances, rounds, weights, choice):
    """Moving x̂ by more than float32 does changes no cluster; equal x̂ stay equal."""
    for key, d in distances.items():
        x = served_xhat[key] * (1 + 4e-6 * np.sin(1e4 * served_xhat[key]))
        moved = plain_rules.cosine_distances(embed(weights, key, x, **choice))
        for linkage, threshold in itertools.product(LINKAGES, CUTS):
            assert plain_rules.cut(moved, linkage, threshold) == plain_rules.cut(d, linkage, threshold)
        assert list(plain_rules.scc(moved, ROUNDS)) == rounds[key]
        labels = np.array(plain_rules.cut(d, "average", 0.5), int)
        assert all(plain_rules.central(d, np.flatnonzero(labels == k))[1] > 3e-6 for k in set(labels.tolist()))
