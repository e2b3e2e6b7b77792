"""Answers are sequences that fill while they are read: lazy, read once, kept."""

import contextlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas
import polars
import pyarrow
import pytest

from polysem.client import Client
from polysem.client.baselines import Baselines
from polysem.client.questions.clustering import METRICS
from polysem.client.questions.significance import TESTS
from polysem.client.streams import Stream
from polysem.proto.errors import Cancelled, FailedPrecondition, Unavailable, UnknownNeuron

COLUMNS = ["layer", "neuron", *METRICS, *Baselines._fields, *TESTS, "method", "side"]

# ---- When something is asked


def test_nothing_is_asked_before_something_is_read(recorded):
    client, calls = recorded
    answers = [client.cluster("*"), client.embed("*"), client.examples("1.*")]
    assert [repr(answer) for answer in answers] == [
        f"<0 {noun}, not read yet>" for noun in ("neurons", "neurons", "examples")
    ]
    assert calls == []
    for answer in answers:
        assert answer[0] is not None
    assert calls == ["ClusterNeurons", "EmbedNeurons", "GetExamples"]


def test_what_was_read_is_not_asked_again(recorded):
    client, calls = recorded
    answer = client.cluster("0.*")
    assert [len(answer), len(list(answer)), len(list(answer)), len(answer[3:5])] == [96, 96, 96, 2]
    assert answer[0] is next(iter(answer))
    answer.to_pandas()
    assert calls == ["ClusterNeurons"]


def test_a_cut_asks_nothing(recorded):
    client, calls = recorded
    (neuron,) = client.cluster("1.5")
    for threshold in (0.0, 0.3, 2.0):
        assert neuron.cut(threshold).clusters
    assert calls == ["ClusterNeurons"]


def test_texts_are_asked_for_once_when_they_are_looked_at(recorded):
    client, calls = recorded
    (neuron,) = client.cluster("1.5")
    examples = neuron.examples
    assert calls == ["ClusterNeurons"]
    assert [examples[0].example, examples[29].example, neuron.examples[1].example] == [0, 29, 1]
    assert calls == ["ClusterNeurons", "GetExamples"]


# ---- Sequences


def test_an_answer_is_a_sequence(client):
    answer = client.cluster("0.0-9")
    whole = list(answer)
    assert len(answer) == 10
    assert answer[-1] is whole[-1]
    assert answer[2:5] == whole[2:5]
    assert answer[np.int64(3)] is whole[3]
    assert whole[4] in answer
    assert answer.index(whole[4]) == 4
    assert list(reversed(answer)) == whole[::-1]
    assert bool(answer)
    with pytest.raises(IndexError):
        answer[10]


def test_two_loops_may_go_on_side_by_side(client):
    answer = client.cluster("0.*")
    assert all(one is other for one, other in zip(answer, answer, strict=True))


def test_a_loop_left_early_goes_on_later(recorded):
    client, calls = recorded
    answer = client.cluster("*")
    for neuron in answer:
        if str(neuron.id) == "0.4":
            break
    assert len(answer) == 192
    assert calls == ["ClusterNeurons"]


def test_many_threads_may_read_one_answer(recorded):
    client, calls = recorded
    answer = client.cluster("*")
    with ThreadPoolExecutor(8) as pool:
        lengths = list(pool.map(lambda _: len([neuron.id for neuron in answer]), range(8)))
    assert lengths == [192] * 8
    assert calls == ["ClusterNeurons"]


def test_repr_shows_the_first_few(client):
    answer = client.cluster("0.0-9")
    assert "not read yet" in repr(answer)
    len(answer)
    lines = repr(answer).splitlines()
    assert lines[0] == "<10 neurons>"
    assert lines[1].strip().startswith("<Neuron 0.0: 30 examples in ")
    assert lines[6] == "  … 5 more"
    assert len(lines) == 7


# ---- Failures


def answers_then(error, good):
    yield from good
    raise error


