"""The commands that ask more, as a person types them; in processes of their own those of test_cli.py."""

import json
import re

import pytest


@pytest.fixture
def polysem(polysem_here):
    return polysem_here


def lines(done):
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_statistics_in_words_and_json(polysem, polysem_client):
    shown = polysem("statistics", "1.5").stdout
    (want,) = polysem_client.statistics("1.5")
    assert f"neuron 1.5: highest activation {want.maximum_activation:.2f}" in shown
    assert f"30 dataset examples from {want.lowest_example:.2f} to {want.highest_example:.2f}" in shown
    assert shown.count("◂") >= 2
    assert "no dataset examples" in polysem("statistics", "1.3").stdout
    assert polysem("statistics", "1.0-9").stdout.count("1.") >= 10
    (got,) = lines(polysem("statistics", "1.5", "--json"))
    assert got["histogram"] == want.histogram.tolist()
    assert got["threshold"] == want.threshold
    assert lines(polysem("statistics", "1.3", "--json"))[0]["lowest_example"] is None


def test_neurons_are_listed_as_asked(polysem, polysem_client):
    asked = ["neurons", "--sort", "-n_clusters", "--min", "n_examples=10", "--max", "n_examples=29"]
    got = lines(polysem(*asked, "--limit", 5, "--skip", 2, "--json"))
    want = polysem_client.neurons(sort_by="-n_clusters", where={"n_examples": (10, 29)}, limit=5, skip=2)
    assert [row["neuron"] for row in got] == [str(neuron.id) for neuron in want]
    assert got[0]["intra"] == want[0].intra
    shown = polysem(*asked, "--limit", 5).stdout
    assert f"1 to 5 of {want.n_matching} that match" in shown
    assert len(lines(polysem("neurons", "1.*", "--json"))) == 96
    assert polysem("neurons", "--min", "n_examples=1e9").stdout == "no neuron matches\n"
    assert polysem("neurons", "--skip", 192).stdout == "only 192 neurons match\n"


def test_neurons_of_a_kind_are_listed_with_a_summary(polysem, polysem_client):
    *got, last = lines(polysem("neurons", "--kind", "one", "--kind", "blurred", "--summary", "--json"))
    want = polysem_client.neurons(kind=["one", "blurred"], summary=True)
    assert [row["neuron"] for row in got] == [str(neuron.id) for neuron in want]
    assert last["summary"]["kinds"] == want.summary.kinds
    assert last["summary"]["clarity"] == want.summary.clarity.tolist()
    shown = polysem("neurons", "--kind", "one", "--summary").stdout.splitlines()
    assert any(line.split()[:2] == ["one", str(want.summary.kinds["one"])] for line in shown)
    assert sum(bool(re.match(r" *[01] +\d+ ", line)) for line in shown) == 2  # a row a layer
    assert "192 neurons of any kind" in shown[-1]


def test_similar_clusters_come_with_their_texts(polysem, polysem_client):
    got = lines(polysem("similar", "1.5", "--cluster", 0, "--every-layer", "--limit", 3, "--json"))
    want = polysem_client.similar("1.5", cluster=0, every_layer=True, limit=3)
    assert [(row["neuron"], row["label"], row["similarity"]) for row in got] == [
        (str(one.neuron), one.label, one.similarity) for one in want
    ]
    shown = polysem("similar", "1.5", "--limit", 3).stdout
    assert "similar to 1.5.A  label 0" in shown
    assert shown.count("«") == 3  # one cluster, three similar ones, each with its key token
    assert polysem("similar", "1.3").stdout == "neuron 1.3 has no dataset examples, so no clusters\n"


def test_clusters_have_letters_beside_their_labels(polysem, polysem_client):
    neuron = max(polysem_client.cluster("0.*"), key=lambda n: sum(c.size > 1 for c in n.clusters))
    second = neuron.clusters[1]
    asked = ["similar", str(neuron.id), "--every-layer", "--limit", 4]
    by_letter, by_label = (polysem(*asked, "--cluster", name).stdout for name in ("b", second.label))
    assert by_letter == by_label
    assert f"similar to {neuron.id}.B  label {second.label}" in by_letter
    for row in lines(polysem(*asked, "--cluster", "B", "--json")):
        clusters = polysem_client.cluster(row["neuron"], n_null=0)[0].clusters
        assert row["letter"] == next(c.letter for c in clusters if c.label == row["label"])
        assert f"{row['neuron']}.{row['letter']}" in by_letter


