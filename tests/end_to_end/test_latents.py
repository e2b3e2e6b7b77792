"""Latents of SAEs from the command line to the answers: every question of a real server, the pages, the terminal."""

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from starlette.testclient import TestClient

import polysem.server
from polysem.client import Client
from polysem.client.commands.cli import cli
from polysem.client.drawing import report
from polysem.client.explorer import app
from polysem.proto.errors import FailedPrecondition, InvalidArgument, NotFound, UnknownNeuron
from polysem.server.index.format import open_index
from polysem.server.questions import holding
from polysem.server.reproduce import study

D = 24
WIDTHS = {0: 40, 1: 17}
HOOKS = {0: "blocks.0.hook_resid_post", 1: "blocks.1.hook_mlp_out"}
DEAD = "0.5"
SMALL = ("--context-length", "32", "--selection", "top", "--max-examples", "12", "--device", "cpu")


def write_sae(folder: Path, layer: int, d: int = D) -> None:
    """A seeded SAE as SAELens 6 saves it: ReLU at layer 0, TopK at layer 1."""
    folder.mkdir(parents=True)
    dice, n = torch.Generator().manual_seed(layer), WIDTHS[layer]
    biases = 0.3 * torch.randn(n, generator=dice)
    biases[5] = -1e6
    arrays = {
        "W_enc": torch.randn((d, n), generator=dice),
        "W_dec": torch.randn((n, d), generator=dice),
        "b_enc": biases,
        "b_dec": torch.randn(d, generator=dice),
    }
    save_file(arrays, folder / "sae_weights.safetensors")
    kind = {"architecture": "standard"} if layer == 0 else {"architecture": "topk", "k": 4}
    config = {
        "d_in": d,
        "d_sae": n,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": "6.54.12", "model_name": "gpt2-small", "hook_name": HOOKS[layer]},
        **kind,
    }
    (folder / "cfg.json").write_text(json.dumps(config))


class Made(NamedTuple):
    """The SAEs' folder, the index, and what the command said."""

    saes: Path
    index: Path
    said: str