def test_an_answer_that_failed_fails_again(client):
    answer = client.cluster("9.0")
    for read in (len, list, lambda answer: answer[0], lambda answer: answer.to_pandas()):
        with pytest.raises(UnknownNeuron):
            read(answer)


def test_half_an_answer_is_never_taken_for_a_whole_one(client):
    good = client.cluster("0.0")
    len(good)
    answer = Stream(answers_then(Unavailable("gone"), good._read), lambda answer: ["item"])
    assert answer[0] == "item"
    for _ in range(2):
        with pytest.raises(Unavailable, match="gone"):
            len(answer)
        with pytest.raises(Unavailable, match="gone"):
            answer[1]
    assert answer[0] == "item"


def test_an_interrupted_answer_is_never_taken_for_a_whole_one(client):
    answer = Stream(answers_then(KeyboardInterrupt(), []), list)
    with pytest.raises(KeyboardInterrupt):
        len(answer)
    with pytest.raises(Cancelled, match="reading this answer was interrupted; ask again"):
        len(answer)


def test_an_answer_whose_client_was_closed_is_whole_or_told(client):
    for _ in range(10):  # all of it may have come already, or not
        short = Client(client.target)
        answer = short.cluster("*")
        assert answer[0].id == (0, 0)
        short.close()
        with contextlib.suppress(FailedPrecondition):
            assert len(answer) == 192


# ---- Tables


def test_columns_have_a_row_a_neuron(client):
    answer = client.cluster("1.2-4", "0.0")
    columns = answer.columns()
    assert list(columns) == COLUMNS
    assert list(zip(columns["layer"].tolist(), columns["neuron"].tolist(), strict=True)) == [
        (1, 2),
        (1, 3),
        (1, 4),
        (0, 0),
    ]
    for name in METRICS:
        for value, neuron in zip(columns[name].tolist(), answer, strict=True):
            expected = getattr(neuron.metrics, name)
            assert (np.isnan(value) and expected is None) or value == expected
    assert columns["n_examples"].dtype == columns["n_clusters"].dtype == np.int32


def test_columns_have_a_row_an_example(client):
    answer = client.cluster("1.2-4", "0.0")
    columns = answer.columns("example")
    want = [(*neuron.id, i, label) for neuron in answer for i, label in enumerate(neuron.labels.tolist())]
    assert list(columns) == ["layer", "neuron", "example", "label", "letter", "method", "side"]
    assert set(columns.pop("side")) == {"positive"}
    assert columns.pop("letter")[:2] == ["A", "A"]
    assert set(columns.pop("method")) == {"matrix"}
    assert list(zip(*(column.tolist() for column in columns.values()), strict=True)) == want


def test_columns_of_neurons_without_examples_have_no_row(client):
    assert all(len(column) == 0 for column in client.cluster("1.3").columns("example").values())
    assert client.cluster("1.3").columns()["n_examples"].tolist() == [0]


@pytest.mark.parametrize("per", ["neuron", "example"])
def test_every_kind_of_table_holds_the_columns(client, per):
    answer = client.cluster("*")
    columns = answer.columns(per)
    tables = answer.to_pandas(per), answer.to_polars(per), answer.to_arrow(per)
    assert isinstance(tables[0], pandas.DataFrame)
    assert isinstance(tables[1], polars.DataFrame)
    assert isinstance(tables[2], pyarrow.Table)
    for table in tables:
        names = table.column_names if isinstance(table, pyarrow.Table) else list(table.columns)
        assert names == list(columns)
        for name, column in columns.items():
            if isinstance(column, list):
                assert list(map(str, table[name])) == column
                continue
            got = np.asarray(table[name])
            assert got.dtype == column.dtype
            np.testing.assert_array_equal(got, column)


def test_tables_are_of_neurons_if_nothing_is_said(client):
    assert list(client.cluster("1.*").to_pandas()) == COLUMNS
