import json
import os
import re
import signal
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from polysem.proto.errors import DamagedIndex, FailedPrecondition, ForeignIndex, InvalidArgument, NotFound
from polysem.proto.facts import Selection
from polysem.proto.neurons import NeuronRange
from polysem.proto.work import shards
from polysem.server.corpus import documents
from polysem.server.corpus.documents import Corpus
from polysem.server.index import negatives
from polysem.server.index.format import Layer, Moments, open_index, verify
from polysem.server.indexing import builder
from polysem.server.indexing.builder import Recipe
from polysem.server.model.loading import load

RECIPE = Recipe(Selection("first", 0.5, 30))


@pytest.fixture(scope="module")
def loaded(checkpoint):
    return load(str(checkpoint), "cpu")


def build(loaded, corpus_file, out, recipe=RECIPE, **options):
    return builder.build(loaded, Corpus(str(corpus_file)), out, recipe, **options)


@pytest.mark.parametrize("batch_tokens", [1, 100, 100_000])
def test_the_selection_does_not_depend_on_the_batch_size(
    loaded, corpus_file, index_folder, tmp_path, monkeypatch, batch_tokens
):
    monkeypatch.setattr(shards, "SHARD_CONTEXTS", 17)
    got, want = build(loaded, corpus_file, tmp_path / "i", batch_tokens=batch_tokens), open_index(index_folder)
    for layer in range(2):
        a, b = got.layer(layer), want.layer(layer)
        for name in ("row_contexts", "row_positions", "offsets", "rows"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        np.testing.assert_allclose(a.activations, b.activations, atol=1e-5)
        np.testing.assert_allclose(a.xhat.astype(float), b.xhat.astype(float), atol=4e-3)  # a float16 step near 4


def test_the_same_index_twice_has_the_same_bytes(loaded, corpus_file, index_folder, tmp_path):
    assert build(loaded, corpus_file, tmp_path / "i").sha256 == open_index(index_folder).sha256


KILLED = """
import os, signal, sys
import transformers.models.gpt2.modeling_gpt2
from polysem.proto.facts import Selection
from polysem.proto.work import shards
from polysem.server.corpus import documents
from polysem.server.corpus.documents import Corpus
from polysem.server.indexing import builder
from polysem.server.model.loading import load
shards.SHARD_CONTEXTS = 17
documents.RANGE_BYTES = 1000
from pathlib import Path
checkpoint, corpus, out, *points = sys.argv[1:]

def build(wanted, left):
    def progress(stage, n, total):
        nonlocal left
        left -= stage == wanted
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    builder.build(load(checkpoint, "cpu"), Corpus(corpus), Path(out) / wanted,
                  builder.Recipe(Selection("first", 0.5, 30)), progress)

for point in points:  # each in a process of its own; the imports are shared
    stage, times = point.split(":")
    child = os.fork()
    if child == 0:
        build(stage, int(times))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
POINTS = {"tokenise": 7, "scan": 3, "choose": 1, "collect": 4, "write": 1}  # how often a stage was told


@pytest.fixture(scope="module")
def killed(checkpoint, corpus_file, index_folder, tmp_path_factory):
    """A folder of builds that were killed, each named after its stage."""
    folder = tmp_path_factory.mktemp("killed")
    points = [f"{stage}:{times}" for stage, times in POINTS.items()]
    command = [sys.executable, "-c", KILLED, str(checkpoint), str(corpus_file), str(folder), *points]
    run = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert run.stdout.split() == [str(-signal.SIGKILL)] * len(POINTS), run.stderr
    return folder


@pytest.mark.parametrize("stage", POINTS)
def test_a_killed_build_goes_on_and_ends_with_the_same_bytes(loaded, corpus_file, tmp_path, monkeypatch, killed, stage):
    monkeypatch.setattr(shards, "SHARD_CONTEXTS", 17)
    undisturbed = build(loaded, corpus_file, tmp_path / "undisturbed")
    monkeypatch.setattr(documents, "RANGE_BYTES", 1000)
    out = killed / stage
    work = out.with_name(f"{stage}.tmp")
    assert not out.exists()
    with pytest.raises(NotFound):
        open_index(work)
    with closing(shards.Ledger(work)) as ledger:
        files = work.glob("*.npz")
        made_before = {path.name for path in files if ledger.has(shards.Shard(0, 0, path))}
    assert made_before or stage == "scan"
    redone = set()
    write = shards.write
    monkeypatch.setattr(shards, "write", lambda path, arrays: redone.add(path.name) or write(path, arrays))
    assert build(loaded, corpus_file, out).sha256 == undisturbed.sha256
    assert not redone & made_before
    assert not work.exists()


def test_an_unfinished_build_goes_on_only_with_the_same_arguments(loaded, corpus_file, tmp_path, make_checkpoint):
    def stop(stage, n, total):
        if stage == "collect":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(loaded, corpus_file, tmp_path / "i", progress=stop)
    with pytest.raises(FailedPrecondition, match="begun with another selection"):
        build(loaded, corpus_file, tmp_path / "i", replace(RECIPE, selection=Selection("top", 0.5, 30)))
    with pytest.raises(FailedPrecondition, match="begun with another model"):
        build(load(str(make_checkpoint(seed=1)), "cpu"), corpus_file, tmp_path / "i")
    with pytest.raises(FailedPrecondition, match="begun with another batch_tokens"):
        build(loaded, corpus_file, tmp_path / "i", batch_tokens=100)
    changed = tmp_path / "changed.jsonl"
    changed.write_text(corpus_file.read_text())
    with pytest.raises(KeyboardInterrupt):
        build(loaded, changed, tmp_path / "j", progress=stop)
    changed.write_text(corpus_file.read_text().replace("d000", "e000"))
    with pytest.raises(FailedPrecondition, match="has changed"):
        build(loaded, changed, tmp_path / "j")
    assert build(loaded, corpus_file, tmp_path / "i").info.n_documents > 0


def test_a_build_that_goes_on_reads_the_corpus_again_only_if_its_files_may_be_others(loaded, corpus_file, tmp_path):
    def stop(stage, n, total):
        if stage == "scan":
            raise KeyboardInterrupt

    def go_on():
        stages = set()
        with pytest.raises(KeyboardInterrupt):
            build(
                loaded, documents, tmp_path / "i", progress=lambda stage, *rest: stages.add(stage) or stop(stage, *rest)
            )
        return stages

    documents = tmp_path / "corpus.jsonl"
    documents.write_text(corpus_file.read_text())
    assert go_on() == {"tokenise", "scan"}
    assert go_on() == {"scan"}
    os.utime(documents, (1, 1))
    assert go_on() == {"check corpus", "scan"}
    facts = json.loads((tmp_path / "i.tmp" / "corpus.json").read_text())
    (tmp_path / "i.tmp" / "corpus.json").write_text(json.dumps(facts | {"fingerprint": ""}))
    assert go_on() == {"check corpus", "scan"}  # as for what has no ranges
    assert "fingerprint" not in json.loads(
        (build(loaded, documents, tmp_path / "i").folder / "manifest.json").read_text()
    )


def test_a_second_process_in_the_same_folder_is_refused(loaded, corpus_file, tmp_path):
    (tmp_path / "i.tmp").mkdir()
    with shards.sole_worker(tmp_path / "i.tmp"), pytest.raises(FailedPrecondition, match="another process"):
        build(loaded, corpus_file, tmp_path / "i")


def test_an_existing_folder_is_left_alone(loaded, corpus_file, tmp_path):
    (tmp_path / "i").mkdir()
    with pytest.raises(FailedPrecondition, match="exists already"):
        build(loaded, corpus_file, tmp_path / "i")
    assert list((tmp_path / "i").iterdir()) == []


def test_an_output_folder_that_cannot_be_made_is_told(loaded, corpus_file, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FailedPrecondition, match="cannot write"):
        build(loaded, corpus_file, tmp_path / "file" / "i")


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (Recipe(context_length=1), "context_length is 1"),
        (Recipe(context_length=33), "reads 2 to 32 tokens"),
        (Recipe(Selection("first", 0.0)), "min_activation_fraction is 0"),
        (Recipe(Selection("first", float("nan"))), "min_activation_fraction is nan"),
        (Recipe(Selection("first", 1.5)), "min_activation_fraction is 1.5"),
        (Recipe(Selection("first", 0.5, 0)), "max_examples is 0"),
        (Recipe(Selection("best")), "unknown selection 'best'"),
        (Recipe(windows="some"), "unknown windows 'some'"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_before_anything_is_written(loaded, corpus_file, tmp_path, recipe, words):
    with pytest.raises(InvalidArgument, match=words):
        build(loaded, corpus_file, tmp_path / "i", recipe)
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_without_bos_needs_no_bos(make_checkpoint, corpus_file, tmp_path):
    without = load(str(make_checkpoint("no-bos", bos=False)), "cpu")
    with pytest.raises(InvalidArgument, match="pass --no-bos"):
        build(without, corpus_file, tmp_path / "i")
    assert not build(without, corpus_file, tmp_path / "i", replace(RECIPE, bos=False)).info.bos


def copied(index_folder: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "copy"
    for path in index_folder.rglob("*"):
        if path.is_file():
            target = copy / path.relative_to(index_folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return copy


def test_a_flipped_byte_is_found_by_verify(index_folder, tmp_path):
    copy = copied(index_folder, tmp_path)
    assert verify(open_index(copy)) > 0
    path = copy / "layer_01" / "xhat.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedIndex, match=r"layer_01/xhat\.npy"):
        verify(open_index(copy))


def test_a_truncated_missing_or_foreign_index_is_refused_when_opened(index_folder, tmp_path, make_checkpoint):
    copy = copied(index_folder, tmp_path)
    path = copy / "contexts" / "tokens.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(DamagedIndex, match=r"tokens\.npy is \d+ bytes long"):
        open_index(copy)
    path.unlink()
    with pytest.raises(DamagedIndex, match=r"tokens\.npy is missing"):
        open_index(copy)
    path.write_bytes(whole)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(DamagedIndex, match="format 99"):
        open_index(copy)
    (copy / "manifest.json").write_text("{")
    with pytest.raises(DamagedIndex, match="cannot be read"):
        open_index(copy)
    with pytest.raises(NotFound, match="there is no index"):
        open_index(tmp_path / "none")
    other = load(str(make_checkpoint(seed=1)), "cpu")
    with pytest.raises(ForeignIndex, match="was made with the model"):
        open_index(index_folder).check_model(other.info, other.settings)


def test_ranges_name_neurons_once_in_the_order_first_named(index_folder):
    index = open_index(index_folder)
    got = index.neurons([NeuronRange(1, 3, 4), NeuronRange(0, 95, 95), NeuronRange(1, 4, 5)])
    assert got.tolist() == [[1, 3], [1, 4], [0, 95], [1, 5]]
    assert len(index.neurons([NeuronRange()])) == 2 * 96


def test_statistics_describe_the_maxima_of_all_contexts(index_folder):
    index = open_index(index_folder)
    statistics = {path.stem: np.load(path) for path in (index_folder / "statistics").glob("*.npy")}
    n = index.info.n_contexts
    np.testing.assert_array_equal(statistics["histogram"].sum(axis=1), np.rint(statistics["share_positive"] * n))
    positive = statistics["maximum"] > 0
    assert (statistics["histogram"][positive, -1] >= 1).all()  # the maximum's own context
    assert (statistics["mean"] <= statistics["maximum"]).all()
    stored = {path.stem for path in (index_folder / "layer_00").glob("*.npy")}
    assert {*Layer._fields, *Moments._fields, *negatives.NAMES} - {"scales"} == stored


def test_what_a_build_killed_while_it_cleaned_up_left_is_removed(loaded, corpus_file, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(builder.shutil, "rmtree", lambda path, **_: stop() if path.suffix == ".tmp" else None)
    with pytest.raises(KeyboardInterrupt):
        build(loaded, corpus_file, tmp_path / "i")
    monkeypatch.undo()
    assert (tmp_path / "i.tmp").exists()
    with pytest.raises(FailedPrecondition, match="exists already"):
        build(loaded, corpus_file, tmp_path / "i")
    assert not (tmp_path / "i.tmp").exists()
    assert open_index(tmp_path / "i").info.n_documents > 0


def test_a_finished_piece_that_is_gone_or_cut_short_is_made_anew(loaded, corpus_file, tmp_path, monkeypatch):
    def stop(stage, n, total):
        if stage == "write":
            raise KeyboardInterrupt

    monkeypatch.setattr(shards, "SHARD_CONTEXTS", 17)
    want = build(loaded, corpus_file, tmp_path / "undisturbed").sha256
    with pytest.raises(KeyboardInterrupt):
        build(loaded, corpus_file, tmp_path / "i", progress=stop)
    first, second, *_ = sorted((tmp_path / "i.tmp").glob("*.npz"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:100])
    written, write = [], shards.write
    monkeypatch.setattr(shards, "write", lambda path, arrays: written.append(path) or write(path, arrays))
    assert build(loaded, corpus_file, tmp_path / "i").sha256 == want
    assert sorted(written) == [first, second]


FULL = """
import resource, signal, sys
from pathlib import Path
from polysem.proto.facts import Selection
from polysem.server.corpus.documents import Corpus
from polysem.server.indexing import builder
from polysem.server.model.loading import load
loaded = load(sys.argv[1], "cpu")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for n_bytes in sys.argv[4:]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(n_bytes), resource.RLIM_INFINITY))
    out = Path(sys.argv[3], n_bytes)
    try:
        builder.build(loaded, Corpus(sys.argv[2]), out, builder.Recipe(Selection("first", 0.5, 30)))
    except Exception as error:
        print(type(error).__name__, error, flush=True)
"""


def test_where_a_file_cannot_grow_the_build_stops_in_words_and_goes_on_later(
    loaded, checkpoint, corpus_file, index_folder, tmp_path
):
    places = [tmp_path / n_bytes for n_bytes in ("1000", "20000", "60000")]
    arguments = [sys.executable, "-c", FULL, str(checkpoint), str(corpus_file), str(tmp_path)]
    arguments += [out.name for out in places]
    run = subprocess.run(arguments, capture_output=True, text=True)  # index_folder has compiled the kernels
    for out, said in zip(places, run.stdout.splitlines(), strict=True):
        assert re.match(
            rf"FailedPrecondition the build in '.*{out.name}\.tmp' cannot go on: .*; what is finished is kept", said
        )
        assert not out.exists()
        assert build(loaded, corpus_file, out).sha256 == open_index(index_folder).sha256
