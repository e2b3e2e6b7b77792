"""Who may come in: keys, TLS, unix sockets, and what a server refuses to do without them."""

import asyncio
import json
import os
import socket
import stat
import time

import grpc
import pytest
from click.testing import CliRunner

from polysem.client import AsyncClient, Client
from polysem.client.commands.cli import cli
from polysem.proto.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Overloaded,
    PolysemError,
    QuotaExceeded,
    Unauthenticated,
    Unavailable,
)
from polysem.server.serving import keys

from ..conftest import write_certificate

# ---- Keys in their file


def test_a_key_is_kept_only_as_a_hash(tmp_path):
    key, token = keys.create(tmp_path, "ada")
    kept = (tmp_path / "keys.json").read_text()
    assert token not in kept
    assert token.split("_", 2)[2] not in kept
    assert key.sha256 in kept
    assert stat.S_IMODE((tmp_path / "keys.json").stat().st_mode) == 0o600


def test_a_key_lets_its_holder_in_with_class_and_caps(tmp_path):
    key, token = keys.create(tmp_path, "nightly", "bulk", 3, 1e9)
    caller = keys.Keys(tmp_path).caller(token)
    assert (caller.key, caller.class_, caller.max_in_flight, caller.account.daily_quota) == (key.id, "bulk", 3, 1e9)
    assert caller.asking_for("interactive").class_ == "bulk"  # a bulk key stays bulk


@pytest.mark.parametrize("change", [lambda t: t[:-1], lambda t: t + "x", lambda t: "", lambda t: "psm_", lambda t: "é"])
def test_another_key_lets_nobody_in(tmp_path, change):
    _, token = keys.create(tmp_path, "ada")
    with pytest.raises(Unauthenticated, match="not one of this server's") as raised:
        keys.Keys(tmp_path).caller(change(token))
    assert token not in str(raised.value)


def test_a_revoked_key_is_out_at_once_for_a_server_that_runs(tmp_path):
    key, token = keys.create(tmp_path, "ada")
    running = keys.Keys(tmp_path)
    assert running.caller(token).key == key.id
    keys.revoke(tmp_path, key.id)
    for ask in (lambda: running.caller(token), lambda: running.check(key.id)):
        with pytest.raises(Unauthenticated, match="has been revoked"):
            ask()


def test_a_key_made_meanwhile_lets_in_too(tmp_path):
    keys.create(tmp_path, "ada")
    running = keys.Keys(tmp_path)
    key, token = keys.create(tmp_path, "ben")
    assert running.caller(token).key == key.id


def test_what_was_served_today_outlives_the_server(tmp_path):
    _, token = keys.create(tmp_path, "ada", daily_quota=100)
    before = keys.Keys(tmp_path)
    before.caller(token).account.charge(60)
    before.keep()
    assert keys.Keys(tmp_path).caller(token).account.spent() == 60
    assert keys.listed(tmp_path)[0].last_used


def test_a_server_that_nobody_could_enter_does_not_start(tmp_path):
    with pytest.raises(FailedPrecondition, match=f"polysem keys create --owner NAME --state {tmp_path}"):
        keys.Keys(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', '{"a": {"id": "a"}}', "\0"])
def test_a_damaged_file_is_told_and_kept(tmp_path, text):
    (tmp_path / "keys.json").write_text(text)
    with pytest.raises(FailedPrecondition, match=r"keys\.json"):
        keys.create(tmp_path, "ada")
    assert (tmp_path / "keys.json").read_text() == text


def test_keys_of_many_processes_at_once_are_all_kept(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda i: keys.create(tmp_path, f"owner {i}")[0].id, range(40)))
    assert {key.id for key in keys.listed(tmp_path)} == set(made)


# ---- `polysem keys`


def polysem(*args):
    return CliRunner().invoke(cli, [*args], catch_exceptions=True)


def test_keys_are_made_listed_and_revoked_from_the_shell(tmp_path):
    state = ["--state", str(tmp_path)]
    made = json.loads(polysem("keys", "create", "--owner", "ada", "--daily-quota", "1e9", "--json", *state).stdout)
    assert made["token"].startswith("psm_" + made["id"])
    (shown,) = [json.loads(line) for line in polysem("keys", "list", "--json", *state).stdout.splitlines()]
    assert (shown["owner"], shown["class"], shown["daily_quota"]) == ("ada", "interactive", 1e9)
    assert "sha256" not in shown
    assert "is revoked" in polysem("keys", "revoke", made["id"], *state).stdout
    assert "revoked" in polysem("keys", "list", *state).stdout
    assert isinstance(polysem("keys", "revoke", "nobody", *state).exception, NotFound)


def test_a_new_key_alone_is_on_stdout(tmp_path):
    made = polysem("keys", "create", "--owner", "ada", "--state", str(tmp_path))
    assert made.stdout.startswith("POLYSEM_TOKEN=psm_")
    assert len(made.stdout.splitlines()) == 1


def test_a_name_of_control_characters_is_no_owner(tmp_path):
    with pytest.raises(InvalidArgument, match="the owner must be a name"):
        keys.create(tmp_path, "a\nb")


