"""A data set streamed from a hub, by the libraries that stream it from the real one."""

import gzip
import json
import os
import subprocess
import sys

import pyarrow
import pytest
from pyarrow import parquet

from . import hub as hubs

TEXTS = [f"text {i} é 日本 " * (1 + i % 7) for i in range(90)]
OLD, NEW = "a" * 40, "b" * 40


@pytest.fixture
def child(tmp_path):
    """A function that starts Python over a script, with the library's caches in a place of their own."""

    def start(hub, script, *arguments):
        environment = os.environ | hub.environment | {"HF_HOME": str(tmp_path / "home"), "USE_TORCH": "0"}
        command = [sys.executable, "-W", "error", "-c", script, *map(str, arguments)]
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )

    return start


def write(folder, suffix, texts):
    """Three files below `data`, as the hub has them."""
    (folder / "data").mkdir(parents=True)
    for number in range(3):
        path = folder / "data" / f"train-0000{number}-of-00003.{suffix}"
        some = texts[number * 30 : number * 30 + 30]
        if suffix == "parquet":
            parquet.write_table(pyarrow.table({"text": some}), path, row_group_size=10)
        else:
            path.write_bytes(gzip.compress("".join(json.dumps({"text": text}) + "\n" for text in some).encode()))
    return folder


READ = """
import json, sys
from polysem.server.corpus import documents
documents.RANGE_BYTES = int(sys.argv[1])
found = documents.Corpus("hf:lab/texts")
ranges, before = list(found.ranges()), found.fingerprint()
print(len(ranges), flush=True)
sys.stdin.readline()
in_ranges = [document for range_ in ranges for document in found.read(range_).documents]
print(json.dumps([in_ranges, list(found.documents()), before != found.fingerprint()]))
"""


@pytest.mark.parametrize(("suffix", "n_ranges"), [("parquet", 9), ("json.gz", 3)])
def test_ranges_are_of_the_commit_that_they_were_found_in(child, tmp_path, suffix, n_ranges):
    commits = {OLD: write(tmp_path / "old", suffix, TEXTS), NEW: write(tmp_path / "new", suffix, TEXTS[::-1])}
    with hubs.serving(commits) as hub, child(hub, READ, 200) as reader:
        n = reader.stdout.readline()
        hub.head = NEW
        out, err = reader.communicate("go on\n")
    assert reader.returncode == 0, err
    assert int(n) == n_ranges
    in_ranges, whole, has_changed = json.loads(out)
    names = [f"{1 + i // 30}:{1 + i % 30}" for i in range(90)]
    assert in_ranges == [list(row) for row in zip(names, TEXTS, strict=True)]
    assert whole == [list(row) for row in zip(names, TEXTS[::-1], strict=True)]
    assert has_changed


WHILE_READ = """
import json, sys
from polysem.server.corpus.documents import Corpus
documents = Corpus("hf:lab/texts" + sys.argv[1]).documents()
begun = [next(documents)]
print(flush=True)
sys.stdin.readline()
print(json.dumps([*begun, *documents]))
"""


@pytest.mark.parametrize(("suffix", "split"), [("parquet", ""), ("json.gz", "::train+train")])
def test_one_reader_sees_one_commit_too(child, tmp_path, suffix, split):
    commits = {OLD: write(tmp_path / "old", suffix, TEXTS), NEW: write(tmp_path / "new", suffix, TEXTS[::-1])}
    with hubs.serving(commits) as hub, child(hub, WHILE_READ, split) as reader:
        reader.stdout.readline()
        hub.head = NEW
        out, err = reader.communicate("go on\n")
    assert reader.returncode == 0, err
    names = [str(i + 1) for i in range(180)] if split else [f"{1 + i // 30}:{1 + i % 30}" for i in range(90)]
    assert json.loads(out) == [list(row) for row in zip(names, TEXTS * (2 if split else 1), strict=True)]
    assert {commit for commit, name, _ in hub.sent if name.startswith("data/")} == {OLD}


def test_a_hub_is_asked_for_little_more_than_the_texts(child, tmp_path):
    (tmp_path / "old" / "data").mkdir(parents=True)
    for number in range(2):
        table = {"image": [os.urandom(1 << 20) for _ in range(20)], "text": TEXTS[number * 20 : number * 20 + 20]}
        parquet.write_table(pyarrow.table(table), tmp_path / "old" / "data" / f"{number}.parquet", row_group_size=20)
    with hubs.serving({OLD: tmp_path / "old"}) as hub, child(hub, READ, 1000) as reader:
        assert int(reader.stdout.readline()) == 2
        n_looked_up = hub.n_looked_up
        hub.sent.clear()
        out, err = reader.communicate("go on\n")
    assert reader.returncode == 0, err
    assert [text for _, text in json.loads(out)[0]] == TEXTS[:40]
    assert sum(n_bytes for _, _, n_bytes in hub.sent) < 20 << 20  # of both files, twice 40 MiB
    assert hub.n_looked_up - n_looked_up <= 4  # by the reader of the whole and the fingerprint, none for a range


