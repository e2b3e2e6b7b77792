"""Two workers of a Ray cluster against one, and against no cluster: the demo's index on this machine.

python tests/benchmarks/ray_workers.py [--documents 1000] [--rounds 3]

Each worker has one core (OMP_NUM_THREADS=1). In turn: the local executor, one worker, two workers; each builds the same
index, workers being up already, so that what is compared is reading, choosing and writing, not starting.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

from polysem.server import indexing, model, ray_jobs
from polysem.server.corpus import Corpus
from polysem.server.on_ray import RayOptions


def build(known: model.Described, folder: Path, documents: int, executor: object = None) -> tuple[float, str]:
    corpus = Corpus("pydocs", max_documents=documents)
    start = time.perf_counter()
    built = indexing.build(known, corpus, folder, indexing.PRESETS["paper"], executor=executor)  # type: ignore[arg-type]
    return time.perf_counter() - start, built.sha256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    import ray

    ray.init(address="local", num_cpus=2, log_to_driver=False, logging_level="error", include_dashboard=False)
    loaded = model.load("demo", "cpu")
    times: dict[str, list[float]] = {"here": [], "1 worker": [], "2 workers": []}
    hashes = set()
    with tempfile.TemporaryDirectory() as folder:
        for r in range(arguments.rounds):
            for name in times:
                out = Path(folder) / f"{name}-{r}"
                if name == "here":
                    seconds, sha256 = build(loaded, out, arguments.documents)
                else:
                    n = int(name.split()[0])
                    corpus = Corpus("pydocs")
                    with ray_jobs.building(loaded, corpus, "cpu", RayOptions(workers=n)) as (known, executor):
                        while len(executor._crew.ready) < n:  # else the first would begin alone
                            time.sleep(0.1)
                            for reference in executor._crew.waiting:
                                executor._crew.begun(reference)
                        seconds, sha256 = build(known, out, arguments.documents, executor)
                times[name].append(seconds)
                hashes.add(sha256)
    ray.shutdown()
    assert len(hashes) == 1
    for name, found in times.items():
        against = statistics.median(a / b for a, b in zip(times["1 worker"], found, strict=True))
        print(f"{name}: {statistics.median(found):.1f} s ({min(found):.1f} to {max(found):.1f}), "
              f"{against:.2f} times as fast as one worker")  # fmt: skip


if __name__ == "__main__":
    main()
