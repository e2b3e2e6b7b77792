"""The scripts of this folder in short: is every call answered rightly or refused in order? How fast is not asked here.

`make load` runs them, beside `make test`: each starts servers of its own and keeps both cores busy.
"""

import subprocess
import sys
from pathlib import Path

import pytest

SHORT = {
    "crowd.py --seconds 1": ["| calls answered wrongly or not at all | 0 | 0 | yes |", "Jain's index"],
    "overload.py --seconds 2 --calls 600": ["afterwards: answered", "MiB; failed: {}", "the server lives"],
    "floods.py --seconds 1 --only calls --only watches": ["0 failed", "the server lives"],
    "hostile.py --messages 300": ["INTERNAL, UNKNOWN or no answer: 0", "the server lives"],
    "kill.py --kills 3 --no-best-cut --corpus CORPUS": ["3 kills -9", "with other bytes than undisturbed: 0"],
    "replicas.py --calls 300": [
        "drained: 0, killed: -9",
        "failed: 0 (target 0); answered otherwise: 0 (target 0); right: 300",
    ],
}


@pytest.mark.parametrize("words", SHORT)
def test_every_call_is_answered_or_refused_in_order(words, index_folder, corpus_file):
    script, *options = words.replace("CORPUS", str(corpus_file)).split()
    command = [sys.executable, str(Path(__file__).parent / script), *options, "--index", str(index_folder)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout + run.stderr
    for said in SHORT[words]:
        assert said in run.stdout
