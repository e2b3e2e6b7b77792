"""Names by a language model beside names by rules, on the same clusters, each beside its null.

    python tests/benchmarks/names_by_model.py --checkpoint build/smollm2 [--index FOLDER] [--neurons 20] [--shown 10]
    python tests/benchmarks/names_by_model.py --base-url http://HOST:8000/v1 --model NAME

The first serves the checkpoint by tests/benchmarks/chat_server.py; the second asks a model that is served elsewhere.
Neurons are drawn as by tests/benchmarks/names.py, and `polysem name --by-model` names their clusters of 8 examples or
more. With --read the same model then reads the names by rules, with the same texts: scores of one sort, at twice the
cost. Means are over clusters with a score, with 95 % bootstrap intervals over neurons. --cache FILE keeps the answers:
a run that was stopped goes on.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import given
import numpy as np
from names import drawn, interval, text

from polysem.client import Client, characters
from polysem.client.by_model import naming
from polysem.client.by_model.asking import Asking, Budget
from polysem.client.by_model.endpoint import Endpoint
from polysem.client.commands import by_model
from polysem.client.questions.cluster import Cluster
from polysem.client.questions.clustering import Neuron
from polysem.client.questions.labels import Label
from polysem.proto.neurons import NeuronId
from polysem.proto.questions.kept_names import NameScores
from polysem.proto.questions.labels import LEAST_SCORED
from polysem.server import local

NO_END = Budget(1 << 30, 1 << 30)
TIMEOUT_S = 600.0
ROWS = (  # words, score, null
    ("detection: texts of the cluster from others", "detection", "null_detection"),
    ("fuzzing: the key token from another token", "fuzzing", "null_fuzzing"),
)


class Named(NamedTuple):
    """A cluster with its name by rules and its name by the model, "" where it gave none, and scores by the model.

    read  of the name by rules, where the model has read it
    """

    neuron: Neuron
    cluster: Cluster
    rule: Label
    text: str
    scores: NameScores
    read: NameScores = NameScores()


@contextmanager
def endpoint(asked: argparse.Namespace) -> Iterator[Endpoint]:
    """The endpoint that was named, or one of our own that serves the checkpoint."""
    if asked.base_url:
        yield Endpoint(asked.base_url, asked.model, timeout_s=TIMEOUT_S)
        return
    from chat_server import Chat, server

    chat = Chat(asked.checkpoint)
    with server(chat) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        try:
            yield Endpoint(f"http://127.0.0.1:{serving.server_port}/v1", chat.name, timeout_s=TIMEOUT_S)
        finally:
            serving.shutdown()
            thread.join()


def name(client: Client, neurons: Sequence[NeuronId], at: Endpoint, cache: Path) -> None:
    """Run the command over the neurons; it prints names as they come, then what they cost."""
    command = ["-m", "polysem.client.commands.cli", "name", "--by-model", *neurons, "--server", client.target]
    limits = ["--max-calls", NO_END.calls, "--max-tokens", NO_END.tokens, "--least-size", LEAST_SCORED]
    where = ["--base-url", at.base_url, "--model", at.model, "--model-timeout", at.timeout_s, "--cache", cache]
    begin = time.perf_counter()
    subprocess.run([sys.executable, *map(str, (*command, *limits, *where))], check=True)
    print(f"{time.perf_counter() - begin:,.0f} s for names and scores\n", flush=True)


def both(client: Client, rules: Mapping[Any, Label], neurons: Sequence[NeuronId]) -> list[Named]:
    """Return the clusters that have a score by rules, with the names that the command has kept."""
    kept = {(one.neuron, one.members): one for one in client.names()}
    found = []
    for neuron in client.cluster(*neurons, n_null=0):
        for cluster in neuron.clusters:
            if cluster.size >= LEAST_SCORED:
                own = kept.get((neuron.id, tuple(cluster.members.tolist())))
                by = (own.text, own.scores or NameScores()) if own else ("", NameScores())
                found.append(Named(neuron, cluster, rules[neuron.id, cluster.label], *by))
    return found


def read(client: Client, found: Sequence[Named], at: Endpoint, cache: Path) -> list[Named]:
    """Return the same with scores of the names by rules, of which the model is asked as of its own."""
    asking, begin = Asking(at, NO_END, cache), time.perf_counter()
    options = by_model.Options(at.base_url, at.model, at.timeout_s, NO_END, cache, False, LEAST_SCORED, True)
    neurons = list({one.neuron.id: one.neuron for one in found}.values())
    scores, last = {}, ""
    for neuron, clusters, examples, elsewhere in by_model.texts(client, neurons, set(), options, {"side": "positive"}):
        text_of = {one.cluster.label: one.rule.text for one in found if one.neuron.id == neuron.id}
        answers = {naming.question(naming.halves(one, examples, 0)): text_of[one.label] for one in clusters}

        def ask(prompt: str, n: int, known: Mapping[str, str] = answers) -> str:
            return known[prompt] if prompt in known else asking.ask(prompt, n)

        for one in naming.named(ask, neuron, examples, elsewhere, clusters, at.model, last):
            scores[one.neuron, one.members], last = one.scores or NameScores(), one.text
    asking.close()
    spent = f"{asking.n_calls:,} calls, {asking.n_tokens:,} tokens, {time.perf_counter() - begin:,.0f} s"
    print(f"names by rules, read by the model: {spent}\n", flush=True)
    return [one._replace(read=scores[one.neuron.id, tuple(one.cluster.members.tolist())]) for one in found]


def table(found: Sequence[Named], model: str) -> None:
    neurons = np.array([one.neuron.id.layer << 32 | one.neuron.id.neuron for one in found])
    n_named = sum(bool(one.text) for one in found)
    print(f"{len(found):,} clusters of {len(set(neurons)):,} neurons; {model} named {n_named:,}\n")
    print(f"| | by {model} | by rules |\n|---|---|---|")
    of_rules = [[one.rule.score, one.rule.null_score] for one in found]
    row("score by places of the corpus (AUC)", neurons, None, of_rules)
    for words, score, null in ROWS:
        row(
            words,
            neurons,
            *(
                [[getattr(of, score), getattr(of, null)] for of in both]
                for both in ([one.scores for one in found], [one.read for one in found])
            ),
        )


def row(words: str, neurons: Any, *of_both: list[list[float | None]] | None) -> None:
    """Print three rows: the score, its null, and their difference where both are known."""
    columns = [None if of is None else np.array(of, float).reshape(-1, 2) for of in of_both]
    for said, value in (
        (words, lambda of: of[:, 0]),
        ("by chance", lambda of: of[:, 1]),
        ("beyond chance", lambda of: of[:, 0] - of[:, 1]),
    ):
        cells = []
        for of in columns:
            values = np.zeros(0) if of is None else value(of)
            there = np.isfinite(values)
            n = f", {there.sum()} of them" if 0 < there.sum() < len(values) else ""
            cells.append(f"{interval(values[there], neurons[there])}{n}" if there.any() else "–")
        print(f"| {said} | {' | '.join(cells)} |")


def shown(client: Client, found: Sequence[Named], n: int) -> None:
    """Print n clusters at equal steps of the order by score of the names by rules, with both names and two texts."""
    headings = "cluster", "examples", "by the model", "detection, null", "by rules", "score, null", "two of its texts"
    print(f"\n| {' | '.join(headings)} |\n|{'---|' * len(headings)}")
    order = sorted(found, key=lambda one: (one.rule.score or 0.0, one.neuron.id, one.cluster.label))
    for i in (np.arange(n) * 2 + 1) * len(order) // (2 * n) if len(order) > n else range(len(order)):
        one = order[i]
        cluster = one.cluster
        others = [number for number in cluster.members.tolist() if number != cluster.central]
        examples = client.examples(one.neuron.id, examples=[cluster.central, others[len(others) // 2]])
        names = [characters.visible(said).replace("|", "\\|") or "–" for said in (one.text, one.rule.text)]
        by_model = beside(one.scores.detection, one.scores.null_detection)
        print(
            f"| {one.neuron.id}.{cluster.letter} | {cluster.size} | {names[0]} | {by_model} "
            f"| {names[1]} | {beside(one.rule.score, one.rule.null_score)} | {'<br>'.join(map(text, examples))} |"
        )


def beside(score: float | None, null: float | None) -> str:
    return ", ".join("–" if value is None else f"{value:.2f}" for value in (score, null))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=given.folder)
    parser.add_argument("--base-url")
    parser.add_argument("--model")
    parser.add_argument("--index", type=given.folder)
    parser.add_argument("--neurons", type=int, default=20)
    parser.add_argument("--shown", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--read", action="store_true", help="let the model read the names by rules, too")
    parser.add_argument("--cache", type=Path)
    asked = parser.parse_args()
    if bool(asked.checkpoint) == bool(asked.base_url and asked.model):
        parser.error("give --checkpoint, or --base-url and --model")
    with (
        tempfile.TemporaryDirectory() as folder,
        local(*filter(None, [asked.index]), device="cpu") as client,
        endpoint(asked) as at,
    ):
        neurons, n = drawn(client, asked.neurons, asked.seed)
        cache = asked.cache or Path(folder) / "answers.sqlite"
        print(f"{client.indexes()[0].name}: {len(neurons):,} of {n:,} neurons, asked of {at.model}\n", flush=True)
        rules = {(one.neuron, one.cluster): one for one in client.labels(*neurons)}
        name(client, neurons, at, cache)
        found = both(client, rules, neurons)
        if asked.read:
            found = read(client, found, at, cache)
        table(found, at.model)
        shown(client, found, asked.shown)


if __name__ == "__main__":
    with given.in_words():
        main()