def test_importance_names_the_tokens_that_matter(polysem, polysem_client):
    (got,) = lines(polysem("importance", "1.5", "--example", 1, "--tokens-before", 4, "--json"))
    (want,) = polysem_client.importance("1.5", examples=[1], tokens_before=4)
    assert got["tokens"] == list(want.tokens)
    assert got["relative"][-1] in (0, 1)
    shown = polysem("importance", "1.5", "--example", 1).stdout
    assert shown.startswith("1.5 #1")
    assert "%" in shown


def test_what_neurons_write_in_words_and_json(polysem, polysem_client):
    (want,) = polysem_client.logit_effects("1.5", n_tokens=3)
    shown = polysem("logit-effects", "1.5", "--n-tokens", 3).stdout
    assert shown.startswith("neuron 1.5: what it adds to the logits; skewness")
    assert "in standard deviations over the 257 tokens" in shown
    assert len(shown.splitlines()) == 2 + 1 + 1 + 3
    assert f"{want.likelier[0].effect:6.2f} █" in shown
    assert f"{want.less_likely[0].effect:6.2f} █" in shown
    table = polysem("logit-effects", "1.0-9").stdout.splitlines()
    assert [line.split()[0] for line in table if line.startswith("1.")] == [f"1.{i}" for i in range(10)]
    got = lines(polysem("logit-effects", "1.5", "0.3", "--n-tokens", 3, "--json"))
    assert [row["neuron"] for row in got] == ["1.5", "0.3"]
    assert got[0]["likelier"] == [token._asdict() for token in want.likelier]
    assert got[0]["kurtosis"] == want.kurtosis
    assert sum(got[0]["histogram"]) == 257


@pytest.mark.parametrize("command", ["importance", "examples"])
def test_where_there_is_no_example_that_is_said(polysem, command):
    assert polysem(command, "1.3").stdout == "none of these neurons has dataset examples\n"
    assert polysem(command, "1.5", "--example", 500).stdout == "none of these neurons has an example of such a number\n"
    assert polysem(command, "1.3", "--json").stdout == ""


def test_a_text_is_explained(polysem, polysem_client):
    shown = polysem("explain", "the tea", "1.5", "0.7").stdout
    assert "1.5" in shown.splitlines()[0]
    assert "0.7" in shown.splitlines()[0]
    got = lines(polysem("explain", "-", "1.5", "--json", input="tea"))
    want = polysem_client.explain("tea", "1.5")
    assert [row["text"] for row in got] == ["t", "e", "a"]
    assert got[0]["firings"][0]["activation"] == want[0].firings[0].activation
    assert len(lines(polysem("explain", "tea", "--strongest", 2, "--json"))[0]["firings"]) == 2
    assert "%" in polysem("explain", "tea").stdout


def test_names_are_listed_by_letter_and_in_json(polysem, polysem_client):
    want = polysem_client.labels("1.5", distance_threshold=0.3)
    shown = polysem("labels", "1.5", "--distance-threshold", 0.3).stdout.splitlines()
    assert shown[0] == "neuron 1.5"
    assert [line.split()[0] for line in shown[1:]] == [one.letter for one in want]
    assert all(
        line.endswith(one.text.rstrip()) for line, one in zip(shown[1:], want, strict=True) if one.text.isascii()
    )
    got = lines(polysem("labels", "1.5", "--distance-threshold", 0.3, "--json"))
    assert [(row["neuron"], row["cluster"], row["text"]) for row in got] == [
        ("1.5", one.cluster, one.text) for one in want
    ]
    assert polysem("labels", "1.3").stdout == "none of these neurons has dataset examples\n"


