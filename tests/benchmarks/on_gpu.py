"""All that needs a GPU, in at most eight minutes: the tests marked so, then every figure, kept in results/.

    make gpu          or    python tests/benchmarks/on_gpu.py           5.5 minutes at most
    make gpu-cuml     or    python tests/benchmarks/on_gpu.py --cuml    2.5 minutes at most, with cuML and CuPy

Tests come first. A run that takes longer than its share is stopped; its file says so, and what it had measured stays.
Results are named after the GPU: results/kernels-h200.md. Ends with 1 where a run failed or was stopped.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
GRACE = 0.8  # of its time, in which a benchmark begins measurements


class Run(NamedTuple):
    """name: of its file; without one its output is only shown. seconds: after which it is stopped."""

    name: str | None
    words: list[str]
    seconds: float


def test(*words, seconds):
    return Run(None, ["-m", "pytest", "-q", "-m", "gpu", *words], seconds)


def benchmark(name, script, *words, seconds):
    return Run(name, [f"tests/benchmarks/{script}.py", *words], seconds)


def budget(seconds):
    return ["--budget", f"{seconds * GRACE:g}"]


SMALL = [
    test(seconds=100),
    benchmark(
        "kernels", "kernels", "--device", "cuda", "--rounds", "3", "--seconds", "0.1", "--widths", "100", "256", "1000",
        "4096", "--rivals", "fastcluster", "NumPy + fastcluster", *budget(75), seconds=75,
    ),
    benchmark("whole-model", "whole_model", "--device", "cuda", *budget(40), seconds=40),
    benchmark("paper-scale", "paper_scale", seconds=90),
    benchmark("precision", "precision", "--device", "cuda", seconds=25),
]  # fmt: skip
LARGE = [
    test("tests/kernels/large", "tests/server/questions/test_memory.py", seconds=60),
    benchmark(
        "large", "large", "--device", "cuda", "--rounds", "2", "--examples", "5000", "20000", "100000", *budget(75),
        seconds=75,
    ),
    benchmark("large-near", "large", "--device", "cuda", "--data", "near", "--examples", "5000", "--paths", "search",
        "tree-25", *budget(15), seconds=15),
]  # fmt: skip


def carry_out(run, results, suffix):
    """Show what it prints, keep it, and return what went wrong, if anything did."""
    begin, lines, stopped = time.perf_counter(), [], threading.Event()
    words = [sys.executable, *run.words]
    with subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=HERE.parent.parent,
        start_new_session=True,
    ) as process:

        def stop():
            stopped.set()
            os.killpg(process.pid, signal.SIGKILL)  # and the processes of rivals

        clock = threading.Timer(run.seconds, stop)
        clock.start()
        for line in process.stdout:
            lines.append(line)
            print(line, end="", flush=True)
        clock.cancel()
        status = process.wait()
    problem = f"stopped after {run.seconds:g} s" if stopped.is_set() else f"failed with {status}" if status else ""
    if problem:
        lines.append(f"\nNot complete: {problem}.\n")
    if run.name:
        results.mkdir(exist_ok=True)
        (results / f"{run.name}-{suffix}.md").write_text("".join(lines))
    print(f"== {time.perf_counter() - begin:.0f} s{', ' + problem if problem else ''}\n", flush=True)
    return problem


def suffix_of(name):
    """ "h200" of "NVIDIA H200", "h100" of "NVIDIA H100 80GB HBM3"."""
    found = re.search(r"\b([A-Z]+\d+\w*)\b", name)
    return (found[1] if found else re.sub(r"\W+", "-", name)).lower()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuml", action="store_true", help="what is large, with cuML and CuPy")
    arguments = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        sys.exit("torch finds no GPU; `make setup` on a machine with one installs a build of torch for CUDA")
    suffix, problems = suffix_of(torch.cuda.get_device_name()), []
    for run in LARGE if arguments.cuml else SMALL:
        print(f"== {' '.join(run.words)}", flush=True)
        if problem := carry_out(run, HERE / "results", suffix):
            problems.append(f"{run.name or 'tests'}: {problem}")
    print("\n".join(problems) or "all complete")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
