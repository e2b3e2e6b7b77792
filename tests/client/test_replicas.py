"""Several servers of one index behind one client; more of it in tests/load/replicas.py."""

import subprocess
import sys
from pathlib import Path

import pytest

from polysem.client import Client
from polysem.proto.errors import InvalidArgument, Unavailable

LOAD = Path(__file__).parent.parent / "load"


def test_a_server_drained_and_one_killed_under_load_cost_no_call(index_folder):
    command = [sys.executable, str(LOAD / "replicas.py"), "--calls", "300", "--index", str(index_folder)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "drained: 0, killed: -9" in run.stdout
    assert "failed: 0 (target 0); answered otherwise: 0 (target 0); right: 300" in run.stdout


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
