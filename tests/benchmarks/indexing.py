"""What indexing costs beside the bare model: tokens/s of scan and collect, with and without what the scan keeps.

    python tests/benchmarks/indexing.py [--model demo | --tokenizer FOLDER] [--corpus pydocs] [--contexts 512]
                                        [--context-length 128] [--sides both] [--repeats 5] [--device cuda]
                                        [--dtype bfloat16]

In turn, over the same contexts in the same batches: `bare`, the model of transformers as it comes, without its head;
`forward`, ours without a visitor (its GELU is fused); `scan` (key activation and key token of every neuron in every
context, on each side) and `collect`, the two passes of an index; `scan and keep` with `collect kept`, which runs no
model, where memory holds what the scan keeps. `two passes` and `one pass` are the sums. With --tokenizer the model is a
seeded one of GPT2-small's shape.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import given
import gpt2_small
import numpy as np
import torch
import transformers

from polysem.proto.facts import Selection
from polysem.proto.sides import SIDES
from polysem.server.corpus.documents import Corpus
from polysem.server.index.contexts import Contexts, LoadedContexts
from polysem.server.indexing import collecting, keeping, scan, selection
from polysem.server.indexing.builder import BATCH_TOKENS
from polysem.server.indexing.negatives import Proposed
from polysem.server.indexing.scan import ReadOptions
from polysem.server.indexing.windows import Windowing, write
from polysem.server.model.loading import _source, load
from polysem.server.model.model import DTYPES, Model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--tokenizer", type=given.folder)
    parser.add_argument("--corpus", default="pydocs")
    parser.add_argument("--contexts", type=int, default=512)
    parser.add_argument("--context-length", type=int)
    parser.add_argument("--sides", default="positive", choices=["positive", "both"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder, name = Path(place), arguments.model
        if arguments.tokenizer:
            name = str(folder / "gpt2-small")
            gpt2_small.checkpoint(folder / "gpt2-small", arguments.tokenizer)
        loaded = load(name, arguments.device, arguments.dtype)
        bare = transformers.AutoModel.from_pretrained(_source(name), dtype=DTYPES[arguments.dtype])
        length = arguments.context_length or loaded.info.context_length
        bos_id = loaded.tokenizer.bos_id if loaded.wants_bos else None
        windowing = Windowing(length, "first", bos_id)
        documents = Corpus(arguments.corpus, max_documents=arguments.contexts).documents()
        (folder / "contexts").mkdir()
        write(folder / "contexts", documents, loaded.tokenizer, windowing)
        found = Contexts(folder / "contexts")
        contexts_, batch_tokens = found.load(0, len(found)), BATCH_TOKENS[loaded.device.type]
        sides = SIDES if arguments.sides == "both" else SIDES[:1]
        layers, width = tuple(range(loaded.info.n_layers)), loaded.info.n_neurons_per_layer
        reading = ReadOptions(int(bos_id is not None), batch_tokens, layers, sides, (width,) * len(layers))
        report(loaded, contexts_, reading, bare.eval().to(loaded.device), arguments.repeats)


def report(loaded: Model, contexts_: LoadedContexts, reading: ReadOptions, bare: torch.nn.Module, repeats: int) -> None:
    n, info, device = len(contexts_), loaded.info, loaded.device
    rule = Selection()

    def run_bare() -> None:
        with torch.inference_mode():
            for batch in scan.batches(contexts_, reading.batch_tokens):
                bare(batch.tokens.to(device), use_cache=False)

    def run_forward() -> None:
        for batch in scan.batches(contexts_, reading.batch_tokens):
            loaded.read(batch.tokens, None)

    def run_scan() -> scan.KeyActivations:
        return scan.key_activations(loaded, contexts_, reading, lambda n: None)

    scanned = scan.reduced(run_scan(), reading, rule)
    chosen_of_all = selection.select(scanned.candidates, scanned.sums.maximum, rule)
    none = np.empty(0, np.int32)  # negatives
    parts = []
    for run in range(len(reading.runs)):
        chosen = scan.chosen_of_run(chosen_of_all, *reading.bounds[run : run + 2], info.context_length)
        parts.append(scan.ChosenByShard(chosen, Proposed(none, none, none), none).of(0, n)[0])

    def run_collect() -> None:
        collecting.collect(loaded, contexts_, parts, scanned.sums.maximum, reading, lambda n: None, n)()

    def run_scan_and_keep() -> keeping.Kept | None:
        kept = keeping.Keeper(reading, rule, None, 1 << 62).begin(loaded, contexts_)
        assert kept is not None
        return kept.whole(scan.key_activations(loaded, contexts_, reading, lambda n: None, kept.see))

    held = run_scan_and_keep()
    assert held is not None

    def run_collect_kept() -> None:
        collecting.kept(loaded, contexts_, parts, scanned.sums.maximum, reading, held)()

    runs: dict[str, Callable[[], object]] = {
        "bare": run_bare,
        "forward": run_forward,
        "scan": run_scan,
        "collect": run_collect,
        "scan and keep": run_scan_and_keep,
        "collect kept": run_collect_kept,
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times[name].append(time.perf_counter() - start)
    for name, parts_ in (("two passes", ("scan", "collect")), ("one pass", ("scan and keep", "collect kept"))):
        times[name] = [sum(both) for both in zip(*(times[part] for part in parts_), strict=True)]
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    shape = f"{info.n_layers} layers, D = {info.d_model}, at most {reading.batch_tokens:,} tokens at once"
    print(f"{where}, torch {torch.__version__}, {loaded.dtype}: {shape}")
    print(f"{n:,} contexts, {len(contexts_.flat):,} tokens")
    print(f"{'':>13}  {'tokens/s':>10}  {'time over bare: median (least to most)':>40}")
    for name, taken in times.items():
        ratios = sorted(t / b for t, b in zip(taken, times["bare"], strict=True))
        rate = len(contexts_.flat) / statistics.median(taken)
        print(f"{name:>13}  {rate:>10,.0f}  {statistics.median(ratios):>20.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    with given.in_words():
        main()
