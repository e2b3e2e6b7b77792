"""`polysem publish`: the folder, its card, what its library reads of it, and what keeps it from being shared."""

import hashlib
import subprocess

import numpy as np
import pytest
from click.testing import CliRunner

from polysem.client.exporting import writing
from polysem.proto.errors import DamagedIndex, FailedPrecondition, NotFound
from polysem.server.index.format import open_index, verify
from polysem.server.publishing import folder
from polysem.server.publishing.commands import publish


@pytest.fixture(scope="module")
def published(index_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("publish") / "out"
    folder.prepare(index_folder, out, "MIT")
    return out


def test_its_library_reads_every_example_and_neuron(published, index_folder, tmp_path, monkeypatch, polysem_client):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    cache, index = str(tmp_path / "cache"), open_index(index_folder)
    rows = datasets.load_dataset(str(published), split="train", cache_dir=cache)
    assert rows.num_rows == index.info.n_examples
    neurons = datasets.load_dataset(str(published), "neurons", split="train", cache_dir=cache)
    assert sum(neurons["n_examples"]) == index.info.n_examples
    known = {str(one.id): one for one in polysem_client.statistics("*")}
    for row in neurons.select(range(0, neurons.num_rows, 17)):
        assert np.float32(row["maximum_activation"]) == np.float32(known[row["neuron"]].maximum_activation)
        assert row["histogram"] == known[row["neuron"]].histogram.tolist()
    mine = [
        row for row in datasets.load_dataset(str(published), split="train", streaming=True) if row["neuron"] == "1.5"
    ]
    for row, example in zip(mine, polysem_client.examples("1.5"), strict=True):
        assert row["token_ids"] == example.token_ids.tolist()
        assert np.float32(row["activations"]).tolist() == example.activations.tolist()
        assert (row["document"], row["key"], row["position"]) == (example.document, example.key, example.position)


def test_the_index_in_it_is_the_index(published, index_folder):
    found = open_index(published / "index")
    assert found.sha256 == open_index(index_folder).sha256
    verify(found)


def test_the_card_says_how_it_was_made(published, index_folder):
    card, info = (published / "README.md").read_text(), open_index(index_folder).info
    for words in (
        'license: "MIT"', info.sha256, info.model_sha256, info.corpus_sha256, "the first 30 contexts at or above 0.5",
        "positive", f"{info.n_examples:,} examples",
    ):  # fmt: skip
        assert words in card


def test_sums_are_those_that_sha256sum_checks(published):
    done = subprocess.run(["sha256sum", "-c", "--quiet", folder.SUMS], cwd=published, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_what_is_to_be_filled_in_is_named_until_it_is(index_folder, tmp_path):
    folder.prepare(index_folder, tmp_path / "out")
    found = folder.check(tmp_path / "out")
    assert [sentence.partition(": ")[2] for sentence in found] == [
        "the licence is unknown; name it, such as cc-by-4.0",
        "licence of the corpus's texts is to be filled in",
        "who shares it, and whom to ask is to be filled in",
    ]
    card = tmp_path / "out" / "README.md"
    card.write_text(card.read_text().replace('"unknown"', "mit").replace(f"**{folder.PLACEHOLDER}**", "MIT, Ada"))
    assert folder.check(tmp_path / "out") == []
    (tmp_path / "out" / "more.txt").write_text("x")
    (tmp_path / "out" / "index" / "manifest.json").write_text("{}")
    (tmp_path / "out" / "neurons" / "positive.parquet").unlink()
    assert folder.check(tmp_path / "out") == [
        "neurons/positive.parquet is missing",
        "more.txt is not in SHA256SUMS",
        "index/manifest.json is not the file that was prepared",
    ]


def test_an_export_is_published_as_it_is(polysem_client, tmp_path):
    writing.export(polysem_client, "datasets", tmp_path / "export", "1.5")
    folder.prepare(tmp_path / "export", tmp_path / "out")
    before, after = (
        {path.relative_to(at).as_posix(): path.read_bytes() for path in at.rglob("*") if path.is_file()}
        for at in (tmp_path / "export", tmp_path / "out")
    )
    assert {name: data for name, data in after.items() if name != folder.SUMS} == before
    assert len(folder.check(tmp_path / "out")) == 2
    with pytest.raises(FailedPrecondition, match="export it anew with --licence"):
        folder.prepare(tmp_path / "export", tmp_path / "other", "MIT")


def test_a_stopped_one_goes_on_and_ends_with_the_same_bytes(index_folder, published, tmp_path):
    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        folder.prepare(index_folder, out, "MIT", stop)
    assert not out.exists()
    with pytest.raises(FailedPrecondition, match="made of something else"):
        folder.prepare(index_folder, out, "another")
    folder.prepare(index_folder, out, "MIT")
    assert {path.name: hashlib.sha256(path.read_bytes()).digest() for path in out.rglob("*") if path.is_file()} == {
        path.name: hashlib.sha256(path.read_bytes()).digest() for path in published.rglob("*") if path.is_file()
    }
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_wrong_input_is_a_sentence(index_folder, published, tmp_path):
    with pytest.raises(FailedPrecondition, match="exists already"):
        folder.prepare(index_folder, published)
    with pytest.raises(NotFound, match="no index"):
        folder.prepare(tmp_path / "none", tmp_path / "a")
    with pytest.raises(NotFound, match="was not prepared"):
        folder.check(index_folder)
    damaged = tmp_path / "damaged"
    subprocess.run(["cp", "-r", index_folder, damaged], check=True)
    path = damaged / "layer_00" / "activations.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with pytest.raises(DamagedIndex, match="is damaged"):
        folder.prepare(damaged, tmp_path / "b")
    assert not (tmp_path / "b.tmp").exists()


def test_the_command_sends_nothing_and_names_what_is_left(index_folder, tmp_path):
    out = tmp_path / "out"
    done = CliRunner().invoke(publish, [str(index_folder), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "nothing was sent" in done.output
    done = CliRunner().invoke(publish, [str(out), "--check"])
    assert done.exit_code == 1
    assert "licence of the corpus's texts is to be filled in" in done.output
    assert CliRunner().invoke(publish, [str(index_folder)]).exit_code == 2
