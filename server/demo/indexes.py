"""The demo's index: the embedded model read over a sample of `pydocs`, each neuron tested, kept in the cache folder."""

import platform
import shutil
from importlib.metadata import version
from pathlib import Path

from polysem.kernels.warm_up import FIRST, SECOND, warm_beside
from polysem.proto.facts import Selection
from polysem.proto.work import shards
from polysem.server.corpus.documents import PYDOCS, Corpus
from polysem.server.index.format import FORMAT, file_sha256, open_index
from polysem.server.indexing import builder
from polysem.server.indexing.builder import LAYOUT, Progress, Recipe
from polysem.server.model.latent_model import described
from polysem.server.model.loading import DEMO_FOLDER, DEMO_MODEL, load
from polysem.server.paths import cache_folder
from polysem.server.questions import holding

SAE_FOLDER = Path(__file__).parent / "sae"
N_DOCUMENTS = 3000
RECIPE = Recipe(Selection("first", 0.75, 100))


def ensure(
    progress: Progress = lambda stage, n, total: None,
    n_documents: int = N_DOCUMENTS,
    latents: bool = False,
    tested: bool = True,
) -> Path:
    """The folder of the demo's index, built if missing. Each version of the software and of Python has its own.

    latents  of the embedded SAE, instead of the model's neurons
    tested   with the tests of all its neurons; else as soon as it can be asked

    Where another process is building it, that one is waited for: stage "wait" of `progress`.
    """
    weights = file_sha256(DEMO_FOLDER / "model.safetensors")
    of_latents = {"sae": file_sha256(SAE_FOLDER / "sae_weights.safetensors")} if latents else {}
    key = shards.key(
        format=FORMAT,
        version=version("polysem"),
        python=platform.python_version(),
        weights=weights,
        n_documents=n_documents,
        layout=LAYOUT,
        **of_latents,
    )
    folder = cache_folder() / f"demo-{'latents-' * latents}{key[:8]}"
    if _is_whole(folder, tested):
        return folder
    with shards.sole_worker(folder.parent, waiting=lambda: progress("wait", 0, None)):
        if not folder.is_dir():
            with warm_beside(*FIRST):
                _build(folder, n_documents, latents, progress)
        if not _is_whole(folder, tested):
            with warm_beside(*SECOND):
                model, index = load(DEMO_MODEL), open_index(folder)
            holding.hold(model, index, progress=progress)
    return folder


def _build(folder: Path, n_documents: int, latents: bool, progress: Progress) -> None:
    corpus, model = Corpus(PYDOCS, max_documents=n_documents), load(DEMO_MODEL)
    reader = described(model, f"sae:{SAE_FOLDER}") if latents else model
    try:
        builder.build(reader, corpus, folder, RECIPE, progress)
    except builder.AnotherBuild:  # an earlier state of these sources was stopped in the middle
        shutil.rmtree(folder.with_name(f"{folder.name}.tmp"))
        builder.build(reader, corpus, folder, RECIPE, progress)


def _is_whole(folder: Path, tested: bool) -> bool:
    """Whether the index is there, with its tests where they are wanted."""
    return folder.is_dir() and (not tested or open_index(folder).nulls is not None)
