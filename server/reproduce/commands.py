"""The command `polysem reproduce`."""

from pathlib import Path
from typing import Any, get_args

import click

from polysem.client.commands.options import DEVICE, DTYPE, SIDE, layers_of, rotations
from polysem.proto.questions.clustering import Algorithm
from polysem.server.planted.commands import MIXTURES, SUGGESTED


@click.command()
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder of the study; goes on where it was."
)
@click.option("--model", default="gpt2", show_default=True, help="demo, a folder, or a hub name.")
@click.option(
    "--corpus",
    default="hf:Skylion007/openwebtext",
    show_default=True,
    help="Texts to read, as `polysem index` takes them. Default: the paper's (pip install 'polysem[hf]').",
)
@click.option("--text-field", default="text", show_default=True, help="Field of the corpus that holds the text.")
@click.option(
    "--max-documents", type=click.IntRange(1), default=10_000, show_default=True, help="Most documents to read."
)
@click.option("--context-length", type=click.IntRange(1), help="Tokens read at once. Default: all that the model can.")
@click.option("--index", help="Folder of an index to study instead; --model then says only where its model is now.")
@click.option("--layers", callback=layers_of, metavar="4,12,20|0-7", help="Layers to look at. Default: all.")
@SIDE
@click.option(
    "--algorithm",
    "algorithms",
    type=click.Choice(get_args(Algorithm)),
    multiple=True,
    default=("hac",),
    show_default=True,
    help="Clustering algorithm of Table 1; may be repeated.",
)
@click.option("--neurons", "n_neurons", type=click.IntRange(1), help="Neurons of each layer in Table 1. Default: all.")
@click.option(
    "--tested",
    "n_tested",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="Neurons of each layer compared with rotations, drawn by seed.",
)
@click.option("--null", "n_null", type=rotations(19), default=99, show_default=True, help="Rotations per neuron.")
@MIXTURES
@SUGGESTED
@click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Seed of all that is drawn."
)
@DEVICE
@DTYPE
def reproduce(out: Path, device: str, dtype: str, **asked: Any) -> None:
    """Test the paper's claim on a model, from index to report.

    Table 1 with controls, tests against chance, planted truth. If it is interrupted, the same command resumes it.

    \b
    polysem reproduce --out gpt2-study                       GPT2-small on the paper's corpus
    polysem reproduce --model demo --corpus pydocs --max-documents 1000 --out demo-study
    polysem reproduce --index gpt2-texts --neurons 200 --out study
    """
    from polysem.client.terminal.progress import bars
    from polysem.server.reproduce.study import UNITS, Machine, Study, run

    named = click.get_current_context().get_parameter_source("model") is not click.core.ParameterSource.DEFAULT
    moved = asked["model"] if named and asked["index"] is not None else None
    if asked["index"] is not None:  # which has a model and a corpus
        for name in ("model", "corpus", "text_field", "max_documents", "context_length"):
            asked[name] = getattr(Study(), name)
    asked |= {"algorithms": tuple(asked["algorithms"]), "layers": asked["layers"] or ()}
    study = Study(**asked)
    with bars(UNITS) as shown:
        path = run(study, Path(out).expanduser(), Machine(device, dtype, moved), shown.advance)
    text = path.read_text("utf-8")
    click.echo(text[text.index("## What holds") : text.index("## Table 1")].rstrip())
    click.echo(f"\nreport: {path}")
