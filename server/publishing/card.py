"""The data card of a published index: what it is, how it was made, how it is read, and what a person has to fill in."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from polysem.proto.facts import IndexInfo
from polysem.server.index.format import Index, layers_in_words

CARD = "README.md"
PLACEHOLDER = "to be filled in before it is shared"  # as in the cards of exports


def written(index: Index, licence: str, n_bytes: Mapping[str, int]) -> str:
    """Return the card.

    licence  of the corpus's texts; "": a placeholder stands in its place
    n_bytes  of the folders
    """
    info = index.facts
    units = "latents" if info.encoders else "MLP neurons"
    size = ", ".join(f"`{name}` {count / 1e6:,.1f} MB" for name, count in n_bytes.items())
    return "\n".join([
        "---",
        f"license: {json.dumps(licence or 'unknown')}",
        f"pretty_name: {json.dumps(f'Dataset examples of the {units} of {info.model_id}')}",
        "tags: [interpretability, neuron-embeddings]",
        "configs:",
        "- config_name: examples",
        "  data_files: examples/*.parquet",
        "  default: true",
        "- config_name: neurons",
        "  data_files: neurons/*.parquet",
        "---",
        "",
        f"# Dataset examples of the {units} of {info.model_id}",
        "",
        f"For each {info.unit}, texts of a corpus at which it fires strongly: {_examples(info)}.",
        "",
        "## Before it is shared",
        "",
        f"- licence of the corpus's texts: {licence or f'**{PLACEHOLDER}**'}",
        f"- who shares it, and whom to ask: **{PLACEHOLDER}**",
        "",
        "## How it was made",
        "",
        *(f"- {name}: {value}" for name, value in _made(index, info)),
        "",
        "## What is in it",
        "",
        f"{size}. `SHA256SUMS` holds the hash of every file but this card: `sha256sum -c SHA256SUMS`.",
        "",
        "- `examples`: a row a dataset example. `position` is the key token's place in the context, `key` its place in",
        "  `token_ids`, which are at most 31 tokens around it; `activations` are those at these tokens.",
        "- `neurons`: a row each; `histogram` counts contexts by their highest activation, in 64 equal bins from 0",
        "  to the maximum.",
        "- `index/`: the index itself, with what the layer reads at each key token, to cluster the examples:",
        "  `polysem serve --index index`.",
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        'load_dataset("FOLDER_OR_NAME", "examples", split="train")',
        "```",
        "",
    ])  # fmt: skip


def _examples(info: IndexInfo) -> str:
    words = f"{info.n_examples:,} examples of {info.n_neurons_with_examples:,} {info.unit}s"
    if "negative" in info.sides:
        negative = f"{info.n_negative_examples:,} of {info.n_neurons_with_negative_examples:,} on the negative side"
        words += f", and {negative}"
    return words


def _made(index: Index, info: IndexInfo) -> Sequence[tuple[str, Any]]:
    rule, dtype = info.selection, index.manifest["model"].get("dtype", "float32")
    least = f"{rule.min_activation_fraction:g} of the maximum"
    how = {
        "first": f"the first {rule.max_examples:,} contexts at or above {least}",
        "top": f"the {rule.max_examples:,} contexts with the highest activations",
        "quantile": f"{rule.max_examples:,} contexts from ten equal bands of the activations, seed {rule.seed}",
    }[rule.rule]
    facts = [
        ("model", f"{info.model_id}, weights sha256 `{info.model_sha256}`, read in {dtype}"),
        ("tokenizer", f"sha256 `{index.manifest['tokenizer_sha256']}`"),
        ("corpus", f"{info.corpus_id}, sha256 `{info.corpus_sha256}`"),
        ("read", f"{info.n_documents:,} documents, {info.n_contexts:,} contexts ({info.windows} of each document) of "
         f"at most {info.context_length:,} tokens, {'with' if info.bos else 'without'} BOS; {info.n_tokens:,} tokens"),
        ("selection", f"{how}; one example a context"),
        ("layers", layers_in_words(info.held_layers)),
        ("sides", " and ".join(info.sides)),
        ("index", f"{info.name}, sha256 `{info.sha256}`"),
        ("made with", f"Polysem {info.software_version}"),
    ]  # fmt: skip
    return [*facts, *(("note", note) for note in info.notes)]
