import io
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from polysem.proto.errors import BadCorpus, FailedPrecondition
from polysem.server.corpus import child
from polysem.server.corpus.child import CorpusElsewhere
from polysem.server.corpus.documents import Corpus


@pytest.mark.parametrize("max_documents", [None, 7])
def test_another_process_reads_the_same_documents(corpus_file, max_documents):
    options = {"path": corpus_file, "max_documents": max_documents}
    assert list(CorpusElsewhere("c", **options).documents()) == list(Corpus("c", **options).documents())


def test_what_is_left_out_is_counted_and_what_is_bad_is_told(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "é 日本"}\nno\n', encoding="utf-8")
    with pytest.raises(BadCorpus, match=r"line 2 of 'mine' is not JSON"):
        list(CorpusElsewhere("mine", path=path).documents())
    corpus = CorpusElsewhere("mine", skip_bad=True, path=path)
    assert [document.text for document in corpus.documents()] == ["é 日本"]
    assert corpus.n_skipped == 1


def test_for_workers_it_has_the_same_ranges(tmp_path):
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"first\n\xff\n" + b"other\n" * 3_000_000)
    there, here = CorpusElsewhere("c", path=bad, for_workers=True), Corpus("c", path=bad)
    ranges = there.ranges()
    assert next(ranges) == next(here.ranges())
    ranges.close()
    assert list(there.ranges()) == list(here.ranges())
    first, last = here.ranges()
    assert there.read(first) == here.read(first) == ([("1", "first")], 0, here.read(first).problem)
    assert there.read(last, 9) == here.read(last, 9)
    skipping = CorpusElsewhere("c", path=bad, skip_bad=True, for_workers=True)
    assert (skipping.read(first, 2).documents, skipping.read(first, 2).n_skipped) == (
        [("1", "first"), ("3", "other")],
        1,
    )
    assert skipping.n_skipped == 0
    assert CorpusElsewhere("c", path=bad).ranges() is None
    assert CorpusElsewhere("pydocs", for_workers=True).ranges() is None


def test_ranges_of_folders_and_of_what_cannot_be_read(tmp_path):
    (tmp_path / "é\udcff").write_text("text")
    assert list(CorpusElsewhere("c", path=tmp_path, for_workers=True).ranges()) == list(
        Corpus("c", path=tmp_path).ranges()
    )
    (tmp_path / "c.parquet").write_bytes(b"PAR1")
    with pytest.raises(BadCorpus, match="cannot read"):
        CorpusElsewhere("c", path=tmp_path / "c.parquet", for_workers=True).ranges()


def test_a_frame_that_is_cut_is_no_end():
    whole = child._HEAD.pack(b"r", 9, 0) + b"[0, 1, 0,"
    for n in range(1, len(whole)):
        with pytest.raises(FailedPrecondition, match="ended before the corpus"):
            list(CorpusElsewhere("c")._frames(io.BytesIO(whole[:n])))


def test_a_reader_that_is_left_or_killed_is_gone(corpus_file, tmp_path):
    def readers():
        return [
            int(status.parent.name)
            for status in Path("/proc").glob("[0-9]*/status")
            if f"PPid:\t{os.getpid()}\n" in status.read_text()
            and b"polysem.server.corpus.child" in status.with_name("cmdline").read_bytes()
        ]

    documents = CorpusElsewhere("c", path=corpus_file).documents()
    next(documents)
    documents.close()
    assert readers() == []
    large = tmp_path / "large.txt"
    large.write_text("x" * 100 + "\n" * 2 + ("y" * 1000 + "\n") * 1000)
    documents = CorpusElsewhere("c", path=large).documents()
    next(documents)
    for stops in (signal.SIGINT, signal.SIGTERM):  # sent to all of a terminal or a unit: the server ends its reader
        os.kill(*readers(), stops)
    assert len(list(itertools.islice(documents, 500))) == 500
    os.kill(*readers(), signal.SIGKILL)
    with pytest.raises(FailedPrecondition, match="ended before the corpus"):
        list(documents)


def test_a_reader_whose_server_was_killed_ends(tmp_path):
    large = tmp_path / "large.txt"
    large.write_text(("y" * 1000 + "\n") * 10_000)
    reader = subprocess.Popen(
        [sys.executable, "-m", "polysem.server.corpus.child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    asked = {"id": "c", "text_field": "text", "skip_bad": False, "max_documents": None, "path": str(large)}
    reader.stdin.write(json.dumps([asked, "documents"]).encode())
    reader.stdin.close()
    assert reader.stdout.read(1) == b"d"
    reader.stdout.close()
    for _ in range(200):
        if reader.poll() is not None:
            break
        time.sleep(0.05)
    assert reader.wait(0) is not None
