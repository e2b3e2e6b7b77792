"""Whole contexts: each is read once for all examples of a request, however the request is cut into batches."""

import numpy as np
import pytest

from polysem.proto.neurons import parse_neurons
from polysem.proto.questions.examples import ExampleQuery
from polysem.server.index.format import open_index
from polysem.server.model.model import Model
from polysem.server.questions import examples, whole_contexts
from polysem.server.questions.engine import Engine


@pytest.fixture
def engine(small_model, index_folder):
    return Engine(small_model, [open_index(index_folder)], "0")


@pytest.fixture
def read(monkeypatch):
    """How many contexts the model has read."""
    counted = []
    reading = Model.read

    def read_and_count(self, tokens, *rest, **options):
        counted.append(len(tokens))
        return reading(self, tokens, *rest, **options)

    monkeypatch.setattr(Model, "read", read_and_count)
    return counted


def plan(engine, *neurons, chosen=()):
    return examples.plan(engine, ExampleQuery(parse_neurons(*neurons), examples=chosen, whole_context=True))


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_each_context_is_read_once(engine, read, size):
    asked = plan(engine, "0.*", "1.3-9")
    batches = [asked.work.run(asked.items[i : i + size]) for i in range(0, 300, size)]
    contexts = np.concatenate([batch.contexts for batch in batches])
    assert sum(read) == len(np.unique(contexts))


def test_the_cost_is_that_of_the_contexts(engine):
    asked = plan(engine, "0.*")
    costs = asked.work.costs(asked.items)
    one = float(engine.model.reading_cost(np.array([engine.indexes["small"].info.context_length]))[0])
    contexts = np.concatenate([asked.work.run(asked.items).contexts])
    assert (costs == one).sum() == len(np.unique(contexts))
    assert costs.min() == whole_contexts.SMALL_COST * engine.model.info.d_model
    np.testing.assert_array_equal(asked.work.costs(asked.items[5:9]), costs[5:9])


def test_activations_are_those_of_the_example_asked_alone(engine):
    together = plan(engine, "0.*", "1.*")
    found = together.work.run(together.items)
    ends = np.cumsum(found.n_tokens)
    for i in (0, 100, len(together.items) - 1):
        layer, neuron, example = together.items[i].tolist()
        alone = plan(engine, (layer, neuron), chosen=(example,))
        (one,) = [alone.work.run(alone.items)]
        assert list(one.tokens) == list(found.tokens[ends[i] - found.n_tokens[i] : ends[i]])
        np.testing.assert_allclose(
            one.token_activations, found.token_activations[ends[i] - found.n_tokens[i] : ends[i]], atol=1e-5
        )
        assert found.token_activations[ends[i] - found.n_tokens[i] + found.keys[i]] == pytest.approx(
            found.activations[i], abs=1e-5
        )


def test_what_waits_is_bounded_and_handed_out_once(engine, read, monkeypatch):
    monkeypatch.setattr(whole_contexts, "KEPT_ACTIVATIONS", 32 * 50)  # runs of 50 examples
    asked = plan(engine, "0.*")
    for i in range(0, len(asked.items), 10):
        asked.work.run(asked.items[i : i + 10])
        assert len(asked.work.whole._kept) <= 50
    assert not asked.work.whole._kept
    before = sum(read)
    asked.work.run(asked.items[:10])  # again, as after a failure
    assert sum(read) > before


def test_an_example_named_twice_comes_twice(engine):
    asked = plan(engine, "1.5", chosen=(3, 3, 0))
    found = asked.work.run(asked.items)
    assert found.places.tolist() == [3, 3, 0]
    assert len(found.token_activations) == found.n_tokens.sum()


def test_no_example_at_all_is_an_empty_answer(engine):
    asked = plan(engine, "1.3")  # which never fires
    assert len(asked.items) == len(asked.work.costs(asked.items)) == 0
    assert len(asked.work.run(asked.items).neurons) == 0
