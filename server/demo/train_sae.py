"""Trains a sparse autoencoder (SAE) on what one layer's MLP reads of a corpus, and writes it as SAELens does.

    python -m polysem.server.demo.train_sae --out FOLDER

A TopK SAE (Gao et al. 2024): of each token's latents the k strongest fire. It reads the very vector that the layer's
neurons read (blocks.L.mlp.hook_in), so that embeddings of latents and of neurons can be compared. It is trained on one
thread, by a seed: the same software, model and corpus give the same SAE.
"""

import argparse
import json
import math
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import linear

from polysem.proto.errors import FailedPrecondition
from polysem.server.corpus.documents import PYDOCS, Corpus
from polysem.server.demo.train import is_held_out, say
from polysem.server.index.contexts import Cut
from polysem.server.indexing import windows
from polysem.server.indexing.windows import Windowing
from polysem.server.model.loading import DEMO_MODEL, load
from polysem.server.model.model import Model

WEIGHTS = "sae_weights.safetensors"
BATCH_TOKENS = 4096  # that the model reads at once


@dataclass(frozen=True)
class Recipe:
    """All that decides the outcome, besides model and corpus."""

    layer: int = 2
    seed: int = 0
    n_latents: int = 1024
    k: int = 16  # latents that fire at a token
    n_tokens: int = 500_000  # at most, of the training documents
    epochs: int = 4
    batch: int = 1024  # tokens a step
    learning_rate: float = 1e-3  # falls to 0 over the last third
    dead_after: int = 100_000  # tokens without firing
    auxiliary: float = 1 / 32  # weight of the loss that brings dead latents back


class Sae(NamedTuple):
    """An SAE of F latents: W_enc (F, D), b_enc (F,), W_dec (F, D), b_dec (D,), all float32."""

    encoder: Tensor
    biases: Tensor
    decoder: Tensor
    shift: Tensor

    def activations(self, x: Tensor, k: int) -> Tensor:
        """Return (P, F) of x (P, D): the k strongest latents' of each, the others 0."""
        z = self.pre_activations(x)
        values, latents = z.topk(k, dim=-1, sorted=False)
        return torch.zeros_like(z).scatter(-1, latents, values)

    def pre_activations(self, x: Tensor) -> Tensor:
        """Return (P, F) of x (P, D), none below 0."""
        return linear(x - self.shift, self.encoder, self.biases).relu()

    def decoded(self, activations: Tensor) -> Tensor:
        """Return what the activations (P, F) say that x (P, D) was."""
        return activations @ self.decoder + self.shift


class Measured(NamedTuple):
    """Figures of an SAE on tokens; mean_squared_error of an element; l0: latents that fire at a token."""

    n_tokens: int
    mean_squared_error: float
    variance_explained: float
    l0: float
    n_silent: int  # latents that fire at none of them


def main(arguments: list[str] | None = None) -> None:
    """Train with the given arguments (default: the command line's) and write the SAE and its card."""
    parser = argparse.ArgumentParser(prog="python -m polysem.server.demo.train_sae", description="Train an SAE.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--model", default=DEMO_MODEL, help="demo, a folder or a hub name (%(default)s)")
    parser.add_argument("--corpus", default=PYDOCS, help="as for polysem index (%(default)s)")
    for name in ("layer", "seed", "k", "epochs"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Recipe, name), help="(%(default)s)")
    parser.add_argument("--latents", type=int, default=Recipe.n_latents, help="(%(default)s)")
    parser.add_argument("--tokens", type=int, default=Recipe.n_tokens, help="at most so many (%(default)s)")
    given = vars(parser.parse_args(arguments))
    model, corpus, out = given.pop("model"), given.pop("corpus"), given.pop("out")
    recipe = Recipe(n_latents=given.pop("latents"), n_tokens=given.pop("tokens"), **given)
    train(recipe, load(model, "cpu"), Corpus(corpus), out)


