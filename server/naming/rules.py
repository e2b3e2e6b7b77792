"""Rules that name clusters: key tokens, and at most two parts that hold around them.

The key tokens are those that the cluster has; the parts are chosen greedily, among those that hold more often in the
cluster than in the neuron's other clusters and in the corpus (log-odds), by how much better the rule then tells the
cluster's contexts from all others. A part must be worth its length.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from polysem.proto.arrays import Array
from polysem.server.naming.log_odds import log_odds
from polysem.server.naming.parts import RELATIONS, Part

LEAST_Z = 1.645  # of the log-odds of a part: 5 % of one tail
LENGTH = 0.05  # that a part must add to the share of contexts that the rule tells right
MAX_PARTS = 2
MAX_KEYS = 3
COMMON = 2 / 3  # share of a cluster that its key tokens must have to name it
PLAIN = 0.95  # share from which a name leaves "mostly" out
OF_KIND = 0.9  # share of a cluster that must be of a kind to name it
LEAST_HELD = 0.5  # share of a cluster that its whole rule must hold for


class Rule(NamedTuple):
    """A rule, as a name.

    keys    any of these parts must hold; none: any token will do
    parts   all of these, too
    share   of the cluster: contexts in which a key holds
    """

    keys: tuple[Part, ...]
    parts: tuple[Part, ...]
    share: float

    @property
    def text(self) -> str:
        """The rule as a person would write it."""
        return " ".join(filter(None, [self._keys, ", ".join(part.words for part in self.parts)]))

    @property
    def _keys(self) -> str:
        if not self.keys:
            return "any token"
        words = [key.words for key in self.keys]
        if self.share < COMMON:
            return f"{', '.join(words)} and others"
        if len(words) > 1:
            return f"{', '.join(words[:-1])} or {words[-1]}"
        return words[0] if self.share >= PLAIN or self.keys[0].relation == "kind" else f"mostly {words[0]}"


class Corpus(NamedTuple):
    """Seeded places of the corpus: their number, and where among them each part holds, (…,) int64."""

    n: int
    where: Mapping[Part, Array]


class Table(NamedTuple):
    """Which of F parts hold at E places.

    parts      by relation, shorter ones first, then by text: of parts that say as much, the first is taken
    holds      (E, F) bool
    in_corpus  (F,) int64: places of the corpus that hold each
    n_corpus   their number
    """

    parts: Sequence[Part]
    holds: Array
    in_corpus: Array
    n_corpus: int


def table(members: Sequence[frozenset[Part]], others: Sequence[frozenset[Part]], corpus: Corpus, seen: bool) -> Table:
    """Return the table of the parts that hold at two members' places or more, and of every key.

    members  the places of a neuron's examples; others follow them as rows
    seen     whether the corpus's places follow as rows, too
    """
    counts: dict[Part, int] = {}
    for row in members:
        for part in row:
            counts[part] = counts.get(part, 0) + 1
    kept = (part for part, n in counts.items() if n > 1 or part.relation == "key")
    parts = sorted(kept, key=lambda part: (RELATIONS.index(part.relation), len(part.text), part.text))
    number = {part: f for f, part in enumerate(parts)}
    n_rows = len(members) + len(others)
    holds = np.zeros((n_rows + seen * corpus.n, len(parts)), bool)
    for e, row in enumerate((*members, *others)):
        holds[e, [number[part] for part in row if part in number]] = True
    nowhere = np.zeros(0, np.int64)
    where = [corpus.where.get(part, nowhere) for part in parts]
    if seen:
        for f, places in enumerate(where):
            holds[n_rows + places, f] = True
    return Table(parts, holds, np.array([len(places) for places in where], np.int64), corpus.n)


def choose(known: Table, members: Array, sisters: Array, others: Sequence[Array]) -> Rule:
    """Return the rule of a cluster.

    members  (E,) bool: rows of its examples, one at least
    sisters  (E,) bool: rows of the neuron's other clusters, none if there are none
    others   (E,) bool each: further contexts that the name should not hold for, none of them empty
    """
    rule, now = _keys(known, members)
    if members.sum() < 2:
        return rule
    groups = [members, *([sisters] if sisters.any() else []), *others]
    shares = np.stack([group / group.sum() for group in groups])  # (G, E)
    candidates, surest = _over_represented(known, members, sisters)
    parts: list[Part] = []
    value = _value(shares @ now)
    while len(parts) < MAX_PARTS and len(candidates):
        held = known.holds[:, candidates] & now[:, None]
        rates = shares @ held  # (G, F')
        values = np.where(rates[0] >= LEAST_HELD, np.round(_value(rates), 9), -np.inf)
        best = int(np.lexsort((-surest, -values))[0])  # of equals the surest, then the first
        if values[best] < value + LENGTH:
            break
        parts.append(known.parts[candidates[best]])
        now, value = held[:, best], values[best]
    if not rule.keys and not parts:
        return _commonest(known, members)
    return rule._replace(parts=tuple(parts))


def _value(rates: Array) -> Array:
    """(…,) share of the first group that a rule holds for, less its mean share of the others. rates (G, …)."""
    value: Array = rates[0] - (rates[1:].mean(axis=0) if len(rates) > 1 else 0.0)
    return value


def _keys(known: Table, members: Array) -> tuple[Rule, Array]:
    """Return a rule of key tokens alone and where it holds (E,): the commonest, a kind, up to three, or any token."""
    held = known.holds[members]
    n = len(held)
    for most in (1, MAX_KEYS):
        rule = _commonest(known, members, most)
        if rule.share >= COMMON:
            return rule, matches(known, rule)[0]
        if most == 1:
            of_most = held.mean(axis=0) >= OF_KIND
            kinds = [f for f, part in enumerate(known.parts) if part.relation == "kind" and of_most[f]]
            if kinds:
                rarest = min(kinds, key=lambda f: known.in_corpus[f])
                return Rule((known.parts[rarest],), (), held[:, rarest].sum() / n), known.holds[:, rarest]
    return Rule((), (), 1.0), np.ones(len(known.holds), bool)


def _commonest(known: Table, members: Array, most: int = MAX_KEYS) -> Rule:
    """Return a rule of the commonest key tokens, of at least two contexts each where there are several."""
    counts = known.holds[members].sum(axis=0)
    keys = [f for f, part in enumerate(known.parts) if part.relation == "key" and counts[f]]
    keys.sort(key=lambda f: -counts[f])  # stable
    chosen = [f for i, f in enumerate(keys[:most]) if i == 0 or counts[f] > 1]
    return Rule(tuple(known.parts[f] for f in chosen), (), float(counts[chosen].sum() / members.sum()))


def _over_represented(known: Table, members: Array, sisters: Array) -> tuple[Array, Array]:
    """(F',) int64 columns of the parts around key tokens that are commoner here than in the corpus and in sisters, and
    how surely they are than in the corpus, z to nine digits."""
    around = np.array([part.relation not in ("key", "kind") for part in known.parts], bool)
    p = (known.in_corpus + 0.5) / (known.n_corpus + 1)
    here, n = known.holds[members].sum(axis=0), int(members.sum())
    z = np.round(log_odds(here, n, known.in_corpus, known.n_corpus, p), 9)
    found = around & (here > 1) & (z >= LEAST_Z)
    if sisters.any():
        there = known.holds[sisters].sum(axis=0)
        found &= log_odds(here, n, there, int(sisters.sum()), p) >= LEAST_Z
    return np.flatnonzero(found), z[found]


def matches(known: Table, rule: Rule) -> tuple[Array, Array]:
    """(E,) bool: where all of the rule holds; (E,) int64: how many of its clauses do, the key tokens being one."""
    column = {part: f for f, part in enumerate(known.parts)}
    clauses = [known.holds[:, [column[part]]].any(axis=1) for part in rule.parts]
    if rule.keys:
        clauses.append(known.holds[:, [column[key] for key in rule.keys]].any(axis=1))
    every: Array = np.stack(clauses)
    return np.all(every, axis=0), np.sum(every, axis=0)
