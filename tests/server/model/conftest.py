import shutil
from pathlib import Path

import pytest


@pytest.fixture
def folder(checkpoint, tmp_path) -> Path:
    """A copy of the checkpoint that a test may spoil."""
    return Path(shutil.copytree(checkpoint, tmp_path / "model"))
