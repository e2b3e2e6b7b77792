"""Index folders with tampered arrays and matching hashes: refused in a sentence that names the file, or answered."""

import json
import shutil
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import polysem.server
from polysem.proto.errors import DamagedIndex, FailedPrecondition
from polysem.server.index import format as indexes
from polysem.server.questions.engine import Engine

ARRAYS = [
    *(f"contexts/{name}" for name in ("tokens", "offsets", "documents", "starts", "name_bytes", "name_offsets")),
    *(f"layer_00/{name}" for name in indexes.Layer._fields),
    *(f"statistics/{name}" for name in indexes.Statistics._fields),
]


@pytest.fixture
def copy(index_folder, tmp_path):
    return shutil.copytree(index_folder, tmp_path / "copy")


def sign(folder):
    """Let the manifest say what the files are now."""
    manifest = json.loads((folder / indexes.MANIFEST).read_text())
    for name, file in manifest["files"].items():
        file |= {"bytes": (folder / name).stat().st_size, "sha256": indexes.file_sha256(folder / name)}
    (folder / indexes.MANIFEST).write_text(json.dumps(manifest))
    (folder / indexes.CHECKSUM).write_text(f"{indexes.file_sha256(folder / indexes.MANIFEST)}  {indexes.MANIFEST}\n")


def tamper(folder, name, change):
    """Replace an array by what `change` makes of it, and sign it."""
    array = np.load(folder / f"{name}.npy")
    changed = change(array)
    np.save(folder / f"{name}.npy", array if changed is None else changed)
    sign(folder)


def put(place, value):
    def change(array):
        array.flat[place] = value

    return change


