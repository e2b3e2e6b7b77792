"""The command as a person types it, in a process of its own."""

import json
import os
import subprocess
import sys

import pytest


@pytest.fixture
def polysem(polysem_client, tmp_path):
    def run(*arguments, server=polysem_client.target, **environment):
        return subprocess.run(
            [sys.executable, "-m", "polysem", *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=os.environ | {"POLYSEM_SERVER": server, "COLUMNS": "100"} | environment,
        )

    return run


def test_cluster_prints_an_object_a_neuron(polysem, polysem_client):
    done = polysem("cluster", "0.0-3", "L1N5", "--algorithm", "scc", "--json")
    assert done.returncode == 0, done.stderr
    objects = [json.loads(line) for line in done.stdout.splitlines()]
    want = polysem_client.cluster("0.0-3", "1.5", algorithm="scc")
    assert [o["neuron"] for o in objects] == [str(n.id) for n in want]
    for got, neuron in zip(objects, want, strict=True):
        assert got["labels"] == neuron.labels.tolist()
        assert got["inter"] == neuron.metrics.inter
        assert got["linkage"] == neuron.linkage.tolist()
        assert got["provenance"]["clustering"]["algorithm"] == "scc"


def test_one_neuron_is_drawn_and_several_are_listed(polysem, polysem_client):
    largest = max(polysem_client.cluster("1.*"), key=lambda neuron: neuron.metrics.n_examples)
    done = polysem("cluster", largest.id)
    assert done.returncode == 0, done.stderr
    assert f"{largest.metrics.n_examples} examples fall into" in done.stdout
    assert "cosine distance" in done.stdout
    assert "\x1b" not in done.stdout
    done = polysem("cluster", "1.*")
    assert done.stdout.count("1.") >= 96


def test_examples_and_info_in_words_and_json(polysem, polysem_client):
    lines = polysem("examples", "1.5", "--json").stdout.splitlines()
    want = polysem_client.examples("1.5")
    assert [json.loads(line)["tokens"] for line in lines] == [list(example.tokens) for example in want]
    shown = polysem("examples", "1.5", "--whole-context", "--example", "0").stdout
    assert shown.startswith("1.5 #0")
    assert "2 layers of 96 neurons" in " ".join(polysem("info").stdout.split())
    assert json.loads(polysem("info", "--json").stdout)["indexes"][0]["name"] == "small"


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["cluster", "7.4000"], 1, "there is no neuron 7.4000"),
        (["cluster", "x"], 1, "'x' is not a neuron"),
        (["cluster"], 2, "Missing argument"),
        (["cluster", "0.1", "--distance-threshold", "nan"], 1, "must be a number"),
        (["cluster", "0.1", "--distance-threshold", "3"], 1, "between 0 and 2"),
        (["cluster", "0.1", "--thresholds", "0.1,x"], 2, "neither a schedule's name nor numbers"),
        (["cluster", "0.1", "--index", "none"], 1, "there is no index 'none'"),
        (["index", "--corpus", "none.jsonl", "--out", "i"], 1, "there is no corpus 'none.jsonl'"),
        (["index", "--model", "./none", "--out", "i"], 1, "there is no model folder './none'"),
        (["index", "--model", "no-such-model", "--out", "i"], 1, "cannot read a model 'no-such-model'"),
        (["index"], 2, "--out FOLDER"),
        (["index", "--verify", "none"], 1, "there is no index 'none'"),
        (["nonsense"], 2, "No such command"),
    ],
)
def test_wrong_input_gets_a_sentence_and_an_exit_status(polysem_here, arguments, status, words):
    done = polysem_here(*arguments)
    assert done.returncode == status
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["serve", "--index", "none"], "there is no index 'none'"),
        (["serve", "--port", "99999"], "setting port"),
        (["serve", "--host", "0.0.0.0"], "--insecure"),
        (["serve", "--device", "tpu", "--index", "none"], "unknown device 'tpu'"),
    ],
)
def test_wrong_settings_of_a_server_get_a_sentence_too(polysem, arguments, words):
    done = polysem(*arguments)  # which sets up the logs of its process
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_no_server_there(polysem):
    done = polysem("info", server="127.0.0.1:1")
    assert done.returncode == 1
    assert "start one with `polysem serve`" in done.stderr


