"""Kinds of neurons, and a summary of many: how clear their clusters are by layer, and how many are of each kind."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from polysem.proto.arrays import DoubleArray, IntArray
from polysem.proto.checks import check_count, check_one_of
from polysem.proto.errors import InvalidArgument
from polysem.proto.questions.clustering import LEVEL
from polysem.proto.wire.tensors import decode_tensor, encode_tensor
from polysem.v1 import neuron_service_pb2 as pb

NeuronKind = Literal["too_few", "one", "few", "blurred", "several"]
NEURON_KINDS: tuple[NeuronKind, ...] = get_args(NeuronKind)
LEAST_EXAMPLES_JUDGED = 20
LEAST_SHARE_OF_ONE = 0.9
LEAST_SHARE_OF_TWO, LEAST_SHARE_OF_SECOND = 0.6, 0.1
LEAST_CLEAR = 0.3  # best silhouette
N_STEPS = 20  # of the best silhouette, from 0 to 1
_EDGES = np.arange(N_STEPS + 1) / N_STEPS

KIND_NUMBERS: dict[str, Any] = {kind: pb.NeuronKind.Value(f"NEURON_KIND_{kind.upper()}") for kind in NEURON_KINDS}


@dataclass(frozen=True, eq=False)
class NeuronSummary:
    """Counts of the neurons that pass all filters but `kinds` and `cell`.

    layers     (L,) int32: the layers that the index holds
    clarity    (L, 20) int32: neurons with 20 examples or more, by layer and best silhouette in steps of .05 from 0;
               step s holds .05 · s ≤ best silhouette < .05 · (s + 1), the last 1, too; where it is undefined: in none
    kinds      neurons of each kind; one that was not clustered, as too large for the linkage, has none
    n_neurons  all that were counted
    n_tested   those of them whose rotation test the index holds
    """

    layers: IntArray
    clarity: IntArray
    kinds: dict[NeuronKind, int]
    n_neurons: int
    n_tested: int


def kinds_of(
    n_examples: npt.NDArray[Any],
    largest_share: DoubleArray,
    second_share: DoubleArray,
    silhouette: DoubleArray,
    best_silhouette: DoubleArray,
    p_value: DoubleArray,
) -> IntArray:
    """Return each neuron's kind, (B,) int32: a place in NEURON_KINDS plus 1; 0: examples that were not clustered.

    All are (B,), NaN where undefined. The first that fits:

    too_few  fewer than 20 examples: not judged
    one      one cluster holds at least 0.9 of the examples
    few      the two largest hold at least 0.6 of them, the second at least 0.1
    blurred  no more than chance: p_value above LEVEL; where it is not known, a best silhouette below 0.3 (where not
             even that is, the silhouette at the cut)
    several  the rest
    """
    first, second = (np.rint(np.nan_to_num(share) * n_examples) for share in (largest_share, second_share))
    clear = np.where(np.isnan(best_silhouette), silhouette, best_silhouette)
    fits: dict[int, npt.NDArray[np.bool_]] = {
        1: n_examples < LEAST_EXAMPLES_JUDGED,
        0: np.isnan(largest_share),
        2: first >= LEAST_SHARE_OF_ONE * n_examples,
        3: (first + second >= LEAST_SHARE_OF_TWO * n_examples) & (second >= LEAST_SHARE_OF_SECOND * n_examples),
        4: np.where(np.isnan(p_value), clear < LEAST_CLEAR, p_value > LEVEL),
    }
    return np.select(list(fits.values()), list(fits), 5).astype(np.int32)


def kind_of(number: int) -> NeuronKind | None:
    """The kind of that number; None where the neuron was not clustered, and from an older server."""
    return NEURON_KINDS[number - 1] if 0 < number <= len(NEURON_KINDS) else None


def steps_of(n_examples: npt.NDArray[Any], best_silhouette: DoubleArray) -> npt.NDArray[np.int64]:
    """Return each neuron's column of `NeuronSummary.clarity`, (B,); −1 of neurons that are in none."""
    steps = np.clip(np.searchsorted(_EDGES, best_silhouette, side="right") - 1, 0, N_STEPS - 1)
    return np.where((n_examples < LEAST_EXAMPLES_JUDGED) | np.isnan(best_silhouette), -1, steps)


def summary_of(
    layers: IntArray,
    neurons: IntArray,
    n_examples: npt.NDArray[Any],
    best_silhouette: DoubleArray,
    p_value: DoubleArray,
    kinds: IntArray,
) -> NeuronSummary:
    """Count neurons (B, 2) whose other columns are (B,); layers (L,) ascending hold all of theirs. Cost: one pass."""
    steps = steps_of(n_examples, best_silhouette)
    known = np.flatnonzero(steps >= 0)
    cells = np.searchsorted(layers, neurons[known, 0]) * N_STEPS + steps[known]
    clarity = np.bincount(cells, minlength=len(layers) * N_STEPS).reshape(len(layers), N_STEPS)
    of_kinds = np.bincount(kinds, minlength=len(NEURON_KINDS) + 1)[1:].tolist()
    return NeuronSummary(
        layers=np.asarray(layers, np.int32),
        clarity=clarity.astype(np.int32),
        kinds=dict(zip(NEURON_KINDS, of_kinds, strict=True)),
        n_neurons=len(neurons),
        n_tested=int((~np.isnan(p_value)).sum()),
    )


def check_kinds(kinds: tuple[NeuronKind, ...], cell: tuple[int, int] | None) -> None:
    """Raise InvalidArgument for an unknown kind, or a cell that is no layer and step of `NeuronSummary.clarity`."""
    for kind in kinds:
        check_one_of(kind, NEURON_KINDS, "kind")
    if cell is None:
        return
    if not isinstance(cell, tuple | list) or len(cell) != 2:
        raise InvalidArgument(f"a cell is a layer and a step of clarity, such as (3, 12), not {cell!r}", "cell")
    check_count(cell[0], "layer of cell", 0)
    check_count(cell[1], "step of cell", 0, N_STEPS - 1)


def encode_summary(summary: NeuronSummary) -> pb.NeuronSummary:
    return pb.NeuronSummary(
        layers=encode_tensor(summary.layers),
        clarity=encode_tensor(summary.clarity),
        kinds=encode_tensor(np.array([summary.kinds[kind] for kind in NEURON_KINDS], np.int32)),
        n_neurons=summary.n_neurons,
        n_tested=summary.n_tested,
    )


def decode_summary(message: pb.NeuronSummary) -> NeuronSummary:
    """The summary; kinds that only a newer server knows are left out."""
    counts = dict(zip(NEURON_KINDS, decode_tensor(message.kinds).tolist(), strict=False))
    return NeuronSummary(
        layers=decode_tensor(message.layers),
        clarity=decode_tensor(message.clarity),
        kinds=counts,
        n_neurons=message.n_neurons,
        n_tested=message.n_tested,
    )
