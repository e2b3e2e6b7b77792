"""The thin client: neuron ids in, feature clusters, dendrograms and metrics out. No torch here."""

from polysem.client.aio import AsyncClient
from polysem.client.client import Client
from polysem.client.results import (
    Cluster,
    Embeddings,
    Example,
    ExplainedToken,
    Firing,
    ListedNeuron,
    Metrics,
    Neuron,
    SimilarCluster,
    Statistics,
)
from polysem.client.streams import Clusters, Listing
from polysem.proto.neurons import NeuronId

__all__ = [
    "AsyncClient",
    "Client",
    "Cluster",
    "Clusters",
    "Embeddings",
    "Example",
    "ExplainedToken",
    "Firing",
    "Importance",
    "ListedNeuron",
    "Listing",
    "Metrics",
    "Neuron",
    "NeuronId",
    "SimilarCluster",
    "Statistics",
]
