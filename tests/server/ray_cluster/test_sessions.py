"""Indexes and measurements made on a cluster: the bytes of the local executor, whatever happens on the way."""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack, closing
from dataclasses import replace

import pytest
from click.testing import CliRunner

from polysem.client import Client
from polysem.client.commands.cli import cli
from polysem.client.measuring.measure import Measuring, variants
from polysem.proto.errors import FailedPrecondition
from polysem.proto.facts import Selection
from polysem.proto.work import shards
from polysem.server import local
from polysem.server.corpus.child import CorpusElsewhere
from polysem.server.corpus.documents import Corpus
from polysem.server.index import nulls
from polysem.server.index.contexts import Contexts
from polysem.server.index.format import open_index
from polysem.server.indexing import builder
from polysem.server.indexing.builder import Recipe
from polysem.server.model.latent_model import with_latents
from polysem.server.questions import holding
from polysem.server.ray_cluster import sessions
from polysem.server.ray_cluster.pool import RayOptions
from polysem.server.ray_cluster.worker import ModelPayload

from ..model.tiny_saes import sae

if not os.environ.get("POLYSEM_NEEDS_RAY"):
    pytest.importorskip("ray")

RECIPE = Recipe(Selection("first", 0.5, 30))


@pytest.fixture(autouse=True)
def _many_shards(monkeypatch):
    monkeypatch.setattr(shards, "SHARD_CONTEXTS", 17)


@pytest.fixture(scope="module")
def described(checkpoint):
    return sessions.describe(str(checkpoint), "float32")


@pytest.fixture(scope="module")
def here(small_model, corpus_file, tmp_path_factory):
    """The index as the local executor makes it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD_CONTEXTS", 17)
        return builder.build(small_model, Corpus(str(corpus_file)), tmp_path_factory.mktemp("here") / "index", RECIPE)


@pytest.mark.parametrize("shared", [True, False])
def test_an_index_has_the_bytes_of_the_local_one(cluster, described, corpus_file, here, tmp_path, monkeypatch, shared):
    monkeypatch.setattr("polysem.server.corpus.documents.RANGE_BYTES", 1000)
    corpus = Corpus(str(corpus_file))
    if not shared:
        monkeypatch.setattr(corpus, "fingerprint", lambda times=False: "what no worker sees")
    options = RayOptions(workers=2 if shared else 1, shares=shared)
    with sessions.building(described, corpus, "auto", options) as (known, executor):
        if not shared:
            monkeypatch.delattr(corpus, "fingerprint")
        read, load = [], Contexts.load
        monkeypatch.setattr(Contexts, "load", lambda self, *at: read.append(at) or load(self, *at))
        built = builder.build(known, corpus, tmp_path / "index", RECIPE, executor=executor)
    assert built.sha256 == here.sha256
    n_shards = 2 * -(-built.info.n_contexts // 17)
    assert len(read) < n_shards / 2 if shared else len(read) == n_shards  # by the driver; workers read the others


def test_latents_are_read_by_workers_as_here(cluster, described, small_model, corpus_file, tmp_path):
    some, corpus = [sae(0, "resid_post", 11, 24)], Corpus(str(corpus_file))
    wanted = builder.build(with_latents(small_model, some, "sae:x"), corpus, tmp_path / "here", RECIPE)
    of_latents = replace(described, latents=some, units="sae:x")
    with sessions.building(of_latents, corpus, "auto", RayOptions(workers=1)) as (known, executor):
        built = builder.build(known, corpus, tmp_path / "index", RECIPE, executor=executor)
    assert built.info.unit == "latent"
    assert built.sha256 == wanted.sha256


def test_an_index_survives_a_killed_worker(cluster, described, corpus_file, here, tmp_path):
    with sessions.building(described, Corpus(str(corpus_file)), "auto", RayOptions(workers=2)) as (known, executor):
        victims = [executor.ask(lambda held: os.getpid())]

        def progress(stage, n, total):
            if stage == "collect" and n and victims:
                os.kill(victims.pop(), signal.SIGKILL)

        built = builder.build(known, Corpus(str(corpus_file)), tmp_path / "index", RECIPE, progress, executor=executor)
        assert not victims
    assert built.sha256 == here.sha256


DRIVER = """
import sys
from pathlib import Path
from polysem.proto.work import shards
from polysem.proto.facts import Selection
from polysem.server.corpus.documents import Corpus
from polysem.server.indexing import builder
from polysem.server.ray_cluster import sessions
from polysem.server.ray_cluster.pool import RayOptions
from polysem.server.ray_cluster.worker import ModelPayload
shards.SHARD_CONTEXTS = 17
def progress(stage, n, total):
    if n:
        print(stage, flush=True)
model, text, out, address = sys.argv[1:]
known, corpus = sessions.describe(model, "float32"), Corpus(text)
with sessions.building(known, corpus, "auto", RayOptions(address, workers=1)) as (known, executor):
    builder.build(known, corpus, Path(out), builder.Recipe(Selection("first", 0.5, 30)), progress, executor=executor)
