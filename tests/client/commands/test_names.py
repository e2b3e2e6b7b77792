"""The commands name, names and search, in this process, of a real server."""

import json

import pytest


@pytest.fixture
def client(polysem_client):
    """The session's client; what was named is forgotten afterwards."""
    yield polysem_client
    polysem_client.keep_names(*(name._replace(text="") for name in polysem_client.names()))


def test_names_go_to_a_file_and_back_byte_by_byte(client, polysem_here, tmp_path):
    for neuron, text in (("1.5", "café `日本`"), ("0.7", "b"), ("0.5", "a")):
        client.name(neuron, "A", text)
    exported = polysem_here("names", "export").stdout
    assert [json.loads(line)["neuron"] for line in exported.splitlines()] == ["0.5", "0.7", "1.5"]
    path = tmp_path / "names.jsonl"
    path.write_text(exported, "utf-8")
    assert polysem_here("names", "import", path, "--json").stdout == '{"n_names": 3, "n_changed": 0}\n'
    client.keep_names(*(name._replace(text="") for name in client.names()))
    assert "3 names, 3 of them new or changed" in polysem_here("names", "import", path).stdout
    assert polysem_here("names", "export").stdout == exported


def test_wrong_lines_are_refused_by_their_number_and_nothing_is_kept(client, polysem_here, tmp_path):
    client.name("0.5", "A", "right")
    right = polysem_here("names", "export").stdout
    line = json.loads(right)
    wrong = {
        "not JSON": "is not a JSON object",
        "[1]": "is not a JSON object",
        json.dumps(line | {"index": "b" * 64}): "the name is of the index 'bbbbbbbbbbbb'",
        json.dumps(line | {"colour": "red"}): "there is no field 'colour'",
        json.dumps(line | {"neuron": "cat"}): "'cat' is not a neuron",
        json.dumps(line | {"members": "3-1"}): "write ascending numbers",
        json.dumps(line | {"members": "0-9999"}): "so none has the number 9999",
        json.dumps(line | {"text": 7}): "text is '7'; it is a text",
        json.dumps(line | {"text": "x" * 300}): "give at most 200",
        json.dumps(line | {"time": "yesterday"}): "the time is 'yesterday'",
        json.dumps(line | {"side": "up"}): "unknown side 'up'",
        json.dumps(line | {"scores": {"detection": 2}}): "detection is 2",
    }
    client.name("0.5", "A", "")
    for text, words in wrong.items():
        path = tmp_path / "wrong.jsonl"
        path.write_text(f"{right}\n{text}\n")
        done = polysem_here("names", "import", path)
        assert (done.returncode, "line 3: " in done.stderr, words in done.stderr) == (1, True, True), done.stderr
    assert list(client.names()) == []


def test_the_commands_name_list_and_forget(client, polysem_here):
    assert polysem_here("name", "0.5", "A", "a thing").stdout == "0.5 A: a thing\n"
    assert "0.5  A   a thing  (anyone, " in polysem_here("names", "list").stdout
    assert "detached from the set 0" in polysem_here("names", "list", "--distance-threshold", "0.01").stdout
    rows = polysem_here("names", "list", "--json").stdout.splitlines()
    assert [(json.loads(row)["text"], json.loads(row)["letter"]) for row in rows] == [("a thing", "A")]
    assert polysem_here("name", "0.5", "A", "--forget").stdout == "0.5 A: forgotten\n"
    assert polysem_here("names", "list").stdout == "no names are kept of these neurons\n"
    assert "(forgotten)" in polysem_here("names", "list", "--history").stdout
    assert polysem_here("name", "0.5", "A").returncode == 2


def test_search_prints_what_the_client_finds(client, polysem_here):
    found = client.search("model").clusters
    rows = [json.loads(row) for row in polysem_here("search", "model", "--json").stdout.splitlines()]
    assert [(row["neuron"], row["label"]) for row in rows] == [(str(one.neuron), one.label) for one in found]
    first = polysem_here("search", "model", "--limit", 1)
    assert first.stdout.startswith(f"{found[0].neuron}.")
    cursor = first.stderr.split("more: --cursor ")[1].split()[0]
    second = polysem_here("search", "model", "--limit", 1, "--cursor", cursor).stdout
    assert second.startswith(f"{found[1].neuron}.")
    assert "no cluster has 'zzz'" in polysem_here("search", "zzz").stdout
    firing = client.firing("the model")[0]
    assert polysem_here("search", "--text", "the model").stdout.startswith(f"{firing.neuron}.")


def test_a_report_is_of_the_neurons_of_a_list(polysem_here, tmp_path):
    link = "http://127.0.0.1:8765/list?c=0.5.A@0.5,1.5.A@0.4,0.5.B@0.2"
    assert "2 neurons" in polysem_here("report", "--list", link, "--out", tmp_path / "list.html").stdout
    assert polysem_here("report", "--out", tmp_path / "none.html").returncode == 2
