"""What a job says of a corpus with values that are no text, and of documents that it cuts or leaves out."""

import json

import pyarrow
import pytest
from click.testing import CliRunner
from pyarrow import parquet

import polysem.server
from polysem.client.commands.cli import cli

from .at_work import RULE, finished

LONG = "the model reads a window of text and stops"  # more tokens, which are bytes, than the 32 of a context
NO_UTF8 = pyarrow.Array.from_buffers(  # "ok", then bytes that are no UTF-8, then "zz"
    pyarrow.string(),
    3,
    [None, pyarrow.py_buffer(b"\0\0\0\0\2\0\0\0\4\0\0\0\6\0\0\0"), pyarrow.py_buffer(b"ok\xff\xfezz")],
)
NO_DATES = pyarrow.array([[10**18], [0], None], pyarrow.list_(pyarrow.timestamp("ms")))


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora")
    texts = ["one and one", LONG, "three"]
    for name, table in (
        ("text.parquet", {"text": NO_UTF8}),
        ("id.parquet", {"text": texts, "id": NO_UTF8}),
        ("date.parquet", {"text": texts, "id": NO_DATES}),
    ):
        parquet.write_table(pyarrow.table(table), folder / name)
    (folder / "bytes.jsonl").write_bytes(
        b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts) + b'{"text": "\xff"}\n'
    )
    (folder / "bytes.txt").write_bytes(f"one and one\n{LONG}\n".encode() + b"caf\xe9\n")
    return folder


@pytest.fixture(scope="module")
def server(index_folder, corpora, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYSEM_CORPORA", ":".join(map(str, sorted(corpora.glob("*.parquet")))))
        with polysem.server.local(index_folder, device="cpu", state=tmp_path_factory.mktemp("state")) as client:
            for upload in sorted(corpora.glob("bytes.*")):
                client.jobs.upload(upload)
            yield client


@pytest.mark.parametrize(
    ("corpus", "problem", "n_longer"),
    [
        ("text.parquet", "row 2 of 'text.parquet' is not UTF-8 in its field 'text'", 0),
        ("id.parquet", "row 2 of 'id.parquet' is not UTF-8 in its field 'id'", 0),
        ("date.parquet", "row 1 of 'date.parquet' has an id of type list<", 1),
        ("bytes.jsonl", "line 4 of 'bytes.jsonl' is not UTF-8", 1),
        ("bytes.txt", "line 3 of 'bytes.txt' is not UTF-8", 1),
    ],
)
def test_a_job_names_what_is_no_text_or_leaves_it_out_and_says_how_much(server, corpus, problem, n_longer):
    name = corpus.replace(".", "-")
    job = finished(server, server.jobs.index(name, corpus, selection=RULE))
    assert job.state == "failed"
    assert problem in job.error
    job = finished(server, server.jobs.index(name, corpus, selection=RULE, skip_bad_documents=True))
    assert job.state == "done", job.error
    cut = ("1 document was longer than one context; --windows all reads them whole",) * n_longer
    assert job.notes == (*cut, "1 document was no text and was left out")
    (index,) = (index for index in server.indexes() if index.name == name)
    assert (index.n_longer_documents, index.n_skipped_documents) == (n_longer, 1)
    assert tuple(index.notes) == job.notes


def test_the_notes_of_a_job_and_of_an_index_are_shown(server):
    job = finished(server, server.jobs.index("shown", "bytes.txt", selection=RULE, skip_bad_documents=True))
    for command in (["jobs", "show", job.id], ["jobs", "watch", job.id], ["info"]):
        shown = CliRunner().invoke(cli, [*command, "--server", server.target])
        assert shown.exit_code == 0, shown.output
        for note in job.notes:
            assert note in " ".join(shown.output.split())
    as_json = json.loads(CliRunner().invoke(cli, ["jobs", "show", job.id, "--json", "--server", server.target]).stdout)
    assert as_json["notes"] == list(job.notes)
    assert len(job.notes) == 2


def test_a_measure_job_and_an_index_without_cuts_have_no_notes(server):
    assert finished(server, server.jobs.measure("0.0", best_cut=False)).notes == ()
    whole = finished(server, server.jobs.index("whole", "bytes.txt", selection=RULE, windows="all", max_documents=2))
    assert whole.state == "done", whole.error
    assert whole.notes == ()
