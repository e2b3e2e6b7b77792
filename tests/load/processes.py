"""Servers in processes of their own, for the scripts of this folder: started, watched, killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

from polysem.client import Client


class Server:
    """`polysem serve` on a free loopback port. `log` is what it wrote to stderr."""

    def __init__(self, state, arguments, token=None):
        self.token = token
        self.command = [sys.executable, "-m", "polysem.client.commands.cli", "serve", "--port", "0", "--device", "cpu"]
        self.command += ["--state", str(state), *map(str, arguments)]
        self.log = Path(tempfile.mkstemp(prefix="polysem-server-", suffix=".log")[1])
        self.start()

    def start(self):
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
            )
        for line in self.process.stdout:
            if line.startswith("listening on "):
                self.target = line.split()[2].rstrip(";")
                self.client = Client(self.target, token=self.token)
                return
        raise SystemExit(self.log.read_text().strip() or f"the server did not start: {' '.join(self.command)}")

    @property
    def resident_mib(self):
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    @property
    def alive(self):
        return self.process.poll() is None

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self._gone()

    def stop(self):
        self.process.terminate()
        self._gone()

    def _gone(self):
        self.process.wait()
        self.client.close()
        self.process.stdout.close()


@contextmanager
def serving(state, arguments=(), token=None):
    server = Server(state, arguments, token)
    try:
        yield server
    finally:
        server.stop()
        server.log.unlink()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


def metric(port, name, label):
    """The metric's values by this label, as the server tells them now; those of one label's value are summed."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    found = Counter()
    for line in text.splitlines():
        if line.startswith(f"polysem_{name}{{"):
            found[line.split(f'{label}="')[1].split('"')[0]] += float(line.split()[-1])
    return found


def indexed(folder):
    """The argument that names an index; None: the server's default, the demo's."""
    return () if folder is None else ("--index", folder)


def small_index(folder):
    """An index of the demo model, all its neurons, over 60 documents: quick to make and to cluster."""
    corpus = sample(folder / "small.jsonl", 60)
    command = [sys.executable, "-m", "polysem.client.commands.cli", "index", "--model", "demo"]
    subprocess.run([*command, "--corpus", corpus, "--out", folder / "small"], check=True, stdout=subprocess.DEVNULL)
    return folder / "small"


def sample(path, n_documents=1000, n_characters=60):
    """A corpus: the beginnings of pydocs' first documents."""
    from polysem.server.corpus import pydocs

    with path.open("w") as file:
        for _, (name, text) in zip(range(n_documents), pydocs.documents(), strict=False):
            file.write(json.dumps({"id": name, "text": text[:n_characters]}) + "\n")
    return path
