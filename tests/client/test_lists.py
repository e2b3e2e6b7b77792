"""Lists of clusters: in an order of one's own, as a link and as text."""

import pytest

from polysem.client import ClusterList
from polysem.client.lists import Listed
from polysem.proto.errors import InvalidArgument

LINK = "http://127.0.0.1:8765/list?c=2.185.B@0.5,0.7.A@0.31"


def test_a_list_comes_back_from_its_link_and_from_its_text():
    found = ClusterList.of(LINK)
    assert [str(one) for one in found] == ["2.185.B@0.5", "0.7.A@0.31"]
    assert found.link("http://127.0.0.1:8765/") == LINK
    assert [*ClusterList.of(str(found))] == [*found]
    assert found.link(index="other").endswith("&index=other")


def test_clusters_are_added_once_and_removed():
    found = ClusterList(["2.185.B"])
    found.add("2.185.b@0.50")
    found.add((0, 7), "A", 0.31)
    assert found.neurons == [(2, 185), (0, 7)]
    assert "0.7.A@0.31" in found
    found.remove("2.185.B@0.5")
    assert [*found] == [Listed((0, 7), "A", 0.31)]
    with pytest.raises(InvalidArgument, match=r"2\.185\.B@0\.5 is not in the list"):
        found.remove("2.185.B")


@pytest.mark.parametrize(
    "text", ["2.185", "x.A", "2.185.B@", "2.185.B@.", "2.185.B@3", "2.185.ABCD", "2.185.B@0.5.5", "*.A"]
)
def test_what_is_no_cluster_is_told(text):
    with pytest.raises(InvalidArgument, match=r"is not a cluster|distance"):
        ClusterList([text])


def test_a_link_holds_fifty():
    found = ClusterList(f"0.{i}.A" for i in range(51))
    with pytest.raises(InvalidArgument, match="has 51 clusters, an address holds 50; save it as a file"):
        found.link()
    assert len(ClusterList.of(str(found))) == 51
