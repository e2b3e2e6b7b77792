"""The scripts of this folder in short: is every call answered rightly or refused in order? How fast is not asked here.

hostile.py, kill.py and replicas.py run in tests/server/serving/test_malformed.py, tests/server/jobs/test_killed_jobs.py
and tests/client/test_replicas.py.
"""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("script", "options", "words"),
    [
        ("crowd.py", ["--seconds", "1"], ["| calls answered wrongly or not at all | 0 | 0 | yes |", "Jain's index"]),
        (
            "overload.py",
            ["--seconds", "2", "--calls", "600"],
            ["afterwards: answered", "MiB; failed: {}", "the server lives"],
        ),
        ("floods.py", ["--seconds", "1", "--only", "calls", "--only", "watches"], ["0 failed", "the server lives"]),
    ],
)
def test_every_call_is_answered_or_refused_in_order(script, options, words, index_folder):
    command = [sys.executable, str(Path(__file__).parent / script), *options, "--index", str(index_folder)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout + run.stderr
    for word in words:
        assert word in run.stdout
