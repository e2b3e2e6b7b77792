"""What Python users expect of answers and clients: pickles, copies, tables, plain errors after `close`."""

import asyncio
import contextlib
import copy
import math
import pickle
from pathlib import Path

import numpy as np
import pandas
import polars
import pyarrow
import pytest

from polysem.client import AsyncClient, Client
from polysem.proto.errors import FailedPrecondition, InvalidArgument

QUESTIONS = {
    "cluster": lambda client: client.cluster("1.*"),
    "examples": lambda client: client.examples("1.5", "0.7"),
    "embed": lambda client: client.embed("1.5"),
    "statistics": lambda client: client.statistics("1.*"),
    "logit_effects": lambda client: client.logit_effects("1.*"),
    "importance": lambda client: client.importance("1.5", examples=[0, 1]),
    "similar": lambda client: client.similar("1.5", cluster=0),
    "labels": lambda client: client.labels("1.5-9"),
    "map": lambda client: client.map(1),
    "ablate": lambda client: client.ablate("1.5", n_tokens=2, n_controls=1),
    "explain": lambda client: client.explain("a café sells 日本 tea", "1.5", "1.6"),
    "neurons": lambda client: client.neurons(limit=20),
}


@pytest.fixture(params=QUESTIONS)
def question(request):
    return QUESTIONS[request.param]


# ---- Pickles and copies


@pytest.mark.parametrize("copied", [lambda answer: pickle.loads(pickle.dumps(answer)), copy.deepcopy, copy.copy])
def test_an_answer_can_be_pickled_and_copied(client, question, copied):
    answer = question(client)
    other = copied(answer)
    assert type(other) is type(answer)
    assert other.complete
    assert [repr(item) for item in other] == [repr(item) for item in answer]
    pandas.testing.assert_frame_equal(other.to_pandas(), answer.to_pandas())


@pytest.mark.parametrize("copied", [lambda answer: pickle.loads(pickle.dumps(answer)), copy.deepcopy])
def test_an_item_can_be_pickled_and_copied_alone(client, question, copied):
    for item in question(client)[:3]:
        assert repr(copied(item)) == repr(item)


def test_a_copied_neuron_says_that_it_has_no_connection(client):
    neuron = pickle.loads(pickle.dumps(client.cluster("1.5")[0]))
    assert neuron.cut(0.3).clusters
    with pytest.raises(FailedPrecondition, match=r"without a connection.*client\.examples\('1\.5'\)"):
        _ = neuron.examples
    with pytest.raises(FailedPrecondition, match="without a connection"):
        neuron.plot_compare()


def test_texts_that_were_read_go_along(client):
    (neuron,) = client.cluster("1.5")
    len(neuron.examples)
    assert pickle.loads(pickle.dumps(neuron)).examples[0].text == neuron.examples[0].text


def test_clients_are_not_copied_and_say_why(client):
    for made in (client, AsyncClient(client.target)):
        for copied in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="holds a connection"):
                copied(made)


# ---- Tables


def test_every_answer_becomes_a_table(client, question):
    answer = question(client)
    columns = answer.columns()
    n_rows = {len(column) for column in columns.values()}
    assert len(n_rows) == 1
    tables = answer.to_pandas(), answer.to_polars(), answer.to_arrow()
    for table, kind in zip(tables, (pandas.DataFrame, polars.DataFrame, pyarrow.Table), strict=True):
        assert isinstance(table, kind)
        assert [len(table)] == list(n_rows)
        names = table.column_names if kind is pyarrow.Table else list(table.columns)
        assert names == list(columns)


def test_a_table_of_nothing_has_the_columns(client):
    empty = client.examples("1.3")  # which never fires
    assert list(empty.to_pandas()) == list(client.examples("1.5").to_pandas())
    assert len(empty.to_pandas()) == len(empty.to_polars("token")) == len(empty.to_arrow()) == 0


def test_a_table_of_tokens_joins_to_the_texts(client):
    answer = client.examples("1.5", examples=[0, 3])
    rows = answer.to_pandas("token")
    assert ["".join(part["token"]) for _, part in rows.groupby("example", sort=False)] == [one.text for one in answer]
    assert rows["token"][rows["is_key"]].tolist() == [one.tokens[one.key] for one in answer]


def test_unknown_rows_are_refused(client):
    with pytest.raises(InvalidArgument, match="unknown per 'word'"):
        client.examples("1.5").to_pandas("word")


# ---- Arguments