def all_to_one(offsets):
    """Give the first neuron all examples."""
    offsets[1:] = offsets[-1]


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        ("layer_00/offsets", put(5, 1 << 40), "goes back at 6"),
        ("layer_00/offsets", put(0, -3), "goes from -3 to"),
        ("layer_00/offsets", put(-1, 1 << 50), f"goes from 0 to {1 << 50}, it should go from 0 to"),
        ("layer_00/offsets", lambda array: array[:-1], r"has the shape \(96,\), it should have \(97\)"),
        ("layer_00/offsets", lambda array: array.astype(np.uint64), "holds uint64, it should hold int64"),
        ("layer_00/offsets", all_to_one, r"gives neuron 0 \d+ examples, it should have 30 at most"),
        ("layer_01/rows", put(3, 1 << 30), "holds 1073741824 at 3, it should be within 0 and"),
        ("layer_01/rows", put(0, -1), "holds -1 at 0"),
        ("layer_00/row_contexts", put(2, 1 << 30), "holds 1073741824 at 2"),
        ("layer_00/row_positions", put(1, 1 << 20), "holds 1048576 at 1"),
        ("layer_00/row_positions", put(1, 0), "holds 0 at 1, it should be within 1 and"),  # BOS is no key token
        ("layer_00/row_positions", lambda array: array[:-1], "has the shape"),
        ("layer_00/activations", put(4, np.nan), "holds nan at 4"),
        ("layer_00/activations", put(4, np.inf), "holds inf at 4"),
        ("layer_00/xhat", lambda array: array[:, :-1], r"has the shape \(\d+, 23\), it should have \(\d+, 24\)"),
        ("layer_00/xhat", lambda array: array.astype(np.float32), "holds float32, it should hold float16"),
        ("layer_00/xhat", np.asfortranarray, "is in Fortran order"),
        ("layer_00/around", lambda array: array[:, :-1], r"it should have \(\d+, 31\)"),
        ("contexts/offsets", put(1, 1 << 40), "goes back at 2"),
        ("contexts/offsets", put(slice(1, -1), 0), "has a context of"),
        ("contexts/tokens", put(0, 60_000), r"holds 60000 at 0, it should be within 0 and"),
        ("contexts/documents", put(0, 1 << 20), "holds 1048576 at 0"),
        ("contexts/documents", lambda array: array[0], "it holds one number, no array"),
        ("contexts/name_offsets", put(1, 1 << 40), "goes back at 2"),
        ("contexts/name_offsets", lambda array: array[:0], "has the shape"),
        ("contexts/name_bytes", put(0, 0xFF), "is not UTF-8 at 0"),
        ("contexts/starts", put(0, -1), "holds -1 at 0"),
        ("statistics/maximum", put(7, np.nan), "holds nan at 7"),
        ("statistics/share_positive", put(7, 1.5), "holds 1.5 at 7, it should be within 0 and 1"),
        ("statistics/histogram", put(7, -1), "holds -1 at 7"),
        ("statistics/histogram", lambda array: array[:, :63], "has the shape"),
    ],
)
def test_a_tampered_array_is_refused_by_name(copy, small_model, name, change, problem):
    tamper(copy, name, change)
    with pytest.raises(DamagedIndex, match=problem) as raised:
        Engine(small_model, [indexes.open_index(copy)], "0")
    assert f"{name}.npy" in raised.value.message
    assert "index the corpus anew" in raised.value.message
    assert "\n" not in raised.value.message


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda m: m["counts"].update(n_examples=1), "its manifest says n_examples 1, its arrays have"),
        (lambda m: m["counts"].update(n_contexts=10**6), "its manifest says n_contexts 1000000"),
        (lambda m: m["model"].update(n_layers=10**9), "says n_layers 1000000000, which is no whole number"),
        (lambda m: m["model"].update(n_layers=3), r"layer_02/xhat\.npy' is damaged"),
        (lambda m: m["model"].update(n_neurons_per_layer=True), "says n_neurons_per_layer True, which is no whole"),
        (lambda m: m.update(layers=[0, 10**9]), "says a layer 1000000000"),
        (lambda m: m["model"].update(n_layers=1), "the shape"),
        (lambda m: m["model"].update(n_neurons_per_layer=95), "the shape"),
        (lambda m: m["model"].update(n_layers="2"), "says n_layers '2', which is no whole number"),
        (lambda m: m.update(context_length=None), "the manifest of .* cannot be read"),
        (lambda m: m.update(skip_positions=-1), "the manifest of .* cannot be read"),
        (lambda m: m["corpus"].update(n_longer="many"), "the manifest of .* cannot be read"),
        (lambda m: m["counts"].update(n_neurons_with_examples=1 << 70), "the manifest of .* cannot be read"),
        (lambda m: m["selection"].update(max_examples=1.5), "says max_examples 1.5, which is no whole number"),
        (lambda m: m["selection"].update(max_examples=3), r"offsets\.npy gives neuron \d+ \d+ examples, .* 3 at most"),
        (lambda m: m["model"].update(sha256=None), "the manifest of .* has other types than it should have"),
        (lambda m: m.update(bos=1 << 70), r"row_positions\.npy holds"),
    ],
)
def test_a_manifest_that_does_not_fit_its_arrays_is_refused(copy, change, problem):
    manifest = json.loads((copy / indexes.MANIFEST).read_text())
    change(manifest)
    (copy / indexes.MANIFEST).write_text(json.dumps(manifest))
    sign(copy)
    with pytest.raises(DamagedIndex, match=problem):
        indexes.open_index(copy)


def test_embeddings_of_another_width_than_the_models_are_refused(copy, small_model):
    manifest = json.loads((copy / indexes.MANIFEST).read_text())
    manifest["model"]["d_model"] = 16
    (copy / indexes.MANIFEST).write_text(json.dumps(manifest))
    for name in ("xhat", "mean", "deviation"):
        for layer in (0, 1):
            tamper(copy, f"layer_{layer:02d}/{name}", lambda array: array[..., :16].copy())
    index = indexes.open_index(copy)
    with pytest.raises(DamagedIndex, match=r"layer_00/xhat\.npy has the shape \(\d+, 16\), it should have \(n, 24\)"):
        Engine(small_model, [index], "0")


def test_a_manifest_that_is_nested_without_end_is_refused(copy):
    (copy / indexes.MANIFEST).write_text('{"format": ' + "[" * 100_000)
    with pytest.raises(DamagedIndex, match=r"the manifest of .* cannot be read"):
        indexes.open_index(copy)


@pytest.mark.parametrize("part", ["model", "corpus"])
def test_an_id_too_long_to_be_told_is_refused(copy, part):
    manifest = json.loads((copy / indexes.MANIFEST).read_text())
    manifest[part]["id"] = "x" * 10**6
    (copy / indexes.MANIFEST).write_text(json.dumps(manifest))
    sign(copy)
    with pytest.raises(DamagedIndex, match=r"describes it in 1,000,\d+ bytes, at most 65,536 can be told"):
        indexes.open_index(copy)


