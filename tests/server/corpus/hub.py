"""A hub on this machine: of its HTTP interface as much as the real libraries ask for to stream a data set, and to load
a model."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

BLOCK_BYTES = 1 << 20


class Hub(ThreadingHTTPServer):
    """Keeps the data set lab/texts: each commit is a folder; `head` is the newest one's name, 40 hex digits.

    model  a folder, which is the model lab/gpt2
    """

    daemon_threads = True

    def __init__(self, commits: dict[str, Path], model: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.commits, self.model = commits, model
        self.head = next(iter(commits))
        self.sent: list[tuple[str, str, int]] = []  # commit, file and bytes of each answer with some of a file's
        self.n_looked_up = 0  # how often the data set itself was asked for
        self._etags: dict[tuple[Path, int, int], str] = {}

    def etag(self, path: Path) -> str:
        """The hash of a file as it is now; it is read once."""
        state = path.stat()
        key = path, state.st_size, state.st_mtime_ns
        if key not in self._etags:
            with path.open("rb") as file:
                self._etags[key] = hashlib.file_digest(file, "sha1").hexdigest()
        return self._etags[key]

    @property
    def environment(self) -> dict[str, str]:
        return {"HF_ENDPOINT": f"http://127.0.0.1:{self.server_port}", "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}


@contextmanager
def serving(commits: dict[str, Path], model: Path | None = None) -> Iterator[Hub]:
    with Hub(commits, model) as hub:
        thread = threading.Thread(target=hub.serve_forever)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if re.fullmatch(r"/api/datasets/lab/texts(/revision/\w+)?", path):
            self.server.n_looked_up += 1
            self._json({"id": "lab/texts", "sha": self._commit(path.partition("/revision/")[2]), "siblings": []})
        elif found := re.fullmatch(r"/api/datasets/lab/texts/tree/(\w+)/?(.*)", path):
            self._list(self.server.commits[self._commit(found[1])], found[2])
        elif found := re.fullmatch(r"/datasets/lab/texts/resolve/(\w+)/(.+)", path):
            self._file(self._commit(found[1]), found[2], self.server.commits[self._commit(found[1])])
        elif path == "/api/models/lab/gpt2" and self.server.model is not None:
            names = [{"rfilename": file.name} for file in sorted(self.server.model.iterdir())]
            self._json({"id": "lab/gpt2", "modelId": "lab/gpt2", "sha": self.server.head, "siblings": names})
        elif self.server.model is not None and (found := re.fullmatch(r"/api/models/lab/gpt2/tree/\w+/?(.*)", path)):
            self._list(self.server.model, found[1])
        elif self.server.model is not None and (found := re.fullmatch(r"/lab/gpt2/resolve/\w+/(.+)", path)):
            self._file(self.server.head, found[1], self.server.model)
        else:
            self._answer(404, headers={"X-Error-Code": "RepoNotFound"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def _commit(self, revision: str) -> str:
        return revision if revision in self.server.commits else self.server.head

    def _list(self, root: Path, folder: str) -> None:
        if not (root / folder).is_dir():
            return self._answer(404, headers={"X-Error-Code": "EntryNotFound"})
        return self._json(
            [
                {
                    "type": "directory" if path.is_dir() else "file",
                    "path": path.relative_to(root).as_posix(),
                    "size": path.stat().st_size,
                    "oid": hashlib.sha1(path.name.encode()).hexdigest(),
                }
                for path in sorted((root / folder).iterdir())
            ]
        )

    def _file(self, commit: str, name: str, folder: Path) -> None:
        path = folder / name
        if not path.is_file():
            return self._answer(404, headers={"X-Error-Code": "EntryNotFound"})
        size = path.stat().st_size
        headers = {"X-Repo-Commit": commit, "ETag": f'"{self.server.etag(path)}"', "Accept-Ranges": "bytes"}
        begin, end, status = 0, size, 200
        if asked := re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            begin, end, status = int(asked[1]), min(int(asked[2] or size), size - 1) + 1, 206
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
        self._head(status, end - begin, headers)
        if self.command == "GET":
            self.server.sent.append((commit, name, end - begin))
            self._send(path, begin, end)
        return None

    def _send(self, path: Path, begin: int, end: int) -> None:
        """Bytes of a file, a block at a time."""
        with path.open("rb") as file:
            file.seek(begin)
            while begin < end and (block := file.read(min(BLOCK_BYTES, end - begin))):
                self.wfile.write(block)
                begin += len(block)

    def _json(self, value: Any) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, data: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self._head(status, len(data), headers or {})
        if self.command != "HEAD":
            self.wfile.write(data)

    def _head(self, status: int, n_bytes: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(n_bytes)}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Quiet."""
