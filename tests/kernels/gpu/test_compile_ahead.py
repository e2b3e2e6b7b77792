import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("compile_ahead.py")


@pytest.fixture(scope="module")
def compiled():
    """What the script says, a line a kernel, from a process of its own: this one may be interpreting.

    What has not changed since the last time comes from Triton's cache, which knows a kernel by all that it is made of.
    """
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(Path(os.environ["POLYSEM_CACHE_DIR"]) / "triton")
    done = subprocess.run([sys.executable, SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_every_kernel_compiles_for_two_generations_of_gpu(compiled):
    assert {line.split()[1] for line in compiled} == {"sm_80", "sm_90"}


def test_no_kernel_spills_more_than_a_few_registers(compiled):
    spilled = {line: int(re.search(r"(\d+) B spilled", line).group(1)) for line in compiled}
    assert {line: n_bytes for line, n_bytes in spilled.items() if n_bytes > 64} == {}  # of 1020 a thread may have


def test_means_and_embeddings_are_rounded_as_on_the_cpu(compiled):
    """Without fused multiply-adds, but for those inside products."""
    unfused = ("agglomerative.", "distances._norm_kernel", "distances._gram_kernel sm_90 OFFSETS=True PRECISION=tf32")
    lines = [line for line in compiled if line.startswith(unfused)]
    assert len(lines) > 3
    assert [line for line in lines if not line.endswith(" 0 fma")] == []
