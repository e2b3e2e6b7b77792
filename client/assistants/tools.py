"""Tools for an assistant: questions about neurons that only read, with bounded answers. It reads their docstrings."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from polysem.client import letters
from polysem.client.client import Client
from polysem.client.questions.clustering import Neuron
from polysem.client.questions.examples import Example
from polysem.client.questions.labels import Label
from polysem.proto import checks
from polysem.proto.neurons import parse_neuron

MAX_LISTED = 100  # neurons, clusters or examples in one answer
MAX_NEURONS = 8  # that `explain` follows through a text
MAX_EXPLAINED = 200  # tokens
MAX_CHARACTERS = 400  # of one text
DIGITS = 4

Answer = dict[str, Any]


class Tools:
    """Tools that ask one server. Each answer says in `left_off` how much it leaves off.

    Raises the errors of the client.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    @property
    def all(self) -> Sequence[Any]:
        """The tools, in the order in which an assistant needs them."""
        return (self.indexes, self.neurons, self.search, self.cluster, self.labels, self.examples, self.explain)

    def indexes(self) -> Answer:
        """Return the model that the server holds, and its indexes: what the model did on which corpus.

        An index is named in the argument `index` of the other tools; without one they ask the first.
        """
        model = self._client.info().model
        facts = ("name", "corpus_id", "n_documents", "n_contexts", "context_length", "n_neurons_with_examples", "sides")
        found = [{name: getattr(one, name) for name in facts} for one in self._client.indexes()]
        shown = ("id", "n_layers", "n_neurons_per_layer", "context_length")
        return {"model": {name: getattr(model, name) for name in shown}} | _bounded("indexes", found, MAX_LISTED)

    def neurons(
        self,
        neurons: str = "*",
        sort_by: str = "-excess_silhouette",
        kind: str | None = None,
        limit: int = 20,
        index: str | None = None,
    ) -> Answer:
        """List MLP neurons with their metrics, to find those worth a look.

        neurons: "*", a layer such as "7.*", or a range such as "7.0-99".
        sort_by: a metric, with "-" before it the largest first: excess_silhouette (how far apart the clusters are
        beyond chance), best_silhouette, n_clusters, n_examples, largest_share, maximum_activation, p_value.
        kind: one, few, several, blurred or too_few clusters. limit: 1 to 100.
        The first question about an index may take minutes on the server.
        """
        found = self._client.neurons(
            neurons, sort_by=sort_by, kind=kind, limit=_limit(limit), index=index  # type: ignore[arg-type]
        )  # fmt: skip
        shown = ("n_examples", "n_clusters", "best_silhouette", "excess_silhouette", "p_value", "maximum_activation")
        rows = [
            {"neuron": str(one.id), "kind": one.kind} | {name: _short(getattr(one, name)) for name in shown}
            for one in found
        ]
        return {"neurons": rows, "left_off": found.n_matching - len(rows)}

    def search(self, query: str, found_by: str | None = None, limit: int = 20, index: str | None = None) -> Answer:
        """Search the feature clusters of all neurons by words, to find neurons that respond to something.

        query: words that must all be there, and "phrases" in quotes. found_by: key (the token at which a neuron fires
        most), name (words of a cluster's name) or text (of its texts); none: any of them.
        The first search of an index may take minutes on the server.
        """
        found = self._client.search(
            query, found_by=found_by, limit=_limit(limit), index=index  # type: ignore[arg-type]
        )  # fmt: skip
        rows = [
            {"neuron": str(one.neuron), "cluster": letters.letter_of(one.rank, one.size), "size": one.size}
            | {"name": one.name, "found_by": one.found_by}
            for one in found.clusters
        ]
        return {"clusters": rows, "left_off": max(sum(found.counts.values()) - len(rows), 0)}

    def cluster(
        self, neuron: str, distance_threshold: float = 0.5, limit: int = 20, index: str | None = None
    ) -> Answer:
        """Return one neuron's feature clusters, the largest first, each with its name and its most central text.

        neuron: such as "7.1234", layer and number. distance_threshold: 0 to 2, where the tree is cut; a lower one gives
        more clusters. A name's score says how well it tells the cluster's texts from others (0.5 is chance), null_score
        what names of random groups reach. [[ ]] marks the token at which the neuron fires most.
        """
        found = self._one(neuron, distance_threshold, index)
        clusters = [one for one in found.clusters if one.size > 1]
        shown = clusters[: _limit(limit)]
        names = self._names(neuron, distance_threshold, index)
        centrals = {
            one.example: one
            for one in (
                self._client.examples(found.id, examples=[one.central for one in shown], index=index) if shown else ()
            )
        }
        rows = [
            {"cluster": one.letter, "size": one.size}
            | _name(names[one.label])
            | {"central": _text(centrals[one.central])}
            for one in shown
        ]  # fmt: skip
        metrics = {name: _short(value) for name, value in asdict(found.metrics).items()}
        single = len(found.clusters) - len(clusters)
        return {
            "neuron": str(found.id), "metrics": metrics, "single_examples": single, "clusters": rows,
            "left_off": len(clusters) - len(rows),
        }  # fmt: skip

    def labels(self, neuron: str, distance_threshold: float = 0.5, limit: int = 20, index: str | None = None) -> Answer:
        """Return the names of one neuron's feature clusters with their scores, the largest cluster first.

        Arguments and scores are those of the tool `cluster`; precision and recall are the whole name's.
        """
        id_ = parse_neuron(neuron)
        rows = [
            {"cluster": one.letter, "size": one.size, **_name(one), "method": one.method}
            | {"precision": _short(one.precision), "recall": _short(one.recall)}
            for one in self._client.labels(id_, distance_threshold=distance_threshold, index=index)
            if one.size > 1
        ]
        return {"neuron": str(id_)} | _bounded("labels", rows, _limit(limit))

    def examples(
        self,
        neuron: str,
        cluster: str | None = None,
        distance_threshold: float = 0.5,
        limit: int = 10,
        index: str | None = None,
    ) -> Answer:
        """Return texts of the corpus at which one neuron fires strongly, the strongest first.

        cluster: letter of one of its clusters, such as "A"; none: all. [[ ]] marks the token at which it fires most.
        """
        found = self._one(neuron, distance_threshold, index)
        letter_of = {label: letter for (_, label), letter in letters.of_clusters([found]).items()}
        label = None if cluster is None else letters.label_of(found, cluster)
        places = [i for i, mine in enumerate(found.labels.tolist()) if label is None or mine == label]
        texts = list(self._client.examples(found.id, examples=places, index=index)) if places else []
        texts.sort(key=lambda one: (-one.activation, one.example))
        rows = [
            {"cluster": letter_of[int(found.labels[one.example])], "activation": _short(one.activation)}
            | {"document": one.document[:MAX_CHARACTERS], "text": _text(one)}
            for one in texts
        ]
        return {"neuron": str(found.id)} | _bounded("examples", rows, _limit(limit))

    def explain(self, text: str, neurons: Sequence[str] = (), n_strongest: int = 3, index: str | None = None) -> Answer:
        """Read a text with the model and return which neurons fire at each token.

        neurons: at most 8, such as ["7.1234"]; each token then also says in which of the neuron's clusters it falls.
        None: the n_strongest (1 to 20) at each token, by their share of their maximum over the corpus.
        """
        checks.check_count(len(neurons), "the number of neurons", 0, MAX_NEURONS)
        checks.check_count(n_strongest, "n_strongest", 1, 20)
        found = self._client.explain(text, *neurons, n_strongest=n_strongest, index=index)
        ids = {firing.neuron for token in found for firing in token.firings} if neurons else ()
        of = letters.of_clusters(self._client.cluster(*map(str, ids), n_null=0, index=index)) if ids else {}
        rows = [
            {
                "token": part.text,
                "firings": [
                    {"neuron": str(one.neuron), "activation": _short(one.activation), "share": _short(one.share)}
                    | ({"cluster": None if one.cluster is None else of[one.neuron, one.cluster]} if neurons else {})
                    for one in token.firings
                    if one.fires
                ],
            }
            for token, part in zip(found, found.parts, strict=True)
        ]
        return _bounded("tokens", rows, MAX_EXPLAINED)

    def _one(self, neuron: str, distance_threshold: float, index: str | None) -> Neuron:
        id_ = parse_neuron(neuron)
        return self._client.cluster(id_, distance_threshold=distance_threshold, index=index, n_null=0)[0]

    def _names(self, neuron: str, distance_threshold: float, index: str | None) -> dict[int, Label]:
        found = self._client.labels(neuron, distance_threshold=distance_threshold, index=index)
        return {one.cluster: one for one in found}


def _limit(limit: int) -> int:
    checks.check_count(limit, "limit", 1, MAX_LISTED)
    return limit


def _bounded(name: str, rows: Sequence[Any], limit: int) -> Answer:
    return {name: list(rows[:limit]), "left_off": max(len(rows) - limit, 0)}


def _name(label: Label) -> Answer:
    return {"name": label.text, "score": _short(label.score), "null_score": _short(label.null_score)}


def _short(value: Any) -> Any:
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _text(example: Example) -> str:
    """Its text with the key token in [[ ]], cut on both sides of it where it is long."""
    before, key, after = (
        "".join(example.tokens[part])
        for part in (slice(example.key), slice(example.key, example.key + 1), slice(example.key + 1, None))
    )
    half = MAX_CHARACTERS // 2
    return f"{before[-half:]}[[{key[:half]}]]{after[:half]}"
