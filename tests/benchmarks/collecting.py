"""What the collecting pass takes beside another commit's: a shard of contexts, by the whole stage.

    git worktree add build/before COMMIT
    python tests/benchmarks/collecting.py --before build/before [--contexts 64] [--sides both] [--rounds 7]

The embedded model over the first contexts of the embedded corpus, with the examples that rule `first` chooses. In turn,
each commit in a process of its own that stays; both must collect the same, to the byte.
"""

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import commits
import given


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=given.checkout, help="a checkout of the commit to compare with")
    parser.add_argument("--contexts", type=int, default=64)
    parser.add_argument("--sides", default="positive", choices=["positive", "both"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments)
    else:
        compare(arguments)


def compare(how):
    found = commits.in_turn(__file__, how.before, how.rounds)
    seconds = {name: [result["seconds"] for result in results] for name, results in found.items()}
    for name, taken in seconds.items():
        print(f"{name}: {statistics.median(taken):.3f} s ({min(taken):.3f} to {max(taken):.3f})")
    if "before" in seconds:
        ratios = sorted(now / before for now, before in zip(seconds["now"], seconds["before"], strict=True))
        print(f"now / before: {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})")


def child(how):
    import numpy as np

    from polysem.proto.facts import Selection
    from polysem.proto.sides import SIDES
    from polysem.server.corpus.documents import Corpus
    from polysem.server.index.contexts import Contexts
    from polysem.server.indexing import scan, selection, stages
    from polysem.server.indexing.builder import BATCH_TOKENS
    from polysem.server.indexing.negatives import Proposed
    from polysem.server.indexing.windows import Windowing, write
    from polysem.server.model.loading import load

    model, rule = load("demo", "cpu"), Selection()
    info, bos_id = model.info, model.tokenizer.bos_id if model.wants_bos else None
    with tempfile.TemporaryDirectory() as folder:
        documents = Corpus("pydocs", max_documents=how.contexts).documents()
        write(Path(folder), documents, model.tokenizer, Windowing(info.context_length, "first", bos_id))
        found = Contexts(Path(folder))
        loaded = found.load(0, len(found))
    layers, sides = tuple(range(info.n_layers)), SIDES if how.sides == "both" else SIDES[:1]
    widths = (info.n_neurons_per_layer,) * len(layers)
    reading = scan.ReadOptions(int(bos_id is not None), BATCH_TOKENS["cpu"], layers, sides, widths)
    scanned = scan.reduced(scan.key_activations(model, loaded, reading, lambda n: None), reading, rule)
    chosen = selection.select(scanned.candidates, scanned.sums.maximum, rule)
    none, parts = np.empty(0, np.int32), []
    for run in range(len(reading.runs)):
        of_run = scan.chosen_of_run(chosen, *reading.bounds[run : run + 2], info.context_length)
        parts.append(scan.ChosenByShard(of_run, Proposed(none, none, none), none).of(0, len(loaded))[0])
    keeps = "keeper" in stages.CollectStage.__dataclass_fields__  # commits before it had no other way
    stage = stages.CollectStage(reading, scanned.sums.maximum, *((len(loaded), None) if keeps else ()))
    for _ in sys.stdin:
        begin = time.perf_counter()
        arrays = stage(model, (loaded, parts), lambda n: None)()
        seconds = time.perf_counter() - begin
        digest = hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays.values()))
        print(json.dumps({"seconds": seconds, "digest": digest.hexdigest()}), flush=True)


if __name__ == "__main__":
    with given.in_words():
        main()
