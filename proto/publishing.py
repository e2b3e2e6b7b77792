"""Results that are to go to a store such as s3://bucket/name, by way of fsspec.

They are made on this machine first, in the current folder under the URL's last name, and copied when all is there. A
copy that broke off is gone on with by the same command; the local result goes once the copy is whole.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from polysem.proto.errors import FailedPrecondition, InvalidArgument

LAST = "manifest.json"  # of an index: what makes a folder one


class Place:
    """Where a result goes: a path, or a URL.

    local  where it is to be made
    made   it was, and only the copy is lacking

    Raises InvalidArgument for a URL without a name, FailedPrecondition where fsspec or what it needs for the URL is not
    installed, where there is something at the URL already (unless `force`), or `local` is taken.
    """

    def __init__(self, out: str, force: bool = False) -> None:
        self.url = out if "://" in out else None
        self.made = False
        if self.url is None:
            self.local = Path(out).expanduser()
            return
        name = self.url.rstrip("/").rpartition("/")[2]
        if not name or name.endswith(":"):
            raise InvalidArgument(f"the URL {out!r} names no file or folder; give one such as s3://bucket/name", "out")
        self.local = Path(name)
        self._note = Path(f"{name}.url")
        self._store, self._path = _store(self.url)
        begun = self._note.exists() and self._note.read_text() == self.url
        self.made = begun and self.local.exists()
        if not begun and self.local.exists():
            raise FailedPrecondition(
                f"the result is made as {name!r} in the current folder first, and there is such a thing already; go to "
                "another folder"
            )
        with _told(self.url):
            if not force and not begun and self._store.exists(self._path):
                raise FailedPrecondition(f"there is something at {self.url!r} already; choose another name")
        self._note.write_text(self.url)

    def publish(self) -> None:
        """Copy what was made to the URL, if it is one; a folder's manifest comes last, so that no half index is one.

        Raises FailedPrecondition where the store does not take it, or has other sizes in the end.
        """
        if self.url is None:
            return
        with _told(self.url):
            for path, there in self._files():
                if not self._is_whole(path, there):
                    self._store.makedirs(there.rpartition("/")[0], exist_ok=True)
                    self._store.put_file(str(path), there)
                if not self._is_whole(path, there):
                    raise FailedPrecondition(
                        f"{there!r} has {self._store.size(there):,} bytes after the copy, and {str(path)!r} "
                        f"{path.stat().st_size:,}; the same command copies it anew"
                    )
        if self.local.is_dir():
            shutil.rmtree(self.local)
        else:
            self.local.unlink()
        self._note.unlink()

    def _files(self) -> Iterator[tuple[Path, str]]:
        if self.local.is_file():
            yield self.local, self._path
            return
        found = sorted(path for path in self.local.rglob("*") if path.is_file())
        for path in sorted(found, key=lambda path: path.name == LAST):
            yield path, f"{self._path}/{path.relative_to(self.local).as_posix()}"

    def _is_whole(self, path: Path, there: str) -> bool:
        self._store.invalidate_cache()
        return bool(self._store.exists(there)) and bool(self._store.size(there) == path.stat().st_size)


def _store(url: str) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs
    except ModuleNotFoundError as error:
        raise FailedPrecondition(f"to write to {url!r} install fsspec: pip install fsspec") from error
    try:
        store, path = url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise FailedPrecondition(f"cannot write to {url!r}: {error}") from error
    return store, path.rstrip("/")


@contextmanager
def _told(url: str) -> Iterator[None]:
    """Say in words what the store would not do."""
    try:
        yield
    except FailedPrecondition:
        raise
    except Exception as error:  # of the store's own kinds
        why = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise FailedPrecondition(
            f"cannot write to {url!r}: {why}; what was made is kept here, and the same command goes on"
        ) from error
