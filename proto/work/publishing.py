"""Results that are to go to a store such as s3://bucket/name, by way of fsspec.

They are made on this machine first, in the current folder, and copied when all is there. A copy that broke off is gone
on with by the same command; what was made here goes once the copy is whole.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from polysem.proto.errors import FailedPrecondition, InvalidArgument

LAST = "manifest.json"  # of an index: what makes a folder one


class Destination:
    """Destination of a result: a path, or a URL.

    depends  on what the result does; another one for the same URL is made under another name
    local    where it is to be made: the path, or the URL's last name with a hash of URL and `depends`
    made     it was, for the URL, and only the copy is lacking

    Raises InvalidArgument for a URL without a name, FailedPrecondition where fsspec or what it needs for the URL is not
    installed, where the store does not answer, or where there is something at the URL already (unless `force`).
    """

    def __init__(self, out: str, force: bool = False, depends: str = "") -> None:
        self.url = out if "://" in out else None
        self.local = Path(os.path.expanduser(out))
        self.made = False
        if self.url is None:
            return
        self._force = force
        self._store, self._path = self._open(self.url)
        parent, _, name = self._path.rpartition("/")
        if not name or (not parent and not self._path.startswith("/")):  # s3://bucket
            raise InvalidArgument(f"the URL {out!r} names no file or folder; give one such as s3://bucket/name", "out")
        self.local = Path(f"{name}.{hashlib.sha256(repr((out, depends)).encode()).hexdigest()[:8]}")
        self._copying = Path(f"{self.local}.copying")  # is there from the copy's beginning to its end
        self.made = self.local.exists()
        if not self.made:
            self._copying.unlink(missing_ok=True)
        self._check_free()

    @property
    def kept(self) -> Path:
        """Path of what is done, if it was interrupted."""
        made = self.url is not None and self.local.exists()
        return self.local if made else self.local.with_name(f"{self.local.name}.tmp")

    def publish(self) -> None:
        """Copy what was made to the URL, if it is one; a folder's manifest comes last, so that no half index is one.

        Raises FailedPrecondition where the store does not take it, has other sizes in the end, or has got something at
        the URL meanwhile (unless `force`).
        """
        if self.url is None:
            return
        self._check_free()
        self._copying.write_text(self.url, "utf-8")
        for path, there in self._files():
            size = path.stat().st_size
            if self.local.is_file() or self._size(there) != size:  # a file may replace another of the same size
                self._put(path, there)
            if (found := self._size(there)) != size:
                raise FailedPrecondition(
                    f"{there!r} has {found or 0:,} bytes after the copy, and {str(path)!r} {size:,}; the same command "
                    "copies it anew"
                )
        self._copying.unlink()
        shutil.rmtree(f"{self.local}.tmp", ignore_errors=True)  # of a build that was killed while it cleaned up
        if self.local.is_dir():
            shutil.rmtree(self.local)
        else:
            self.local.unlink()

    def _check_free(self) -> None:
        """Nothing may be at the URL, but for what was copied already."""
        if self._force or self._copying.exists() or self._size(self._path) is None:
            return
        kept = f"; what was made is kept in {str(self.local)!r}" if self.local.exists() else ""
        raise FailedPrecondition(f"there is something at {self.url!r} already; choose another name{kept}")

    def _files(self) -> Iterator[tuple[Path, str]]:
        if self.local.is_file():
            yield self.local, self._path
            return
        found = sorted(path for path in self.local.rglob("*") if path.is_file())
        for path in sorted(found, key=lambda path: path.name == LAST):
            yield path, f"{self._path}/{path.relative_to(self.local).as_posix()}"

    def _open(self, url: str) -> tuple[Any, str]:
        try:
            from fsspec.core import url_to_fs
        except ModuleNotFoundError as error:
            raise FailedPrecondition(f"to write to {url!r} install fsspec: pip install fsspec") from error
        with self._translated():
            store, path = url_to_fs(url)
        return store, path.rstrip("/")

    def _put(self, path: Path, there: str) -> None:
        with self._translated():
            try:
                self._store.put_file(str(path), there)
            except FileNotFoundError:  # of stores that have folders
                self._store.makedirs(there.rpartition("/")[0], exist_ok=True)
                self._store.put_file(str(path), there)

    def _size(self, there: str) -> int | None:
        """Bytes of what is there; None where nothing is."""
        with self._translated():
            self._store.invalidate_cache()
            try:
                return int(self._store.info(there)["size"] or 0)
            except FileNotFoundError:
                return None

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Say in words what the store would not do."""
        try:
            yield
        except Exception as error:  # of the store's own kinds
            why = (str(error).splitlines() or [""])[0] or type(error).__name__
            kept = f"; {str(self.local)!r} is kept, and the same command goes on" if self.local.exists() else ""
            raise FailedPrecondition(f"cannot write to {self.url!r}: {why}{kept}") from error
