"""Search of clusters: what a search file is made of, and answers out of it.

The file is of the default clustering. Each cluster of two examples or more has its name by rules, its key tokens, and
the words around its examples; of a large one MAX_TEXTS are read, evenly spread.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from polysem.proto.arrays import Array, IntArray
from polysem.proto.facts import Provenance
from polysem.proto.neurons import NeuronId
from polysem.proto.questions.clustering import ClusterBatch
from polysem.proto.questions.search import FOUND_BY, FoundCluster, SearchAnswer, SearchQuery
from polysem.proto.wire import columns
from polysem.proto.wire.columns import columnar
from polysem.server.index.draws import draws
from polysem.server.index.format import Index
from polysem.server.model.tokenizer import Tokenizer
from polysem.server.naming.kept import KeptNames, Place, digest
from polysem.server.naming.parts import key_of
from polysem.server.naming.places import Place as TextPlace
from polysem.server.naming.places import places
from polysem.server.questions.clustering import ClusterWork, work_of
from polysem.server.questions.clusters_of_trees import clusters_of
from polysem.server.questions.engine import Engine
from polysem.server.questions.held import CHOICE, CLUSTERING
from polysem.server.questions.kept_names import place_of
from polysem.server.questions.labels import LabelWork
from polysem.server.searching import words
from polysem.server.searching.file import Counts, Document, Filters, Row, SearchFile, documents_text
from polysem.server.searching.words import Query

MAX_TEXTS = 64  # of a cluster
MAX_KEPT = 50  # kept names, which come first
AFTER_KEPT = "kept"  # cursor behind a page of kept names alone
N_SHOWN = 2  # examples of a cluster that was found
BETWEEN = " \ue000 "  # texts: a word of SQLite's that is in no query, so that no phrase goes from one to the next
LEAST_KEY_SHARE = 0.05  # of a key token by which a cluster is found
GLUE = re.compile(r"\b(any token|mostly|right after|right before|after|before|or|and others|in)\b")  # of names


@columnar(None, "neuron")
@dataclass(frozen=True, eq=False)
class SearchBatch:
    """neurons (B, 2) int32; documents: of each, its clusters as `documents_text` writes them."""

    neurons: IntArray
    documents: Sequence[str] = field(repr=False)


@dataclass(frozen=True, eq=True)
class SearchWork:
    """Items are neurons: (layer, neuron)."""

    clustering: ClusterWork

    @property
    def _labels(self) -> LabelWork:
        return LabelWork(self.clustering)

    def costs(self, items: IntArray) -> Array:
        """Return the costs of naming them."""
        return self._labels.costs(items)

    def run(self, items: IntArray) -> SearchBatch:
        """Raises FailedPrecondition as ClusterWork does."""
        batch = self.clustering.run(items)
        assert isinstance(batch, ClusterBatch)
        centrals = clusters_of(batch, self.clustering.clustering.distance_threshold).centrals
        examples, clusters = columns.from_counts(batch.n_examples), columns.from_counts(batch.n_clusters)
        return SearchBatch(
            items,
            [
                documents_text(
                    self._documents(
                        NeuronId(*neuron),
                        batch.labels[examples[i] : examples[i + 1]],
                        centrals[clusters[i] : clusters[i + 1]],
                    )
                )
                for i, neuron in enumerate(items.tolist())
            ],
        )

    def _documents(self, neuron: NeuronId, labels: IntArray, centrals: Array) -> list[Document]:
        sizes = np.bincount(labels, minlength=0)
        if not (sizes > 1).any():
            return []
        names = self._labels.names(*neuron, labels, scored=False).rules
        ranks = np.empty(len(sizes), np.int64)
        ranks[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
        read = {label: np.flatnonzero(labels == label) for label in np.flatnonzero(sizes > 1).tolist()}
        chosen = [spread(members) for members in read.values()]
        texts = texts_of(self.clustering.index, self.clustering.model.tokenizer, neuron, np.concatenate(chosen))
        ends = columns.from_counts(np.array([len(members) for members in chosen], np.int64))
        found = []
        for i, label in enumerate(read):
            some = texts[ends[i] : ends[i + 1]]
            name = names[label].text
            head = (*neuron, label, int(ranks[label]), int(sizes[label]), int(centrals[label]))
            found.append(Document(*head, read[label].tolist(), name, *_words_of(name, some)))
        return sorted(found, key=lambda one: one.rank)


def _words_of(name: str, texts: Sequence[TextPlace]) -> tuple[Mapping[str, float], str, str, str]:
    """Return a cluster's key tokens with their shares, and the words of its name, of half its texts, and of all."""
    tokens = Counter(words.fold(key_of(place)) for place in texts)
    keys = {token: n / len(texts) for token, n in tokens.items() if n / len(texts) >= LEAST_KEY_SHARE}
    lines = [words.words(text_of(place)) for place in texts]
    held = Counter(word for line in lines for word in set(line))
    often = sorted(word for word, n in held.items() if 2 * n >= len(texts))
    quoted, around = re.findall(r"`([^`]*)`", name), GLUE.sub(" ", re.sub(r"`[^`]*`", " ", name))
    name_words = " ".join(" ".join(words.words(part)) for part in (*quoted, around))
    return keys, name_words, " ".join(often), BETWEEN.join(" ".join(line) for line in lines)


