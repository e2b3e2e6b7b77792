"""Number of neurons that a question names, and the test that follows from it by default."""

from collections.abc import Sequence

from polysem.proto.neurons import NeuronLike, parse_neurons

N_NULL = 99  # of a question about one neuron


def wholly_tested(n_null: int | None, *neurons: NeuronLike) -> int | None:
    """The n_null that draws a tree with its significant merges by default: N_NULL of one neuron."""
    return N_NULL if n_null is None and n_named(neurons) == 1 else n_null


MAX_COUNTED = 100_000  # neurons of a range, for a progress bar


def n_named(neurons: Sequence[NeuronLike]) -> int | None:
    """Number of neurons named, each counted once; None if only the server knows how large a layer is."""
    named: set[tuple[int, int]] = set()
    for layer, first, last in parse_neurons(*neurons):
        if layer is None or first is None or last is None or last - first > MAX_COUNTED:
            return None
        named |= {(layer, index) for index in range(first, last + 1)}
    return len(named)
