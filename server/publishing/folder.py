"""Prepare a folder for a hub, and check that it can be shared. Nothing is ever sent anywhere."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from polysem.proto.errors import FailedPrecondition, NotFound
from polysem.server.index.format import MANIFEST, Index, file_sha256, open_index, verify
from polysem.server.publishing import card, tables
from polysem.server.publishing.card import CARD, PLACEHOLDER

SUMS = "SHA256SUMS"
SOURCE = ".source"  # in the unfinished folder: the sha256 of what it is made of, and the licence
Progress = Callable[[int, int], None]


def prepare(source: Path, out: Path, licence: str = "", progress: Progress = lambda done, total: None) -> int:
    """Make the folder `out` of an index, or of an export in format datasets; return its bytes.

    licence   of the corpus's texts; "": the card says that it is to be filled in
    progress  is told how many files are there, of how many

    Every byte of the source is compared with its manifest first. What is unfinished lies in `out`.tmp, and the same
    call goes on with it. Raises NotFound where the source is neither, DamagedIndex, and FailedPrecondition where `out`
    exists, where `out`.tmp is of another source, and where there is no room.
    """
    if out.exists():
        raise FailedPrecondition(f"{str(out)!r} exists already; choose another name, or remove it first")
    work = out.with_name(f"{out.name}.tmp")
    files = _of_export(source, licence) if _is_export(source) else _of_index(source, licence)
    try:
        _begin(work, next(files))
        todo = list(files)
        for done, (name, write) in enumerate(todo, 1):
            _whole(work / name, write)
            progress(done, len(todo))
        if not _is_export(source):
            _whole(work / CARD, _card(open_index(source), work, licence))
        _whole(work / SUMS, _sums(work))
        n_bytes = _size(work)
        (work / SOURCE).unlink()
        work.rename(out)
    except OSError as error:
        raise FailedPrecondition(
            f"cannot write {str(work)!r}: {error.strerror}; what is finished is kept, and the same command goes on"
        ) from error
    return n_bytes


def check(folder: Path) -> list[str]:
    """Return what keeps a prepared folder from being shared, a sentence each; none: it can be.

    Raises NotFound where the folder was not prepared.
    """
    if not (folder / SUMS).is_file() or not (folder / CARD).is_file():
        raise NotFound(
            f"{str(folder)!r} has no {CARD} and {SUMS}: it was not prepared by `polysem publish INDEX --out FOLDER`"
        )
    found = []
    for i, line in enumerate((folder / CARD).read_text("utf-8").splitlines(), 1):
        if PLACEHOLDER in line:
            found.append(f"{CARD}, line {i}: {line.lstrip('- ').partition(':')[0]} is to be filled in")
        elif line.startswith("license:") and line.removeprefix("license:").strip().strip("\"'") in ("", "unknown"):
            found.append(f"{CARD}, line {i}: the licence is unknown; name it, such as cc-by-4.0")
    listed = {}
    for line in (folder / SUMS).read_text("utf-8").splitlines():
        sha256, _, name = line.partition("  ")
        listed[name] = sha256
    present = {name for name in _names(folder) if name not in (CARD, SUMS)}
    found += [f"{name} is missing" for name in sorted(listed.keys() - present)]
    found += [f"{name} is not in {SUMS}" for name in sorted(present - listed.keys())]
    found += [
        f"{name} is not the file that was prepared"
        for name in sorted(present & listed.keys())
        if file_sha256(folder / name) != listed[name]
    ]
    return found


# ---- What a folder is made of: first a line that names the source, then the files


Files = Iterator[Any]


def _of_index(source: Path, licence: str) -> Files:
    index = open_index(source)
    verify(index)
    yield f"{index.sha256} {licence}"
    for name in (*index.manifest["files"], MANIFEST, "manifest.sha256"):
        yield f"index/{name}", _copy(source / name)
    for name in tables.names(index):
        yield name, lambda file, name=name: tables.write(index, name, file)


def _is_export(source: Path) -> bool:
    return (source / MANIFEST).is_file() and (source / CARD).is_file()


def _of_export(source: Path, licence: str) -> Files:
    try:
        facts = json.loads((source / MANIFEST).read_text("utf-8"))
        known, said = facts["format"], facts["licence"]
    except (ValueError, KeyError, TypeError):
        known = said = ""
    if known != "datasets":
        raise NotFound(
            f"{str(source)!r} is neither an index nor an export; make one with `polysem export --format datasets`"
        )
    if licence and licence != said:
        raise FailedPrecondition(
            f"the export {str(source)!r} names the licence {said!r}, not {licence!r}; export it "
            f"anew with --licence, or edit its {CARD}"
        )
    yield f"{file_sha256(source / MANIFEST)} {licence}"
    for name in _names(source):
        yield name, _copy(source / name)


# ---- Writing


def _begin(work: Path, of: str) -> None:
    begun = work / SOURCE
    others = {path for path in work.rglob("*") if path.is_file()} - {_partial(begun)}
    if others and (not begun.is_file() or begun.read_text("utf-8") != of):
        raise FailedPrecondition(
            f"{str(work)!r} exists already and is made of something else; remove it, or choose another name"
        )
    try:
        _whole(begun, _bytes(of.encode()))
    except OSError:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _whole(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Write the file, whole or not at all, unless it is there."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with _partial(path).open("wb") as file:
        write(file)
    _partial(path).replace(path)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _copy(source: Path) -> Callable[[IO[bytes]], None]:
    def write(file: IO[bytes]) -> None:
        with source.open("rb") as read:
            shutil.copyfileobj(read, file, 1 << 20)

    return write


def _bytes(data: bytes) -> Callable[[IO[bytes]], None]:
    def write(file: IO[bytes]) -> None:
        file.write(data)

    return write


def _card(index: Index, work: Path, licence: str) -> Callable[[IO[bytes]], None]:
    n_bytes = {name: _size(work / name) for name in ("examples", "neurons", "index")}
    return _bytes(card.written(index, licence, n_bytes).encode())


def _sums(work: Path) -> Callable[[IO[bytes]], None]:
    names = [name for name in _names(work) if name not in (CARD, SUMS, SOURCE)]
    text = "".join(f"{file_sha256(work / name)}  {name}\n" for name in names).encode()
    return _bytes(text)


def _names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