BUILD = """
import sys
from pathlib import Path
from polysem.proto.facts import Selection
from polysem.server.corpus import documents
from polysem.server.indexing import builder
from polysem.server.model import loading
from polysem.server.ray_cluster import sessions
from polysem.server.ray_cluster.pool import RayOptions
documents.RANGE_BYTES = 1000
checkpoint, out = sys.argv[1], Path(sys.argv[2])
texts, recipe = documents.Corpus("hf:lab/texts"), builder.Recipe(Selection("first", 0.5, 30))
here = builder.build(loading.load(checkpoint, "cpu", "float32"), texts, out / "here", recipe)
known = sessions.describe(checkpoint, "float32")
def refuse(*_):
    raise AssertionError("the driver read the corpus")
documents.Corpus.with_text = refuse
with sessions.building(known, texts, "auto", RayOptions("local", gpus=0, workers=2)) as (known, executor):
    there = builder.build(known, texts, out / "there", recipe, executor=executor)
print(here.sha256, there.sha256, here.info.n_documents)
"""


def test_workers_of_a_cluster_read_it_themselves(child, tmp_path, checkpoint):
    if not os.environ.get("POLYSEM_NEEDS_RAY"):
        pytest.importorskip("ray")
    commits = {OLD: write(tmp_path / "old", "parquet", TEXTS)}
    with hubs.serving(commits) as hub, child(hub, BUILD, checkpoint, tmp_path) as builder:
        out, err = builder.communicate()
    assert builder.returncode == 0, err
    here, there, n_documents = out.split()
    assert (here, n_documents) == (there, "90")
    assert {commit for commit, *_ in hub.sent} == {OLD}


BAD_VALUES = """
import json, sys
from polysem.proto.errors import BadCorpus
from polysem.server.corpus.documents import Corpus
try:
    list(Corpus("hf:lab/texts").documents())
except BadCorpus as error:
    print(error.message)
one, ranged = Corpus("hf:lab/texts", skip_bad=True), Corpus("hf:lab/texts", skip_bad=True)
print(json.dumps([list(one.documents()), one.n_skipped]))
found = [ranged.read(range_) for range_ in ranged.ranges()]
print(json.dumps([[document for texts in found for document in texts.documents], sum(t.n_skipped for t in found)]))
"""


@pytest.mark.parametrize("suffix", ["parquet", "json.gz"])
def test_what_is_no_text_is_told_with_its_row_or_left_out(child, tmp_path, suffix):
    folder = write(tmp_path / "old", suffix, TEXTS)
    bad = folder / "data" / f"train-00001-of-00003.{suffix}"
    if suffix == "parquet":
        ends = b"\0\0\0\0\2\0\0\0\4\0\0\0\5\0\0\0"
        text = pyarrow.Array.from_buffers(
            pyarrow.string(), 3, [None, pyarrow.py_buffer(ends), pyarrow.py_buffer(b"ok\xff\xfez")]
        )
        parquet.write_table(pyarrow.table({"text": text}), bad)
    else:
        lines = [json.dumps({"text": text}) for text in ("ok", None, "z")]
        bad.write_bytes(gzip.compress("\n".join(lines).encode()))
    with hubs.serving({OLD: folder}) as hub, child(hub, BAD_VALUES) as reader:
        out, err = reader.communicate()
    assert reader.returncode == 0, err
    sentence, *answers = out.splitlines()
    assert sentence.startswith("row 2 of file 2 of 'hf:lab/texts' ")
    for answer in answers:
        documents, n_skipped = json.loads(answer)
        assert n_skipped == 1
        assert documents[30:32] == [["2:1", "ok"], ["2:3", "z"]]
        assert len(documents) == 62


ABSENT = """
import sys
from polysem.proto.errors import BadCorpus
from polysem.server.corpus.documents import Corpus
for id_ in sys.argv[1:]:
    try:
        Corpus(id_).ranges()
    except BadCorpus as error:
        print(error.message)
"""


def test_what_a_hub_does_not_have_is_told_in_one_sentence(child, tmp_path):
    ids = ["hf:lab/absent", "hf:lab/texts:absent", "hf:lab/texts::absent"]
    commits = {OLD: write(tmp_path / "old", "parquet", TEXTS)}
    with hubs.serving(commits) as hub, child(hub, ABSENT, *ids) as reader:
        out, err = reader.communicate()
    assert reader.returncode == 0, err
    told = out.splitlines()
    assert len(told) == 3
    for id_, sentence in zip(ids, told, strict=True):
        assert sentence.startswith(f"cannot read the data set {id_!r}: ")
        assert "absent" in sentence.removeprefix(f"cannot read the data set {id_!r}: ")
