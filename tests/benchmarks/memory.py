"""Does memory grow with the corpus? Peak RSS of building an index, each in a process of its own.

    python tests/benchmarks/memory.py [--contexts 5000 100000]

A seeded GPT-2 of 2 layers and d_model 64 with the demo's tokenizer reads that many documents of a few words, selection
`first` and `top`; the scan keeps nothing, which would take a fourth of what is free.
Where the operating system counts mapped files in RSS, they are in it.
"""

import argparse
import multiprocessing
import random
import resource
import shutil
import tempfile
import time
from pathlib import Path

from polysem.server.model.loading import load


def corpus(path, n_documents):
    """Documents of 5 to 30 words of a small vocabulary."""
    dice = random.Random(0)
    words = [f"{a}{b}" for a in ("for", "while", "class", "def", "return", "import", "raise") for b in ("", "s", "ed")]
    with path.open("w") as file:
        for _ in range(n_documents):
            file.write(" ".join(dice.choices(words, k=dice.randint(5, 30))) + "\n")


def checkpoint(folder):
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from polysem.server.model.loading import DEMO_FOLDER

    shutil.copytree(DEMO_FOLDER, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    torch.manual_seed(0)
    config = GPT2Config(n_layer=2, n_embd=64, n_head=4, n_positions=64, vocab_size=4096, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(folder)


def build(model_folder, corpus_file, out, rule, answers):
    from polysem.proto.facts import Selection
    from polysem.server.corpus.documents import Corpus
    from polysem.server.indexing import builder

    begin = time.perf_counter()
    index = builder.build(
        load(str(model_folder), "cpu"),
        Corpus(str(corpus_file)),
        out,
        builder.Recipe(Selection(rule, 0.75, 100)),
        keep_bytes=0,
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    answers.put((index.info.n_contexts, index.info.n_tokens, index.info.n_examples, peak, time.perf_counter() - begin))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contexts", type=int, nargs="+", default=[5000, 100_000])
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        checkpoint(place / "model")
        print("| selection | contexts | tokens | examples | peak RSS, MiB | of the first | seconds |")
        print("|---|---|---|---|---|---|---|")
        for rule in ("first", "top"):
            smallest = None
            for n in arguments.contexts:
                corpus(place / f"{n}.txt", n)
                answers = context.Queue()
                given = place / "model", place / f"{n}.txt", place / f"{rule}-{n}", rule, answers
                process = context.Process(target=build, args=given)
                process.start()
                contexts, tokens, examples, peak, seconds = answers.get()
                process.join()
                smallest = smallest or peak
                print(
                    f"| {rule} | {contexts:,} | {tokens:,} | {examples:,} | {peak:,.0f} | {peak / smallest:.2f} "
                    f"| {seconds:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