def text_of(place: TextPlace) -> str:
    """Return what stands around a key token, with it; of a part of a character, the character."""
    token = place.token[0] if re.fullmatch(r". \d/\d", place.token) else place.token
    return place.before + token + place.after


def spread(members: Array) -> Array:
    """Return MAX_TEXTS of the members or fewer, evenly spread."""
    n = min(len(members), MAX_TEXTS)
    some: Array = members[np.arange(n) * len(members) // n]
    return some


def texts_of(index: Index, tokenizer: Tokenizer, neuron: NeuronId, examples: Array) -> list[TextPlace]:
    """Return the places of a neuron's examples, given their numbers."""
    stored = index.layer(neuron.layer)
    rows = np.asarray(stored.rows)[int(stored.offsets[neuron.neuron]) + examples]
    contexts, positions = (np.asarray(of)[rows] for of in (stored.row_contexts, stored.row_positions))
    return places(index, tokenizer, contexts, positions)


def search_work(engine: Engine, index: Index) -> tuple[SearchWork, IntArray]:
    """Return what makes the file of a side of an index: the work and its neurons, in the order of the file's rows."""
    every = index.every_neuron
    work = work_of(engine, index, CHOICE, CLUSTERING)
    taken = every[work.takes(index.n_examples[every[:, 0], every[:, 1]])]
    return SearchWork(work), taken[np.argsort(draws(np.arange(len(taken)), 0))]


@dataclass(frozen=True)
class Search:
    """A question to a search file."""

    engine: Engine
    index: Index
    query: SearchQuery
    terms: Query

    def answer(self, file: SearchFile) -> SearchAnswer:
        """Raises InvalidArgument for a cursor of something else."""
        query, filters = self.query, Filters(self.query.layer, self.query.least_size)
        kept = self._kept(file, filters) if "name" in query.found_by else {}
        first = [] if query.cursor else [*kept.values()][: query.page_size]
        room = query.page_size - len(first)
        after = query.cursor.removeprefix(AFTER_KEPT)
        found, stopped = file.find(self.terms, query.found_by, filters, room + len(kept) + 1, after)
        others = [row for row in found if row.id not in kept]
        cursor = "" if len(others) <= room else others[room - 1].at if room else AFTER_KEPT
        counts = Counts({}, {}) if query.cursor else file.counts(self.terms, query.found_by, filters)
        clusters = [self._found(row) for row in (*first, *others[:room])]
        return SearchAnswer(clusters, cursor, counts.by, stopped, 0, 0, self.provenance, counts.layers)

    def waiting(self, n_done: int, n_to_do: int) -> SearchAnswer:
        """Return the answer while the file is made."""
        return SearchAnswer((), "", dict.fromkeys(FOUND_BY, 0), False, n_done, n_to_do, self.provenance, {})

    @property
    def provenance(self) -> Provenance:
        return self.engine.provenance(self.index, CHOICE, CLUSTERING)

    @property
    def _place(self) -> Place:
        return place_of(self.engine, self.index)

    @property
    def _store(self) -> KeptNames | None:
        return None if isinstance(self.engine.names, str) else self.engine.names

    def _kept(self, file: SearchFile, filters: Filters) -> dict[int, Row]:
        """Clusters whose kept names have the words, by id; names that are detached by default have none."""
        names = self._store.found(self._place, self.terms.terms, MAX_KEPT) if self._store and self.terms.terms else ()
        found = {}
        for name in names:
            for row in file.of_neuron(*name.neuron):
                if row.members == name.members and row.size >= filters.size and filters.layer in (None, row.layer):
                    found[row.id] = row
        return found

    def _found(self, row: Row) -> FoundCluster:
        neuron, members = NeuronId(row.layer, row.neuron), np.array(row.members)
        kept = self._store.of(self._place, neuron).get(digest(members)) if self._store else None
        some = spread(members)
        places_ = texts_of(self.index, self.engine.model.tokenizer, neuron, some)
        has = [i for i, place in enumerate(places_) if words.holds(words.line(text_of(place)), self.terms.terms)]
        shown = tuple(some[has[:N_SHOWN]].tolist()) if has and self.terms.terms else (row.central,)
        return FoundCluster(
            neuron, row.label, row.rank, row.size, row.central, kept.text if kept else row.name,
            kept.method if kept else "rule", row.found_by, row.share, len(some), len(has), shown,
        )  # fmt: skip


def plan(engine: Engine, query: SearchQuery) -> Search:
    """Raises InvalidArgument for an empty query, and what `Index.check_layer` does."""
    terms, index = words.parse(query.query), engine.index(query.index, query.side)
    if query.layer is not None:
        index.check_layer(query.layer)
    return Search(engine, index, query, terms)
