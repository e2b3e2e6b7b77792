"""Maps: which frame and cut make groups, and what exact neighbours cost beside approximate libraries.

python tests/benchmarks/map.py --choose [--index FOLDER] [--neurons N]     frames and cuts; without FOLDER, of the demo
python tests/benchmarks/map.py --search [--clusters 10000 30000] [--libraries usearch …]

--choose  Groups of each layer by each frame of central examples (pre-MLP) and each cut. The score is the adjusted
          mutual information of groups with the key token, and with the token before it, of an example of each cluster
          that the map has not seen: the first that is not the central one. A cluster in no group is a group of its
          own. Frame and cut are chosen on the even layers by the mean of both scores, and reported on the odd ones.
--search  25 nearest neighbours of made-up unit vectors (d_model 768, a centre for every 20, and noise): products of
          tiles by torch, and libraries that are installed, each with the recall of its answer; CPU seconds
          are those of all cores, which a busy machine hardly changes.
"""

import argparse
import time
from pathlib import Path

import given
import machine
import numpy as np
import torch
from torch.nn import functional

from polysem.client.mutual_information import adjusted_mutual_information
from polysem.kernels.large.neighbours import nearest_of
from polysem.proto.questions.clustering import EmbeddingChoice
from polysem.proto.wire import columns
from polysem.server.mapping import groups
from polysem.server.opening import open_engine
from polysem.server.questions.central import central_units
from polysem.server.questions.clustering import work_of
from polysem.server.questions.clusters_of_trees import clusters_of, joined
from polysem.server.questions.held import CHOICE, CLUSTERING
from polysem.server.questions.maps import centrals_of
from polysem.server.settings import Settings

D_MODEL, K, AT_ONCE = 768, 25, 512
FRAMES = ("raw", "centred", "standardised", "own")
CUTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def clustered(work, layer, most):
    """The clusters of the layer's first neurons, and the number of an example of each that is not the central one."""
    index = work.index
    items = index.every_neuron[index.every_neuron[:, 0] == layer][:most]
    found, others = [], []
    for first in range(0, len(items), AT_ONCE):
        batch = work.run(items[first : first + AT_ONCE])
        clusters = clusters_of(batch, CLUSTERING.distance_threshold)
        of_clusters, of_examples = columns.from_counts(batch.n_clusters), columns.from_counts(batch.n_examples)
        for i in range(len(batch.neurons)):
            labels = batch.labels[of_examples[i] : of_examples[i + 1]]
            for label, central in enumerate(clusters.centrals[of_clusters[i] : of_clusters[i + 1]]):
                members = np.flatnonzero(labels == label)
                others += members[members != central][:1].tolist()  # none of a single example
        found.append(clusters)
    return centrals_of(joined(found), layer), np.array(others)


def tokens(index, layer, neurons, examples):
    """Key tokens, and the tokens before them, −1 where there is none."""
    stored = index.layer(layer)
    rows = np.asarray(stored.rows)[stored.offsets[neurons] + examples]
    contexts, positions = (np.asarray(of)[rows].astype(np.int64) for of in (stored.row_contexts, stored.row_positions))
    flat, starts = (index.contexts.arrays[name] for name in ("tokens", "offsets"))
    key = starts[contexts] + positions
    return flat[key].astype(np.int64), np.where(positions > 0, flat[np.maximum(key - 1, 0)].astype(np.int64), -1)


def units(model, index, layer, found, frame):
    choice = EmbeddingChoice("pre_mlp", CHOICE.layer_norm, "raw" if frame == "own" else frame)
    unit = central_units(model, index, layer, found.neurons, found.centrals, choice)
    return functional.normalize(unit - unit.mean(dim=0), dim=1) if frame == "own" else unit


def scores(unit, labels):
    """By cut: AMI with each of the labels, share of clusters in a group, groups."""
    distances, others = nearest_of(unit, torch.arange(len(unit)), min(groups.N_NEIGHBOURS, len(unit) - 1))
    found = []
    linkage = groups.rounds(distances, others, CUTS[-1])
    for cut in CUTS:
        made = groups.groups_at(unit, linkage, cut)
        group = np.arange(len(unit)) + len(unit)
        group[made.order] = np.repeat(np.arange(len(made.sizes)), made.sizes)
        agreed = [adjusted_mutual_information(group, label) or 0.0 for label in labels]
        found.append([*agreed, made.sizes.sum() / len(unit), len(made.sizes)])
    return np.array(found)


