"""The second pass: what is known of a shard's places goes to the device at once, and nothing waits for the device."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from polysem.proto.facts import Selection
from polysem.server.index.contexts import Contexts
from polysem.server.indexing import collecting, columns, scan, selection
from polysem.server.indexing.negatives import Proposed
from polysem.server.model import transfers

WAITING = "_local_scalar_dense", "nonzero", "masked_select", "_unique2", "bincount"


class Waits(TorchDispatchMode):
    """Counts what would wait for a GPU, on CPU tensors that stand for its."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        masks = [of for of in (args[1] if function.__name__.startswith("index") else ()) if of is not None]
        if function.__name__.startswith(WAITING) or any(of.dtype == torch.bool for of in masks):
            self.found[function.__name__] += 1
        return function(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def shard(small_model, index_folder):
    """Arguments of `collect`: half of the contexts of the shared index, read some at a time, both sides asked about."""
    loaded = Contexts(index_folder / "contexts").load(0, 20)
    reading = scan.ReadOptions(1, 60, (0, 1), ("positive", "negative"), (96, 96))
    scanned = scan.reduced(
        scan.key_activations(small_model, loaded, reading, lambda n: None), reading, Selection("first", 0.5, 7)
    )
    chosen = selection.select(scanned.candidates, scanned.sums.maximum, Selection("first", 0.5, 7))
    dice = np.random.default_rng(0)
    parts = []
    for run in range(4):
        asked = Proposed(*(dice.integers(0, most, 30).astype(np.int32) for most in (20, 1, 96)))
        of_run = scan.chosen_of_run(chosen, *reading.bounds[run : run + 2], small_model.info.context_length)
        parts.append(scan.ChosenByShard(of_run, asked, np.array([3, 8, 19], np.int32)).of(0, 20)[0])
    return small_model, loaded, parts, scanned.sums.maximum, reading, lambda n: None, 20


@pytest.fixture(scope="module")
def collected(shard):
    return collecting.collect(*shard)()


def test_runs_hold_what_a_forward_of_each_context_says(shard, collected):
    model, loaded, parts, maximum, reading, *_ = shard
    for run, ((side, layer), part, found) in enumerate(zip(reading.runs, parts, collected, strict=True)):
        sign = -1 if side == "negative" else 1
        most = maximum[reading.bounds[run] : reading.bounds[run + 1]]
        strengths = np.empty((20, 96), np.float32)
        for context in range(20):
            seen = {}
            tokens = torch.from_numpy(loaded.tokens(context).astype(np.int64))[None]
            model.read(tokens, lambda at, x, a, seen=seen: seen.update({at: (x.clone(), a.clone())}))
            residual, activations = seen[layer][0][0], sign * seen[layer][1][0].float().numpy()
            strengths[context] = activations[1:].max(axis=0)
            for i in np.flatnonzero(part.row_contexts == context):
                want = model.normalise(layer, residual[part.row_positions[i]][None])[0]
                np.testing.assert_allclose(found.xhat[i], want, atol=4e-3)
            for i in np.flatnonzero(part.contexts == context):
                at = part.positions[i] + np.arange(-20, 11)
                inside = (at >= 0) & (at < len(activations))
                want = np.where(inside, sign * activations[at.clip(0, len(activations) - 1), part.neurons[i]], 0)
                np.testing.assert_allclose(found.around[i], want, atol=2e-3)
        fires = strengths[part.asked_contexts, part.asked_neurons] >= 0.25 * most[part.asked_neurons]
        positive = strengths[part.asked_contexts, part.asked_neurons] > 0
        np.testing.assert_array_equal(found.fires, fires & positive)
        weak = (strengths[part.sample] > 0) & (strengths[part.sample] < 0.25 * most)
        np.testing.assert_array_equal(found.weak_at >= 0, weak)
        assert found.histogram.sum() == (strengths > 0).sum()


def test_batches_do_not_show(shard, collected):
    model, loaded, parts, maximum, reading, advance, at_once = shard
    again = collecting.collect(model, loaded, parts, maximum, reading._replace(batch_tokens=10_000), advance, at_once)()
    for one, other in zip(collected, again, strict=True):
        for name, values in one._asdict().items():
            np.testing.assert_allclose(values, getattr(other, name), atol=4e-3)


def test_places_are_sent_once_a_shard_and_nothing_waits(shard, collected, monkeypatch):
    sent, waits = [], Waits()
    see = collecting._RunCollector.see

    def watched(*args):
        with waits:
            see(*args)

    monkeypatch.setattr(transfers, "send", lambda tensor, device: sent.append(tensor) or tensor)
    monkeypatch.setattr(collecting._RunCollector, "see", watched)
    monkeypatch.setattr(collecting, "add_to_histogram", columns.scatter_to_histogram)  # as on a GPU
    found = collecting.collect(*shard)()
    n_batches = len(list(scan.batches(shard[1], shard[4].batch_tokens)))
    assert (len(sent), n_batches > 1) == (2 + n_batches, True)  # places, maxima, and each batch's tokens
    assert waits.found == {}
    for one, other in zip(collected, found, strict=True):
        for mine, theirs in zip(one, other, strict=True):
            assert mine.tobytes() == theirs.tobytes()


def test_a_shard_without_examples_has_a_histogram_alone(shard):
    model, loaded, parts, *others = shard
    none = [scan.RunChoice(*(values[:0] for values in part)) for part in parts]
    for found, part in zip(collecting.collect(model, loaded, none, *others)(), parts, strict=True):
        assert found.histogram.any()
        assert (len(found.xhat), len(found.around), len(found.fires), len(found.weak_at)) == (0, 0, 0, 0)
        assert len(part.contexts) > 0
