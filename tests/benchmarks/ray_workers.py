"""Two workers of a Ray cluster against one, and against no cluster: the demo's index on this machine.

python tests/benchmarks/ray_workers.py [--documents 1000] [--rounds 3]

Each worker has one core (OMP_NUM_THREADS=1). In turn: the local executor, one worker, two workers; each builds the same
index, workers being up already. Seconds are those of the model's two passes, scan and collect, and of the whole build,
whose rest (joining, choosing, assembling) is the driver's, on all cores.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from polysem.server.model.loading import load
from polysem.server.model.model import Model, ModelDescription

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

from polysem.proto.work import shards
from polysem.server.corpus.documents import Corpus
from polysem.server.indexing import builder
from polysem.server.ray_cluster import sessions
from polysem.server.ray_cluster.pool import RayOptions


def build(known: ModelDescription, folder: Path, documents: int, executor: Any = None) -> tuple[float, float, str]:
    """Seconds of both passes and of the whole, and the index's sha256."""
    corpus, seen = Corpus("pydocs", max_documents=documents), dict[str, list[float]]()
    start = time.perf_counter()

    def progress(stage: str, n: int, total: int | None) -> None:
        seen.setdefault(stage, []).append(time.perf_counter())

    built = builder.build(known, corpus, folder, builder.PRESETS["paper"], progress, executor=executor)
    whole = time.perf_counter() - start
    begun = {"scan": seen["tokenise"][-1], "collect": seen["collect"][0]}
    return sum(seen[stage][-1] - begin for stage, begin in begun.items()), whole, built.sha256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    import ray

    ray.init(address="local", num_cpus=2, log_to_driver=False, logging_level="error", include_dashboard=False)
    loaded = load("demo", "cpu")
    shards.SHARD_CONTEXTS = 32
    times: dict[str, list[tuple[float, float]]] = {"here": [], "1 worker": [], "2 workers": []}
    hashes = set()
    with tempfile.TemporaryDirectory() as folder:
        for r in range(arguments.rounds):
            for name in times:
                *seconds, sha256 = measured(name, loaded, Path(folder) / f"{name}-{r}", arguments.documents)
                times[name].append((seconds[0], seconds[1]))
                hashes.add(sha256)
    ray.shutdown()
    assert len(hashes) == 1
    for name, found in times.items():
        passes, whole = (
            statistics.median(one[i] / these[i] for one, these in zip(times["1 worker"], found, strict=True))
            for i in range(2)
        )
        medians = [statistics.median(seconds) for seconds in zip(*found, strict=True)]
        print(f"{name}: passes {medians[0]:.1f}, whole {medians[1]:.1f} s; {passes:.2f} and {whole:.2f} times as fast "
              "as one worker")  # fmt: skip


def measured(name: str, loaded: Model, out: Path, documents: int) -> tuple[float, float, str]:
    if name == "here":
        return build(loaded, out, documents)
    n = int(name.split()[0])
    with sessions.building(loaded, Corpus("pydocs"), "cpu", RayOptions(workers=n)) as (known, executor):
        executor.wait_for(n)  # else the first would begin alone
        return build(known, out, documents, executor)


if __name__ == "__main__":
    main()
