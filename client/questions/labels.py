"""Names of feature clusters: `Client.labels`."""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple, Unpack

import numpy as np

from polysem.client import letters, tables
from polysem.client.calls import Call
from polysem.client.questions.options import ClusteringOptions, read_options
from polysem.client.streams import Stream
from polysem.client.tables import Columns
from polysem.client.views import neuron_id, or_nones
from polysem.proto import checks
from polysem.proto.facts import Answer
from polysem.proto.neurons import NeuronId, NeuronLike, parse_neurons
from polysem.proto.questions.labels import (
    SCORES,
    LabelBatch,
    LabelMethod,
    LabelQuery,
    encode_label_query,
    label_method_of,
)
from polysem.proto.sides import Side
from polysem.proto.wire import columns


class Label(NamedTuple):
    """The name of a feature cluster.

    neuron        whose cluster it is
    cluster       its number in the neuron's labels, at the same cut
    text          what its examples have in common, with texts of the corpus in backticks: `def` after `@`
    method        how the name was found: "rule"; "person" or "model": given, and kept by the server (`Client.names`);
                  None: a way that this client does not know
    score         0..1: how often an example of the cluster fits the name better than a negative does (area under the
                  ROC curve; ½ is chance). Of held-out examples, by which the name was not chosen, against negatives of
                  each kind and the neuron's other clusters, each kind weighing the same. None for a cluster of fewer
                  than 8 examples, and where the index holds no negatives; so are the next four
    null_score    the same of names of random groups of the neuron's examples, as large as the cluster
    neuron_score  the same of the name of all the neuron's examples together
    precision     0..1: of as many negatives as examples, the share of what fits the name that is of the cluster
    recall        0..1: the share of the cluster that fits the name
    size          its examples
    letter        its name for people: A for the neuron's largest; "·" for a single example
    """

    neuron: NeuronId
    cluster: int
    text: str
    method: LabelMethod | None
    score: float | None
    null_score: float | None
    neuron_score: float | None
    precision: float | None
    recall: float | None
    size: int
    letter: str


def labels_of(answer: Answer) -> list[Label]:
    """The names of all clusters of an answer, neuron by neuron, each one's largest cluster first."""
    batch: LabelBatch = answer.batch
    scores = {name.removesuffix("s"): or_nones(getattr(batch, name)) for name in SCORES}
    ends = columns.from_counts(batch.n_clusters).tolist()
    named: list[Label] = []
    for row, begin, end in zip(batch.neurons, ends[:-1], ends[1:], strict=True):
        sizes = batch.sizes[begin:end]
        names = letters.letters(sizes)
        named += [
            Label(
                neuron_id(row),
                int(batch.labels[begin + c]),
                batch.texts[begin + c],
                label_method_of(int(batch.methods[begin + c])),
                **{name: column[begin + c] for name, column in scores.items()},
                size=int(sizes[c]),
                letter=names[c],
            )
            for c in np.argsort(letters.ranks(sizes)).tolist()
        ]
    return named


def _by_cluster(batches: Sequence[LabelBatch]) -> Columns:
    of = tables.columns_of(batches, {"labels": np.int32, "sizes": np.int32} | dict.fromkeys(SCORES, np.float64))
    return {
        **tables.neurons([np.repeat(batch.neurons, batch.n_clusters, axis=0) for batch in batches]),
        "cluster": of["labels"],
        "text": tables.texts(batches, "texts"),
        "method": [label_method_of(n) or "" for batch in batches for n in batch.methods.tolist()],
        **{name.removesuffix("s"): of[name] for name in SCORES},
        "size": of["sizes"],
    }


class Labels(Stream[Label]):
    """Names of clusters, neuron by neuron, each one's largest cluster first."""

    _noun = "labels"
    _tables: ClassVar = {"cluster": _by_cluster}


def call(
    neurons: Sequence[NeuronLike], index: str | None, side: Side, **options: Unpack[ClusteringOptions]
) -> Call[Labels]:
    choice, clustering = read_options(**options)
    query = LabelQuery(parse_neurons(*neurons), checks.index_name(index), choice, clustering, side)
    return Call("LabelClusters", encode_label_query(query), LabelBatch, labels_of, Labels)
