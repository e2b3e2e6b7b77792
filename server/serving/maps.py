"""Maps of a server's layers: read from the file beside the index, or made on first use, as the caller's own work.

Callers of one map wait for it together. The clusters of the whole index come first; then, as bulk work, the nearest
neighbours of the layer's, block by block, and the names of its groups.
"""

import asyncio
import logging
from pathlib import Path

import numpy as np
import torch

from polysem.server.index.format import Index
from polysem.server.mapping import file, groups
from polysem.server.mapping.file import LayerMap
from polysem.server.mapping.groups import Grouped
from polysem.server.questions.clustering import ClusterWork
from polysem.server.questions.maps import (
    GroupNameWork,
    NameBatch,
    NeighbourBatch,
    NeighbourWork,
    centrals_of,
    layer_map,
)
from polysem.server.serving import beside, callers
from polysem.server.serving.batcher import Batcher
from polysem.server.serving.shared import Shared
from polysem.server.serving.whole_index import WholeIndexes

MAX_KEPT = 32  # maps; one of 20,000 clusters takes 1 MB

log = logging.getLogger(__name__)


class Maps:
    """Lives in one event loop. state: folder for files whose index cannot be written; None: there is none."""

    def __init__(self, batcher: Batcher, whole_indexes: WholeIndexes, state: Path | None) -> None:
        self._batcher, self._whole_indexes, self._state = batcher, whole_indexes, state
        self._shared: Shared[tuple[ClusterWork, int], LayerMap] = Shared(MAX_KEPT)

    async def get(self, work: ClusterWork, layer: int) -> LayerMap:
        """Return the map of a layer. work: the clustering of the whole index. Raises what the batcher raises."""
        return await self._shared.get((work, layer), lambda: self._found_or_made(work, layer))

    async def _found_or_made(self, work: ClusterWork, layer: int) -> LayerMap:
        if (found := await asyncio.to_thread(self._read, work.index, layer)) is not None:
            return found
        made = await self._make(work, layer)
        await asyncio.to_thread(self._write, work.index, layer, made)
        return made

    def _read(self, index: Index, layer: int) -> LayerMap | None:
        """Return the map that is there and fits."""
        about = file.about(index.sha256, index.side, layer)
        for path in beside.paths(index, self._state, "map", f"-{layer}.npz"):
            if not path.exists():
                continue
            try:
                if (found := file.read(path, about)) is not None:
                    return found
                log.warning("%s is of another index or version, so it is made anew", path.name)
            except file.DAMAGED as error:
                log.warning("%s cannot be read (%s), so it is made anew", path.name, error)
        return None

    def _write(self, index: Index, layer: int, made: LayerMap) -> None:
        """Write the file; without one, the map is kept as long as the server runs."""
        try:
            path = beside.path_to_write(index, self._state, "map", f"-{layer}.npz")
            file.write(path, file.about(index.sha256, index.side, layer), made)
        except OSError as error:
            log.warning("the map of layer %d of %s is not written: %s", layer, index.info.name, error)

    async def _make(self, work: ClusterWork, layer: int) -> LayerMap:
        whole = await self._whole_indexes.get(work)
        centrals = await asyncio.to_thread(centrals_of, whole.clusters, layer)
        caller = callers.current.get().asking_for("bulk")
        neighbours = NeighbourWork(work, layer, centrals)
        blocks: list[NeighbourBatch] = []
        async for answer in self._batcher.stream(neighbours, neighbours.items(), caller):
            assert isinstance(answer.batch, NeighbourBatch)
            blocks.append(answer.batch)
        grouped, recall = await asyncio.to_thread(_grouped, blocks)
        naming = GroupNameWork(work, layer, centrals, grouped)
        names: list[NameBatch] = []
        async for answer in self._batcher.stream(naming, naming.items(), caller):
            assert isinstance(answer.batch, NameBatch)
            names.append(answer.batch)
        return await asyncio.to_thread(layer_map, centrals, grouped, recall, names)


def _grouped(blocks: list[NeighbourBatch]) -> tuple[Grouped, float]:
    """Return the groups and the recall of the graph; none of a layer without clusters."""
    if not blocks:
        return Grouped(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)), float("nan")
    unit, distances, columns = (
        torch.from_numpy(np.concatenate([getattr(block, name) for block in blocks]))
        for name in ("units", "distances", "columns")
    )
    return groups.grouped(unit, distances, columns.long()), groups.recall(unit, columns.long())
