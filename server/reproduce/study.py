"""The stages of `polysem reproduce`: index, Table 1 with controls, rotation tests, planted truth, report.

Each stage is an existing command's function and leaves a file in the study's folder. A stage whose file is there is
done; one that was killed goes on where it was, but for planted truth, which begins anew.

index            as `polysem index` makes it, unless an index is named
table1.parquet   as `polysem measure`: every embedding and control in every LayerNorm mode and frame
tests.parquet    as `polysem measure --null`: embeddings and controls against rotations, a sample of neurons
planted.jsonl    as `polysem benchmark planted --json`
report.md        what holds and what does not; report.json: the same numbers
study.json       what was asked for, and provenance: software, model, corpus, device, seconds and sha256 of each file
"""

import json
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import numpy as np

from polysem.client.measuring.measure import Measuring, variants
from polysem.client.terminal.progress import INDEXING
from polysem.proto.errors import FailedPrecondition
from polysem.proto.facts import IndexInfo
from polysem.proto.questions.clustering import CONTROLS, Algorithm, Embedding, Frame, LayerNorm
from polysem.proto.sides import Side
from polysem.proto.work import shards
from polysem.server.corpus.documents import Corpus
from polysem.server.index.format import Index, file_sha256, open_index
from polysem.server.indexing import builder
from polysem.server.local_client import opened
from polysem.server.model.loading import load
from polysem.server.opening import open_engine
from polysem.server.planted import benchmark, tables
from polysem.server.reproduce import report
from polysem.server.settings import Settings

COMPARED: tuple[Embedding, ...] = ("pre_mlp", "neuron", *CONTROLS)
FILES = ("table1.parquet", "tests.parquet", "planted.jsonl", "report.md", "report.json")
UNITS = {**INDEXING, "table 1": "trees", "tests": "trees", "planted": "clusterings"}
Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class Study:
    """A study as it is asked for; the same study gives the same files.

    model, corpus       as `polysem index` takes them; of no account where `index` is named
    max_documents       the first so many with text in them
    context_length      None: all that the model reads at once
    index               the folder of an index that is there; None: one is made, by the paper's rule
    layers              to look at; none: all
    side                of the activations
    algorithms          of Table 1
    n_neurons, n_tested neurons of a layer in Table 1 and in the rotation tests, drawn by seed; None: all
    n_null              rotations of each test
    n_mixtures          planted, of each kind in each layer, n_suggested of them also cut as suggested
    """

    model: str = "gpt2"
    corpus: str = "hf:Skylion007/openwebtext"
    text_field: str = "text"
    max_documents: int = 10_000
    context_length: int | None = None
    index: str | None = None
    layers: tuple[int, ...] = ()
    side: Side = "positive"
    algorithms: tuple[Algorithm, ...] = ("hac",)
    n_neurons: int | None = None
    n_tested: int | None = 100
    n_null: int = 99
    n_mixtures: int = 40
    n_suggested: int = 4
    seed: int = 0


@dataclass(frozen=True)
class Machine:
    """The machine that does it. model: the index's, where it is no longer at its place."""

    device: str = "auto"
    dtype: str = "float32"
    model: str | None = None


def run(study: Study, out: Path, machine: Machine = Machine(), progress: Progress = lambda stage, n, of: None) -> Path:
    """Do what is left of the study, and write its report; the path of report.md.

    Raises FailedPrecondition for an index of latents, where `out` holds another study, and what the stages raise.
    """
    if study.index is not None:
        _check_neurons(open_index(Path(study.index).expanduser()).info)
    out.mkdir(parents=True, exist_ok=True)
    with shards.sole_worker(out):
        record = _Record(out, study)
        index = _index(study, out, machine, record, progress)
        names = of_layers(index.info, study.layers)
        frames: list[Frame] = [f for f in get_args(Frame) if index.has_moments or f not in ("centred", "standardised")]
        every = variants(study.algorithms, COMPARED, get_args(LayerNorm), frames=frames)
        in_own_frame = variants(("hac",), COMPARED)
        measurements = (
            ("table1.parquet", "table 1", every, study.n_neurons, 0),
            ("tests.parquet", "tests", in_own_frame, study.n_tested, study.n_null),
        )
        left = [one for one in measurements if not (out / one[0]).exists()]
        if left:
            with opened(index.folder, model=machine.model, device=machine.device, dtype=machine.dtype) as client:
                record.about["device"] = client.info().device
                for file, stage, asked, n, n_null in left:
                    neurons = sample(index.info, names, n, study.seed)
                    measuring = Measuring(
                        client, neurons, asked, best_cut=not n_null, side=study.side, n_null=n_null, seed=study.seed
                    )
                    with record.timed(file):
                        measuring.run(out / file, partial(_advance, progress, stage, measuring.n_trees))
        if not (out / "planted.jsonl").exists():
            with record.timed("planted.jsonl"):
                _plant(study, index.folder, out / "planted.jsonl", names, machine, progress)
        with record.timed("report.md"):
            report.write(out, record.about)
        record.finish()
    return out / "report.md"


