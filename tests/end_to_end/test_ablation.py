"""What clusters cause, against plain hooks on transformers' own model in float64; and what is refused."""

import asyncio

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from polysem.client import AsyncClient
from polysem.proto.errors import FailedPrecondition, InvalidArgument, NotFound, UnknownIndex, UnknownNeuron
from polysem.server.index.draws import draws

from .plain_rules import BOS, BYTES

ALL = 256  # tokens: more than any sample here has
TEXT = "the tea sells a café while 日本 reads the model and text"


@pytest.fixture(scope="module")
def plain(checkpoint):
    """A function: log-probabilities (T, V) of the next tokens of ids, with activations of a layer's neuron set."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float64).eval()

    def predict(ids, layer=0, positions=(), neuron=0, value=0.0):
        def hook(_module, inputs):
            a = inputs[0].clone()
            a[0, list(positions), neuron] = value
            return (a,)

        handle = model.transformer.h[layer].mlp.c_proj.register_forward_pre_hook(hook)
        with torch.no_grad():
            logs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        handle.remove()
        return logs.numpy()

    return predict


@pytest.fixture(scope="module")
def neuron(polysem_client):
    """One with three clusters of two examples or more."""
    of = polysem_client.cluster("1.*", n_null=0)
    return next(one for one in of if sum(cluster.size > 2 for cluster in one.clusters) >= 3)


def falls_in(truth, client, neuron, ids):
    """(T,) the cluster that each token falls in, by the rules of `explain` written out; −1: none."""
    xhat, activations = truth.read(ids)[neuron.id.layer]
    a = activations[:, neuron.id.neuron]
    maximum = truth.key_activations(neuron.id.layer)[:, neuron.id.neuron].max()
    weights = truth.weights[f"h.{neuron.id.layer}.mlp.c_fc.weight"][:, neuron.id.neuron]
    gamma = truth.weights[f"h.{neuron.id.layer}.ln_2.weight"]
    (members,) = client.embed(neuron.id)
    units = members.embeddings / np.linalg.norm(members.embeddings, axis=1, keepdims=True)
    found = np.full(len(ids), -1)
    for t in range(1, len(ids)):
        if a[t] > 0 and a[t] >= 0.25 * maximum:
            e = xhat[t] * gamma * weights
            distances = 1 - units @ (e / np.linalg.norm(e))
            means = [distances[neuron.labels == label].mean() for label in range(neuron.metrics.n_clusters)]
            if min(means) <= neuron.distance_threshold:
                found[t] = int(np.argmin(means))
    return found


def contexts_of(truth, client, neuron, label):
    """Ids up to the key token, and the next id, of each example of a cluster."""
    members = np.flatnonzero(neuron.labels == label).tolist()
    for example in client.examples(neuron.id, examples=members):
        ids = truth.contexts[example.context].ids
        yield ids[: example.position + 1], (ids[example.position + 1] if example.position + 1 < len(ids) else None)


def want_of(plain, effect, neuron, readings, other):
    """KL divergences, loss changes and changes of probabilities at each predicted token, and how many are set.

    readings  ids, clusters (T,), places (P,) and the next id of each
    """
    layer, divergences, losses, changes, before, n_set = neuron.id.layer, [], [], [], [], 0
    for ids, clusters, places, next_id in readings:
        where = {
            "cluster": np.flatnonzero(clusters == effect.cluster),
            "control": np.flatnonzero(clusters == effect.cluster),
            "neuron": np.arange(len(ids)),
            "other": np.flatnonzero(clusters == other),
        }[effect.ablated].tolist()
        n_set += len(where)
        bare, ablated = plain(ids), plain(ids, layer, where, effect.neuron.neuron)
        for place in places:
            p, log_p, log_q = np.exp(bare[place]), bare[place], ablated[place]
            divergences.append((p * (log_p - log_q)).sum())
            changes.append(np.exp(log_q) - p)
            before.append(p)
            following = ids[place + 1] if place + 1 < len(ids) else next_id
            if following is not None:
                losses.append(log_p[following] - log_q[following])
    return np.array(divergences), np.array(losses), np.array(changes), np.array(before), n_set


def assert_is(effect, want):
    divergences, losses, changes, before, n_set = want
    assert (effect.n_tokens, effect.n_next, effect.n_set) == (len(divergences), len(losses), n_set)
    assert_allclose(effect.divergence, divergences.mean(), rtol=2e-3, atol=1e-7)
    assert_allclose(effect.loss_change, losses.mean(), rtol=2e-3, atol=2e-5)
    if len(divergences) > 1:
        assert_allclose(
            effect.divergence_error, divergences.std(ddof=1) / len(divergences) ** 0.5, rtol=5e-3, atol=1e-7
        )
    mean = changes.mean(axis=0)
    for listed, order in ((effect.likelier, np.argsort(-mean)), (effect.less_likely, np.argsort(mean))):
        assert_allclose([token.change for token in listed], mean[order[: len(listed)]], atol=1e-5)
        assert_allclose([mean[token.id] for token in listed], [token.change for token in listed], atol=1e-5)
        assert_allclose(
            [token.before for token in listed], before.mean(axis=0)[[token.id for token in listed]], atol=1e-5
        )


def test_in_its_own_examples_a_cluster_causes_what_plain_hooks_measure(polysem_client, small_truth, plain, neuron):
    found = polysem_client.ablate(neuron.id, n_tokens=ALL, n_controls=2)
    largest = [cluster.label for cluster in neuron.clusters if cluster.size > 1]
    assert list(dict.fromkeys(effect.cluster for effect in found)) == largest
    n_moved = 0
    for label in largest[:3]:
        effects = [effect for effect in found if effect.cluster == label]
        assert [effect.ablated for effect in effects] == ["cluster", "neuron", "other", "control", "control"]
        other = next(one for one in largest if one != label)
        readings = []
        for ids, next_id in contexts_of(small_truth, polysem_client, neuron, label):
            clusters = falls_in(small_truth, polysem_client, neuron, ids)
            clusters[-1] = label
            readings.append((ids, clusters, [len(ids) - 1], next_id))
        for effect in effects:
            assert_is(effect, want_of(plain, effect, neuron, readings, other))
            n_moved += bool(effect.likelier)
        assert effects[2].other == other
        assert effects[0].n_tokens == neuron.clusters[[c.label for c in neuron.clusters].index(label)].size
    assert n_moved > 6


def test_in_a_text_a_cluster_is_ablated_where_it_fires(polysem_client, small_truth, plain, neuron):
    ids = [BOS, *(BYTES.index(byte) for byte in TEXT.encode()[:31])]
    text = TEXT.encode()[:31].decode("utf-8", "ignore")
    ids = [BOS, *(BYTES.index(byte) for byte in text.encode())]
    clusters = falls_in(small_truth, polysem_client, neuron, ids)
    found = polysem_client.ablate(neuron.id, text=text, min_activation_fraction=0.25, n_controls=1)
    fired = 0
    for effect in found:
        places = np.flatnonzero(clusters == effect.cluster).tolist()
        if not places:
            assert (effect.n_tokens, effect.divergence, effect.likelier) == (0, None, ())
            continue
        want = want_of(plain, effect, neuron, [(ids, clusters, places, None)], effect.other)
        if len(want[1]):
            assert_is(effect, want)
            fired += 1
    assert fired


def test_a_mean_is_over_the_tokens_of_contexts_of_the_corpus(polysem_client, small_truth, plain, neuron):
    drawn = np.unique(draws(np.arange(64), 0) % np.uint64(len(small_truth.contexts))).tolist()
    every = [small_truth.activations[neuron.id.layer][context][1:, neuron.id.neuron] for context in drawn]
    mean = float(np.concatenate(every).mean())
    label = neuron.clusters[0].label
    effect = polysem_client.ablate(neuron.id, label, to="mean", n_tokens=ALL, n_controls=0)[0]
    divergences = []
    for ids, _ in contexts_of(small_truth, polysem_client, neuron, label):
        clusters = falls_in(small_truth, polysem_client, neuron, ids)
        clusters[-1] = label
        ablated = plain(ids, neuron.id.layer, np.flatnonzero(clusters == label).tolist(), neuron.id.neuron, mean)[-1]
        bare = plain(ids)[-1]
        divergences.append((np.exp(bare) * (bare - ablated)).sum())
    assert_allclose(effect.divergence, np.mean(divergences), rtol=2e-3, atol=1e-7)


def test_controls_are_the_neurons_as_active_at_the_same_tokens(polysem_client, small_truth, neuron):
    label = neuron.clusters[0].label
    found = polysem_client.ablate(neuron.id, label, n_tokens=ALL, n_controls=3)
    contexts = [ids for ids, _ in contexts_of(small_truth, polysem_client, neuron, label)]
    a = np.array([small_truth.read(ids)[neuron.id.layer][1][-1] for ids in contexts])  # (n, N)
    distances = ((a - a[:, [neuron.id.neuron]]) ** 2).sum(axis=0)
    nearest = [one for one in np.argsort(distances) if one != neuron.id.neuron][:3]
    controls = [effect for effect in found if effect.ablated == "control"]
    assert [effect.neuron.neuron for effect in controls] == nearest
    assert_allclose([effect.activation for effect in controls], a.mean(axis=0)[nearest], atol=1e-4)


def test_clusters_are_compared_beside_controls_at_the_same_tokens(polysem_client, neuron):
    found = polysem_client.ablate(neuron.id, n_controls=2)
    assert [one.neuron for one in found.differences] == [neuron.id, *(effect.neuron for effect in found[3:5])]
    for one in found.differences:
        assert 0 <= one.distance <= 2
        assert 0.01 <= one.p_value <= 1
        assert one.excess == one.distance - one.null_mean
    assert polysem_client.ablate(neuron.id, neuron.clusters[0].label, n_controls=0).differences == []


def test_a_sample_is_seeded_and_of_the_size_asked_for(polysem_client, neuron):
    label = neuron.clusters[0].label
    one, again, other = [
        polysem_client.ablate(neuron.id, label, n_tokens=3, n_controls=0, seed=seed) for seed in (1, 1, 2)
    ]
    assert list(one) == list(again)
    assert one[0].n_tokens == other[0].n_tokens == 3
    assert one[0].divergence != other[0].divergence


def test_another_cluster_can_be_named_and_a_single_cluster_has_none(polysem_client, neuron):
    first, _, third = [cluster.label for cluster in neuron.clusters if cluster.size > 2][:3]
    assert polysem_client.ablate(neuron.id, first, other=third, n_tokens=1, n_controls=0)[2].other == third
    found = polysem_client.ablate(neuron.id, distance_threshold=2.0, n_tokens=1, n_controls=0)
    assert [effect.ablated for effect in found] == ["cluster", "neuron"]


def test_asked_by_asyncio_it_is_the_same(polysem_client, neuron):
    async def ask():
        async with AsyncClient(polysem_client.target) as client:
            return await client.ablate(neuron.id, n_tokens=2, n_controls=1)

    got, want = asyncio.run(ask()), polysem_client.ablate(neuron.id, n_tokens=2, n_controls=1)
    assert list(got) == list(want)
    assert got.differences == want.differences


def test_as_tables(polysem_client, neuron):
    found = polysem_client.ablate(neuron.id, n_tokens=2, n_controls=1)
    effects, tokens, differences = (found.to_pandas(per) for per in ("effect", "token", "difference"))
    assert effects["ablated"].tolist() == [effect.ablated for effect in found]
    assert effects["divergence"].tolist() == [effect.divergence for effect in found]
    assert tokens["change"].tolist() == [t.change for e in found for t in (*e.likelier, *e.less_likely)]
    assert differences["distance"].tolist() == [one.distance for one in found.differences]


def test_of_single_examples_only_named_ones_are_ablated(polysem_client):
    alone = next(
        n for n in polysem_client.cluster("0.*", distance_threshold=0.0) if {c.size for c in n.clusters} == {1}
    )
    with pytest.raises(NotFound, match=rf"neuron {alone.id} has no cluster of two examples or more: cut at 0 it has"):
        list(polysem_client.ablate(alone.id, distance_threshold=0.0))
    found = polysem_client.ablate(alone.id, 0, distance_threshold=0.0, n_controls=0)
    assert found[0].n_tokens == 1
    assert found[0].divergence_error is None


@pytest.mark.parametrize(
    ("asked", "how", "error", "words"),
    [
        ("7.1", {}, UnknownNeuron, r"there is no neuron 7\.1"),
        ("1.5", {"index": "none"}, UnknownIndex, "there is no index 'none'"),
        ("1.5", {"cluster": 99}, NotFound, r"neuron 1\.5 has no cluster 99: cut at 0\.5 it has "),
        ("1.5", {"cluster": 0, "other": 0}, InvalidArgument, "cluster 0 is compared with itself"),
        ("1.5", {"cluster": -1}, InvalidArgument, "-1 is not a cluster"),
        ("1.5", {"cluster": range(17)}, InvalidArgument, "17 clusters were named; ask about at most 16 at once"),
        ("1.3", {}, NotFound, r"neuron 1\.3 has no dataset examples, so no clusters"),
        ("1.5", {"to": "half"}, InvalidArgument, "unknown ablation 'half': choose zero or mean"),
        ("1.5", {"n_tokens": 0}, InvalidArgument, "n_tokens is 0; it is a whole number from 1 to 256"),
        ("1.5", {"n_controls": 17}, InvalidArgument, "n_controls is 17; it is a whole number from 0 to 16"),
        ("1.5", {"seed": -1}, InvalidArgument, "seed is -1; it is a whole number from 0"),
        ("1.5", {"text": ""}, InvalidArgument, "there is no text to ablate it in: give at least one character"),
        ("1.5", {"text": "x" * 40}, InvalidArgument, "the text has 40 tokens, the model reads 31 at once beside BOS"),
        ("1.5", {"text": "~", "min_activation_fraction": 1.0}, FailedPrecondition, r"neuron 1\.5 fires nowhere in"),
        ("1.5", {"min_activation_fraction": 2}, InvalidArgument, "min_activation_fraction is 2; it is a share"),
    ],
)  # fmt: skip
def test_wrong_questions_get_a_sentence(polysem_client, asked, how, error, words):
    with pytest.raises(error, match=words):
        list(polysem_client.ablate(asked, **how))
