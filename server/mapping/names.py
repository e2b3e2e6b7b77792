"""Names of groups: rules about the central examples of their clusters, as of clusters about their examples."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from polysem.proto.questions.labels import LEAST_SCORED
from polysem.server.index.format import Index
from polysem.server.model.tokenizer import Tokenizer
from polysem.server.naming.corpus import corpus_of, drawn_places
from polysem.server.naming.names import Negatives, names_of
from polysem.server.naming.places import Place

N_TEXTS = 64  # central examples of a group that are read, and of other groups
N_NEGATIVES = 64  # places of the corpus
SEED = 2  # of these; corpus_of has 0 and 1


class GroupName(NamedTuple):
    """A name; its score, and that of random groups' names, NaN for a group of fewer than LEAST_SCORED texts."""

    text: str
    score: float
    null_score: float


def group_name(index: Index, tokenizer: Tokenizer, members: Sequence[Place], others: Sequence[Place]) -> GroupName:
    """Return the name of a group of clusters. Cost: some 20 ms, 50 with a score.

    members  central examples of its clusters, no two of one place
    others   central examples of other clusters of the layer
    """
    labels = np.repeat(np.array([0, 1], np.int32), [len(members), len(others)])
    scored = len(members) >= LEAST_SCORED
    found = names_of(
        [*members, *others], labels, corpus_of(index, tokenizer), _negatives(index, tokenizer), with_scores=scored
    )
    score, null = found.scores[0, :2].tolist() if scored else (np.nan, np.nan)
    return GroupName(found.rules[0].text, score, null)


@lru_cache(maxsize=4)
def _negatives(index: Index, tokenizer: Tokenizer) -> Negatives:
    places = drawn_places(index, tokenizer, N_NEGATIVES, SEED)
    return Negatives(places, np.zeros(N_NEGATIVES, np.int64), np.arange(N_NEGATIVES) % 2 == 1)
