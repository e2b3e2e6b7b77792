"""What serving costs: the whole model clustered in the engine alone and through the server, and pings meanwhile.

python tests/benchmarks/serving.py [--index DIR] [--repeats 5] [--no-pings]

Default: the demo's index. Server, asking client and pinging client are three processes. In turn: the work itself in
this process, in one run; the same neurons through gRPC, and again with a view made of each. Wall time counts what waits
for the processor, too; CPU time is the server's and the client's together over the engine's alone, and hardly minds
who else uses the machine. Then pings (GetServerInfo) go out every 5 ms while whole-layer and whole-model requests run.
"""

import argparse
import gc
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import given

from polysem.client import Client
from polysem.proto.neurons import parse_neurons
from polysem.proto.questions.clustering import ClusterQuery
from polysem.server.demo import indexes
from polysem.server.opening import open_engine
from polysem.server.questions import clustering
from polysem.server.settings import Settings

ASK = """
import sys
from polysem.client import Client
with Client(sys.argv[1]) as client:
    for _ in range(int(sys.argv[4])):
        len(client.cluster(sys.argv[2], algorithm=sys.argv[3]))
"""


class Spent(NamedTuple):
    """Seconds: on the clock, and of processor time in this process and in the server."""

    wall: float
    cpu: float


def server_cpu_s(server: subprocess.Popen[str]) -> float:
    """Of all its threads so far, in steps of 10 ms (Linux)."""
    fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def spent(run: Callable[[], object], server: subprocess.Popen[str]) -> Spent:
    cpu_s = server_cpu_s(server) + time.process_time()
    start = time.perf_counter()
    run()
    wall_s = time.perf_counter() - start
    return Spent(wall_s, server_cpu_s(server) + time.process_time() - cpu_s)


def report(name: str, through: list[Spent], alone: list[Spent]) -> None:
    ratios = sorted(a.wall / b.wall for a, b in zip(through, alone, strict=True))
    least = min(a.wall for a in through) / min(b.wall for b in alone)
    cpu = sum(a.cpu for a in through) / sum(b.cpu for b in alone)
    print(
        f"{name}: {statistics.median(ratios):.2f} times the engine's wall time ({ratios[0]:.2f} to {ratios[-1]:.2f}, "
        f"the least over the least {least:.2f}), {cpu:.2f} times its CPU time"
    )


def serve(folder: Path) -> tuple[subprocess.Popen[str], str]:
    """A server of the index on a free port, and its target."""
    command = [
        sys.executable,
        "-m",
        "polysem.client.commands.cli",
        "serve",
        "--index",
        folder,
        "--port",
        "0",
        "--device",
        "cpu",
    ]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    for line in server.stdout:
        if line.startswith("listening on "):
            return server, line.split()[2].rstrip(";")
    raise RuntimeError("the server did not start")


def pings(target: str, neurons: str, algorithm: str, repeats: int) -> list[float]:
    """Milliseconds of each ping while another process asks."""
    times = []
    asking = subprocess.Popen([sys.executable, "-c", ASK, target, neurons, algorithm, str(repeats)])
    with Client(target) as client:
        client.info()
        while asking.poll() is None:
            start = time.perf_counter()
            client.info()
            times.append((time.perf_counter() - start) * 1e3)
            time.sleep(0.005)
    assert asking.returncode == 0
    return sorted(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-pings", action="store_true")
    arguments = parser.parse_args()
    folder = arguments.index or indexes.ensure()
    engine = open_engine(Settings(index=[folder], device="cpu"))
    plan = clustering.plan(engine, ClusterQuery(parse_neurons("*")))
    server, target = serve(folder)
    try:
        alone, through, viewed = [], [], []
        gc.freeze()  # a client alone has not the engine's objects to look through
        with Client(target) as client:
            len(client.cluster("*"))
            plan.work.run(plan.items)
            for _ in range(arguments.repeats):
                alone.append(spent(lambda: plan.work.run(plan.items), server))
                through.append(spent(lambda: len(client.cluster("*")), server))
                viewed.append(spent(lambda: list(client.cluster("*")), server))
        wall_s, cpu_s = (statistics.median(values) for values in zip(*alone, strict=True))
        print(f"{len(plan.items)} neurons, engine alone {wall_s:.2f} s, {cpu_s:.2f} s of CPU time")
        report("through the client", through, alone)
        report("and a view of each", viewed, alone)
        added = statistics.median(t[0] / a[0] for t, a in zip(through, alone, strict=True)) - 1
        met = "yes" if added <= 0.15 else "no"
        print(f"| added to the engine's time by gRPC and the client | at most 15 % | {added:.0%} | {met} |")
        if arguments.no_pings:
            return
        for neurons, algorithm in (("1.*", "hac"), ("1.*", "scc"), ("*", "hac"), ("*", "scc")):
            times = pings(target, neurons, algorithm, arguments.repeats * (1 if neurons == "*" else 4))
            print(
                f"{len(times)} pings during {neurons} {algorithm}: median {statistics.median(times):.1f} ms, "
                f"99 % {times[int(len(times) * 0.99)]:.1f} ms, most {times[-1]:.1f} ms"
            )
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    with given.in_words():
        main()