@pytest.mark.parametrize(("n_bytes", "is_refused"), [(2048, False), (2049, True), (10**6, True)])
def test_a_documents_name_is_no_longer_than_builds_write(copy, n_bytes, is_refused):
    tamper(copy, "contexts/name_bytes", lambda _: np.full(n_bytes, ord("x"), np.uint8))
    tamper(copy, "contexts/name_offsets", lambda offsets: np.r_[np.zeros(len(offsets) - 1, np.int64), n_bytes])
    if not is_refused:
        indexes.open_index(copy)
        return
    with pytest.raises(DamagedIndex, match=rf"name_offsets\.npy gives document 119 a name of {n_bytes:,} bytes"):
        indexes.open_index(copy)


def test_opening_does_not_read_xhat_and_reading_it_refuses_what_is_no_number(copy):
    rows = np.load(copy / "layer_00" / "rows.npy")
    offsets = np.load(copy / "layer_00" / "offsets.npy")
    neuron = int(np.argmax(np.diff(offsets)))
    row = int(rows[offsets[neuron]])
    tamper(copy, "layer_00/xhat", put(row * 24, np.nan))
    with polysem.server.local(copy, device="cpu") as client:
        for ask in (
            lambda: list(client.cluster(f"0.{neuron}")),
            lambda: list(client.embed(f"0.{neuron}")),
            lambda: list(client.similar(f"0.{neuron}")),
            lambda: list(client.explain("a text", f"0.{neuron}")),
        ):
            with pytest.raises(DamagedIndex, match=rf"layer_00/xhat\.npy has a value in row {row} that is no number"):
                ask()
        assert len(client.cluster("1.0")) == 1


def test_activations_around_a_key_token_are_checked_as_they_are_read(copy):
    offsets = np.load(copy / "layer_00" / "offsets.npy")
    neuron = int(np.flatnonzero(np.diff(offsets))[0])
    tamper(copy, "layer_00/around", put(int(offsets[neuron]) * 31 + 20, np.nan))
    with (
        polysem.server.local(copy, device="cpu") as client,
        pytest.raises(DamagedIndex, match=r"layer_00/around\.npy has a value of example \d+ that is no number"),
    ):
        list(client.examples(f"0.{neuron}"))


def test_damage_is_a_failed_precondition_on_the_wire():
    assert issubclass(DamagedIndex, FailedPrecondition)


@given(data=st.data())
@settings(max_examples=15)
def test_whatever_stands_in_an_array_it_is_refused_or_answered(data, index_folder, tmp_path_factory, small_model):
    folder = shutil.copytree(index_folder, tmp_path_factory.mktemp("fuzz") / "copy")
    try:
        name = data.draw(st.sampled_from(ARRAYS))
        array = np.load(folder / f"{name}.npy")
        info = np.iinfo(array.dtype) if array.dtype.kind in "iu" else None
        value = (
            data.draw(st.sampled_from([np.nan, np.inf, -np.inf, 0.0, 6e4, -6e4]))
            if info is None
            else data.draw(st.one_of(st.sampled_from([info.min, info.max, 0, 1]), st.integers(0, 300)))
        )
        if info is not None:
            value = min(max(value, info.min), info.max)
        tamper(folder, name, put(data.draw(st.integers(0, array.size - 1)), value))
        with suppress(DamagedIndex):
            answered(Engine(small_model, [indexes.open_index(folder)], "0"))
    finally:
        shutil.rmtree(folder.parent)


def answered(engine):
    """What requests make of the whole index."""
    from polysem.proto.neurons import NeuronRange
    from polysem.proto.questions.clustering import ClusterQuery
    from polysem.proto.questions.examples import ExampleQuery
    from polysem.proto.questions.statistics import StatisticsQuery
    from polysem.server.questions import clustering, examples, statistics

    everything = (NeuronRange(),)
    for module, query in (
        (clustering, ClusterQuery(everything)),
        (examples, ExampleQuery(everything)),
        (statistics, StatisticsQuery(everything)),
    ):
        plan = module.plan(engine, query)
        plan.work.run(plan.items)
