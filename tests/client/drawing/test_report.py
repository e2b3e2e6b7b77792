"""The report as a file; tests/browser opens it."""

import json
import re

import pytest
from click.testing import CliRunner

from polysem.client.commands.cli import cli
from polysem.client.drawing import report


def test_the_command_writes_a_file_and_says_what_is_in_it(client, tmp_path):
    out = tmp_path / "report.html"
    result = CliRunner().invoke(cli, ["report", "0.0-2", "1.0", "--out", str(out), "--server", client.target])
    assert (result.exit_code, result.output) == (0, f"{out}: 4 neurons\n")
    assert out.read_text().count("<article") == 4
    result = CliRunner().invoke(cli, ["report", "0.0", "--out", str(out), "--server", client.target])
    assert (result.exit_code, result.exception.message) == (
        1,
        f"{str(out)!r} exists already; choose another name, or --force to replace it",
    )
    assert out.read_text().count("<article") == 4
    wanted = ["report", "0.0", "--out", str(out), "--server", client.target, "--json", "--force"]
    result = CliRunner().invoke(cli, wanted)
    assert json.loads(result.output) == {"out": str(out), "n_neurons": 1, "n_drawn": 1}


def test_a_file_that_cannot_be_written_is_told(client, tmp_path):
    out = tmp_path / "no" / "report.html"
    result = CliRunner().invoke(cli, ["report", "0.0", "--out", str(out), "--server", client.target])
    assert result.exit_code == 1
    assert "there is no folder" in result.exception.message


def test_of_many_neurons_those_with_most_clusters_are_drawn(client, monkeypatch):
    monkeypatch.setattr(report, "MAX_NEURONS", 3)
    made = report.make(client, "*")
    assert (made.n_asked, made.n_drawn) == (192, 3)
    large = {str(n.id): sum(c.size >= 4 for c in n.clusters) for n in client.cluster("*")}
    drawn = re.findall(r'<article id="n([\d.]+)"', made.html)
    assert min(large[id_] for id_ in drawn) >= sorted(large.values())[-3]


def test_a_report_fetches_nothing(client):
    html = report.make(client, "0.0-3").html
    addresses = set(re.findall(r"https?://[^\s\"')]+", html))
    assert addresses <= {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in html


@pytest.mark.parametrize("neuron", ["1.3", "0.0"])
def test_a_neuron_without_examples_has_its_place(client, neuron):
    assert f'id="n{neuron}"' in report.make(client, neuron).html