def choose(folder, most):
    engine = open_engine(Settings(device="cpu", index=(str(folder),) if folder else ()))
    index = engine.index("")
    model, work = engine.model_of(index), work_of(engine, index, CHOICE, CLUSTERING)
    frames = FRAMES if index.has_moments else ("raw", "own")
    found = {}
    for layer in index.info.held_layers:
        of, unseen = clustered(work, layer, most)
        labels = tokens(index, layer, of.neurons, unseen)
        for frame in frames:
            found[layer, frame] = scores(units(model, index, layer, of, frame), labels)
        print(f"layer {layer}: {len(unseen):,} clusters", flush=True)
    even = {frame: np.mean([found[layer, frame] for layer in index.info.held_layers[::2]], axis=0) for frame in frames}
    odd = {frame: np.mean([found[layer, frame] for layer in index.info.held_layers[1::2]], axis=0) for frame in frames}
    print(
        "\n| frame | cut | key token, even layers | before it, even | key token, odd layers | before it, odd | "
        "grouped | groups |\n|---|---|---|---|---|---|---|---|"
    )
    for frame in frames:
        best = int(even[frame][:, :2].mean(axis=1).argmax())
        e, o = even[frame][best], odd[frame][best]
        print(
            f"| {frame} | {CUTS[best]:g} | {e[0]:.3f} | {e[1]:.3f} | {o[0]:.3f} | {o[1]:.3f} | {o[2]:.0%} | "
            f"{o[3]:,.0f} |"
        )
    print("\nmean of both by cut, even layers")
    for frame in frames:
        print(f"{frame:14}" + " ".join(f"{value:.3f}" for value in even[frame][:, :2].mean(axis=1)))


# ---- Search


def made_up(n):
    rng = torch.Generator().manual_seed(0)
    centres = torch.randn(max(n // 20, 1), D_MODEL, generator=rng)
    return functional.normalize(
        centres[torch.randint(len(centres), (n,), generator=rng)] + torch.randn(n, D_MODEL, generator=rng), dim=1
    )


def by_torch(unit):
    return nearest_of(unit, torch.arange(len(unit)), K)[1].numpy()


def by_usearch(unit):
    from usearch.index import Index

    made = Index(ndim=D_MODEL, metric="ip", dtype="f32")
    made.add(np.arange(len(unit)), unit.numpy())
    return made.search(unit.numpy(), K + 1).keys


def by_faiss(unit):
    import faiss

    made = faiss.IndexHNSWFlat(D_MODEL, 32, faiss.METRIC_INNER_PRODUCT)
    made.add(unit.numpy())
    made.hnsw.efSearch = 64
    return made.search(unit.numpy(), K + 1)[1]


def by_pynndescent(unit):
    from pynndescent import NNDescent

    return NNDescent(unit.numpy(), metric="cosine", n_neighbors=K + 1, random_state=0).neighbor_graph[0]


LIBRARIES = {"torch": by_torch, "usearch": by_usearch, "faiss": by_faiss, "pynndescent": by_pynndescent}


def recall(unit, found):
    own = np.arange(len(unit))[:, None]
    kept = np.argsort(found == own, axis=1, kind="stable")[:, :K]  # oneself last, where it is there
    return groups.recall(unit, torch.from_numpy(np.take_along_axis(found, kept, 1).astype(np.int64)))


def search(sizes, libraries):
    print(machine.heading(torch.device("cpu")))
    print("\n| clusters | library | seconds | CPU seconds | recall |\n|---|---|---|---|---|")
    for n in sizes:
        unit = made_up(n)
        for library in libraries:
            try:
                LIBRARIES[library](unit[:300])  # imports and compiles
            except ModuleNotFoundError:
                continue
            begin, cpu = time.perf_counter(), time.process_time()
            found = LIBRARIES[library](unit)
            seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
            print(f"| {n:,} | {library} | {seconds:.1f} | {cpu:.1f} | {recall(unit, found):.3f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--index", type=Path)
    parser.add_argument("--neurons", type=int, help="of each layer; default: all")
    parser.add_argument("--search", action="store_true")
    parser.add_argument("--clusters", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES))
    asked = parser.parse_args()
    with given.in_words():
        if asked.search:
            search(asked.clusters, asked.libraries)
        if asked.choose:
            choose(asked.index, asked.neurons)
