"""Arrays in files: NumPy reads what we write, and the other way round."""

import gc
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polysem.proto.errors import DamagedIndex, FailedPrecondition
from polysem.proto.work import shards
from polysem.server.index import arrays
from polysem.server.index.arrays import ArrayWriter

DTYPES = [np.uint8, np.uint16, np.int32, np.int64, np.float16, np.float32, np.float64]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("arrays") / "array.npy"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0,), (3,), (0, 5), (4, 5), (2, 3, 4)])
def test_numpy_reads_what_was_saved(path, dtype, shape):
    array = np.arange(np.prod(shape)).astype(dtype).reshape(shape)
    arrays.save(path, array)
    for got in (np.load(path), arrays.load(path)):
        assert got.dtype == dtype
        assert got.shape == shape
        np.testing.assert_array_equal(got, array)


@given(
    pieces=st.lists(st.lists(st.tuples(*[st.integers(-9, 9)] * 3), max_size=5), max_size=8),
    dtype=st.sampled_from([np.int32, np.float16]),
)
def test_rows_stand_in_the_order_they_were_appended(path, pieces, dtype):
    with ArrayWriter(path, dtype, (3,)) as writer:
        for loaded in pieces:
            writer.append(np.array(loaded, np.int64).reshape(-1, 3))
    want = np.array([row for loaded in pieces for row in loaded], dtype).reshape(-1, 3)
    assert writer.n_rows == len(want)
    np.testing.assert_array_equal(np.load(path), want)


def test_columns_in_any_memory_order_are_written_row_by_row(path):
    array = np.arange(12, dtype=np.int32).reshape(3, 4)
    for same in (np.asfortranarray(array), np.repeat(array, 2, axis=1)[:, ::2]):
        arrays.save(path, same)
        np.testing.assert_array_equal(np.load(path), array)


def test_equal_arrays_are_equal_files(path, tmp_path):
    array = np.arange(100, dtype=np.float32)
    arrays.save(path, array)
    with ArrayWriter(tmp_path / "piecewise.npy", np.float32) as writer:
        writer.append(array[:37])
        writer.append(array[37:])
    assert path.read_bytes() == (tmp_path / "piecewise.npy").read_bytes()


def test_a_file_that_was_not_finished_is_no_array(tmp_path):
    def write():
        with ArrayWriter(tmp_path / "half.npy", np.int32) as writer:
            writer.append([1, 2, 3])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    with pytest.raises(DamagedIndex, match=r"the file .*half\.npy' is damaged"):
        arrays.load(tmp_path / "half.npy")


def test_torch_takes_a_loaded_array_without_a_copy_and_the_file_stays(path):
    arrays.save(path, np.zeros(4, np.float16))
    mapped = arrays.load(path)
    tensor = torch.from_numpy(mapped)  # a warning here would be an error
    assert tensor.data_ptr() == mapped.ctypes.data
    mapped[0] = 1
    assert np.load(path).tolist() == [0, 0, 0, 0]


def test_pickles_are_not_loaded(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(DamagedIndex, match="is damaged"):
        arrays.load(tmp_path / "objects.npy")


@given(place=st.integers(0, 127), bit=st.integers(0, 7))
def test_a_flipped_bit_in_the_header_is_told_or_changes_nothing_else(path, place, bit):
    arrays.save(path, np.arange(24, dtype=np.float32).reshape(4, 6))
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)
    try:
        got = arrays.load(path)
    except DamagedIndex:
        return
    assert got.nbytes <= 96  # another shape or dtype of the same bytes: `verify` tells


def test_threads_read_arrays_and_shards_at_once(tmp_path):
    """Python before 3.11.8 parses literals, such as a header, in one thread only; a collection lets others run."""
    shards.write(tmp_path / "s.npz", {f"a{i}": np.full((2, 3), i) for i in range(40)})
    arrays.save(tmp_path / "a.npy", np.arange(6))

    def read(_):
        assert all((array == i).all() for i, array in enumerate(shards.read(tmp_path / "s.npz").values()))
        assert list(arrays.load(tmp_path / "a.npy")) == [0, 1, 2, 3, 4, 5]

    before = gc.get_threshold()
    gc.callbacks.append(give_way := lambda *_: time.sleep(0))
    gc.set_threshold(5)
    try:
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(read, range(20)))
    finally:
        gc.callbacks.remove(give_way)
        gc.set_threshold(*before)


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_shard_gives_back_what_was_written(tmp_path, order):
    written = {
        "matrix": np.asarray(np.arange(6.0).reshape(2, 3), order=order),
        "none": np.zeros((0, 3), np.float16),
        "text": np.array("é 日本"),
        "empty": np.array(""),
        "number": np.array(7),
        "long": np.arange(1 << 18),
    }
    shards.write(tmp_path / "s.npz", written)
    for names in (None, ["text", "matrix"]):
        found = shards.read(tmp_path / "s.npz", names)
        assert list(found) == (names or list(written))
        for name, array in found.items():
            assert (array.dtype, array.shape, array.flags.writeable) == (written[name].dtype, written[name].shape, True)
            assert (array == written[name]).all()


def test_no_byte_of_a_shard_changes_unseen(tmp_path):
    path = tmp_path / "s.npz"
    written = {"a": np.arange(3, dtype=np.int16), "b": np.array("é")}
    shards.write(path, written)
    whole = path.read_bytes()
    for i in range(len(whole)):
        changed = bytearray(whole)
        changed[i] ^= 1 << i % 8
        path.write_bytes(changed)
        try:
            found = shards.read(path, list(written))
        except FailedPrecondition:
            continue
        assert all(np.array_equal(found[name], written[name]) for name in written), i


def test_a_compressed_shard_is_refused_before_room_is_made_for_it(tmp_path):
    path = tmp_path / "s.npz"
    np.savez_compressed(path, a=np.zeros(1 << 20))
    with pytest.raises(FailedPrecondition, match=r"a\.npy is compressed, which no shard is"):
        shards.read(path)


def test_a_shard_that_is_cut_or_lacks_an_array_is_told(tmp_path):
    path = tmp_path / "s.npz"
    shards.write(path, {"a": np.arange(1000)})
    whole = path.read_bytes()
    for data in (whole[:-30], whole.replace(np.arange(500, 504).tobytes(), b"\0" * 32), b""):
        path.write_bytes(data)
        with pytest.raises(FailedPrecondition, match="is damaged"):
            shards.read(path)
    path.write_bytes(whole)
    with pytest.raises(FailedPrecondition, match="is damaged"):
        shards.read(path, ["b"])
