"""The command `polysem benchmark`."""

from pathlib import Path

import click

from polysem.client.commands.options import DEVICE, SIDE, layers_of, print_json, rotations
from polysem.proto.sides import Side

MIXTURES = click.option(
    "--mixtures",
    "n_mixtures",
    type=click.IntRange(1),
    default=40,
    show_default=True,
    help="Number of planted mixtures of each kind in each layer.",
)
SUGGESTED = click.option(
    "--suggested",
    "n_suggested",
    type=click.IntRange(0),
    default=4,
    show_default=True,
    help="Number of these to cut as suggested as well (most of the time goes there).",
)


@click.group()
def benchmark() -> None:
    """Score embeddings and algorithms against a known truth.

    \b
    polysem benchmark planted                        on the demo's index
    polysem benchmark planted --index gpt2-texts
    """


@benchmark.command()
@click.option("--index", type=click.Path(path_type=Path), help="Folder of the index. Default: the demo's index.")
@SIDE
@click.option("--layers", callback=layers_of, metavar="4,12,20|0-7", help="Layers to mix. Default: all of the index.")
@click.option("--model", help="Path of the index's model, if it has moved.")
@DEVICE
@MIXTURES
@SUGGESTED
@click.option(
    "--null",
    "n_null",
    type=rotations(1),
    default=99,
    show_default=True,
    help="Number of rotations in each test that suggests a cut.",
)
@click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Seed of the mixtures and tests."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per row.")
def planted(
    index: Path | None,
    side: Side,
    layers: tuple[int, ...] | None,
    model: str | None,
    device: str,
    n_mixtures: int,
    n_suggested: int,
    n_null: int,
    seed: int,
    as_json: bool,
) -> None:
    """Score how well each clustering separates known neurons.

    The examples of several neurons are mixed and clustered; the truth is which example came from which neuron.

    Mixtures are of two neurons, of three, of two at one shared key token, and of one neuron and random contexts. Every
    embedding, frame, algorithm and LayerNorm mode is scored; the best one on every other layer is reported on the
    layers between. The same seed gives the same numbers.
    """
    from polysem.client.terminal import console
    from polysem.client.terminal.progress import bars
    from polysem.server.opening import open_engine
    from polysem.server.planted import tables
    from polysem.server.planted.benchmark import run
    from polysem.server.settings import Settings

    settings = Settings(index=[] if index is None else [index], model=model, device=device)
    with bars({"planted": "clusterings"}) as shown:
        engine = open_engine(settings)
        found = run(
            engine.model,
            engine.index("", side),
            n_mixtures,
            n_suggested,
            seed,
            n_null,
            lambda n, total: shown.advance("planted", n, total),
            layers,
        )
    if as_json:
        for row in tables.as_json(found):
            print_json(row)
    else:
        console().print(tables.tables(found))
