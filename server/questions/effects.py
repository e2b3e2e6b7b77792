"""Effects of ablations: means over a sample's tokens, tokens that move, and whether clusters move different ones."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import numpy as np

from polysem.proto.arrays import Array, DoubleArray
from polysem.proto.questions.ablation import ABLATED, AblationBatch
from polysem.server.index.draws import draws
from polysem.server.questions.ablation import AblatedReadings, AblationWork

N_LISTED = 5  # tokens that become likelier, and less likely
N_NULL = 99  # random partitions
COLUMNS = 1 << 13  # tokens of the vocabulary that are multiplied at once
_ROUNDING = 1e-12


async def whole(answers: AsyncIterator[Any], work: AblationWork) -> AsyncIterator[Any]:
    """The batcher's answers to all items of the work as one, about its neuron."""
    batches: list[AblatedReadings] = []
    async for answer in answers:
        batches.append(answer.batch)
    yield answer._replace(batch=await asyncio.to_thread(effects_of, work, batches))


class _Tokens(NamedTuple):
    """All T predicted tokens: clusters (T,), places among the samples; the others as of AblatedReadings."""

    clusters: Array
    activations: Array
    divergences: Array
    loss_changes: Array
    moved_ids: Array
    moves: Array
    likely_ids: Array
    probabilities: Array


class _Moved(NamedTuple):
    """Tokens that an ablation makes likelier, the most first, then those that it makes less likely."""

    ids: Array
    changes: Array
    probabilities: Array


def effects_of(work: AblationWork, batches: list[AblatedReadings]) -> AblationBatch:
    """Return what the readings of all of the work's items say."""
    of_runs = np.concatenate([batch.clusters for batch in batches])
    n_tokens = np.concatenate([batch.n_tokens for batch in batches])
    n_set = np.concatenate([batch.n_set for batch in batches])
    tokens = _Tokens(
        np.repeat(of_runs, n_tokens),
        *(np.concatenate([getattr(batch, name) for batch in batches]) for name in _Tokens._fields[1:]),
    )
    rows: list[dict[str, Any]] = []
    moved: list[_Moved] = []
    for place, sample in enumerate(work.samples):
        mine = tokens.clusters == place
        for r, (ablated, unit) in enumerate(work.ablations):
            rows.append(
                {
                    "labels": sample.label,
                    "ablated": 1 + ABLATED.index(ablated),
                    "others": sample.other if ablated == "other" else -1,
                    "targets": (work.neuron.layer, work.units[unit]),
                    "n_tokens": mine.sum(),
                    "n_next": (~np.isnan(tokens.loss_changes[mine, r])).sum(),
                    "n_set": n_set[of_runs == place, r].sum(),
                }
                | _means(tokens, mine, r)
            )
            moved.append(_moved(tokens, mine, r))
    differences = _differences(work, tokens)
    ids = np.concatenate([one.ids for one in moved])
    return AblationBatch(
        neurons=np.array([work.neuron], np.int32),
        n_effects=np.array([len(rows)], np.int32),
        n_differences=np.array([len(differences)], np.int32),
        n_moved=np.array([len(one.ids) for one in moved], np.int32),
        token_ids=ids.astype(np.int32),
        tokens=work.nearest.model.tokenizer.alone(ids.tolist()),
        changes=np.concatenate([one.changes for one in moved]),
        probabilities=np.concatenate([one.probabilities for one in moved]),
        difference_neurons=np.array([(work.neuron.layer, unit) for unit in work.units[: len(differences)]], np.int32)
        .reshape(-1, 2),
        **{name: np.array([row[name] for row in rows], _dtype(name)) for name in rows[0]},
        **dict(zip(("distances", "null_means", "p_values"), differences.T.copy(), strict=True)),
    )  # fmt: skip


def _dtype(name: str) -> type:
    whole = ("labels", "ablated", "others", "targets", "n_tokens", "n_next", "n_set")
    return np.int32 if name in whole else np.float64


def _means(tokens: _Tokens, mine: Array, r: int) -> dict[str, float]:
    """Means over a sample's tokens, mine (T,) bool, and their standard errors; NaN where there are too few."""
    divergence, loss_change = tokens.divergences[mine, r], tokens.loss_changes[mine, r]
    known = loss_change[~np.isnan(loss_change)]
    return {
        "activations": _mean(tokens.activations[mine, r]),
        "divergences": _mean(divergence),
        "divergence_errors": _error(divergence),
        "loss_changes": _mean(known),
        "loss_change_errors": _error(known),
    }


