"""The command that makes an index of another tool's activations: import."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from polysem.client.commands import next_steps
from polysem.client.commands.options import DEVICE, DTYPE
from polysem.proto.errors import NotFound

if TYPE_CHECKING:
    from polysem.server.importing.building import Compared
    from polysem.server.importing.found import Found
    from polysem.server.index.format import Index

FORMATS = ("delphi", "neuronpedia")


@click.command("import")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--format", "format_", type=click.Choice(FORMATS), required=True, help="Tool whose files are read.")
@click.option("--model", required=True, help="Model that the activations are of: demo, a folder, or a hub name.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write; it must not exist yet.")
@click.option(
    "--max-examples",
    type=click.IntRange(1, 100_000),
    default=100,
    show_default=True,
    help="Most examples per neuron, the strongest.",
)
@DEVICE
@DTYPE
def import_(folder: Path, format_: str, model: str, out: Path, max_examples: int, device: str, dtype: str) -> None:
    """Make an index of the activations that another tool kept in FOLDER.

    Texts in which a neuron is active become its dataset examples. The model reads them again, and activations that are
    not its own are counted. Explanations become names, in OUT.names.jsonl.

    \b
    delphi       a cache of latents that are MLP neurons, each of its own number
    neuronpedia  activations and explanations of MLP neurons

    If it is interrupted, the same command resumes it.
    """
    from polysem.client.terminal.progress import INDEXING, bars
    from polysem.server.importing import building, delphi, names, neuronpedia
    from polysem.server.model.loading import load

    folder, out = (Path(os.path.expanduser(path)) for path in (folder, out))
    if not folder.is_dir():
        raise NotFound(f"there is no folder {str(folder)!r}; name the one that {format_}'s files are in")
    kept = out.with_name(f"{out.name}.names.jsonl")
    names.check_free(kept, out)
    described = load(model, device, dtype)
    found = {"delphi": delphi, "neuronpedia": neuronpedia}[format_].read(folder, described)
    n_named = 0

    def keep(index: "Index") -> None:
        nonlocal n_named
        n_named = names.write(found.explanations, index, kept)

    with bars(INDEXING) as shown:
        index, compared = building.build(
            described, found, folder.resolve().name, format_, out, max_examples, shown.advance, keep
        )
    for sentence in told(found, compared):
        click.echo(sentence)
    if n_named:
        click.echo(f"{kept}: {n_named:,} explanations as names, for `polysem names import`")
    click.echo(
        f"{out}: {index.info.n_examples:,} dataset examples of {index.info.n_neurons_with_examples:,} neurons "
        f"from {index.info.n_contexts:,} texts"
    )
    next_steps.say("serve", "--index", str(out), "--model", model)


def told(found: "Found", compared: "Compared") -> list[str]:
    """Return what a person should know of an import, a sentence each."""
    sentences = [f"left out: {n:,} {reason}" for reason, n in found.left_out.items()]
    agreeing = compared.n - compared.disagreeing
    sentences.append(f"{agreeing:,} of {compared.n:,} activations agree with the model's within 5 %")
    for n, what in (
        (compared.differing, "differ by more; the index holds the model's"),
        (compared.elsewhere, "are highest at another token for the model, which the index holds"),
        (compared.silent, "are not above 0 for the model, and are no examples"),
    ):
        if n:
            sentences.append(f"{n:,} {what}")
    return sentences
