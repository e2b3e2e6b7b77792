"""After `make setup`, importlib finds the package and its data where they lie in the repository; and what must be quick
to import needs nothing heavy."""

import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


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
