"""Who may import whom (CONTRIBUTING.md, "The house")."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "proto": {"proto", "v1"},
    "kernels": {"kernels"},
    "client": {"client", "proto", "v1"},
    "server": {"server", "kernels", "proto", "v1"},
}
ALSO_CLIENT = {
    "server/in_process.py",
    "server/commands.py",
    "server/demo/tour.py",
    "server/own_client.py",  # a job measures with the function behind `polysem measure`, as a client of its own server
    "server/job_runner.py",
    "server/ray_jobs.py",  # so do workers
}
FILES = sorted(
    path
    for folder in MAY_IMPORT
    for path in (ROOT / folder).rglob("*.py")
    if "polysem" not in path.relative_to(ROOT).parts  # generated
)


def imported(path: Path) -> set[str]:
    """The parts of polysem that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("polysem.")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_keep_to_the_layers(path):
    name = path.relative_to(ROOT).as_posix()
    allowed = MAY_IMPORT[name.split("/")[0]] | ({"client"} if name in ALSO_CLIENT else set())
    assert imported(path) <= allowed


def test_the_check_sees_all_four_folders():
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == set(MAY_IMPORT)
    assert imported(ROOT / "server/clustering.py") >= {"kernels", "proto", "server"}