def test_whole_floats_of_pandas_rows_are_ids(client):
    frame = pandas.DataFrame({"layer": [1.0, 0.0], "neuron": [5.0, 7.0], "score": [0.5, math.nan]})
    rows = frame[["layer", "neuron"]].to_numpy()
    assert [neuron.id for neuron in client.cluster(rows)] == [(1, 5), (0, 7)]
    assert [one.example for one in client.examples("1.5", examples=frame["layer"])] == [1, 0]
    with pytest.raises(InvalidArgument, match="is not a neuron"):
        client.cluster((1.5, 2.0))
    with pytest.raises(InvalidArgument, match="is not an example"):
        client.examples("1.5", examples=[math.nan])


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_time_without_end_is_none_and_no_number_is_refused(client, kind):
    for endless in (None, math.inf, 1e300, 10**400, np.float64("inf")):
        assert kind(client.target, timeout_s=endless)._timeout_s is None
    for wrong in (math.nan, 0, -1, "5", True, np.float64("nan")):
        with pytest.raises(InvalidArgument, match=r"timeout_s is .*; give seconds above 0") as raised:
            kind(client.target, timeout_s=wrong)
        assert raised.value.field == "timeout_s"
    with Client(client.target, timeout_s=math.inf) as patient:
        assert patient.info().version
        assert patient.serving(math.inf)


@pytest.mark.parametrize("text", [b"a text", bytearray(b"a"), 7, None])
def test_what_is_no_str_is_told(client, text):
    with pytest.raises(InvalidArgument, match=f"is of type {type(text).__name__}, not str") as raised:
        client.explain(text)
    assert ("text.decode()" in raised.value.message) == isinstance(text, bytes)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda client: client.cluster("1.5", seed=1.5), "seed is 1.5; give 0 to"),
        (lambda client: client.cluster("1.5", seed="1"), "seed is '1'; give 0 to"),
        (lambda client: client.cluster("1.5", n_null="9"), "n_null is '9'; give 0 to"),
        (lambda client: client.cluster("1.5", n_null=True), "n_null is True; give 0 to"),
        (lambda client: client.cluster("1.5", until_stable="yes"), "until_stable is 'yes'; give True or False"),
        (lambda client: client.cluster("1.5", silhouette_thresholds=0.5), "silhouette_thresholds must be numbers"),
        (lambda client: client.cluster("1.5", algorithm="scc", thresholds=[10**400]), "thresholds must be numbers"),
        (lambda client: client.cluster("1.5", algorithm=np.array(["hac", "scc"])), "unknown algorithm"),
        (lambda client: client.cluster("1.5", index="\udc80"), "the index is '.udc80'; give its name"),
        (lambda client: client.neurons(where=[("n_clusters", 1, 2)]), "give ends by metric"),
        (lambda client: client.neurons(sort_by=3), "sort_by is 3; give a metric's name"),
        (lambda client: Client(None), "None is no server: write host:port"),
        (lambda client: Client(Path("box")), "is no server: write host:port"),
        (lambda client: Client("bo\0x:5"), "is no address of a server"),
        (lambda client: Client("\udc80:5"), "is no address of a server"),
        (lambda client: Client("ipv4:999.1.1.1:5").info(), "is no address that gRPC can use"),
        (lambda client: Client("unix:/" + "x" * 300).info(), "is no address that gRPC can use"),
        (lambda client: Client(client.target, token=b"key"), "the token is no key of Polysem's"),
        (lambda client: Client(client.target, tls=None), "tls is None; give True, False, or the file"),
    ],
)  # fmt: skip
def test_an_argument_of_another_type_is_told_in_words(client, ask, words):
    with pytest.raises(InvalidArgument, match=words):
        ask(client)


def test_numbers_of_any_library_are_numbers(client):
    want = client.cluster("1.5", n_null=0, seed=3)[0].labels.tolist()
    assert client.cluster("1.5", n_null=np.int64(0), seed=np.uint8(3))[0].labels.tolist() == want
    assert [one.example for one in client.examples("1.5", examples=np.array(1))] == [1]


# ---- Closing


def test_after_close_our_error_is_raised(client, question):
    short = Client(client.target)
    started, fresh, read = question(short), question(short), question(short)
    whole = [repr(item) for item in read]
    next(iter(started))
    short.close()
    short.close()
    assert [repr(item) for item in read] == whole
    with pytest.raises(FailedPrecondition, match="this client is closed"):
        len(fresh)
    with contextlib.suppress(FailedPrecondition):  # the rest may have come already
        assert len(started) == len(read)
    for asked in (short.info, short.indexes, short.serving, lambda: short.jobs.list()):
        with pytest.raises(FailedPrecondition, match="this client is closed"):
            asked()


# ---- Event loops


def test_an_async_client_may_be_made_before_its_loop_runs(client):
    made = AsyncClient(client.target)

    async def ask():
        async with made:
            return await made.cluster("1.5")

    assert asyncio.run(ask())[0].id == (1, 5)


def test_an_async_client_says_what_is_wrong_across_two_loops(client):
    made = AsyncClient(client.target)

    async def info():
        return await made.info()

    asyncio.run(info())
    with pytest.raises(FailedPrecondition, match="first used in another event loop; make one in each loop"):
        asyncio.run(info())
    asyncio.run(made.close())


def test_an_answer_says_what_is_wrong_across_two_loops(client):
    made = AsyncClient(client.target)
    answer = made.cluster("*")

    async def first():
        async for neuron in answer:
            return neuron.id
        return None

    async def rest():
        return len(await answer)

    assert asyncio.run(first()) == (0, 0)
    with pytest.raises(FailedPrecondition, match="another event loop"):
        asyncio.run(rest())
