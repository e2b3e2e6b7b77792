"""Scores of names: how well each tells its cluster from contexts that it was not chosen by.

A name is a classifier of contexts. Its grade of one is how many of its clauses hold there, the key tokens being one; it
fits where all do. AUC is the chance that a member has a higher grade than one of the contrasts, equals counting half.
Contrasts are of several kinds, each weighing the same however many it has.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from polysem.proto.arrays import Array
from polysem.server.naming.rules import MAX_PARTS, Rule, Table, matches


class Score(NamedTuple):
    """The area under the ROC curve, and precision and recall with as many contrasts as members; NaN where undefined."""

    auc: float
    precision: float
    recall: float


def score(known: Table, rule: Rule, members: Array, contrasts: Sequence[Array]) -> Score:
    """Return the score of a rule on members and contrasts, (E,) bool rows of the table each; none of them is empty."""
    fits, grades = matches(known, rule)
    shares = [np.bincount(grades[rows], minlength=MAX_PARTS + 3) / rows.sum() for rows in (members, *contrasts)]
    below = np.cumsum(shares[1:], axis=1) - np.array(shares[1:]) / 2  # of each grade: lower ones and half of its own
    recall = float(fits[members].mean())
    wrong = float(np.mean([fits[rows].mean() for rows in contrasts]))
    precision = recall / (recall + wrong) if recall + wrong else np.nan
    return Score(float((below @ shares[0]).mean()), precision, recall)
