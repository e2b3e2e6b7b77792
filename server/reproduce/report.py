"""The report of a study: what it found, in words and tables, from its files alone."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from polysem.client.measuring import measurements, paired, table1
from polysem.client.measuring.measurements import Measurements
from polysem.client.measuring.paired import Difference
from polysem.client.measuring.table1 import PAPER, Row
from polysem.proto.arrays import Array
from polysem.proto.questions.clustering import LEVEL
from polysem.proto.questions.tested import q_values
from polysem.server.planted import tables

NAMES = {
    "pre_mlp": "pre-MLP",
    "neuron": "neuron",
    "permuted": "permuted weights",
    "other": "another neuron's weights",
}
YES, NO, OPEN = "holds", "the other way round", "not settled"


class Question(NamedTuple):
    """Something that the paper says of neuron embeddings: which metric, and whether it should be higher or lower."""

    words: str
    metric: str
    sign: int


AT_THE_CUT = (Question("tighter clusters (intra)", "intra", -1), Question("clusters further apart (inter)", "inter", 1))
WITHOUT_SCALE = (
    Question("tighter clusters (intra, share of the mean distance)", "matched_intra_share", -1),
    Question("clusters further apart (inter, share of the mean distance)", "matched_inter_share", 1),
    Question("better separated clusters (silhouette)", "matched_silhouette", 1),
)


def write(out: Path, about: dict[str, Any]) -> None:
    """Write report.md and report.json into the study's folder. about: what its study.json holds."""
    measured, tested = (measurements.read(out / f"{name}.parquet") for name in ("table1", "tests"))
    planted = [json.loads(line) for line in (out / "planted.jsonl").read_text("utf-8").splitlines()]
    rows = table1.rows(measured)
    found = {
        "table1": [table1.as_json(row) for row in rows],
        "claims": [claim for algorithm in _algorithms(rows) for claim in claims(rows, algorithm)],
        "tests": tests(tested),
        "planted": planted,
    }
    _put(out / "report.json", json.dumps(found, indent=1) + "\n")
    _put(out / "report.md", "\n".join(_lines(about, rows, found)) + "\n")


def _put(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text, "utf-8")
    partial.rename(path)


# ---- What holds


def verdict(difference: Difference, sign: int) -> str:
    """Whether the difference is of that sign: its 95 % interval on one side of 0; "undefined" without a pair."""
    low, high = difference.low, difference.high
    if low is None or high is None:
        return "undefined"
    if low <= 0 <= high:
        return OPEN
    return YES if (low > 0) == (sign > 0) else NO


def claims(rows: Sequence[Row], algorithm: str) -> list[dict[str, Any]]:
    """Each question about neuron embeddings against each other embedding, in each mode and frame."""
    neurons = [row for row in rows if row.embedding == "neuron" and row.algorithm == algorithm]
    return [
        {
            "algorithm": algorithm,
            "against": other,
            "equal_numbers": questions is WITHOUT_SCALE,
            "question": question.words,
            "metric": question.metric,
            "layer_norm": row.layer_norm,
            "frame": row.frame,
            "verdict": verdict(row.differences[other][question.metric], question.sign),
            **row.differences[other][question.metric]._asdict(),
        }
        for other in ("pre_mlp", "permuted", "other")
        for questions in (AT_THE_CUT, WITHOUT_SCALE)
        for question in questions
        for row in neurons
    ]


def tests(tested: Measurements) -> list[dict[str, Any]]:
    """Return of each embedding how many neurons exceed chance, and by how much more neuron embeddings do."""
    embedding, values = tested.column("embedding"), {name: tested.column(name) for name in _TESTS}
    of = {name: np.flatnonzero(embedding == name) for name in NAMES}
    return [_tests(name, mine, of["neuron"], values) for name, mine in of.items()]


_TESTS = (
    "layer",
    "neuron",
    "p_value",
    "own_silhouette",
    "null_silhouette",
    "excess_silhouette",
    "significant_clusters",
)


