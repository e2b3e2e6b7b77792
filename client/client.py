"""The client.

from polysem.client import Client

with Client("gpu-box:50051") as polysem:
    for neuron in polysem.cluster("7.1234", "8.0-99"):
        print(neuron.id, neuron.labels, neuron.metrics.intra)
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Unpack

import grpc

from polysem.client import addresses, calls, connection
from polysem.client.calls import Call
from polysem.client.jobs import Jobs
from polysem.client.naming import Naming
from polysem.client.questions import (
    ablation,
    clustering,
    embedding,
    explain,
    importance,
    listing,
    logit_effects,
    similar,
    statistics,
)
from polysem.client.questions.ablation import Effects
from polysem.client.questions.clustering import Clusters
from polysem.client.questions.embedding import EmbeddedNeurons, EmbeddingOptions
from polysem.client.questions.examples import Examples
from polysem.client.questions.examples import call as example_call
from polysem.client.questions.explain import Explanation
from polysem.client.questions.importance import Importances
from polysem.client.questions.listing import Listing, Pages, listed_of
from polysem.client.questions.logit_effects import LogitEffectsOfNeurons
from polysem.client.questions.options import ClusteringOptions
from polysem.client.questions.similar import Similar
from polysem.client.questions.statistics import StatisticsOfNeurons
from polysem.client.streams import Collected
from polysem.proto.errors import FailedPrecondition
from polysem.proto.facts import Answer, IndexInfo, ServerInfo, decode_indexes, decode_server_info
from polysem.proto.neurons import NeuronLike
from polysem.proto.questions.ablation import Ablation
from polysem.proto.questions.clustering import (
    Algorithm,
    ClusterQuery,
    Embedding,
    Frame,
    LayerNorm,
    Linkage,
    ThresholdSchedule,
)
from polysem.proto.questions.listing import NeuronMetric
from polysem.proto.questions.similar import Similarity
from polysem.proto.questions.summary import NeuronKind
from polysem.proto.sides import Side
from polysem.v1 import job_service_pb2_grpc as job_pb_grpc
from polysem.v1 import neuron_service_pb2 as pb
from polysem.v1 import neuron_service_pb2_grpc as pb_grpc

NO_COPY = "a {} holds a connection, so it cannot be pickled or copied; make another one where it is needed"


class Client(Naming):
    """A connection to a Polysem server; close it, or use it in `with`.

    target     host:port, or unix:/path of a server's socket; "host:port,host:port" or a list: servers of one index,
               asked in turn, without those that are away or draining
    timeout_s  how long a whole call may take; None: as long as it needs
    token      the key that `polysem keys create` printed; None: what $POLYSEM_TOKEN holds, if anything
    tls        True: the server's certificate is of an authority that this machine trusts; a path: of that CA's file
    bulk       the work may wait: it runs in small batches, behind interactive requests

    A busy server, or one that is away for a moment, is asked up to five times in all; that is logged as a warning. The
    rest of an answer that was cut off is asked for again, which is logged, too.
    Every method raises the exceptions of polysem.proto.errors; what is wrong with the arguments is told before
    anything is sent.
    """

    def __init__(
        self,
        target: str | Sequence[str] = calls.DEFAULT_TARGET,
        *,
        timeout_s: float | None = None,
        token: str | None = None,
        tls: bool | str | Path = False,
        bulk: bool = False,
    ) -> None:
        self.target = addresses.named(target)
        self._timeout_s = connection.seconds(timeout_s)
        self._channel = connection.channel(self.target, token, tls, bulk)
        self._open_stub: Any = pb_grpc.NeuronServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._job_stub: Any = job_pb_grpc.JobServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._jobs = Jobs(self._open_job_stub, self.target, self._timeout_s)

    def info(self) -> ServerInfo:
        """The server's model, device, limits and version."""
        with self._translated():
            return decode_server_info(self._ask("GetServerInfo", pb.GetServerInfoRequest()))

    def serving(self, timeout_s: float = 5.0) -> bool:
        """Whether the server answers requests now: not while it warms up or drains. Needs no key, asks only once."""
        self._check_open()
        with self._translated():
            return connection.says_it_serves(self._channel, timeout_s)

    def indexes(self) -> list[IndexInfo]:
        """The indexes that `index=` can name; the default comes first."""
        with self._translated():
            return decode_indexes(self._ask("ListIndexes", pb.ListIndexesRequest()))

    @property
    def jobs(self) -> Jobs:
        """Work that outlasts a call: measuring the whole model, indexing a corpus."""
        self._check_open()
        return self._jobs

    def cluster(
        self,
        *neurons: NeuronLike,
        algorithm: Algorithm = "hac",
        linkage: Linkage = "average",
        embedding: Embedding = "neuron",
        layer_norm: LayerNorm = "folded",
        frame: Frame = "raw",
        distance_threshold: float = 0.5,
        thresholds: Sequence[float] | ThresholdSchedule | None = None,
        until_stable: bool = False,
        neighbours: int | None = None,
        index: str | None = None,
        side: Side = "positive",
        n_null: int | None = None,
        seed: int = 0,
        silhouette_thresholds: Sequence[float] = (),
    ) -> Clusters:
        """Feature clusters of the neurons, streamed in the order asked; a neuron named twice comes once.

        neurons             "7.1234", "L7N1234", (7, 1234), "7.0-99", "7.*", "*"
        algorithm           hac: agglomerative · scc: Sub-Cluster Component · components: of the graph distance <= t
        linkage             of hac: average, complete or single
        embedding           neuron: h ⊙ w (Foote 2024), of gated neurons h ⊙ (u·w_g + g·w_u) · pre_mlp: h · of gated
                            neurons also gate: h ⊙ w_g · up: h ⊙ w_u · controls, the neuron's formula with other
                            weights: permuted, its own in a random order · other, another neuron's of its layer
        layer_norm          folded: h = x̂, w = γ⊙W · raw: h = γ⊙x̂+β, w = W
        frame               raw: the embeddings as they are (the paper) · centred: without the layer's mean over the
                            corpus · standardised: that, and x̂ divided by the layer's deviations · own: without the
                            mean of the neuron's own examples
        distance_threshold  0..2: where the tree is cut
        thresholds          thresholds of SCC's rounds, increasing, or the name of a schedule; None: linear, 0.02 to 1.0
        until_stable        of scc: repeat each round until nothing merges
        neighbours          1..1024: of scc and single linkage, cluster the graph of each example's so many nearest, an
                            approximation; None: exactly, but scc above 20,000 examples on the graph of 25
        index               a name from `indexes()`; None: the server's default
        side                of the activations: positive, or negative where the index has both; so in every question
        n_null              0..1999: compare each neuron with so many rotations of its examples, which have no clusters
                            (`Neuron.significance`), and its merges (`significant_clusters`, `significant_cut`), and say
                            how stable its clusters are: 0.1 s a neuron of 100 examples. None: 99 of the neuron alone
                            where one is named, 0.02 s; else what the index holds, at no cost
        seed                of those rotations, and of what permuted and other draw (0 in all other questions)
        silhouette_thresholds  at most 64 further cuts of which the silhouette is wanted (`Neuron.cut_silhouettes`)
        """
        call = clustering.call(
            neurons,
            index,
            self._asker,
            side,
            n_null,
            seed,
            silhouette_thresholds,
            algorithm=algorithm,
            linkage=linkage,
            embedding=embedding,
            layer_norm=layer_norm,
            frame=frame,
            distance_threshold=distance_threshold,
            thresholds=thresholds,
            until_stable=until_stable,
            neighbours=neighbours,
        )
        return self._stream(call)

    def embed(
        self,
        *neurons: NeuronLike,
        index: str | None = None,
        side: Side = "positive",
        **options: Unpack[EmbeddingOptions],
    ) -> EmbeddedNeurons:
        """The embeddings themselves: of each neuron an (n, d_model) float32 array, a row an example.

        options  embedding, layer_norm and frame, as in `cluster`
        """
        return self._stream(embedding.call(neurons, index, side, **options))

    def examples(
        self,
        *neurons: NeuronLike,
        examples: Sequence[int] = (),
        whole_context: bool = False,
        index: str | None = None,
        side: Side = "positive",
        places: Sequence[int] = (),
    ) -> Examples:
        """The texts of the neurons' dataset examples, in the order of their labels.

        examples       which of each neuron's examples, by number; none: all. Version 0.1.0 called them places
        whole_context  all that the model read, instead of 20 tokens before and 10 after the key token
        """
        return self._stream(example_call(neurons, _either(examples, places), whole_context, index, side))

    def statistics(
        self, *neurons: NeuronLike, index: str | None = None, side: Side = "positive"
    ) -> StatisticsOfNeurons:
        """Return how strongly the neurons fire over the corpus, and the band that their dataset examples come from."""
        return self._stream(statistics.call(neurons, index, side))

    def neurons(
        self,
        *neurons: NeuronLike,
        sort_by: str | None = None,
        where: Mapping[NeuronMetric, tuple[float | None, float | None]] | None = None,
        kind: NeuronKind | Sequence[NeuronKind] | None = None,
        cell: tuple[int, int] | None = None,
        summary: bool = False,
        limit: int | None = None,
        skip: int = 0,
        index: str | None = None,
        side: Side = "positive",
        **options: Unpack[ClusteringOptions],
    ) -> Listing:
        """Neurons with their metrics, filtered and sorted, fetched page by page; none named: all of the index.

        sort_by  a metric, with "-" before it the largest first: n_examples, n_clusters, max_distance, mean_distance,
                 intra, inter, silhouette, best_silhouette, largest_share, second_share, maximum_activation,
                 mean_activation, share_positive, or of the tests that the index holds p_value, q_value,
                 null_silhouette, excess_silhouette, significant_clusters, stability or prediction_strength; None: by
                 layer and neuron. Where it is undefined, the neuron comes last
        where    least and most of any of them, None for an open end: {"n_examples": (25, None), "intra": (None, 0.3)}
        kind     too_few, one, few, blurred or several, or a list of these, as the glossary defines; None: any
        cell     layer and step of a summary's clarity: only neurons that are counted there; None: any
        summary  also count the neurons that pass all filters but `kind` and `cell`: see `Listing.summary`
        limit    how many; None: all. skip: how many to pass over first
        options  how all neurons are clustered, as in `cluster`

        `client.neurons("4.*", "7.*")` lists two layers. The first question about a clustering clusters the whole index
        on the server, which keeps the metrics for those that follow. Raises Unsupported where the server is too old to
        know kinds and summaries.
        """
        return self._listing(
            listing.pages(neurons, sort_by, where or {}, kind, cell, summary, limit, skip, index, side, **options)
        )

    def similar(
        self,
        neuron: NeuronLike,
        cluster: int | Sequence[int] | None = None,
        *,
        similarity: Similarity = "pre_mlp",
        every_layer: bool = False,
        limit: int = 20,
        index: str | None = None,
        side: Side = "positive",
        **options: Unpack[ClusteringOptions],
    ) -> Similar:
        """Feature clusters of other neurons that are the most similar to this neuron's, by their central examples.

        cluster      its label, or several; None: all of the neuron's, one after the other
        similarity   cosine of pre_mlp: the embeddings h, as on the paper's site; they fire on like tokens in like
                     contexts · neuron: h ⊙ w, each with its own neuron's weights; they also read the same of it
        every_layer  search the whole model; else the neuron's own layer, as embeddings of different layers share no
                     common meaning
        limit        how many for each cluster, most similar first
        options      how all neurons are clustered, as in `cluster`. Frames centred and standardised are those of the
                     embeddings compared, too; in frame own, where each neuron has a mean of its own, these stay raw

        The first question about a clustering clusters the whole index on the server, which keeps what it needs for
        those that follow.
        """
        return self._stream(similar.call(neuron, cluster, similarity, every_layer, limit, index, side, **options))

    def importance(
        self,
        *neurons: NeuronLike,
        examples: Sequence[int] = (),
        tokens_before: int = 20,
        mask_token: int | None = None,
        index: str | None = None,
        side: Side = "positive",
        places: Sequence[int] = (),
    ) -> Importances:
        """Measure how much of the key activations is lost when each earlier token is masked in turn (token ablation).

        examples       which of each neuron's examples, by number; none: all. Version 0.1.0 called them places
        tokens_before  how many tokens before the key token are masked; it is masked, too
        mask_token     id of the token that stands in for a masked one; None: the model's BOS

        Runs the model once for each token, so ask for the examples that you look at.
        """
        return self._stream(importance.call(neurons, _either(examples, places), tokens_before, mask_token, index, side))

    def explain(
        self,
        text: str,
        *neurons: NeuronLike,
        min_activation_fraction: float = 0.25,
        n_strongest: int = 5,
        index: str | None = None,
        side: Side = "positive",
        **options: Unpack[ClusteringOptions],
    ) -> Explanation:
        """Explain your own text, token by token; without neurons: those that fire hardest at each token.

        text                     read as one context: at least a token, at most what the model reads at once
        neurons                  at most 256. Where one fires, its token falls in the feature cluster with the smallest
                                 mean distance to its members, if that is at most distance_threshold
        min_activation_fraction  0..1: a neuron fires where its activation is at least this share of its maximum
        n_strongest              without neurons: how many at each token, by activation as a share of their maximum over
                                 the corpus; their clusters are not looked up. Left out are neurons of which that says
                                 little: whose maximum is below half of their layer's median, or with fewer than 5
                                 dataset examples (than the index keeps, if fewer)
        options                  how the neurons are clustered, as in `cluster`
        """
        return self._stream(explain.call(text, neurons, min_activation_fraction, n_strongest, index, side, **options))

    def logit_effects(
        self,
        *neurons: NeuronLike,
        n_tokens: int = 10,
        index: str | None = None,
        side: Side = "positive",
    ) -> LogitEffectsOfNeurons:
        """Return what the neurons write: the tokens whose logits they raise and lower most (direct logit effect).

        n_tokens  how many in each list, 1 to 1000

        Output weights through the norm behind the MLP, if there is one, the final norm and the unembedding; what later
        layers make of it is not in it. Norms scale it by a positive factor that depends on the context, so effects are
        in standard deviations from the mean over the vocabulary.
        """
        return self._stream(logit_effects.call(neurons, n_tokens, index, side))

    def ablate(
        self,
        neuron: NeuronLike,
        cluster: int | Sequence[int] | None = None,
        *,
        other: int | None = None,
        text: str | None = None,
        to: Ablation = "zero",
        n_tokens: int = 32,
        n_controls: int = 4,
        seed: int = 0,
        min_activation_fraction: float = 0.25,
        index: str | None = None,
        side: Side = "positive",
        **options: Unpack[ClusteringOptions],
    ) -> Effects:
        """Measure what a neuron's feature clusters cause: how the next token's distribution changes when the neuron is
        set to zero, or to its mean, only where a cluster fires.

        cluster                  its label, or several; None: the 16 largest of two examples or more
        other                    label of another cluster to compare with; None: the largest other one
        text                     read as one context: the neuron is set, and predictions compared, where the cluster
                                 fires in it. None: the cluster's own examples, each up to its key token, where
                                 predictions are compared
        to                       zero, or mean: over the tokens of 64 contexts of the corpus
        n_tokens                 1..256: tokens of each cluster's sample, which `seed` draws
        n_controls               0..16: other neurons of the layer that are set where the cluster fires, those whose
                                 activations at the sampled tokens are nearest to the neuron's own
        min_activation_fraction  0..1: where the neuron fires, as in `explain`
        options                  how the neuron is clustered, as in `cluster`

        Beside each cluster stand the whole neuron, another cluster and the controls, at the same tokens; what a control
        moves there, the contexts alone explain. `differences` says whether clusters move different tokens. Cost: the
        model reads each sampled context up to its key token, in 4 + n_controls rows.
        """
        call = ablation.call(
            neuron,
            cluster,
            other,
            text,
            to,
            n_tokens,
            n_controls,
            seed,
            min_activation_fraction,
            index,
            side,
            **options,
        )
        return self._stream(call)

    def clusters(self, query: ClusterQuery) -> Iterator[Answer]:
        """The batches that answer a query, as they come: `polysem.proto.clusterer.Clusterer`."""
        return self._answers(clustering.cluster_call(query))

    @property
    def _asker(self) -> "Client":
        """Whom the neurons that it hands out ask for more."""
        return self

    def _stream(self, call: Call[Collected]) -> Collected:
        return call.stream(self._answers(call), call.view, call.expected)

    def _listing(self, pages: Pages) -> Listing:
        return Listing(self._pages(pages), listed_of)

    def _answers(self, call: Call[Any]) -> Iterator[Answer]:
        assembler = calls.Assembler(call, self._timeout_s)
        while True:
            try:
                messages = getattr(self._stub, call.method)(call.request, timeout=assembler.timeout_s)
                noted = False
                for message in messages:
                    if not noted:
                        connection.note_attempts(self.target, messages.initial_metadata())
                        noted = True
                    if (answer := assembler.add(message)) is not None:
                        yield answer
                return
            except grpc.RpcError as error:
                if self._open_stub is None or not assembler.resumes(error):
                    raise connection.translated(error, self.target, self._check_open) from None
                connection.note_resumed(self.target)

    def _pages(self, pages: Pages) -> Iterator[Answer]:
        with self._translated():
            while (request := pages.next()) is not None:
                yield pages.add(self._ask("ListNeurons", request))

    def _ask(self, method: str, request: Any) -> Any:
        return connection.ask(getattr(self._stub, method), request, self.target, self._timeout_s)

    @property
    def _stub(self) -> Any:
        self._check_open()
        return self._open_stub

    def _open_job_stub(self) -> Any:
        self._check_open()
        return self._job_stub

    def _check_open(self) -> None:
        if self._open_stub is None:
            raise FailedPrecondition(calls.CLOSED)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise connection.translated(error, self.target, self._check_open) from None

    def close(self) -> None:
        """Close the connection. Calls made afterwards raise FailedPrecondition."""
        self._open_stub = None
        self._channel.close()

    def __reduce__(self) -> Any:
        raise TypeError(NO_COPY.format("Client"))

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, type_: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.target!r})"


def _either(examples: Any, places: Any) -> Any:
    """`examples`, or what version 0.1.0 called so."""
    return places if isinstance(examples, tuple) and not examples else examples
