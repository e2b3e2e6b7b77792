"""Where the device's memory does not suffice: it is known as that, whoever found none, and what was held is let go."""

import importlib.util
import weakref

import pytest
import torch

from polysem.kernels.large import libraries
from polysem.kernels.large.embeddings import unit_embeddings
from polysem.server.questions import memory


def test_what_a_call_without_memory_held_is_let_go(monkeypatch):
    emptied = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))

    def fail():
        held = torch.ones(1000)
        alive.append(weakref.ref(held))
        raise MemoryError

    alive = []
    try:
        fail()
    except MemoryError as error:
        answer = memory.in_words(error)
    assert str(answer) == (
        "the device has not enough memory free for this request; ask for less at once, or free its memory"
    )
    assert alive[0]() is None
    assert emptied == [True]


@pytest.mark.gpu
@pytest.mark.parametrize("library", ["torch", "cuml"])
def test_a_full_card_is_known_as_one(library):
    if not torch.cuda.is_available() or (library == "cuml" and importlib.util.find_spec("cuml") is None):
        pytest.skip("needs a CUDA device, and cuML for cuML")
    unit = unit_embeddings(torch.randn(50_000, 768, device="cuda"), torch.ones(768, device="cuda"))
    want = libraries.search(unit, 34, library)  # loaded
    hogs = []
    for size in (1 << 30, 1 << 26, 1 << 22):
        torch.cuda.empty_cache()
        while torch.cuda.mem_get_info()[0] > size + (1 << 22):
            hogs.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
    with pytest.raises(Exception, match=r".") as raised:  # of whatever class
        libraries.search(unit, 34, library)
    hogs.clear()
    assert memory.is_out_of_memory(raised.value), repr(raised.value)
    memory.in_words(raised.value)
    assert torch.equal(libraries.search(unit, 34, library).sort().values, want.sort().values)
