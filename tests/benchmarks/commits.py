"""Another commit beside this one: the same script on both, each in a process of its own that stays, in turn."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

Result = dict[str, Any]


def in_turn(script: str, before: Path | None, n_rounds: int) -> dict[str, list[Result]]:
    """Return what `script --child` printed in each round but the first, which warms up, by "before" and "now".

    before  a checkout of the other commit. A child prints a line of JSON for each line that it reads

    Raises AssertionError where the results' "digest" differ.
    """
    roots = {"before": before, "now": Path(__file__).parents[2]}
    children = {name: _begun(script, root) for name, root in roots.items() if root is not None}
    found: dict[str, list[Result]] = {name: [] for name in children}
    for _ in range(n_rounds + 1):
        for name, process in children.items():
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            found[name].append(json.loads(process.stdout.readline()))
    for process in children.values():
        process.communicate()
    assert len({results[0]["digest"] for results in found.values()}) == 1, "the commits do not give the same"
    return {name: results[1:] for name, results in found.items()}


def _begun(script: str, root: Path) -> "subprocess.Popen[str]":
    """Start the script with the modules of a checkout."""
    command = [sys.executable, script, *sys.argv[1:], "--child"]
    settings = os.environ | {"PYTHONPATH": str(root.absolute() / "src")}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=settings)
