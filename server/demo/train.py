"""Trains the embedded model: a small GPT-2, with a tokenizer of its own, on the corpus `pydocs`.

    python -m polysem.server.demo.train --out FOLDER

The length of a run is a number of epochs, never a time: the same Python, seed and number of threads give the
same model. What the model reads here looks like what the indexer feeds it: BOS and the first tokens of a
document, or a later window of it; never two documents in one.
"""

import argparse
import hashlib
import math
import platform
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from polysem.server.corpus import pydocs

END_OF_TEXT = "<|endoftext|>"
N_HELD_OUT_IN_1000 = 50
POOL = 512  # windows sorted by length together: little padding, and still mixed
IGNORED = -100  # what cross_entropy takes for "no target"


@dataclass(frozen=True)
class Recipe:
    """All that decides the outcome, besides the corpus and the number of threads."""

    seed: int = 0
    epochs: int = 5
    vocab_size: int = 4096
    context_length: int = 128  # tokens, BOS included
    d_model: int = 256
    n_layers: int = 4
    n_heads: int = 4
    batch_tokens: int = 2048  # at most, padding included
    learning_rate: float = 1.5e-3
    warmup_steps: int = 150
    weight_decay: float = 0.1
    gradient_norm: float = 1.0  # clipped to


class Corpus(NamedTuple):
    """One split of pydocs."""

    windows: list[list[int]]  # token ids, each window with BOS first
    n_documents: int
    n_tokens: int  # without BOS: the tokens that are predicted
    n_bytes: int


class Loss(NamedTuple):
    """Mean cross-entropy; bits per byte do not depend on the tokenizer."""

    nats_per_token: float
    bits_per_byte: float


class Results(NamedTuple):
    """Results of a run; all but the first on the held-out documents."""

    train_nats: float  # a token, mean over the last epoch
    trained: Loss
    stored: Loss  # after the round trip through float16
    unigram: Loss


def main(arguments: list[str] | None = None) -> None:
    """Train with the given arguments (default: the command line's) and write the model and its card."""
    parser = argparse.ArgumentParser(prog="python -m polysem.server.demo.train", description="Train the demo's model.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; its model is replaced every epoch")
    parser.add_argument("--epochs", type=int, default=Recipe.epochs, help="passes over the corpus (%(default)s)")
    parser.add_argument("--seed", type=int, default=Recipe.seed, help="(%(default)s)")
    options = parser.parse_args(arguments)
    train(Recipe(seed=options.seed, epochs=options.epochs), options.out)


def train(recipe: Recipe, out: Path) -> None:
    """Train a model on pydocs and write it to `out`: config, float16 safetensors, tokenizer, model card."""
    started = time.monotonic()
    torch.manual_seed(recipe.seed)
    train_texts, held_out_texts = split(pydocs.documents())
    tokenizer = train_tokenizer(train_texts, recipe.vocab_size)
    tokenizer.model_max_length = recipe.context_length
    tokenizer.save_pretrained(out)
    corpus = read(tokenizer, train_texts, recipe.context_length)
    held_out = read(tokenizer, held_out_texts, recipe.context_length)
    baseline = unigram_loss(corpus, held_out, recipe.vocab_size)
    say(f"{corpus.n_documents} texts, {corpus.n_tokens} tokens, unigram {baseline.nats_per_token:.3f} nats")

    model = new_model(recipe, tokenizer.bos_token_id)
    train_nats = fit(model, corpus, held_out, recipe, out)
    stored = GPT2LMHeadModel.from_pretrained(out, use_safetensors=True)
    results = Results(train_nats, loss(model, held_out), loss(stored, held_out), baseline)
    minutes = (time.monotonic() - started) / 60
    card = model_card(recipe, corpus, held_out, results, model.num_parameters(), minutes)
    (out / "README.md").write_text(card, "utf-8")
    say(card)


def say(line: str) -> None:
    """Report progress at once, also into a file or a pipe."""
    print(line, flush=True)


# The data


def is_held_out(name: str) -> bool:
    """Whether document `name` is kept from training; all pieces of a text go the same way."""
    digest = hashlib.sha256(pydocs.source_name(name).encode()).digest()
    return int.from_bytes(digest[:8], "big") % 1000 < N_HELD_OUT_IN_1000


def split(documents: Iterable[tuple[str, str]]) -> tuple[list[str], list[str]]:
    """The texts to train on, and the held-out ones."""
    parts: tuple[list[str], list[str]] = ([], [])
    for name, text in documents:
        parts[is_held_out(name)].append(text)
    return parts


