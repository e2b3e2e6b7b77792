"""Negatives: a corpus of a few contexts by hand, and what holds of every index."""

import dataclasses
import json

import numpy as np
import pytest

from polysem.proto.errors import DamagedIndex, InvalidArgument
from polysem.proto.facts import Selection
from polysem.server.corpus.documents import Corpus
from polysem.server.index.arrays import HEADER_BYTES
from polysem.server.index.contexts import Contexts, Cut, writing
from polysem.server.index.format import layer_folder, open_index, side_folder
from polysem.server.index.negatives import KINDS, Negatives, is_held_out
from polysem.server.indexing import builder, negatives
from polysem.server.indexing.builder import Recipe
from polysem.server.indexing.negatives import SHARE, Wanted

RECIPE = Recipe(Selection("first", 0.5, 30))
RANDOM, SAME_TOKEN, WEAK = (KINDS.index(kind) for kind in ("random", "same_token", "weak"))


@pytest.fixture
def six_contexts(tmp_path):
    """Six contexts of three tokens behind BOS (9): token 1 stands in contexts 0, 1 and 4, token 2 in 2, 3 in all."""
    rows = [[9, 1, 3, 3], [9, 3, 1, 3], [9, 2, 3, 3], [9, 3, 3, 3], [9, 3, 3, 1], [9, 3, 3, 3]]
    zeros, names = np.zeros(6, np.int32), np.zeros(7, np.int64)
    with writing(tmp_path, 10) as add:
        add(Cut(np.ravel(rows), np.arange(7) * 4, np.arange(6), zeros, np.zeros(0, np.uint8), names))
    return Contexts(tmp_path)


def test_the_kinds_by_hand(six_contexts):
    # neuron 0 has one example, token 1 of context 0; neuron 1 has none. Neuron 0 fires in context 1, weakly in 2 and 3.
    wanted = Wanted(six_contexts, 1, 10, 4)
    places = wanted.propose(np.array([0, 1, 1]), np.array([0]), np.array([1]))
    found = set(zip(places.neurons.tolist(), places.contexts.tolist(), places.positions.tolist(), strict=True))
    assert found == {(0, 1, 2), (0, 4, 3)}  # token 1 wherever it stands, but not in the example's own context
    weak_at = np.full((6, 2), -1, np.int32)
    weak_at[2:4, 0] = 1
    negatives = wanted.chosen(0, np.array([0, 1, 1]), np.array([0]), places.contexts == 1, weak_at)
    contexts, positions = negatives
    assert contexts[0, SAME_TOKEN].tolist() == [4, -1, -1, -1]
    assert positions[0, SAME_TOKEN, 0] == 3
    assert sorted(contexts[0, WEAK].tolist()) == [-1, -1, 2, 3]
    assert positions[0, WEAK, :2].tolist() == [1, 1]
    assert sorted(contexts[0, RANDOM].tolist()) == [-1, 1, 4, 5]  # neither its own nor the weak ones
    assert set(positions[0, RANDOM, :3].tolist()) <= {1, 2, 3}  # BOS is no place
    assert (contexts[1, [SAME_TOKEN, WEAK]] == -1).all()
    assert (contexts[1, RANDOM] >= 0).all()


@pytest.fixture(scope="module")
def index(index_folder):
    return open_index(index_folder)


def test_none_is_of_an_example_and_each_is_what_it_is_called(index, small_model):
    """Against activations that the model gives for each whole context."""
    strengths, tokens = every_activation(index, small_model)
    n_seen = np.zeros(3, int)
    for layer in range(2):
        stored, found = index.layer(layer), index.negatives(layer)
        for neuron in range(96):
            mine = slice(stored.offsets[neuron], stored.offsets[neuron + 1])
            rows = stored.rows[mine]
            own = set(stored.row_contexts[rows].tolist())
            keys = {tokens[c][p] for c, p in zip(stored.row_contexts[rows], stored.row_positions[rows], strict=True)}
            maximum = index.statistics.maximum[layer, neuron]
            for kind, context, position in places_of(found, neuron):
                a = strengths[context][layer][:, neuron]
                assert context not in own
                assert 1 <= position < len(a)
                highest = a[1:].max()
                if kind == SAME_TOKEN:
                    assert tokens[context][position] in keys
                    assert highest < 0.25 * maximum + 1e-5
                elif kind == WEAK:
                    assert -1e-6 < highest < 0.25 * maximum + 1e-5
                    assert a[position] == pytest.approx(highest, abs=1e-5)
                n_seen[kind] += 1
    assert (n_seen > 500).all()


def places_of(found, neuron):
    for kind, contexts in enumerate(found.contexts[neuron]):
        for slot, context in enumerate(contexts.tolist()):
            if context >= 0:
                yield kind, context, int(found.positions[neuron, kind, slot])


