"""`polysem mcp` before a server with keys and TLS: the user's own key, its quota, and what is refused."""

import asyncio
import os
import sys

import pytest

mcp = pytest.importorskip("mcp")
from mcp.client.stdio import StdioServerParameters, stdio_client  # noqa: E402

from polysem.server.serving import keys  # noqa: E402

NEURONS = ("neurons", {"neurons": "0.*", "limit": 1})
CLUSTER = ("cluster", {"neuron": "0.1"})


def asked(target, *calls, **environment):
    """Whether each call of a tool was refused, and the text of its answer."""

    async def speak():
        command = ["-m", "polysem", "mcp", "--server", target]
        server = StdioServerParameters(command=sys.executable, args=command, env=dict(os.environ) | environment)
        async with mcp.Client(stdio_client(server)) as client:
            found = [await client.call_tool(name, arguments) for name, arguments in calls]
            return [(result.is_error, result.content[0].text) for result in found]

    return asyncio.run(speak())


def test_an_assistant_asks_with_its_users_key_over_tls(served, tmp_path, tls_files):
    _, token = keys.create(tmp_path, "ada")
    _, small = keys.create(tmp_path, "ben", daily_quota=1e4)
    given = {"tls_cert": tls_files["cert"], "tls_key": tls_files["key"], "require_keys": True, "state": tmp_path}
    ca = {"POLYSEM_CA": str(tls_files["ca"])}
    with served(**given) as target:
        assert [refused for refused, _ in asked(target, ("indexes", {}), NEURONS, POLYSEM_TOKEN=token, **ca)] == [
            False
        ] * 2
        ((refused, said),) = asked(target, ("indexes", {}), POLYSEM_TOKEN=token[:-1] + "x", **ca)
        assert refused
        assert "not one of this server's" in said
        assert token[:-1] not in said
        (_, first), (refused, said) = asked(target, ("indexes", {}), CLUSTER, POLYSEM_TOKEN=small, **ca)
        assert '"small"' in first
        assert refused
        assert "your key may use cost 1e+04 a day" in said
        ((refused, said),) = asked(target, ("indexes", {}), POLYSEM_TOKEN=token, POLYSEM_CA="")
        assert refused
        assert "the server may want TLS" in said
        assert "\n" not in said