def _tests(name: str, mine: Array, neurons: Array, values: dict[str, Array]) -> dict[str, Any]:
    known = mine[~np.isnan(values["p_value"][mine])]
    p, excess = values["p_value"][known], values["excess_silhouette"]
    more = paired.difference(excess[neurons] - excess[mine])  # rows of all embeddings are of the same neurons
    return {
        "embedding": name,
        "n_tested": len(known),
        "share_p": _mean(p <= LEVEL),
        "share_q": _mean(q_values(p) <= LEVEL),
        "share_two_clusters": _mean(values["significant_clusters"][known] >= 2),
        **{
            column: float(np.median(values[column][known])) if len(known) else None
            for column in ("own_silhouette", "null_silhouette", "excess_silhouette")
        },
        "neuron_exceeds_it_by": more._asdict(),
    }


def _mean(values: Array) -> float | None:
    return float(values.mean()) if len(values) else None


# ---- In words


def _lines(about: dict[str, Any], rows: Sequence[Row], found: dict[str, Any]) -> list[str]:
    algorithms = _algorithms(rows)
    lines = _head(about)
    for algorithm in algorithms:
        lines += _headline(next(row for row in rows if (row.algorithm, row.embedding) == (algorithm, "neuron")))
        lines += _claims_in_words(algorithm, [claim for claim in found["claims"] if claim["algorithm"] == algorithm])
    lines += [*_tests_in_words(found["tests"]), *_planted_in_words(found["planted"]), ""]
    for algorithm in algorithms:
        lines += _table1([row for row in rows if row.algorithm == algorithm])
    lines += [*_tests_table(found["tests"]), *_planted_table(found["planted"]), *_limits(about)]
    return lines


def _head(about: dict[str, Any]) -> list[str]:
    index, study = about["index"], about["study"]
    rule = index["selection"]
    n, n_tested = (
        f"{study[name]:,} drawn of each layer" if study[name] is not None else "all"
        for name in ("n_neurons", "n_tested")
    )
    return [
        f"# Neuron embeddings of {index['model_id']} on {index['corpus_id']}",
        "",
        f"{index['n_contexts']:,} contexts of at most {index['context_length']:,} tokens ({index['n_tokens']:,} in "
        f"all); dataset examples by rule {rule['rule']}: at or above {rule['min_activation_fraction']:g} of the "
        f"neuron's maximum, at most {rule['max_examples']:,}; {study['side']} side. Neurons in Table 1: {n}; in the "
        f"tests against chance: {n_tested}. Made by `polysem reproduce`, Polysem {about['software']['polysem']}, seed "
        f"{study['seed']}; study.json has the rest.",
        "",
        "The paper (Foote 2024, Table 1) says that clusters of neuron embeddings are tighter, and further apart, than "
        "those of pre-MLP embeddings. Each sentence below rests on the median difference over neurons: it *holds*, or "
        "is *the other way round*, where the 95 % bootstrap interval lies on one side of 0. Modes and frames stand as "
        "LayerNorm/frame; the paper's is folded/raw.",
        "",
        "## What holds and what does not",
        "",
    ]


def _headline(row: Row) -> list[str]:
    """The paper's claim as it was made: at one cut, in the first mode and frame."""
    of = row.differences["pre_mlp"]
    found = (
        f"{question.words}: *{verdict(of[question.metric], question.sign)}* ({_interval(of[question.metric])})"
        for question in AT_THE_CUT
    )
    return [
        f"- **The paper's claim as it was made** ({row.algorithm}, one cut, {row.layer_norm}/{row.frame}), against "
        f"pre-MLP embeddings: {'; '.join(found)}."
    ]


def _algorithms(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(row.algorithm for row in rows))


def _claims_in_words(algorithm: str, found: Sequence[dict[str, Any]]) -> list[str]:
    of = {(claim["against"], claim["metric"], claim["layer_norm"], claim["frame"]): claim for claim in found}
    lines = []
    for against in ("pre_mlp", "permuted", "other"):
        for questions, where in ((AT_THE_CUT, "at the paper's cut"), (WITHOUT_SCALE, "at equal numbers of clusters")):
            for question in questions:
                mine = [claim for (a, m, *_), claim in of.items() if (a, m) == (against, question.metric)]
                lines.append(
                    f"- {algorithm}, {where}: {question.words} than with {_with(against)}: {_by_verdict(mine)}."
                )
    return lines


def _with(other: str) -> str:
    return "pre-MLP embeddings" if other == "pre_mlp" else f"a control, {NAMES[other]}"