# ---- A server with keys


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state"


@pytest.fixture
def token(state):
    return keys.create(state, "ada")[1]


def test_without_a_key_nothing_but_health_is_answered(served, state, token):
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with served(require_keys=True, state=state) as target:
        with grpc.insecure_channel(target) as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        for ask in (Client.info, Client.indexes, lambda client: len(client.cluster("0.0"))):
            with Client(target, token="") as client, pytest.raises(Unauthenticated, match="this server wants a key"):
                ask(client)
            with (
                Client(target, token="psm_12_wrong") as client,
                pytest.raises(Unauthenticated, match="not one of this"),
            ):
                ask(client)
            with Client(target, token=token) as client:
                ask(client)


def test_both_clients_and_the_shell_take_the_key_from_the_environment(served, state, token, monkeypatch):
    monkeypatch.setenv("POLYSEM_TOKEN", token)

    async def ask(target):
        async with AsyncClient(target, bulk=True) as client:
            return len(await client.cluster("0.*")), (await client.info()).default_index

    with served(require_keys=True, state=state) as target:
        with Client(target) as client:
            assert len(client.cluster("0.0-9")) == 10
        assert asyncio.run(ask(target)) == (96, "small")
        assert polysem("info", "--json", "--server", target).exit_code == 0
        monkeypatch.delenv("POLYSEM_TOKEN")
        assert isinstance(polysem("info", "--server", target).exception, Unauthenticated)
        assert polysem("info", "--server", target, "--token", token).exit_code == 0


def test_revoking_ends_a_call_that_is_at_work(served, state):
    key, token = keys.create(state, "ada")
    keys.create(state, "ben")
    with served(require_keys=True, state=state, max_batch_cost=1.0) as target, Client(target, token=token) as client:
        neurons = iter(client.cluster("*"))
        next(neurons)
        keys.revoke(state, key.id)
        with pytest.raises(Unauthenticated, match="has been revoked"):
            list(neurons)


def test_a_keys_own_limits_are_published_and_kept(served, state):
    _, token = keys.create(state, "ada", max_in_flight=2, daily_quota=1e6)
    with served(require_keys=True, state=state) as target, Client(target, token=token) as client:
        limits = client.info().limits
        assert (limits.max_requests_in_flight_of_key, limits.daily_cost_quota) == (2, 1e6)
        started = time.monotonic()
        with pytest.raises(QuotaExceeded, match=r"your key may use cost 1e\+06 a day") as raised:
            [len(client.cluster("*")) for _ in range(100)]
        assert raised.value.retry_after_s > 0
        assert isinstance(raised.value, Overloaded)
        assert time.monotonic() - started < 20  # it is not tried again


def test_every_limit_is_published(polysem_client):
    limits = polysem_client.info().limits
    assert limits.max_queued_cost > limits.max_batch_cost > 0
    assert (limits.bulk_batch_ms, limits.max_wait_ms) == (20.0, 0.0)
    assert (limits.max_requests_in_flight_of_key, limits.daily_cost_quota) == (0, 0.0)


@pytest.mark.parametrize("token", ["psm 1", "é", "a\nb"])
def test_a_token_that_cannot_be_one_is_told_before_anything_is_sent(token):
    with pytest.raises(InvalidArgument, match="the token is no key") as raised:
        Client("127.0.0.1:1", token=token)
    assert token not in str(raised.value)


# ---- TLS


def test_a_server_with_tls_and_keys_is_reached_with_both(served, state, token, tls_files):
    given = {"tls_cert": tls_files["cert"], "tls_key": tls_files["key"], "require_keys": True, "state": state}
    with served(**given) as target:
        with Client(target, token=token, tls=tls_files["ca"]) as client:
            assert len(client.cluster("0.0-9")) == 10

        async def ask():
            async with AsyncClient(target, token=token, tls=tls_files["ca"]) as client:
                return len(await client.cluster("0.0-9"))

        assert asyncio.run(ask()) == 10
        shell = ["--server", target, "--token", token, "--ca", str(tls_files["ca"])]
        assert polysem("info", *shell).exit_code == 0
        assert polysem("health", "--server", target, "--ca", str(tls_files["ca"])).exit_code == 0


def test_a_plaintext_client_at_a_tls_port_is_told_so(served, tls_files):
    with (
        served(tls_cert=tls_files["cert"], tls_key=tls_files["key"]) as target,
        Client(target) as client,
        pytest.raises(Unavailable, match=r"the server may want TLS: .*--tls"),
    ):
        client.info()


def test_a_tls_client_at_a_plaintext_port_is_told_so(polysem_client, tls_files):
    with (
        Client(polysem_client.target, tls=tls_files["ca"]) as client,
        pytest.raises(Unavailable, match="the server does not speak TLS: leave --tls"),
    ):
        client.info()


