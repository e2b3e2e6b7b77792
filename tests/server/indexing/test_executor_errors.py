"""What an executor raises is told as it is."""

import json

import pytest

from polysem.proto.errors import Unavailable
from polysem.proto.facts import Selection
from polysem.server.corpus.documents import Corpus
from polysem.server.indexing import builder
from polysem.server.indexing.builder import Recipe
from polysem.server.model.loading import load


class Away:
    def finish(self, ledger, stage):
        raise Unavailable("no worker came in 60 s; start some")


def test_errors_of_an_executor_stay_what_they_are(checkpoint, tmp_path):
    corpus = tmp_path / "c.jsonl"
    corpus.write_text(json.dumps({"text": "some text"}) + "\n")
    recipe = Recipe(Selection("first", 0.4, 5))
    with pytest.raises(Unavailable, match="no worker came in 60 s; start some"):
        builder.build(load(str(checkpoint), "cpu"), Corpus(str(corpus)), tmp_path / "index", recipe, executor=Away())
