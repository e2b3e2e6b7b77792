"""The server is killed with SIGKILL at random moments of its jobs; 20 times in tests/load/kill.py by default."""

import subprocess
import sys
from pathlib import Path

LOAD = Path(__file__).parents[2] / "load" / "kill.py"


def test_a_server_killed_thrice_ends_its_jobs_with_the_same_bytes(index_folder, corpus_file):
    options = ["--kills", "3", "--index", str(index_folder), "--corpus", str(corpus_file), "--no-best-cut"]
    run = subprocess.run([sys.executable, str(LOAD), *options], capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "3 kills -9" in run.stdout
    assert "with other bytes than undisturbed: 0" in run.stdout
