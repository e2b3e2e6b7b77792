"""What all tests share: a seeded GPT-2 checkpoint, a small corpus, an index of the two, a server over it.

Everything is made here, in temporary folders; no hub and no network beyond loopback.
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from polysem.server.model.loading import load

os.environ["HF_HUB_OFFLINE"] = "1"  # an unknown model is told at once
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  # else 15: beside other tests its workers hardly run
os.environ.setdefault("POLYSEM_CACHE_DIR", str(Path(tempfile.gettempdir()) / "polysem-test-cache"))
STATE = tempfile.TemporaryDirectory(
    prefix="polysem-test-state-"
)  # of this process alone: a server goes on with its jobs
os.environ["XDG_STATE_HOME"] = STATE.name
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):  # they and their servers share the cores
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))

settings.register_profile("polysem", deadline=None, derandomize=True)
settings.load_profile("polysem")

MakeCheckpoint = Callable[..., Path]


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> MakeCheckpoint:
    """A function that writes a seeded GPT-2 with a byte-level tokenizer of 257 tokens (one a byte, and BOS)."""

    def make(
        name: str = "checkpoint",
        *,
        seed: int = 0,
        n_layer: int = 2,
        n_embd: int = 24,
        n_head: int = 2,
        n_positions: int = 32,
        bos: bool = True,
        **config: object,
    ) -> Path:
        import torch
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers
        from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
        from transformers.utils import logging

        logging.disable_progress_bar()
        folder = tmp_path_factory.mktemp(name)
        torch.manual_seed(seed)
        gpt2 = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=257,
                n_positions=n_positions,
                n_embd=n_embd,
                n_layer=n_layer,
                n_head=n_head,
                bos_token_id=256,
                eos_token_id=256,
                initializer_range=0.2,  # the usual 0.02 leaves all activations near 0
                **config,
            )
        )
        for block in gpt2.transformer.h:  # LayerNorms as training leaves them, not as it finds them
            torch.nn.init.normal_(block.ln_2.weight, 1.0, 0.3)
            torch.nn.init.normal_(block.ln_2.bias, 0.0, 0.3)
        torch.nn.init.constant_(gpt2.transformer.h[-1].mlp.c_fc.bias[3], -1000.0)  # a neuron that is never positive
        gpt2.save_pretrained(folder)
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        backend = Tokenizer(models.BPE({character: i for i, character in enumerate(alphabet)}, []))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        special = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"} if bos else {}
        PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def checkpoint(make_checkpoint: MakeCheckpoint) -> Path:
    return make_checkpoint()


@pytest.fixture(scope="session")
def small_model(checkpoint: Path) -> Any:
    """The checkpoint, loaded."""

    return load(str(checkpoint), "cpu")


TEXT = (
    "the model reads a window of text and each neuron fires at one token more than at any other; "
    "a café in Zürich sells 日本 tea 😀 def class return if None except import for while 0 1 2 3 4"
)
WORDS = TEXT.split()


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 documents of 1 to 24 words, drawn by a fixed rule; ids d000 … d119."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    lines = []
    for d in range(120):
        words = [WORDS[(d * 7 + i * i * 3 + i * d) % len(WORDS)] for i in range(1 + d * 5 % 24)]
        lines.append(json.dumps({"id": f"d{d:03d}", "text": " ".join(words)}))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def index_folder(small_model: Any, corpus_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of the checkpoint over the corpus: first, >= 0.5 of the maximum, at most 30 examples."""
    from polysem.proto.facts import Selection
    from polysem.server.corpus.documents import Corpus
    from polysem.server.indexing import builder

    out = tmp_path_factory.mktemp("index") / "small"
    recipe = builder.Recipe(Selection("first", 0.5, 30))
    builder.build(small_model, Corpus(str(corpus_file)), out, recipe)
    return out


@pytest.fixture(scope="session")
def polysem_client(index_folder: Path) -> Iterator[object]:
    """A client of a real server over the small index, on loopback."""
    import polysem.server

    with polysem.server.local(index_folder, device="cpu") as client:
        yield client
