"""Columns of the overview's table."""

from typing import NamedTuple

from polysem.proto.facts import IndexInfo
from polysem.proto.questions.listing import NeuronMetric


class Column(NamedTuple):
    """A metric, its heading, and how it is written."""

    metric: NeuronMetric
    heading: str
    form: str


OF_NEURONS = (
    Column("excess_silhouette", "beyond chance", "{:+.2f}"),
    Column("p_value", "p", "{:.2g}"),
    Column("q_value", "q", "{:.2g}"),
)
OF_CLUSTERS = (
    Column("significant_clusters", "significant", "{:.0f}"),
    Column("stability", "stability", "{:.2f}"),
    Column("prediction_strength", "strength", "{:.2f}"),
)
ALWAYS = (
    Column("n_examples", "examples", "{:.0f}"),
    Column("n_clusters", "clusters", "{:.0f}"),
    Column("largest_share", "largest", "{:.0%}"),
    Column("second_share", "second", "{:.0%}"),
    Column("intra", "intra", "{:.2f}"),
    Column("inter", "inter", "{:.2f}"),
    Column("silhouette", "silhouette", "{:.2f}"),
    Column("mean_distance", "mean distance", "{:.2f}"),
    Column("maximum_activation", "max activation", "{:.2f}"),
    Column("share_positive", "positive", "{:.1%}"),
)
FILTERS = ("n_examples", "n_clusters", "largest_share", "second_share", "intra", "inter", "silhouette")


def of_tests(index: IndexInfo) -> tuple[Column, ...]:
    """Return the columns of the tests that the index holds; they stand first."""
    if index.tests is None:
        return ()
    return (*OF_NEURONS, *OF_CLUSTERS) if index.tests.clusters else OF_NEURONS
