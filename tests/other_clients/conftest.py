"""A real server in a process of its own, and the clients of other makes that this machine has.

Those that are missing skip their tests; where POLYSEM_NEEDS_OTHER_CLIENTS is set, as in .ci/run, they fail them.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from polysem.client import Client
from polysem.proto.facts import Selection
from polysem.server.corpus.documents import Corpus
from polysem.server.indexing import builder
from polysem.server.model.loading import load

MODULES = Path(__file__).parents[2] / "build/node/node_modules"


@pytest.fixture(scope="session")
def wide_index(make_checkpoint: Any, corpus_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """768 neurons whose embeddings together are larger than gRPC's default limit of a message, 4 MiB."""
    loaded = load(str(make_checkpoint("wide", n_embd=96)), "cpu")
    folder = tmp_path_factory.mktemp("wide") / "wide"
    builder.build(loaded, Corpus(str(corpus_file)), folder, builder.Recipe(Selection("first", 0.5, 30)))
    return folder


@pytest.fixture(scope="session")
def server(wide_index: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Our own client of it, to compare with."""
    command = [sys.executable, "-m", "polysem.client.commands.cli", "serve", "--index", str(wide_index), "--port", "0"]
    command += ["--device", "cpu", "--state", str(tmp_path_factory.mktemp("state"))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    assert process.stdout is not None
    try:
        line = next(line for line in process.stdout if line.startswith("listening on "))
        with Client(line.split()[2].rstrip(";"), token="") as client:
            yield client
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


@pytest.fixture
def run() -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """A function that runs a program, with Node's modules at hand; `package` is one of those that it needs."""

    def run_(*command: str, package: str = "") -> "subprocess.CompletedProcess[str]":
        if shutil.which(command[0]) is None or (package and not (MODULES / package).is_dir()):
            missing = (
                f"no {package or command[0]}: `make other-clients`, which needs npm; apt-get install nghttp2-client"
            )
            if os.environ.get("POLYSEM_NEEDS_OTHER_CLIENTS"):
                pytest.fail(missing)
            pytest.skip(missing)
        environment = os.environ | {"NODE_PATH": str(MODULES)}
        return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)

    return run_
