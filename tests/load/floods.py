"""One key floods the server in every way that is known: do another key's calls and pings still come through?

    python tests/load/floods.py                    # some three minutes
    python tests/load/floods.py --seconds 2 --index FOLDER --only calls

Without and beside each flood a second key pings and asks for single neurons, one call after another. Its p99 should
stay below three times the quiet one, or 100 ms where that is more. The floods come from a process of their own, over
loopback, bounded in number and time: ordinary calls, streams that nobody reads, watches of a job, health watches,
uploads that drip, job calls, measure jobs, and streams that are opened and reset. Exit status 1 where a call of the
second key failed or the server died.
"""

import argparse
import asyncio
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

import grpc
import http2
from figures import Figure, ms, show
from processes import indexed, serving

from polysem.client import Client
from polysem.proto.errors import PolysemError
from polysem.server.serving import keys
from polysem.v1 import job_service_pb2 as job_pb
from polysem.v1 import job_service_pb2_grpc as job_grpc
from polysem.v1 import neuron_service_pb2 as pb
from polysem.v1 import neuron_service_pb2_grpc as pb_grpc

PLAIN = (("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1))
ONE = pb.ClusterNeuronsRequest(neurons=[pb.NeuronRange(layer=0, first=7, last=7)])
WHOLE = pb.ClusterNeuronsRequest(neurons=[pb.NeuronRange()])
TARGET_MS = 100.0


# ---- Floods: each runs in a process of its own until it is ended


async def _all(target, metadata, n, n_connections, one):
    """`one(channel, number)` n times at once over several connections."""
    channels = [grpc.aio.insecure_channel(target, PLAIN) for _ in range(n_connections)]
    await asyncio.gather(*(one(channels[i % n_connections], i) for i in range(n)))


def _forever(again):
    async def one(channel, number):
        while True:
            try:
                await again(channel, number)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.01)

    return one


def calls(target, metadata, job):
    """1,000 single neurons asked for at any time."""

    async def ask(channel, number):
        call = pb_grpc.NeuronServiceStub(channel).ClusterNeurons(ONE, metadata=metadata)
        async for _ in call:
            pass

    asyncio.run(_all(target, metadata, 1000, 10, _forever(ask)))


def pings(target, metadata, job):
    """1,000 pings at any time."""

    async def ask(channel, number):
        await pb_grpc.NeuronServiceStub(channel).GetServerInfo(pb.GetServerInfoRequest(), metadata=metadata)

    asyncio.run(_all(target, metadata, 1000, 10, _forever(ask)))


def unread(target, metadata, job):
    """1,024 whole models that nobody reads."""

    async def ask(channel, number):
        call = channel.unary_stream("/polysem.v1.NeuronService/ClusterNeurons")(
            WHOLE.SerializeToString(), metadata=metadata
        )
        await call.initial_metadata()
        await asyncio.sleep(3600)

    asyncio.run(_all(target, metadata, 1024, 16, _forever(ask)))


def watches(target, metadata, job):
    """2,000 watches of one job."""

    async def ask(channel, number):
        watching = job_grpc.JobServiceStub(channel).WatchJob(
            job_pb.WatchJobRequest(id=job, heartbeat_s=1), metadata=metadata
        )
        async for _ in watching:
            pass

    asyncio.run(_all(target, metadata, 2000, 20, _forever(ask)))


def health(target, metadata, job):
    """20,000 watches of the health service, without a key."""

    async def ask(channel, number):
        async for _ in channel.unary_stream("/grpc.health.v1.Health/Watch")(b""):
            pass

    asyncio.run(_all(target, (), 20_000, 100, _forever(ask)))


def uploads(target, metadata, job):
    """50 uploads of 1 GB each, of which a byte comes now and then."""

    async def ask(channel, number):
        async def drip():
            header = job_pb.CorpusHeader(name=f"drip-{number}.txt", bytes=10**9, sha256="0" * 64)
            yield job_pb.UploadCorpusRequest(header=header)
            while True:
                yield job_pb.UploadCorpusRequest(chunk=b"x")
                await asyncio.sleep(1)

        await job_grpc.JobServiceStub(channel).UploadCorpus(drip(), metadata=metadata)

    asyncio.run(_all(target, metadata, 50, 5, _forever(ask)))


def jobs(target, metadata, job):
    """500 calls about jobs at any time: lists, and new ones."""

    async def ask(channel, number):
        stub = job_grpc.JobServiceStub(channel)
        await stub.ListJobs(job_pb.ListJobsRequest(page_size=500), metadata=metadata)
        await stub.CreateJob(job_pb.CreateJobRequest(measure=job_pb.MeasureJob()), metadata=metadata)

    asyncio.run(_all(target, metadata, 500, 5, _forever(ask)))


def measuring(target, metadata, job):
    """One measure job of the whole model after another."""
    token = dict(metadata)["authorization"].removeprefix("Bearer ")
    with Client(target, token=token) as client:
        while True:
            *_, _ = client.jobs.watch(client.jobs.measure("*").id)


def resets(target, metadata, job):
    """Streams that are opened and reset at once, 20,000 a second at most, over one connection without a key."""
    while True:
        try:
            connection = http2.Connection(target)
            connection.socket.setblocking(True)
            stream, begun, sent = 1, time.monotonic(), 0
            while stream < 2**30:
                part = b"".join(
                    http2.call(s, b"/polysem.v1.NeuronService/GetServerInfo", message=None) + http2.reset(s)
                    for s in range(stream, stream + 400, 2)
                )
                connection.send(part)
                stream, sent = stream + 400, sent + 200
                time.sleep(max(0.0, begun + sent / 20_000 - time.monotonic()))
        except OSError:
            time.sleep(0.01)


FLOODS = {flood.__name__: flood for flood in (calls, pings, unread, watches, health, uploads, jobs, measuring, resets)}


# ---- The other key


def asked(client, seconds):
    """Seconds of each ping and of each single neuron, one after another, and those that failed."""
    taken, failed, until, number = {"ping": [], "neuron": []}, [], time.monotonic() + seconds, 0
    while time.monotonic() < until:
        for name in taken:
            begun = time.perf_counter()
            try:
                client.info() if name == "ping" else len(client.cluster(f"0.{number % 50}"))
            except PolysemError as error:
                failed.append(f"{name}: {type(error).__name__}: {error}")
            taken[name].append(time.perf_counter() - begun)
        number += 1
        time.sleep(0.005)
    return taken, failed


def beside(server, client, flood, metadata, job, seconds):
    process = multiprocessing.get_context("spawn").Process(
        target=flood, args=(server.target, metadata, job), daemon=True
    )
    before = server.resident_mib
    process.start()
    try:
        time.sleep(min(3, seconds))
        taken, failed = asked(client, seconds)
        return taken, failed, server.resident_mib - before
    finally:
        process.kill()
        process.join()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15, help="of each flood")
    parser.add_argument("--index", type=Path, help="default: the demo's")
    parser.add_argument("--only", choices=FLOODS, action="append", help="default: all")
    options = parser.parse_args()
    figures, wrong = [], []
    with tempfile.TemporaryDirectory(prefix="polysem-floods-") as name:
        folder = Path(name)
        (_, flooding), (_, quiet) = (keys.create(folder, owner) for owner in ("flooding", "quiet"))
        arguments = (*indexed(options.index), "--require-keys")
        with serving(folder, arguments, token=quiet) as server:
            metadata = (("authorization", f"Bearer {flooding}"),)
            with Client(server.target, token=flooding) as own:
                job = own.jobs.measure("*", algorithms=["hac"], best_cut=False).id
                *_, _ = own.jobs.watch(job)
                job = own.jobs.measure("*", request_id="watched").id if "watches" in (options.only or FLOODS) else job
                own.jobs.cancel(job)
            asked(server.client, 1)
            still, _ = asked(server.client, options.seconds)
            least = {name: ms(taken, 99) for name, taken in still.items()}
            print(f"quiet: ping p99 {least['ping']:.1f} ms, neuron p99 {least['neuron']:.1f} ms", flush=True)
            for name in options.only or FLOODS:
                taken, failed, grown = beside(server, server.client, FLOODS[name], metadata, job, options.seconds)
                wrong += failed
                for kind, seconds in taken.items():
                    most = max(3 * least[kind], TARGET_MS)
                    p50, p99, worst = (ms(seconds, percent) for percent in (50, 99, 100))
                    figures.append(
                        Figure(
                            f"{FLOODS[name].__doc__.rstrip('.')}: another key's {kind}, p99 (median, most)",
                            f"below {most:.0f} ms",
                            f"{p99:.0f} ms ({p50:.1f}, {worst:.0f}; {len(seconds)} calls, {len(failed)} failed; "
                            f"server {grown:+.0f} MiB)",
                            p99 < most and not failed,
                        )
                    )
                    print("   ", figures[-1].name, figures[-1].measured, flush=True)
                if not server.alive:
                    break
                time.sleep(min(3, options.seconds))
            alive = server.alive
    show(figures)
    print("the server lives" if alive else "the server died")
    for line in wrong[:10]:
        print("   ", line[:300])
    sys.exit(bool(wrong or not alive))


if __name__ == "__main__":
    main()
