"""What `polysem serve` says to try is typed into a shell, and must work."""

import datetime
import os
import shlex
import signal
import subprocess
import sys

import pytest

from polysem.server import settings
from polysem.server.serving import certificate, hint, keys

COMMAND = shlex.join([sys.executable, "-m", "polysem"])


def write(authority, files, *names, **options):
    issued = authority.issue_cert(*names, **options)
    issued.private_key_pem.write_to_path(files["key"])
    issued.cert_chain_pems[0].write_to_path(files["cert"])


def typed(*lines, **environment):
    """What a shell prints for these lines of `serve`."""
    commands = [line.split(":  ", 1)[1] for line in lines]
    return subprocess.run(
        ["bash", "-ec", "\n".join(commands)], capture_output=True, text=True, env=os.environ | environment, check=False
    )


def hinted(given, target):
    read = settings.read(None, **given)
    return list(hint.lines(read, int(target.rsplit(":", 1)[1]) if "unix:" not in target else 0, "0.1", COMMAND))


@pytest.mark.parametrize(
    ("host", "name"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "localhost"), ("localhost", "localhost"), ("unix", "localhost")],
)
def test_the_hint_of_a_tls_server_works_as_printed(served, tls_files, authority, tmp_path, host, name):
    write(authority, tls_files, name)
    host = f"unix:{tmp_path}/socket" if host == "unix" else host
    given = {
        "host": host,
        "tls_cert": tls_files["cert"],
        "tls_key": tls_files["key"],
        "state": tmp_path / "state of it",
    }
    keys.create(given["state"], "ada")  # or it would not start at an address that others reach
    with served(**given) as target:
        lines = hinted(given, target)
        assert len(lines) == (2 if host == "0.0.0.0" else 1)  # where others come in, a key first
        found = typed(*lines)
    assert found.returncode == 0, found.stderr
    assert "0.1" in found.stdout


def test_where_every_address_is_served_the_certificates_own_name_is_used(tls_files, authority):
    write(authority, tls_files, "*.lab.example", "gpu-box.lab.example")
    given = {"host": "0.0.0.0", "tls_cert": tls_files["cert"], "tls_key": tls_files["key"]}
    *_, line = hinted(given, "0.0.0.0:7000")
    assert f"--server gpu-box.lab.example:7000 --ca {tls_files['cert']}" in line


def test_a_certificate_of_another_name_is_said(tls_files, authority):
    write(authority, tls_files, "gpu-box.lab.example")
    given = {"host": "127.0.0.1", "tls_cert": tls_files["cert"], "tls_key": tls_files["key"]}
    (line,) = hinted(given, "127.0.0.1:7000")
    assert line == (
        f"no client on this machine will accept {tls_files['cert']} here: "
        "IP address mismatch, certificate is not valid for '127.0.0.1'."
    )


def test_a_certificate_that_has_ended_is_said(tls_files, authority):
    write(authority, tls_files, "localhost", not_after=datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))
    (line,) = hinted({"host": "localhost", "tls_cert": tls_files["cert"], "tls_key": tls_files["key"]}, "localhost:1")
    assert line.endswith("here: certificate has expired")
    assert certificate.names(tls_files["cert"], tls_files["key"]) == []


def test_names_of_a_certificate_are_those_of_hosts(tls_files, authority):
    write(authority, tls_files, "*.lab.example", "gpu-box", "10.0.0.7", common_name="not this")
    assert certificate.names(tls_files["cert"], tls_files["key"]) == ["gpu-box", "10.0.0.7"]


def test_serve_prints_a_line_that_works_in_another_terminal(index_folder, tls_files, tmp_path):
    """A folder with a space in its name, and a path to the certificate that holds only where the server runs."""
    command = [*shlex.split(COMMAND), "serve", "--index", index_folder, "--port", "0", "--device", "cpu"]
    command += ["--state", "state", "--tls-cert", "cert.pem", "--tls-key", "key.pem", "--require-keys"]
    folder = tmp_path / "of a server"
    folder.mkdir()
    for name in ("cert", "key"):
        tls_files[name].rename(folder / f"{name}.pem")
    keys.create(folder / "state", "ada")
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [*map(str, command)], stdout=subprocess.PIPE, text=True, env=environment, cwd=folder
    ) as serve:
        try:
            lines = [next(line for line in serve.stdout if ":  " in line) for _ in range(2)]
            found = typed(*(line.strip() for line in lines))
        finally:
            serve.send_signal(signal.SIGTERM)
    assert found.returncode == 0, found.stderr
    assert "0.1" in found.stdout or "1.0" in found.stdout
