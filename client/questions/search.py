"""Search of feature clusters: `Client.search`, and those that fire in a text of one's own."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from polysem.client.questions.explain import ExplainedToken, Explanation
from polysem.proto import checks
from polysem.proto.neurons import NeuronId
from polysem.proto.questions.search import FOUND_BY, FoundBy, SearchQuery, encode_search_query
from polysem.proto.sides import Side

EVERY_S = 0.5  # asks how far the search file is
N_STRONGEST = 5  # neurons at each token of a text
N_NEURONS = 64  # whose clusters are looked up


class FiringCluster(NamedTuple):
    """A feature cluster that fires in a text: its neuron and label, where it fires hardest, and how hard.

    token      the text of that token
    place      its number among the text's tokens
    share      of the neuron's maximum over the corpus
    character  the token's text, or all of the character that it is a part of
    part       which part of that character, such as 1/3; empty for whole characters
    """

    neuron: NeuronId
    cluster: int
    token: str
    place: int
    share: float
    character: str
    part: str


def request(
    query: str,
    found_by: FoundBy | Sequence[FoundBy] | None,
    layer: int | None,
    least_size: int,
    limit: int,
    cursor: str,
    index: str | None,
    side: Side,
) -> Any:
    """Return the request. Raises InvalidArgument."""
    by = FOUND_BY if found_by is None else (found_by,) if isinstance(found_by, str) else tuple(found_by)
    return encode_search_query(SearchQuery(query, by, layer, least_size, limit, cursor, checks.index_name(index), side))


def hardest(tokens: Sequence[ExplainedToken]) -> list[NeuronId]:
    """Return the neurons with the highest share of their maximum at any token, the hardest first."""
    shares: dict[NeuronId, float] = {}
    for firing in (firing for token in tokens for firing in token.firings):
        shares[firing.neuron] = max(shares.get(firing.neuron, 0.0), firing.share or 0.0)
    return sorted(shares, key=lambda id_: (-shares[id_], id_))[:N_NEURONS]


def firing_clusters(tokens: Explanation) -> list[FiringCluster]:
    """Return the clusters that the tokens of a text fall in, the hardest first."""
    found: dict[tuple[NeuronId, int], FiringCluster] = {}
    for place, (token, part) in enumerate(zip(tokens, tokens.parts, strict=True)):
        for firing in token.firings:
            if firing.cluster is None:
                continue
            one = FiringCluster(
                firing.neuron, firing.cluster, token.text, place, firing.share or 0.0, part.text, part.fraction
            )
            key = (firing.neuron, firing.cluster)
            if key not in found or found[key].share < one.share:
                found[key] = one
    return sorted(found.values(), key=lambda one: (-one.share, one.neuron, one.cluster))
