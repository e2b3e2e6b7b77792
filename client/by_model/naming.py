"""Names of clusters by a model: what half of a cluster's examples have in common, scored by the other half."""

import random
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from polysem.client import characters
from polysem.client.by_model import scoring
from polysem.client.by_model.asking import prompt
from polysem.client.by_model.scoring import Ask, marked, numbered
from polysem.client.questions.cluster import Cluster
from polysem.client.questions.clustering import Neuron
from polysem.client.questions.examples import Example
from polysem.proto.questions.kept_names import JOINERS, MAX_CHARACTERS, KeptName, NameScores

MAX_SHOWN, MAX_HELD_OUT = 12, 10  # examples of a cluster
LEAST_SCORED = 8
NAME_TOKENS = 60
AROUND = f" \t{characters.DAMAGE}"  # a character that the last token only begins
BREAKS = re.compile(r"(\\n[ ]*)+$|^(\\n[ ]*)+")  # as the texts have them
MARKED = re.compile("<<.*>>")
QUOTED = re.compile("""[^"“]*: ["“](.+)["”]\\.?""")  # The phrase is: "…"
NUMBERED = re.compile(r"^(\d+[.)]|[-*•]) +")


class Halves(NamedTuple):
    """Examples of a cluster: those that the model explains, and those that score its name; none of a small one."""

    shown: Sequence[Example]
    held_out: Sequence[Example]


def halves(cluster: Cluster, examples: Sequence[Example], seed: int) -> Halves:
    """Return a cluster's examples in two halves, drawn by the seed; the central example is among those shown."""
    members = [number for number in cluster.members.tolist() if number != cluster.central]
    random.Random(f"{seed} {cluster.label} {len(members)}").shuffle(members)
    if cluster.size < LEAST_SCORED:
        return Halves([examples[n] for n in (cluster.central, *members)][:MAX_SHOWN], ())
    middle = len(members) // 2
    shown = [cluster.central, *members[:middle]][:MAX_SHOWN]
    return Halves([examples[n] for n in shown], [examples[n] for n in members[middle:][:MAX_HELD_OUT]])


def question(half: Halves) -> str:
    """Return the prompt that asks for a name."""
    return prompt("explain", texts=numbered([marked(one) for one in half.shown]))


def named(
    ask: Ask,
    neuron: Neuron,
    examples: Sequence[Example],
    elsewhere: Sequence[Example],
    clusters: Sequence[Cluster],
    model: str,
    other_name: str = "",
    seed: int = 0,
) -> Iterator[KeptName]:
    """Yield a name for each of the clusters that the model names, with its scores.

    examples   all of the neuron's, by number
    elsewhere  examples of other neurons, for one whose clusters are too few to compare with
    clusters   those that are to be named
    other_name  of a cluster of another neuron: the null where no other cluster of this one has a name

    Cost: a call for each name, and for each of 8 examples or more up to 6 to score it.
    """
    half = {cluster.label: halves(cluster, examples, seed) for cluster in neuron.clusters if cluster.size > 1}
    names = {cluster.label: clean(ask(question(half[cluster.label]), NAME_TOKENS)) for cluster in clusters}
    for cluster in clusters:
        if not (text := names[cluster.label]):
            continue
        other = next(
            (name for label, name in names.items() if label != cluster.label and name and name != text), other_name
        )
        held = half[cluster.label].held_out
        sisters = [one for label, of in half.items() if label != cluster.label for one in (*of.held_out, *of.shown)]
        random.Random(seed).shuffle(sisters)
        negatives = [*sisters, *elsewhere][: len(held)]
        scores = None
        if held and negatives:
            scores = NameScores(
                scoring.detection(ask, text, held, negatives, seed),
                scoring.detection(ask, other, held, negatives, seed) if other else None,
                scoring.fuzzing(ask, text, held, seed),
                scoring.fuzzing(ask, other, held, seed) if other else None,
            )
        known = scores is not None and any(score is not None for score in scores)
        members = tuple(cluster.members.tolist())
        yield KeptName(neuron.id, members, text, "model", model[:80], None, neuron.side, scores if known else None)


def clean(answer: str) -> str:
    """Return a model's answer as a name: its first line that is one, without what is put around it; "" where none is.

    No names are a line that leads to the next ("Here is the phrase:"), a text copied with its mark, and line breaks.
    """
    lines = (BREAKS.sub("", line.strip(AROUND)).strip() for line in answer.splitlines())
    line = next((line for line in lines if line.strip("`") and line[-1] != ":" and not MARKED.search(line)), "")
    if quoted := QUOTED.fullmatch(line):
        line = quoted[1]
    line = NUMBERED.sub("", line).strip("\"'“”.* ").removeprefix("Phrase:").strip()
    return "".join(c for c in line if c.isprintable() or c in JOINERS)[:MAX_CHARACTERS].strip()