"""


def test_a_killed_driver_goes_on_from_the_last_finished_shard(
    cluster, described, checkpoint, corpus_file, here, tmp_path, monkeypatch
):
    out = tmp_path / "index"
    arguments = [sys.executable, "-c", DRIVER, str(checkpoint), str(corpus_file), str(out), cluster.address]
    driver = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    n_scanned = 0
    for line in driver.stdout:
        n_scanned += line.strip() == "scan"
        if n_scanned == 3:
            os.kill(driver.pid, signal.SIGKILL)
            break
    driver.stdout.close()
    assert driver.wait() == -signal.SIGKILL
    work = out.with_name("index.tmp")
    with closing(shards.Ledger(work)) as ledger:
        before = {path for path in work.glob("*.npz") if ledger.has(shards.Shard(0, 0, path))}
    assert len(before) >= 3
    made = set()
    record = shards.Ledger.record
    monkeypatch.setattr(
        shards.Ledger, "record", lambda self, *some: made.update(s.path for s in some) or record(self, *some)
    )
    with sessions.building(described, Corpus(str(corpus_file)), "auto", RayOptions(workers=1)) as (known, executor):
        built = builder.build(known, Corpus(str(corpus_file)), out, RECIPE, executor=executor)
    assert built.sha256 == here.sha256
    assert made
    assert not made & before


def test_another_model_on_a_worker_is_refused(cluster, described, make_checkpoint):
    other = sessions.describe(str(make_checkpoint(seed=1)), "float32")
    mixed = replace(described, info=replace(described.info, id=other.info.id))
    with (
        pytest.raises(FailedPrecondition, match=r"has another model at .* give all machines the same one"),
        sessions.building(mixed, Corpus("pydocs"), "auto", RayOptions(workers=1)),
    ):
        pass


def test_another_config_of_the_same_weights_on_a_worker_is_refused(described, corpus_file):
    """Opened as a worker opens it, here; `settings` are the driver's."""
    held = ModelPayload(
        *(described.info.id, "cpu", "float32", described.info, {**described.settings, "layer_norm_epsilon": 0.5}),
        *(Corpus(str(corpus_file)), "its fingerprint"),
    )
    words = r"has layer_norm_epsilon 0\.5, which is 1e-05 on the worker .*; give all machines the same one"
    with ExitStack() as stack, pytest.raises(FailedPrecondition, match=words):
        held.open(stack, held.folders)


def test_measurements_have_the_bytes_of_the_local_ones(cluster, here, tmp_path, monkeypatch):
    monkeypatch.setattr("polysem.client.measuring.measure.EXAMPLES_AT_ONCE", 30 * 40)  # 5 shards
    with local(here.folder) as client:
        Measuring(client).run(tmp_path / "here.parquet")
    told = []
    with sessions.measuring(here.folder, {"workers": 2}, lambda status: None) as (client, executor):
        measuring = Measuring(client)
        measuring.run(tmp_path / "ray.parquet", told.append, executor=executor)
    assert (tmp_path / "ray.parquet").read_bytes() == (tmp_path / "here.parquet").read_bytes()
    assert sum(told) == measuring.n_trees


@pytest.mark.parametrize("clusters", [False, True])
def test_tests_of_an_index_have_the_bytes_of_the_local_ones(
    cluster, small_model, checkpoint, corpus_file, here, tmp_path, monkeypatch, clusters
):
    monkeypatch.setattr(holding, "NEURONS_A_SHARD", 50)
    apart, n_null = tmp_path / "ray", 9 if clusters else 19
    line = ["index", "--null", str(n_null), "--seed", "3"]
    if clusters:
        line += ["--test-clusters", "--add-nulls", str(shutil.copytree(here.folder, apart))]
    else:
        line += ["--model", str(checkpoint), "--corpus", str(corpus_file), "--max-examples", "30", "--out", str(apart)]
    spread = ["--executor", "ray", "--ray-workers", "2", "--ray-address", cluster.address]
    done = CliRunner().invoke(cli, [*line, *spread])
    assert done.exit_code == 0, done.output
    alone = open_index(shutil.copytree(apart, tmp_path / "alone", ignore=shutil.ignore_patterns(nulls.FILE)))
    holding.hold(small_model, alone, n_null, 3, clusters=clusters)
    assert (apart / nulls.FILE).read_bytes() == (alone.folder / nulls.FILE).read_bytes()
    assert not (apart / holding.WORK).exists()


def test_a_server_hands_its_jobs_to_the_cluster(cluster, served, small_model, here, corpus_file, tmp_path, monkeypatch):
    def refuse(*_):
        raise AssertionError("the server read the corpus that workers reach")

    monkeypatch.setattr(CorpusElsewhere, "read", refuse)
    monkeypatch.setattr(CorpusElsewhere, "documents", refuse)
    flags = {"index": [here.folder], "corpora": [corpus_file], "executor": "ray", "ray_workers": 1}
    with served(**flags) as target, Client(target) as client:
        measuring = client.jobs.measure("0.0-20", n_null=19, seed=3)
        making = client.jobs.index("made", corpus_file.name, selection=RECIPE.selection)
        measured, made = (list(client.jobs.watch(job.id))[-1] for job in (measuring, making))
        assert (measured.state, made.state) == ("done", "done")
        client.jobs.fetch(measured.id, tmp_path / "job.parquet")
        Measuring(client, ["0.0-20"], variants(), n_null=19, seed=3).run(tmp_path / "here.parquet")
    assert (tmp_path / "job.parquet").read_bytes() == (tmp_path / "here.parquet").read_bytes()
    corpus = Corpus(corpus_file.name, path=corpus_file)
    assert made.result_sha256 == builder.build(small_model, corpus, tmp_path / "made", RECIPE).sha256


def test_the_command_line_asks_a_cluster(cluster, here, tmp_path):
    out = tmp_path / "few.parquet"
    line = ["measure", "0.0-3", "--index", str(here.folder), "--executor", "ray", "--ray-workers", "1"]
    done = CliRunner().invoke(cli, [*line, "--ray-address", cluster.address, "--out", str(out)])
    assert done.exit_code == 0
    assert "few.parquet: 4 neurons by" in done.output
    refused = CliRunner().invoke(cli, [*line, "--server", "box:1", "--out", str(out)])
    assert refused.exit_code == 2
    assert "leave out --server" in refused.output