def _by_verdict(found: Sequence[dict[str, Any]]) -> str:
    """*holds* in folded raw (−0.1), …; settings that agree stand together."""
    parts = []
    for words in (YES, NO, OPEN, "undefined"):
        mine = [claim for claim in found if claim["verdict"] == words]
        if len(mine) == len(found):
            return f"*{words}* in every LayerNorm mode and frame ({_range(mine)})"
        if mine:
            settings = ", ".join(f"{claim['layer_norm']}/{claim['frame']}" for claim in mine)
            parts.append(f"*{words}* in {settings} ({_range(mine)})")
    return "; ".join(parts)


def _range(found: Sequence[dict[str, Any]]) -> str:
    medians = [claim["median"] for claim in found if claim["median"] is not None]
    if not medians:
        return "no neuron has it in both"
    low, high = min(medians), max(medians)
    return f"{low:+.3f}" if f"{low:+.3f}" == f"{high:+.3f}" else f"{low:+.3f} to {high:+.3f}"


def _tests_in_words(found: Sequence[dict[str, Any]]) -> list[str]:
    mine = next(test for test in found if test["embedding"] == "neuron")
    if not mine["n_tested"]:
        return ["- Against chance: no neuron has the 3 dataset examples that a test needs."]
    lines = [
        f"- More than chance: of {mine['n_tested']:,} neurons {mine['share_p']:.0%} are not one Gaussian cloud "
        f"(p ≤ .05), {mine['share_q']:.0%} with q ≤ .05; {mine['share_two_clusters']:.0%} have two significant "
        f"clusters or more. Median best silhouette {mine['own_silhouette']:.2f}, of rotations "
        f"{mine['null_silhouette']:.2f}."
    ]
    for test in found:
        more = Difference(**test["neuron_exceeds_it_by"])
        if test["embedding"] != "neuron" and more.median is not None:
            lines.append(
                f"- Clusters of neuron embeddings exceed chance by more than with {_with(test['embedding'])}: "
                f"*{verdict(more, 1)}* ({_interval(more)})."
            )
    return lines


def _planted_in_words(rows: Sequence[dict[str, Any]]) -> list[str]:
    if "problem" in rows[0]:
        return [f"- Planted truth: {rows[0]['problem']}."]
    lines = []
    for row in (row for row in rows if row.get("held_out") in ("paper", "pre-MLP")):
        chosen = next(r for r in rows if r.get("held_out") == "chosen" and r["planting"] == row["planting"])
        mean, low, high = row["behind"]
        exceeds = "exceeds" if low > 0 else "is behind" if high < 0 else "does not clearly differ from"
        lines.append(
            f"- Planted truth ({tables.PLANTED[row['planting']]}): {_way(chosen)}, chosen on layers "
            f"{_listed(row['chosen_on'])}, {exceeds} {_way(row)} ({row['held_out']}) on layers "
            f"{_listed(row['reported_on'])} by {mean:+.3f} [{low:+.3f}, {high:+.3f}] in adjusted Rand index."
        )
    return lines or [
        "- Planted truth: one layer has mixtures, so nothing could be chosen on one and reported on another."
    ]


def _way(row: dict[str, Any]) -> str:
    return f"{row['embedding']} embeddings in frame {row['frame']} by {row['algorithm']} ({row['layer_norm']})"


def _listed(layers: Sequence[int]) -> str:
    return ", ".join(map(str, layers))


# ---- Tables


def _table(*rows: Sequence[str]) -> list[str]:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:], ""]