def train_tokenizer(texts: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE as GPT-2's: any text round-trips; `<|endoftext|>` is BOS, EOS and padding."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        unk_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )


def read(tokenizer: PreTrainedTokenizerFast, texts: list[str], context_length: int) -> Corpus:
    """The texts as windows of BOS and at most `context_length` − 1 tokens, never two documents in one."""
    windows, n_tokens, step = [], 0, context_length - 1
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
        n_tokens += len(ids)
        windows += [[tokenizer.bos_token_id, *ids[i : i + step]] for i in range(0, len(ids), step)]
    return Corpus(windows, len(texts), n_tokens, sum(len(text.encode()) for text in texts))


def batches(corpus: Corpus, batch_tokens: int, generator: torch.Generator) -> Iterator[list[list[int]]]:
    """An epoch: windows in random order, those of similar length together, up to `batch_tokens` a batch."""
    order = torch.randperm(len(corpus.windows), generator=generator).tolist()
    found: list[list[list[int]]] = []
    for start in range(0, len(order), POOL):
        pool = sorted((corpus.windows[i] for i in order[start : start + POOL]), key=len)
        found.append([])
        for window in pool:
            if len(window) * (len(found[-1]) + 1) > batch_tokens:
                found.append([])
            found[-1].append(window)
    return (found[i] for i in torch.randperm(len(found), generator=generator).tolist())


def padded(windows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Token ids (B, T) int64, padded behind; the tokens they predict (B, T−1) int64, IGNORED in padding."""
    length = max(len(window) for window in windows)
    ids = torch.tensor([window + [0] * (length - len(window)) for window in windows])
    targets = torch.tensor([window[1:] + [IGNORED] * (length - len(window)) for window in windows])
    return ids, targets


# The model


def new_model(recipe: Recipe, bos_token_id: int) -> GPT2LMHeadModel:
    """A GPT-2 with its usual random weights. Few epochs do not overfit, so there is no dropout."""
    config = GPT2Config(
        vocab_size=recipe.vocab_size,
        n_positions=recipe.context_length,
        n_embd=recipe.d_model,
        n_layer=recipe.n_layers,
        n_head=recipe.n_heads,
        activation_function="gelu_new",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=bos_token_id,
        eos_token_id=bos_token_id,
    )
    return GPT2LMHeadModel(config)


def summed_loss(model: GPT2LMHeadModel, windows: list[list[int]]) -> tuple[Tensor, int]:
    """The cross-entropy in nats, summed over all predicted tokens (all but BOS), and their number.

    Padding stands behind the text and attention looks back only, so it needs no mask.
    """
    ids, targets = padded(windows)
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()  # (B, T-1, vocab)
    nats = cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
    return nats, int((targets != IGNORED).sum())


@torch.inference_mode()
def loss(model: GPT2LMHeadModel, corpus: Corpus) -> Loss:
    """The model's loss on all windows, in float32."""
    model.train(False)
    ordered = sorted(corpus.windows, key=len)
    nats = sum(summed_loss(model, ordered[i : i + 16])[0].item() for i in range(0, len(ordered), 16))
    return in_units(nats, corpus)


def unigram_loss(corpus: Corpus, held_out: Corpus, vocab_size: int) -> Loss:
    """The held-out loss of knowing only the frequencies of `corpus`' tokens, each plus one."""
    counts = torch.ones(vocab_size, dtype=torch.float64)
    for window in corpus.windows:
        counts += torch.bincount(torch.tensor(window[1:]), minlength=vocab_size)
    nats_of = -(counts / counts.sum()).log()
    return in_units(sum(nats_of[window[1:]].sum().item() for window in held_out.windows), held_out)


def in_units(nats: float, corpus: Corpus) -> Loss:
    """A sum of nats over a corpus as means."""
    return Loss(nats / corpus.n_tokens, nats / math.log(2) / corpus.n_bytes)


def fit(model: GPT2LMHeadModel, corpus: Corpus, held_out: Corpus, recipe: Recipe, out: Path) -> float:
    """Train, saving the model after every epoch. Returns the last epoch's mean training loss in nats."""
    generator = torch.Generator().manual_seed(recipe.seed)
    epochs = [list(batches(corpus, recipe.batch_tokens, generator)) for _ in range(recipe.epochs)]
    optimizer, schedule = new_optimizer(model, recipe, n_steps=sum(len(epoch) for epoch in epochs))
    mean = math.nan
    for number, epoch in enumerate(epochs, 1):
        mean = fit_epoch(model, epoch, optimizer, schedule, recipe.gradient_norm)
        save(model, out)
        say(f"epoch {number}: train {mean:.3f}, held-out {loss(model, held_out).nats_per_token:.3f}")
    return mean


def fit_epoch(
    model: GPT2LMHeadModel,
    epoch: list[list[list[int]]],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    gradient_norm: float,
) -> float:
    """One pass over the batches. Returns the mean loss on the way, in nats a token."""
    model.train()
    total, n_total, started = 0.0, 0, time.monotonic()
    for step, windows in enumerate(epoch, 1):
        with torch.autocast("cpu", torch.bfloat16):
            nats, n_tokens = summed_loss(model, windows)
        torch.autograd.backward(nats / n_tokens)
        torch.nn.utils.clip_grad_norm_(model.parameters(), gradient_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        total, n_total = total + nats.item(), n_total + n_tokens
        if step % 100 == 0:
            rate = n_total / (time.monotonic() - started)
            say(f"  step {step} of {len(epoch)}: train {total / n_total:.3f}, {rate:.0f} tokens/s")
    return total / n_total


def new_optimizer(
    model: GPT2LMHeadModel, recipe: Recipe, n_steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW, no decay for biases and LayerNorms; linear warm-up, then a cosine down to a twentieth."""
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), fused=True)

    def share(step: int) -> float:
        warm = min(1.0, (step + 1) / recipe.warmup_steps)
        return warm * (0.525 + 0.475 * math.cos(math.pi * min(1.0, step / n_steps)))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, share)


def save(model: GPT2LMHeadModel, out: Path) -> None:
    """Write config and weights: stored as float16, to be small; loaded as float32, for so the config says."""
    half = {name: weight.half() for name, weight in model.state_dict().items()}
    del half["lm_head.weight"]  # tied to the embedding
    model.save_pretrained(out, state_dict=half)


# The card

CARD = """\
---
library_name: transformers
license: apache-2.0
---
# Polysem's embedded model

A small GPT-2 (Hugging Face's architecture), trained from scratch on Python's own text. It is here so that a
fresh machine without network has a real language model to look into; it is of no use for writing code.

| | |
|---|---|
| parameters | {n_parameters:,} |
| shape | {recipe.n_layers} layers, d_model {recipe.d_model}, {recipe.n_heads} heads, \
{n_neurons} MLP neurons a layer, vocabulary {recipe.vocab_size}, context {recipe.context_length}, `gelu_new` |
| stored as | float16 safetensors; loads as float32 |
| tokenizer | byte-level BPE trained on the same training documents, {bytes_per_token:.2f} bytes a token |
| data | the corpus `pydocs` of Python {python}: `pydoc_data.topics` and the standard library's source, \
docstrings and comments (Python Software Foundation License) |
| training split | {corpus.n_documents:,} documents, {corpus.n_tokens:,} tokens, {corpus.n_bytes:,} bytes |
| held-out split | {held_out.n_documents:,} documents by hash of name, {held_out.n_tokens:,} tokens |
| windows | BOS and at most {n_predicted} tokens of one document, consecutive, never packed |
| seen in training | {n_seen:,} tokens: {recipe.epochs} epochs |
| recipe | AdamW; learning rate {recipe.learning_rate}, {recipe.warmup_steps} steps of warm-up, then cosine; \
weight decay {recipe.weight_decay}; at most {recipe.batch_tokens} tokens a batch; no dropout; bf16 autocast |
| seed | {recipe.seed} |
| command | `python -m polysem.server.demo.train --out FOLDER --epochs {recipe.epochs} --seed {recipe.seed}` |
| time | {minutes:.0f} minutes |
| hardware | {n_threads} CPU cores ({capability}), no GPU; torch {torch_version} |

| loss | nats a token | bits a byte |
|---|---|---|
| training, mean over the last epoch | {train_nats:.3f} | {train_bits:.3f} |
| held-out, as stored | {stored.nats_per_token:.3f} | {stored.bits_per_byte:.3f} |
| held-out, before rounding to float16 | {trained.nats_per_token:.3f} | {trained.bits_per_byte:.3f} |
| held-out, unigram baseline | {unigram.nats_per_token:.3f} | {unigram.bits_per_byte:.3f} |

Figures on another Python version differ a little, because its text does.
"""


def model_card(
    recipe: Recipe, corpus: Corpus, held_out: Corpus, results: Results, n_parameters: int, minutes: float
) -> str:
    """The text of the card beside the model: its data, recipe, cost and losses."""
    return CARD.format(
        recipe=recipe,
        corpus=corpus,
        held_out=held_out,
        n_parameters=n_parameters,
        n_neurons=4 * recipe.d_model,
        n_predicted=recipe.context_length - 1,
        n_seen=recipe.epochs * corpus.n_tokens,
        bytes_per_token=corpus.n_bytes / corpus.n_tokens,
        minutes=minutes,
        n_threads=torch.get_num_threads(),
        capability=torch.backends.cpu.get_cpu_capability(),
        python=platform.python_version(),
        torch_version=torch.__version__,
        train_bits=in_units(results.train_nats * corpus.n_tokens, corpus).bits_per_byte,
        **results._asdict(),
    )


if __name__ == "__main__":
    main()
