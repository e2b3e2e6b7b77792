"""Several servers of one index behind one client; tests/load/replicas.py ends some of them under load."""

import pytest

from polysem.client import Client
from polysem.proto.errors import InvalidArgument, Unavailable


@pytest.mark.parametrize("kind", [list, ",".join])
def test_a_server_that_is_away_from_the_start_is_left_out(polysem_client, kind):
    with Client(kind(["127.0.0.1:1", polysem_client.target])) as client:
        assert [client.info().model.n_layers for _ in range(5)] == [2] * 5


def test_what_is_no_list_of_servers_is_told():
    with pytest.raises(InvalidArgument, match=r"'gpu-box:x' has no port from 1 to 65535"):
        Client("127.0.0.1:1,gpu-box:x")
    with pytest.raises(InvalidArgument, match="no server was named"):
        Client([])
    with pytest.raises(Unavailable, match=r"no Polysem server is at no-such-host.invalid:1: the host is not known"):
        Client("127.0.0.1:1,no-such-host.invalid:1")
