"""Choose the five neurons of docs/a-real-model.md, print their table and draw their pictures.

    python docs/make_real_model.py SMOLLM2_INDEX POSITIVE.parquet

SMOLLM2_INDEX is what `polysem index` wrote, POSITIVE.parquet what `polysem measure` made of it (the commands stand in
the page). The rule: in each of five layers, the neuron with the highest silhouette at its best cut, of those with at
least 25 examples and a second cluster of at least 5 at the cut of 0.5.
"""

import sys
from collections import Counter
from pathlib import Path

import numpy as np

import polysem.server
from polysem.client import Cluster, Neuron
from polysem.client.drawing import figures
from polysem.client.measuring import measurements

OUT = Path(__file__).parent / "pictures"
LAYERS = 1, 7, 13, 19, 25
LEAST_EXAMPLES, LEAST_IN_SECOND = 25, 5
CLUSTERS_SHOWN, TOKENS_SHOWN = 4, 4


def main() -> None:
    index, parquet = sys.argv[1:]
    ids = chosen(measurements.read(Path(parquet)))
    print("| neuron | examples | clusters at 0.5 | best silhouette | its clusters: size, commonest key tokens |")
    print("|---|---|---|---|---|")
    with polysem.server.local(index, device="cpu") as client:
        for neuron in client.cluster(*ids):
            n, clusters = len(neuron.labels), neuron.clusters
            found = "; ".join(described(neuron, cluster) for cluster in clusters[:CLUSTERS_SHOWN])
            print(f"| {neuron.id} | {n} | {len(clusters)} | {ids[str(neuron.id)]:.2f} | {found} |")
            picture = OUT / f"smollm2-{neuron.id}.svg"
            figures.save(neuron.plot_dendrogram(max_per_cluster=3), picture, f"neuron {neuron.id}", force=True)


def chosen(measured: measurements.Measurements) -> dict[str, float]:
    """Each neuron with its best silhouette."""
    layer, neuron, n, second, best = (
        measured.column(name) for name in ("layer", "neuron", "n_examples", "second_share", "best_silhouette")
    )
    fits = (measured.column("embedding") == "neuron") & (n >= LEAST_EXAMPLES)
    fits &= (np.rint(n * second) >= LEAST_IN_SECOND) & (best == best)
    found = {}
    for of_layer in LAYERS:
        rows = np.flatnonzero(fits & (layer == of_layer))
        row = rows[np.argmax(best[rows])]
        found[f"{of_layer}.{neuron[row]}"] = float(best[row])
    return found


def described(neuron: Neuron, cluster: Cluster) -> str:
    keys = Counter(shown(neuron.examples[i].key_part.text) for i in cluster.members.tolist())
    tokens = ", ".join(f"`{text}` {count}" for text, count in keys.most_common(TOKENS_SHOWN))
    return f"{cluster.letter} {cluster.size}: {tokens}"


def shown(text: str) -> str:
    return text.strip(" ").replace("\n", "\\n").replace("|", "\\|") or "space"


if __name__ == "__main__":
    main()
