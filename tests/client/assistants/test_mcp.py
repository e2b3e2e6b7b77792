"""`polysem mcp` as an assistant meets it: a real process, spoken with by the protocol's own client."""

import asyncio
import os
import sys

import pytest

mcp = pytest.importorskip("mcp")
from mcp.client.stdio import StdioServerParameters, stdio_client  # noqa: E402

from polysem.client.assistants import tools  # noqa: E402
from polysem.proto.errors import InvalidArgument, NotFound  # noqa: E402


@pytest.fixture(scope="module")
def ask(polysem_client):
    """A function that starts the command and calls its tools: (name, arguments) each; the results in order."""

    def run(*calls, target=polysem_client.target, **environment):
        async def speak():
            server = StdioServerParameters(
                command=sys.executable,
                args=["-m", "polysem", "mcp", "--server", target, "--timeout", "60"],
                env=dict(os.environ) | environment,
            )
            async with mcp.Client(stdio_client(server)) as client:
                listed = await client.list_tools()
                return listed.tools, [await client.call_tool(name, arguments) for name, arguments in calls]

        return asyncio.run(speak())

    return run


@pytest.fixture(scope="module")
def neuron(polysem_client):
    """The neuron with the most clusters, by name, and itself."""
    found = max(polysem_client.cluster("*", n_null=0), key=lambda one: sum(c.size > 1 for c in one.clusters))
    return str(found.id), found


@pytest.fixture(scope="module")
def answers(ask, neuron):
    """The tools, and an answer of each by name; then errors, in order."""
    name, _ = neuron
    calls = {
        "indexes": {},
        "neurons": {"neurons": "1.*", "sort_by": "-n_clusters", "limit": 3},
        "search": {"query": "model", "limit": 5},
        "cluster": {"neuron": name},
        "labels": {"neuron": name},
        "examples": {"neuron": name, "cluster": "A", "limit": 2},
        "explain": {"text": "the café sells tea", "neurons": [name]},
    }
    wrong = [
        ("cluster", {"neuron": "9.1"}),
        ("cluster", {"neuron": "0.0-3"}),
        ("examples", {"neuron": name, "cluster": "ZZ"}),
        ("neurons", {"limit": 1000}),
        ("neurons", {"limit": "many"}),
        ("explain", {"text": "a", "neurons": ["0.1"] * 9}),
        ("cluster", {}),
        ("cluster", {"neuron": name, "index": "none"}),
    ]
    listed, results = ask(*calls.items(), *wrong)
    return listed, dict(zip(calls, results, strict=False)), results[len(calls) :]


def test_tools_only_read_and_say_what_they_do(answers):
    listed, _, _ = answers
    assert [tool.name for tool in listed] == [
        "indexes",
        "neurons",
        "search",
        "cluster",
        "labels",
        "examples",
        "explain",
    ]
    for tool in listed:
        assert tool.annotations.read_only_hint
        assert tool.description.split()[0] in ("Return", "List", "Read", "Search")


def test_answers_are_those_of_the_client(answers, neuron, polysem_client):
    _, found, _ = answers
    assert not any(result.is_error for result in found.values())
    data = {name: result.structured_content for name, result in found.items()}
    name, clustered = neuron
    assert data["indexes"]["indexes"][0]["name"] == "small"
    want = polysem_client.neurons("1.*", sort_by="-n_clusters", limit=3)
    assert [one["neuron"] for one in data["neurons"]["neurons"]] == [str(one.id) for one in want]
    assert data["neurons"]["left_off"] == want.n_matching - 3
    searched = polysem_client.search("model", limit=5).clusters
    assert [(one["neuron"], one["name"]) for one in data["search"]["clusters"]] == [
        (str(one.neuron), one.name) for one in searched
    ]
    assert len(searched) == 5
    clusters = [one for one in clustered.clusters if one.size > 1]
    assert [(one["cluster"], one["size"]) for one in data["cluster"]["clusters"]] == [
        (one.letter, one.size) for one in clusters
    ]
    (central,) = polysem_client.examples(name, examples=[clusters[0].central])
    before, after = "".join(central.tokens[: central.key]), "".join(central.tokens[central.key + 1 :])
    assert data["cluster"]["clusters"][0]["central"] == f"{before}[[{central.tokens[central.key]}]]{after}"
    named = {one.letter: one.text for one in polysem_client.labels(name)}
    assert {one["cluster"]: one["name"] for one in data["labels"]["labels"]} == {
        one.letter: named[one.letter] for one in clusters
    }
    assert len(data["examples"]["examples"]) == 2
    assert data["examples"]["left_off"] == clusters[0].size - 2
    assert {one["cluster"] for one in data["examples"]["examples"]} == {"A"}
    explained = polysem_client.explain("the café sells tea", name)
    assert len(data["explain"]["tokens"]) == len(explained)
    assert [bool(one["firings"]) for one in data["explain"]["tokens"]] == [t.firings[0].fires for t in explained]


def test_errors_are_tool_errors_in_our_words(answers):
    _, _, wrong = answers
    assert all(result.is_error for result in wrong)
    said = [result.content[0].text for result in wrong]
    for sentence, words in zip(
        said,
        (
            "there is no neuron 9.1",
            "is not one neuron: write 7.1234",
            "has no cluster ZZ",
            "limit is 1000; it is a whole number from 1 to 100",
            "limit is 'many'",
            "the number of neurons is 9; it is a whole number from 0 to 8",
            "neuron is missing",
            "there is no index 'none'",
        ),
        strict=True,
    ):
        assert words in sentence
        assert "Error executing" not in sentence
        assert "\n" not in sentence


def test_no_server_is_a_tool_error_too(ask):
    _, (result,) = ask(("indexes", {}), target="127.0.0.1:1")
    assert result.is_error
    assert "127.0.0.1:1" in result.content[0].text


def test_answers_are_bounded(polysem_client, neuron):
    name, clustered = neuron
    found = tools.Tools(polysem_client)
    assert len(found.cluster(name, distance_threshold=0.1, limit=1)["clusters"]) == 1
    assert len(found.examples(name, limit=3)["examples"]) == 3
    assert found.examples(name, limit=3)["left_off"] == len(clustered.labels) - 3
    with pytest.raises(InvalidArgument, match="limit is 0"):
        found.labels(name, limit=0)
    with pytest.raises(NotFound):
        found.examples(name, "Q")


def test_without_its_package_the_command_says_what_to_install(polysem_here, monkeypatch):
    monkeypatch.setitem(sys.modules, "mcp.server.mcpserver", None)
    monkeypatch.delitem(sys.modules, "polysem.client.assistants.server", raising=False)
    done = polysem_here("mcp")
    assert done.returncode == 1
    assert "pip install 'polysem[mcp]'" in done.stderr
