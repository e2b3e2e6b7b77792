"""Mixtures of a layer's neurons' dataset examples, whose true clustering is known.

two     of two neurons drawn at random
three   of three
token   of two neurons, all at one key token that both have: token identity tells nothing
random  of one neuron's examples and of other contexts, at the token of each where the neuron is most active

Each neuron gives as many examples, its strongest; a neuron is in one mixture of a kind at most. Contexts in which two
of the neurons fire are left out: those that are an example of both, and those at whose key token the other's
pre-activation is half of its median over its own examples, or more.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from polysem.proto.arrays import Array
from polysem.proto.errors import FailedPrecondition
from polysem.proto.questions.clustering import EmbeddingChoice
from polysem.server.index.format import Index
from polysem.server.model.model import Model

Kind = Literal["two", "three", "token", "random"]
KINDS: tuple[Kind, ...] = get_args(Kind)
N_EXAMPLES = 60  # of a mixture, at most
LEAST_EXAMPLES = 10  # of each of its sources
FIRES = 0.5  # of a neuron's median pre-activation over its examples
N_PASSES = 3  # over a layer's neurons, to find partners
TRIES = 50  # for each mixture: where hardly any neurons can be mixed, trying all takes minutes
N_CONTEXTS = 128  # that are read for `random`
AT_ONCE_TOKENS = 4096


class Mixture(NamedTuple):
    """Examples of a known clustering.

    layer    of its neurons
    neurons  whose units are planted: 1 to 3
    x        (n, D) float32: x̂ of the examples, on the model's device
    truth    (n,) int64: the source of each, from 0
    """

    kind: Kind
    layer: int
    neurons: tuple[int, ...]
    x: Tensor
    truth: Array


def mixtures(
    model: Model, index: Index, n_mixtures: int, seed: int, layers: Sequence[int] | None = None
) -> list[Mixture]:
    """At most n_mixtures of each kind in each of the layers (None: all that are held), the same for the same seed.

    Fewer where a layer has not the neurons for them. Raises FailedPrecondition for a layer that is not held. Cost: a
    forward of 128 contexts.
    """
    held = index.info.held_layers
    if absent := set(held if layers is None else layers) - set(held):
        raise FailedPrecondition(
            f"layer {min(absent)} is not in the index {index.info.name!r}; name layers that it holds"
        )
    of_layers = [_Layer(model, index, layer, seed) for layer in (held if layers is None else sorted(set(layers)))]
    found = [mixture for of in of_layers for kind in KINDS[:3] for mixture in of.mixed(kind, n_mixtures)]
    return found + _with_random_contexts(model, index, of_layers, n_mixtures, seed)


def pre_activations(model: Model, layer: int, neurons: Sequence[int], x: Tensor) -> Tensor:
    """(n, m) float32: z of m neurons at x̂ (n, D); of gated neurons g · u."""
    how = model.embedding_weights(layer, torch.tensor(neurons), EmbeddingChoice("neuron", "raw"))
    z = x @ how.weights.T
    if how.up is not None and how.biases is not None:
        return (z + how.biases[:, 0]) * (x @ how.up.T + how.biases[:, 1])
    if how.offsets is not None:
        z = z + how.offsets.sum(1)
    biases = model.mlps[layer].biases
    return z if biases is None else z + biases[torch.tensor(neurons).to(biases.device)].float().to(z.device)


class _Layer:
    """The examples of one layer's neurons, strongest first."""

    def __init__(self, model: Model, index: Index, layer: int, seed: int) -> None:
        self._model, self._index, self.layer, self._seed = model, index, layer, seed
        stored = index.layer(layer)
        self._stored = stored
        self.contexts = np.asarray(stored.row_contexts)
        self.counts = np.diff(stored.offsets)

    def drawing(self, kind: Kind) -> np.random.Generator:
        return np.random.default_rng([self._seed, self.layer, KINDS.index(kind)])

    def rows(self, neuron: int) -> Array:
        """Rows of x̂ of the neuron's examples, the strongest first."""
        examples = slice(*self._stored.offsets[neuron : neuron + 2])
        order = np.argsort(-self._stored.activations[examples] * self._index.sign, kind="stable")
        return np.asarray(self._stored.rows[examples])[order].astype(np.int64)

    def x(self, rows: Array) -> Tensor:
        """(n, D) float32 on the model's device."""
        self._index.check_rows(self.layer, rows)
        x = torch.from_numpy(self._stored.xhat[rows].astype(np.float32))
        if self._stored.scales is not None:
            x *= torch.from_numpy(self._stored.scales[rows])[:, None]
        return x.to(self._model.device)

    def fires(self, neuron: int, x: Tensor) -> Array:
        """(n,) bool: whether the neuron fires at x̂ (n, D)."""
        z = pre_activations(self._model, self.layer, [neuron], torch.cat([self.x(self.rows(neuron)), x]))[:, 0]
        z = z * self._index.sign
        n = int(self.counts[neuron])
        return np.asarray((z[n:] >= FIRES * z[:n].median()).cpu().numpy())

    def mixed(self, kind: Kind, n_mixtures: int) -> list[Mixture]:
        """At most so many mixtures of neurons, of kind two, three or token."""
        found: list[Mixture] = []
        taken: set[int] = set()
        for neurons, token in islice(self._drawn(kind), TRIES * n_mixtures):
            if len(found) == n_mixtures:
                break
            if taken.isdisjoint(neurons) and (mixture := self._mixture(kind, neurons, token)) is not None:
                found.append(mixture)
                taken.update(neurons)
        return found

    def _drawn(self, kind: Kind) -> Iterator[tuple[tuple[int, ...], int | None]]:
        """Neurons to mix, and the key token that they share, in a random order."""
        drawing = self.drawing(kind)
        if kind == "token":
            sharing = self._sharing()
            for _ in range(N_PASSES):
                for token in drawing.permutation(list(sharing)).tolist():
                    yield tuple(drawing.permutation(sharing[token])[:2].tolist()), token
            return
        m = 3 if kind == "three" else 2
        able = np.flatnonzero(self.counts >= LEAST_EXAMPLES)
        for _ in range(N_PASSES):
            order = drawing.permutation(able).tolist()
            yield from ((tuple(order[i : i + m]), None) for i in range(0, len(order) - m + 1, m))

    def _sharing(self) -> dict[int, list[int]]:
        """The neurons that have enough examples at a key token, where there are two or more."""
        tokens = self._tokens(np.arange(len(self.contexts)))
        found: dict[int, list[int]] = {}
        for neuron in np.flatnonzero(self.counts >= LEAST_EXAMPLES).tolist():
            ids, counts = np.unique(tokens[self.rows(neuron)], return_counts=True)
            for token in ids[counts >= LEAST_EXAMPLES].tolist():
                found.setdefault(token, []).append(neuron)
        return {token: neurons for token, neurons in sorted(found.items()) if len(neurons) > 1}

    def _tokens(self, rows: Array) -> Array:
        """(n,) int64: the key token's id of each row."""
        contexts = self._index.contexts
        starts = np.asarray(contexts.arrays["offsets"])[self.contexts[rows]]
        tokens: Array = contexts.arrays["tokens"][starts + self._stored.row_positions[rows]].astype(np.int64)
        return tokens

    def _mixture(self, kind: Kind, neurons: tuple[int, ...], token: int | None) -> Mixture | None:
        """None where too few examples are left."""
        every = [self.rows(neuron) for neuron in neurons]
        parts = []
        for i, rows in enumerate(every):
            used = rows if token is None else rows[self._tokens(rows) == token]
            x = self.x(used)
            for k, other in enumerate(neurons):
                if k != i:
                    left = ~np.isin(self.contexts[used], self.contexts[every[k]]) & ~self.fires(other, x)
                    used, x = used[left], x[torch.from_numpy(left).to(x.device)]
            parts.append(x)
        return _joined(kind, self.layer, neurons, parts)


