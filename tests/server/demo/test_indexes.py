"""The demo's index is built once, however many processes ask for it."""

import json
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from polysem.proto.work import shards
from polysem.server.demo import indexes
from polysem.server.index.format import open_index


def test_two_who_build_it_at_once_get_one_index(tmp_path, monkeypatch):
    monkeypatch.setenv("POLYSEM_CACHE_DIR", str(tmp_path))
    both, stages = Barrier(2), ([], [])

    def ask(told):
        both.wait()
        return indexes.ensure(lambda stage, n, total: told.append(stage), n_documents=2)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(ask, stages)
    assert first == second
    assert open_index(first).nulls is not None
    built, waited = sorted(stages, key=len, reverse=True)
    assert "scan" in built
    assert waited in ([], ["wait"])  # [] where the other was done before it looked
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [first.name]
    with shards.sole_worker(tmp_path):  # what is whole takes no lock
        assert indexes.ensure(n_documents=2) == first


def test_the_embedded_sae_has_an_index_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("POLYSEM_CACHE_DIR", str(tmp_path))
    index = open_index(indexes.ensure(n_documents=2, latents=True))
    assert (index.info.unit, index.info.layers, index.info.widths) == ("latent", (2,), (1024,))
    assert index.nulls is not None
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [index.info.name]


def test_what_an_earlier_state_of_the_sources_began_is_begun_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("POLYSEM_CACHE_DIR", str(tmp_path))

    def stop(stage, n, total):
        if stage == "collect":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        indexes.ensure(stop, n_documents=2)
    (recipe,) = tmp_path.glob("demo-*.tmp/recipe.json")
    recipe.write_text(json.dumps(json.loads(recipe.read_text()) | {"negatives": 99}))
    folder = indexes.ensure(n_documents=2)
    assert open_index(folder).nulls is not None
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [folder.name]


def test_who_waits_is_told_and_goes_on_when_the_other_ends(tmp_path):
    told = []
    with ThreadPoolExecutor(1) as pool:
        with shards.sole_worker(tmp_path):

            def wait():
                with shards.sole_worker(tmp_path, waiting=lambda: told.append("wait")):
                    return "went on"

            asked = pool.submit(wait)
            while not told:
                assert not asked.done()
        assert asked.result(timeout=20) == "went on"
