"""Tokenising by ranges: the same contexts, errors and counts whoever reads which range when, and after a stop."""

import gzip
import json
import os
import pickle

import pytest

from polysem.proto.errors import BadCorpus
from polysem.proto.work import shards
from polysem.proto.work.shards import LocalExecutor
from polysem.server.corpus import documents as corpora
from polysem.server.corpus.child import CorpusElsewhere
from polysem.server.corpus.documents import Corpus
from polysem.server.index.contexts import Contexts
from polysem.server.indexing import builder, tokenise
from polysem.server.indexing.builder import Recipe
from polysem.server.indexing.tokenise import Tokenising
from polysem.server.indexing.windows import Windowing

TEXTS = [f"{'text ' * (i % 9)}{i} é日" for i in range(40)]


class BackwardsElsewhere:
    """Makes a stage's shards from the last to the first, each from pickles, as other machines do."""

    def __init__(self, held, reaches=True):
        self._held, self._reaches = held, reaches
        self.taken = []

    def finish(self, ledger, stage):
        for shard in reversed(stage.shards):
            if not ledger.has(shard):
                take = stage.take if self._reaches else stage.instead or stage.take
                compute, taken = pickle.loads(pickle.dumps((stage.compute, take(shard))))
                self.taken.append(type(taken).__name__)
                shards.write(shard.path, compute(self._held, taken, stage.advance)())
                ledger.record(shard)


@pytest.fixture
def write(small_model, tmp_path):
    """A function that writes a corpus's contexts; all files' bytes, the corpus's sha256 and how many were left out."""

    def write(corpus, folder=None, executor=None, tell=lambda n: None):
        work = tmp_path / (folder or f"work{len(list(tmp_path.iterdir()))}")
        (work / "contexts").mkdir(parents=True, exist_ok=True)
        windowing = Windowing(8, "all", 256)
        executor = executor or LocalExecutor(small_model)
        it = Tokenising(corpus, small_model.tokenizer, windowing, work, executor, tell)
        sha256 = it.write(work / "contexts")
        made = {path.name: path.read_bytes() for path in (work / "contexts").iterdir()}
        return made, sha256, corpus.n_skipped

    return write


@pytest.fixture
def file(tmp_path):
    """40 documents; among them an empty one, blank lines and two lines that are no JSON."""
    lines = [json.dumps({"text": text}) for text in TEXTS]
    lines[7:7] = ["", "no JSON"]
    lines[20:20] = [json.dumps({"text": ""}), "nor this"]
    path = tmp_path / "c.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("n_bytes", [10, 150, 1000])
@pytest.mark.parametrize("max_documents", [None, 1, 7, 18, 40])
def test_who_reads_which_range_changes_no_byte(write, file, small_model, tmp_path, monkeypatch, n_bytes, max_documents):
    options = {"skip_bad": True, "max_documents": max_documents, "path": file}
    want = write(Corpus("c", **options))
    assert want[2] == {None: 2, 1: 0, 7: 0, 18: 1, 40: 2}[max_documents]
    monkeypatch.setattr(corpora, "RANGE_BYTES", n_bytes)
    monkeypatch.setattr(tokenise, "TEXT_CHARACTERS", n_bytes)
    assert write(Corpus("c", **options)) == want
    for reaches in (True, False):
        elsewhere = BackwardsElsewhere(small_model, reaches=reaches)
        assert write(Corpus("c", **options), executor=elsewhere) == want
        assert set(elsewhere.taken) == {"Range" if reaches else "Texts"}
    archive = tmp_path / "c.jsonl.gz"
    archive.write_bytes(gzip.compress(file.read_bytes()))
    assert write(Corpus("c", **options | {"path": archive}), executor=BackwardsElsewhere(small_model)) == want


@pytest.mark.parametrize("max_documents", [None, 18])
def test_a_corpus_read_by_a_child_has_the_same_bytes(write, file, monkeypatch, max_documents):
    options = {"skip_bad": True, "max_documents": max_documents, "path": file}
    monkeypatch.setattr(tokenise, "TEXT_CHARACTERS", 100)
    assert write(CorpusElsewhere("c", **options)) == write(Corpus("c", **options))


def test_the_first_problem_is_told_whoever_finds_one_first(write, file, small_model, monkeypatch):
    monkeypatch.setattr(corpora, "RANGE_BYTES", 100)
    for executor in (LocalExecutor(small_model), BackwardsElsewhere(small_model)):
        with pytest.raises(BadCorpus, match=r"line 9 of .* is not JSON"):
            write(Corpus(str(file)), executor=executor)
    assert write(Corpus(str(file), max_documents=7), executor=BackwardsElsewhere(small_model))[2] == 0


@pytest.mark.parametrize("n_bytes", [100, 10_000])
def test_a_bound_beyond_the_corpus_is_no_error_and_no_document_is_one(write, file, tmp_path, monkeypatch, n_bytes):
    monkeypatch.setattr(corpora, "RANGE_BYTES", n_bytes)
    bounded, whole = (write(Corpus(str(file), skip_bad=True, max_documents=n)) for n in (41, None))
    assert bounded == whole
    (tmp_path / "empty.txt").write_text("\n" * 500)
    with pytest.raises(BadCorpus, match="has no document with text in it"):
        write(Corpus(str(tmp_path / "empty.txt")))


