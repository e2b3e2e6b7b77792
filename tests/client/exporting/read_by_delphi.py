"""Prints what delphi's own loader and detection scorer make of a cache, as JSON: run beside its package (`make peers`).

python read_by_delphi.py CACHE TOKENIZER

delphi imports vllm at its top, for models of its own, and nothing here needs it: an empty module stands in its place.
"""

import asyncio
import json
import sys
from types import ModuleType

for name in ("vllm", "vllm.distributed", "vllm.distributed.parallel_state", "vllm.inputs"):
    module = ModuleType(name)
    for wanted in (
        "LLM", "SamplingParams", "TokensPrompt", "destroy_distributed_environment", "destroy_model_parallel",
    ):  # fmt: skip
        setattr(module, wanted, object)
    sys.modules[name] = module

from delphi.clients.client import Client, Response  # noqa: E402
from delphi.config import ConstructorConfig, SamplerConfig  # noqa: E402
from delphi.explainers.explainer import explanation_loader  # noqa: E402
from delphi.latents import LatentDataset  # noqa: E402
from delphi.scorers import DetectionScorer  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402


class Reader(Client):
    """A model that knows a latent's texts, and says so in the words that the scorer asks for."""

    def __init__(self, texts):
        super().__init__("reader")
        self.texts = texts

    async def generate(self, prompt, **options):
        asked = prompt[-1]["content"].partition("Example 0: ")[2]
        return Response(text=f"[{int(asked.removesuffix(chr(10)) in self.texts)}]")


async def main(cache, tokenizer):
    constructing = ConstructorConfig(
        example_ctx_len=32, min_examples=1, n_non_activating=20, non_activating_source="neighbours"
    )
    sampling = SamplerConfig(n_examples_train=100, n_examples_test=100, n_quantiles=1)
    dataset = LatentDataset(
        f"{cache}/latents", sampling, constructing, tokenizer=AutoTokenizer.from_pretrained(tokenizer)
    )
    found = []
    async for record in dataset:
        explained = await explanation_loader(record, f"{cache}/explanations")
        record.explanation = explained.explanation
        texts = {"".join(example.str_tokens) for example in record.test}
        scored = await DetectionScorer(Reader(texts), n_examples_shown=1)(record)
        found.append({
            "module": record.latent.module_name,
            "latent": record.latent.latent_index,
            "explanation": record.explanation,
            "tokens": [example.tokens.tolist() for example in record.examples],
            "activations": [example.activations.tolist() for example in record.examples],
            "others": [example.tokens.tolist() for example in record.not_active],
            "n_scored": len(scored.score),
            "n_activating": sum(one.activating for one in scored.score),
            "wrong": ["".join(one.str_tokens) for one in scored.score if not one.correct],
            "texts": sorted(texts),
        })  # fmt: skip
    print(json.dumps(found))


asyncio.run(main(*sys.argv[1:]))
