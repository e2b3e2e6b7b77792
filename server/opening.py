"""What a server serves: the indexes that its settings name and their model, or the demo's."""

import os
from importlib.metadata import version
from pathlib import Path

from polysem.kernels.warm_up import warm_up
from polysem.proto.errors import InvalidArgument
from polysem.server import model as models
from polysem.server import selection
from polysem.server.clustering import MAX_IN_MATRIX
from polysem.server.demo import indexes as demo_indexes
from polysem.server.engine import Engine
from polysem.server.index import open_index
from polysem.server.indexing import Progress
from polysem.server.settings import Settings


def open_engine(settings: Settings, progress: Progress = lambda stage, n, total: None) -> Engine:
    """The engine, warmed up: every kernel is compiled. Without indexes in the settings: the demo's, built if missing.

    Raises InvalidArgument where two indexes have one name, and what `open_index`, `models.load` and `Engine` raise.
    """
    folders = [Path(os.path.expanduser(folder)) for folder in settings.index] or [demo_indexes.ensure(progress)]
    indexes = [open_index(folder) for folder in folders]
    names = [index.info.name for index in indexes]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise InvalidArgument(f"two indexes are called {repeated!r}: requests name them by their folder's name")
    model = models.load(settings.model or indexes[0].info.model_id, settings.device, settings.dtype)
    engine = Engine(model, indexes, version("polysem"))
    warm_up(model.device, max(2, *(min(int(index.n_examples.max()), MAX_IN_MATRIX) for index in indexes)))
    selection.warm_up()  # an index job would keep callers waiting else
    return engine
