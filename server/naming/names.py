"""The names of one neuron's clusters, and their scores.

Where there are negatives, a cluster of LEAST_SCORED examples or more is named by half of them, in view of half of the
negatives and of the neuron's other clusters; the other halves score the name.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from polysem.proto.arrays import Array, DoubleArray, IntArray
from polysem.proto.questions.labels import LEAST_SCORED, SCORES
from polysem.server.index.draws import draws
from polysem.server.naming.parts import parts_of
from polysem.server.naming.places import Place
from polysem.server.naming.rules import LEAST_HELD, Corpus, Rule, Table, choose, matches, table
from polysem.server.naming.scores import Score, score

N_NULLS = 5  # random partitions of a neuron's examples


class Negatives(NamedTuple):
    """Places that names must not fit: kinds (m,) int, held_out (m,) bool: whether they score names."""

    places: Sequence[Place]
    kinds: Array
    held_out: Array


class Names(NamedTuple):
    """The rule that names each cluster, by label; scores (C, 5) float64, as SCORES, NaN where there are none."""

    rules: list[Rule]
    scores: DoubleArray


class Groups(NamedTuple):
    """The rows of a table: clusters (E,), −1 of what is no example; held_out (E,) bool; kinds (E,), −1 of examples."""

    clusters: Array
    held_out: Array
    kinds: Array

    def others(self, held_out: bool) -> list[Array]:
        """Rows of each kind of negatives of a half."""
        found = ((self.kinds == kind) & (self.held_out == held_out) for kind in np.unique(self.kinds[self.kinds >= 0]))
        return [rows for rows in found if rows.any()]


def names_of(
    examples: Sequence[Place],
    labels: IntArray,
    corpus: Corpus,
    negatives: Negatives | None = None,
    with_scores: bool = True,
) -> Names:
    """Return the names of a neuron's clusters. Cost: some 50 ms for 100 examples, 180 with scores.

    examples   of one neuron
    labels     (n,) the cluster of each
    negatives  None: no name has a score, and places of the corpus stand in for them
    with_scores  False: the same names, without scores
    """
    rows, others = ([parts_of(place) for place in of] for of in (examples, negatives.places if negatives else ()))
    known = table(rows, others, corpus, seen=negatives is None)
    groups = _groups(examples, labels, negatives, len(known.holds))
    sizes = np.bincount(labels, minlength=0)
    scored = (sizes >= LEAST_SCORED) & (negatives is not None)
    rules = _named(known, groups, scored)
    scores = np.full((len(sizes), len(SCORES)), np.nan)
    if with_scores and scored.any():
        _score(known, groups, scored, rules, scores)
    return Names(rules, scores)


def halves(examples: Sequence[Place], labels: IntArray) -> Array:
    """(n,) bool: the examples that names are scored by: every other one of each cluster, in an order that their texts
    decide; of texts that are the same, all or none."""
    texts = ["\0".join(place[:3]) for place in examples]
    drawn = np.array([int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) for text in texts], "u8")
    held_out = np.zeros(len(examples), bool)
    for label in range(int(labels.max(initial=-1)) + 1):
        mine = np.flatnonzero(labels == label)
        _, rank = np.unique(drawn[mine], return_inverse=True)
        held_out[mine] = rank % 2 == 1
    return held_out


def _groups(examples: Sequence[Place], labels: IntArray, negatives: Negatives | None, n_rows: int) -> Groups:
    n = len(examples)
    groups = Groups(np.full(n_rows, -1), np.zeros(n_rows, bool), np.zeros(n_rows, np.int64))
    groups.clusters[:n], groups.kinds[:n] = labels, -1
    if negatives is not None:
        groups.held_out[:n], groups.held_out[n:] = halves(examples, labels), negatives.held_out
        groups.kinds[n:] = negatives.kinds
    return groups


def _named(known: Table, groups: Groups, scored: Array) -> list[Rule]:
    """The rule of each cluster, chosen without the rows that score it."""
    clusters = groups.clusters.copy()
    clusters[groups.held_out & (clusters >= 0) & np.append(scored, False)[clusters]] = -1
    rules = [_rule(known, groups, label, clusters == label) for label in range(len(scored))]
    return told_apart(known, clusters, rules)


def _rule(known: Table, groups: Groups, label: int, members: Array) -> Rule:
    sisters = (groups.clusters >= 0) & (groups.clusters != label) & ~groups.held_out
    return choose(known, members, sisters, groups.others(False))


def told_apart(known: Table, clusters: Array, rules: list[Rule]) -> list[Rule]:
    """Add to names that several clusters share what tells each from the others, where something does.

    clusters  (E,) of the rows; -1 of those of no cluster
    """
    texts = [rule.text for rule in rules]
    found = list(rules)
    for label, rule in enumerate(rules):
        same = [other for other in range(len(rules)) if texts[other] == texts[label] and other != label]
        members = clusters == label
        if same and members.sum() > 1:
            apart = choose(known, members, np.isin(clusters, same), [])
            new = [part for part in apart.parts if part not in rule.parts][:1]
            longer = rule._replace(parts=(*rule.parts, *new))
            if matches(known, longer)[0][members].mean() >= LEAST_HELD:
                found[label] = longer
    return found


def _score(known: Table, groups: Groups, scored: Array, rules: list[Rule], scores: DoubleArray) -> None:
    """Fill in the scores (C, 5) of the clusters that are scored, which are chance's if all of the neuron is one."""
    of_neuron = choose(
        known, (groups.clusters >= 0) & ~groups.held_out, np.zeros(len(known.holds), bool), groups.others(False)
    )
    nulls = np.mean([_nulls(known, groups, scored, seed) for seed in range(N_NULLS)], axis=0)
    for label in np.flatnonzero(scored).tolist():
        auc, precision, recall = _scored(known, groups, label, rules[label])
        neuron = _scored(known, groups, label, of_neuron)[0]
        scores[label] = auc, nulls[label], neuron, precision, recall


def _nulls(known: Table, groups: Groups, scored: Array, seed: int) -> DoubleArray:
    """(C,) AUC of the names of groups as large as the clusters, drawn from their examples, and named alike."""
    n = int((groups.clusters >= 0).sum())
    order = np.argsort(draws(np.arange(n), seed))
    drawn = Groups(*(np.concatenate([of[:n][order], of[n:]]) for of in groups))
    rules = _named(known, drawn, scored)
    return np.array([_scored(known, drawn, c, rule)[0] if scored[c] else np.nan for c, rule in enumerate(rules)])


def _scored(known: Table, groups: Groups, label: int, rule: Rule) -> Score:
    """The score of a rule as the name of a cluster, on rows that are held out."""
    examples = (groups.clusters >= 0) & groups.held_out
    members, sisters = examples & (groups.clusters == label), examples & (groups.clusters != label)
    contrasts = [*([sisters] if sisters.any() else []), *groups.others(True)]
    return score(known, rule, members, contrasts) if members.any() and contrasts else Score(np.nan, np.nan, np.nan)
