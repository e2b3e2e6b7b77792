"""The command that prepares a folder for a hub: publish."""

import os
import sys
from pathlib import Path

import click


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Folder to make; it must not exist yet.")
@click.option("--licence", "--license", default="", help="Licence of the corpus's texts, for the card.")
@click.option("--check", is_flag=True, help="Say what keeps a prepared folder from being shared, and do nothing else.")
def publish(source: Path, out: Path | None, licence: str, check: bool) -> None:
    """Prepare a folder to be shared on a hub of data sets. Nothing is sent anywhere.

    SOURCE is an index, or what `polysem export --format datasets` wrote. The folder has a card that says how it was
    made, Parquet that `datasets.load_dataset` reads, and the hash of every file. What a person must fill in stands in
    the card.

    \b
    polysem publish gpt2-texts --licence cc-by-4.0 --out for-the-hub
    polysem publish --check for-the-hub
    """
    from polysem.server.publishing import folder

    source = Path(os.path.expanduser(source))
    if check:
        found = folder.check(source)
        for sentence in found:
            click.echo(sentence)
        if found:
            sys.exit(1)
        click.echo(f"{source}: ready to be shared")
        return
    if out is None:
        raise click.UsageError("say where the folder goes: --out FOLDER")
    n_bytes = folder.prepare(source, Path(os.path.expanduser(out)), licence, _progress)
    click.echo(f"{out}: {n_bytes / 1e6:,.1f} MB, nothing was sent; what is left to do: polysem publish --check {out}")


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        click.echo(f"{done:,} of {total:,} files", err=True)
