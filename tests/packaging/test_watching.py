"""Prometheus' rules and Grafana's dashboard: checked by promtool, and all that they name is exposed by a server."""

import json
import os
import re
import shutil
import subprocess
from datetime import datetime
from pathlib import Path

import pytest
import trustme
import yaml

from polysem.server.serving.certificate import end_seconds
from polysem.server.serving.metrics import Metrics

FOLDER = Path(__file__).parents[2] / "docker" / "watching"
GAUGES = {  # that parts of a server add while it runs
    "calls_in_line", "certificate_end_seconds", "device_memory_bytes", "jobs", "oldest_seconds", "queued_requests",
    "state_disk_bytes", "unwritten_seconds",
}  # fmt: skip


@pytest.mark.parametrize(
    "command", ["check rules rules.yml", "check config prometheus.yml", "test rules rules_test.yml"]
)
def test_promtool_finds_them_right(command):
    if shutil.which("promtool") is None:
        missing = "no promtool: apt-get install prometheus"
        pytest.fail(missing) if os.environ.get("POLYSEM_NEEDS_PROMTOOL") else pytest.skip(missing)
    done = subprocess.run(["promtool", *command.split()], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_metric_that_they_name_is_one_of_the_server():
    rules = yaml.safe_load((FOLDER / "rules.yml").read_text())
    dashboard = json.loads((FOLDER / "dashboards" / "polysem.json").read_text())
    named = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    named += [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    used = {name for text in named for name in re.findall(r"polysem_(\w+)", text)}
    families = {family.name for family in Metrics().registry.collect()}
    exposed = {name.removeprefix("polysem_") + end for name in families for end in ("", "_total", "_bucket")}
    assert used <= exposed | GAUGES
    sources = "".join(path.read_text() for path in (FOLDER.parents[1] / "server").rglob("*.py"))
    assert {name for name in GAUGES if f'"{name}"' not in sources} == set()


def test_the_certificates_end_is_that_which_openssl_says(tmp_path):
    authority = trustme.CA()
    path = tmp_path / "cert.pem"
    for not_after in (datetime(2031, 5, 6, 7, 8, 9), datetime(2051, 1, 2, 3, 4, 5)):  # UTCTime, GeneralizedTime
        certificate = authority.issue_cert("localhost", not_after=not_after)
        path.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
        said = subprocess.run(
            ["openssl", "x509", "-in", path, "-noout", "-enddate"], capture_output=True, text=True, check=True
        ).stdout
        wanted = datetime.strptime(said.strip().removeprefix("notAfter="), "%b %d %H:%M:%S %Y GMT")
        assert end_seconds(path)["tls_cert"] == (wanted - datetime(1970, 1, 1)).total_seconds()


@pytest.mark.parametrize("text", ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"])
def test_what_is_no_certificate_has_no_end(tmp_path, text):
    (tmp_path / "cert.pem").write_text(text)
    assert end_seconds(tmp_path / "cert.pem") == {}
    assert end_seconds(tmp_path / "missing.pem") == {}
