"""Folders of the server's own: found without a home, never another user's, and kernels compile where none is there."""

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import polysem
from polysem.proto.errors import FailedPrecondition
from polysem.server import paths

NOWHERE = "/proc/nowhere"  # not even root can make it
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2


@pytest.fixture(autouse=True)
def no_folder(monkeypatch):
    for name in ("POLYSEM_CACHE_DIR", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", NOWHERE)


def test_the_cache_lies_under_the_temporary_folder_where_home_cannot_be_written(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for home in (NOWHERE, "", "relative"):
        monkeypatch.setenv("HOME", home)
        assert paths.cache_folder() == tmp_path / f"polysem-{os.getuid()}"
    assert paths.cache_folder().stat().st_mode & 0o777 == 0o700


def test_a_cache_folder_is_taken_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert paths.cache_folder() == tmp_path / "x" / "polysem"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("POLYSEM_CACHE_DIR", "~/named")
    assert paths.cache_folder() == tmp_path / "named"


def test_no_folder_at_all_is_a_sentence(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", NOWHERE)
    with pytest.raises(FailedPrecondition, match=r"name one in \$POLYSEM_CACHE_DIR"):
        paths.cache_folder()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to another user")
def test_a_temporary_folder_of_another_user_is_not_taken(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    os.chown(paths.cache_folder(), 65534, 65534)
    with pytest.raises(FailedPrecondition):
        paths.cache_folder()


def test_state_is_kept_under_the_temporary_folder_without_a_home(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("HOME", "")
    assert paths.state_folder() == tmp_path / f"polysem-{os.getuid()}" / "state"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths.state_folder() == tmp_path / ".local" / "state" / "polysem"
    assert paths.state_folder(Path("~/named")) == tmp_path / "named"


# ---- An install that cannot be written


@pytest.fixture
def read_only(tmp_path):
    """A copy of the package that cannot be written; the folder that holds it."""
    folder, source = tmp_path / "read_only", Path(polysem.__file__).parent
    for room in ("client", "kernels", "proto", "server", "v1"):
        leave = shutil.ignore_patterns("__pycache__", "model.safetensors")
        shutil.copytree(source / room, folder / "polysem" / room, ignore=leave)
    shutil.copy(source / "__init__.py", folder / "polysem")
    folders = [path for path in folder.rglob("*") if path.is_dir()]
    for path in folders:
        path.chmod(0o555)
    yield folder
    for path in folders:
        path.chmod(0o755)


def obey_permissions():
    """Root, too, then writes only what it is permitted to."""
    if os.getuid() == 0:
        prctl = ctypes.CDLL(None).prctl
        prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0)
        prctl(PR_CAPBSET_DROP, CAP_DAC_READ_SEARCH, 0, 0, 0)


def test_kernels_compile_where_neither_home_nor_install_can_be_written(read_only, tmp_path):
    """They are kept in the temporary folder; where even that cannot be written each process compiles its own."""
    code = """
import sys, tempfile
tempfile.tempdir = sys.argv[1]
import polysem.server
import numpy as np
from polysem.kernels import key_tokens
single = np.empty(1, np.float32)
key_tokens._widen(np.array([0x3F80], np.uint16), single)
print(key_tokens.__file__, single[0])
"""
    usual = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    for temporary in (tmp_path, NOWHERE):
        ran = subprocess.run(
            [sys.executable, "-c", code, temporary],
            capture_output=True,
            text=True,
            env=usual | {"PYTHONPATH": str(read_only)},
            preexec_fn=obey_permissions,
        )
        assert ran.stdout == f"{read_only / 'polysem' / 'kernels' / 'key_tokens.py'} 1.0\n", ran.stderr
    assert len(list(tmp_path.glob("polysem-*/numba/**/*.nbi"))) == 1