def every_activation(index, model):
    """[layer → (T, N)] of each context, read alone, and its tokens."""
    import torch

    strengths, tokens = [], []
    for context in range(len(index.contexts)):
        ids = index.contexts.tokens(context)
        seen = {}

        def visit(layer, _residual, activations, seen=seen):
            seen[layer] = activations[0].numpy()

        with torch.inference_mode():
            model.read(torch.from_numpy(ids)[None], visit, 1)
        strengths.append(seen)
        tokens.append(ids.tolist())
    return strengths, tokens


def test_they_take_a_fifth_of_the_index_at_most(index):
    files = index.manifest["files"]
    mine = sum(file["bytes"] for name, file in files.items() if "negative_" in name)
    assert 0 < mine <= SHARE * sum(file["bytes"] for file in files.values())
    assert index.n_negatives == index.manifest["negatives"] <= negatives.MOST


@pytest.mark.parametrize("held", [0, 1, 10, 32])
def test_they_take_all_of_that_fifth(tmp_path, held):
    """Of 10 neurons one place of each kind has 180 bytes: a fifth of an index beside four times as much of the rest."""
    found = Negatives(*np.zeros((2, 10, 3, 32), np.int32))
    n_bytes = 4 * (2 * HEADER_BYTES + 180 * held + 1)
    assert negatives.write([tmp_path], [found], n_bytes, 100) == held


def test_both_halves_have_some_and_a_context_has_one_for_good(index):
    contexts = np.concatenate([index.negatives(layer).contexts.ravel() for layer in range(2)])
    held_out = is_held_out(contexts[contexts >= 0])
    assert 0.3 < held_out.mean() < 0.7
    assert [bool(is_held_out(np.array([context]))[0]) for context in range(8)] == is_held_out(np.arange(8)).tolist()


def test_a_context_is_in_the_same_half_in_every_version():
    """Else an index that is there would have other names after an update."""
    assert np.flatnonzero(is_held_out(np.arange(16))).tolist() == [1, 2, 3, 4, 6, 8, 9, 15]


@pytest.fixture
def build(small_model, corpus_file, tmp_path):
    def build_(name="index", **changed):
        recipe = dataclasses.replace(RECIPE, **changed)
        return builder.build(small_model, Corpus(str(corpus_file)), tmp_path / name, recipe)

    return build_


def test_without_them_an_index_is_as_it_was(build, index):
    bare = build(negatives=0)
    assert bare.n_negatives == 0
    assert not list(bare.folder.rglob("negative_*.npy"))
    mine = {name: file for name, file in index.manifest["files"].items() if "negative_" not in name}
    assert mine == bare.manifest["files"]


def test_the_same_again_and_fewer_weak_ones_are_the_first_of_them(build, index):
    fewer = build(negatives=4)
    for layer in range(2):
        for got, want in zip(fewer.negatives(layer), index.negatives(layer), strict=True):
            assert got.shape == (96, 3, 4)
            np.testing.assert_array_equal(got[:, WEAK], want[:, WEAK, :4])
    again = build("again", negatives=4)
    assert again.sha256 == fewer.sha256


def test_as_many_as_no_index_holds_are_refused(build):
    with pytest.raises(InvalidArgument, match="negatives is 129; give 0 to 128"):
        build(negatives=129)


def test_both_sides_have_their_own(build):
    both = build(negatives=8, sides="both")
    for side in ("positive", "negative"):
        found = both.of(side).negatives(0)
        assert (found.contexts >= 0).any(axis=(0, 2)).all()
        assert (side_folder(both.folder, side) / layer_folder(0) / "negative_contexts.npy").exists()
    same = both.negatives(0).contexts == both.of("negative").negatives(0).contexts
    assert not same.all()


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        ("negative_contexts", lambda a: a[:, :2], r"has the shape \(96, 2, 8\), it should have \(96, 3, 8\)"),
        ("negative_contexts", lambda a: a.astype(np.int64), "holds int64, it should hold int32"),
        ("negative_contexts", lambda a: np.where(a < 0, a, 1 << 20), "holds 1048576 at"),
        ("negative_positions", lambda a: a * 0 + 999, "holds 999 at"),
    ],
)
def test_a_tampered_array_is_refused_by_name(build, name, change, problem):
    folder = build(negatives=8).folder
    path = folder / "layer_01" / f"{name}.npy"
    np.save(path, change(np.load(path)))
    tell_again(folder)
    with pytest.raises(DamagedIndex, match=rf"layer_01/{name}\.npy {problem}"):
        open_index(folder)


def tell_again(folder):
    """Let the manifest say what the files are now."""
    from polysem.server.index.format import CHECKSUM, MANIFEST, file_sha256

    manifest = json.loads((folder / MANIFEST).read_text())
    for name in manifest["files"]:
        path = folder / name
        manifest["files"][name] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    (folder / CHECKSUM).write_text(f"{file_sha256(folder / MANIFEST)}  {MANIFEST}\n")