def test_few_documents_of_a_large_corpus_are_soon_read(write, tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, "RANGE_BYTES", 10)
    (tmp_path / "c.txt").write_text("".join(f"text {i:4d}\n" for i in range(2000)))
    limits, stream = [], Corpus.stream
    monkeypatch.setattr(Corpus, "stream", lambda self, range_, n: limits.append(n) or stream(self, range_, n))
    write(Corpus(str(tmp_path / "c.txt"), max_documents=30))
    assert len(limits) <= 32
    assert max(limits) == 30


def test_told_is_each_document_that_is_kept(write, file, monkeypatch):
    monkeypatch.setattr(corpora, "RANGE_BYTES", 200)
    for max_documents in (None, 7, 18, 40):
        told = []
        write(Corpus(str(file), skip_bad=True, max_documents=max_documents), tell=told.append)
        assert sum(told) == (max_documents or 40)


class Interrupted(Exception):
    pass


def interrupted_at(n_calls):
    left = n_calls

    def tell(n):
        nonlocal left
        left -= 1
        if left == 0:
            raise Interrupted

    return tell


@pytest.mark.parametrize("reader", [Corpus, CorpusElsewhere])
@pytest.mark.parametrize("max_documents", [None, 18])
def test_what_was_tokenised_before_a_stop_is_not_tokenised_again(write, file, monkeypatch, reader, max_documents):
    corpus = reader("c", skip_bad=True, max_documents=max_documents, path=file)
    want = write(corpus)
    monkeypatch.setattr(corpora, "RANGE_BYTES", 60)
    monkeypatch.setattr(tokenise, "TEXT_CHARACTERS", 40)
    with pytest.raises(Interrupted):
        write(corpus, "stopped", tell=interrupted_at(6))
    written, plain = [], shards.write
    monkeypatch.setattr(shards, "write", lambda path, arrays: written.append(path) or plain(path, arrays))
    kept = set(file.parent.glob("stopped/*.npz"))
    told = []
    assert write(corpus, "stopped", tell=told.append) == want
    assert len(kept) >= 4
    assert written
    assert not kept & set(written)
    assert sum(told) == (max_documents or 40)


def test_a_file_that_was_mended_or_changed_in_between_is_read_anew(write, file, monkeypatch):
    monkeypatch.setattr(corpora, "RANGE_BYTES", 150)
    with pytest.raises(BadCorpus, match=r"line 9 of .* is not JSON"):
        write(Corpus(str(file)), "stopped")
    stat, text = file.stat(), file.read_text()
    file.write_text(text.replace("no JSON", '{"n":1}').replace("nor this", '{"text":1}'))
    with pytest.raises(BadCorpus, match=r"line 9 of .* has no text in its field"):
        write(Corpus(str(file)), "stopped")
    file.write_text(text.replace("no JSON", "       ").replace("nor this", "        "))  # as long as it was
    os.utime(file, ns=(stat.st_mtime_ns, stat.st_mtime_ns + 1))
    assert write(Corpus(str(file)), "stopped") == write(Corpus(str(file)))


def test_a_range_that_could_not_be_read_is_tried_again_by_the_next_start(write, small_model, tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, "RANGE_BYTES", 1)
    (tmp_path / "texts").mkdir()
    for name in "abcdef":
        (tmp_path / "texts" / name).write_text(name)
    corpus = Corpus(str(tmp_path / "texts"))

    with monkeypatch.context() as patch:
        readable, lost = corpora.readable, {"b", "e"}
        patch.setattr(corpora, "readable", lambda path: _lost(path) if path.name in lost else readable(path))
        with pytest.raises(BadCorpus, match="cannot read 'b'"):
            write(corpus, "stopped", executor=BackwardsElsewhere(small_model))
    assert write(corpus, "stopped") == write(corpus)


def _lost(path):
    raise BadCorpus(f"cannot read {path.name!r}")


def test_an_index_made_elsewhere_of_texts_that_are_sent_has_the_same_bytes(small_model, file, tmp_path, monkeypatch):
    corpus = Corpus(str(file), skip_bad=True)
    want = builder.build(small_model, corpus, tmp_path / "a", Recipe()).sha256
    monkeypatch.setattr(corpora, "RANGE_BYTES", 200)
    elsewhere = BackwardsElsewhere(small_model, reaches=False)
    got = builder.build(small_model, corpus, tmp_path / "b", Recipe(), executor=elsewhere)
    assert got.sha256 == want
    assert {"Texts", "LoadedContexts"} <= set(elsewhere.taken)


def test_contexts_of_a_folder_are_numbered_through(write, tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, "RANGE_BYTES", 1)
    for name in "abc":
        (tmp_path / "texts").mkdir(exist_ok=True)
        (tmp_path / "texts" / name).write_text(name * 10)
    write(Corpus(str(tmp_path / "texts")), "here")
    found = Contexts(tmp_path / "here" / "contexts")
    assert [found.document(c) for c in range(len(found))] == ["a", "a", "b", "b", "c", "c"]
    assert found.starts.tolist() == [0, 7] * 3
    assert found.lengths().tolist() == [8, 4] * 3