def train(recipe: Recipe, model: Model, corpus: Corpus, out: Path) -> None:
    """Train an SAE of the model on the corpus and write it to `out`: config, float16 safetensors, card."""
    torch.set_num_threads(1)
    started = time.process_time()
    seen, held_out = read(model, corpus, recipe)
    say(f"{len(seen):,} tokens to train on, {len(held_out):,} held out; read in {time.process_time() - started:.0f} s")
    save(fit(seen, recipe, say), recipe, model, out)
    known, unknown = (measure(stored(out), part, recipe.k) for part in (seen, held_out))
    card = model_card(recipe, model, corpus.id, known, unknown, (time.process_time() - started) / 60)
    (out / "README.md").write_text(card, "utf-8")
    say(card)


# The vectors


def read(model: Model, corpus: Corpus, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Return what the layer's MLP reads at every token but BOS, (P, D) float16 each: to train on, and held out.

    Documents are held out by the hash of their name. Reading stops at n_tokens to train on. Raises FailedPrecondition
    for a corpus too small for that.
    """
    windowing = Windowing(model.info.context_length, "all", model.tokenizer.bos_id if model.wants_bos else None)
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    room = recipe.n_tokens
    documents = corpus.documents()
    while room > 0 and (some := list(islice(documents, 256))):
        for is_out in (False, True):
            chosen = [document for document in some if is_held_out(document.name) == is_out]
            cut = windows.cut(chosen, model.tokenizer, windowing)
            parts[is_out].extend(vectors(model, cut, recipe.layer, skip=windowing.bos_id is not None))
        room = recipe.n_tokens - sum(map(len, parts[False]))
    if not all(parts):
        raise FailedPrecondition(
            f"the corpus {corpus.id!r} has no documents to hold out, or only such; give a larger one"
        )
    return torch.cat(parts[False])[: recipe.n_tokens], torch.cat(parts[True])


def vectors(model: Model, cut: Cut, layer: int, skip: bool) -> Iterator[Tensor]:
    """Yield what the layer's MLP reads of contexts, (P, D) float16. skip: the first token of each is left out."""
    offsets = cut.offsets
    lengths = np.diff(offsets)
    order = np.argsort(-lengths, kind="stable")
    mlp = model.mlps[layer]
    found: list[Tensor] = []

    def visit(at: int, residual: Tensor, _activations: Tensor) -> None:
        if at == layer:
            rows = residual[is_read]
            h = mlp.normalise(rows) if mlp.gamma is None else mlp.normalise(rows) * mlp.gamma
            found.append((h if mlp.beta is None else h + mlp.beta).half())

    start = 0
    while start < len(order):
        width = int(lengths[order[start]])
        chosen = order[start : start + max(BATCH_TOKENS // width, 1)]
        tokens = torch.zeros((len(chosen), width), dtype=torch.int64)
        for row, context in zip(tokens, chosen, strict=True):
            row[: lengths[context]] = torch.from_numpy(cut.tokens[offsets[context] : offsets[context + 1]].astype("i8"))
        is_read = torch.arange(width) < torch.from_numpy(lengths[chosen])[:, None]
        is_read[:, :1] &= not skip
        model.read(tokens, visit, last_layer=layer)
        yield found.pop()
        start += len(chosen)


# Training


def fit(x: Tensor, recipe: Recipe, report: Callable[[str], None] = lambda line: None) -> Sae:
    """Return an SAE trained on vectors x (P, D) float16, for vectors as they are.

    It is trained on vectors scaled to the mean norm √D, so that the learning rate fits any model; the scale is then put
    into its weights.
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    scale = x.shape[1] ** 0.5 / x.float().norm(dim=1).mean().item()
    sae = start(x[:100_000].float() * scale, recipe.n_latents, generator)
    optimizer = torch.optim.Adam(sae, lr=recipe.learning_rate)
    n_steps = recipe.epochs * math.ceil(len(x) / recipe.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, 3 * (1 - step / n_steps)))
    silent = torch.zeros(recipe.n_latents, dtype=torch.int64)  # tokens since each latent fired
    steps = (
        order
        for _ in range(recipe.epochs)
        for order in torch.split(torch.randperm(len(x), generator=generator), recipe.batch)
    )
    for step, order in enumerate(steps, 1):
        loss, fired = losses(sae, x[order].float() * scale, recipe, silent > recipe.dead_after)
        torch.autograd.backward(loss)
        update(sae, optimizer)
        schedule.step()
        silent = (silent + len(order)).masked_fill(fired, 0)
        if step % 100 == 0 or step == n_steps:
            n_dead = int((silent > recipe.dead_after).sum())
            report(f"  step {step} of {n_steps}: unexplained {loss.item():.3f}, {n_dead} latents dead")
    encoder, biases, decoder, shift = (part.detach() for part in sae)
    return Sae(encoder * scale, biases, decoder / scale, shift / scale)


def start(x: Tensor, n_latents: int, generator: torch.Generator) -> Sae:
    """Return the SAE to begin with: random directions, read and written alike, around the mean of x (P, D)."""
    decoder = torch.nn.functional.normalize(torch.randn((n_latents, x.shape[1]), generator=generator))
    parts = (decoder.clone(), torch.zeros(n_latents), decoder, x.mean(0))
    return Sae(*(part.requires_grad_() for part in parts))


def losses(sae: Sae, x: Tensor, recipe: Recipe, dead: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss, the share of the variance of x (P, D) that is not explained, and which latents fired (F,).

    To it comes the auxiliary loss: how much of that rest the strongest D / 2 of the dead latents (F,) do not explain.
    """
    z = sae.pre_activations(x)
    values, latents = z.topk(recipe.k, dim=-1, sorted=False)
    activations = torch.zeros_like(z).scatter(-1, latents, values)
    rest = x - sae.decoded(activations)
    variance = (x - x.mean(0)).square().sum()
    loss = rest.square().sum() / variance
    n_auxiliary = min(int(dead.sum()), x.shape[1] // 2)
    if n_auxiliary:
        z_dead = linear(x - sae.shift, sae.encoder, sae.biases).masked_fill(~dead, -math.inf)
        values, latents = z_dead.topk(n_auxiliary, dim=-1, sorted=False)
        made = torch.zeros_like(z).scatter(-1, latents, values.relu()) @ sae.decoder
        loss = loss + recipe.auxiliary * (rest.detach() - made).square().sum() / variance
    return loss, (activations.detach() > 0).any(0)


@torch.no_grad()
def update(sae: Sae, optimizer: torch.optim.Optimizer) -> None:
    """Take a step in which the rows of the decoder keep the norm 1."""
    gradient = sae.decoder.grad
    assert gradient is not None
    gradient -= (gradient * sae.decoder).sum(1, keepdim=True) * sae.decoder
    optimizer.step()
    optimizer.zero_grad()
    sae.decoder.div_(sae.decoder.norm(dim=1, keepdim=True))


# What comes of it


@torch.inference_mode()
def measure(sae: Sae, x: Tensor, k: int) -> Measured:
    """Return the SAE's figures on vectors x (P, D) float16."""
    mean = x.mean(0, dtype=torch.float64)
    rest = variance = n_fired = 0.0
    fired = torch.zeros(len(sae.biases), dtype=torch.bool)
    for part in torch.split(x, BATCH_TOKENS):
        activations = sae.activations(part.float(), k)
        rest += (part.float() - sae.decoded(activations)).square().sum().item()
        variance += (part.double() - mean).square().sum().item()
        n_fired += (activations > 0).sum().item()
        fired |= (activations > 0).any(0)
    return Measured(len(x), rest / x.numel(), 1 - rest / variance, n_fired / len(x), int((~fired).sum()))


def save(sae: Sae, recipe: Recipe, model: Model, out: Path) -> None:
    """Write the SAE as SAELens 6 does, its weights as float16, which it loads as float32."""
    out.mkdir(parents=True, exist_ok=True)
    parts = {"W_enc": sae.encoder.T, "b_enc": sae.biases, "W_dec": sae.decoder, "b_dec": sae.shift}
    save_file({name: part.half().contiguous() for name, part in parts.items()}, out / WEIGHTS)
    config = {
        "architecture": "topk",
        "d_in": model.info.d_model,
        "d_sae": recipe.n_latents,
        "k": recipe.k,
        "rescale_acts_by_decoder_norm": False,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": "6.0.0",
            "model_name": model_name(model),
            "hook_name": f"blocks.{recipe.layer}.mlp.hook_in",
            "prepend_bos": model.wants_bos,
        },
    }
    (out / "cfg.json").write_text(json.dumps(config, indent=1) + "\n")


def model_name(model: Model) -> str:
    """Return what the model is called, without the path of a folder on this machine."""
    return Path(model.info.id).name if Path(model.info.id).is_absolute() else model.info.id


def stored(folder: Path) -> Sae:
    """Return the SAE that `save` wrote."""
    held = load_file(folder / WEIGHTS)
    return Sae(held["W_enc"].T.float(), *(held[name].float() for name in ("b_enc", "W_dec", "b_dec")))


CARD = """\
---
license: apache-2.0
---
# A sparse autoencoder of the model {model}, layer {recipe.layer}

{recipe.n_latents:,} latents of the vector that the layer's MLP reads (`blocks.{recipe.layer}.mlp.hook_in`), in \
SAELens' files.

| | |
|---|---|
| model | {model}, sha256 {sha256} |
| kind | TopK: of each token's latents the {recipe.k} strongest fire |
| data | the corpus `{corpus}` (Python {python}), {seen.n_tokens:,} tokens, {recipe.epochs} times; documents are held \
out by hash of name; BOS is left out |
| recipe | Adam, learning rate {recipe.learning_rate}, falling to 0 over the last third; {recipe.batch:,} tokens a \
step; decoder rows of norm 1 while trained; auxiliary loss of weight {recipe.auxiliary} for latents that were silent \
for {recipe.dead_after:,} tokens |
| seed | {recipe.seed} |
| command | `python -m polysem.server.demo.train_sae --out FOLDER{options}` |
| time | {minutes:.0f} minutes of one core ({capability}); torch {torch_version} |
| stored as | float16 safetensors; loads as float32 |

| as stored, on | tokens | loss: mean squared error | variance explained | L0 | latents that never fire |
|---|---|---|---|---|---|
| training tokens | {seen.n_tokens:,} | {seen.mean_squared_error:.4f} | {seen.variance_explained:.3f} | \
{seen.l0:.1f} | {seen.n_silent} |
| held-out tokens | {held_out.n_tokens:,} | {held_out.mean_squared_error:.4f} | {held_out.variance_explained:.3f} | \
{held_out.l0:.1f} | {held_out.n_silent} |
"""


def model_card(recipe: Recipe, model: Model, corpus: str, seen: Measured, held_out: Measured, minutes: float) -> str:
    """Return the text of the card beside the SAE: how it was made, and its figures."""
    called = {"n_latents": "latents", "n_tokens": "tokens"}
    changed = {name: value for name, value in vars(recipe).items() if value != getattr(Recipe, name)}
    places = {"model": model_name(model), "corpus": Path(corpus).name}
    others = {name: value for name, value in places.items() if value not in (DEMO_MODEL, PYDOCS)}
    options = "".join(f" --{called.get(name, name)} {value}" for name, value in {**others, **changed}.items())
    return CARD.format(
        recipe=recipe,
        model=model_name(model),
        sha256=model.info.sha256,
        corpus=Path(corpus).name,
        seen=seen,
        held_out=held_out,
        options=options,
        minutes=minutes,
        python=platform.python_version(),
        capability=torch.backends.cpu.get_cpu_capability(),
        torch_version=torch.__version__,
    )


if __name__ == "__main__":
    main()
