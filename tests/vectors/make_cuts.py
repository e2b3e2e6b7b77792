"""Write cuts.json: trees and what SciPy says of them at every cut. Kernels, client and browser are held to it.

python tests/vectors/make_cuts.py
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist, squareform

OUT = Path(__file__).with_name("cuts.json")


def vector(name: str, points: Any, method: str) -> dict[str, Any]:
    """A tree over cosine distances, and its cuts: at nothing, between all merges, at a merge itself, at everything."""
    distances = np.clip(pdist(points, "cosine"), 0, 2)
    n = len(points)
    z = linkage(distances, method)
    square = squareform(distances)
    members: list[list[int]] = [[i] for i in range(n)]
    means = []
    for a, b in z[:, :2].astype(int).tolist():
        members.append(members[a] + members[b])
        inside = square[np.ix_(members[-1], members[-1])]
        means.append(inside.sum() / (len(inside) * (len(inside) - 1)))
    heights = z[:, 2]
    middle = (heights[len(heights) // 2 - 1] + heights[len(heights) // 2]) / 2 if n > 2 else heights[0] / 2
    thresholds = sorted({0.0, 0.1, 0.3, 0.5, 0.8, 1.0, 2.0, float(heights[len(heights) // 2]), float(middle)})
    return {
        "name": name,
        "n": n,
        "merges": z[:, :2].astype(int).tolist(),
        "heights": heights.tolist(),
        "mean_distances": means,
        "cuts": [a_cut(z, square, threshold) for threshold in thresholds],
    }


def a_cut(z: Any, square: Any, threshold: float) -> dict[str, Any]:
    raw = fcluster(z, threshold, "distance").tolist()
    seen = list(dict.fromkeys(raw))
    labels = np.array([seen.index(label) for label in raw])
    same = labels[:, None] == labels[None, :]
    pairs = np.triu(np.ones_like(same), 1).astype(bool)
    within, between = square[same & pairs], square[~same & pairs]
    return {
        "distance_threshold": threshold,
        "labels": labels.tolist(),
        "intra": float(within.mean()) if within.size else None,
        "inter": float(between.mean()) if between.size else None,
    }


def main() -> None:
    rng = np.random.default_rng(0)
    blobs = np.repeat(rng.normal(size=(4, 12)), (14, 6, 3, 1), axis=0)
    vectors = [
        vector("two", rng.normal(size=(2, 4)), "average"),
        vector("three", rng.normal(size=(3, 4)), "average"),
        vector("equal points: merges at height 0", np.repeat([[1.0, 0.0], [0.0, 1.0]], (3, 2), axis=0), "average"),
        *(
            vector(f"four blobs, {method}", blobs + 0.25 * rng.normal(size=blobs.shape), method)
            for method in ("average", "complete", "single")
        ),
        vector("forty at random", rng.normal(size=(40, 6)), "average"),
    ]
    OUT.write_text(json.dumps(vectors, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
