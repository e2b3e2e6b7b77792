"""Writing an export: piece by piece, so that it can be stopped and gone on with, whole or not there."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from polysem.client.client import Client
from polysem.client.exporting import circuit_tracer, datasets, delphi, neuronpedia
from polysem.client.exporting.features import Feature, Subject, dumped, gather
from polysem.client.exporting.formats import FORMATS, Format
from polysem.proto.checks import check_one_of
from polysem.proto.errors import FailedPrecondition, PolysemError
from polysem.proto.facts import IndexInfo
from polysem.proto.questions.clustering import Clustering, EmbeddingChoice

PIECE = 64  # neurons
MANIFEST = "manifest.json"
# Below `out`.tmp: what is to be `out`; what its last files are made of; the question, and a file a finished piece.
FILES, PARTS, DONE = "files", "parts", "done"

Files = Iterator[tuple[str, bytes]]


class Writer(NamedTuple):
    """A format.

    files  of a piece, given its number
    last   files at the end, given the folder of all others
    place  of what `files` gives: FILES, or PARTS where only `last` wants it
    """

    files: Callable[[Sequence[Feature], Subject, int], Files]
    last: Callable[[Path, Subject], Files] = lambda folder, subject: iter(())
    place: str = FILES


WRITERS: dict[Format, Writer] = {
    "circuit-tracer": Writer(circuit_tracer.files),
    "neuronpedia": Writer(neuronpedia.files),
    "delphi": Writer(delphi.files, delphi.last, PARTS),
    "datasets": Writer(datasets.files, datasets.last),
}


def export(
    client: Client,
    format: Format,  # noqa: A002
    out: Path,
    *neurons: str,
    licence: str = "",
    whole_context: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **options: Any,
) -> int:
    """Write the neurons' feature clusters into the folder `out` in another tool's format; return how many neurons.

    format         whose files are written: "circuit-tracer", "neuronpedia", "delphi" or "datasets" (Hugging Face)
    licence        of the corpus's texts; goes into card and manifest
    whole_context  all that the model read of each example, not only the text around the key token
    progress       is told after each piece how many neurons are done, of how many
    options        how they are clustered, those of `Client.cluster`

    Neurons without dataset examples are left out. What is unfinished lies in `out`.tmp and is gone on with by the same
    call; the same call gives the same bytes. Raises InvalidArgument for another format; FailedPrecondition where `out`
    exists, where `out`.tmp is the beginning of another export, and where there is no room. Cost: as of `cluster`,
    `labels` and `examples` together.
    """
    check_one_of(format, FORMATS, "format")
    if out.exists():
        raise FailedPrecondition(f"{str(out)!r} exists already; choose another name")
    asked, subject = _each(client, neurons, options.get("index")), _subject(client, licence, options)
    question = {
        "format": format, "neurons": list(neurons), "index": subject.index.sha256, "side": subject.side,
        "clustering": subject.question, "whole_context": whole_context, "licence": licence,
    }  # fmt: skip
    work = out.with_name(f"{out.name}.tmp")
    writer = WRITERS[format]
    try:
        _begin(work, question)
        pieces = [asked[i : i + PIECE] for i in range(0, len(asked), PIECE)]
        n_neurons = 0
        for number, piece in enumerate(pieces):
            finished = work / DONE / f"{number}"
            if not finished.exists():
                features = gather(client, piece, options, whole_context)
                for name, data in writer.files(features, subject, number) if features else ():
                    _write(work / writer.place / name, data)
                _write(finished, str(len(features)).encode())
            n_neurons += int(finished.read_text())
            progress(min((number + 1) * PIECE, len(asked)), len(asked))
        if not n_neurons:
            shutil.rmtree(work)
            raise FailedPrecondition("none of these neurons has dataset examples, so there is nothing to export")
        _finish(work, out, question, subject, n_neurons, writer)
    except PolysemError:  # some of which are OSErrors: the server is away, or refuses
        raise
    except OSError as error:
        raise FailedPrecondition(
            f"cannot write {str(work)!r}: {error.strerror}; what is finished is kept, and the same command goes on"
        ) from error
    return n_neurons


def _subject(client: Client, licence: str, options: dict[str, Any]) -> Subject:
    info, index = client.info(), _index(client, options.get("index"))
    choice = {name: value for name, value in options.items() if name not in ("index", "side", "n_null", "seed")}
    choice = asdict(Clustering()) | asdict(EmbeddingChoice()) | choice
    words = ", ".join(f"{name} {value}" for name, value in sorted(choice.items()) if value not in (None, ()))
    return Subject(
        info.model, index, options.get("side") or "positive", words, licence, info.version, info.bos_token_id
    )


def _index(client: Client, name: str | None) -> IndexInfo:
    found = client.indexes()
    return next((one for one in found if one.name == name), found[0]) if name else found[0]


def _each(client: Client, neurons: Sequence[str], index: str | None) -> list[str]:
    """The neurons one by one, by layer and number, each once."""
    listed = {neuron.id for neuron in client.statistics(*neurons, index=index)}
    return [str(neuron) for neuron in sorted(listed)]


def _begin(work: Path, question: dict[str, Any]) -> None:
    begun = work / DONE / "question.json"
    if begun.exists():
        if json.loads(begun.read_text()) != question:
            raise FailedPrecondition(
                f"{str(work)!r} is the beginning of another export; remove it, or choose another name"
            )
        return
    if work.exists() and not begun.parent.exists():
        raise FailedPrecondition(f"{str(work)!r} exists already and is no export; choose another name")
    try:
        _write(begun, dumped(question))
    except OSError:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _finish(
    work: Path, out: Path, question: dict[str, Any], subject: Subject, n_neurons: int, writer: Writer
) -> None:  # fmt: skip
    files = work / FILES
    for name, data in writer.last(work / writer.place, subject):
        _write(files / name, data)
    facts = question | {
        "n_neurons": n_neurons, "software": f"Polysem {subject.version}",
        "model": {"id": subject.model.id, "sha256": subject.model.sha256},
        "corpus": {"id": subject.index.corpus_id, "sha256": subject.index.corpus_sha256},
    }  # fmt: skip
    _write(files / MANIFEST, json.dumps(facts, indent=1, ensure_ascii=False).encode() + b"\n")
    files.replace(out)
    shutil.rmtree(work)


def _write(path: Path, data: bytes) -> None:
    """The file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
