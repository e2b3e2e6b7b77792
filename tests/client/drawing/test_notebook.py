"""The example notebook and the README's cells run; progress of long calls."""

import re
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[3] / "client" / "examples").glob("*.ipynb"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_notebook_runs(path, index_folder, tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(path, 4)
    source = "".join(cell.source + "\n" for cell in notebook.cells)
    assert "polysem.server.local()" in source
    for cell in notebook.cells:  # over the small index of these tests, which has no neuron 2.185
        cell.source = cell.source.replace("polysem.server.local()", f"polysem.server.local({str(index_folder)!r})")
        cell.source = cell.source.replace("2.185", "0.1").replace('"2.*"', '"1.*"')
        cell.source = cell.source.replace('"n_examples"] >= 25', '"n_examples"] >= 3')
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    client = nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3")
    client.execute()
    shown = [output.data for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output]
    assert any("Polysem.show" in data.get("text/html", "") for data in shown)
    assert sum("image/png" in data for data in shown) == 2
    tables = " ".join(data["text/html"] for data in shown if "<table" in data.get("text/html", ""))
    for words in ("stability", "p-value", "agreement with key tokens", "ARI", "model sha256"):
        assert words in tables, words


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_notebook_is_kept_with_what_it_showed(path):
    nbformat = pytest.importorskip("nbformat")
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert {output.output_type for output in outputs} <= {"stream", "execute_result", "display_data"}
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert "site-packages" not in path.read_text("utf-8")
    shown = [output.data for output in outputs if "data" in output]
    tables = [data["text/plain"].split("Clustering(")[0] for data in shown if "<table" in data.get("text/html", "")]
    assert len(tables) == 6
    assert not [table for table in tables if "None" in table or "NaN" in table]


def test_the_readmes_cells_run_again_and_again_in_one_notebook(polysem_client, index_folder, tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    text = (Path(__file__).parents[3] / "README.md").read_text("utf-8")
    for stands, small in (
        ('"localhost:50051"', repr(polysem_client.target)),
        ("polysem.server.local()", f"polysem.server.local({str(index_folder)!r})"),
        ("2.185", "0.1"),
        ("3.0-99", "1.0-9"),
        ('"2.*"', '"1.*"'),
    ):
        assert stands in text
        text = text.replace(stands, small)
    sources = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(sources) == 2
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in 2 * sources])
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    shown = ["".join(one.text for one in cell.outputs if one.get("name") == "stdout") for cell in notebook.cells]
    assert shown[0].startswith("0.1 [")
    assert "1.3 []" in shown[0]
    assert "n_clusters" in shown[1]
    assert shown[:2] == shown[2:]


def test_progress_counts_neurons_and_hands_the_answer_on(client, capsys):
    found = client.cluster("0.0-9").progress()
    assert len(found) == 10
    assert "10/10" in capsys.readouterr().err
    assert len(client.cluster("0.*").progress()) == 96


@pytest.mark.parametrize(
    ("neurons", "n"), [(["0.1"], 1), (["0.1", "0.0-9"], 10), (["0.*"], None), (["*"], None), (["0.1", (1, 2)], 2)]
)
def test_how_many_are_named(client, neurons, n):
    assert client.cluster(*neurons).expected == n


def test_without_tqdm_progress_says_what_to_install(client, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ModuleNotFoundError, match="pip install tqdm"):
        client.cluster("0.1").progress()
