"""The names of one neuron's clusters."""

from collections.abc import Sequence

import numpy as np

from polysem.proto.arrays import Array, IntArray
from polysem.server.naming.parts import parts_of
from polysem.server.naming.places import Place
from polysem.server.naming.rules import LEAST_HELD, Corpus, Rule, Table, choose, matches, table


def names_of(examples: Sequence[Place], labels: IntArray, corpus: Corpus) -> list[Rule]:
    """Return the rule that names each cluster, by label.

    examples  of one neuron
    labels    (n,) the cluster of each
    """
    known = table([parts_of(place) for place in examples], [], corpus, seen=True)
    of_rows = np.full(len(known.holds), -1)
    of_rows[: len(labels)] = labels
    elsewhere = of_rows < 0
    rules = [
        choose(known, of_rows == label, (of_rows >= 0) & (of_rows != label), [elsewhere])
        for label in range(int(labels.max(initial=-1)) + 1)
    ]
    return told_apart(known, of_rows, rules)


def told_apart(known: Table, labels: Array, rules: list[Rule]) -> list[Rule]:
    """Add to names that several clusters share what tells each from the others, where something does.

    labels  (E,) of the rows; -1 of those of no cluster
    """
    texts = [rule.text for rule in rules]
    for label, rule in enumerate(rules):
        same = [other for other in range(len(rules)) if texts[other] == texts[label] and other != label]
        if same and (labels == label).sum() > 1:
            added = choose(known, labels == label, np.isin(labels, same), [])
            new = [part for part in added.parts if part not in rule.parts]
            longer = rule._replace(parts=(*rule.parts, *new[:1]))
            if new and matches(known, longer)[0][labels == label].mean() >= LEAST_HELD:
                rules[label] = longer
    return rules
