"""Where a server is: how it may be written, what is refused in words, and proxies, which this machine never needs."""

import json
import os
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress

import pytest

from polysem.client import AsyncClient, Client, addresses
from polysem.client.commands import top
from polysem.proto.errors import InvalidArgument, PolysemError, Unavailable


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("gpu-box", "gpu-box:50051"),
        ("gpu-box:7", "gpu-box:7"),
        (" gpu-box:65535 ", "gpu-box:65535"),
        ("10.0.0.7", "10.0.0.7:50051"),
        ("::1", "[::1]:50051"),
        ("[::1]", "[::1]:50051"),
        ("[::1]:80", "[::1]:80"),
        ("fe80::1%eth0", "[fe80::1%eth0]:50051"),
        ("a,b:2", "a:50051,b:2"),
        (["a", "b:2"], "a:50051,b:2"),
        (("a",), "a:50051"),
        ("a:1,", "a:1"),
        ("dns:///lab", "dns:///lab:50051"),
        ("dns:lab:7", "dns:///lab:7"),
        ("unix:/run/polysem.sock", "unix:/run/polysem.sock"),
        ("unix:here,there.sock", "unix:here,there.sock"),
        ("ipv4:10.0.0.1:1,10.0.0.2:2", "ipv4:10.0.0.1:1,10.0.0.2:2"),
    ],
)
def test_a_server_without_a_port_is_at_the_usual_one(written, meant):
    assert addresses.named(written) == meant
    if not addresses.are_several(meant):
        with Client(written) as client:
            assert client.target == meant == AsyncClient(written).target


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("http://gpu-box:50051", r"leave out 'http://' and write host:port"),
        ("https://gpu-box", "leave out 'https://'"),
        ("grpc://gpu-box:1", "leave out 'grpc://'"),
        ("a:1,http://b:2", "leave out 'http://'"),
        ("gpu-box:65536", "'gpu-box:65536' has no port from 1 to 65535 after its colon"),
        ("gpu-box:0", "no port from 1 to 65535"),
        ("gpu-box:-1", "no port from 1 to 65535"),
        ("gpu-box:", "no port from 1 to 65535"),
        ("gpu-box:x", "no port from 1 to 65535"),
        ("gpu-box:٥", "no port from 1 to 65535"),
        ("gpu-box:" + "9" * 5000, "no port from 1 to 65535"),
        ("[::1]:70000", "no port from 1 to 65535"),
        ("gpu box:1", "is no address of a server: write host:port"),
        ("gpu-box/50051", "is no address of a server"),
        ("me@gpu-box:1", "is no address of a server"),
        (":50051", "is no address of a server"),
        ("  ", "is no address of a server"),
        ("", "no server was named"),
        (",", "no server was named"),
        ([], "no server was named"),
        ([7], "7 is no server: write host:port"),
    ],
)
def test_what_is_no_address_is_told_at_once(written, words):
    for kind in (Client, AsyncClient):
        with pytest.raises(InvalidArgument, match=words) as raised:
            kind(written)
        assert raised.value.field == "target"


@pytest.mark.parametrize(
    ("target", "here"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("LOCALHOST:1", True),
        ("api.localhost:1", True),
        ("unix:/x", True),
        ("unix-abstract:x", True),
        ("ipv4:127.0.0.1:1", True),
        ("dns:///localhost:1", True),
        ("gpu-box:1,127.0.0.1:1", True),
        ("gpu-box:1", False),
        ("10.0.0.1:1", False),
        ("localhost.example.org:1", False),
        ("[2001:db8::1]:1", False),
    ],
)
def test_what_is_on_this_machine(target, here):
    assert addresses.is_on_this_machine(target) == here


# ---- Proxies


@contextmanager
def proxy():
    """The address of a proxy that refuses everything, and the list of what it was asked."""
    asked, listening = [], socket.create_server(("127.0.0.1", 0))

    def refuse():
        with suppress(OSError):
            while True:
                near, _ = listening.accept()
                with near:
                    asked.append(near.recv(4096))
                    near.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")

    thread = threading.Thread(target=refuse)
    thread.start()
    try:
        yield f"127.0.0.1:{listening.getsockname()[1]}", asked
    finally:
        with suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


@pytest.fixture(params=[*addresses.PROXIES, "HTTP_PROXY"])
def proxied(request, monkeypatch):
    """The environment names a proxy: what it was asked."""
    for name in (*addresses.PROXIES, *addresses.NO_PROXIES):
        monkeypatch.delenv(name, raising=False)
    with proxy() as (address, asked):
        monkeypatch.setenv(request.param, f"http://ada:secret@{address}")
        yield asked