def test_a_client_that_does_not_know_the_authority_is_told_so(served, tls_files):
    with (
        served(tls_cert=tls_files["cert"], tls_key=tls_files["key"]) as target,
        Client(target, tls=True) as client,
        pytest.raises(Unavailable, match=r"certificate .*--ca"),
    ):
        client.info()


def served_certificate(target):
    """The certificate that a new connection is shown, as PEM."""
    import ssl

    host, port = target.rsplit(":", 1)
    return ssl.get_server_certificate((host, int(port)))


def test_new_certificates_are_used_without_a_restart(served, tls_files, authority):
    with served(tls_cert=tls_files["cert"], tls_key=tls_files["key"]) as target:
        with Client(target, tls=tls_files["ca"]) as before:
            before.info()
            first = served_certificate(target)
            write_certificate(authority, tls_files)
            assert served_certificate(target).split() == tls_files["cert"].read_text().split()
            assert served_certificate(target) != first
            before.info()  # what is connected stays
        with Client(target, tls=tls_files["ca"]) as after:
            after.info()


def test_half_a_renewal_leaves_the_old_pair_in_force(served, tls_files, authority):
    with served(tls_cert=tls_files["cert"], tls_key=tls_files["key"]) as target:
        first = served_certificate(target)
        tls_files["key"].write_text("not a key")
        assert served_certificate(target) == first
        write_certificate(authority, tls_files)
        assert served_certificate(target) != first


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda files: {"tls_key": None}, "give --tls-key too"),
        (lambda files: {"tls_cert": None}, "give --tls-cert too"),
        (lambda files: {"tls_key": files["ca"]}, "are no PEM certificate with its unencrypted key"),
        (lambda files: {"tls_cert": files["key"]}, "are no PEM certificate with its unencrypted key"),
        (lambda files: {"tls_cert": files["ca"].with_name("none.pem")}, "are no PEM certificate"),
    ],
)
def test_wrong_tls_files_are_told_before_anything_is_loaded(served, tls_files, change, words):
    given = {"tls_cert": tls_files["cert"], "tls_key": tls_files["key"]} | change(tls_files)
    with pytest.raises(PolysemError, match=words), served(lambda: pytest.fail("it loaded"), **given):
        pytest.fail("it was served")


def test_a_ca_file_that_holds_none_is_told(tmp_path):
    (tmp_path / "empty.pem").write_text("")
    with pytest.raises(InvalidArgument, match="holds no PEM certificate"):
        Client("127.0.0.1:1", tls=tmp_path / "empty.pem")
    with pytest.raises(InvalidArgument, match="cannot be read: No such file"):
        Client("127.0.0.1:1", tls=tmp_path / "none.pem")


# ---- Where it listens


def test_elsewhere_than_loopback_it_wants_tls_and_keys(served, state, tls_files):
    loads = {"load": lambda: pytest.fail("it loaded"), "host": "0.0.0.0"}
    with pytest.raises(InvalidArgument, match="would have no TLS: give --tls-cert"), served(**loads):
        pytest.fail("it was served")
    files = {"tls_cert": tls_files["cert"], "tls_key": tls_files["key"], "state": state}
    with pytest.raises(InvalidArgument, match="would have no keys"), served(**loads, **files, require_keys=False):
        pytest.fail("it was served")
    with pytest.raises(FailedPrecondition, match="nobody could come in"), served(**loads, **files):
        pytest.fail("it was served")


def test_with_tls_and_keys_it_listens_anywhere(served, state, token, tls_files):
    files = {"tls_cert": tls_files["cert"], "tls_key": tls_files["key"], "state": state}
    with (
        served(host="0.0.0.0", **files) as target,
        Client(target.replace("0.0.0.0", "127.0.0.1"), token=token, tls=tls_files["ca"]) as client,
    ):
        client.info()


def test_a_unix_socket_is_open_to_its_owner_and_group(served, tmp_path):
    path = tmp_path / "polysem.sock"
    with served(host=f"unix:{path}") as target:
        assert target == f"unix:{path}"
        with Client(target) as client:
            assert len(client.cluster("0.0-9")) == 10
        assert polysem("info", "--json", "--server", target).exit_code == 0
        assert stat.S_IMODE(path.stat().st_mode) & 0o007 == 0
        with pytest.raises(FailedPrecondition, match="a server is there already"), served(host=f"unix:{path}"):
            pytest.fail("it took the place of a server")
        with Client(target) as client:
            client.info()  # and the first one still answers


def test_the_socket_of_a_killed_server_is_not_in_the_way(served, tmp_path):
    path = tmp_path / "polysem.sock"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    with served(host=f"unix:{path}") as target, Client(target) as client:
        client.info()


def test_a_socket_that_cannot_be_is_told(served, tmp_path):
    (tmp_path / "file").touch()
    for path, words in (
        (tmp_path / "file", "there is a file of that name"),
        (tmp_path / "none" / "polysem.sock", "its folder is missing"),
        (tmp_path / ("x" * 120), "longer than"),
    ):
        with pytest.raises(FailedPrecondition, match=words), served(host=f"unix:{path}"):
            pytest.fail("it was served")
    assert os.path.exists(tmp_path / "file")
