"""A server with keys behind HAProxy as docker/haproxy.cfg has it; skipped without haproxy, but not in .ci/run."""

import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme

from polysem.server.serving import keys

CONFIG = Path(__file__).parents[2] / "docker" / "haproxy.cfg"


class Proxied(NamedTuple):
    """target is the proxy's; ca the file of its authority; tokens are of two keys; audit is the server's audit log."""

    target: str
    ca: Path
    tokens: tuple[str, str]
    audit: Path
    metrics_port: int

    def connect(self, alpn="h2", source="127.0.0.1"):
        """A TLS connection to the proxy, for frames by hand."""
        context = ssl.create_default_context(cafile=self.ca)
        context.set_alpn_protocols([alpn])
        host, port = self.target.split(":")
        return context.wrap_socket(
            socket.create_connection((host, int(port)), timeout=10, source_address=(source, 0)), server_hostname=host
        )


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def proxied(index_folder, tmp_path_factory):
    if shutil.which("haproxy") is None:
        missing = "no haproxy: apt-get install haproxy"
        pytest.fail(missing) if os.environ.get("POLYSEM_NEEDS_HAPROXY") else pytest.skip(missing)
    folder = tmp_path_factory.mktemp("proxied")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(folder / "proxy.pem")
    tokens = tuple(keys.create(folder / "state", owner)[1] for owner in ("ada", "ben"))
    command = [sys.executable, "-m", "polysem.client.commands.cli", "serve", "--index", index_folder, "--port", "0"]
    command += ["--device", "cpu", "--state", folder / "state", "--require-keys"]
    command += ["--metrics-port", metrics_port := free_port()]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    server = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True, env=environment)
    proxy = None
    try:
        line = next(line for line in server.stdout if line.startswith("listening on "))
        target = f"127.0.0.1:{free_port()}"
        settings = {"BIND": target, "CERT": folder / "proxy.pem", "SERVER": line.split()[2].rstrip(";")}
        proxy = subprocess.Popen(
            ["haproxy", "-db", "-f", str(CONFIG)],
            env=os.environ | {f"POLYSEM_PROXY_{name}": str(value) for name, value in settings.items()},
            stderr=subprocess.DEVNULL,
        )
        found = Proxied(target, folder / "ca.pem", tokens, folder / "state" / "audit.jsonl", metrics_port)
        for _ in range(100):
            try:
                found.connect().close()
                break
            except OSError:
                time.sleep(0.05)
        yield found
    finally:
        for process in filter(None, (proxy, server)):
            process.terminate()
            process.wait()
        server.stdout.close()
