"""Names by a model, by hand and through `polysem name --by-model`: scores beside their nulls, and nothing unasked."""

import json
from dataclasses import replace

import numpy as np
import pytest

from polysem.client.by_model import naming, scoring
from polysem.client.by_model.naming import clean
from polysem.client.by_model.scoring import detection, fuzzing, judged, marked
from polysem.client.questions.examples import Example

from .conftest import honest

NEURON = "0.3"


@pytest.fixture
def examples(polysem_client):
    return list(polysem_client.examples(NEURON))


def test_a_text_is_marked_at_its_key_token_on_one_line(examples):
    one = examples[0]
    text = marked(one)
    assert text.count("<<") == text.count(">>") == 1
    assert f"<<{one.tokens[one.key].strip()}" in text.replace("<< ", "<<")
    assert "\n" not in text
    broken = Example(
        one.neuron, 0, "", 0, 2, 1.0, (" end", ".", "\n", "    ", "A"), np.zeros(5, np.float32), 2, key_of=(1, 1)
    )
    assert marked(broken) == r"end.<<\n>> A"
    assert marked(broken, 4) == r"end.\n <<A>>"
    character = replace(broken, tokens=(" a", "", "日"), activations=np.zeros(3, np.float32), key=1, key_of=(1, 2))
    assert marked(character) == "a<<日 1/2>>"


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("[1, 0, 1]", [True, False, True]),
        ("Sure! [1,0,1].", [True, False, True]),
        ("1, 0, 1", [True, False, True]),
        ("1, 0, 1, 1, 0, 1, 1, 0", None),
        ("1. 0\n2. 1\n3. 1", None),
        ("[1, 0]", None),
        ("[1, 0, 2]", None),
        ("1 0 1", None),
        ("", None),
        ("[1, 0, 0.5]", None),
        ("[[1]]", None),
    ],
)
def test_judgements_are_read_or_left_out(answer, found):
    assert judged(answer, 3) == found


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        ('"decorators of methods."', "decorators of methods"),
        ("\n\n a phrase \n and more", "a phrase"),
        ("x" * 500, "x" * 200),
        ("a\u202eb\x00c", "abc"),
        ("", ""),
        ("“quoted”", "quoted"),
        ("Here is the phrase:\n\n1. **verbs of motion**\n2. nouns", "verbs of motion"),
        ('The phrase that fits all is: "verbs of motion."', "verbs of motion"),
        ("- verbs of motion", "verbs of motion"),
        ("1. he went to the << river>> and\n2. she << sat>>", ""),  # texts, copied
        ("```\n`>>>` of doctests\n```", "`>>>` of doctests"),
        ("Sure, I can help:", ""),
        ("\\n\\n \\n\n names of girls \\n\\n \ufffd", "names of girls"),
    ],
)
def test_an_answer_becomes_a_name_of_one_line(answer, name):
    assert clean(answer) == name


def test_scores_tell_a_model_that_knows_from_a_coin_and_from_nonsense(examples):
    common = max({marked(one).split("<<")[1].split(">>")[0] for one in examples}, key=str)
    own = [one for one in examples if f"<<{common}>>" in marked(one)]
    others = [one for one in examples if one not in own][: len(own)]

    def ask(prompt, max_tokens):
        return honest(prompt)

    name = f"the token ‘{common.strip()}’"
    assert detection(ask, name, own, others, 0) == 1.0
    assert detection(ask, "the token ‘none’", own, others, 0) == 0.5
    assert detection(lambda prompt, n: "[1]", name, own, others, 0) is None
    assert detection(lambda prompt, n: "no", name, own, others, 0) is None
    assert fuzzing(lambda prompt, n: "no", name, own, 0) is None


