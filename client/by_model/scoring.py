"""Scores of a name by a model that reads it: detection and fuzzing, on examples that it was not made of.

detection  texts of the cluster against those of the neuron's other clusters, or, where there is none, other neurons'
fuzzing    the cluster's texts, with the key token marked against another token marked
null       the same questions with the name of another cluster

The model says yes or no to each text, so the area under the ROC curve is the mean of the shares that it tells right.
"""

import json
import random
import re
from collections.abc import Callable, Sequence

from polysem.client import characters
from polysem.client.by_model.asking import prompt
from polysem.client.questions.examples import Example

AT_ONCE = 10  # texts of a prompt
ANSWER_TOKENS = 100
LEAST_TOLD = 0.5  # of the texts, that the model must have judged
Ask = Callable[[str, int], str]


def marked(example: Example, place: int | None = None) -> str:
    """Return the text on one line, line breaks as \\n, with the key token, or another, between << and >>."""
    at = example.key if place is None else place
    tokens = characters.shown(example.tokens, example.key, example.key_part)
    tokens = [token.replace("⏎", "\\n") for token in tokens]  # which every language model has read often
    pieces = [f"<<{token}>>" if i == at else token for i, token in enumerate(tokens)]
    return " ".join("".join(pieces).split())


def numbered(texts: Sequence[str]) -> str:
    """Return the texts, each on a numbered line."""
    return "\n".join(f"{i}. {text}" for i, text in enumerate(texts, 1))


def detection(ask: Ask, name: str, own: Sequence[Example], others: Sequence[Example], seed: int) -> float | None:
    """Return the detection score of a name; None where the model does not answer, or there are no texts."""
    return _score(ask, "detect", name, [marked(one) for one in own], [marked(one) for one in others], seed)


def fuzzing(ask: Ask, name: str, own: Sequence[Example], seed: int) -> float | None:
    """Return the fuzzing score: of each text either the key token is marked or another token, drawn at random."""
    drawn = random.Random(seed)
    right, wrong = [], []
    for i, one in enumerate(own):
        places = [at for at, token in enumerate(one.tokens) if at != one.key and token.strip()]
        if i % 2 == 0 or not places:
            right.append(marked(one))
        else:
            wrong.append(marked(one, drawn.choice(places)))
    return _score(ask, "fuzz", name, right, wrong, seed)


def _score(ask: Ask, kind: str, name: str, right: Sequence[str], wrong: Sequence[str], seed: int) -> float | None:
    texts = [(text, True) for text in right] + [(text, False) for text in wrong]
    random.Random(seed).shuffle(texts)
    told: dict[bool, list[bool]] = {True: [], False: []}
    for first in range(0, len(texts), AT_ONCE):
        some = texts[first : first + AT_ONCE]
        question = prompt(kind, name=name, n=len(some), texts=numbered([text for text, _ in some]))
        answer = judged(ask(question, ANSWER_TOKENS), len(some))
        for (_, fits), said in zip(some, answer or (), strict=False):
            told[fits].append(said)
    if sum(map(len, told.values())) < LEAST_TOLD * len(texts) or not (told[True] and told[False]):
        return None
    shares = sum(told[True]) / len(told[True]), sum(told[False]) / len(told[False])
    return (shares[0] + 1 - shares[1]) / 2


def judged(answer: str, n: int) -> list[bool] | None:
    """Return what an answer says of n texts; None for one that is not n zeros and ones, in brackets or alone."""
    found = re.search(r"\[[\s01,.]*\]", answer)
    alone = re.fullmatch(r"[\s01,]+", answer)
    try:
        values = json.loads(found[0] if found else f"[{answer}]") if found or alone else None
    except ValueError:
        return None
    if not isinstance(values, list) or len(values) != n or any(value not in (0, 1) for value in values):
        return None
    return [bool(value) for value in values]
