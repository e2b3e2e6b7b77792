"""An index of what another tool found: its texts are the contexts, and its neurons' texts the dataset examples.

The model reads every text again: for x̂, for the neurons' activations over all texts, and to compare its key activations
with the other tool's.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from polysem.proto.arrays import Array
from polysem.proto.errors import FailedPrecondition, InvalidArgument
from polysem.proto.facts import Selection
from polysem.server.corpus.documents import Corpus
from polysem.server.importing.found import Found
from polysem.server.index import contexts
from polysem.server.index.contexts import Contexts
from polysem.server.index.format import Index, open_index
from polysem.server.indexing import builder, disk
from polysem.server.indexing.builder import Build, Progress, Recipe
from polysem.server.indexing.scan import KeyActivations, Scan
from polysem.server.indexing.selection import Candidates
from polysem.server.indexing.stages import ScanStage
from polysem.server.model.model import Model

TOLERANCE = 0.05  # of the larger of two activations: what number formats of models and files change


class Compared(NamedTuple):
    """The other tool's key activations beside the model's.

    n          that were compared
    elsewhere  the model's stands at another token
    differing  at the same token, by more than 5 %
    silent     the model's is not above 0: no dataset examples
    """

    n: int
    elsewhere: int
    differing: int
    silent: int

    @property
    def disagreeing(self) -> int:
        """All that do not agree."""
        return self.elsewhere + self.differing + self.silent


class Listed(NamedTuple):
    """The texts of each neuron of the kept layers, ascending, and what the other tool says of them.

    neurons                (E,) by place among n_neurons
    contexts               (E,)
    positions, activations  (E,)
    """

    neurons: Array
    contexts: Array
    positions: Array
    activations: Array
    n_neurons: int


@dataclass(frozen=True)
class ListedStage(ScanStage):
    """A scan whose candidates are the texts that are listed of each neuron, and no others."""

    listed: Listed

    def reduced(self, found: KeyActivations) -> Scan:
        """Return what is kept of a part."""
        some = (self.listed.contexts >= found.first) & (self.listed.contexts < found.first + len(found.strength))
        neurons, texts = self.listed.neurons[some], self.listed.contexts[some]
        rows = texts - found.first
        positions = found.where[rows, neurons]
        counts = np.bincount(neurons, minlength=self.listed.n_neurons)
        candidates = Candidates(
            np.concatenate([[0], np.cumsum(counts)]),
            texts.astype(np.int32),
            positions.astype(np.int32),
            found.prefixes[rows, positions],
            found.strength[rows, neurons],
        )
        return super().reduced(found)._replace(candidates=candidates)


class Importing(Build):
    """A build whose contexts and dataset examples another tool has chosen."""

    def __init__(
        self, found: Found, format_: str, compared: list[Compared], made: Callable[[Index], None], *others: Any
    ) -> None:
        super().__init__(*others)
        self._found, self._format, self._compared, self._made = found, format_, compared, made

    def _describe(self) -> dict[str, Any]:
        imported = {"format": self._format, "sha256": self._found.sha256}
        facts, path = super()._describe() | {"imported": imported}, self._work / "imported.json"
        if self._begun.exists() and json.loads(path.read_text("utf-8")) != imported:
            raise builder.AnotherBuild(
                f"the unfinished import in {str(self._work)!r} was begun with other files; remove that folder"
            )
        disk.write_whole(path, json.dumps(imported))
        return facts

    @property
    def _begun(self) -> Path:
        """A file that is there once the texts are kept."""
        return self._work / "corpus.json"

    def _read(self) -> Contexts:
        folder = self._work / "contexts"
        if not self._begun.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            n_tokens = self._model.tokenizer.n_tokens
            with contexts.writing(folder, n_tokens) as add:
                add(self._found.cut(n_tokens))
            disk.write_whole(self._begun, "{}")
        self._facts["corpus"] |= {"sha256": self._found.sha256, "n_skipped": 0}
        return Contexts(folder)

    def _scan_stage(self) -> ScanStage:
        plain = super()._scan_stage()
        return ListedStage(**vars(plain), listed=self._listed)

    @property
    def _listed(self) -> Listed:
        return listed(self._found, self._reading.layers, self._model.info.n_neurons_per_layer)

    def _scan(self, contexts_: Contexts) -> tuple[Candidates, Array]:
        chosen, maximum = super()._scan(contexts_)
        compared = compare(self._listed, chosen)
        if 2 * compared.disagreeing > compared.n:
            self._begun.unlink()  # so that nothing of it is left
            raise FailedPrecondition(
                f"{compared.disagreeing:,} of {compared.n:,} activations are not those of MLP neurons of "
                f"{self._model.info.id!r}: they come from another model, from latents of an SAE, from the negative "
                "side, or from parts of longer texts; name the model, and export whole texts"
            )
        self._compared.append(compared)
        return chosen, maximum

    def _assemble(self, contexts_: Contexts, candidates: Candidates) -> None:
        super()._assemble(contexts_, candidates)
        self._made(open_index(self._work / "index"))


def build(
    model: Model,
    found: Found,
    name: str,
    format_: str,
    out: Path,
    max_examples: int,
    progress: Progress,
    made: Callable[[Index], None] = lambda index: None,
) -> tuple[Index, Compared]:
    """Make an index of what was found, in the new folder `out`; return it, and how the activations compare.

    name          of what was found, for people
    max_examples  of each neuron, the strongest by the other tool's activations
    made          is told the index before it appears at `out`; where it cannot write, the same call goes on

    Raises InvalidArgument where nothing was found, FailedPrecondition where more than half of the activations disagree,
    and as `builder.build`. Cost: as there.
    """
    if not len(found.neurons):
        raise InvalidArgument(f"no activation in {name!r} is above 0 in a text that {model.info.id!r} can read")
    found = found.strongest(max_examples)
    recipe = Recipe(
        Selection("top", max_examples=max_examples),
        context_length=max(max(len(text) for text in found.texts), 1 + int(found.bos)),
        windows="first",
        bos=found.bos,
        sides="positive",
        layers=found.layers,
    )
    compared: list[Compared] = []
    make = partial(Importing, found, format_, compared, made)
    index = builder.build(model, Corpus(f"{format_}:{name}"), out, recipe, progress, make=make)
    return index, compared[0]


def listed(found: Found, layers: Sequence[int], n: int) -> Listed:
    """The texts of each neuron of the layers, which have n neurons each."""
    neurons = np.searchsorted(layers, found.neurons[:, 0]) * n + found.neurons[:, 1]
    order = np.lexsort((found.contexts, neurons))
    return Listed(
        neurons[order], found.contexts[order], found.positions[order], found.activations[order], len(layers) * n
    )


def compare(known: Listed, chosen: Candidates) -> Compared:
    """Compare the key activations; those that were not chosen are not above 0."""
    width = int(max(known.contexts.max(initial=0), chosen.contexts.max(initial=0))) + 1
    owner = np.repeat(np.arange(len(chosen.offsets) - 1), np.diff(chosen.offsets))
    place = np.searchsorted(known.neurons * width + known.contexts, owner * width + chosen.contexts)
    theirs, ours = known.activations[place], chosen.activations
    elsewhere = known.positions[place] != chosen.positions
    close = np.isfinite(theirs) & (np.abs(theirs - ours) <= TOLERANCE * np.maximum(theirs, ours))
    differing = ~elsewhere & ~close
    n = len(known.activations)
    return Compared(n, int(elsewhere.sum()), int(differing.sum()), n - len(place))
