"""Trees of all distances and trees of nearest neighbours are told apart wherever neurons stand side by side."""

import asyncio
import json
import time
import warnings

import pytest
from click.testing import CliRunner

from polysem.client import AsyncClient, terminal
from polysem.client.commands.cli import cli
from polysem.client.drawing import figures, notebook, report
from polysem.client.explorer.app import make_app
from polysem.client.measuring import measurements, ranking, table1
from polysem.client.measuring.measure import Measuring, variants
from polysem.proto.errors import MixedMethodsWarning
from polysem.server.questions import clustering

SENTENCE = "neurons were clustered on graphs of nearest neighbours, the others by all distances"
CUT = 0.137  # of this file alone: the server keeps what it has clustered


@pytest.fixture(scope="module")
def counts(polysem_client):
    """Each neuron's number of examples; neurons of more than the second are clustered approximately."""
    found = {neuron.id: neuron.n_examples for neuron in polysem_client.neurons()}
    return found, max(found.values()) - 1


@pytest.fixture
def mixed(counts, monkeypatch):
    monkeypatch.setattr(clustering, "MAX_IN_MATRIX", counts[1])
    monkeypatch.setattr(clustering, "MAX_IN_LINEAR_MEMORY", counts[1])


@pytest.fixture
def warned(mixed):
    """The warning is expected, wherever it is not the fact that is tested."""
    warnings.simplefilter("ignore", MixedMethodsWarning)  # pytest puts the filters back after the test


@pytest.fixture
def large(counts):
    return {id_ for id_, n in counts[0].items() if n > counts[1]}


@pytest.fixture
def small(counts, large):
    return set(counts[0]) - large


def printed(client, *words):
    ran = CliRunner().invoke(cli, [*words, "--server", client.target], env={"COLUMNS": "200"})
    assert ran.exit_code == 0, ran.output
    return ran


def test_a_listing_and_its_tables_carry_the_method(polysem_client, warned, large):
    listed = polysem_client.neurons(algorithm="scc", distance_threshold=CUT, sort_by="-n_clusters")
    for neuron in listed:
        assert neuron.method == ("neighbours" if neuron.id in large else "matrix")
    assert 0 < listed.n_approximate == len(large) < listed.n_matching
    methods = [neuron.method for neuron in listed]
    assert listed.columns()["method"] == methods
    assert listed.to_pandas()["method"].tolist() == methods
    assert listed.to_polars()["method"].to_list() == methods
    assert listed.to_arrow()["method"].to_pylist() == methods


def test_python_is_warned_once_of_a_listing_of_both_and_never_of_one(polysem_client, mixed, large, small):
    asked = {"algorithm": "scc", "distance_threshold": CUT}
    listed = polysem_client.neurons(**asked)
    with pytest.warns(MixedMethodsWarning, match=f"{len(large)} of .* {SENTENCE}") as found:
        len(listed)
    assert len(found) == 1
    assert len(list(listed)) == len(large | small)
    assert len(polysem_client.neurons(*small, **asked)) == len(small)
    assert len(polysem_client.neurons(*large, **asked)) == len(large)


def test_the_async_client_warns_too(polysem_client, mixed):
    async def ask():
        async with AsyncClient(polysem_client.target) as client:
            return await client.neurons(algorithm="scc", distance_threshold=CUT)

    with pytest.warns(MixedMethodsWarning, match=SENTENCE):
        asyncio.run(ask())


def test_rows_of_examples_carry_the_method_of_their_tree(polysem_client, mixed, large, small):
    neurons = polysem_client.cluster(min(large), min(small), algorithm="scc", distance_threshold=CUT)
    frame = neurons.to_pandas(per="example")
    for neuron in neurons:
        mine = frame[(frame.layer == neuron.id.layer) & (frame.neuron == neuron.id.neuron)]
        assert set(mine.method) == {neuron.method}
        assert len(mine) == len(neuron.labels)
    assert frame.method.nunique() == 2
    assert neurons.to_arrow(per="example")["method"].to_pylist() == list(frame.method)


