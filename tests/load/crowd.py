"""Many callers at once: do a whole-model job, an index job or a greedy key make the others wait?

    python tests/load/crowd.py                # some three minutes
    python tests/load/crowd.py --seconds 3 --index FOLDER

64 clients ask for single neurons, each for the next as soon as it has one, without and with a job that measures the
whole model. Then one client pings every 5 ms while a job indexes a corpus. Then eight equal keys ask for whole layers,
one of them by twenty clients at once: how evenly was cost served? Exit status 1 where a call failed or was answered
otherwise than alone.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import grpc
import numpy as np
from figures import Figure, jain, ms, show
from processes import free_port, indexed, metric, sample, serving

from polysem.client import AsyncClient
from polysem.proto.neurons import parse_neurons
from polysem.proto.questions.clustering import Clustering, ClusterQuery, EmbeddingChoice, encode_cluster_query
from polysem.server.serving import keys

N_CLIENTS, N_KEYS = 64, 8
N_EACH, GREED = 2, 20  # requests of a key at any time, and times as many of the greedy one
LAYERS = [
    encode_cluster_query(
        ClusterQuery(parse_neurons("1.*"), "", EmbeddingChoice(), Clustering(algorithm))
    ).SerializeToString()
    for algorithm in ("hac", "scc")
]


async def keep_asking(client, ask, until):
    """Seconds of each call that `ask(client, number)` makes until then, and how many were answered wrongly."""
    taken, wrong, number = [], 0, 0
    while time.monotonic() < until:
        begun = time.perf_counter()
        right = await ask(client, number)
        taken.append(time.perf_counter() - begun)
        wrong += not right
        number += 1
    return taken, wrong


async def crowd(target, labels, seconds):
    """The same of 64 clients together; `labels` are those of neurons 0.0, 0.1 …"""

    async def ask(client, number):
        i = number % len(labels)
        (neuron,) = await client.cluster(f"0.{i}")
        return np.array_equal(neuron.labels, labels[i])

    async def one():
        async with AsyncClient(target) as client:
            await client.info()
            return await keep_asking(client, ask, until)

    until = time.monotonic() + 1 + seconds
    found = await asyncio.gather(*(one() for _ in range(N_CLIENTS)))
    return [s for taken, _ in found for s in taken], sum(wrong for _, wrong in found)


def beside_a_job(server, seconds):
    labels = [neuron.labels for neuron in server.client.cluster("0.0-49")]
    asyncio.run(crowd(server.target, labels, min(seconds, 3)))  # what is slow once
    alone, wrong = asyncio.run(crowd(server.target, labels, seconds))
    job = server.client.jobs.measure("*", algorithms=["hac", "scc"], layer_norms=["folded", "raw"])
    while not ((now := server.client.jobs.get(job.id)).done or now.finished):
        time.sleep(0.05)
    beside, also_wrong = asyncio.run(crowd(server.target, labels, seconds))
    job = server.client.jobs.get(job.id)
    server.client.jobs.cancel(job.id)
    p50, p99 = ms(alone, 50), ms(alone, 99)
    with_50, with_99 = ms(beside, 50), ms(beside, 99)
    print(
        f"{len(alone):,} calls without a job and {len(beside):,} with one, of which {job.done} of {job.total} was done"
    )
    return [
        Figure("single neurons, 64 clients, p50 beside a job", "", f"{p50:.0f} to {with_50:.0f} ms", None),
        Figure(
            "p99 beside a job", "at most 3 times", f"{p99:.0f} to {with_99:.0f} ms, {with_99 / p99:.2f} times",
            with_99 <= 3 * p99,
        ),
    ], wrong + also_wrong  # fmt: skip


def pinged(server, corpus, seconds):
    """Milliseconds of pings while a corpus is indexed."""

    async def ping(client, number):
        await client.info()
        await asyncio.sleep(0.005)
        return True

    async def ask():
        async with AsyncClient(server.target) as client:
            await client.info()
            return await keep_asking(client, ping, time.monotonic() + seconds)

    job = server.client.jobs.index(f"indexed-{time.time_ns()}", corpus.name)
    while not ((now := server.client.jobs.get(job.id)).stage or now.finished):
        time.sleep(0.01)
    taken, _ = asyncio.run(ask())
    taken = [s - 0.005 for s in taken]
    job = server.client.jobs.get(job.id)
    server.client.jobs.cancel(job.id)
    print(f"{len(taken):,} pings while a corpus was indexed; then it was at {job.stage}, {job.done} of {job.total}")
    p50, p99, most = ms(taken, 50), ms(taken, 99), ms(taken, 100)
    return Figure(
        "pings while an index job runs, p99", "below 50 ms", f"{p99:.0f} ms ({p50:.1f}, {most:.0f})", p99 < 50
    )


def fairness(folder, arguments, seconds):
    tokens = {key.id: token for key, token in (keys.create(folder, f"key {i}") for i in range(N_KEYS))}
    greedy, *others = tokens.values()
    port = free_port()

    async def ask(call, number):
        """Reads the answer as it comes, without making sense of it: the server is to be what all wait for."""
        return sum([1 async for _ in call(LAYERS[number % 2])]) > 0

    async def one(target, token, until):
        metadata = (("authorization", f"Bearer {token}"),)
        async with grpc.aio.insecure_channel(target) as channel:
            call = partial(channel.unary_stream("/polysem.v1.NeuronService/ClusterNeurons"), metadata=metadata)
            return await keep_asking(call, ask, until)

    async def all_of(target):
        """Cost served to each key while all of them want more, and the calls' outcomes."""
        begun = time.monotonic()
        asking = [greedy] * GREED * N_EACH + others * N_EACH
        tasks = [asyncio.create_task(one(target, token, begun + seconds)) for token in asking]
        costs = []
        for when in (begun + seconds / 5, begun + seconds):
            await asyncio.sleep(when - time.monotonic())
            costs.append(await asyncio.to_thread(metric, port, "cost_total", "key"))
        return [costs[1][key] - costs[0][key] for key in tokens], await asyncio.gather(*tasks)

    arguments = (*arguments, "--require-keys", "--metrics-port", port)
    with serving(folder, arguments, token=greedy) as server:
        costs, found = asyncio.run(all_of(server.target))
    index = jain(costs)
    print(f"{sum(len(taken) for taken, _ in found)} layers; cost by key: " + ", ".join(f"{cost:.3g}" for cost in costs))
    name = f"eight equal keys, one with {GREED} times the requests: Jain's index of cost"
    return Figure(name, "at least 0.95", f"{index:.3f}", index >= 0.95), sum(wrong for _, wrong in found)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30, help="of each part")
    parser.add_argument("--index", type=Path, help="default: the demo's")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="polysem-crowd-") as name:
        folder = Path(name)
        corpus = sample(folder / "corpus.jsonl", 3000, 600)
        with serving(folder / "state", (*indexed(options.index), "--corpora", corpus)) as server:
            figures, wrong = beside_a_job(server, options.seconds)
            figures.append(pinged(server, corpus, options.seconds))
        fair, also_wrong = fairness(folder / "keys", indexed(options.index), options.seconds)
    wrong += also_wrong
    show([*figures, fair, Figure("calls answered wrongly or not at all", "0", str(wrong), not wrong)])
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