def _table1(rows: Sequence[Row]) -> list[str]:
    algorithm = rows[0].algorithm
    body, differences = [], []
    for row in rows:
        numbers = (row.numbers[name] for name in (*("intra", "inter"), *_SCALE_FREE, "best_silhouette"))
        counts = f"{row.numbers['intra'].n_paired:,} / {row.numbers['inter'].n_paired:,}"
        undefined = f"{row.numbers['intra'].n_undefined:,} / {row.numbers['inter'].n_undefined:,}"
        medians = ("–" if one.median is None else f"{one.median:.3f}" for one in numbers)
        clusters = "–" if row.mean_clusters is None else f"{row.mean_clusters:.1f}"
        body.append((f"{row.layer_norm}, {row.frame}", NAMES[row.embedding], *medians, clusters, counts, undefined))
        for other, of in row.differences.items():
            cells = (_interval(of[name]) for name in ("intra", "inter", *_SCALE_FREE, "best_silhouette"))
            differences.append((f"{row.layer_norm}, {row.frame}", NAMES[other], *cells))
    paper = [
        ("paper, GPT2-small", NAMES[name], f"{intra:.2f}", f"{inter:.2f}", *["–"] * 7)
        for name, (intra, inter) in PAPER.items()
    ]
    heads = (
        "intra",
        "inter",
        "intra, equal number",
        "inter, equal number",
        "silhouette, equal number",
        "best silhouette",
    )
    return [
        f"## Table 1, {algorithm}",
        "",
        "Medians over the neurons that every embedding of a mode and frame has a number for (paired, intra / inter; "
        "undefined: without one in this row). At equal numbers of clusters intra and inter are shares of the mean "
        "distance.",
        "",
        *_table(("LayerNorm, frame", "embedding", *heads, "clusters", "paired", "undefined"), *paper, *body),
        "Median of neuron embeddings minus the other, with its 95 % bootstrap interval over neurons:",
        "",
        *_table(("LayerNorm, frame", "minus", *heads), *differences),
    ]


_SCALE_FREE = ("matched_intra_share", "matched_inter_share", "matched_silhouette")


def _interval(difference: Difference) -> str:
    median, interval = paired.shown(difference)
    return median if median == "–" else f"{median} [{interval}]"


def _tests_table(found: Sequence[dict[str, Any]]) -> list[str]:
    heads = (
        "embedding",
        "tested",
        "p ≤ .05",
        "q ≤ .05",
        "two clusters or more",
        "best silhouette",
        "of rotations",
        "excess",
    )
    shares, medians = (
        ("share_p", "share_q", "share_two_clusters"),
        ("own_silhouette", "null_silhouette", "excess_silhouette"),
    )
    rows = [
        (
            NAMES[test["embedding"]],
            f"{test['n_tested']:,}",
            *("–" if test[name] is None else f"{test[name]:.1%}" for name in shares),
            *("–" if test[name] is None else f"{test[name]:.3f}" for name in medians),
        )
        for test in found
    ]
    return ["## Against chance", "", "In frame own, by hac; medians.", "", *_table(heads, *rows)]


def _planted_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    if "problem" in rows[0]:
        return []
    lines = ["## Planted truth", ""]
    for planting in dict.fromkeys(row["planting"] for row in rows):
        mine = [row for row in rows if row["planting"] == planting and row.get("kind") == "all"]
        best = sorted(mine, key=lambda row: -row["best"][0])
        n = mine[0]["n_mixtures"]
        lines += [
            f"{tables.PLANTED[planting].capitalize()}, {n:,} mixtures; the 10 best of {len(mine)} combinations:",
            "",
        ]
        heads = (
            "embedding, frame, algorithm, LayerNorm",
            "ARI, true number",
            "ARI, best of 2–12",
            "ARI, suggested",
            "AUC",
        )
        names = ("embedding", "frame", "algorithm", "layer_norm")
        lines += _table(
            heads,
            *((", ".join(row[name] for name in names), *map(_score, _scores(row))) for row in best[:10]),
        )
    return lines


def _scores(row: dict[str, Any]) -> list[Sequence[float] | None]:
    return [row[name] for name in ("at_true", "best", "suggested", "auc")]


def _score(interval: Sequence[float] | None) -> str:
    if interval is None or math.isnan(interval[0]):
        return "–"
    return "{:.2f} ({:.2f}–{:.2f})".format(*interval)


def _limits(about: dict[str, Any]) -> list[str]:
    gpt2 = about["index"]["model_id"] in ("gpt2", "openai-community/gpt2")
    return [
        "## Limits",
        "",
        *([] if gpt2 else ["- The paper's numbers are of GPT2-small; this is another model."]),
        "- Intervals are over neurons, or over mixtures, of this one model and corpus. Many are given, and none is "
        "corrected for how many there are.",
        "- A small p says *not one Gaussian cloud*; heavy tails come near that, too.",
        "- Planted truth is coarser than the truth, for neurons are themselves polysemantic.",
    ]
