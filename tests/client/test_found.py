"""Why a search found a cluster is said of keys, names and texts, and of words that stand in no example together."""

import pytest

from polysem.client.found import why
from polysem.proto.neurons import NeuronId
from polysem.proto.questions.search import FoundCluster


@pytest.mark.parametrize(
    ("found_by", "share", "n_with", "said"),
    [
        ("key", 0.625, 0, "62% of its key tokens"),
        ("name", 0.0, 0, "in its name"),
        ("text", 0.0, 3, "in 3 of 8 examples"),
        ("text", 0.0, 0, "its words in different examples"),
    ],
)
def test_it_is_said_what_of_the_cluster_was_looked_for(found_by, share, n_with, said):
    one = FoundCluster(NeuronId(1, 2), 0, 0, 8, 0, "mostly `a`", "rules", found_by, share, 8, n_with, (0,))
    assert why(one) == said