def test_held_out_examples_are_not_shown_and_all_is_seeded(polysem_client):
    neuron = max(polysem_client.cluster("0.*"), key=lambda n: n.clusters[0].size if n.clusters else 0)
    texts = list(neuron.examples)
    half = naming.halves(neuron.clusters[0], texts, 0)
    shown = {one.example for one in half.shown}
    assert not shown & {one.example for one in half.held_out}
    assert neuron.clusters[0].central in shown
    assert naming.halves(neuron.clusters[0], texts, 0) == half
    assert len(half.shown) <= naming.MAX_SHOWN
    assert len(half.held_out) <= naming.MAX_HELD_OUT
    assert scoring.AT_ONCE >= naming.MAX_HELD_OUT


# ---- The command


@pytest.fixture
def name(polysem_client, polysem_here, model, tmp_path):
    """A function that runs the command over the model; names are forgotten afterwards."""

    def run(*arguments):
        cache = tmp_path / "answers.sqlite"
        given = ("--base-url", model.url, "--model", "tiny", "--cache", cache)
        return polysem_here("name", "--by-model", *arguments, *given)

    yield run
    polysem_client.keep_names(*(one._replace(text="") for one in polysem_client.names()))


def test_a_model_names_clusters_with_scores_and_is_asked_once(polysem_client, model, name):
    done = name("0.0-5", "--json")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(row) for row in done.stdout.splitlines()]
    kept = list(polysem_client.names("0.0-5"))
    assert len(rows) == len(kept) > 3
    assert {one.method for one in kept} == {"model"}
    assert {one.author for one in kept} == {"tiny"}
    scored = [one.scores for one in kept if one.scores is not None]
    assert scored
    assert all(0 <= score <= 1 for scores in scored for score in scores if score is not None)
    labels = [one for one in polysem_client.labels("0.0-5") if one.method == "model"]
    assert {one.text for one in labels} == {one.text for one in kept}
    assert any(one.score is not None for one in labels)
    n = len(model.requests)
    again = name("0.0-5", "--replace")
    assert again.returncode == 0
    assert len(model.requests) == n  # all answers are kept
    assert "0 calls" in again.stderr
    assert name("0.0-5").stdout == ""  # nothing is left to name


def test_show_prints_what_would_be_sent_and_sends_nothing(polysem_client, model, name):
    done = name("0.0-5", "--show")
    bodies = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert (model.requests, list(polysem_client.names())) == ([], [])
    assert "nothing was sent" in done.stderr
    name("0.0-5")
    asked = [body for _, _, body in model.requests if "short phrase" in body["messages"][0]["content"]]
    assert asked == bodies


def test_a_budget_stops_in_words_and_the_same_command_goes_on(polysem_client, model, name):
    first = name("0.0-5", "--max-calls", 5)
    assert "the budget of 5 calls is used up" in first.stderr
    n = len(list(polysem_client.names()))
    for _ in range(40):
        name("0.0-5", "--max-calls", 5)
    assert len(list(polysem_client.names())) > n
    prompts = model.prompts
    assert len(prompts) == len(set(prompts))  # nothing is asked twice


def test_refusals_and_nonsense_name_nothing_and_fail_nothing(polysem_client, model, name):
    model.answer = lambda prompt: "" if "short phrase" in prompt else "[9]"
    done = name("0.0-2")
    assert (done.returncode, done.stdout) == (0, "")
    assert "0.0 A: the model gave no name" in done.stderr
    model.answer = lambda prompt: f"a name {len(prompt)}" if "short phrase" in prompt else "I do not know"
    done = name("0.4")
    kept = list(polysem_client.names("0.4"))
    assert all(one.scores is None for one in kept)
    n = sum(len(one.members) >= naming.LEAST_SCORED for one in kept)
    assert f"{len(kept)} names are kept; of {n} the model's judgements could not be read" in done.stderr


def test_a_failing_endpoint_and_missing_options_are_told(model, name, polysem_here):
    model.answer = lambda prompt: (404, {}, b"no such model")
    done = name("0.1")
    assert (done.returncode, "refused the call (404): no such model" in done.stderr) == (1, True)
    assert polysem_here("name", "--by-model", "0.1").returncode == 2
    assert polysem_here("name", "0.1", "A").returncode == 2
