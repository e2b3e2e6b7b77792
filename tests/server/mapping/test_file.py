"""The file of a map: what is written is read; what does not fit or is damaged is told."""

import numpy as np
import pytest

from polysem.server.mapping.file import DAMAGED, LayerMap, about, read, write

FOUND = LayerMap(
    n_clusters=9,
    recall=1.0,
    sizes=np.array([3, 2], np.int32),
    scores=np.array([0.75, np.nan]),
    null_scores=np.array([0.5, np.nan]),
    neurons=np.array([5, 1, 2, 0, 7], np.int32),
    labels=np.array([0, 0, 1, 0, 0], np.int32),
    ranks=np.array([0, 0, 1, 0, 0], np.int32),
    n_examples=np.array([9, 4, 2, 30, 3], np.int32),
    centrals=np.array([2, 0, 1, 9, 0], np.int32),
    similarities=np.array([0.9, 0.8, 0.7, 0.95, 0.95]),
    texts=["`def` after `@`", "`日本` \ue000\n'"],
)
ABOUT = about("a" * 64, "positive", 2)


@pytest.fixture
def path(tmp_path):
    write(tmp_path / "map-positive-2.npz", ABOUT, FOUND)
    return tmp_path / "map-positive-2.npz"


def test_what_is_written_is_read(path):
    found = read(path, ABOUT)
    assert found.texts == FOUND.texts
    for name in set(LayerMap._fields) - {"texts"}:
        np.testing.assert_array_equal(getattr(found, name), getattr(FOUND, name))
        assert np.asarray(getattr(found, name)).dtype == np.asarray(getattr(FOUND, name)).dtype
    assert [one.name for one in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("other", [("b" * 64, "positive", 2), ("a" * 64, "negative", 2), ("a" * 64, "positive", 3)])
def test_it_fits_its_layer_and_side_of_its_index_alone(path, other):
    assert read(path, about(*other)) is None


def test_a_file_of_the_next_format_is_not_read(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("polysem.server.mapping.file.FORMAT", 2)
        write(tmp_path / "map.npz", ABOUT, FOUND)
    assert read(tmp_path / "map.npz", ABOUT) is None


@pytest.mark.parametrize("n", [0, 1, 10, 200, 900, -30])
def test_a_part_of_a_file_is_damaged(path, n):
    path.write_bytes(path.read_bytes()[:n])
    with pytest.raises(DAMAGED):
        read(path, ABOUT)


def test_every_changed_byte_is_told_or_changes_nothing(path):
    whole = path.read_bytes()
    for place in range(0, len(whole), 37):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            found = read(path, ABOUT)
        except DAMAGED:
            continue
        if found is not None:
            np.testing.assert_array_equal(found.neurons, FOUND.neurons)


def test_columns_of_different_lengths_are_damaged(tmp_path):
    write(tmp_path / "map.npz", ABOUT, FOUND._replace(labels=FOUND.labels[:3]))
    with pytest.raises(DAMAGED, match="differ in length"):
        read(tmp_path / "map.npz", ABOUT)


def test_a_file_that_cannot_be_written_leaves_what_was_there(path):
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write(path, ABOUT | {"side": object()}, FOUND)
    assert path.read_bytes() == before
    assert [one.name for one in path.parent.iterdir()] == [path.name]
