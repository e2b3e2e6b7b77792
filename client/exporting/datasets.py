"""Features as a data set of Hugging Face's hub: Parquet files and a card. Each cluster is a configuration of its own,
and so are all examples together and the table of clusters.

`datasets.load_dataset(FOLDER, "1.5.A")` are the examples of cluster A of neuron 1.5, `"examples"` those of all,
`"clusters"` a row a cluster. Beyond MAX_CONFIGS clusters the card names only the last two.
"""

import json
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from polysem.client.exporting.features import Feature, Group, Subject, numbers
from polysem.proto.errors import FailedPrecondition

MAX_CONFIGS = 1000


def files(features: Sequence[Feature], subject: Subject, piece: int) -> Iterator[tuple[str, bytes]]:
    rows = []
    for feature in features:
        for group in feature.groups:
            rows.append(_cluster(feature, group))
            name = f"examples/{feature.id}.{_letter(group)}.parquet"
            yield name, _parquet([_example(feature, group, i) for i in range(len(group.examples))], EXAMPLE)
    yield f"clusters/{piece:05d}.parquet", _parquet(rows, CLUSTER)


def last(folder: Path, subject: Subject) -> Iterator[tuple[str, bytes]]:
    """The card, which names the configurations."""
    clusters = sorted(path.name.removesuffix(".parquet") for path in (folder / "examples").iterdir())
    configs = [("examples", "examples/*.parquet"), ("clusters", "clusters/*.parquet")]
    if len(clusters) <= MAX_CONFIGS:
        configs += [(name, f"examples/{name}.parquet") for name in clusters]
    yield "README.md", _card(configs, len(clusters), subject).encode()


EXAMPLE = {
    "neuron": "string",
    "cluster": "string",
    "name": "string",
    "document": "string",
    "context": "int64",
    "position": "int32",
    "activation": "float32",
    "key": "int32",
    "tokens": "list<string>",
    "activations": "list<float32>",
}
CLUSTER = {
    "neuron": "string",
    "cluster": "string",
    "name": "string",
    "score": "float64",
    "null_score": "float64",
    "n_examples": "int32",
    "mean_distance": "float64",
    "stability": "float64",
    "central_document": "string",
    "p_value": "float64",
    "excess_silhouette": "float64",
}


def _letter(group: Group) -> str:
    return "single" if group.cluster is None else group.letter


def _example(feature: Feature, group: Group, i: int) -> dict[str, Any]:
    example = group.examples[i]
    return {
        "neuron": str(feature.id),
        "cluster": _letter(group),
        "name": group.name.text if group.name else None,
        "document": example.document,
        "context": example.context,
        "position": example.position,
        "activation": example.activation,
        "key": example.key,
        "tokens": list(example.tokens),
        "activations": numbers(example.activations),
    }


def _cluster(feature: Feature, group: Group) -> dict[str, Any]:
    cluster, name, test = group.cluster, group.name, feature.neuron.significance
    central = next((e.document for e in group.examples if cluster and e.example == cluster.central), None)
    return {
        "neuron": str(feature.id),
        "cluster": _letter(group),
        "name": name.text if name else None,
        "score": name.score if name else None,
        "null_score": name.null_score if name else None,
        "n_examples": len(group.examples),
        "mean_distance": cluster.mean_distance if cluster else None,
        "stability": cluster.stability if cluster else None,
        "central_document": central,
        "p_value": test.p_value if test else None,
        "excess_silhouette": test.excess if test else None,
    }


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise FailedPrecondition("to write a data set install pyarrow: pip install pyarrow") from error
    return pyarrow


def _parquet(rows: Sequence[dict[str, Any]], types: dict[str, str]) -> bytes:
    pyarrow = _pyarrow()
    known = {
        "string": pyarrow.string(),
        "int32": pyarrow.int32(),
        "int64": pyarrow.int64(),
        "float32": pyarrow.float32(),
        "float64": pyarrow.float64(),
        "list<string>": pyarrow.list_(pyarrow.string()),
        "list<float32>": pyarrow.list_(pyarrow.float32()),
    }
    schema = pyarrow.schema([(name, known[type_]) for name, type_ in types.items()])
    out = BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows), schema), out, compression="zstd")
    return out.getvalue()


def _card(configs: Sequence[tuple[str, str]], n_clusters: int, subject: Subject) -> str:
    index, model = subject.index, subject.model
    lines = [
        "---",
        f"license: {json.dumps(subject.licence or 'unknown')}",
        f"pretty_name: {json.dumps(f'Feature clusters of the {subject.units} of {model.id}')}",
        "tags: [interpretability, neuron-embeddings]",
        "configs:",
    ]
    for name, files_ in configs:
        lines += [f"- config_name: {json.dumps(name)}", f"  data_files: {json.dumps(files_)}"]
        lines += ["  default: true"] if name == "examples" else []
    return "\n".join([
        *lines,
        "---",
        "",
        f"# Feature clusters of the {subject.units} of {model.id}",
        "",
        f"{n_clusters:,} groups of dataset examples, each a behaviour of a {index.unit}: texts at which it fires",
        "strongly, clustered by neuron embeddings (Foote 2024).",
        "",
        f"- model: {model.id}, weights sha256 `{model.sha256}`",
        f"- corpus: {index.corpus_id}, {index.n_documents:,} documents, {index.n_contexts:,} contexts of at most "
        f"{index.context_length:,} tokens, sha256 `{index.corpus_sha256}`",
        f"- licence of the corpus's texts: {subject.licence or '**to be filled in before it is shared**'}",
        f"- side of the activations: {subject.side}",
        f"- clustering: {subject.question}",
        f"- index: {index.name}, sha256 `{index.sha256}`",
        f"- made with Polysem {subject.version}",
        "",
        "`examples`: a row a dataset example; `key` is the place of the key token in `tokens`, `cluster` the letter of",
        "its cluster (A is the neuron's largest, `single` an example on its own), `name` what its texts have in common",
        "by rule. `clusters`: a row a cluster; `score` is how well the name tells its examples from others (½ is",
        "chance), `null_score` the same of random groups as large. `NEURON.LETTER`: the examples of one cluster.",
        "",
    ])  # fmt: skip
