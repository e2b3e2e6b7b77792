"""A neuron's answer is the same, to the byte, alone, in its layer, in the whole model and beside other callers."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

NEURONS = ["0.3", "0.95", "1.0", "1.17", "1.64"]
HOW = [{}, {"algorithm": "scc"}, {"embedding": "pre_mlp", "layer_norm": "raw"}, {"linkage": "complete"}]


def answer(neuron):
    return [
        neuron.labels.tobytes(),
        neuron.linkage.tobytes(),
        repr(neuron.metrics),
        neuron.method,
        [(cluster.central, cluster.mean_distance) for cluster in neuron.clusters],
    ]


def answers(client, *asked, **how):
    return {str(neuron.id): answer(neuron) for neuron in client.cluster(*asked, **how)}


@pytest.mark.parametrize("how", HOW, ids=str)
def test_company_changes_no_byte(polysem_client, how):
    alone = {name: answers(polysem_client, name, **how)[name] for name in NEURONS}
    for company in (["0.*", "1.*"], ["*"], NEURONS, ["1.90-95", *reversed(NEURONS)]):
        together = answers(polysem_client, *company, **how)
        assert {name: together[name] for name in NEURONS} == alone


def test_other_callers_change_no_byte(polysem_client):
    alone = [answers(polysem_client, "*", **how) for how in HOW]
    with ThreadPoolExecutor(12) as callers:
        asked = [(how, callers.submit(answers, polysem_client, "*", **HOW[how])) for how in range(4) for _ in range(3)]
        for how, found in asked:
            assert found.result() == alone[how]


def test_embeddings_do_not_depend_on_company(polysem_client):
    whole = {str(e.id): e.embeddings for e in polysem_client.embed("*")}
    for name in NEURONS:
        np.testing.assert_array_equal(polysem_client.embed(name)[0].embeddings, whole[name])
