"""The asyncio client gives what the other one gives."""

import asyncio

import numpy as np
import pytest

from polysem.client import AsyncClient, Clusters
from polysem.proto.errors import (
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    Unavailable,
    UnknownNeuron,
)

OPTIONS = [
    {},
    {"algorithm": "scc", "thresholds": [0.1, 0.4], "until_stable": True},
    {"algorithm": "components", "embedding": "pre_mlp"},
    {"linkage": "complete", "layer_norm": "raw", "distance_threshold": 0.25, "index": "pairs"},
]


def shown(neuron):
    """All that a neuron is, but the time it took."""
    return (
        neuron.id,
        neuron.labels.tolist(),
        neuron.linkage.tolist(),
        neuron.metrics,
        neuron.provenance,
        str(neuron.clusters),
    )


def shown_example(e):
    return (
        e.neuron,
        e.example,
        e.document,
        e.context,
        e.position,
        e.activation,
        list(e.tokens),
        e.activations.tolist(),
        e.key,
    )


def test_facts_are_the_same(client, with_async_client):
    async def ask(asynchronous):
        return await asynchronous.info(), await asynchronous.indexes()

    assert with_async_client(ask) == (client.info(), client.indexes())


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_clusters_are_the_same(client, with_async_client, options):
    async def ask(asynchronous):
        return await asynchronous.cluster("1.*", "0.3", **options)

    got = with_async_client(ask)
    assert isinstance(got, Clusters)
    assert list(map(shown, got)) == list(map(shown, client.cluster("1.*", "0.3", **options)))


@pytest.mark.parametrize("options", [{}, {"embedding": "pre_mlp", "layer_norm": "raw"}, {"index": "single"}], ids=str)
def test_embeddings_are_the_same(client, with_async_client, options):
    async def ask(asynchronous):
        return await asynchronous.embed("1.*", "0.3", **options)

    want = client.embed("1.*", "0.3", **options)
    got = with_async_client(ask)
    assert [e.id for e in got] == [e.id for e in want]
    for one, other in zip(got, want, strict=True):
        np.testing.assert_array_equal(one.embeddings, other.embeddings)


@pytest.mark.parametrize(
    "options", [{}, {"places": [3, 1]}, {"whole_context": True, "places": [0]}, {"index": "pairs"}], ids=str
)
def test_examples_are_the_same(client, with_async_client, options):
    async def ask(asynchronous):
        return await asynchronous.examples("1.0-9", "0.3", **options)

    got = with_async_client(ask)
    assert list(map(shown_example, got)) == list(map(shown_example, client.examples("1.0-9", "0.3", **options)))


def test_async_for_and_await_give_the_same(with_async_client):
    async def ask(asynchronous):
        return [neuron async for neuron in asynchronous.cluster("1.*")], await asynchronous.cluster("1.*")

    one_by_one, at_once = with_async_client(ask)
    assert list(map(shown, one_by_one)) == list(map(shown, at_once))


def test_what_was_read_can_be_read_again(with_async_client):
    async def ask(asynchronous):
        stream = asynchronous.cluster("1.*")
        first = await anext(aiter(stream))
        return first, await stream, await stream, [neuron async for neuron in stream]

    first, *again = with_async_client(ask)
    assert [len(answer) for answer in again] == [96] * 3
    assert shown(first) == shown(again[0][0])
    assert all(list(map(shown, answer)) == list(map(shown, again[0])) for answer in again)


def test_two_tasks_may_read_one_stream(with_async_client):
    async def ask(asynchronous):
        stream = asynchronous.cluster("1.*")
        return await asyncio.gather(stream._all(), stream._all())

    one, other = with_async_client(ask)
    assert list(map(shown, one)) == list(map(shown, other))


def test_many_questions_at_once_are_all_answered(client, with_async_client):
    async def ask(asynchronous):
        async def one(j):
            return await asynchronous.cluster(f"0.{j}", n_null=0)

        return await asyncio.gather(*(one(j) for j in range(96)))

    got = [shown(neuron) for (neuron,) in with_async_client(ask)]
    assert got == list(map(shown, client.cluster("0.*")))


def test_a_neuron_says_how_to_get_its_texts(with_async_client):
    async def ask(asynchronous):
        return (await asynchronous.cluster("1.5"))[0]

    with pytest.raises(
        FailedPrecondition, match=r"ask client\.examples\('1\.5'\) for its texts, of AsyncClient with await"
    ):
        _ = with_async_client(ask).examples


def test_wrong_arguments_are_told_at_once(with_async_client):
    async def ask(asynchronous):
        asynchronous.cluster("12")

    with pytest.raises(InvalidArgument, match="'12' is not a neuron"):
        with_async_client(ask)


def test_a_failed_stream_fails_again(with_async_client):
    async def ask(asynchronous):
        stream = asynchronous.cluster("9.0")
        for _ in range(2):
            with pytest.raises(UnknownNeuron):
                await stream
        with pytest.raises(UnknownNeuron):
            async for _ in stream:
                pass

    with_async_client(ask)


def test_a_stream_whose_reading_was_cancelled_is_not_taken_for_whole(with_async_client):
    async def ask(asynchronous):
        stream = asynchronous.cluster("*")
        reading = asyncio.ensure_future(stream._all())
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        with pytest.raises(Cancelled, match="was interrupted; ask again"):
            await stream

    with_async_client(ask)


def test_nobody_there_is_told():
    async def ask():
        async with AsyncClient("127.0.0.1:1") as nobody:
            calls = [
                nobody.info(),
                nobody.indexes(),
                nobody.cluster("0.0"),
                nobody.embed("0.0"),
                nobody.examples("0.0"),
            ]

            async def told(call):
                with pytest.raises(Unavailable, match=r"no Polysem server answers at 127\.0\.0\.1:1"):
                    await call

            await asyncio.gather(*map(told, calls))

    asyncio.run(ask())


def test_the_time_given_is_kept(with_async_client):
    async def ask(asynchronous):
        with pytest.raises(DeadlineExceeded, match="raise timeout_s"):
            await asynchronous.cluster("*", algorithm="scc")

    with_async_client(ask, timeout_s=1e-6)


def test_a_closed_client_says_so(with_async_client):
    async def ask(asynchronous):
        stream = asynchronous.cluster("0.0")
        await asynchronous.close()
        for call in (asynchronous.info(), asynchronous.indexes(), stream):
            with pytest.raises(FailedPrecondition, match="this client is closed"):
                await call

    with_async_client(ask)


def test_a_client_shows_its_target(client, with_async_client):
    async def ask(asynchronous):
        return repr(asynchronous)

    assert with_async_client(ask) == f"AsyncClient({client.target!r})"