def _check_neurons(info: IndexInfo) -> None:
    """Raise FailedPrecondition for an index of latents."""
    if info.encoders:
        raise FailedPrecondition(
            f"the paper's claim is about neurons, and the index {info.name!r} is of latents; name one of neurons, or "
            "compare the latents' embeddings with `polysem measure` and `polysem table1`"
        )


def _advance(progress: Progress, stage: str, of: int, n: int) -> None:
    progress(stage, n, of)


def of_layers(info: IndexInfo, asked: Sequence[int]) -> tuple[int, ...]:
    """The layers to look at. Raises FailedPrecondition for one that the index does not hold."""
    if absent := set(asked) - set(info.held_layers):
        raise FailedPrecondition(
            f"layer {min(absent)} is not in the index {info.name!r}; name layers that it holds, or leave --layers out"
        )
    return tuple(sorted(set(asked))) or tuple(info.held_layers)


def sample(info: IndexInfo, layers: Sequence[int], n: int | None, seed: int) -> list[str]:
    """Ids of n neurons of each layer, drawn by seed, or of all of them."""
    if n is None or n >= info.n_neurons_per_layer:
        return [f"{layer}.*" for layer in layers]
    drawn = (np.random.default_rng((seed, layer)).permutation(info.n_neurons_per_layer)[:n] for layer in layers)
    return [f"{layer}.{j}" for layer, of in zip(layers, drawn, strict=True) for j in np.sort(of).tolist()]


def _index(study: Study, out: Path, machine: Machine, record: "_Record", progress: Progress) -> Index:
    folder = out / "index" if study.index is None else Path(study.index).expanduser()
    if study.index is None and not folder.exists():
        recipe = builder.PRESETS["paper"]
        how = builder.Recipe(recipe.selection, study.context_length, recipe.windows, layers=study.layers)
        corpus = Corpus(study.corpus, study.text_field, False, study.max_documents)
        with record.timed("index"):
            builder.build(load(study.model, machine.device, machine.dtype), corpus, folder, how, progress)
    elif study.index is None:  # it appeared whole, whatever came after
        shutil.rmtree(folder.with_name(folder.name + ".tmp"), ignore_errors=True)
    index = open_index(folder).of(study.side)
    record.of_index(index.info)
    return index


def _plant(study: Study, folder: Path, out: Path, layers: Sequence[int], machine: Machine, progress: Progress) -> None:
    settings = Settings(index=[folder], model=machine.model, device=machine.device, dtype=machine.dtype)  # type: ignore[arg-type]
    engine = open_engine(settings)
    asked = study.n_mixtures, study.n_suggested, study.seed, study.n_null
    index = engine.index("", study.side)
    try:
        found = benchmark.run(engine.model, index, *asked, lambda n, of: progress("planted", n, of), layers)
    except FailedPrecondition as error:  # no neurons can be mixed: that is a result, too
        rows: list[dict[str, Any]] = [{"problem": error.message}]
    else:
        rows = list(tables.as_json(found))
    unfinished = out.with_suffix(".partial")
    unfinished.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    unfinished.rename(out)


class _Record:
    """study.json: what was asked for, and what is known of how it was done."""

    def __init__(self, out: Path, study: Study) -> None:
        self._out, self._path = out, out / "study.json"
        asked = json.loads(json.dumps(asdict(study)))
        self.about: dict[str, Any] = {"study": asked, "seconds": {}}
        if self._path.exists():
            self.about = json.loads(self._path.read_text("utf-8"))
            if differing := [name for name in asked if asked[name] != self.about["study"].get(name)]:
                raise FailedPrecondition(
                    f"{str(out)!r} holds a study that was begun with another {' and '.join(differing)}; go on with the "
                    "same arguments, or choose another --out"
                )
        elif others := [path.name for path in out.iterdir() if path.name not in ("lock", "study.partial")]:
            raise FailedPrecondition(f"{str(out)!r} holds {others[0]!r} and no study; choose another --out")
        self.about["software"] = {
            name: version(name) for name in ("polysem", "torch", "numpy", "transformers", "scikit-learn")
        } | {"python": platform.python_version()}
        self.save()

    def save(self) -> None:
        unfinished = self._path.with_suffix(".partial")
        unfinished.write_text(json.dumps(self.about, indent=1, ensure_ascii=False) + "\n", "utf-8")
        unfinished.rename(self._path)

    def of_index(self, info: IndexInfo) -> None:
        """Raises FailedPrecondition where the study was begun on another index."""
        begun, now = self.about.get("index"), json.loads(json.dumps(asdict(info)))
        if begun is not None and begun["sha256"] != info.sha256:
            raise FailedPrecondition(
                f"{str(self._out)!r} was begun on the index {begun['sha256'][:12]}…, and {info.name!r} is another "
                f"({info.sha256[:12]}…); name that one, or choose another --out"
            )
        self.about["index"] = now
        self.save()

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Seconds of the run that finished the stage."""
        begin = time.monotonic()
        yield
        self.about["seconds"][stage] = round(time.monotonic() - begin, 1)
        self.save()

    def finish(self) -> None:
        self.about["sha256"] = {name: file_sha256(self._out / name) for name in FILES}
        self.save()