def _mean(values: Array) -> float:
    return float(values.mean()) if len(values) else np.nan


def _error(values: Array) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else np.nan


def _moved(tokens: _Tokens, mine: Array, r: int) -> _Moved:
    """The tokens whose mean probability an ablation moves most."""
    n = max(int(mine.sum()), 1)
    ids, changes = _summed(tokens.moved_ids[mine, r], tokens.moves[mine, r])
    up, down = np.argsort(-changes, kind="stable")[:N_LISTED], np.argsort(changes, kind="stable")[:N_LISTED]
    listed = np.concatenate([up[changes[up] > 0], down[changes[down] < 0]])
    likely, sums = _summed(tokens.likely_ids[mine], tokens.probabilities[mine])
    known = np.isin(ids[listed], likely)
    before = np.zeros(len(listed))
    before[known] = sums[np.searchsorted(likely, ids[listed][known])]
    return _Moved(ids[listed], changes[listed] / n, before / n)


def _summed(ids: Array, values: Array) -> tuple[Array, DoubleArray]:
    """Return each id, ascending, and the sum of its values in float64."""
    found, place = np.unique(ids, return_inverse=True)
    return found, np.bincount(place.ravel(), values.ravel().astype(np.float64), len(found)).astype(np.float64)


# ---- Do clusters move different tokens?


def _differences(work: AblationWork, tokens: _Tokens) -> DoubleArray:
    """(1 + C, 3) distance, mean of random partitions and p-value, of the neuron and of each control.

    (0, 3) with fewer than two clusters of two tokens or more.
    """
    sizes = np.bincount(tokens.clusters, minlength=len(work.samples))
    kept = sizes[tokens.clusters] > 1
    if (sizes > 1).sum() < 2:
        return np.zeros((0, 3))
    _, clusters = np.unique(tokens.clusters[kept], return_inverse=True)
    rows = [r for r, (ablated, _) in enumerate(work.ablations) if ablated in ("cluster", "control")]
    grams = (gram(tokens.moved_ids[kept, r], tokens.moves[kept, r]) for r in rows)
    return np.array([difference(products, clusters, work.seed) for products in grams])


def gram(ids: Array, values: Array) -> DoubleArray:
    """(n, n) products of n changes of probabilities, each given by K tokens of the vocabulary (n, K); 0 elsewhere."""
    products = np.zeros((len(ids), len(ids)))
    row = np.repeat(np.arange(len(ids)), ids.shape[1]).reshape(ids.shape)
    for first in range(0, int(ids.max(initial=-1)) + 1, COLUMNS):
        mine = (ids >= first) & (ids < first + COLUMNS)
        block = np.zeros((len(ids), COLUMNS))
        block[row[mine], ids[mine] - first] = values[mine]
        products += block @ block.T
    return products


def difference(products: DoubleArray, clusters: Array, seed: int) -> tuple[float, float, float]:
    """Return the distance of clusters (n,) of changes with these products (n, n), the mean distance of N_NULL random
    partitions into groups of their sizes, and the share of partitions, this one among them, that are as far apart."""
    n = len(clusters)
    found = distance(products, clusters)
    numbers = np.arange(N_NULL)[:, None] * n + np.arange(n)
    nulls = np.array([distance(products, clusters[order]) for order in np.argsort(draws(numbers, seed), axis=1)])
    return found, float(nulls.mean()), float((1 + (nulls >= found - _ROUNDING).sum()) / (1 + N_NULL))


def distance(products: DoubleArray, clusters: Array) -> float:
    """Return the mean cosine distance between two clusters' mean changes, over all pairs; of one without changes 1."""
    weights = np.eye(int(clusters.max()) + 1)[clusters].T  # (C, n)
    means = weights / weights.sum(axis=1, keepdims=True)
    inner = means @ products @ means.T
    lengths = np.sqrt(np.diag(inner).clip(min=0))
    scale = np.outer(lengths, lengths)
    cosines = np.divide(inner, scale, out=np.zeros_like(inner), where=scale > 0)
    return float(1 - cosines[np.triu_indices(len(inner), 1)].mean())
