"""Peak memory of loading a model, beside the model's own home.

    python tests/benchmarks/loading.py FOLDER [--dtype bfloat16]

Target: at most 1.2 times the largest shard. Weights are read a tensor at a time, so it is a few tensors.
"""

import argparse
import threading
import time
from pathlib import Path

import given

from polysem.server.model.loading import DEMO_FOLDER, load


def resident() -> dict[str, int]:
    """Bytes of this process: private and file-backed. Linux."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(lines[name].split()[0]) << 10 for name in ("RssAnon", "RssFile")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=given.folder)
    parser.add_argument("--dtype", default="float32")
    arguments = parser.parse_args()
    load(str(DEMO_FOLDER), "cpu")  # what is imported once
    before, peak, done = resident(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, sum(resident().values()))
            time.sleep(0.002)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        model = load(str(arguments.model), "cpu", arguments.dtype)
    finally:
        done.set()
        watching.join()
    shard = max(path.stat().st_size for path in arguments.model.glob("*.safetensors"))
    beside = peak - sum(before.values()) - model.n_bytes
    print(
        f"{model.info.id} in {arguments.dtype}: {model.n_bytes / 1e6:,.0f} MB, the largest shard {shard / 1e6:,.0f} MB"
    )
    print(f"peak beside the model {beside / 1e6:,.0f} MB, {beside / shard:.2f} of the largest shard")


if __name__ == "__main__":
    with given.in_words():
        main()
