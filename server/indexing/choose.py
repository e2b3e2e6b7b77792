"""From scan shards to the examples that are chosen: layer by layer, so that memory does not hold them all at once."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from polysem.proto.arrays import Array
from polysem.proto.facts import Selection
from polysem.proto.work import shards
from polysem.server.indexing import selection
from polysem.server.indexing.scan import Scan, Sums, added
from polysem.server.indexing.selection import Candidates

JOINED_AT_ONCE = 16  # parts, one of them what is left of those before
LAYERS_AT_ONCE = 4  # some are read while another is joined, on all cores


def flattened(part: Scan, n_layers: int) -> dict[str, Array]:
    """The arrays of a scan shard: each layer can be read without the others."""
    arrays: dict[str, Array] = part.sums._asdict()
    for layer, some in enumerate(selection.split(part.candidates, n_layers)):
        arrays |= {f"{name}_{layer}": array for name, array in some._asdict().items()}
    return arrays


def sums(paths: Iterable[Path]) -> Sums:
    """Of all shards."""
    return added(Sums(**shards.read(path, Sums._fields)) for path in paths)


def choose(
    paths: Sequence[Path],
    maximum: Array,
    n_layers: int,
    rule: Selection,
    given: Array | None,
    advance: Callable[[int], None],
) -> Candidates:
    """The chosen examples of all neurons; raises FailedPrecondition where a shard is damaged.

    paths    of scan shards
    maximum  (J,) float32: what the rule takes for each neuron's maximum
    given    the same where it was known to the scan, else None
    advance  told of layers, and of none at the beginning

    Memory: the candidates of 15 shards and what is left of all before, of LAYERS_AT_ONCE layers; and the chosen.
    """

    def of_layer(layer: int) -> Candidates:
        mine = slice(layer * len(maximum) // n_layers, (layer + 1) * len(maximum) // n_layers)
        known = None if given is None else given[mine]
        parts: list[Candidates] = []
        for path in paths:
            arrays = shards.read(path, [f"{name}_{layer}" for name in Candidates._fields])
            parts.append(Candidates(*arrays.values()))
            if len(parts) == JOINED_AT_ONCE:
                parts = [selection.join(parts, rule, known)]
        return selection.select(selection.join(parts, rule, known), maximum[mine], rule)

    advance(0)
    chosen = []
    with ThreadPoolExecutor(LAYERS_AT_ONCE) as pool:
        for of_one in pool.map(of_layer, range(n_layers)):
            chosen.append(of_one)
            advance(1)
    return selection.chained(chosen)
