"""Explanations of another tool as names, a JSON object a line: neuron, members, text, method, author, time."""

import json
from collections.abc import Iterator, Sequence

import numpy as np

from polysem.server.importing.found import Explained
from polysem.server.index.format import Index


def lines(explanations: Sequence[Explained], index: Index) -> Iterator[str]:
    """Yield a line for each explanation; `members` are numbers of the neuron's dataset examples in the index.

    An explanation of texts that are no examples of the neuron is left out.
    """
    for one in explanations:
        members = _members(one, index)
        if members:
            yield json.dumps(
                {"neuron": str(one.neuron), "members": members}
                | {name: getattr(one, name) for name in ("text", "method", "author", "time")},
                ensure_ascii=False,
            )


def _members(one: Explained, index: Index) -> list[int]:
    stored, (_, neuron) = index.layer(one.neuron.layer), one.neuron
    rows = np.asarray(stored.rows[stored.offsets[neuron] : stored.offsets[neuron + 1]])
    texts = np.asarray(stored.row_contexts)[rows]
    mine = None if one.texts is None else set(one.texts)
    return [i for i, text in enumerate(texts.tolist()) if mine is None or text in mine]
