"""Seeded places of an index's corpus: how often each part holds there at all."""

from functools import lru_cache

import numpy as np

from polysem.server.index.draws import draws
from polysem.server.index.format import Index
from polysem.server.model.tokenizer import Tokenizer
from polysem.server.naming.parts import Part, parts_of
from polysem.server.naming.places import Place, places
from polysem.server.naming.rules import Corpus

N_PLACES = 2048
SEED = 0


@lru_cache(maxsize=4)
def corpus_of(index: Index, tokenizer: Tokenizer) -> Corpus:
    """Return the corpus's places. Cost: 0.1 s once, for an index of any size."""
    where: dict[Part, list[int]] = {}
    for number, place in enumerate(drawn_places(index, tokenizer, N_PLACES, SEED)):
        for part in parts_of(place):
            where.setdefault(part, []).append(number)
    return Corpus(N_PLACES, {part: np.array(found, np.int64) for part, found in where.items()})


def drawn_places(index: Index, tokenizer: Tokenizer, n: int, seed: int) -> list[Place]:
    """Return n places of the corpus at random: of a context each, by `seed`, and of a token in it, by `seed` + 1."""
    numbers = np.arange(n)
    contexts = (draws(numbers, seed) % np.uint64(len(index.contexts))).astype(np.int64)
    room = (index.contexts.lengths(contexts) - index.n_skipped).astype(np.uint64)
    positions = index.n_skipped + (draws(numbers, seed + 1) % room).astype(np.int64)
    return places(index, tokenizer, contexts, positions)
