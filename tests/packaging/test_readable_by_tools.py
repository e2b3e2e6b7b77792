"""After `make setup`, type checkers and importlib find the package and its data where they lie in the repository; and
what must be quick to import needs nothing heavy."""

import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


WRONG = """from polysem.client import Client
c: int = Client("x")
Client(7)
Client("x").cluster("7.1").nothing
"""


def test_mypy_sees_the_types_of_the_client_from_anywhere(tmp_path):
    (tmp_path / "mine.py").write_text(WRONG)
    ran = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file=", "mine.py"], cwd=tmp_path, capture_output=True, text=True
    )
    assert [line.partition(" [")[0].strip() for line in ran.stdout.splitlines()] == [
        'mine.py:2: error: Incompatible types in assignment (expression has type "Client", variable has type "int")',
        'mine.py:3: error: Argument 1 to "Client" has incompatible type "int"; expected "str | Sequence[str]"',
        'mine.py:4: error: "Clusters" has no attribute "nothing"',
        "Found 3 errors in 1 file (checked 1 source file)",
    ]


def test_a_new_file_is_part_of_the_package_at_once():
    """The package's folders are the repository's own, not a list of files that an installation made."""
    for name, folder in {
        "client": "client",
        "kernels": "kernels",
        "proto": "proto",
        "server": "server",
        "v1": "proto/polysem/v1",
    }.items():
        assert (ROOT / "src/polysem" / name).resolve() == ROOT / folder
        assert Path(str(files(f"polysem.{name}"))).resolve() == ROOT / folder


@pytest.mark.parametrize(
    ("package", "name"),
    [
        ("polysem", "py.typed"),
        ("polysem.client.drawing", "neuron.js"),
        ("polysem.client.drawing", "neuron.css"),
        ("polysem.client.explorer", "pages/neuron.html"),
        ("polysem.client.explorer", "static/page.js"),
        ("polysem.server.demo", "model/model.safetensors"),
        ("polysem.v1", "neuron_service.proto"),
    ],
)
def test_package_data_is_found(package, name):
    assert files(package).joinpath(name).is_file()


@pytest.mark.parametrize(
    "module",
    [
        "polysem.client",
        "polysem.client.commands.cli",
        "polysem.client.measuring.measure",
        "polysem.server.commands",  # the thin client lists them
        "polysem.server.corpus.child",
        "polysem.server.ray_cluster.driver",
    ],
)
def test_what_must_be_quick_to_import_needs_nothing_heavy(module):
    heavy = {"torch", "transformers", "numba", "scipy", "pydantic", "pandas", "rich", "matplotlib", "pyarrow"}
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