def test_no_proxy_is_asked_for_a_server_on_this_machine(polysem_client, proxied):
    port = polysem_client.target.rpartition(":")[2]
    for target in (polysem_client.target, f"localhost:{port}", f"127.0.0.1:1,{polysem_client.target}"):
        with Client(target, token="") as client:
            assert client.info().model.n_layers == 2
            assert client.serving()
    assert proxied == []


def test_no_proxy_is_asked_for_metrics_on_this_machine(proxied):
    with pytest.raises(Unavailable, match=r"no metrics at 127\.0\.0\.1:1"):
        top.read("127.0.0.1:1")
    assert proxied == []


def test_a_proxy_in_the_way_is_named_without_its_password(monkeypatch):
    with proxy() as (address, asked):
        monkeypatch.setenv("https_proxy", f"http://ada:secret@{address}")
        monkeypatch.delenv("no_proxy", raising=False)
        with Client("gpu-box.invalid", timeout_s=20) as client, pytest.raises(PolysemError) as raised:
            client.info()
    assert f"it was asked through the proxy http://{address}, which $https_proxy names" in raised.value.message
    assert "set no_proxy=gpu-box.invalid" in raised.value.message
    assert "secret" not in raised.value.message
    assert asked


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://u:secret@[bad", "http://[bad"),  # which is no URL
        ("http://u:se/cr@et@box:3128/", "http://box:3128/"),
        ("u:secret@box", "box"),
        ("box:3128", "box:3128"),
    ],
)
def test_any_proxy_is_named_without_its_password(monkeypatch, url, shown):
    for name in ("grpc_proxy", "https_proxy", "no_grpc_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", url)
    assert addresses.proxy("gpu-box.lab:1") == f"the proxy {shown}, which $http_proxy names"


@pytest.mark.parametrize(
    ("target", "excepted", "named"),
    [
        ("gpu-box.lab:1", "", True),
        ("gpu-box.lab:1", "example.org", True),
        ("gpu-box.lab:1", "example.org, .lab", False),
        ("gpu-box.lab:1", "GPU-BOX.LAB", False),
        ("10.1.2.3:1", "10.0.0.0/8", False),
        ("10.1.2.3:1", "10.2.0.0/16", True),
        ("a.lab:1,b.lab:1", "", False),
        ("127.0.0.1:1", "", False),
    ],
)
def test_only_a_proxy_that_is_asked_is_named(monkeypatch, target, excepted, named):
    monkeypatch.setenv("http_proxy", "http://10.9.9.9:3128")
    monkeypatch.setenv("no_proxy", excepted)
    for name in ("grpc_proxy", "https_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert bool(addresses.proxy(target)) == named


# ---- gRPC's own log


def test_nothing_of_grpcs_own_log_reaches_the_terminal(polysem_client, tmp_path):
    trusted = tmp_path / "ca.pem"
    trusted.write_text("-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----\n")
    for options in (["--server", polysem_client.target, "--tls"], ["--server", "127.0.0.1:1"],
                    ["--server", polysem_client.target, "--ca", trusted]):  # fmt: skip
        ran = subprocess.run(
            [sys.executable, "-m", "polysem", "info", *options],
            capture_output=True,
            text=True,
            env={name: value for name, value in os.environ.items() if not name.startswith("GRPC_")},
        )
        assert ran.returncode == 1
        assert len(ran.stderr.splitlines()) == 1, ran.stderr
        assert ran.stderr.startswith("polysem: ")


def test_a_user_may_ask_for_grpcs_log(monkeypatch):
    code = "import os, polysem.client; print(os.environ['GRPC_VERBOSITY'])"
    for wanted in ("DEBUG", None):
        settings = (
            {**os.environ, "GRPC_VERBOSITY": wanted}
            if wanted
            else {k: v for k, v in os.environ.items() if k != "GRPC_VERBOSITY"}
        )
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=settings, check=True)
        assert ran.stdout.strip() == (wanted or "NONE")


def test_health_and_info_take_a_server_without_a_port(polysem_client, monkeypatch):
    port = polysem_client.target.rpartition(":")[2]
    monkeypatch.setattr(addresses, "DEFAULT_PORT", int(port))
    with Client("127.0.0.1", token="") as client:
        assert client.target == polysem_client.target
        assert json.dumps(client.info().version)
