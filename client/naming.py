"""Names of clusters, search among them, and maps of them, as both clients ask for them and give them."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Unpack

from polysem.client.calls import Call
from polysem.client.questions import kept_names, labels, maps, search
from polysem.client.questions.clustering import Clusters
from polysem.client.questions.kept_names import Names
from polysem.client.questions.labels import Labels
from polysem.client.questions.maps import Maps
from polysem.client.questions.options import ClusteringOptions
from polysem.client.questions.search import FiringCluster
from polysem.client.streams import AsyncStream
from polysem.proto.errors import InvalidArgument
from polysem.proto.neurons import NeuronLike, parse_neuron
from polysem.proto.questions.kept_names import KeptName
from polysem.proto.questions.search import LEAST, PAGE, FoundBy, SearchAnswer, decode_search_answer
from polysem.proto.sides import Side


class Naming:
    """The methods of `Client` about names of clusters, search and maps."""

    _stream: Any
    _ask: Any
    _translated: Any
    cluster: Any
    explain: Any

    def labels(
        self,
        *neurons: NeuronLike,
        index: str | None = None,
        side: Side = "positive",
        **options: Unpack[ClusteringOptions],
    ) -> Labels:
        """A name for each of the neurons' feature clusters, from rules about their texts: `def` after `@`.

        options  how the neurons are clustered, as in `cluster`

        Where a name was given to a cluster and kept (`name`), it stands in the place of the rule's. No language
        model is asked, and equal questions get equal names. Where the index holds negatives, a name has a
        score on examples that it was not chosen by, beside what chance gives. Cost: some 180 ms of a core
        for a neuron of 100 examples.
        """
        found: Labels = self._stream(labels.call(neurons, index, side, **options))
        return found

    def names(
        self, *neurons: NeuronLike, history: bool = False, index: str | None = None, side: Side = "positive"
    ) -> Names:
        """Return the names that people or language models gave to clusters of the neurons; none named: of all.

        history  also names that were replaced, earliest first; a set whose last text is empty has no name any more

        A name is bound to the set of the cluster's examples: `Neuron.with_members(name.members)` is that cluster, or
        None where the cut has none, so that the name is detached from it. Raises Unsupported for an older server.
        """
        call: Call[Names] = kept_names.call(neurons, history, index, side)
        found: Names = self._stream(call)
        return found

    def name(
        self,
        neuron: NeuronLike,
        cluster: int | str,
        text: str,
        *,
        index: str | None = None,
        side: Side = "positive",
        **options: Unpack[ClusteringOptions],
    ) -> None:
        """Name a neuron's feature cluster; `labels` then shows this name, and everybody who sees the index reads it.

        cluster  its label, or its letter
        text     at most 200 characters on one line; "": the cluster has no kept name any more
        options  how the neuron is clustered, as in `cluster`

        Raises PermissionDenied for a key that may not name.
        """
        found: Clusters = self.cluster(parse_neuron(neuron), n_null=0, index=index, side=side, **options)
        members = kept_names.cluster_of(found[0], cluster).members
        self.keep_names(KeptName(found[0].id, tuple(members.tolist()), text.strip(), side=side), index=index)

    def keep_names(self, *names: KeptName, index: str | None = None) -> int:
        """Keep names of sets of examples, as `names` returns them; how many were not kept like this before.

        A name with an empty text is forgotten. Author and time stay where this client's key is an administrator's, and
        on a server without keys; else they are the key's owner and now. Some 1,000 names are kept together, or none of
        them. InvalidArgument has the place of the wrong name in its field: names[3].text.
        """
        changed = 0
        for places, request in kept_names.requests(names, index):
            try:
                with self._translated():
                    changed += self._ask("KeepNames", request).n_changed
            except InvalidArgument as error:
                raise kept_names.renumbered(error, places) from error
        return changed

    def search(
        self,
        query: str,
        *,
        found_by: FoundBy | Sequence[FoundBy] | None = None,
        layer: int | None = None,
        least_size: int = LEAST,
        limit: int = PAGE,
        cursor: str = "",
        wait: bool = True,
        index: str | None = None,
        side: Side = "positive",
    ) -> SearchAnswer:
        """Search the clusters of the whole index, as they are by default, by words of names and texts or by key token.

        query       words, all of which must be there, and "phrases" in quotes; case and accents do not matter
        found_by    "key": the query is one of its key tokens · "name": words of its name · "text": of its examples, up
                    to 20 tokens before the key token and 10 after it; None: any of them
        least_size  examples that a cluster has at least
        limit       1..100 clusters; `cursor` of an answer asks for those behind it
        wait        for the server while it makes the search file, on the first search of an index; else the answer says
                    how far it is: n_done of n_to_do neurons
        """
        asked = search.request(query, found_by, layer, least_size, limit, cursor, index, side)
        while True:
            with self._translated():
                found = decode_search_answer(self._ask("SearchClusters", asked))
            if not (wait and found.n_to_do):
                return found
            time.sleep(search.EVERY_S)

    def map(
        self,
        *layers: int,
        groups: int | Sequence[int] | None = None,
        index: str | None = None,
        side: Side = "positive",
    ) -> Maps:
        """Group the clusters of each layer, as they are by default, whose central examples are similar.

        layers  none named: all that the index holds, one after the other
        groups  only these of each layer, by number: 0 has the most clusters, range(20) are the 20 largest

        Groups are found by the Sub-Cluster Component algorithm over the graph of each cluster's 25 nearest others, by
        the cosine of pre-MLP embeddings. The same index gives the same map. The first question about a layer makes it
        and the server keeps it beside the index; the first of all clusters the whole index.
        """
        found: Maps = self._stream(maps.call(layers, groups, index, side))
        return found

    def firing(
        self, text: str, *, index: str | None = None, side: Side = "positive", **options: Unpack[ClusteringOptions]
    ) -> list[FiringCluster]:
        """Return the clusters that fire in a text of your own, the hardest first.

        options  how neurons are clustered, as in `cluster`

        They are clusters of the 64 neurons that fire hardest, as shares of their maximum over the corpus.
        """
        how = {"index": index, "side": side, **options}
        neurons = search.hardest(self.explain(text, n_strongest=search.N_STRONGEST, **how))
        return search.firing_clusters(self.explain(text, *neurons, **how)) if neurons else []


class AwaitedNaming:
    """The methods of `AsyncClient` about names and search, to be awaited; see `Naming`."""

    _stream: Any
    _ask: Any
    _translated: Any
    cluster: Any
    explain: Any

    def names(
        self, *neurons: NeuronLike, history: bool = False, index: str | None = None, side: Side = "positive"
    ) -> AsyncStream[Names]:
        found: AsyncStream[Names] = self._stream(kept_names.call(neurons, history, index, side))
        return found

    async def name(
        self,
        neuron: NeuronLike,
        cluster: int | str,
        text: str,
        *,
        index: str | None = None,
        side: Side = "positive",
        **options: Unpack[ClusteringOptions],
    ) -> None:
        found: Sequence[Any] = await self.cluster(parse_neuron(neuron), n_null=0, index=index, side=side, **options)
        members = kept_names.cluster_of(found[0], cluster).members
        await self.keep_names(KeptName(found[0].id, tuple(members.tolist()), text.strip(), side=side), index=index)

    async def keep_names(self, *names: KeptName, index: str | None = None) -> int:
        changed = 0
        for places, request in kept_names.requests(names, index):
            try:
                with self._translated():
                    changed += (await self._ask("KeepNames", request)).n_changed
            except InvalidArgument as error:
                raise kept_names.renumbered(error, places) from error
        return changed

    async def search(
        self,
        query: str,
        *,
        found_by: FoundBy | Sequence[FoundBy] | None = None,
        layer: int | None = None,
        least_size: int = LEAST,
        limit: int = PAGE,
        cursor: str = "",
        wait: bool = True,
        index: str | None = None,
        side: Side = "positive",
    ) -> SearchAnswer:
        asked = search.request(query, found_by, layer, least_size, limit, cursor, index, side)
        while True:
            with self._translated():
                found = decode_search_answer(await self._ask("SearchClusters", asked))
            if not (wait and found.n_to_do):
                return found
            await asyncio.sleep(search.EVERY_S)

    async def firing(
        self, text: str, *, index: str | None = None, side: Side = "positive", **options: Unpack[ClusteringOptions]
    ) -> list[FiringCluster]:
        how = {"index": index, "side": side, **options}
        neurons = search.hardest(await self.explain(text, n_strongest=search.N_STRONGEST, **how))
        return search.firing_clusters(await self.explain(text, *neurons, **how)) if neurons else []
