"""Ask a server every question through the client that is importable, and print the answers as JSON.

python ask.py TARGET

Only what the client's users had in version 0.1.0 is used here, so every later client must also run it.
"""

import json
import math
import sys
import tempfile
from dataclasses import asdict, is_dataclass
from pathlib import Path

import numpy as np

TEXT = "a café in Zürich 日本"


def answers(target: str) -> dict[str, object]:
    """What the server says, by question; values that JSON can hold."""
    from polysem.client import Client

    with Client(target, token="", timeout_s=120) as client:
        return plain(
            {
                "info": client.info(),
                "indexes": client.indexes(),
                "serving": client.serving(),
                "hac": [clustered(neuron) for neuron in client.cluster("0.0-9", "1.7")],
                "cut": [clustered(neuron.cut(0.3)) for neuron in client.cluster("1.0-4")],
                "complete": [clustered(n) for n in client.cluster("L1N7", linkage="complete", distance_threshold=0.8)],
                "scc": [clustered(neuron) for neuron in client.cluster("1.0-9", algorithm="scc", until_stable=True)],
                "schedule": [
                    clustered(neuron)
                    for neuron in client.cluster((1, 5), algorithm="scc", thresholds="geometric", embedding="pre_mlp")
                ],
                "thresholds": [
                    clustered(neuron) for neuron in client.cluster("1.5", algorithm="scc", thresholds=[0.1, 0.4, 0.9])
                ],
                "components": [clustered(n) for n in client.cluster("0.0-3", algorithm="components", layer_norm="raw")],
                "embed": [one._asdict() for one in client.embed("1.7", "0.3", layer_norm="raw")],
                "examples": list(client.examples("1.7")),
                "places": list(client.examples("1.7", "0.4", places=[0, 2], whole_context=True)),
                "statistics": list(client.statistics("1.*"))[:8],
                "neurons": list(client.neurons(sort_by="-n_clusters", where={"n_examples": (3, None)}, limit=20)),
                "similar": [one._asdict() for one in client.similar("1.7", limit=3, every_layer=True)],
                "similar to one": [one._asdict() for one in client.similar("1.7", 0, similarity="neuron", limit=5)],
                "importance": list(client.importance("1.7", places=[0, 1], tokens_before=5)),
                "explain": [token._asdict() for token in client.explain(TEXT, "1.7", "0.3")],
                "strongest": [token._asdict() for token in client.explain(TEXT, n_strongest=3)],
                "measure": measured(client),
            }
        )


def clustered(neuron: object) -> dict[str, object]:
    return {
        "id": str(neuron.id),
        "labels": neuron.labels,
        "linkage": neuron.linkage,
        "metrics": neuron.metrics,
        "clusters": [cluster._asdict() for cluster in neuron.clusters],
        "method": neuron.method,
        "distance_threshold": neuron.distance_threshold,
        "provenance": neuron.provenance,
    }


def measured(client: object) -> dict[str, object]:
    """The columns of a job's file."""
    import pyarrow.parquet

    job = client.jobs.measure("1.0-5", algorithms=("hac", "scc"), embeddings=("neuron", "pre_mlp"))
    (*_, last) = client.jobs.watch(job.id)
    assert last.state == "done", last
    with tempfile.TemporaryDirectory() as folder:
        client.jobs.fetch(job.id, out := Path(folder) / "measured.parquet")
        return pyarrow.parquet.read_table(out).to_pydict()


def plain(value: object) -> object:
    """As JSON holds it; NaN as None."""
    if is_dataclass(value):
        return plain(asdict(value))
    if isinstance(value, dict):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, tuple | list):
        return [plain(inner) for inner in value]
    if isinstance(value, float) and math.isnan(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)


if __name__ == "__main__":
    import polysem.client

    print(json.dumps({"client": polysem.client.__file__, "answers": answers(sys.argv[1])}, ensure_ascii=False))
