"""Measures what scanning an SAE's latents costs beside the bare model, and beside the multiply-adds that it adds.

    python tests/benchmarks/latents.py --model build/smollm2 [--latents 16384] [--corpus pydocs] [--contexts 32]
                                       [--context-length 128] [--repeats 7] [--device cpu]
    python tests/benchmarks/latents.py --model demo --latents 65536 --memory 500 4000

In turn, over the same contexts in the same batches: `bare`, the model of transformers as it comes, without its head;
and `scan`, the first pass of an index of latents of a seeded SAE (ReLU) of the last layer's output. The share of
multiply-adds is F · d_model over those of all matrices of the model's layers, a token; attention between tokens is left
out. The target is twice that share.

With --memory: the peak RSS of building an index of the SAE's latents, of that many contexts each, in a process of its
own. Where the operating system counts mapped files in RSS, they are in it.
"""

import argparse
import multiprocessing
import resource
import statistics
import tempfile
import time
from pathlib import Path

import given
import torch
import transformers

from polysem.server.corpus.documents import Corpus
from polysem.server.index.contexts import Contexts
from polysem.server.indexing import builder, scan, widths
from polysem.server.indexing.builder import BATCH_TOKENS
from polysem.server.indexing.scan import ReadOptions
from polysem.server.indexing.windows import Windowing, write
from polysem.server.latents.encoder import Latents, Origin
from polysem.server.latents.firing import ReLU
from polysem.server.model.latent_model import LatentModel, with_latents
from polysem.server.model.loading import _source, load
from polysem.server.model.model import Model

TARGET = 2.0  # times the share of multiply-adds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--latents", type=int, default=16_384)
    parser.add_argument("--corpus", default="pydocs")
    parser.add_argument("--contexts", type=int, default=32)
    parser.add_argument("--context-length", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory", type=int, nargs="+", metavar="CONTEXTS", help="measure memory instead")
    how = parser.parse_args()
    if how.memory:
        measure_memory(how)
        return
    plain = load(how.model, how.device)
    layer, d_model = plain.info.n_layers - 1, plain.info.d_model
    model = seeded(plain, how.latents)
    bare = transformers.AutoModel.from_pretrained(_source(how.model), dtype=torch.float32).eval().to(plain.device)
    batch_tokens = widths.batch_tokens(model, BATCH_TOKENS[plain.device.type])
    bos_id = plain.tokenizer.bos_id if plain.wants_bos else None
    reading = ReadOptions(int(bos_id is not None), batch_tokens, (layer,), ("positive",), (how.latents,))
    with tempfile.TemporaryDirectory() as place:
        documents = Corpus(how.corpus, max_documents=how.contexts).documents()
        write(Path(place), documents, plain.tokenizer, Windowing(how.context_length, "first", bos_id))
        held = Contexts(Path(place))
        contexts = held.load(0, len(held))

    def run_bare() -> None:
        with torch.inference_mode():
            for batch in scan.batches(contexts, batch_tokens):
                bare(batch.tokens.to(plain.device), use_cache=False)

    def run_scan() -> None:
        scan.key_activations(model, contexts, reading, lambda n: None)

    ratios = []
    for _ in range(how.repeats + 1):
        taken = [timed(run, plain.device) for run in (run_bare, run_scan)]
        ratios.append(taken[1] / taken[0])
    ratios = sorted(ratios[1:])  # the first warms up
    of_model = sum(m.weight.numel() for m in bare.modules() if isinstance(m, torch.nn.Linear | transformers.Conv1D))
    share = how.latents * d_model / of_model
    most = 1 + TARGET * share
    median = statistics.median(ratios)
    threads = torch.cuda.get_device_name() if plain.device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"{threads}, torch {torch.__version__}: {len(contexts):,} contexts, {len(contexts.flat):,} tokens")
    print(f"{how.latents:,} latents of {plain.info.id}: {share:.3f} of its layers' multiply-adds; target {most:.2f}")
    print(f"scan over bare: median {median:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}), {verdict(median, most)}")


def seeded(plain: Model, n_latents: int) -> LatentModel:
    """The model with latents of a seeded SAE of the last layer's output."""
    d_model = plain.info.d_model
    dice = torch.Generator().manual_seed(0)
    weights = torch.randn((n_latents, d_model), generator=dice) / d_model**0.5
    fire, origin = ReLU(torch.full((n_latents,), -0.1)), Origin("seeded", "relu", "")
    of_layer = plain.info.n_layers - 1, "resid_post"
    latents = Latents(*of_layer, weights, fire, "seeded", "", origin, None, torch.zeros(d_model))
    return with_latents(plain, [latents.to(plain.device)])


def measure_memory(how: argparse.Namespace) -> None:
    print("| latents | contexts | tokens | dataset examples | peak RSS (MB) | seconds |\n|---|---|---|---|---|---|")
    spawning = multiprocessing.get_context("spawn")
    for n in how.memory:
        answers = spawning.Queue()
        process = spawning.Process(target=build, args=(how, n, answers))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"building an index of {n:,} contexts ended with {process.exitcode}")
        n_contexts, n_tokens, n_examples, peak, seconds = answers.get()
        print(f"| {how.latents:,} | {n_contexts:,} | {n_tokens:,} | {n_examples:,} | {peak:,.0f} | {seconds:,.0f} |")


def build(how: argparse.Namespace, n_contexts: int, answers) -> None:
    begin = time.perf_counter()
    model = seeded(load(how.model, how.device), how.latents)
    recipe = builder.Recipe(context_length=how.context_length)
    with tempfile.TemporaryDirectory() as place:
        info = builder.build(model, Corpus(how.corpus, max_documents=n_contexts), Path(place) / "index", recipe).info
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    answers.put((info.n_contexts, info.n_tokens, info.n_examples, peak, time.perf_counter() - begin))


def timed(run, device) -> float:
    begin = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def verdict(median: float, most: float) -> str:
    return "holds" if median <= most else "above its target"


if __name__ == "__main__":
    with given.in_words():
        main()
