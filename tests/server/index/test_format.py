"""Opening an index: whole, of this format and this model, or refused in one sentence."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polysem.proto.errors import DamagedIndex, ForeignIndex, NotFound, UnknownNeuron
from polysem.proto.neurons import NeuronRange, parse_neurons
from polysem.server.index import format as indexes
from polysem.server.model.loading import load

N = 96  # neurons a layer


@pytest.fixture
def copy(index_folder, tmp_path):
    """A copy of the small index, to be spoilt."""
    return shutil.copytree(index_folder, tmp_path / "copy")


@pytest.fixture(scope="module")
def small_index(index_folder):
    return indexes.open_index(index_folder)


def with_manifest(folder, change):
    """Rewrite the manifest."""
    path = folder / indexes.MANIFEST
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    (folder / indexes.CHECKSUM).write_text(f"{indexes.file_sha256(path)}  {indexes.MANIFEST}\n")


# ---- Whole


def test_a_copy_of_an_index_opens_and_is_the_same(small_index, copy):
    opened = indexes.open_index(copy)
    assert opened.sha256 == small_index.sha256
    assert opened.info.name == "copy"  # an index is named by its folder
    assert indexes.verify(opened) > 100_000


def test_what_is_not_in_the_manifest_is_not_looked_at(copy):
    (copy / "notes.txt").write_text("mine")
    indexes.verify(indexes.open_index(copy))


def test_nothing_in_an_index_holds_a_time(copy):
    manifest = json.loads((copy / indexes.MANIFEST).read_text())
    assert not [key for key in manifest if "time" in key or "date" in key or "host" in key]


# ---- Spoilt


def every_file(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.npy"))


def test_a_missing_file_is_told_by_name(copy):
    for name in every_file(copy):
        data = (copy / name).read_bytes()
        (copy / name).unlink()
        with pytest.raises(
            DamagedIndex, match=f"copy' is damaged: {name} is missing, it should have {len(data)} bytes"
        ):
            indexes.open_index(copy)
        (copy / name).write_bytes(data)
    indexes.open_index(copy)


@pytest.mark.parametrize(
    "change", [lambda data: data[:-1], lambda data: data[: len(data) // 2], lambda data: b"", lambda data: data + b"\0"]
)
def test_a_file_of_another_length_is_told_by_name(copy, change):
    name = "layer_01/xhat.npy"
    data = (copy / name).read_bytes()
    (copy / name).write_bytes(change(data))
    n = len(change(data))
    with pytest.raises(DamagedIndex, match=f"{name} is {n} bytes long, it should have {len(data)} bytes"):
        indexes.open_index(copy)


def test_a_flipped_bit_anywhere_is_found(copy):
    for name in every_file(copy):
        data = bytearray((copy / name).read_bytes())
        for place in (0, len(data) // 2, len(data) - 1):
            data[place] ^= 1
            (copy / name).write_bytes(data)
            with pytest.raises(DamagedIndex, match=f"damaged: {name} |{name}' is damaged"):
                indexes.verify(indexes.open_index(copy))
            data[place] ^= 1
            (copy / name).write_bytes(data)
    indexes.verify(indexes.open_index(copy))


def test_a_flipped_bit_in_the_manifest_is_found_on_opening(copy):
    for name in (indexes.MANIFEST, indexes.CHECKSUM):
        data = bytearray((copy / name).read_bytes())
        place = 5 if name == indexes.CHECKSUM else data.find(b'"sha256": "') + 12  # a digit
        data[place] ^= 1
        (copy / name).write_bytes(data)
        with pytest.raises(DamagedIndex, match=r"manifest\.json does not have the sha256 in"):
            indexes.open_index(copy)
        data[place] ^= 1
        (copy / name).write_bytes(data)
    indexes.open_index(copy)


@pytest.mark.parametrize("data", [None, b"", b"\xff\xfe"])
def test_a_manifest_without_its_checksum_is_refused(copy, data):
    (copy / indexes.CHECKSUM).unlink()
    if data is not None:
        (copy / indexes.CHECKSUM).write_bytes(data)
    with pytest.raises(DamagedIndex, match=r"is damaged: manifest\.json does not have the sha256"):
        indexes.open_index(copy)


def test_a_layer_that_is_no_array_is_told(copy):
    path = copy / "layer_01" / "xhat.npy"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(DamagedIndex, match=r"the file .*layer_01/xhat\.npy' is damaged"):
        indexes.open_index(copy)


@pytest.mark.parametrize("text", ["", "{", "not JSON", "[]", "12", "null", "{}", '"format"', "\0\0", "é"])
def test_a_manifest_that_says_nothing_is_told(copy, text):
    (copy / indexes.MANIFEST).write_bytes(text.encode("latin-1"))
    with pytest.raises(DamagedIndex, match=r"the manifest of .* cannot be read"):
        indexes.open_index(copy)


@pytest.mark.parametrize(
    "key", ["files", "model", "corpus", "counts", "selection", "bos", "windows", "context_length", "software_version"]
)
def test_a_manifest_that_lacks_something_is_told(copy, key):
    with_manifest(copy, lambda manifest: manifest.pop(key))
    with pytest.raises(DamagedIndex, match=f"the manifest of .* cannot be read .*{key}"):
        indexes.open_index(copy)


@pytest.mark.parametrize("number", [0, 1, 99, "1", None])
def test_an_index_of_another_format_is_told_with_both_versions(copy, number):
    with_manifest(copy, lambda manifest: manifest.update(format=number))
    with pytest.raises(
        DamagedIndex, match=rf"has format {number}, this version \(.*\) reads 2, 3 and 4; index the corpus anew"
    ):
        indexes.open_index(copy)


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(NotFound, match=r"there is no index .*; make one with `polysem index --out"):
        indexes.open_index(tmp_path / "nowhere")


def test_what_is_not_an_index_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotFound, match="is a file, and an index is a folder"):
        indexes.open_index(tmp_path / "file")
    with pytest.raises(NotFound, match=r"is not an index: it has no readable manifest\.json \(No such file"):
        indexes.open_index(tmp_path)
    (tmp_path / indexes.MANIFEST).mkdir()
    with pytest.raises(NotFound, match=r"is not an index: it has no readable manifest\.json \(Is a directory"):
        indexes.open_index(tmp_path)


# ---- Whose


def test_an_index_of_other_weights_is_refused_with_both_names(small_index, small_model, make_checkpoint):
    small_index.check_model(small_model.info, small_model.settings)
    other = load(str(make_checkpoint("foreign", seed=7)), "cpu")
    with pytest.raises(
        ForeignIndex, match=f"was made with the model '{small_model.info.id}' .*, not with '{other.info.id}'"
    ):
        small_index.check_model(other.info, other.settings)


def test_the_same_weights_elsewhere_are_the_same_model(small_index, checkpoint, tmp_path):
    moved = load(str(shutil.copytree(checkpoint, tmp_path / "moved")), "cpu")
    assert moved.info.id != small_index.info.model_id
    small_index.check_model(moved.info, moved.settings)


def test_one_changed_weight_is_another_model(small_index, checkpoint, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(checkpoint, tmp_path / "changed")
    weights = load_file(folder / "model.safetensors")
    weights["transformer.h.1.ln_2.bias"][5] += 1e-3
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ForeignIndex):
        small_index.check_model((changed := load(str(folder), "cpu")).info, changed.settings)


@pytest.fixture
def with_config(checkpoint, tmp_path):
    """A function: the model of the index with other values in its config."""

    def make(**values):
        folder = shutil.copytree(checkpoint, tmp_path / "other")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | values))
        return load(str(folder), "cpu")

    return make


@pytest.mark.parametrize(
    ("name", "made", "value"),
    [("layer_norm_epsilon", 1e-05, 1e-3), ("activation_function", "gelu_new", "relu"), ("n_head", 2, 4)],
)
def test_the_same_weights_with_another_config_are_another_model(small_index, with_config, name, made, value):
    other = with_config(**{name: value})
    assert other.info.sha256 == small_index.info.model_sha256
    says = (
        f"'{small_index.info.model_id}' and with {name} {made!r}, which is {value!r} in the config of '{other.info.id}'"
    )
    with pytest.raises(ForeignIndex, match=re.escape(says)):
        small_index.check_model(other.info, other.settings)


def test_what_changes_no_number_may_differ_in_a_config(small_index, with_config):
    same = with_config(
        _name_or_path="elsewhere",
        use_cache=False,
        resid_pdrop=0.5,
        summary_type="last",
        initializer_range=0.1,
        id2label={},
    )
    small_index.check_model(same.info, same.settings)


def test_an_index_that_does_not_say_its_config_goes_on(small_model):
    """One of version 0.1.0, and its model with any epsilon: there is nothing to compare."""
    old = indexes.open_index(Path(__file__).parents[2] / "compatibility" / "index")
    old.check_model(replace(small_model.info, sha256=old.info.model_sha256), {"layer_norm_epsilon": 1.0})


# ---- Which neurons


def named(index, *neurons):
    return [tuple(pair) for pair in index.neurons(parse_neurons(*neurons)).tolist()]


def test_neurons_come_in_the_order_named(small_index):
    assert named(small_index, "1.5", "0.3-4", "0.0") == [(1, 5), (0, 3), (0, 4), (0, 0)]
    assert named(small_index, "1.*") == [(1, j) for j in range(N)]
    assert named(small_index, "*") == [(layer, j) for layer in range(2) for j in range(N)]


def test_a_neuron_named_twice_comes_once_at_its_first_place(small_index):
    assert named(small_index, "1.5", "1.4-6", "1.5", "0.0", "1.4") == [(1, 5), (1, 4), (1, 6), (0, 0)]
    assert named(small_index, "1.90", "*")[:2] == [(1, 90), (0, 0)]
    assert len(named(small_index, "*", "*", "1.*")) == 2 * N


@pytest.mark.parametrize(
    ("neuron", "known"),
    [("2.0", "layers 0 to 1"), ("2.*", "layers 0 to 1"), ("0.96", "neurons 0 to 95"), ("0.95-96", "neurons 0 to 95")],
)
def test_an_unknown_neuron_is_told_with_those_that_are(small_index, neuron, known):
    with pytest.raises(UnknownNeuron, match=f"there is no neuron {neuron.replace('*', '.*')}: .*{known}"):
        named(small_index, "0.0", neuron)


layers, neurons = st.integers(0, 1), st.integers(0, N - 1)
ranges = st.one_of(
    st.just(NeuronRange()),
    layers.map(NeuronRange),
    st.tuples(layers, neurons, neurons).map(lambda t: NeuronRange(t[0], min(t[1:]), max(t[1:]))),
)


@given(st.lists(ranges, min_size=1, max_size=6))
def test_ranges_expand_as_a_plain_loop_does(small_index, asked):
    want = {}
    for r in asked:
        for layer in range(2) if r.layer is None else [r.layer]:
            for j in range(N) if r.first is None else range(r.first, r.last + 1):
                want.setdefault((layer, j))
    got = small_index.neurons(asked)
    assert got.dtype == np.int32
    assert [tuple(pair) for pair in got.tolist()] == list(want)
