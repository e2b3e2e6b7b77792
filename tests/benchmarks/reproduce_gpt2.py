"""`polysem reproduce` of a GPT2-small-shaped model and a corpus that are read from a hub: time and size of each stage.

    python tests/benchmarks/reproduce_gpt2.py --tokenizer FOLDER --corpus FILE.jsonl [--documents 200]
                                              [--context-length 128] [--neurons 20] [--tested 5] [--mixtures 1]
                                              [--out FOLDER]

GPT2Config() with seeded weights (12 layers, 768 wide) and the first documents of the corpus, served by the tests' hub
on this machine: true shapes and the whole way of the command, no meaning. Prints what the command says,
seconds, sizes and peak memory.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import pyarrow
from pyarrow import parquet

sys.path.insert(0, str(Path(__file__).parent.parent / "server" / "corpus"))
import gpt2_small
import hub


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=200)
    parser.add_argument("--context-length", type=int, default=128)
    parser.add_argument("--neurons", type=int, default=20)
    parser.add_argument("--tested", type=int, default=5)
    parser.add_argument("--mixtures", type=int, default=1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        study(Path(folder), arguments)


def study(folder, arguments):
    model, texts, out = folder / "model", folder / "texts" / "data", arguments.out or folder / "study"
    gpt2_small.checkpoint(model, arguments.tokenizer)
    texts.mkdir(parents=True)
    with arguments.corpus.open(encoding="utf-8") as lines:
        first = [json.loads(line)["text"] for line in islice(lines, arguments.documents)]
    parquet.write_table(pyarrow.table({"text": first}), texts / "train-00000-of-00001.parquet")
    named = {
        "model": "lab/gpt2",
        "corpus": "hf:lab/texts",
        "max-documents": arguments.documents,
        "context-length": arguments.context_length,
        "neurons": arguments.neurons,
        "tested": arguments.tested,
        "mixtures": arguments.mixtures,
        "suggested": 0,
        "device": "cpu",
        "out": out,
    }
    words = [word for name, value in named.items() for word in (f"--{name}", str(value))]
    with hub.serving({"a" * 40: texts.parent}, model) as serving:
        environment = os.environ | serving.environment | {"HF_HOME": str(folder / "home")}
        begin = time.perf_counter()
        process = subprocess.Popen([*gpt2_small.POLYSEM, "reproduce", *words], env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
    if status:
        sys.exit("polysem reproduce failed")
    taken = json.loads((out / "study.json").read_text())["seconds"]
    print(f"checkpoint {gpt2_small.size_mb(model):,.0f} MB, sent in {sum(n for *_, n in serving.sent) / 1e6:,.0f} MB")
    for name, took in taken.items():
        print(f"{name:16} {took:8.1f} s  {gpt2_small.size_mb(out / name):10,.2f} MB")
    print(f"{'all':16} {seconds:8.1f} s  {gpt2_small.size_mb(out):10,.2f} MB  peak {usage.ru_maxrss / 1e3:,.0f} MB")


if __name__ == "__main__":
    main()
