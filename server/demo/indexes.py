"""The demo's index: the embedded model read over a sample of `pydocs`, kept in the cache folder."""

import platform
from importlib.metadata import version
from pathlib import Path

from polysem.proto.facts import Selection
from polysem.proto.work import shards
from polysem.server import indexing, model
from polysem.server.corpus import PYDOCS, Corpus
from polysem.server.index import FORMAT, file_sha256
from polysem.server.indexing import Progress, Recipe
from polysem.server.places import cache_folder

N_DOCUMENTS = 3000
RECIPE = Recipe(Selection("first", 0.75, 100))


def ensure(progress: Progress = lambda stage, n, total: None, n_documents: int = N_DOCUMENTS) -> Path:
    """The folder of the demo's index, built if missing. Each version of the software and of Python has its own."""
    weights = file_sha256(model.DEMO_FOLDER / "model.safetensors")
    key = shards.key(
        format=FORMAT,
        version=version("polysem"),
        python=platform.python_version(),
        weights=weights,
        n_documents=n_documents,
    )
    folder = cache_folder() / f"demo-{key[:8]}"
    if not folder.is_dir():
        corpus = Corpus(PYDOCS, max_documents=n_documents)
        indexing.build(model.load(model.DEMO_MODEL), corpus, folder, RECIPE, progress)
    return folder