def test_what_clusters_cause_in_words_and_json(polysem, polysem_client):
    asked = ["ablate", "1.5", "--distance-threshold", 0.3, "--n-tokens", 2, "--controls", 1]
    want = polysem_client.ablate("1.5", distance_threshold=0.3, n_tokens=2, n_controls=1)
    shown = polysem(*asked).stdout
    assert shown.startswith("neuron 1.5\n")
    assert all(what in shown for what in ("A alone", "the whole neuron", "B instead", f"control {want[3].neuron}"))
    assert f"what its clusters move is {want.differences[0].distance:.2f} apart" in shown
    *rows, own, control = lines(polysem(*asked, "--json"))
    assert [(row["cluster"], row["ablated"], row["divergence"]) for row in rows] == [
        (one.cluster, one.ablated, one.divergence) for one in want
    ]
    assert rows[0]["letter"] == "A"
    assert rows[0]["likelier"] == [token._asdict() for token in want[0].likelier]
    assert (own["neuron"], own["p_value"]) == ("1.5", want.differences[0].p_value)
    assert control["neuron"] == str(want[3].neuron)
    how = "--min-activation-fraction", 0, "--cluster", "A", "--to", "mean", "--json"
    (named, *_) = lines(polysem("ablate", "1.5", "--text", "the model reads text", *how))
    assert (named["letter"], named["ablated"]) == ("A", "cluster")


def test_a_text_falls_in_clusters_with_letters(polysem, polysem_client):
    text = "the café sells tea"
    got = [firing for row in lines(polysem("explain", text, "0.0-9", "--json")) for firing in row["firings"]]
    letters = {(str(n.id), c.label): c.letter for n in polysem_client.cluster("0.0-9") for c in n.clusters}
    assert [firing["letter"] for firing in got] == [letters.get((f["neuron"], f["cluster"])) for f in got]
    assert {firing["letter"] for firing in got} > {None, "A"}
    shown = polysem("explain", text, "0.0-2").stdout
    one = next(f for f in got if f["letter"] and f["neuron"] in ("0.0", "0.1", "0.2"))
    assert f"{one['letter']} at {one['distance']:.2f}" in shown
    assert "∅ where none is near enough" in shown


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["statistics", "7.1"], 1, "there is no neuron 7.1"),
        (["logit-effects", "7.1"], 1, "there is no neuron 7.1"),
        (["logit-effects", "1.5", "--n-tokens", "0"], 2, "not in the range"),
        (["neurons", "--sort", "size"], 1, "unknown sort_by 'size'"),
        (["neurons", "--min", "intra"], 2, "is no METRIC=NUMBER such as n_examples=25"),
        (["neurons", "--min", "size=3"], 1, "unknown where 'size'"),
        (["neurons", "--kind", "rare"], 2, "'rare' is not one of 'too_few', 'one', 'few', 'blurred', 'several'"),
        (["neurons", "--min", "intra=0.5", "--max", "intra=0.3"], 1, "no intra is at least 0.5 and at most 0.3"),
        (["similar", "1.*"], 1, "'1.*' is not one neuron"),
        (["similar", "1.5", "--cluster", "ZZ"], 1, "neuron 1.5 has no cluster ZZ: cut at 0.5 it has A"),
        (["similar", "1.5", "--cluster", "B2"], 2, "'B2' is neither a cluster's letter, such as A, nor its label"),
        (["similar", "1.5", "--cluster", "99"], 1, "neuron 1.5 has no cluster 99: cut at 0.5 it has one cluster, 0"),
        (["labels", "7.1"], 1, "there is no neuron 7.1"),
        (["labels", "1.5", "--distance-threshold", "3"], 1, "distance_threshold is 3; a cosine distance lies"),
        (["importance", "1.5", "--mask-token", "9999"], 1, "mask_token is 9999"),
        (["explain", ""], 1, "there is no text to explain"),
        (["explain", "x" * 40, "1.5"], 1, "the text has 40 tokens, the model reads 31 at once beside BOS"),
        (["explain", "x", "1.5", "--min-activation-fraction", "2"], 2, "not in the range"),
        (["ablate", "1.5", "--cluster", "ZZ"], 1, "neuron 1.5 has no cluster ZZ: cut at 0.5 it has A"),
        (["ablate", "1.3"], 1, "neuron 1.3 has no dataset examples, so no clusters"),
        (["ablate", "1.5", "--controls", "17"], 2, "not in the range"),
    ],
)
def test_wrong_input_gets_a_sentence_and_an_exit_status(polysem, arguments, status, words):
    done = polysem(*arguments)
    assert done.returncode == status
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    "command", ["statistics", "neurons", "similar", "labels", "importance", "explain", "logit-effects", "ablate"]
)
def test_help_says_what_it_does_and_how_neurons_are_written(polysem, command):
    shown = polysem(command, "--help").stdout
    assert "--json" in shown
    assert "NEURONS are written" in shown
    assert len(shown.split("Options:")[0].split()) > 25
