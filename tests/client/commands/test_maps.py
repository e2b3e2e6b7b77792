"""The command map, in this process, of a real server."""

import json
import re


def test_a_layer_is_a_list_of_its_groups(polysem_client, polysem_here):
    (layer,) = polysem_client.map(1, groups=range(3))
    done = polysem_here("map", 1, "--limit", 3)
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"layer 1: {layer.n_grouped} of {layer.n_clusters} clusters in {layer.n_groups} groups")
    assert len(lines) == 4
    for line, group in zip(lines[1:], layer.groups, strict=True):
        assert line.split()[:2] == [str(group.number), str(len(group.clusters))]
        assert group.text in line


def test_a_group_is_a_list_of_its_clusters(polysem_client, polysem_here):
    ((group,),) = (layer.groups for layer in polysem_client.map(1, groups=2))
    lines = polysem_here("map", 1, "--group", 2).stdout.splitlines()[2:]
    assert [line.split()[0] for line in lines] == [f"{one.neuron}.{one.letter}" for one in group.clusters]
    plain = json.loads(polysem_here("map", 1, "--group", 2, "--json").stdout)
    assert [one["neuron"] for one in plain["clusters"]] == [str(one.neuron) for one in group.clusters]
    assert (plain["text"], plain["layer"], plain["number"], plain["side"]) == (group.text, 1, 2, "positive")


def test_a_layer_that_there_is_not_is_told(polysem_here):
    done = polysem_here("map", 1, "--group", 0, "--group", 99_999)
    assert re.search(r"layer 1 has no group 99999: it has \d+, from 0 on", done.stderr)
    done = polysem_here("map", 9)
    assert done.returncode != 0
    assert "layer 9" in done.stderr