def test_similar_clusters_carry_the_method_of_their_tree(polysem_client, mixed, large):
    asked = {"algorithm": "scc", "distance_threshold": CUT, "limit": 1000}
    with pytest.warns(MixedMethodsWarning, match=SENTENCE):
        found = list(polysem_client.similar(min(large), 0, **asked))
    for one in found:
        assert one.method == ("neighbours" if one.neuron in large else "matrix")
    found = polysem_client.similar(min(large), 0, **asked)
    warnings.simplefilter("ignore", MixedMethodsWarning)
    assert found.to_pandas()["method"].tolist() == [one.method for one in found]
    among = {one.neuron for one in found} | {min(large)}
    assert found.mixed.startswith(f"{len(among & large)} of {len(among)} neurons")


def test_the_terminal_names_the_method_of_each_similar_cluster(polysem_client, warned, large):
    words = ["similar", str(min(large)), "--cluster", "0", "--limit", "1000", "--algorithm", "scc"]
    asked = {"algorithm": "scc", "limit": 1000}
    found = polysem_client.similar(min(large), 0, distance_threshold=CUT, **asked)
    ran = printed(polysem_client, *words, "--distance-threshold", str(CUT))
    assert found.mixed in " ".join(ran.output.split())
    rows = [line.split() for line in ran.output.splitlines() if line[:2] == "  "]
    assert [(row[1].rpartition(".")[0], row[6]) for row in rows] == [(str(one.neuron), one.method) for one in found]
    ran = printed(polysem_client, *words, "--distance-threshold", str(CUT), "--json")
    assert [json.loads(line)["method"] for line in ran.stdout.splitlines()] == [one.method for one in found]
    assert ran.stderr == f"note: {found.mixed}\n"


def test_where_similar_clusters_were_made_alike_the_terminal_says_nothing(polysem_client):
    words = ["similar", "0.0", "--algorithm", "scc", "--distance-threshold", "0.138"]
    assert f"{'matrix':<14}" not in printed(polysem_client, *words).output
    assert printed(polysem_client, *words, "--json").stderr == ""


def test_the_head_says_so_in_notebook_report_and_figure(polysem_client, mixed, large, small):
    words = "Sub-Cluster Component of nearest neighbours"
    one, other = polysem_client.cluster(min(large), min(small), algorithm="scc", distance_threshold=CUT)
    assert (one.made_by, other.made_by) == (words, "Sub-Cluster Component")
    for neuron, says in ((one, True), (other, False)):
        plain, whole = notebook.plain_html(neuron, neuron.examples), notebook.neuron_html(neuron)
        assert plain.count(words) == says
        assert whole.count(words) == 2 * says  # where scripts run, too
    page = report.make(polysem_client, str(min(large)), str(min(small)), algorithm="scc", distance_threshold=CUT).html
    assert SENTENCE in page
    assert words in page
    assert words in figures.plot_dendrogram(one, one.examples).axes[0].get_title(loc="left")
    assert SENTENCE not in report.make(polysem_client, str(min(small)), algorithm="scc", distance_threshold=CUT).html


def test_an_answer_says_in_what_format_the_index_stores_its_rows(polysem_client):
    assert polysem_client.cluster("0.0")[0].provenance.xhat_dtype == "float16"


def test_a_page_counts_those_on_all_pages(polysem_client, warned, large):
    one = polysem_client.neurons(algorithm="scc", distance_threshold=CUT, limit=1)
    assert (len(one), one.n_approximate) == (1, len(large))
    some = polysem_client.neurons("0.0-9", algorithm="scc", distance_threshold=CUT, limit=1)
    assert some.n_approximate == sum(id_ in large for id_ in {(0, i) for i in range(10)})


def test_a_neuron_that_is_left_out_has_no_method(polysem_client, mixed, large):
    listed = polysem_client.neurons(distance_threshold=CUT)  # average linkage takes no more
    assert {neuron.id for neuron in listed if neuron.method is None} == large
    assert listed.n_approximate == 0
    assert listed.to_polars()["method"].null_count() == len(large)


