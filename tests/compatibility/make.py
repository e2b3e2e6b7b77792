"""Write what the tests of this folder hold later versions against; done once, by version 0.1.0 (commit 6c70bf6).

OUT=tests/compatibility pytest tests/compatibility/make.py

checkpoint/   a seeded GPT-2 of two layers, with its tokenizer
index/        what version 0.1.0 made of it and of a corpus of 120 documents
answers.json  what its server said to its client (ask.py) about that index
polysem-0.1.0-py3-none-any.whl  its wheel without the server and the kernels: what a client's machine uses of it
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from polysem.server.model.loading import load

from .ask import answers

ROOT = Path(__file__).parent.parent.parent
CLIENT = ("polysem/client/", "polysem/proto/", "polysem/v1/", "polysem-0.1.0.dist-info/")


def make(out: Path, checkpoint: Path, corpus: Path) -> None:
    import polysem.server
    from polysem.proto.facts import Selection
    from polysem.server.corpus.documents import Corpus
    from polysem.server.indexing import builder

    shutil.copytree(checkpoint, out / "checkpoint")
    read = load(str(out / "checkpoint"), "cpu")
    builder.build(read, Corpus(str(corpus)), out / "index", builder.Recipe(Selection("first", 0.5, 30)))
    with polysem.server.local(out / "index", device="cpu") as client:
        found = answers(client.target)
    (out / "answers.json").write_text(json.dumps(found, ensure_ascii=False, indent=0) + "\n")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        keep_client(wheel, out / wheel.name)


def keep_client(wheel: Path, out: Path) -> None:
    with zipfile.ZipFile(wheel) as whole, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as client:
        for info in whole.infolist():
            if info.filename.startswith(CLIENT):
                data = whole.read(info)
                if info.filename.endswith("/RECORD"):  # so that pip takes it
                    data = b"".join(line for line in data.splitlines(True) if line.decode().startswith(CLIENT))
                client.writestr(info, data, zipfile.ZIP_DEFLATED)


def test_make(checkpoint, corpus_file):
    """Not collected by itself: the seeded checkpoint and corpus are fixtures of the test suite."""
    make(Path(os.environ["OUT"]), checkpoint, corpus_file)
