"""More than a server can do, and for long: is every call answered or refused in order, and does memory stay?

    python tests/load/overload.py             # some five minutes
    python tests/load/overload.py --seconds 3 --calls 2000 --index FOLDER

First as many layers are asked for as the server can cluster, by eight clients for a while. Then four times as many a
second for 60 s, without waiting for answers and without retries. Each call must end with all its neurons or with
RESOURCE_EXHAUSTED and the time to come back. Then 100,000 small calls of all kinds, by eight clients. Exit status 1
where a call ended otherwise or the server died.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import grpc
from figures import Figure, show
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from processes import indexed, serving

from polysem.client import AsyncClient
from polysem.v1 import neuron_service_pb2 as pb
from polysem.v1 import neuron_service_pb2_grpc as pb_grpc

LAYER = pb.ClusterNeuronsRequest(neurons=[pb.NeuronRange(layer=1)])
MAX_REQUESTS = 32  # in flight, so that refusals come soon
N_CLIENTS = 8


def neurons_in(message):
    """How many a message holds."""
    return message.neurons.shape[0] if message.neurons.shape else 0


def retry_hint_s(error):
    """Seconds that the refusal's RetryInfo says; 0 without one."""
    for detail in getattr(rpc_status.from_call(error), "details", ()):
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(retry):
            return retry.retry_delay.ToNanoseconds() / 1e9
    return 0.0


async def outcome(stub, n_neurons):
    """How one call ended: answered, refused, or in words what it should not be."""
    try:
        n = 0
        async for message in stub.ClusterNeurons(LAYER, timeout=300):
            n += neurons_in(message)
        return "answered" if n == n_neurons else f"{n} of {n_neurons} neurons"
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and retry_hint_s(error) > 0:
            return "refused"
        return f"{error.code().name}: {error.details()}"


async def capacity(stub, n_neurons, seconds):
    """Layers a second."""

    async def one():
        n = 0
        while time.monotonic() < until:
            assert await outcome(stub, n_neurons) == "answered"
            n += 1
        return n

    begun = time.monotonic()
    until = begun + seconds
    done = sum(await asyncio.gather(*(one() for _ in range(N_CLIENTS))))
    return done / (time.monotonic() - begun)


async def flood(server, stub, n_neurons, a_second, seconds):
    """Outcomes of so many calls a second, and the server's memory in MiB meanwhile, by the second."""
    calls, resident, begun = [], [], time.monotonic()
    while (now := time.monotonic() - begun) < seconds:
        while len(calls) < now * a_second:
            calls.append(asyncio.create_task(outcome(stub, n_neurons)))
        if len(resident) <= now:
            resident.append(server.resident_mib)
        await asyncio.sleep(min(0.01, 1 / a_second))
    return Counter(await asyncio.gather(*calls)), resident


async def overload(server, seconds):
    plain = (("grpc.enable_retries", 0),)
    async with grpc.aio.insecure_channel(server.target, plain) as channel:
        stub = pb_grpc.NeuronServiceStub(channel)
        n_neurons = (await stub.GetServerInfo(pb.GetServerInfoRequest())).model.n_neurons_per_layer
        can = await capacity(stub, n_neurons, min(seconds, 10))
        ended, resident = await flood(server, stub, n_neurons, 4 * can, seconds)
        again = await outcome(stub, n_neurons)
    other = {how: n for how, n in ended.items() if how not in ("answered", "refused")}
    early, late = resident[len(resident) // 4 : len(resident) // 2], resident[-max(len(resident) // 4, 1) :]
    growth = max(late) / max(early or resident) - 1
    print(f"capacity {can:.1f} layers a second; asked for {4 * can:.1f}: {dict(ended)}; afterwards: {again}")
    figures = [
        Figure(
            f"four times the capacity for {seconds:g} s: neither answered whole nor refused with a time", "0",
            f"{sum(other.values())} of {sum(ended.values()):,} ({ended['refused']:,} refused)", not other,
        ),
        Figure("memory meanwhile, last quarter over second", "flat", f"{growth:+.1%}", growth < 0.05),
        Figure("alive and answering afterwards", "yes", again, server.alive and again == "answered"),
    ]  # fmt: skip
    return figures, bool(other) or again != "answered"


async def endurance(server, n_calls):
    """Small calls of all kinds."""
    asks = (
        lambda client, i: client.cluster(f"0.{i % 50}"),
        lambda client, i: client.cluster(f"1.{i % 50}", algorithm="scc", embedding="pre_mlp"),
        lambda client, i: client.examples(f"0.{i % 50}", examples=[0]),
        lambda client, i: client.statistics(f"1.{i % 50}"),
        lambda client, i: client.neurons(limit=1, skip=i % 50),
        lambda client, i: client.embed(f"0.{i % 50}"),
    )
    numbers, wrong = iter(range(n_calls)), Counter()

    async def one():
        async with AsyncClient(server.target) as client:
            for number in numbers:
                try:
                    await asks[number % len(asks)](client, number)
                except Exception as error:
                    wrong[f"{type(error).__name__}: {error}"] += 1
                if number == n_calls // 10:
                    resident.append(server.resident_mib)  # all that is made once has been made

    resident, begun = [], time.monotonic()
    await asyncio.gather(*(one() for _ in range(N_CLIENTS)))
    before, after = resident[0], server.resident_mib
    print(
        f"{n_calls:,} calls in {time.monotonic() - begun:.0f} s; {before:.0f} to {after:.0f} MiB; failed: {dict(wrong)}"
    )
    grown = after / before - 1
    return Figure(
        f"{n_calls:,} calls: growth of memory after the first tenth", "below 5 %", f"{grown:+.1%}", grown < 0.05
    ), bool(wrong)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="of the flood")
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--index", type=Path, help="default: the demo's")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="polysem-overload-") as name:
        arguments = (*indexed(options.index), "--max-requests-in-flight", MAX_REQUESTS)
        with serving(Path(name), arguments) as server:
            figures, wrong = asyncio.run(overload(server, options.seconds))
            figure, also_wrong = asyncio.run(endurance(server, options.calls))
            alive = server.alive
    show([*figures, figure])
    print("the server lives" if alive else "the server died")
    sys.exit(wrong or also_wrong or not alive)


if __name__ == "__main__":
    main()