def test_the_terminal_says_so_where_both_stand_in_one_listing(polysem_client, mixed, large):
    words = ["neurons", "--algorithm", "scc", "--distance-threshold", str(CUT)]
    ran = printed(polysem_client, *words)
    assert f"{len(large)} of" in ran.output
    assert SENTENCE in " ".join(ran.output.split())
    ran = printed(polysem_client, *words, "--json")
    assert {json.loads(line)["method"] for line in ran.stdout.splitlines()} == {"matrix", "neighbours"}
    assert SENTENCE in ran.stderr


def test_where_all_were_made_alike_nothing_is_said(polysem_client):
    ran = printed(polysem_client, "neurons", "--algorithm", "scc", "--distance-threshold", "0.138")
    assert "neighbours" not in ran.output
    ran = printed(polysem_client, "neurons", "--algorithm", "scc", "--distance-threshold", "0.138", "--json")
    assert ran.stderr == ""


def test_clusterings_of_several_neurons_say_so_and_each_in_its_head(polysem_client, mixed, large):
    id_ = min(large)
    neurons = polysem_client.cluster(id_, "0.0", "1.0", algorithm="scc", distance_threshold=CUT)
    with (console := terminal.console()).capture() as captured:
        console.print(terminal.metrics_table(neurons), width=200)
    methods = {neuron.method for neuron in neurons}
    assert (SENTENCE in " ".join(captured.get().split())) == (len(methods) == 2)
    with console.capture() as captured:
        console.print(terminal.neuron_panel(neurons[0], neurons[0].examples), width=200)
    assert "Sub-Cluster Component of nearest neighbours" in " ".join(captured.get().replace("│", " ").split())


def test_the_explorers_table_says_so(polysem_client, mixed, large):
    from starlette.testclient import TestClient

    with TestClient(make_app(polysem_client), base_url="http://127.0.0.1") as browser:

        def text_of(address):
            while (answer := browser.get(address)).status_code == 202:  # a page in grey
                time.sleep(0.05)
            return answer.text

        page = text_of(f"/?look=table&algorithm=scc&distance_threshold={CUT}")
        assert SENTENCE in page
        assert "<td>neighbours</td>" in page
        neuron = text_of(f"/neuron/{min(large)}?algorithm=scc&distance_threshold={CUT}")
        assert "Sub-Cluster Component of nearest neighbours" in neuron
        assert SENTENCE not in text_of("/?look=table&algorithm=scc&distance_threshold=0.138")


def test_measurements_ranks_and_table_1_say_so(polysem_client, warned, large, tmp_path):
    out = tmp_path / "measured.parquet"
    asked = variants(["hac", "scc"], linkage="single")
    wanted = [min(large), *sorted({(0, i) for i in range(96)} - large)[:3], (1, 0)]
    Measuring(polysem_client, wanted, asked, distance_threshold=CUT).run(out)
    measured = measurements.read(out)
    with pytest.warns(MixedMethodsWarning, match=SENTENCE):
        rows = ranking.rank(measured, "n_clusters", algorithm="scc")
    assert {(row["layer"], row["neuron"]) for row in rows if row["method"] == "neighbours"} == large & set(wanted)
    n = len(large & set(wanted))
    assert ranking.mixed(rows).startswith(f"{n} of {len(rows)} neurons")
    assert ranking.mixed(ranking.rank(measured, "n_clusters", algorithm="hac")) == ""  # linear and matrix: one tree
    summary = {row.algorithm: row.n_approximate for row in table1.rows(measured)}
    assert summary == {"hac": 0, "scc": n}
    for words, times in ((["rank", str(out), "--algorithm", "scc", "--top", "2"], 1), (["table1", str(out)], 2)):
        ran = CliRunner().invoke(cli, words, env={"COLUMNS": "300"})
        assert " ".join(ran.output.split()).count(SENTENCE) == times  # of Table 1: both embeddings
    ran = CliRunner().invoke(cli, ["rank", str(out), "--algorithm", "scc", "--json"])
    assert SENTENCE in ran.stderr
    assert SENTENCE not in CliRunner().invoke(cli, ["rank", str(out), "--algorithm", "hac"]).output
