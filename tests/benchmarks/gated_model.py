"""Every claim of speed about gated models beside its target, on a machine that does nothing else.

    make build/smollm2 && .venv/bin/python tests/benchmarks/gated_model.py build/smollm2 [--corpus FILE] [--short]

It runs indexing.py (positive side, then both) and gated.py, takes the median of their paired ratios, and exits with 1
where one is above its target. Where the machine is busy it says so first: ratios near their targets are then worth
little.
"""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import given

HERE = Path(__file__).parent
BUSY = 0.3  # load average a core, before anything is run
RATIO = re.compile(r"([\d.]+) \(([\d.]+) to ([\d.]+)\)")


class Claim(NamedTuple):
    """A row of the answer: where its ratio stands in the output, and the most that it may be."""

    name: str
    row: str  # the beginning of the line
    target: float


INDEXING = {
    "positive": [Claim("scan", "scan", 1.10), Claim("collect", "collect", 1.25)],
    "both": [Claim("scan, both sides", "scan", 1.15), Claim("collect, both sides", "collect", 1.25)],
}
DISTANCES = [
    Claim(f"gated distances, {n} examples", f"| {n} |", most)
    for n, most in {"100": 1.2, "256": 1.1, "1,000": 1.1}.items()
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=given.folder)
    parser.add_argument("--corpus", default="pydocs")
    parser.add_argument("--short", action="store_true", help="few rounds: whether it runs, not what it says")
    how = parser.parse_args()
    load = os.getloadavg()[0]
    if load > BUSY * (os.cpu_count() or 1):
        print(f"the machine is busy (load {load:.1f} on {os.cpu_count()} cores): take these for a first look\n")
    contexts, repeats, rounds = ("4", "2", "3") if how.short else ("32", "11", "41")
    print("| time over its baseline | median | least to most | target | |\n|---|---|---|---|---|", flush=True)
    holds = []
    for sides, claims in INDEXING.items():
        words = ["--model", str(how.model), "--corpus", how.corpus, "--contexts", contexts, "--context-length", "128"]
        holds += judged(claims, ran("indexing.py", *words, "--repeats", repeats, "--sides", sides))
    holds += judged(DISTANCES, ran("gated.py", "--rounds", rounds))
    sys.exit(0 if all(holds) else 1)


def ran(script: str, *words: str) -> str:
    run = subprocess.run([sys.executable, HERE / script, *words], check=False, stdout=subprocess.PIPE, text=True)
    if run.returncode:  # it has said why
        sys.exit(run.returncode)
    return run.stdout


def judged(claims: list[Claim], output: str) -> list[bool]:
    """Print a row a claim; whether each holds."""
    found = []
    for claim in claims:
        line = next(line for line in output.splitlines() if line.strip().startswith(claim.row))
        median, least, most = map(float, RATIO.search(line).groups())  # type: ignore[union-attr]
        found.append(median <= claim.target)
        verdict = "holds" if found[-1] else "**above**"
        print(
            f"| {claim.name} | {median:.2f} | {least:.2f} to {most:.2f} | {claim.target:.2f} | {verdict} |", flush=True
        )
    return found


if __name__ == "__main__":
    main()
