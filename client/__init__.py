"""The thin client: neuron ids in, feature clusters, dendrograms and metrics out. No torch here."""

from polysem.client.aio import AsyncClient
from polysem.client.client import Client
from polysem.client.lists import ClusterList
from polysem.client.questions.ablation import Difference, Effect, Effects, MovedToken
from polysem.client.questions.cluster import Cluster
from polysem.client.questions.clustering import Clusters, Metrics, Neuron
from polysem.client.questions.embedding import Embeddings
from polysem.client.questions.examples import Example
from polysem.client.questions.explain import ExplainedToken, Firing
from polysem.client.questions.importance import Importance
from polysem.client.questions.labels import Label
from polysem.client.questions.listing import ListedNeuron, Listing
from polysem.client.questions.logit_effects import LogitEffects, OutputToken
from polysem.client.questions.maps import ClusterGroup, GroupedCluster, LayerMap
from polysem.client.questions.search import FiringCluster
from polysem.client.questions.similar import SimilarCluster
from polysem.client.questions.statistics import Statistics
from polysem.proto.neurons import NeuronId
from polysem.proto.questions.kept_names import KeptName
from polysem.proto.questions.search import FoundCluster, SearchAnswer
from polysem.proto.questions.summary import NeuronSummary

__all__ = [
    "AsyncClient",
    "Client",
    "Cluster",
    "ClusterGroup",
    "ClusterList",
    "Clusters",
    "Difference",
    "Effect",
    "Effects",
    "Embeddings",
    "Example",
    "ExplainedToken",
    "Firing",
    "FiringCluster",
    "FoundCluster",
    "GroupedCluster",
    "Importance",
    "KeptName",
    "Label",
    "LayerMap",
    "ListedNeuron",
    "Listing",
    "LogitEffects",
    "Metrics",
    "MovedToken",
    "Neuron",
    "NeuronId",
    "NeuronSummary",
    "OutputToken",
    "SearchAnswer",
    "SimilarCluster",
    "Statistics",
]