def _joined(kind: Kind, layer: int, neurons: tuple[int, ...], parts: Sequence[Tensor]) -> Mixture | None:
    """The first examples of each part, as many of each; None where one has too few."""
    n = min(N_EXAMPLES // len(parts), *map(len, parts))
    if n < LEAST_EXAMPLES:
        return None
    return Mixture(kind, layer, neurons, torch.cat([part[:n] for part in parts]), np.repeat(np.arange(len(parts)), n))


def _with_random_contexts(
    model: Model, index: Index, layers: Sequence[_Layer], n_mixtures: int, seed: int
) -> list[Mixture]:
    drawing = np.random.default_rng([seed, KINDS.index("random")])
    contexts = drawing.permutation(len(index.contexts))[:N_CONTEXTS]
    contexts = contexts[index.contexts.lengths(contexts) > index.n_skipped]
    neurons = {
        of.layer: of.drawing("random").permutation(np.flatnonzero(of.counts >= LEAST_EXAMPLES))[:n_mixtures]
        for of in layers
    }
    read = _at_strongest_tokens(model, index, contexts, neurons)
    found = []
    for of in layers:
        for j, neuron in enumerate(neurons[of.layer].tolist()):
            rows, x = of.rows(neuron), read[of.layer][:, j].to(model.device)
            left = ~np.isin(contexts, of.contexts[rows]) & ~of.fires(neuron, x)
            parts = [of.x(rows), x[torch.from_numpy(left).to(x.device)]]
            if (mixture := _joined("random", of.layer, (neuron,), parts)) is not None:
                found.append(mixture)
    return found


def _at_strongest_tokens(model: Model, index: Index, contexts: Array, neurons: dict[int, Array]) -> dict[int, Tensor]:
    """For each layer (C, m, D) float32: x̂ at the token of each context where each of the layer's m neurons is most
    active."""
    found: dict[int, list[Tensor]] = {layer: [] for layer in neurons}
    at_once = max(AT_ONCE_TOKENS // index.info.context_length, 1)
    for first in range(0, len(contexts), at_once):
        tokens = [torch.from_numpy(index.contexts.tokens(int(c))) for c in contexts[first : first + at_once]]
        padded = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)
        places, lengths = torch.arange(padded.shape[1]), torch.tensor([len(ids) for ids in tokens])
        outside = (places < index.n_skipped) | (places >= lengths[:, None])  # (b, T)

        def visit(layer: int, residual: Tensor, a: Tensor, outside: Tensor = outside) -> None:
            if layer not in neurons:
                return
            of = a[:, :, torch.from_numpy(neurons[layer]).to(a.device)].float() * index.sign  # (b, T, m)
            at = of.masked_fill(outside.to(a.device)[..., None], -torch.inf).argmax(1).to(residual.device)  # (b, m)
            x = residual.gather(1, at[..., None].expand(-1, -1, residual.shape[2]))
            found[layer].append(model.normalise(layer, x.flatten(0, 1)).view(x.shape).cpu())

        model.read(padded, visit)
    none = torch.empty(0, 1, model.info.d_model)
    return {
        layer: torch.cat(parts) if parts else none.expand(0, max(len(neurons[layer]), 1), -1)
        for layer, parts in found.items()
    }
