"""Key tokens, singletons and nulls beside a clustering, by hand and through pieces of a batch."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import adjusted_mutual_info_score

from polysem.client.baselines import Baselines, baseline_columns, baselines_of, token_columns

from ..proto.made_up import make_cluster_batch


def test_shares_by_hand():
    labels = np.array([0, 0, 1, 1, 2, 3])
    tokens = np.array([5, 5, 5, 8, 8, 9])
    found = baselines_of(labels, tokens, np.array([3.5, 0.2, np.nan, 0.1]))
    assert found.single_token_share == 0.5  # {5, 5} of {5, 5} and {5, 8}; one example alone counts in neither
    assert found.singleton_share == 0.5
    assert found.token_agreement == pytest.approx(adjusted_mutual_info_score(labels, tokens))
    assert found[3:] == (3.5, 0.2, None, 0.1)


def test_without_examples_or_clusters_of_two_shares_are_undefined():
    assert baselines_of(np.zeros(0, int), np.zeros(0, int), None) == Baselines(*[None] * 7)
    alone = baselines_of(np.array([0, 1]), np.array([3, 3]), None)
    assert (alone.single_token_share, alone.singleton_share) == (None, 1)
    assert alone.token_agreement == pytest.approx(0)


def test_without_key_tokens_singletons_are_known_all_the_same():
    assert baselines_of(np.array([0, 0, 1]), None, None) == Baselines(None, None, 0.5, *[None] * 4)


def test_many_neurons_at_once_are_each_alone():
    rng = np.random.default_rng(1)
    counts = np.array([0, 1, 2, 7, 0, 40], np.int32)
    labels, tokens = rng.integers(0, 4, counts.sum()), rng.integers(0, 6, counts.sum()) * 9000
    together = token_columns(labels, tokens, counts)
    ends = np.concatenate([[0], np.cumsum(counts)])
    for i, (first, last) in enumerate(itertools.pairwise(ends)):
        alone = baselines_of(labels[first:last], tokens[first:last], None)
        for name, column in together.items():
            assert column[i] == getattr(alone, name) or (np.isnan(column[i]) and getattr(alone, name) is None)


def test_a_batch_of_an_older_server_has_singletons_only():
    batch = make_cluster_batch([3, 0, 2])
    object.__setattr__(batch, "key_tokens", np.zeros(0, np.int32))
    object.__setattr__(batch, "null_metrics", np.zeros(3, np.int32))
    columns = baseline_columns(batch)
    assert tuple(columns) == Baselines._fields
    assert np.isfinite(columns.pop("singleton_share")).tolist() == [True, False, True]
    assert all(np.isnan(column).all() for column in columns.values())
