"""The paper's run in one process: 10,000 contexts of 1,024 tokens through GPT2-small, selection, x̂, Table 1.

    python tests/benchmarks/paper_scale.py [--tokenizer FOLDER] [--corpus FILE.jsonl] [--contexts 10000]
                                           [--device cuda] [--dtype bfloat16]

GPT2Config() with seeded weights and a real tokenizer, the demo's by default: true shapes and speeds, no meaning. The
corpus's texts, by default those that the running Python carries, are strung together at random until each document
fills a context. Table 1 is hac and scc of both embeddings, all 36,864 neurons, through the server. Everything ran once
before on a few contexts, so nothing is compiled in what is timed. The floor is the operations of both passes of the
model (the scan and the collection) over the measured product rate.
"""

import argparse
import json
import random
import resource
import tempfile
import time
from pathlib import Path

import given
import machine
import torch
from gpt2_small import checkpoint, size_mb
from rich.console import Console

from polysem.client.measuring import measurements, table1
from polysem.client.measuring.measure import Measuring
from polysem.proto.facts import Selection
from polysem.server import local
from polysem.server.corpus.documents import PYDOCS, Corpus
from polysem.server.indexing import builder
from polysem.server.model.loading import DEMO_FOLDER, load
from polysem.server.model.model import DTYPES

CHARACTERS = 7000  # of a document: more than 1,024 tokens of English


def strung_together(source, out, n_documents):
    texts = [document.text for document in Corpus(source).documents()]
    dice = random.Random(0)
    with out.open("w") as file:
        for i in range(n_documents):
            text = ""
            while len(text) < CHARACTERS:
                text += dice.choice(texts) + "\n"
            file.write(json.dumps({"id": i, "text": text}) + "\n")


def build(loaded, corpus, out):
    """Seconds of each stage, and the index."""
    begins = {}

    def progress(stage, n, total):
        begins.setdefault(stage, time.perf_counter())

    begin = time.perf_counter()
    index = builder.build(loaded, Corpus(str(corpus)), out, builder.Recipe(Selection()), progress)
    ends = [*list(begins.values())[1:], time.perf_counter()]
    begins = dict(zip(begins, [begin, *list(begins.values())[1:]], strict=True))
    return {stage: end - begins[stage] for stage, end in zip(begins, ends, strict=True)}, index


def product_rate(device, dtype):
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    taken = []
    for _ in range(5):
        begin = time.perf_counter()
        torch.mm(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - begin)
    return 2 * side**3 / min(taken)


def operations(info, n_contexts, n_tokens):
    """Of one pass: the weights' products, and attention's over the tokens before."""
    weights = 12 * info.d_model**2 * info.n_layers
    return 2 * weights * n_tokens + 2 * n_tokens * (n_tokens / n_contexts) * info.d_model * info.n_layers


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=given.folder, default=DEMO_FOLDER)
    parser.add_argument("--corpus", default=PYDOCS)
    parser.add_argument("--contexts", type=int, default=10_000)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), arguments)


def run(place, arguments):
    device = torch.device(arguments.device)
    checkpoint(place / "model", arguments.tokenizer)
    loaded = load(str(place / "model"), arguments.device, arguments.dtype)
    for name, n in (("few", min(64, arguments.contexts)), ("all", arguments.contexts)):
        strung_together(arguments.corpus, place / f"{name}.jsonl", n)
        taken, index = build(loaded, place / f"{name}.jsonl", place / name)
        with local(place / name, model=str(place / "model"), device=arguments.device, dtype=arguments.dtype) as client:
            begin = time.perf_counter()
            Measuring(client, best_cut=False).run(place / f"{name}.parquet")
            found = table1.tables(measurements.read(place / f"{name}.parquet"))
            taken["Table 1"] = time.perf_counter() - begin
    rate, info = product_rate(device, DTYPES[arguments.dtype]), index.info
    print(machine.heading(device))
    print(f"{arguments.dtype}; {info.n_contexts:,} contexts, {info.n_tokens:,} tokens")
    print(f"{info.n_examples:,} examples; {size_mb(place / 'all'):,.0f} MB on disk", end="; ")
    print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:,.0f} MB\n\n| stage | seconds |\n|---|---|")
    for stage, seconds in taken.items():
        print(f"| {stage} | {seconds:.1f} |")
    whole = sum(taken.values())
    floor = 2 * operations(loaded.info, info.n_contexts, info.n_tokens) / rate
    print(f"| all | {whole:.1f} |\n| all but tokenising | {whole - taken['tokenise']:.1f} |\n")
    print(f"Floor {floor:.1f} s: two passes of the model at {rate / 1e12:.2f} TFLOP/s.")
    console = Console(width=120)
    with console.capture() as shown:
        console.print(found)
    print(shown.get().replace(f"{place.resolve()}/", ""))
    print("\nComplete.")


if __name__ == "__main__":
    with given.in_words():
        main()
