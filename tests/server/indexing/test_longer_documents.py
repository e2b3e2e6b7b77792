"""Documents that `--windows first` cuts are counted and said."""

import json

import pytest
from click.testing import CliRunner

from polysem.client.commands.cli import cli
from polysem.server.index.format import open_index

LENGTHS = (3, 8, 9, 20, 1)  # of bytes, which are tokens


@pytest.mark.parametrize(
    ("flags", "n", "words"),
    [
        (
            ["--windows", "first", "--no-bos"],
            2,
            "2 documents were longer than one context; --windows all reads them whole",
        ),
        (["--windows", "first", "--bos"], 3, "3 documents were longer than one context"),  # BOS takes a place
        (["--windows", "first", "--bos", "--max-documents", "2"], 1, "1 document was longer than one context"),
        (["--windows", "all", "--no-bos"], 0, ""),
    ],
)
def test_documents_longer_than_one_context_are_counted_and_said(checkpoint, tmp_path, flags, n, words):
    corpus, out = tmp_path / "c.jsonl", tmp_path / "index"
    corpus.write_text("".join(json.dumps({"text": "a" * length}) + "\n" for length in LENGTHS))
    command = ["index", "--model", checkpoint, "--corpus", corpus, "--out", out, "--context-length", "8", *flags]
    ran = CliRunner().invoke(cli, [*map(str, command), "--device", "cpu"])
    assert ran.exit_code == 0, ran.output
    assert words in ran.output
    assert ("longer than one context" in ran.output) == (n > 0)
    assert open_index(out).info.n_longer_documents == n
