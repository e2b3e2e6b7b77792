"""Version 0.1.0's server does not say what part of a character a token is; today's client adds nothing.

The messages are made of what that server answered (answers.json).
"""

import json
from pathlib import Path

import numpy as np
import pytest

from polysem.client import terminal
from polysem.client.commands.questions import importance_json
from polysem.client.drawing import browser, dendrogram, notebook
from polysem.client.questions.examples import examples_of_batch
from polysem.client.questions.explain import explained_of
from polysem.client.questions.importance import importances_of_batch
from polysem.proto.facts import Answer
from polysem.proto.questions.examples import ExampleBatch
from polysem.proto.questions.explain import ExplanationBatch
from polysem.proto.questions.importance import ImportanceBatch
from polysem.proto.wire.batches import Joiner
from polysem.proto.wire.tensors import fill
from polysem.v1 import neuron_service_pb2 as pb

IN_A_CHARACTER = 2  # of the recorded examples: its key token is "", the first of 日


@pytest.fixture(scope="module")
def recorded():
    return json.loads((Path(__file__).parent / "answers.json").read_text())


def read(batch, message, **columns):
    """The batch of a message with these columns."""
    for name, values in columns.items():
        if isinstance(values, list):
            getattr(message, name).extend(values)
        else:
            fill(getattr(message, name), values)
    return Joiner(batch).add(type(message).FromString(message.SerializeToString()))


def ints(values):
    return np.array(values, np.int32)


def floats(values):
    return np.array(values, np.float32)


def joined(items, name):
    return [value for item in items for value in item[name]]


@pytest.fixture(scope="module")
def examples(recorded):
    found = recorded["examples"]
    return examples_of_batch(
        read(
            ExampleBatch,
            pb.GetExamplesResponse(),
            neurons=ints([one["neuron"] for one in found]),
            places=ints([one["place"] for one in found]),
            documents=[one["document"] for one in found],
            contexts=ints([one["context"] for one in found]),
            positions=ints([one["position"] for one in found]),
            activations=floats([one["activation"] for one in found]),
            n_tokens=ints([len(one["tokens"]) for one in found]),
            keys=ints([one["key"] for one in found]),
            tokens=joined(found, "tokens"),
            token_activations=floats(joined(found, "activations")),
        )
    )


def printed(what):
    with (console := terminal.console()).capture() as captured:
        console.print(what, width=100)
    return captured.get()


def test_a_key_token_is_the_text_that_was_sent(examples, recorded):
    assert "" in {one["tokens"][one["key"]] for one in recorded["examples"]}
    assert " " in {one["tokens"][one["key"]] for one in recorded["examples"]}
    for example, sent in zip(examples, recorded["examples"], strict=True):
        text = sent["tokens"][sent["key"]]
        assert example.key_part.text == text
        assert example.key_part.fraction == ""
        assert f"[[{text}]]" in repr(example)


def test_no_blank_is_called_a_space_and_no_token_a_part(examples):
    names = dict(dendrogram.key_tokens(examples))
    assert {"''", "' '"} <= set(names)
    assert not [name for name in names if "␠" in name or "/" in name or "\ufffd" in name]
    inside = examples[IN_A_CHARACTER]
    for whole in (False, True):
        text = printed(terminal.ExampleText(inside, whole))
        assert "''" in text
        assert "日" in text  # where it stood
        assert "/3" not in text
    assert "&#x27;&#x27;</span>日本" in notebook.example_html(inside)
    data = browser.example_data(inside)
    assert (data["key_token"], data["key_part"], data["key_name"]) == ("", "", "''")
    assert data["shown"][inside.key :][:3] == ["''", "", "日"]


def test_importance_says_no_more(recorded, examples):
    found = recorded["importance"]
    importances = importances_of_batch(
        read(
            ImportanceBatch,
            pb.MeasureImportanceResponse(),
            neurons=ints([one["neuron"] for one in found]),
            places=ints([one["place"] for one in found]),
            activations=floats([one["activation"] for one in found]),
            n_tokens=ints([len(one["tokens"]) for one in found]),
            tokens=joined(found, "tokens"),
            importances=floats(joined(found, "importances")),
        )
    )
    for one, sent in zip(importances, found, strict=True):
        assert [part.text for part in one.parts] == sent["tokens"]
        as_json = importance_json(one, examples[one.example])
        assert set(as_json["parts"]) == {""}
        assert "␠" not in printed(terminal.ImportanceText(one, examples[one.example]))


def test_a_text_of_your_own_says_no_more(recorded):
    found = recorded["strongest"]
    neurons, activations, shares, fires, _, _ = zip(*joined(found, "firings"), strict=True)
    batch = read(
        ExplanationBatch,
        pb.ExplainTextResponse(),
        positions=ints([one["position"] for one in found]),
        tokens=[one["text"] for one in found],
        n_activations=ints([len(one["firings"]) for one in found]),
        active_neurons=ints(neurons),
        activations=floats(activations),
        shares=floats(shares),
        fires=ints(fires),
        clusters=ints([-1] * len(neurons)),
        distances=floats([np.nan] * len(neurons)),
    )
    tokens = explained_of(Answer(batch, None, None))
    assert {token.part_of for token in tokens} == {(0, 0)}
    table = printed(terminal.explanation(tokens))
    assert "''" in table
    assert "␠" not in table
    assert "/3" not in table