def run(*words: object) -> str:
    done = CliRunner().invoke(cli, list(map(str, words)), env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def made(checkpoint: Path, corpus_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("latents")
    for layer in WIDTHS:
        write_sae(folder / "saes" / f"layer-{layer}", layer)
    words = ("--model", checkpoint, "--units", f"sae:{folder / 'saes'}", "--corpus", corpus_file, *SMALL)
    said = run("index", *words, "--out", folder / "latents")
    holding.hold(_model(checkpoint), open_index(folder / "latents"), 19)
    return Made(folder / "saes", folder / "latents", said)


def _model(checkpoint: Path):
    from polysem.server.model.loading import load

    return load(str(checkpoint), "cpu")


@pytest.fixture(scope="module")
def client(made: Made, index_folder: Path, tmp_path_factory: pytest.TempPathFactory):
    """Return a client of a server with jobs, whose operator allows the SAEs."""
    state, patch = tmp_path_factory.mktemp("state"), pytest.MonkeyPatch()
    patch.setenv("POLYSEM_SAES", str(made.saes))
    with polysem.server.local(made.index, index_folder, device="cpu", state=state) as client:
        patch.undo()
        yield client


@pytest.fixture(scope="module")
def pages(client: Client) -> TestClient:
    return TestClient(app.make_app(client), base_url="http://127.0.0.1")


def page(pages: TestClient, path: str) -> str:
    for _ in range(200):
        answer = pages.get(path)
        if answer.status_code != 202:
            assert answer.status_code == 200, answer.text
            return answer.text
    raise AssertionError(f"{path} stays grey")


def test_the_command_says_latents_and_the_index_says_which(made, client):
    assert "latents from 120 contexts" in made.said
    info = client.indexes()[0]
    assert (info.unit, info.widths, info.layers, info.sides) == ("latent", (40, 17), (0, 1), ("positive",))
    assert [(e.layer, e.name, e.point, e.kind, e.hook, e.model) for e in info.encoders] == [
        (0, "layer-0", "resid_post", "relu", HOOKS[0], "gpt2-small"),
        (1, "layer-1", "mlp_out", "topk", HOOKS[1], "gpt2-small"),
    ]
    assert "layer 1: 17 latents of layer-1 (topk, reads blocks.1.hook_mlp_out" in run("info", "--server", client.target)
    assert info.tests is not None


def test_latents_are_clustered_beside_neurons_of_another_index(client):
    latents, neurons = client.cluster("1.*"), client.cluster("1.*", index="small")
    assert (len(list(latents)), len(list(neurons))) == (17, 96)
    assert (latents.unit, neurons.unit) == ("latent", "neuron")
    assert {one.title for one in latents} == {f"latent 1.{f}" for f in range(17)}
    assert client.cluster(DEAD)[0].metrics.n_examples == 0
    with pytest.raises(UnknownNeuron, match=r"there is no latent 1\.17: layer 1 has latents 0 to 16"):
        list(client.cluster("1.17"))


def a_latent(client: Client) -> str:
    """One of layer 1 with several clusters."""
    return str(max(client.neurons("1.*"), key=lambda one: one.n_clusters).id)


def test_every_question_answers_about_latents(client):
    id_ = a_latent(client)
    (one,) = client.cluster(id_)
    assert len(client.examples(id_)) == len(one.labels)
    embedded = client.embed(id_)[0].embeddings
    assert embedded.shape == (len(one.labels), D)
    assert client.statistics(id_)[0].n_examples == len(one.labels)
    assert len(client.labels(id_)) == one.metrics.n_clusters
    assert {other.neuron.layer for other in client.similar(id_, every_layer=True, limit=50)} == {0, 1}
    assert len(client.neurons()) == 57
    tokens = client.explain("the model reads a window", id_, "0.3")
    assert [firing.neuron for firing in tokens[0].firings] == [one.id, (0, 3)]
    assert len(client.importance(id_, examples=[0])) == 1
    for choice in ({"frame": "centred"}, {"frame": "own"}, {"embedding": "pre_mlp"}, {"embedding": "permuted"}):
        assert client.cluster(id_, **choice)[0].metrics.n_examples == len(one.labels)
    with pytest.raises(InvalidArgument, match="embedding 'gate' is of gated neurons, and these are latents"):
        list(client.cluster(id_, embedding="gate"))
    with pytest.raises(FailedPrecondition, match="logit effects of latents cannot be told"):
        list(client.logit_effects(id_))
    with pytest.raises(FailedPrecondition, match="effects of ablations of latents cannot be told"):
        list(client.ablate(id_))
    with pytest.raises(FailedPrecondition, match=rf"so latent {id_} has no hook there"):
        _ = one.hook


def test_whole_contexts_and_explanations_read_the_same_activations(client):
    id_ = a_latent(client)
    for example in client.examples(id_, whole_context=True):
        assert example.activations[example.key] == pytest.approx(example.activation, rel=1e-4)
        assert example.activations[1:].max() == pytest.approx(example.activation, rel=1e-4)


def test_importance_of_the_key_token_is_what_the_encoder_says(client):
    id_ = a_latent(client)
    (found,) = client.importance(id_, examples=[0])
    (example,) = client.examples(id_)[:1]
    assert found.activation == pytest.approx(example.activation, rel=1e-4)


def test_the_terminal_says_latent(client):
    id_, server = a_latent(client), ("--server", client.target)
    assert f"latent {id_}" in run("cluster", id_, *server)
    assert run("neurons", *server).lstrip().startswith("latent ")
    assert f"latent {id_}: highest activation" in run("statistics", id_, *server)
    assert f"latent {id_}" in run("labels", id_, *server)
    assert "latent" in run("cluster", "1.0-3", *server).splitlines()[0]
    assert f"latent {DEAD} has no dataset examples, so no clusters" in run("similar", DEAD, *server)


def test_a_report_and_exports_say_latent(client, tmp_path):
    id_ = a_latent(client)
    html = report.make(client, id_, DEAD).html
    assert f"Latent {id_}" in html
    assert "What it adds to the output" not in html.split("<article", 1)[1].split("<script", 1)[0]
    run("export", id_, "--format", "datasets", "--out", tmp_path / "set", "--server", client.target)
    assert "Feature clusters of the latents of" in (tmp_path / "set" / "README.md").read_text()


def test_a_cache_of_latents_is_refused_as_one_of_neurons(client, checkpoint, tmp_path):
    """Its numbers are those of neurons as well; its activations are not."""
    out = tmp_path / "cache"
    run("export", "1.*", "--format", "delphi", "--whole-context", "--out", out, "--server", client.target)
    words = [out, "--format", "delphi", "--model", checkpoint, "--device", "cpu", "--out", tmp_path / "back"]
    done = CliRunner().invoke(cli, ["import", *map(str, words)])
    assert isinstance(done.exception, FailedPrecondition)
    assert "activations are not those of MLP neurons of" in done.exception.message
    assert "from latents of an SAE" in done.exception.message
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_every_layer_is_measured_at_its_own_width(client, tmp_path):
    from polysem.client.measuring.measurements import read

    out = tmp_path / "latents.parquet"
    run("measure", "*", "--server", client.target, "--out", out)
    columns = read(out)
    found = set(zip(columns.column("layer").tolist(), columns.column("neuron").tolist(), strict=True))
    assert found == {(layer, f) for layer, width in WIDTHS.items() for f in range(width)}


def test_pages_say_latent_and_ask_for_no_output(client, pages):
    id_ = a_latent(client)
    home = page(pages, "/")
    assert "What do these latents respond to?" in home
    assert "<b>57</b> latents" in home
    assert "57 latents of layer-0, layer-1" in home
    one = page(pages, f"/neuron/{id_}")
    assert "latent of layer-1 (mlp_out, topk)" in one
    assert 'id="writes"' not in one
    assert "latent" in page(pages, "/?look=table")
    assert "no dataset examples" in page(pages, f"/neuron/{DEAD}")
    last = page(pages, "/neuron/1.16")
    assert "1.17" not in last
    assert "of all 57 latents" in page(pages, f"/text?text=the+model&neurons={id_}")
    assert "What do these neurons respond to?" in page(pages, "/?index=small")


def test_a_server_without_the_sae_answers_from_the_index_alone(made, tmp_path):
    away = Path(shutil.copytree(made.saes, tmp_path / "away"))
    hidden = made.saes.rename(made.saes.with_name("hidden"))
    try:
        with polysem.server.local(made.index, device="cpu") as alone:
            id_ = a_latent(alone)
            assert alone.cluster(id_)[0].metrics.n_examples
            assert len(alone.labels(id_))
            with pytest.raises(
                FailedPrecondition, match=r"only with their SAE: there is no folder .* --units sae:FOLDER"
            ):
                list(alone.explain("the model", id_))
        with polysem.server.local(made.index, device="cpu", units=f"sae:{away}") as elsewhere:
            assert len(list(elsewhere.explain("the model", id_)))
    finally:
        hidden.rename(made.saes)


def test_some_layers_are_kept(made, checkpoint, corpus_file, tmp_path):
    words = ("--model", checkpoint, "--units", f"sae:{made.saes}", "--corpus", corpus_file, *SMALL)
    run("index", *words, "--layers", "1", "--out", tmp_path / "one")
    assert open_index(tmp_path / "one").info.widths == (17,)


@pytest.mark.parametrize(
    ("units", "words"),
    [
        ("latents:x", "units are 'latents:x'; write sae:FOLDER, or sae: and a hub name"),
        ("sae:/nowhere", "there is no folder '/nowhere'"),
        ("sae:{wide}", "reads vectors of 32 elements, and those of .* have 24"),
    ],
)
def test_units_that_cannot_be_are_one_sentence(checkpoint, corpus_file, tmp_path, units, words, monkeypatch, capsys):
    import re
    import sys

    from polysem.client.commands import cli as commands

    write_sae(tmp_path / "wide", 0, 32)
    line = ["index", "--model", checkpoint, "--units", units.format(wide=tmp_path / "wide"), "--corpus", corpus_file]
    monkeypatch.setattr(sys, "argv", ["polysem", *map(str, line), "--out", str(tmp_path / "out"), "--device", "cpu"])
    with pytest.raises(SystemExit):
        commands.main()
    said = capsys.readouterr().err
    assert re.search(words, " ".join(said.split()))
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_a_job_indexes_latents_of_an_sae_that_the_operator_allows(client, corpus_file):
    client.jobs.upload(corpus_file, "texts.jsonl")
    for units, kind, words in (
        ("sae:/etc", NotFound, "there is no SAE '/etc' here; the server has saes"),
        ("latents", InvalidArgument, "units are 'latents'; write sae:NAME"),
    ):
        with pytest.raises(kind, match=words):
            client.jobs.index("by-job", "texts.jsonl", units=units)
    words = ("by-job", "--corpus", "texts.jsonl", "--units", "sae:saes", *SMALL[:-2], "--server", client.target)
    run("jobs", "submit", "index", *words)
    job = next(iter(client.jobs.list()))
    *_, last = client.jobs.watch(job.id)
    assert last.state == "done", last.error
    assert "index by-job of texts.jsonl, sae:saes" in run("jobs", "list", "--server", client.target)
    theirs, mine = (next(one for one in client.indexes() if one.name == name) for name in ("latents", "by-job"))
    assert (mine.encoders, mine.widths, mine.n_examples) == (theirs.encoders, theirs.widths, theirs.n_examples)
    id_ = a_latent(client)
    found = [client.cluster(id_, index=name)[0].labels.tolist() for name in ("latents", "by-job")]
    assert found[0] == found[1]
    assert len(list(client.explain("the model", id_, index="by-job")))
    client.jobs.delete(job.id)


def test_a_study_of_the_papers_claim_is_refused(made, tmp_path):
    with pytest.raises(FailedPrecondition, match="is about neurons, and the index 'latents' is of latents"):
        study.run(study.Study(index=str(made.index)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_older_client_sees_equal_layers(client):
    """Fields that it knows: the widest layer's number of units, and layers."""
    from polysem.proto.facts import encode_indexes

    old = encode_indexes(client.indexes()).indexes[0]
    assert (old.n_neurons_per_layer, old.n_layers, list(old.layers)) == (40, 2, [0, 1])


def test_a_latents_tree_has_the_cosines_of_its_row(client, made):
    """x ⊙ W_enc[:, f] of the SAE's own file."""
    from safetensors.torch import load_file

    id_ = a_latent(client)
    row = load_file(made.saes / "layer-1" / "sae_weights.safetensors")["W_enc"][:, int(id_.split(".")[1])].numpy()
    whole, plain = (client.embed(id_, embedding=name)[0].embeddings for name in ("neuron", "pre_mlp"))
    np.testing.assert_allclose(whole, plain * row, rtol=1e-4, atol=1e-4)