def test_index_builds_verifies_and_says_what_is_next(polysem, polysem_here, checkpoint, corpus_file, tmp_path):
    out = tmp_path / "made"
    done = polysem("index", "--model", checkpoint, "--corpus", corpus_file, "--out", out, "--selection", "top",
                   "--max-examples", "7", "--max-documents", "40", "--device", "cpu")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"next: {sys.executable} -m polysem serve --index {out}" in done.stdout
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["selection"] == {"rule": "top", "min_activation_fraction": 0.75, "max_examples": 7, "seed": 0}
    assert manifest["counts"]["n_documents"] == 40
    assert "sound" in polysem_here("index", "--verify", out).stdout
    again = polysem_here("index", "--model", checkpoint, "--corpus", corpus_file, "--out", out)
    assert again.returncode == 1
    assert "exists already" in again.stderr


def test_a_bad_line_stops_the_build_or_is_left_out(polysem_here, checkpoint, tmp_path):
    corpus = tmp_path / "c.jsonl"
    corpus.write_bytes(b'{"text": "good one"}\n{"text": "\xff"}\n')
    done = polysem_here("index", "--model", checkpoint, "--corpus", corpus, "--out", "i")
    assert done.returncode == 1
    assert "line 2" in done.stderr
    assert not (tmp_path / "i").exists()
    assert not (tmp_path / "i.tmp").exists()  # nothing was kept, so nothing is left
    done = polysem_here("index", "--model", checkpoint, "--corpus", corpus, "--out", "i", "--skip-bad-documents")
    assert done.returncode == 0, done.stderr
    assert "1 document was no text and was left out" in done.stdout


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo in a narrow terminal: its output, and the folder that it wrote into."""
    folder = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "polysem", "demo", "--svg", "d.svg", "--report", "new/r.html"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=os.environ | {"COLUMNS": "50"})
    assert done.returncode == 0, done.stderr
    return done.stdout, folder


def test_the_demo_shows_neurons_table_1_and_what_to_type_next(demo, polysem_here):
    shown, folder = demo
    for words in ("fall into", "HAC beside SCC", "Table 1 of this model", "Type next:", "polysem serve &"):
        assert words in " ".join(shown.split())
    assert "<svg" in (folder / "d.svg").read_text()
    assert "new/r.html" in shown
    assert (folder / "new" / "r.html").read_text().count("<article") == 3
    again = polysem_here("demo", "--report", folder / "new" / "r.html")
    assert again.returncode == 1
    assert "exists already; choose another name, or --force" in again.stderr


def test_what_the_demo_says_to_type_next_works_as_it_stands(demo, tmp_path):
    """Pasted into one terminal, in a narrow one, too; the explorer alone would wait for Ctrl-C."""
    shown = demo[0].partition("Type next:")[2]
    typed = [line.strip() for line in shown.splitlines() if line.startswith("  ") and not line.startswith("  #")]
    assert [line.split()[3] for line in typed] == [
        "serve", "health", "cluster", "cluster", "cluster", "examples", "explore", "index"
    ]  # fmt: skip
    typed = [line for line in typed if not line.endswith(" explore")]
    at = f"unix:{tmp_path}/demo.sock"
    environment = os.environ | {"POLYSEM_HOST": at, "POLYSEM_SERVER": at, "COLUMNS": "90"}
    script = "\n".join(["set -e", *typed, "kill %1", "wait"])
    done = subprocess.run(["bash", "-mc", script], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.stdout.count("fall into") == 3, done.stderr
    assert "polysem serve --index my-index" in done.stdout
    assert (tmp_path / "my-index" / "manifest.json").exists()
