"""kill -9 of the server at random moments during jobs: are the results those of an undisturbed run, byte for byte?

    python tests/load/kill.py                # 20 kills, the demo's index; some ten minutes on 2 busy cores
    python tests/load/kill.py --kills 3 --index FOLDER --corpus FILE

A server runs an index job and a measure job undisturbed. Then, in another state folder, the same jobs are submitted in
turn; one to three times in each, at a random moment of the time that it took undisturbed, the server is killed and
started again. Every job must go on by itself and end with the same bytes. Exit status 1 where one did not.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from processes import indexed, sample, serving

from polysem.proto.errors import PolysemError


def submit(client, kind, number, corpus, best_cut):
    if kind == "index":
        return client.jobs.index(f"killed-{number}", corpus.name, request_id=f"{kind}-{number}")
    return client.jobs.measure(best_cut=best_cut, request_id=f"{kind}-{number}")


def finished(client, id_):
    *_, job = client.jobs.watch(id_, heartbeat_s=1)
    if job.state != "done":
        raise SystemExit(f"job {id_} is {job.state}: {job.error}")
    return job


def result(client, job, folder):
    return client.jobs.fetch(job.id, folder / f"{job.id}.result").read_bytes()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--index", type=Path, help="an index to serve and measure; default: the demo's")
    parser.add_argument(
        "--corpus", type=Path, help="a corpus to index; default: 1,000 short texts of pydocs, which are four shards"
    )
    parser.add_argument("--no-best-cut", action="store_true", help="a measure job of less work")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="polysem-kill-") as name:
        folder = Path(name)
        corpus = options.corpus or sample(folder / "sample.jsonl")
        arguments = (*indexed(options.index), "--corpora", corpus)
        wanted, lasted_s = {}, {}
        with serving(folder / "undisturbed", arguments) as server:
            for kind in ("index", "measure"):
                job = finished(server.client, submit(server.client, kind, 0, corpus, not options.no_best_cut).id)
                wanted[kind] = result(server.client, job, folder)
                lasted_s[kind] = (job.finished_at - job.started_at).total_seconds()
                print(
                    f"undisturbed: {kind} job {lasted_s[kind]:.1f} s, {job.result_bytes:,} bytes of result", flush=True
                )
        kills, ended, wrong = Counter(), Counter(), 0
        with serving(folder / "killed", arguments) as server:
            number = 0
            while sum(kills.values()) < options.kills:
                kind = ("index", "measure")[number % 2]
                job = submit(server.client, kind, number, corpus, not options.no_best_cut)
                for _ in range(min(draw.randint(1, 3), options.kills - sum(kills.values()))):
                    while not (job := server.client.jobs.get(job.id)).stage and not job.finished:
                        time.sleep(0.005)
                    time.sleep(draw.uniform(0, lasted_s[kind]))
                    job = server.client.jobs.get(job.id)
                    if job.finished:
                        break
                    server.kill()
                    kills[f"{kind}, {job.stage or job.state}"] += 1
                    print(
                        f"kill {sum(kills.values())}: {kind} job {number}, {job.stage} {job.done} of {job.total}",
                        flush=True,
                    )
                    server.start()
                    again = submit(server.client, kind, number, corpus, not options.no_best_cut)
                    assert again.id == job.id  # the same job, by its request
                job = finished(server.client, job.id)
                ended[kind] += 1
                if result(server.client, job, folder) != wanted[kind]:
                    wrong += 1
                    print(f"{kind} job {job.id} ended with other bytes")
                number += 1
    print(f"{sum(kills.values())} kills -9: " + "; ".join(f"{n} in {where}" for where, n in sorted(kills.items())))
    print(f"jobs ended: {dict(ended)}; with other bytes than undisturbed: {wrong}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    try:
        main()
    except PolysemError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
