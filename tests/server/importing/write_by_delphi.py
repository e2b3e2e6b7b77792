"""Writes a cache of MLP neurons with delphi's own code: run beside its package (`make peers`).

python write_by_delphi.py CHECKPOINT TEXTS OUT

TEXTS is a JSON list. As delphi reads a corpus, its texts are joined by the tokenizer's end of text and cut into rows.
"""

import json
import sys
from pathlib import Path
from types import ModuleType

for name in ("vllm", "vllm.distributed", "vllm.distributed.parallel_state", "vllm.inputs"):
    module = ModuleType(name)
    for wanted in (
        "LLM", "SamplingParams", "TokensPrompt", "destroy_distributed_environment", "destroy_model_parallel",
    ):  # fmt: skip
        setattr(module, wanted, object)
    sys.modules[name] = module

import torch  # noqa: E402
from delphi.config import CacheConfig  # noqa: E402
from delphi.latents import LatentCache  # noqa: E402
from transformers import AutoModel, AutoTokenizer  # noqa: E402

WIDTH = 16

checkpoint, texts, out = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(checkpoint)
joined = tokenizer.eos_token.join(["", *json.loads(Path(texts).read_text())])
ids = tokenizer(joined)["input_ids"]
rows = torch.tensor(ids[: len(ids) // WIDTH * WIDTH]).view(-1, WIDTH)
modules = {f"h.{layer}.mlp.act": lambda activations: activations for layer in (0, 1)}
cache = LatentCache(AutoModel.from_pretrained(checkpoint).eval(), modules, batch_size=4)
cache.run(rows.numel(), rows)
cache.save_splits(n_splits=5, save_dir=Path(out))
cache.save_config(save_dir=Path(out), cfg=CacheConfig(cache_ctx_len=WIDTH), model_name=checkpoint)
