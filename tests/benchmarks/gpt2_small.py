"""The whole of a GPT2-small-shaped model on this machine: time, peak memory and size of each stage.

    python tests/benchmarks/gpt2_small.py --tokenizer FOLDER --corpus FILE.jsonl [--documents 1700]
                                          [--context-length 128] [--dtype bfloat16] [--device cpu]

GPT2Config() with seeded weights and the real tokenizer: true shapes and speeds, no meaning. Each stage is a process of
its own, through the commands that a user types: `polysem index`, `polysem serve`, and `polysem measure --server` of all
36,864 neurons (hac, scc and components, both embeddings).
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import given

POLYSEM = (sys.executable, "-m", "polysem.client.commands.cli")


def checkpoint(folder, tokenizer):
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    shutil.copytree(tokenizer, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json", "README.md"))
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config())
    for block in model.transformer.h:  # LayerNorms as training leaves them, and activations that differ
        torch.nn.init.normal_(block.ln_2.weight, 1.0, 0.3)
        torch.nn.init.normal_(block.mlp.c_fc.weight, 0.0, 0.1)
    model.save_pretrained(folder)


def size_mb(path):
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6


def run(*words):
    """Seconds, peak resident MB and output of a command."""
    begin = time.perf_counter()
    process = subprocess.Popen([*POLYSEM, *map(str, words)], stdout=subprocess.PIPE, text=True)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"polysem {words[0]} failed")
    return time.perf_counter() - begin, usage.ru_maxrss / 1e3, output.strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=given.folder, required=True)
    parser.add_argument("--corpus", type=given.path, required=True)
    parser.add_argument("--documents", type=int, default=1700)
    parser.add_argument("--context-length", type=int, default=128)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        stages(Path(folder), arguments)


def stages(folder, arguments):
    model, index, out = folder / "model", folder / "index", folder / "measured.parquet"
    checkpoint(model, arguments.tokenizer)
    computing = ("--device", arguments.device, "--dtype", arguments.dtype)
    seconds, peak, said = run(
        "index", "--model", model, "--corpus", arguments.corpus, "--out", index, "--max-documents", arguments.documents,
        "--context-length", arguments.context_length, *computing,
    )  # fmt: skip
    print(said)
    print(f"index    {seconds:8.1f} s  peak {peak:8,.0f} MB  {size_mb(index):8,.0f} MB on disk", flush=True)

    begin = time.perf_counter()
    words = ("serve", "--index", index, "--port", "0", *computing)
    server = subprocess.Popen([*POLYSEM, *map(str, words)], stdout=subprocess.PIPE, text=True)
    try:
        port = next(match[1] for line in server.stdout if (match := re.search(r"listening on \S+:(\d+)", line)))
        print(f"serve    {time.perf_counter() - begin:8.1f} s until it is ready", flush=True)
        seconds, peak, _ = run("measure", "--server", f"127.0.0.1:{port}", "--out", out, "--no-best-cut")
        print(f"measure  {seconds:8.1f} s  peak {peak:8,.0f} MB  {size_mb(out):8,.1f} MB on disk (6 clusterings)")
    finally:
        server.terminate()
        server.stdout.read()
        _, _, usage = os.wait4(server.pid, 0)
    print(f"server            peak {usage.ru_maxrss / 1e3:8,.0f} MB, model and touched pages of the index among it")
    print(run("table1", out)[2])


if __name__ == "__main__":
    with given.in_words():
        main()
