import pytest

from .small_truth import Truth


@pytest.fixture(scope="session")
def small_truth(checkpoint, corpus_file) -> Truth:
    return Truth(checkpoint, corpus_file)
