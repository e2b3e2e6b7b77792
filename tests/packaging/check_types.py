"""After `make setup`, mypy sees the types of the client from any folder. `make types` runs it: it takes a while."""

import subprocess
import sys
import tempfile
from pathlib import Path

WRONG = """from polysem.client import Client
c: int = Client("x")
Client(7)
Client("x").cluster("7.1").nothing
"""
WANT = [
    'mine.py:2: error: Incompatible types in assignment (expression has type "Client", variable has type "int")',
    'mine.py:3: error: Argument 1 to "Client" has incompatible type "int"; expected "str | Sequence[str]"',
    'mine.py:4: error: "Clusters" has no attribute "nothing"',
    "Found 3 errors in 1 file (checked 1 source file)",
]

with tempfile.TemporaryDirectory() as folder:
    Path(folder, "mine.py").write_text(WRONG)
    command = [sys.executable, "-m", "mypy", "--config-file=", "mine.py"]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True)
found = [line.partition(" [")[0].strip() for line in ran.stdout.splitlines()]
if found != WANT:
    sys.exit(f"mypy sees other types of the client than it should:\n{ran.stdout}{ran.stderr}")
